"""What the coordinator and the world around it say to each other."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from .outcomes import Outcome
from .output import StepOutput
from .status import RunStatus, StepStatus

# ---- changes: from the coordinator to the journal -------------------------------------------


@dataclass(frozen=True, slots=True)
class Start:
    """A step begins as soon as this is committed, and not before."""

    position: int
    attempt: int
    slot: int | None
    """From 1 in the pool; None in the critical lane."""


@dataclass(frozen=True, slots=True)
class Finish:
    """An attempt ended. With `retry_in` the step goes back to PENDING for another one."""

    position: int
    attempt: int
    outcome: Outcome
    was: StepStatus = StepStatus.RUNNING
    """PENDING for a step that is cancelled before it started."""
    retry_in: float | None = None
    """Seconds until the next attempt."""

    @property
    def status(self) -> StepStatus:
        """Where the step stands after it."""
        return self.outcome.status if self.retry_in is None else StepStatus.PENDING


@dataclass(frozen=True, slots=True)
class Sweep:
    """These pending steps get the same final status."""

    positions: tuple[int, ...]
    status: StepStatus
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class End:
    """The run is over."""

    status: RunStatus
    reason: str = ""


@dataclass(frozen=True, slots=True)
class HandBack:
    """This worker stops; the run goes back to the queue with what is left of it."""


Change = Start | Finish | Sweep | End | HandBack

# ---- events: from the world to the coordinator ----------------------------------------------


@dataclass(frozen=True, slots=True)
class Committed:
    """A group of changes is durable; `refused` STARTs met a cancel request and never happened."""

    started: tuple[Start, ...] = ()
    refused: tuple[Start, ...] = ()
    ended: bool = False
    """The group held an End or a HandBack."""


@dataclass(frozen=True, slots=True)
class Returned:
    """A step's attempt came back from its slot."""

    position: int
    attempt: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class CancelSeen:
    """Cancel requests as they stand in the record. Seeing one twice changes nothing."""

    run: str = ""
    """`drain`, `stop`, or empty: no cancel of the run was requested."""
    steps: frozenset[int] = frozenset()
    """Positions whose cancel was requested."""


@dataclass(frozen=True, slots=True)
class Fenced:
    """Another process holds the run by now: stop everything, write nothing."""


@dataclass(frozen=True, slots=True)
class ShutDown:
    """The worker was told to stop: start nothing, let running steps finish for `drain` seconds."""

    drain_seconds: float


Event = Committed | Returned | CancelSeen | Fenced | ShutDown


class Journal(Protocol):
    """Makes changes durable, in order, and reports each group with a `Committed`."""

    def record(self, changes: list[Change]) -> None:
        """Commit these changes together. Returns at once."""

    def output(self, position: int) -> StepOutput:
        """A place for the output of the step's next attempt."""

    def progress(self, position: int, fraction: float) -> None:
        """Remember how far a running step is. May be called from any thread."""
