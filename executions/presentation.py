"""How statuses, waits and cancels are put before people. static/stepsite/js/lib/words.js says the
same in the browser; a change here belongs there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from .engine.plan import Lane, PoolStart
from .engine.status import FINAL_STEP_STATUSES, RunStatus, StepStatus
from .models import CancelMode, Run, StepRun

CANCELLING = "cancelling"
"""Shown while a cancel was asked for and is not proven; never stored."""

WORDS: Mapping[str, str] = {
    "pending": "Pending",
    "queued": "Queued",
    "running": "Running",
    CANCELLING: "Cancelling",
    "succeeded": "Succeeded",
    "partially_succeeded": "Partially succeeded",
    "failed": "Failed",
    "timed_out": "Timed out",
    "interrupted": "Interrupted",
    "cancelled": "Cancelled",
    "skipped": "Skipped",
}

ATTENTION: tuple[str, ...] = (
    "failed",
    "timed_out",
    "interrupted",
    CANCELLING,
    "running",
    "pending",
    "cancelled",
    "skipped",
    "succeeded",
)
"""Step statuses in the order in which people want to see them."""

SEGMENTS: tuple[str, ...] = (
    "succeeded",
    "failed",
    "timed_out",
    "interrupted",
    "cancelled",
    "skipped",
    CANCELLING,
    "running",
    "pending",
)
"""Step statuses in the order of the progress bar: what is over comes first."""

NARROWEST_SEGMENT = 1.2
"""Per cent of the bar: one failure among ten thousand steps must still be seen."""

MISSED = ("failed", "timed_out", "interrupted")

POLICIES: Mapping[str, str] = {
    "continue": "if a critical step misses: go on",
    "stop_critical": "if a critical step misses: skip the rest of the critical lane",
    "stop_run": "if a critical step misses: start nothing new",
}

POOL_STARTS: Mapping[str, str] = {
    PoolStart.AFTER_CRITICAL: "pool starts after the critical lane",
    PoolStart.BESIDE_CRITICAL: "pool runs beside the critical lane",
}


def run_shown(run: Run) -> str:
    """The status of a run as it is shown: `cancelling` once a cancel was asked for."""
    return CANCELLING if run.is_cancelling else run.status


def stops_running_steps(run: Run) -> bool:
    """Whether a cancel of the run was asked for that also ends what runs."""
    return run.is_cancelling and run.cancel_mode != CancelMode.DRAIN


def step_shown(step: StepRun, run: Run) -> str:
    """The status of a step run as it is shown."""
    asked = step.cancel_requested_at is not None
    if step.status == StepStatus.PENDING and asked:
        return CANCELLING
    if step.status != StepStatus.RUNNING or step.protected:
        return step.status
    return CANCELLING if asked or stops_running_steps(run) else step.status


def counts(run: Run) -> dict[str, int]:
    """Number of steps per status, as far as the run's own row tells how they are shown."""
    numbers: dict[str, int] = {status: getattr(run, status) for status in Run.COUNTERS}
    if stops_running_steps(run):
        numbers[CANCELLING] = numbers.pop("running")
    return numbers


def finished(run: Run) -> int:
    """Number of steps that have come to an end."""
    return sum(getattr(run, status.value) for status in FINAL_STEP_STATUSES)


@dataclass(frozen=True, slots=True)
class Segment:
    """One stretch of the progress bar; positions are per cent of its width."""

    status: str
    count: int
    start: float
    width: float


def segments(numbers: Mapping[str, int]) -> list[Segment]:
    """The progress bar for a number of steps per status."""
    present = [(status, numbers.get(status, 0)) for status in SEGMENTS if numbers.get(status)]
    total = sum(count for _, count in present)
    widths = [max(count / total * 100, NARROWEST_SEGMENT) for _, count in present]
    scale = 100 / sum(widths) if widths else 1
    result: list[Segment] = []
    start = 0.0
    for (status, count), width in zip(present, widths, strict=True):
        result.append(Segment(status, count, round(start, 3), round(width * scale, 3)))
        start += width * scale
    return result


def in_words(numbers: Mapping[str, int], order: Iterable[str] = SEGMENTS) -> str:
    """Such as `33 succeeded, 1 failed`."""
    parts = [f"{numbers[s]} {WORDS[s].lower()}" for s in order if numbers.get(s)]
    return ", ".join(parts) or "no steps"


@dataclass(frozen=True, kw_only=True, slots=True)
class Surroundings:
    """What a pending step may be waiting for."""

    run: Run
    run_waits: str
    """Why the run itself waits; empty if it does not."""
    critical_now: str
    """Name of the first critical step that has not ended; empty if all have."""
    busy: int
    """Occupied slots of the pool."""


def wait_of(step: StepRun, around: Surroundings) -> str:
    """One sentence: what this pending step waits for."""
    run = around.run
    if run.status == RunStatus.QUEUED:
        return around.run_waits or "waits for a worker"
    if run.is_cancelling:
        return "will not start: the run is being cancelled"
    if step.retry_at is not None:
        return f"attempt {step.attempt + 1} comes after a pause"
    if step.lane == Lane.CRITICAL:
        ahead = around.critical_now
        return f"waits for {ahead}" if ahead and ahead != step.name else "starts next"
    if run.pool_start == PoolStart.AFTER_CRITICAL and around.critical_now:
        return "waits for the critical lane"
    if around.busy >= run.pool_width:
        return f"pool full {around.busy}/{run.pool_width}"
    return "starts next"


def line_of(step: StepRun, around: Surroundings) -> str:
    """The sentence below a step's name: why it is where it is."""
    text = _sentence(step, around)
    return f"attempt {step.attempt} · {text}" if step.attempt > 1 else text


def _sentence(step: StepRun, around: Surroundings) -> str:
    if step.abandoned_at is not None and not around.run.is_final:
        held = f"keeps slot {step.slot}" if step.slot else "keeps the critical lane"
        return f"did not stop when asked; its thread still runs and {held}"
    if step.status == StepStatus.PENDING:
        return wait_of(step, around)
    if step_shown(step, around.run) == CANCELLING:
        return "asked to stop; cancelled when that is proven"
    if step.status in (StepStatus.RUNNING, StepStatus.SUCCEEDED):
        return step.because
    return step.message or step.reason.replace("_", " ") or step.because


_TREE = "SIGTERM to the whole process tree, SIGKILL after the grace, until no process is left."
CONSEQUENCES: Mapping[str, str] = {
    "python": (
        "asked to stop. Code that does not return within its grace is abandoned and keeps its slot."
    ),
    "command": _TREE,
    "management": _TREE,
    "http": "the connection is closed. The server may go on with the request.",
}
PROTECTED_CONSEQUENCE = "protected. Only its end or its timeout ends it."
OTHER_CONSEQUENCE = "asked to stop."
NAMED_CONSEQUENCES = 6
"""Steps that are named for each consequence."""


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a cancel does to some of the running steps; follows their names and a colon."""

    names: list[str]
    unnamed: int
    text: str


def consequences(steps: Iterable[StepRun]) -> list[Consequence]:
    """What a cancel does to each of the running `steps`, those of one fate together."""
    names: dict[str, list[str]] = {}
    for step in steps:
        text = CONSEQUENCES.get(step.kind, OTHER_CONSEQUENCE)
        names.setdefault(PROTECTED_CONSEQUENCE if step.protected else text, []).append(step.name)
    return [
        Consequence(fated[:NAMED_CONSEQUENCES], max(0, len(fated) - NAMED_CONSEQUENCES), text)
        for text, fated in names.items()
    ]


def duration_in_words(seconds: float) -> str:
    """Such as `340 ms`, `6.2s`, `4m 12.4s`, `1h 04m 12s`, `2d 03h 10m`."""
    seconds = max(seconds, 0.0)
    if seconds < 1:
        return f"{int(seconds * 1000)} ms"
    if seconds < 60:
        return f"{int(seconds * 10) / 10:.1f}s"
    if seconds < 3600:
        return f"{int(seconds // 60)}m {int(seconds % 60 * 10) / 10:.1f}s"
    hours, rest = divmod(int(seconds), 3600)
    if hours < 24:
        return f"{hours}h {rest // 60:02}m {rest % 60:02}s"
    return f"{hours // 24}d {hours % 24:02}h {rest // 60:02}m"


def timeout_in_words(seconds: float | None) -> str:
    """A limit that somebody set: `45 s`, `10 min`, `2 h`."""
    if seconds is None:
        return "—"
    if seconds >= 3600 and seconds % 3600 == 0:
        return f"{seconds / 3600:.0f} h"
    if seconds >= 60 and seconds % 60 == 0:
        return f"{seconds / 60:.0f} min"
    return f"{seconds:g} s"


def ago_in_words(moment: datetime, now: datetime) -> str:
    """Such as `just now`, `4 minutes ago`, `3 days ago`."""
    seconds = (now - moment).total_seconds()
    if seconds < 5:
        return "just now"
    for size, noun in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        number = int(seconds // size)
        if number:
            return f"{number} {noun}{'' if number == 1 else 's'} ago"
    return "just now"
