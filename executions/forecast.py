"""What a cancel would do right now to each running step of a run."""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from .engine import reaper
from .engine.executors import step_key_prefix
from .engine.plan import PlannedStep
from .engine.status import StepStatus
from .identity import ProcessIdentity
from .models import Run, RunInput, StepRun
from .presentation import consequence_of, step_shown
from .worker import executors

logger = logging.getLogger(__name__)

ASKED = "Asked to stop already; asking again changes nothing."
_COLUMNS = ("name", "position", "attempt", "kind", "protected", "status", "cancel_requested_at")
_REST_OF_KEY = re.compile(r"[0-9a-f]+:(\d{1,9}):(\d{1,9})(?::\d+)?")


class StepForecast(TypedDict):
    """What a cancel would do to one running step."""

    id: int
    position: int
    name: str
    kind: str
    text: str
    """A sentence."""
    processes: int | None
    """Living ones that can be seen from here; null if none can, as on another host."""


def forecast(run: Run) -> list[StepForecast]:
    """For each running step, in the order of the plan. Three queries and a look at /proc."""
    steps = StepRun.objects.filter(run_id=run.pk, status=StepStatus.RUNNING)
    running = list(steps.only(*_COLUMNS).order_by("position"))
    planned = _planned(run, [step.position for step in running]) if running else {}
    living = living_processes(run) if running else {}
    return [
        {
            "id": step.pk,
            "position": step.position,
            "name": step.name,
            "kind": step.kind,
            "text": _text(step, run, planned),
            "processes": living.get((step.position, step.attempt)),
        }
        for step in running
    ]


def _planned(run: Run, positions: Iterable[int]) -> dict[int, PlannedStep]:
    """These steps of its plan; none if it was written by another version of this code."""
    plan: Any = RunInput.objects.filter(pk=run.pk).values_list("plan", flat=True).first()
    try:
        # The whole plan may hold ten thousand.
        return {position: PlannedStep.from_json(plan["steps"][position]) for position in positions}
    except (KeyError, TypeError, ValueError, IndexError):
        return {}


def _text(step: StepRun, run: Run, planned: Mapping[int, PlannedStep]) -> str:
    if step_shown(step, run) != step.status:
        return ASKED
    if step.position in planned:
        try:
            return executors().get(step.kind).forecast(planned[step.position])
        except Exception:  # a project's own executor must not stand in the way of a cancel
            logger.exception("no forecast for steps of kind %s", step.kind)
    return consequence_of(step.kind, protected=step.protected)


def living_processes(run: Run) -> Mapping[tuple[int, int], int]:
    """Living processes of a run's steps by position and attempt, as far as they can be seen here.

    Counted are those that carry a sign of the step, and everything below them. What shed every sign
    and its parents is not; a cancel finds it all the same.
    """
    prefix = _key_prefix(run)
    if not prefix:
        return {}
    try:
        table = [entry for entry in reaper.processes() if entry.is_alive]
    except OSError:
        return {}
    marked = _marked(table, prefix)
    return {step: len(reaper.descendants(pids, table)) for step, pids in marked.items()}


def _key_prefix(run: Run) -> str:
    """How the marks of its processes begin; empty if they are nowhere in sight."""
    try:
        holder = ProcessIdentity.parse(run.holder)
    except ValueError:
        return ""
    is_here = holder.is_visible and not holder.is_proven_dead
    return step_key_prefix(run.pk, holder.pid) if is_here else ""


def _marked(table: Iterable[reaper.Process], prefix: str) -> dict[tuple[int, int], set[int]]:
    """The pids of each step: by the key in their environment, or by its mark among their limits."""
    found: dict[tuple[int, int], set[int]] = defaultdict(set)
    marks: dict[int, tuple[int, int]] = {}
    unmarked = []
    for entry in table:
        key = reaper.cookie(entry.pid) or ""
        if key.startswith(prefix) and (rest := _REST_OF_KEY.fullmatch(key, len(prefix))):
            step = marks[reaper.mark(key)] = int(rest[1]), int(rest[2])
            found[step].add(entry.pid)
        else:
            unmarked.append(entry.pid)
    for pid in unmarked if marks else ():
        if (step_of_mark := marks.get(reaper.mark_of(pid))) is not None:
            found[step_of_mark].add(pid)
    return found
