"""Whole runs through the worker: database, engine and executors, without the queue."""

from __future__ import annotations

import itertools
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DataError, OperationalError, connection, transaction
from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils import timezone

from executions import actions, queries, transitions, worker
from executions.actions import Actor
from executions.engine.executors import step_key_prefix
from executions.engine.plan import RunOptions
from executions.engine.ports import Start
from executions.engine.status import RunStatus, StepStatus
from executions.identity import boot_id
from executions.inline import execute_steps
from executions.models import AuditEntry, CancelMode, Run, RunInput
from executions.rescue import REAPER_SECONDS, SILENCE_SECONDS, Rescuer
from steps.models import Batch, BatchStep, ClassificationRule, Step
from steps.registry import RegisteredStep, registry

pytestmark = pytest.mark.django_db(transaction=True)

ADA = Actor("ada")
DEADLINE = 20.0


@pytest.fixture(autouse=True)
def _quiet_hints(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster listens here; the tests execute runs themselves."""
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)


@pytest.fixture
def define() -> Iterator[Callable[..., Step]]:
    """Registers a function as a step and makes its row."""
    names: list[str] = []

    def make(name: str, function: Callable[[Any], Any], **fields: Any) -> Step:
        registry.add(RegisteredStep(name=name, function=function))
        names.append(name)
        return Step.objects.create(name=name, kind="python", from_code=True, **fields)

    yield make
    for name in names:
        registry.forget(name)


def make_batch(*steps: Step, critical: tuple[str, ...] = (), **fields: Any) -> Batch:
    batch = Batch.objects.create(slug="nightly", name="Nightly", **fields)
    for position, step in enumerate(steps):
        BatchStep.objects.create(batch=batch, step=step, position=position)
    for position, name in enumerate(critical):
        ClassificationRule.objects.create(
            position=position, name=name, condition="name_equals", operand=name, critical=True
        )
    return batch


def started(batch: Batch, **fields: Any) -> Run:
    return actions.start_run(batch, actor=ADA, **fields)


def statuses(run: Run) -> dict[str, str]:
    return dict(run.step_runs.values_list("name", "status"))


def in_thread(call: Callable[[], object]) -> threading.Thread:
    def work() -> None:
        try:
            call()
        finally:
            connection.close()

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def join(thread: threading.Thread) -> None:
    thread.join(DEADLINE)
    assert not thread.is_alive()


def test_a_run_from_trigger_to_end(define: Callable[..., Step]) -> None:
    """Lanes, order, output, results and audit of a run are on record."""
    order: list[str] = []

    def work(ctx: Any) -> dict[str, int]:
        order.append(ctx.name)
        ctx.log("rows:", ctx.context["rows"])
        return {"rows": ctx.context["rows"]}

    steps = [define(name, work) for name in ("Pooled", "First", "Second")]
    batch = make_batch(*steps, critical=("First", "Second"), context={"rows": 7})
    run = started(batch)
    assert worker.execute(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED
    assert order == ["First", "Second", "Pooled"]
    step_run = run.step_runs.get(name="First")
    assert step_run.result == {"rows": 7}
    assert b"rows: 7" in queries.read_log(step_run.pk, 0, 1000).data
    assert "rule 1" in step_run.because.lower()
    assert AuditEntry.objects.get(run=run).action == "triggered"
    assert not worker.execute(run.pk)


def test_errors_are_isolated(define: Callable[..., Step]) -> None:
    """An exception, an unknown function and a broken command change no other outcome."""

    def bad(ctx: Any) -> None:
        raise KeyError("vat_rate")

    missing = Step.objects.create(name="Missing", kind="python", missing=True)
    command = Step.objects.create(
        name="Nowhere", kind="command", target={"argv": ["/no/such/program"]}
    )
    batch = make_batch(define("Bad", bad), missing, command, define("Good", lambda ctx: None))
    run = started(batch)
    worker.execute(run.pk)
    assert statuses(run) == {
        "Bad": "failed",
        "Missing": "failed",
        "Nowhere": "failed",
        "Good": "succeeded",
    }
    messages = dict(run.step_runs.values_list("name", "message"))
    assert "vat_rate" in messages["Bad"]
    assert "Missing" in messages["Missing"]
    assert "/no/such/program" in messages["Nowhere"]


def test_what_no_database_takes_is_kept_out_of_messages(define: Callable[..., Step]) -> None:
    """Python makes half a surrogate pair of a file name that is no UTF-8."""

    def bad(ctx: Any) -> None:
        raise FileNotFoundError(os.fsdecode(b"caf\xe9"))

    run = started(make_batch(define("Bad", bad), define("Good", lambda ctx: ctx.sleep(0.2))))
    worker.execute(run.pk)
    assert statuses(run) == {"Bad": "failed", "Good": "succeeded"}
    assert "caf\ufffd" in run.step_runs.get(name="Bad").message


def test_a_cancel_in_the_database_reaches_a_running_step(define: Callable[..., Step]) -> None:
    """The writer sees the fact, the step's token fires, the run ends CANCELLED."""
    begun = threading.Event()

    def wait(ctx: Any) -> None:
        begun.set()
        ctx.sleep(DEADLINE)

    run = started(make_batch(define("Wait", wait), define("Next", lambda ctx: None), pool_width=1))
    thread = in_thread(lambda: worker.execute(run.pk))
    assert begun.wait(DEADLINE)
    assert actions.cancel_run(run.pk, actor=ADA, note="late") == transitions.CANCELLING
    join(thread)
    run.refresh_from_db()
    assert run.status == RunStatus.CANCELLED
    assert statuses(run) == {"Wait": "cancelled", "Next": "cancelled"}
    assert (run.cancel_requested_by, run.cancel_note) == ("ada", "late")
    assert AuditEntry.objects.filter(run=run, action="cancelled run").exists()


def test_one_step_is_cancelled_and_the_rest_goes_on(define: Callable[..., Step]) -> None:
    """A cancel of one step leaves the run to its own end."""
    begun = threading.Event()

    def wait(ctx: Any) -> None:
        begun.set()
        ctx.sleep(DEADLINE)

    run = started(make_batch(define("Wait", wait), define("Next", lambda ctx: None), pool_width=1))
    thread = in_thread(lambda: worker.execute(run.pk))
    assert begun.wait(DEADLINE)
    step_run = run.step_runs.get(name="Wait")
    assert actions.cancel_step(step_run.pk, actor=ADA) == transitions.CANCELLING
    join(thread)
    assert statuses(run) == {"Wait": "cancelled", "Next": "succeeded"}
    run.refresh_from_db()
    assert run.status == RunStatus.PARTIALLY_SUCCEEDED


def test_a_command_is_killed_with_its_children() -> None:
    """After a cancel of a command nothing of its process tree is left."""
    step = Step.objects.create(
        name="Tree",
        kind="command",
        target={"argv": ["sh", "-c", "echo $$; setsid sleep 300 & sleep 300"]},
        grace_seconds=0.5,
    )
    run = started(make_batch(step))
    thread = in_thread(lambda: worker.execute(run.pk))
    step_run = run.step_runs.get()

    def has_output() -> bool:
        step_run.refresh_from_db()
        return step_run.log_size > 0

    wait_until(has_output)
    actions.cancel_step(step_run.pk, actor=ADA)
    join(thread)
    step_run.refresh_from_db()
    assert step_run.status == StepStatus.CANCELLED
    assert step_run.receipt["proven_empty"] is True
    assert not carriers(step_key_prefix(run.pk, os.getpid()))


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE
    gate = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        gate.wait(0.01)


def carriers(cookie: str) -> list[int]:
    """Processes that carry the cookie of a step in their environment."""
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                if f"STEPSITE_STEP={cookie}".encode() in (path / "environ").read_bytes():
                    found.append(int(path.name))
            except OSError:
                continue
    return found


def test_what_was_previewed_is_what_runs(define: Callable[..., Step]) -> None:
    """A plan that changed since the preview is shown again instead of running."""
    batch = make_batch(define("A", lambda ctx: None))
    plan = actions.preview(batch)
    ClassificationRule.objects.create(
        position=1, name="all", condition="name_matches", operand="A", critical=True
    )
    with pytest.raises(actions.PlanChangedError) as caught:
        started(batch, expected_hash=plan.hash)
    assert [step.name for step in caught.value.plan.critical] == ["A"]
    assert not Run.objects.exists()
    assert started(batch, expected_hash=caught.value.plan.hash).pk


def test_a_preview_of_the_same_thing_has_the_same_hash(define: Callable[..., Step]) -> None:
    """Context and options are part of the plan; time and previews are not."""
    batch = make_batch(define("A", lambda ctx: None))
    same = {actions.preview(batch, context={"a": 1}).hash for _ in range(3)}
    other = actions.preview(batch, context={"a": 2}).hash
    wider = actions.preview(batch, context={"a": 1}, options=RunOptions(pool_width=9)).hash
    assert len(same) == 1
    assert len(same | {other, wider}) == 3


def test_the_batch_decides_on_a_timeout_that_nobody_chose(define: Callable[..., Step]) -> None:
    """Also if other options were chosen for the run."""
    batch = make_batch(define("A", lambda ctx: None), default_timeout_seconds=77.0)
    plan = actions.preview(batch, options=RunOptions(pool_width=3))
    assert (plan.steps[0].timeout_seconds, plan.hash) == (
        77.0,
        actions.preview(batch, options=RunOptions(pool_width=3, default_timeout_seconds=77.0)).hash,
    )


def test_execute_steps_refuses_to_wait_for_itself(define: Callable[..., Step]) -> None:
    """In a transaction of the caller's, the writer could never see the run."""
    define("A", lambda ctx: None)
    with transaction.atomic(), pytest.raises(RuntimeError, match="durable"):
        execute_steps(["A"])


def test_execute_steps_in_the_callers_process(define: Callable[..., Step]) -> None:
    """The results have the shape of the design note, in snake_case."""

    def bad(ctx: Any) -> None:
        raise ValueError("no")

    define("CreateThing", lambda ctx: None)
    define("Other", bad)
    results = execute_steps(["CreateThing", "Other"], {})
    assert results["total"] == 2
    assert [item["step"] for item in results["successful"]] == ["CreateThing"]
    (failed,) = results["parallel"]["failed"]
    assert (failed["step"], failed["success"]) == ("Other", False)
    assert "no" in failed["error"]
    assert failed["execution_mode"] == "parallel"
    assert failed["duration_seconds"] >= 0
    assert Run.objects.get().status == RunStatus.PARTIALLY_SUCCEEDED


def test_a_stubborn_thread_is_abandoned(define: Callable[..., Step]) -> None:
    """The run ends without it, says so, and asks for a fresh worker process."""
    release = threading.Event()

    def stubborn(ctx: Any) -> None:
        release.wait(DEADLINE)

    step = define("Stubborn", stubborn, timeout_seconds=0.05, grace_seconds=0.05)
    run = started(make_batch(step))
    worker.execute(run.pk)
    release.set()
    step_run = run.step_runs.get()
    assert step_run.status == StepStatus.TIMED_OUT
    assert step_run.abandoned_at is not None


def test_output_of_a_noisy_step_arrives_while_it_runs(define: Callable[..., Step]) -> None:
    """Log and size grow before the step ends."""
    release = threading.Event()

    def noisy(ctx: Any) -> None:
        ctx.log("first line")
        release.wait(DEADLINE)
        ctx.log("last line")

    run = started(make_batch(define("Noisy", noisy)))
    thread = in_thread(lambda: worker.execute(run.pk))
    step_run = run.step_runs.get()

    def has_output() -> bool:
        step_run.refresh_from_db()
        return step_run.log_size > 0

    wait_until(has_output)
    assert step_run.status == StepStatus.RUNNING
    release.set()
    join(thread)
    text = queries.read_log(step_run.pk, 0, 1000).data.decode()
    assert text.splitlines() == ["first line", "last line"]


# ---- failures of the database and of the worker --------------------------------------------------


def lose_answer(monkeypatch: pytest.MonkeyPatch, number: int, thread: str) -> None:
    """One commit of the thread arrives, but the connection is lost before the answer."""
    commit = BaseDatabaseWrapper._commit
    commits = itertools.count(1)

    def lossy(self: Any) -> None:
        commit(self)
        if threading.current_thread().name == thread and next(commits) == number:
            raise OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(BaseDatabaseWrapper, "_commit", lossy)


@pytest.mark.parametrize("number", range(1, 7))
def test_a_lost_answer_to_a_commit_changes_nothing(
    number: int, define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was committed is neither repeated nor taken for an error."""
    begun: list[str] = []

    def work(ctx: Any) -> None:
        begun.append(f"{ctx.name} {ctx.attempt}")
        ctx.log(ctx.name)
        ctx.sleep(0.05)
        if (ctx.name, ctx.attempt) == ("Flaky", 1):
            raise ValueError

    steps = [define(name, work) for name in ("First", "Second", "Other")]
    safe = {"retry_safe": True, "attempts": 3, "backoff_seconds": 0.01}
    batch = make_batch(*steps, define("Flaky", work, **safe), critical=("First", "Second"))
    run = started(batch)
    lose_answer(monkeypatch, number, "writer")
    worker.execute(run.pk)
    assert set(statuses(run).values()) == {"succeeded"}
    assert sorted(begun) == ["First 1", "Flaky 1", "Flaky 2", "Other 1", "Second 1"]
    run.refresh_from_db()
    assert (run.status, run.succeeded, run.pending) == (RunStatus.SUCCEEDED, 4, 0)


def test_a_lost_answer_to_a_claim_does_not_lose_the_run(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its holder lives and does not know, so it gives back what it may have claimed."""
    run = started(make_batch(define("A", lambda ctx: None)))
    lose_answer(monkeypatch, 1, threading.current_thread().name)
    with pytest.raises(OperationalError):
        worker.execute(run.pk)
    assert worker.execute(run.pk)
    assert statuses(run) == {"A": "succeeded"}


def test_a_worker_gives_back_what_it_cannot_begin(define: Callable[..., Step]) -> None:
    """A plan that it cannot read fails the run in the end, instead of holding it for ever."""
    run = started(make_batch(define("A", lambda ctx: None)))
    RunInput.objects.filter(run=run).update(plan={})
    for _ in range(3):
        with pytest.raises(KeyError):
            worker.execute(run.pk)
    assert not worker.execute(run.pk)
    run.refresh_from_db()
    assert (run.status, run.reason) == (RunStatus.FAILED, "worker_keeps_dying")


def test_a_worker_gives_its_run_back_as_soon_as_the_database_answers(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody else would: its process lives."""
    run = started(make_batch(define("A", lambda ctx: None)))
    rescue, answers = transitions.rescue_run, itertools.count()

    def away_at_first(*args: Any, **facts: Any) -> bool:
        if next(answers) < 2:
            raise OperationalError("the connection is closed")
        return rescue(*args, **facts)

    def fence(*args: Any) -> None:
        raise transitions.FencedError

    monkeypatch.setattr(transitions, "record", fence)
    monkeypatch.setattr(transitions, "rescue_run", away_at_first)
    assert worker.execute(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


def test_what_the_database_refuses_is_not_repeated_for_ever(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker gives the run up, and the step whose outcome was lost is interrupted."""
    run = started(make_batch(define("A", lambda ctx: None)))
    record = transitions.record

    def picky(lease: Any, group: transitions.Group, ids: Any) -> transitions.Recorded:
        if group.finishes:
            raise DataError("PostgreSQL text fields cannot contain NUL (0x00) bytes")
        return record(lease, group, ids)

    monkeypatch.setattr(transitions, "record", picky)
    thread = in_thread(lambda: worker.execute(run.pk))
    join(thread)
    assert statuses(run) == {"A": "interrupted"}


@pytest.mark.skipif(connection.vendor == "sqlite", reason="on one machine a death is seen")
def test_a_worker_stops_its_steps_before_another_host_takes_the_run(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while the thread that should beat hangs in a call to the database."""
    stopped, answers = threading.Event(), threading.Event()

    def work(ctx: Any) -> None:
        try:
            ctx.sleep(60)
        finally:
            stopped.set()

    def hang(lease: Any) -> None:
        answers.wait(DEADLINE)
        raise OperationalError("the connection is closed")

    monkeypatch.setattr(worker, "SELF_FENCE_SECONDS", 0.5)
    monkeypatch.setattr(transitions, "beat", hang)
    monkeypatch.setattr(transitions, "look", hang)
    run = started(make_batch(define("A", work)))
    thread = in_thread(lambda: worker.execute(run.pk))
    assert stopped.wait(DEADLINE)
    assert statuses(run) == {"A": "running"}, "nobody could say so yet"
    answers.set()
    join(thread)
    assert statuses(run) == {"A": "interrupted"}


@pytest.mark.postgres
def test_a_run_survives_the_death_of_its_connections(define: Callable[..., Step]) -> None:
    """However often a server ends them: every step starts once and none is lost."""
    begun: list[str] = []

    def work(ctx: Any) -> None:
        begun.append(ctx.name)
        ctx.log(ctx.name)
        ctx.sleep(0.01)

    names = [f"S{number}" for number in range(60)]
    run = started(make_batch(*[define(name, work) for name in names], critical=tuple(names[:10])))
    thread = in_thread(lambda: worker.execute(run.pk))
    gate = threading.Event()
    while thread.is_alive():
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                "WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        gate.wait(0.05)
    assert sorted(begun) == sorted(names)
    assert set(statuses(run).values()) == {"succeeded"}
    run.refresh_from_db()
    assert (run.status, run.succeeded) == (RunStatus.SUCCEEDED, 60)


@pytest.mark.parametrize(
    "seed", [*range(20), *(pytest.param(seed, marks=pytest.mark.chaos) for seed in range(20, 1000))]
)
def test_a_cancel_at_any_moment_gives_each_step_one_end(
    seed: int, define: Callable[..., Step]
) -> None:
    """Queued, claimed, in the first or last millisecond of a step, in back-off, after the end."""
    dice = random.Random(seed)
    begun: list[str] = []

    def work(ctx: Any) -> None:
        begun.append(ctx.name)
        ctx.sleep(0.005)
        if ctx.name == "Flaky":
            raise ValueError

    safe = {"retry_safe": True, "attempts": 3, "backoff_seconds": 0.005}
    steps = [define(name, work) for name in ("C1", "C2", "P1", "P2", "P3")]
    batch = make_batch(*steps, define("Flaky", work, **safe), critical=("C1", "C2"), pool_width=2)
    run = started(batch)
    one = run.step_runs.get(position=dice.randrange(6)).pk
    thread = in_thread(lambda: worker.execute(run.pk))
    pause = threading.Event()
    for _ in range(2):
        pause.wait(dice.uniform(0, 0.06))
        if dice.random() < 0.5:
            actions.cancel_step(one, actor=ADA)
        else:
            actions.cancel_run(run.pk, actor=ADA, mode=dice.choice(CancelMode.values))
    join(thread)
    run.refresh_from_db()
    assert run.is_final
    assert set(statuses(run).values()) <= {"succeeded", "failed", "cancelled", "skipped"}
    for step_run in run.step_runs.all():
        if step_run.status == StepStatus.CANCELLED:
            assert step_run.reason in {"run_cancelled", "step_cancelled"}
        if step_run.started_at and (asked := step_run.cancel_requested_at):
            assert step_run.started_at < asked, "started after the request"
        if step_run.started_at and (asked := run.cancel_requested_at):
            assert step_run.started_at < asked, "started after the request"
        assert begun.count(step_run.name) <= step_run.attempt


# ---- rescue -------------------------------------------------------------------------------------


def test_a_dead_holder_on_this_host_is_rescued_at_once(define: Callable[..., Step]) -> None:
    """A process that is gone, by pid and start time, holds nothing any more."""
    run = started(make_batch(define("A", lambda ctx: None)))
    dead = worker.process_identity().rsplit("|", 1)[0] + "|1"
    assert transitions.claim_run(run.pk, dead) is not None
    Rescuer().sweep()
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED
    assert worker.execute(run.pk)
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


@pytest.mark.parametrize("is_gone", [True, False], ids=["pid free", "pid used again"])
def test_a_rescue_waits_for_what_the_dead_worker_ran(
    is_gone: bool, define: Callable[..., Step]
) -> None:
    """Two critical steps never run at once. What the reaper did not end is ended by the rescuer,
    unless it may belong to another site, whose worker has the pid of the dead one.
    """
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None), critical=("A",)))
    gone = subprocess.Popen(["true"])
    gone.wait()
    pid = gone.pid if is_gone else os.getppid()
    dead = worker.process_identity().rsplit("|", 2)[0] + f"|{pid}|1"
    lease = transitions.claim_run(run.pk, dead)
    assert lease is not None
    ids = list(run.step_runs.values_list("pk", flat=True))
    transitions.record(lease, transitions.Group(starts=[Start(0, 1, None)]), ids)
    environment = {"STEPSITE_STEP": f"{step_key_prefix(run.pk, pid)}0:1"}
    with subprocess.Popen(["sleep", "60"], env=environment) as left:
        rescuer = Rescuer(clock)
        sweep_for(REAPER_SECONDS - 2, rescuer, clock)
        run.refresh_from_db()
        assert run.status == RunStatus.RUNNING
        assert left.poll() is None
        sweep_for(SILENCE_SECONDS, rescuer, clock)
        assert (left.poll() is None) is not is_gone
        left.kill()
    reason = transitions.WORKER_DIED if is_gone else transitions.WORKER_LOST
    assert run.step_runs.get().reason == reason


def test_one_unreadable_holder_does_not_stop_the_rescue_of_others(
    define: Callable[..., Step],
) -> None:
    """The sweep goes on after a run that it cannot make sense of."""
    batch = make_batch(define("A", lambda ctx: None), max_active_runs=5)
    odd, dead = started(batch), started(batch)
    assert transitions.claim_run(odd.pk, "nonsense") is not None
    gone = worker.process_identity().rsplit("|", 1)[0] + "|1"
    assert transitions.claim_run(dead.pk, gone) is not None
    Rescuer().sweep()
    dead.refresh_from_db()
    assert dead.status == RunStatus.QUEUED


def test_a_living_holder_that_beats_keeps_its_run(define: Callable[..., Step]) -> None:
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None)))
    lease = transitions.claim_run(run.pk, worker.process_identity())
    assert lease is not None
    rescuer = Rescuer(clock)
    for _ in range(5):
        sweep_for(SILENCE_SECONDS - 2, rescuer, clock)
        transitions.beat(lease)
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


def test_a_holder_of_another_cluster_that_hangs_loses_its_run(define: Callable[..., Step]) -> None:
    """It lives, so what it ran may still run: nothing of it is tried again."""
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None, retry_safe=True)))
    lease = transitions.claim_run(run.pk, worker.process_identity(os.getppid()))
    assert lease is not None
    ids = list(run.step_runs.values_list("pk", flat=True))
    transitions.record(lease, transitions.Group(starts=[Start(0, 1, 1)]), ids)
    sweep_for(SILENCE_SECONDS + 1, Rescuer(clock), clock)
    assert run.step_runs.get().reason == transitions.WORKER_LOST
    with pytest.raises(transitions.FencedError):
        transitions.beat(lease)


def test_an_own_process_that_hangs_is_ended(define: Callable[..., Step]) -> None:
    """As one does whose step never lets go of the interpreter. Dead, it is no riddle any more."""
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None)))
    with subprocess.Popen(["sleep", "60"]) as hung:
        assert transitions.claim_run(run.pk, worker.process_identity(hung.pid)) is not None
        rescuer = Rescuer(clock)
        sweep_for(SILENCE_SECONDS + 1, rescuer, clock)
        assert hung.wait(30) == -signal.SIGKILL
    sweep_for(1, rescuer, clock)
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


def test_a_rescuer_that_was_held_up_itself_believes_nothing(define: Callable[..., Step]) -> None:
    """A machine that stood still for a minute silences everybody, and nobody died."""
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None)))
    assert transitions.claim_run(run.pk, f"elsewhere|{boot_id()}|another container|2|3") is not None
    rescuer = Rescuer(clock)
    for _ in range(3):
        sweep_for(SILENCE_SECONDS - 1, rescuer, clock)
        clock.now += 60
    rescuer.sweep()
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING


@pytest.mark.skipif(connection.vendor != "sqlite", reason="a shared database has many machines")
def test_an_earlier_boot_is_proof_where_one_machine_has_the_database(
    define: Callable[..., Step],
) -> None:
    run = started(make_batch(define("A", lambda ctx: None)))
    assert transitions.claim_run(run.pk, "here|earlier|1|2|3") is not None
    Rescuer().sweep()
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


class FakeClock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def sweep_for(seconds: float, rescuer: Rescuer, clock: FakeClock) -> None:
    """Sweep once a second, as a worker does."""
    end = clock.now + seconds
    rescuer.sweep()
    while clock.now < end:
        clock.now += 1
        rescuer.sweep()


def test_a_silent_holder_elsewhere_is_rescued_after_its_time(define: Callable[..., Step]) -> None:
    """Its beat must stand still for the whole time, by the rescuer's own clock."""
    clock = FakeClock()
    run = started(make_batch(define("A", lambda ctx: None)))
    lease = transitions.claim_run(run.pk, f"elsewhere|{boot_id()}|another container|2|3")
    assert lease is not None
    rescuer = Rescuer(clock)
    sweep_for(SILENCE_SECONDS - 1, rescuer, clock)
    transitions.beat(lease)
    sweep_for(SILENCE_SECONDS - 1, rescuer, clock)
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    sweep_for(2, rescuer, clock)
    run.refresh_from_db()
    assert run.status == RunStatus.QUEUED


def test_a_run_without_a_hint_is_hinted_again(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lost hint costs time, not the run; and it is not repeated at every sweep."""
    hinted: list[int] = []
    monkeypatch.setattr("executions.dispatch._send", hinted.append)
    run = started(make_batch(define("A", lambda ctx: None)))
    assert hinted == [run.pk]
    rescuer = Rescuer()
    rescuer.sweep()
    assert hinted == [run.pk] * 2, "what an earlier worker heard went down with it"
    rescuer.sweep()
    assert hinted == [run.pk] * 2
    Run.objects.update(hinted_at=timezone.now() - timedelta(minutes=1))
    rescuer.sweep()
    rescuer.sweep()
    assert hinted == [run.pk] * 3
    # The clock was put back since.
    Run.objects.update(hinted_at=timezone.now() + timedelta(days=1))
    rescuer.sweep()
    rescuer.sweep()
    assert hinted == [run.pk] * 4


def test_a_hint_that_was_lost_with_the_worker_is_sent_when_the_queue_is_empty(
    define: Callable[..., Step], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first sweep may find it full, with what that sweep itself put in."""
    hinted: list[int] = []
    monkeypatch.setattr("executions.dispatch._send", hinted.append)
    lost = started(make_batch(define("A", lambda ctx: None)))
    empty = iter([False, True, True])
    monkeypatch.setattr("executions.dispatch.queue_is_empty", lambda: next(empty))
    rescuer = Rescuer()
    rescuer.sweep()
    assert hinted == [lost.pk]
    rescuer.sweep()
    assert hinted == [lost.pk] * 2


def test_only_runs_that_could_be_claimed_are_hinted_again(define: Callable[..., Step]) -> None:
    """The others of the batch wait for its turn, not for a hint."""
    batch = make_batch(define("A", lambda ctx: None), max_active_runs=2)
    runs = [started(batch) for _ in range(4)]
    assert transitions.claim_run(runs[0].pk, worker.process_identity()) is not None
    Run.objects.update(hinted_at=timezone.now() - timedelta(minutes=1))
    assert transitions.overdue_hints(timedelta(seconds=3)) == [runs[1].pk]


def test_cancel_all_reaches_every_active_run(define: Callable[..., Step]) -> None:
    """Queued runs end, running ones get the request, final ones are left alone."""
    batch = make_batch(define("A", lambda ctx: None), max_active_runs=5)
    done, queued, running = (started(batch) for _ in range(3))
    worker.execute(done.pk)
    assert transitions.claim_run(running.pk, worker.process_identity()) is not None
    assert actions.cancel_all(actor=ADA) == [queued.pk, running.pk]
    queued.refresh_from_db()
    assert queued.status == RunStatus.CANCELLED
    assert queued.cancel_mode == CancelMode.STOP
