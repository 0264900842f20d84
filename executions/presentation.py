"""How statuses, waits and cancels are put before people. static/stepsite/js/lib/words.js says the
same in the browser; a change here belongs there too.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from .engine.plan import Lane, PoolStart
from .engine.status import FINAL_STEP_STATUSES, RunStatus, StepStatus
from .models import CancelFacts, CancelMode, Run, StepRun

RUN_CANCELLED = "run_cancelled"
"""The reason of steps that a cancel of their run ended or prevented."""
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


def stopping_in_words(run: Run) -> str:
    """How far a cancel of the run has come: `draining: 2 steps still running`; else empty."""
    if not run.is_cancelling:
        return ""
    verb = "stopping" if stops_running_steps(run) else "draining"
    return f"{verb}: {steps_in_words(run.running)} still running"


def activity(run: Run) -> str:
    """What a cancel of this active run would meet: `2 steps running, 5 pending`."""
    if run.status == RunStatus.QUEUED:
        return f"queued, {steps_in_words(run.pending)} pending"
    rest = f", {run.pending:,} pending" if run.pending else ""
    return f"{steps_in_words(run.running)} running{rest}"


def steps_in_words(number: int) -> str:
    return f"{number:,} step{'' if number == 1 else 's'}"


def cancelled_in_words(runs: int) -> str:
    """The answer to a request to cancel everything."""
    if not runs:
        return "No run was active any more."
    return f"The cancel reached {runs:,} run{'' if runs == 1 else 's'}."


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


def consequence_of(kind: str, *, protected: bool) -> str:
    """What a cancel does to a running step, as far as its kind tells."""
    return PROTECTED_CONSEQUENCE if protected else CONSEQUENCES.get(kind, OTHER_CONSEQUENCE)


@dataclass(frozen=True, slots=True)
class Consequence:
    """What a cancel does to some of the running steps; follows their names and a colon."""

    names: list[tuple[str, str]]
    """Name and, in words, the number of its processes; that is empty if it is not known."""
    unnamed: int
    text: str


def consequences(fates: Iterable[tuple[str, str, int | None]]) -> list[Consequence]:
    """What a cancel does, by name, sentence and number of processes; those of one fate together."""
    names: dict[str, list[tuple[str, str]]] = {}
    for name, text, processes in fates:
        names.setdefault(text, []).append((name, processes_in_words(processes)))
    return [
        Consequence(fated[:NAMED_CONSEQUENCES], max(0, len(fated) - NAMED_CONSEQUENCES), text)
        for text, fated in names.items()
    ]


def processes_in_words(number: int | None) -> str:
    return "" if number is None else f"{number} process{'' if number == 1 else 'es'}"


# ---- receipts -----------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True, slots=True)
class Receipt:
    """What is known of the end that a step was brought to, or will be."""

    by: str = ""
    """Who asked; empty if nobody did."""
    at: datetime | None = None
    note: str = ""
    text: str = ""
    """What was done, and what came of it."""
    doubt: str = ""
    """What is not proven, and what to do about it."""


def receipt(step: StepRun, run: Run) -> Receipt | None:
    """The receipt of a step that was asked to stop or had to be ended; None for all others."""
    asked: CancelFacts | None = None
    if step.cancel_requested_at is not None:
        asked = step
    elif step.reason == RUN_CANCELLED or step_shown(step, run) == CANCELLING:
        asked = run
    timed_out = step.status == StepStatus.TIMED_OUT
    if not (asked or timed_out or step.receipt or step.abandoned_at):
        return None
    text = _ending(step, asked)
    facts = {} if asked is None or timed_out else _facts(asked)
    return Receipt(**facts, text=text, doubt=_doubt(step, run))


def message_beside(receipt: Receipt | None, step: StepRun) -> str:
    """The message of a step, unless its receipt tells the same and more."""
    ended = step.status in (StepStatus.CANCELLED, StepStatus.TIMED_OUT)
    return "" if receipt and (ended or step.abandoned_at) else step.message


def _facts(asked: CancelFacts) -> dict[str, Any]:
    return {
        "by": asked.cancel_requested_by,
        "at": asked.cancel_requested_at,
        "note": asked.cancel_note,
    }


def _ending(step: StepRun, asked: CancelFacts | None) -> str:
    if step.finished_at is None:
        return "Asked to stop; shown as cancelled when that is proven."
    if step.started_at is None:
        return "It had not started."
    limit = f"Its limit of {timeout_in_words(step.timeout_seconds)} was reached. "
    before = limit if step.status == StepStatus.TIMED_OUT else ""
    if step.receipt:
        return before + _killing(step.receipt)
    if step.status == StepStatus.TIMED_OUT or asked is None or asked.cancel_requested_at is None:
        return before.strip()
    later = duration_in_words((step.finished_at - asked.cancel_requested_at).total_seconds())
    if step.status == StepStatus.CANCELLED:
        return f"Cancelled {later} later."
    own_end = step.status in (StepStatus.SUCCEEDED, StepStatus.FAILED)
    return f"It came to its own end first, {later} after the request." if own_end else ""


def _killing(receipt: Mapping[str, Any]) -> str:
    left = "It ended by itself and left something running. " if receipt.get("after_exit") else ""
    signals = ", then ".join(receipt.get("signals", ()))
    whom = processes_in_words(receipt.get("processes"))
    after = duration_in_words(receipt.get("seconds", 0.0))
    none = "none left" if receipt.get("proven_empty") else "not proven that none is left"
    level = receipt.get("kill_level", "unknown")
    if not signals:
        return f"No process of it was left to be ended. Kill level: {level}."
    return f"{left}{signals} to {whom}; {none} after {after}. Kill level: {level}."


def _doubt(step: StepRun, run: Run) -> str:
    host, pid = run.held_by or ("its host", 0)
    if step.abandoned_at is not None:
        lane = f"slot {step.slot} of {run.pool_width}" if step.slot else "the critical lane"
        until = f"keeps {lane} until it returns"
        if run.is_final:
            until = "ends when that process is replaced"
        return (
            f"It did not return when asked and may still be running in worker process {pid} on "
            f"{host}; it {until}. Look at what it did before you run it again."
        )
    if step.receipt and not step.receipt.get("proven_empty"):
        pids = ",".join(map(str, step.receipt.get("unknown_pids", ())))
        look = f"ps -fp {pids}" if pids else f"grep -ls STEPSITE_STEP={run.pk}: /proc/*/environ"
        return (
            f"Something of it may still be running. Look on {host} with “{look}” and end what "
            "belongs to this step before you run it again."
        )
    return ""


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
