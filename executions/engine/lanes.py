"""Lanes and slots: where steps run, and how many at once."""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

from .executors import Call, Executor, verdicts
from .outcomes import Outcome
from .plan import Lane, PlannedStep

logger = logging.getLogger(__name__)

Report = Callable[[Call, Outcome], None]


class Slot:
    """One thread that runs one step at a time.

    The thread is a daemon: Python cannot end a thread, and a step that never returns must not
    keep the worker alive.
    """

    def __init__(self, number: int | None, report: Report) -> None:
        self.number = number
        self.busy_with: int | None = None
        """Position of the step that occupies it, abandoned or not."""
        self._report = report
        self._calls: SimpleQueue[tuple[Executor, Call] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def begin(self, executor: Executor, call: Call) -> None:
        """Run the call; its outcome goes to `report`, from the slot's own thread."""
        if self._thread is None:
            name = f"slot-{self.number or 'critical'}"
            self._thread = threading.Thread(target=self._work, name=name, daemon=True)
            self._thread.start()
        self._calls.put((executor, call))

    def close(self) -> None:
        """End the thread after what it runs now."""
        self._calls.put(None)

    def _work(self) -> None:
        while (work := self._calls.get()) is not None:
            executor, call = work
            self._report(call, _outcome(executor, call))


def _outcome(executor: Executor, call: Call) -> Outcome:
    """What the executor says, which promised not to raise: a step without an outcome never ends."""
    try:
        return executor.run(call)
    except BaseException as error:
        logger.exception("step %s", call.key)
        call.output.close()
        return verdicts.failed(call, "engine_error", f"{type(error).__name__}: {error}")


class LaneState:
    """The steps that wait for a lane, in order, and the lane's slots."""

    def __init__(self, lane: Lane, width: int, report: Report) -> None:
        self.lane = lane
        self.waiting: deque[PlannedStep] = deque()
        self.held_by: int | None = None
        """Position of a step in back-off that keeps the lane from going on."""
        numbers: list[int | None] = [None] if lane is Lane.CRITICAL else [*range(1, width + 1)]
        self._slots = [Slot(number, report) for number in numbers]
        self._free = deque(self._slots)
        self._occupied: dict[int, Slot] = {}
        self._abandoned: set[int] = set()

    @property
    def has_free_slot(self) -> bool:
        return bool(self._free)

    @property
    def is_idle(self) -> bool:
        """Nothing runs in it that anybody still waits for."""
        return len(self._occupied) == len(self._abandoned)

    @property
    def has_no_slot_left(self) -> bool:
        """Every slot is held by an abandoned step."""
        return len(self._abandoned) == len(self._slots)

    def occupy(self, position: int) -> Slot:
        """Take the free slot with the lowest number for a step."""
        slot = min(self._free, key=lambda free: free.number or 0)
        self._free.remove(slot)
        slot.busy_with = position
        self._occupied[position] = slot
        return slot

    def slot_of(self, position: int) -> Slot:
        return self._occupied[position]

    def release(self, position: int) -> None:
        """The step left its slot."""
        slot = self._occupied.pop(position)
        self._abandoned.discard(position)
        slot.busy_with = None
        self._free.append(slot)

    def abandon(self, position: int) -> None:
        """The step does not return; it keeps its slot."""
        self._abandoned.add(position)

    def close(self) -> None:
        for slot in self._slots:
            slot.close()
