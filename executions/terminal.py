"""A run as a terminal shows it."""

from __future__ import annotations

from django.utils import timezone
from rich.console import Group, RenderableType
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .engine.status import StepStatus
from .models import Run, StepRun

ROWS = 12
"""Step runs that are shown at once: what runs, and what missed."""

MISSED = [
    StepStatus.FAILED,
    StepStatus.TIMED_OUT,
    StepStatus.INTERRUPTED,
    StepStatus.CANCELLED,
]

STYLES = {
    StepStatus.RUNNING: ("●", "blue"),
    StepStatus.SUCCEEDED: ("✓", "green"),
    StepStatus.FAILED: ("✗", "red"),
    StepStatus.TIMED_OUT: ("◷", "magenta"),
    StepStatus.CANCELLED: ("■", "bright_black"),
    StepStatus.INTERRUPTED: ("⚡", "yellow"),
    StepStatus.SKIPPED: ("»", "bright_black"),
    StepStatus.PENDING: ("○", "bright_black"),
}


def run_view(run: Run) -> RenderableType:
    """One line about the run, a bar, and the steps that matter most now."""
    done = run.total - run.pending - run.running
    head = Text.assemble((str(run), "bold"), "  ", _status_word(run), f"  {done}/{run.total}")
    for status, (glyph, style) in STYLES.items():
        if number := getattr(run, status.value):
            head.append(f"  {glyph} {number} {status.value.replace('_', ' ')}", style)
    bar = Table.grid()
    bar.add_row(ProgressBar(total=max(1, run.total), completed=done, width=60))
    return Group(head, bar, _steps(run))


def _status_word(run: Run) -> str:
    return "cancelling" if run.is_cancelling else run.status.replace("_", " ")


def _steps(run: Run) -> Table:
    table = Table.grid(padding=(0, 2))
    running = list(run.step_runs.filter(status=StepStatus.RUNNING)[:ROWS])
    missed = run.step_runs.filter(status__in=MISSED)[: ROWS - len(running)]
    for step_run in [*running, *missed]:
        glyph, style = STYLES[StepStatus(step_run.status)]
        table.add_row(
            Text(glyph, style),
            Text(step_run.name),
            Text(step_run.lane, "bright_black"),
            Text(f"{_seconds(step_run):.1f} s"),
            Text(_printable(step_run.message.partition("\n")[0][:80]), style),
        )
    return table


def _printable(text: str) -> str:
    """What a step says must not steer the terminal."""
    return "".join(char if char.isprintable() else "·" for char in text)


def _seconds(step_run: StepRun) -> float:
    if step_run.started_at is None:
        return 0.0
    return ((step_run.finished_at or timezone.now()) - step_run.started_at).total_seconds()
