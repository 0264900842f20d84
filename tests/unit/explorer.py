"""Every state that two workers, people and a rescuer can bring one small run into.

Production code decides what a worker does: its coordinator (see stepped.py) with the verdicts of
the executors, the tables of `engine/status.py` and the verdict over a run. A model is the record
(record.py, which is compared with the database elsewhere) and, here, everything around it: who
acts next, the writer between coordinator and record, what steps do, and who dies when.

A worker that is frozen and goes on later needs no action of its own: nobody has to act, so every
order of actions includes that one does nothing for as long as it takes the others to rescue its
run. Time is left out: a deadline that is set may pass at any moment, a silent worker may count as
lost at any moment in which it did not write since it was looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Hashable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

from executions.engine.coordinator import Before, Due, Result
from executions.engine.executors import Call
from executions.engine.output import StepOutput
from executions.engine.plan import Lane, Plan
from executions.engine.ports import (
    CancelSeen,
    Change,
    Committed,
    End,
    Event,
    Fenced,
    HandBack,
    ShutDown,
)
from executions.engine.status import RunStatus

from . import record as records
from .promises import Violation, check_change, check_record, check_starts, demand
from .record import Record
from .stepped import Act, SteppedCoordinator

T = TypeVar("T", bound=Hashable)

NOBODY, DEAD = -1, -2
"""Instead of a worker: the run has no holder; its holder died and is still on paper."""

EVERYTHING = frozenset(
    {
        "crash",  # a worker process dies
        "lost",  # a worker that lives counts as lost
        "cancel run",
        "cancel step",
        "fail",  # a step fails by itself
        "timeout",
        "abandon",  # a step does not return when it is asked to stop
        "left",  # a step is stopped, but something of it may still run
        "shut down",
        "watchdog",  # a worker fences itself, and its writer goes on or fails
    }
)


# ---- the coordinator as a table -----------------------------------------------------------------


class Ids(Generic[T]):
    """Small numbers for values, so that states are quick to compare."""

    def __init__(self) -> None:
        self._ids: dict[T, int] = {}
        self._values: list[T] = []

    def of(self, value: T) -> int:
        found = self._ids.setdefault(value, len(self._values))
        if found == len(self._values):
            self._values.append(value)
        return found

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def __len__(self) -> int:
        return len(self._values)


class Journal:
    """Keeps what the coordinator decides until it is taken."""

    def __init__(self) -> None:
        self.changes: list[Change] = []

    def record(self, changes: list[Change]) -> None:
        self.changes += changes

    def output(self, position: int) -> StepOutput:
        return StepOutput()

    def progress(self, position: int, fraction: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Stand:
    """Where a coordinator stands, as far as the world around it can tell."""

    before: tuple[Before, ...]
    history: tuple[Act, ...]
    """One way to get there."""
    effects: tuple[tuple[int, int], ...]
    """Position and attempt of what runs in its process."""
    ends: tuple[Act, ...]
    """How its effects may return."""
    due: tuple[tuple[Due, int], ...]
    result: Result | None
    abandoned: bool
    stopping: bool
    fenced: bool


class Coordinators:
    """Asks the coordinator what it does in each situation, once."""

    def __init__(self, plan: Plan, kind: type[SteppedCoordinator]) -> None:
        self._plan, self._kind = plan, kind
        self._stands: list[Stand] = []
        self._numbers: dict[Hashable, int] = {}
        self._answers: dict[Hashable, tuple[int, tuple[Change, ...], tuple[int, ...]]] = {}

    def __getitem__(self, number: int) -> Stand:
        return self._stands[number]

    def __len__(self) -> int:
        return len(self._stands)

    def begin(self, before: tuple[Before, ...]) -> tuple[int, tuple[Change, ...]]:
        """A coordinator of a worker that claimed the run: where it stands, what it decided."""
        number, changes, _ = self._answer(before, ())
        return number, changes

    def after(self, number: int, act: Act) -> tuple[int, tuple[Change, ...], tuple[int, ...]]:
        """Where it stands after the act, what it decided, and the steps that it began."""
        key = (number, act)
        if key not in self._answers:
            stand = self._stands[number]
            self._answers[key] = self._answer(stand.before, (*stand.history, act))
        return self._answers[key]

    def _answer(
        self, before: tuple[Before, ...], history: tuple[Act, ...]
    ) -> tuple[int, tuple[Change, ...], tuple[int, ...]]:
        journal = Journal()
        coordinator = self._kind(self._plan, before, journal)
        had: list[Call] = []
        for act in history:
            journal.changes, had = [], [*coordinator.begun]
            coordinator.act(act)
        began = [call.step.position for call in coordinator.begun if call not in had]
        key = coordinator.stands()
        if key not in self._numbers:
            self._numbers[key] = len(self._stands)
            self._stands.append(_stand(coordinator, before, history))
        return self._numbers[key], tuple(journal.changes), tuple(began)


def _stand(
    coordinator: SteppedCoordinator, before: tuple[Before, ...], history: tuple[Act, ...]
) -> Stand:
    return Stand(
        before=before,
        history=history,
        effects=tuple((call.step.position, call.attempt) for call in coordinator.begun),
        ends=tuple(coordinator.ends()),
        due=tuple(coordinator.due()),
        result=coordinator.result,
        abandoned=coordinator.abandoned,
        stopping=coordinator._stopping,
        fenced=coordinator._fenced,
    )


# ---- states -------------------------------------------------------------------------------------


class Worker(NamedTuple):
    """A worker that claimed the run and has not left it. The fields are numbers of values."""

    stand: int
    queue: int
    """Changes that its coordinator decided and its writer has not committed."""
    inbox: int
    """Events that its coordinator has not heard."""
    known: int
    """The cancel requests that its writer has read."""
    writes: bool = True
    """Its writer goes on."""


class State(NamedTuple):
    record: int
    holder: int = NOBODY
    workers: tuple[Worker | None, ...] = (None, None)
    sighting: bool | None = None
    """The rescuer saw the beat that the record still has; whether the holder was proven dead."""
    orphans: tuple[tuple[int, int], ...] = ()
    """Positions of what runs though no coordinator watches it, and the worker that it is of: one
    that lives, DEAD for the dead holder, NOBODY for those before."""
    begun: tuple[int, ...] = ()
    """How often each step really began, in any worker."""


class Move(NamedTuple):
    """Something that happens."""

    name: str
    state: State
    goes_on: bool
    """Part of what brings a run to its end, other than a fault or a wish of somebody."""
    detail: object = ()
    writer: int | None = None
    """The worker that writes."""


@dataclass(frozen=True, slots=True)
class Explored:
    """What an exploration found."""

    states: int
    moves: int
    stands: int
    """Different situations of a coordinator."""
    records: int
    ends: frozenset[Record] = field(repr=False)
    """The records of runs that are over."""


# ---- exploring ----------------------------------------------------------------------------------


class Explorer:
    """Visits every state. Subclasses break one rule each, to show that this is noticed."""

    coordinator: type[SteppedCoordinator] = SteppedCoordinator

    def __init__(self, plan: Plan, faults: Iterable[str] = EVERYTHING) -> None:
        self.plan = plan
        self.faults = frozenset(faults)
        assert self.faults <= EVERYTHING
        self.coordinators = Coordinators(plan, self.coordinator)
        self.records: Ids[Record] = Ids()
        self.changes: Ids[tuple[Change, ...]] = Ids()
        self.events: Ids[tuple[Event, ...]] = Ids()
        self.cancels: Ids[CancelSeen] = Ids()
        self.no_changes, self.no_events = self.changes.of(()), self.events.of(())
        self.unasked = self.cancels.of(CancelSeen())
        self._commits: dict[tuple[int, int], tuple[Any, ...]] = {}
        self._rescues_of: dict[tuple[int, bool], int] = {}
        self._wishes_of: dict[int, list[tuple[str, int]]] = {}
        self._checked: set[tuple[int, int, bool]] = set()

    def explore(self, most: int = 1_000_000) -> Explored:
        """Visit every state, from the queued run on. Raises `Violation`."""
        first = State(self.records.of(records.new(self.plan)), begun=(0,) * len(self.plan.steps))
        numbers = {first: 0}
        came_from: list[tuple[int, str, object]] = [(0, "", ())]
        back: list[list[int]] = [[]]
        waiting = deque([first])
        moves = 0
        while waiting:
            state = waiting.popleft()
            number = numbers[state]
            try:
                for move in self.moves(state):
                    moves += 1
                    self.check(state, move)
                    after = _in_order(self._without_futile(move.state))
                    if after not in numbers:
                        assert len(numbers) < most, "this is not a small configuration"
                        numbers[after] = len(came_from)
                        came_from.append((number, move.name, move.detail))
                        back.append([])
                        waiting.append(after)
                    if move.goes_on:
                        back[numbers[after]].append(number)
            except (Violation, records.WrongChangeError) as error:
                raise Violation(f"{error}\n{self._way_to(number, came_from)}") from error
        ends = {number: state for state, number in numbers.items() if self.record(state).is_final}
        self._check_that_all_can_end(ends, back, came_from)
        found = frozenset(self.record(state) for state in ends.values())
        return Explored(len(numbers), moves, len(self.coordinators), len(self.records), found)

    def _way_to(self, number: int, came_from: list[tuple[int, str, object]]) -> str:
        way: list[str] = []
        while number:
            number, name, detail = came_from[number]
            way.append(f"{name} {_words(detail)}")
        return "\n".join(["after:", *reversed(way)])

    def _check_that_all_can_end(
        self, ends: Iterable[int], back: list[list[int]], came_from: list[tuple[int, str, object]]
    ) -> None:
        """From every state the run can end, without a further fault or anybody's help."""
        reached = set(ends)
        waiting = [*reached]
        while waiting:
            for number in back[waiting.pop()]:
                if number not in reached:
                    reached.add(number)
                    waiting.append(number)
        for number in range(len(back)):
            if number not in reached:
                raise Violation(f"the run cannot end\n{self._way_to(number, came_from)}")

    def record(self, state: State) -> Record:
        return self.records[state.record]

    # ---- what may happen --------------------------------------------------------------------

    def moves(self, state: State) -> Iterator[Move]:
        for which, worker in enumerate(state.workers):
            if worker is None:
                yield from self._claims(state, which)
            else:
                yield from self._works(state, which, worker)
        yield from self._rescues(state)
        yield from self._wishes(state)
        for orphan in sorted(set(state.orphans)):
            left = [*state.orphans]
            left.remove(orphan)
            yield Move(f"what was left of {orphan[0]} ends", state._replace(orphans=(*left,)), True)

    def _claims(self, state: State, which: int) -> Iterator[Move]:
        record = self.record(state)
        if record.status is not RunStatus.QUEUED or (which and state.workers[0] is None):
            return
        claimed = records.claim(record)
        state = state._replace(record=self.records.of(claimed), orphans=_forget_dead(state))
        state = self._beaten(state)
        if claimed.is_final:
            yield Move(f"{which} claims in vain", state, True)
            return
        stand, changes = self.coordinators.begin(tuple(records.before(claimed)))
        known = CancelSeen(claimed.mode, claimed.asked)
        heard: tuple[Event, ...] = (known,) if known != CancelSeen() else ()
        worker = Worker(
            stand, self.changes.of(changes), self.events.of(heard), self.cancels.of(known)
        )
        yield Move(f"{which} claims", _with(state, which, worker)._replace(holder=which), True)

    def _works(self, state: State, which: int, worker: Worker) -> Iterator[Move]:
        stand = self.coordinators[worker.stand]
        if worker.writes:
            yield from self._writes(state, which, worker)
        if stand.result is None:
            yield from self._decides(state, which, worker, stand)
        elif worker.queue == self.no_changes or not worker.writes:
            left = self._left(state, which, stand)
            yield Move(f"{which} leaves", left, True, writer=which)
        if "crash" in self.faults:
            holder = DEAD if state.holder == which else state.holder
            owner = DEAD if state.holder == which else NOBODY
            dead = self._without(state, which, stand, owner)
            yield Move(f"{which} dies", dead._replace(holder=holder), False)

    def _without_futile(self, state: State) -> State:
        """What a fenced worker knows and wants to write makes no difference any more."""
        for which, worker in enumerate(state.workers):
            if worker is None or self.holds(state, which):
                continue
            if worker.queue != self.no_changes or worker.known != self.unasked:
                worker = worker._replace(queue=self.no_changes, known=self.unasked)
                state = _with(state, which, worker)
        return state

    # ---- the writer -------------------------------------------------------------------------

    def holds(self, state: State, which: int) -> bool:
        """Whether the epoch that the worker claimed is the run's."""
        return state.holder == which

    def _writes(self, state: State, which: int, worker: Worker) -> Iterator[Move]:
        holds = self.holds(state, which)
        if worker.queue != self.no_changes:
            changes = self.changes[worker.queue]
            if holds:
                committed = self._committed(state, which, worker)
                yield Move(f"{which} commits", committed, True, changes, which)
            else:
                closed = self._closed(state, which, worker)
                yield Move(f"{which} is fenced at", closed, True, changes, which)
        if not holds:
            yield Move(f"{which} finds the run taken", self._closed(state, which, worker), True)
            return
        record = self.record(state)
        news = CancelSeen(record.mode, record.asked)
        if news != self.cancels[worker.known]:
            seen = self._told(worker, news)._replace(known=self.cancels.of(news))
            yield Move(f"{which} looks", _with(state, which, seen), True)
        if state.sighting is not None:
            yield Move(f"{which} beats", self._beaten(state), True)

    def _committed(self, state: State, which: int, worker: Worker) -> State:
        key = (state.record, worker.queue)
        if key not in self._commits:
            changes = self.changes[worker.queue]
            record, started, refused = self.commit(self.record(state), changes)
            check_starts(self.plan, self.record(state), record, started)
            ended = any(isinstance(change, End | HandBack) for change in changes)
            news = CancelSeen(record.mode, record.asked)
            answer = Committed(started, refused, ended)
            self._commits[key] = self.records.of(record), news, answer
        number, news, answer = self._commits[key]
        if news != self.cancels[worker.known]:
            worker = self._told(worker, news)._replace(known=self.cancels.of(news))
        if answer != Committed():
            worker = self._told(worker, answer)
        worker = worker._replace(queue=self.no_changes, writes=not answer.ended)
        state = self._beaten(_with(state, which, worker)._replace(record=number))
        return state._replace(holder=NOBODY) if answer.ended else state

    def commit(self, record: Record, changes: tuple[Change, ...]) -> tuple[Any, ...]:
        return records.commit(self.plan, record, changes)

    def _closed(self, state: State, which: int, worker: Worker) -> State:
        """Its writer found that the run is another's, and ended."""
        return _with(state, which, self._told(worker, Fenced())._replace(writes=False))

    def _told(self, worker: Worker, event: Event) -> Worker:
        return worker._replace(inbox=self.events.of((*self.events[worker.inbox], event)))

    # ---- the coordinator and its steps ------------------------------------------------------

    def _decides(self, state: State, which: int, worker: Worker, stand: Stand) -> Iterator[Move]:
        inbox = self.events[worker.inbox]
        if inbox:
            rest = worker._replace(inbox=self.events.of(inbox[1:]))
            yield self._acts(state, which, rest, ("hear", inbox[0]), goes_on=True)
        if len(inbox) > 1:
            rest = worker._replace(inbox=self.no_events)
            yield self._acts(state, which, rest, ("hear", *inbox), goes_on=True)
        for act in stand.ends:
            needs = {"fails": "fail", "is left": "left"}.get(act[2])
            if needs is None or needs in self.faults:
                yield self._acts(state, which, worker, act, goes_on=True)
        for due, position in stand.due:
            needs = {Due.TIMEOUT: "timeout", Due.ABANDON: "abandon"}.get(due)
            if needs is None or needs in self.faults:
                yield self._acts(state, which, worker, ("due", due, position), goes_on=True)
        if "shut down" in self.faults and not stand.stopping:
            yield self._acts(state, which, worker, ("hear", ShutDown(1.0)), goes_on=False)
        if "watchdog" in self.faults and not stand.fenced and Fenced() not in inbox:
            told = self._told(worker, Fenced())
            yield Move(f"{which} fences itself", _with(state, which, told), False)
            failed = told._replace(writes=False)
            if worker.writes:
                yield Move(f"{which}: its writer fails", _with(state, which, failed), False)

    def _acts(self, state: State, which: int, worker: Worker, act: Act, *, goes_on: bool) -> Move:
        stand, changes, began = self.coordinators.after(worker.stand, act)
        if worker.writes and changes:
            queue = self.changes.of((*self.changes[worker.queue], *changes))
            worker = worker._replace(queue=queue)
        left = state
        if act[-1] == "is left":
            left = state._replace(orphans=tuple(sorted([*state.orphans, (act[1], which)])))
        after = _with(left, which, worker._replace(stand=stand))
        for position in began:
            self.check_beginning(state, position)
            counts = [*after.begun]
            counts[position] += 1
            after = after._replace(begun=(*counts,))
        return Move(f"{which}:", after, goes_on, act)

    def _left(self, state: State, which: int, stand: Stand) -> State:
        """Its coordinator is done. If the run is still its own on paper, it gives it up."""
        after = self._without(state, which, stand, NOBODY)
        if stand.result is Result.FENCED and state.holder == which:
            return self._rescued(after, proven=not stand.abandoned)
        return after

    def _without(self, state: State, which: int, stand: Stand, owner: int) -> State:
        """The state without the worker; what it ran goes on without anybody to watch it."""
        orphans = [(at, owner if of == which else of) for at, of in state.orphans]
        orphans += [(at, owner) for at, _ in stand.effects]
        return _with(state, which, None)._replace(orphans=tuple(sorted(orphans)))

    # ---- the others -------------------------------------------------------------------------

    def _rescues(self, state: State) -> Iterator[Move]:
        if state.holder == NOBODY:
            return
        if state.sighting is not None:
            yield from self._rescues_as_sighted(state, state.sighting)
        dead = state.holder == DEAD
        if not dead and "lost" not in self.faults:
            return
        proven = dead and not any(owner == DEAD for _, owner in state.orphans)
        word = "proven" if proven else "unproven"
        yield Move(f"rescue, {word}", self._rescued(state, proven=proven), dead)
        if state.sighting is None:
            yield Move(f"sighted, {word}", state._replace(sighting=proven), dead)

    def _rescues_as_sighted(self, state: State, proven: bool) -> Iterator[Move]:
        """Only of the beat that was seen: of any other there is no sighting any more."""
        word = "proven" if proven else "unproven"
        rescued = self._rescued(state, proven=proven)
        yield Move(f"rescue as sighted, {word}", rescued, state.holder == DEAD)

    def _rescued(self, state: State, *, proven: bool) -> State:
        key = (state.record, proven)
        if key not in self._rescues_of:
            record = self.rescue(self.record(state), proven)
            self._rescues_of[key] = self.records.of(record)
        orphans = _forget_dead(state)
        record_after = self._rescues_of[key]
        return self._beaten(state._replace(record=record_after, holder=NOBODY, orphans=orphans))

    def rescue(self, record: Record, proven: bool) -> Record:
        return records.rescue(self.plan, record, proven=proven)

    def _beaten(self, state: State) -> State:
        """Beat or epoch are others now than the rescuer saw."""
        return state._replace(sighting=None)

    def _wishes(self, state: State) -> Iterator[Move]:
        if state.record not in self._wishes_of:
            record = self.record(state)
            wishes = [(name, self.records.of(after)) for name, after in self._cancels(record)]
            self._wishes_of[state.record] = wishes
        for name, after in self._wishes_of[state.record]:
            if after != state.record:
                yield Move(name, state._replace(record=after), False)

    def _cancels(self, record: Record) -> Iterator[tuple[str, Record]]:
        if "cancel run" in self.faults:
            for mode in ("drain", "stop"):
                yield f"cancel run, {mode}", records.cancel_run(record, mode)
        if "cancel step" in self.faults:
            for at in range(len(record.rows)):
                yield f"cancel step {at}", records.cancel_step(self.plan, record, at)

    # ---- what must hold -----------------------------------------------------------------------

    def check(self, before: State, move: Move) -> None:
        """What holds for every change, and in every state."""
        after = move.state
        if before.record == after.record and before.holder == after.holder:
            return
        if before.record != after.record and move.writer is not None:
            demand(before.holder == move.writer, "a fenced worker wrote")
        held = after.holder != NOBODY
        if (before.record, after.record, held) in self._checked:
            return
        self._checked.add((before.record, after.record, held))
        check_change(self.plan, self.record(before), self.record(after))
        check_record(self.plan, self.record(after), held=held)

    def check_beginning(self, state: State, position: int) -> None:
        """A step begins, for real."""
        step, row = self.plan.steps[position], self.record(state).rows[position]
        demand(state.begun[position] < row.attempt, "a step began without a durable START")
        allowed = step.attempts if step.retry_safe else 1
        demand(state.begun[position] < allowed, "a step began too often")
        others = {at for at, _ in state.orphans}
        for worker in state.workers:
            if worker is not None:
                others |= {at for at, _ in self.coordinators[worker.stand].effects}
        demand(position not in others, "a step runs twice at once")
        if step.lane is Lane.CRITICAL:
            lanes = {self.plan.steps[at].lane for at in others}
            demand(Lane.CRITICAL not in lanes, "two critical steps run at once")


def _with(state: State, which: int, worker: Worker | None) -> State:
    workers = (worker, state.workers[1]) if which == 0 else (state.workers[0], worker)
    return state._replace(workers=workers)


def _forget_dead(state: State) -> tuple[tuple[int, int], ...]:
    """What outlived the dead holder is from now on what outlived some earlier one."""
    return tuple(sorted((at, NOBODY if of == DEAD else of) for at, of in state.orphans))


def _in_order(state: State) -> State:
    """The two workers are alike: of two states that differ in their names alone, one is enough."""
    one, other = state.workers
    if other is None or (one is not None and one <= other):
        return state
    orphans = tuple(sorted((at, 1 - of if of >= 0 else of) for at, of in state.orphans))
    holder = 1 - state.holder if state.holder >= 0 else state.holder
    return state._replace(workers=(other, one), holder=holder, orphans=orphans)


def _words(value: object) -> str:
    """A change, an event or an act, short."""
    if isinstance(value, tuple):
        return ", ".join(_words(item) for item in value)
    if isinstance(value, Committed):
        return f"committed {_words(value.started)}; refused {_words(value.refused)}"
    if isinstance(value, CancelSeen):
        return f"cancel {value.run} {[*value.steps]}"
    position = getattr(value, "position", getattr(value, "positions", ""))
    return str(value) if isinstance(value, str | int) else f"{type(value).__name__} {position}"
