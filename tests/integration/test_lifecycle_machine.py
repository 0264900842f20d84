"""Random lives of runs in the database: whatever happens in whatever order, the promises hold.

Production are the transitions, the writer, the coordinator, the rescue and the read side. Only
threads, time and processes are left out: the machine says what happens next. After every step the
database is compared with the model of tests/unit/record.py, with which the explorer works.

`HYPOTHESIS_PROFILE=chaos` tries many more lives, other ones each time.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any
from unittest import mock

import pytest
from django.db import connection
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from executions import actions, protocol, queries, transitions, worker
from executions.actions import Actor, ProtectedError
from executions.engine.coordinator import Result
from executions.engine.outcomes import Outcome
from executions.engine.plan import FailurePolicy, Plan, PoolStart, RunOptions
from executions.engine.ports import (
    Change,
    End,
    Event,
    Fenced,
    Finish,
    HandBack,
    ShutDown,
    Start,
    Sweep,
)
from executions.engine.status import RunStatus, StepStatus
from executions.models import Attempt, AuditEntry, CancelMode, LogChunk, Run, RunInput, StepRun
from executions.transitions import FencedError, Group, Lease, LogPiece, Recorded
from steps.models import Batch, BatchStep, ClassificationRule, RuleSet, Step
from tests.unit import record as records
from tests.unit.promises import check_change, check_record, check_starts
from tests.unit.record import Record, Row
from tests.unit.stepped import SteppedCoordinator

pytestmark = pytest.mark.django_db(transaction=True)

ADA = Actor("ada")
WORKERS = ("A", "B")
MOST_RUNS = 4
CHAOS = os.environ.get("HYPOTHESIS_PROFILE") == "chaos"
PROFILE = settings(
    max_examples=3000 if CHAOS else 100,
    stateful_step_count=60 if CHAOS else 40,
    derandomize=not CHAOS,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

a_number = st.integers(0, 11)
a_person = st.sampled_from(["ada", "bob"])


class HandWriter(worker.Writer):
    """The writer of production, moved by hand instead of by its thread."""

    is_open = True

    def start(self) -> None:
        if self._lease.cancels.mode or self._lease.cancels.step_ids:
            self._report_cancels()

    def waiting(self) -> list[Change]:
        """Takes what waits to be committed."""
        changes: list[Change] = []
        while not self._queue.empty():
            changes += self._queue.get_nowait() or []
        return changes

    def commit(self, changes: list[Change]) -> None:
        group = self._group(changes)
        self._commit(group)
        self.is_open = group.end is None

    def look(self, ask: Callable[[Lease], object]) -> None:
        known = self._lease.cancels
        ask(self._lease)
        if self._lease.cancels is not known:
            self._report_cancels()


class Worker:
    """A worker in the middle of a run."""

    def __init__(self, life: Life, lease: Lease) -> None:
        self.life, self.lease = life, lease
        self.inbox: list[Event] = []
        run = Run.objects.select_related("input").get(pk=lease.run_id)
        rows = worker._rows(run)
        self.ids = [row.pk for row in rows]
        self.writer = HandWriter(lease, rows, self.inbox.append)
        self.writer.start()
        plan = run.input.load_plan()
        self.coordinator = SteppedCoordinator(plan, worker._before(rows), self.writer)

    def is_done(self) -> bool:
        return self.coordinator.result is not None


@dataclass(frozen=True)
class Stored:
    """A run and its rows as they are in the database, but for what is no change of the run."""

    run: dict[str, Any]
    rows: list[dict[str, Any]]

    @classmethod
    def all(cls) -> dict[int, Stored]:
        """Every run there is, by its id."""
        found = {run["id"]: cls(run, []) for run in Run.objects.values()}
        for stored in found.values():
            for name in ("beat", "hinted_at", "batch_id"):
                del stored.run[name]
        for row in StepRun.objects.order_by("position").values():
            del row["step_id"]
            found[row["run_id"]].rows.append(row)
        return found

    @property
    def sequence(self) -> int:
        return self.run["sequence"]

    def record(self) -> Record:
        rows = tuple(
            Row(
                StepStatus(row["status"]),
                row["attempt"],
                row["reason"],
                row["cancel_requested_at"] is not None,
                row["retry_at"] is not None,
            )
            for row in self.rows
        )
        run = self.run
        status = RunStatus(run["status"])
        return Record(rows, status, run["reason"], run["cancel_mode"], run["barren_claims"])


@dataclass
class Life:
    """A run, what the model says of it, and what people and viewers know of it."""

    pk: int
    plan: Plan
    record: Record
    batch: int | None
    stored: Stored
    holder: Worker | None = None
    dead: bool = False
    """Its holder died and is still on paper."""
    starts: set[tuple[int, int]] = field(default_factory=set)
    """Position and attempt of each START that was told to have happened."""
    first_request: tuple[Any, ...] | None = None
    sighting: tuple[int, int, bool] | None = None
    """Epoch, beat, and whether the holder was proven dead by then."""
    screen: dict[str, Any] = field(default_factory=dict)
    """What a viewer shows."""

    def ids(self) -> list[int]:
        return [row["id"] for row in self.stored.rows]


def sequence_of(pk: int) -> tuple[int, int]:
    return Run.objects.values_list("epoch", "beat").get(pk=pk)


some_work = precondition(lambda self: any(self.workers.values()))
some_run_held = precondition(
    lambda self: any(life.record.status is RunStatus.RUNNING for life in self.lives)
)
can_claim = precondition(
    lambda self: (
        not all(self.workers.values())
        and any(life.record.status is RunStatus.QUEUED for life in self.lives)
    )
)


class Lives(RuleBasedStateMachine):
    """Two workers, people, a rescuer and a database."""

    def __init__(self) -> None:
        super().__init__()
        forget_everything()
        self.lives: list[Life] = []
        self.workers: dict[str, Worker | None] = dict.fromkeys(WORKERS)
        self.leases: list[tuple[Life, Lease, list[int]]] = []
        """All that were ever given."""
        self.batch: Batch | None = None
        self.room = 1

    def teardown(self) -> None:
        forget_everything()

    # ---- definitions ------------------------------------------------------------------------

    @initialize(
        steps=st.lists(
            st.tuples(st.booleans(), st.sampled_from([1, 2, 3]), st.booleans(), st.booleans()),
            min_size=1,
            max_size=4,
        ),
        policy=st.sampled_from(FailurePolicy),
        start=st.sampled_from(PoolStart),
        width=st.integers(1, 3),
        room=st.integers(1, 2),
    )
    def define(self, steps, policy, start, width, room) -> None:
        self.room = room
        self.batch = Batch.objects.create(
            slug="nightly",
            name="Nightly",
            failure_policy=policy.value,
            pool_start=start.value,
            pool_width=width,
            max_active_runs=room,
        )
        for position, (retry_safe, attempts, protected, critical) in enumerate(steps):
            step = Step.objects.create(
                name=f"Step{position}",
                kind="python",
                retry_safe=retry_safe,
                attempts=attempts,
                protected=protected,
            )
            BatchStep.objects.create(batch=self.batch, step=step, position=position)
            ClassificationRule.objects.create(
                position=position,
                name=step.name,
                condition="name_equals",
                operand=step.name,
                critical=critical,
            )
        self.trigger()
        self.claim_this(self.lives[0], answered=True)

    def change_definitions(self, number: int, what: str) -> None:
        """Runs that exist keep their plan and their lanes."""
        name = f"Step{number % 5}"
        if what == "edit":
            for rule_ in ClassificationRule.objects.filter(name=name):
                rule_.critical = not rule_.critical
                rule_.save()
            Step.objects.filter(name=name).update(retry_safe=number % 2 == 0)
        elif what == "delete step":
            BatchStep.objects.filter(step__name=name).delete()
            Step.objects.filter(name=name).delete()
        elif self.batch is not None:
            self.batch.delete()
            self.batch = None
            for life in self.lives:
                life.batch = None
        for life in self.lives:
            assert RunInput.objects.get(pk=life.pk).load_plan() == life.plan

    def trigger(self) -> None:
        if len(self.lives) == MOST_RUNS:
            return
        if self.batch is not None and self.batch.entries.exists():
            run = actions.start_run(self.batch, actor=ADA)
        elif self.lives:
            run = transitions.create_run(
                replace(self.lives[0].plan, options=RunOptions(pool_width=2)),
                batch=None,
                ruleset_id=RuleSet.current().pk,
                step_ids={},
                triggered_by="ada",
            )
        else:
            return  # a batch without entries
        plan = run.input.load_plan()
        life = Life(run.pk, plan, records.new(plan), run.batch_id, Stored.all()[run.pk])
        life.screen = dict(queries.snapshot(run.pk))
        self.lives.append(life)

    # ---- workers ----------------------------------------------------------------------------

    def pick(self, number: int, *statuses: RunStatus) -> Life:
        """A run, if possible one in one of these statuses."""
        lives = [life for life in self.lives if life.record.status in statuses] or self.lives
        return lives[number % len(lives)]

    def at_work(self, number: int) -> tuple[str, Worker]:
        found = [(name, at_work) for name, at_work in self.workers.items() if at_work]
        return found[number % len(found)]

    def decides(self, number: int) -> SteppedCoordinator:
        """A coordinator, if possible one that is not done."""
        coordinators = [at_work.coordinator for at_work in self.workers.values() if at_work]
        busy = [item for item in coordinators if item.result is None]
        return (busy or coordinators)[number % len(busy or coordinators)]

    def has_room(self, life: Life) -> bool:
        if life.batch is None:
            return True
        ahead = [
            other
            for other in self.lives
            if other.batch == life.batch
            and (
                other.record.status is RunStatus.RUNNING
                or (other.record.status is RunStatus.QUEUED and other.pk < life.pk)
            )
        ]
        return len(ahead) < self.room

    @can_claim
    @rule(number=a_number, answered=st.sampled_from([True, True, True, False]))
    def claim(self, number: int, answered: bool) -> None:
        self.claim_this(self.pick(number, RunStatus.QUEUED), answered=answered)

    def claim_this(self, life: Life, *, answered: bool) -> None:
        """A worker takes a run, or does not hear that it did and gives it up."""
        name = next(name for name, at_work in self.workers.items() if at_work is None)
        to_be_had = life.record.status is RunStatus.QUEUED and self.has_room(life)
        holder = f"host|boot|{name}|1"
        lease = transitions.claim_run(life.pk, holder)
        if to_be_had:
            life.record = records.claim(life.record)
        assert (lease is not None) == (to_be_had and not life.record.is_final)
        if lease is None:
            return
        if not answered:
            worker._surrender(Run.objects.filter(pk=life.pk, holder=holder), proven=True)
            life.record = records.rescue(life.plan, life.record, proven=True)
            return
        at_work = Worker(life, lease)
        life.holder = self.workers[name] = at_work
        self.leases.append((life, lease, at_work.ids))

    def commit(
        self,
        at_work: Worker,
        *,
        answered: bool = True,
        meanwhile: Callable[[Group], None] = lambda group: None,
    ) -> None:
        """Let the writer commit what waits.

        Not `answered`: the answer is lost, the commit is not, and the writer repeats it.
        """
        if not at_work.writer.is_open:
            return
        life, changes = at_work.life, at_work.writer.waiting()
        fenced = life.holder is not at_work
        before = life.record
        started: tuple[Start, ...] = ()
        refused: tuple[Start, ...] = ()
        if not fenced:
            after, started, refused = records.commit(life.plan, before, changes)
            check_starts(life.plan, before, after, started)
            life.record = after
        known: list[Recorded] = []

        def record(lease: Lease, group: Group, ids: list[int]) -> Recorded:
            if not answered:
                real(replace(lease), group, ids)
                meanwhile(group)
            known.append(real(lease, group, ids))
            return known[-1]

        real = transitions.record
        ends = any(isinstance(change, End | HandBack) for change in changes)
        with mock.patch.object(transitions, "record", record):
            try:
                at_work.writer.commit(changes)
            except FencedError:
                # A lost answer to the end of a lease looks the same as being fenced.
                assert fenced or (ends and not answered)
                at_work.writer.is_open = False
                at_work.inbox.append(Fenced())
            else:
                assert not fenced or not known
        for recorded in known:
            assert (recorded.started, recorded.refused) == (started, refused)
        for start in started:
            assert (start.position, start.attempt) not in life.starts, "a START happened twice"
            life.starts.add((start.position, start.attempt))
            attempts = {at for position, at in life.starts if position == start.position}
            step = life.plan.steps[start.position]
            assert len(attempts) <= (step.attempts if step.retry_safe else 1)
        if ends and not fenced:
            life.holder = None

    @some_work
    @rule(which=a_number, at=a_number, answer=st.sampled_from(["arrives", "is lost", "is late"]))
    def writer_commits(self, which: int, at: int, answer: str) -> None:
        """The answer to a commit may be lost, and a step be cancelled before it is repeated."""
        _, at_work = self.at_work(which)

        def cancel(group: Group) -> None:
            if answer == "is late":
                positions = [start.position for start in group.starts] or [at]
                self.cancel_step(at_work.life, positions[at % len(positions)], "eve")

        self.commit(at_work, answered=answer == "arrives", meanwhile=cancel)

    @some_work
    @rule(which=a_number, beats=st.booleans())
    def writer_looks(self, which: int, beats: bool) -> None:
        self.look(self.at_work(which)[1], transitions.beat if beats else transitions.look)

    def look(self, at_work: Worker, ask: Callable[[Lease], object]) -> None:
        if not at_work.writer.is_open:
            return
        try:
            at_work.writer.look(ask)
            assert at_work.life.holder is at_work
        except FencedError:
            assert at_work.life.holder is not at_work
            at_work.writer.is_open = False
            at_work.inbox.append(Fenced())

    @some_work
    @rule(which=a_number, all_at_once=st.booleans())
    def coordinator_hears(self, which: int, all_at_once: bool) -> None:
        name, at_work = self.at_work(which)
        if at_work.is_done():
            self.let_go(name, at_work)
        else:
            self.hear(at_work, all_at_once=all_at_once)

    def hear(self, at_work: Worker, *, all_at_once: bool) -> None:
        if not at_work.inbox:
            return
        events = tuple(at_work.inbox if all_at_once else at_work.inbox[:1])
        del at_work.inbox[: len(events)]
        at_work.coordinator.act(("hear", *events))

    @some_work
    @rule(which=a_number, number=a_number)
    def step_returns(self, which: int, number: int) -> None:
        coordinator = self.decides(which)
        if coordinator.result is None and (ends := coordinator.ends()):
            coordinator.act(ends[number % len(ends)])

    @some_work
    @rule(which=a_number, number=a_number)
    def deadline_passes(self, which: int, number: int) -> None:
        coordinator = self.decides(which)
        if coordinator.result is None and (due := coordinator.due()):
            coordinator.act(("due", *due[number % len(due)]))

    @some_work
    @rule(which=a_number, data=st.binary(min_size=1, max_size=20))
    def step_prints(self, which: int, data: bytes) -> None:
        for call in self.decides(which).begun:
            if which % 2:
                call.output.write(data)
            else:
                call.progress(which / 11)

    @some_work
    @rule(which=a_number, how=st.sampled_from(["shut down", "fences itself", "crash", "crash"]))
    def worker_stops(self, which: int, how: str) -> None:
        """It is told to, cannot commit a beat for too long, or dies."""
        name, at_work = self.at_work(which)
        if how == "crash":
            self.crash(name)
        elif at_work.is_done():
            pass
        elif how == "shut down":
            at_work.coordinator.act(("hear", ShutDown(1.0)))
        else:
            at_work.inbox.append(Fenced())

    def let_go(self, name: str, at_work: Worker) -> None:
        """The coordinator is done: its worker commits what is left and lets go of the run."""
        self.commit(at_work)
        life, result = at_work.life, at_work.coordinator.result
        proven = not at_work.coordinator.abandoned
        if result is Result.FENCED:
            held = Run.objects.filter(pk=life.pk, epoch=at_work.lease.epoch)
            worker._surrender(held, proven=proven)
        if life.holder is at_work:
            assert result is Result.FENCED
            life.record = records.rescue(life.plan, life.record, proven=proven)
            life.holder = None
        self.workers[name] = None

    @rule(which=a_number, steps=st.integers(1, 6))
    def go_on(self, which: int, steps: int) -> None:
        """A worker does its work for a while, without anything remarkable."""
        if not any(self.workers.values()):
            waiting = [life for life in self.lives if life.record.status is RunStatus.QUEUED]
            if waiting:
                self.claim_this(waiting[0], answered=True)
            else:
                self.trigger()
            return
        name, _ = self.at_work(which)
        for _ in range(steps):
            if at_work := self.workers[name]:
                self.work(name, at_work)
                self.every_promise_holds()

    def work(self, name: str, at_work: Worker) -> None:
        if at_work.is_done():
            self.let_go(name, at_work)
        elif at_work.inbox:
            self.hear(at_work, all_at_once=True)
        elif at_work.writer.is_open and not at_work.writer._queue.empty():
            self.commit(at_work)
        elif at_work.coordinator.begun:
            at_work.coordinator.act(at_work.coordinator.ends()[0])
        elif due := at_work.coordinator.due():
            at_work.coordinator.act(("due", *due[0]))
        else:
            self.look(at_work, transitions.look)

    def crash(self, name: str) -> None:
        at_work = self.workers[name]
        if at_work is None:
            return
        life = at_work.life
        if life.holder is at_work:
            life.holder, life.dead = None, True
        self.workers[name] = None

    # ---- the others -------------------------------------------------------------------------

    @some_run_held
    @rule(number=a_number, how=st.sampled_from(["sight", "as sighted", "afresh", "if dead"]))
    def rescue(self, number: int, how: str) -> None:
        """From the beat that the run has now, or from one that was read some time ago."""
        dead = [life for life in self.lives if life.dead]
        life = self.pick(number, RunStatus.RUNNING)
        if how == "if dead":
            if not dead:
                return
            life = dead[number % len(dead)]
        if how != "as sighted" or life.sighting is None:
            life.sighting = (*sequence_of(life.pk), life.dead)
        if how == "sight":
            return
        assert life.sighting is not None
        epoch, beat, proven = life.sighting
        running = life.record.status is RunStatus.RUNNING
        due = running and (epoch, beat) == sequence_of(life.pk)
        assert transitions.rescue_run(life.pk, epoch=epoch, beat=beat, proven=proven) == due
        if due:
            life.record = records.rescue(life.plan, life.record, proven=proven)
            life.holder, life.dead = None, False

    @rule(
        number=a_number,
        at=a_number,
        by=a_person,
        what=st.sampled_from(["step", "step", "step", "step", "drain", "stop"]),
    )
    def request(self, number: int, at: int, by: str, what: str) -> None:
        """Somebody cancels a step or a run, mostly one that runs."""
        life = self.pick(number, *([RunStatus.RUNNING] if number % 6 else RunStatus))
        if what == "step":
            self.cancel_step(life, at, by)
        elif at % 3 == 0:  # or no run would ever get far
            self.cancel_run(life, by, CancelMode(what))

    def cancel_run(self, life: Life, by: str, mode: CancelMode) -> None:
        before = life.record
        answer = actions.cancel_run(life.pk, actor=Actor(by), mode=mode)
        life.record = records.cancel_run(before, mode.value)
        answers = {RunStatus.RUNNING: "cancelling", RunStatus.QUEUED: "cancelled"}
        assert answer == answers.get(before.status, "already_final")
        if not before.is_final and life.first_request is None:
            run = Run.objects.get(pk=life.pk)
            life.first_request = (by, run.cancel_requested_at)

    def cancel_step(self, life: Life, at: int, by: str) -> None:
        position = at % len(life.plan.steps)
        row, step = life.record.rows[position], life.plan.steps[position]
        refused = step.protected and row.status is StepStatus.RUNNING
        try:
            actions.cancel_step(life.ids()[position], actor=Actor(by))
            assert not refused
        except ProtectedError:
            assert refused
        life.record = records.cancel_step(life.plan, life.record, position)

    @rule(
        number=a_number,
        what=st.sampled_from(
            ["trigger", "edit", "delete step", "delete batch", "wake", "view", "view", "end"]
        ),
    )
    def meanwhile(self, number: int, what: str) -> None:
        """What happens beside the work."""
        match what:
            case "trigger":
                self.trigger()
            case "wake":
                self.a_fenced_worker_wakes_up(number)
            case "view":
                self.a_viewer_catches_up(number)
            case "end":
                self.end_of_the_day()
            case _:
                self.change_definitions(number, what)

    def a_fenced_worker_wakes_up(self, number: int) -> None:
        """It tries to write everything that it could know, and changes nothing."""
        fenced = [
            (life, lease, ids)
            for life, lease, ids in self.leases
            if life.holder is None or life.holder.lease is not lease
            if not (life.dead and lease.epoch == life.stored.run["epoch"])
        ]
        if not fenced:
            return
        life, lease, ids = fenced[number % len(fenced)]
        before = contents(life.pk)
        for write in all_writes(life.plan, ids):
            with pytest.raises(FencedError):
                write(replace(lease))
        assert contents(life.pk) == before

    def a_viewer_catches_up(self, number: int) -> None:
        """What changed since the last look, put into the old page, is the new page."""
        life = self.pick(number)
        now = queries.snapshot(life.pk)
        changes = queries.changes_after(life.pk, life.screen["to"])
        assert "resync" not in changes
        assert (changes["to"], changes["run"]) == (now["to"], now["run"])
        width = len(protocol.STORED_COLUMNS)
        rows = {row[0]: row[:width] for row in life.screen["steps"]}
        for row in changes["steps"]:
            rows[row[0]][: len(protocol.MUTABLE_COLUMNS)] = row
        assert [*rows.values()] == [row[:width] for row in now["steps"]]
        life.screen = dict(now)

    def end_of_the_day(self) -> None:
        """Whatever happened: left alone, every run comes to its end."""
        for name in WORKERS:
            self.crash(name)
        for life in self.lives:
            if life.record.status is RunStatus.RUNNING:
                self.rescue_now(life)
        for life in self.lives:
            if not life.record.is_final:
                self.bring_to_end(life)

    def rescue_now(self, life: Life) -> None:
        epoch, beat = sequence_of(life.pk)
        assert transitions.rescue_run(life.pk, epoch=epoch, beat=beat, proven=life.dead)
        life.record = records.rescue(life.plan, life.record, proven=life.dead)
        life.holder, life.dead = None, False

    def bring_to_end(self, life: Life) -> None:
        self.claim_this(life, answered=True)
        for _ in range(20 * len(life.plan.steps) + 20):
            if at_work := self.workers["A"]:
                self.work("A", at_work)
                self.every_promise_holds()
        assert self.workers["A"] is None
        assert life.record.is_final

    # ---- what must hold -----------------------------------------------------------------------

    @invariant()
    def every_promise_holds(self) -> None:
        everything = Stored.all()
        for life in self.lives:
            now, was = everything[life.pk], life.stored
            assert now.record() == life.record, "the database is not where the model is"
            check_change(life.plan, was.record(), now.record())
            held = life.holder is not None or life.dead
            check_record(life.plan, life.record, held=held)
            check_counters(now)
            check_sequence(was, now)
            check_requests(life, was, now)
            life.stored = now
            lanes = [row["lane"] for row in now.rows]
            assert lanes == [step.lane.value for step in life.plan.steps]
            check_logs(now)


# ---- what must hold, of the rows -----------------------------------------------------------------


def check_counters(now: Stored) -> None:
    for status in StepStatus:
        rows = [row for row in now.rows if row["status"] == status]
        assert now.run[status.value] == len(rows), f"{status} is counted wrongly"
    assert (now.run["holder"] != "") >= (now.run["status"] == RunStatus.RUNNING)


def check_sequence(was: Stored, now: Stored) -> None:
    """It rises with every change, and every changed row bears one that is new."""
    changed = [new for old, new in zip(was.rows, now.rows, strict=True) if old != new]
    if changed or was.run != now.run:
        assert now.sequence > was.sequence
    for row in changed:
        assert was.sequence < row["sequence"] <= now.sequence


def check_requests(life: Life, was: Stored, now: Stored) -> None:
    """Who asked first, and when, stays."""
    if life.first_request is not None:
        facts = now.run["cancel_requested_by"], now.run["cancel_requested_at"]
        assert facts == life.first_request
    for old, new in zip(was.rows, now.rows, strict=True):
        if old["cancel_requested_at"]:
            names = ("cancel_requested_at", "cancel_requested_by", "cancel_note")
            assert [old[name] for name in names] == [new[name] for name in names]


def check_logs(now: Stored) -> None:
    """Every stored byte is counted, without gaps."""
    sizes = {row["id"]: row["log_size"] for row in now.rows if row["log_size"]}
    if not sizes:
        return
    chunks = LogChunk.objects.filter(step_run__in=sizes).order_by("step_run", "offset")
    ends = dict.fromkeys(sizes, 0)
    for step_run_id, offset, data in chunks.values_list("step_run_id", "offset", "data"):
        assert offset == ends[step_run_id]
        ends[step_run_id] += len(data)
    assert ends == sizes


def contents(pk: int) -> list[Any]:
    """Everything that is stored of a run."""
    of_steps = {"step_run__run_id": pk}
    return [
        list(Run.objects.filter(pk=pk).values()),
        list(StepRun.objects.filter(run_id=pk).order_by("pk").values()),
        list(Attempt.objects.filter(**of_steps).order_by("pk").values()),
        list(LogChunk.objects.filter(**of_steps).order_by("pk").values_list("pk", "offset")),
    ]


def all_writes(plan: Plan, ids: list[int]) -> Iterator[Callable[[Lease], object]]:
    """Every kind of write that a worker may try."""
    positions = tuple(range(len(plan.steps)))
    succeeded = Outcome(status=StepStatus.SUCCEEDED)
    cancelled = Outcome(status=StepStatus.CANCELLED, reason="step_cancelled")
    groups = [
        Group(starts=[Start(at, 1, None) for at in positions]),
        Group(finishes=[Finish(at, 1, succeeded) for at in positions]),
        Group(finishes=[Finish(at, 1, cancelled, was=StepStatus.PENDING) for at in positions]),
        Group(finishes=[Finish(0, 1, succeeded, retry_in=1.0)], starts=[Start(0, 2, None)]),
        Group(sweeps=[Sweep(positions, StepStatus.SKIPPED, "critical_missed", "")]),
        Group(end=End(RunStatus.SUCCEEDED)),
        Group(end=HandBack()),
        Group(logs=[LogPiece(ids[0], 1000, b"late")]),
        Group(progress={ids[0]: 0.5}),
        Group(),
    ]
    for group in groups:
        yield lambda lease, group=group: transitions.record(lease, group, ids)
    yield transitions.beat
    yield transitions.look


def forget_everything() -> None:
    for model in (LogChunk, Attempt, AuditEntry, StepRun, RunInput, Run, BatchStep, Batch, Step):
        model.objects.all()._raw_delete(connection.alias)
    ClassificationRule.objects.all()._raw_delete(connection.alias)


@contextmanager
def without_waiting_for_the_disk() -> Iterator[None]:
    """Nobody pulls the plug of a test."""
    if connection.vendor != "sqlite":
        yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA synchronous=OFF")
        try:
            yield
        finally:
            cursor.execute("PRAGMA synchronous=FULL")


def test_every_life_of_a_run_keeps_the_promises(monkeypatch: pytest.MonkeyPatch) -> None:
    """Claims, crashes, cancels, rescues, lost answers, edited definitions, in any order."""
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)
    with without_waiting_for_the_disk():
        run_state_machine_as_test(Lives, settings=PROFILE)
