"""What the list pages show beside single runs: rails, histories, what needs attention."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models import Case, Count, IntegerField, Max, Q, QuerySet, Value, When
from django.utils import timezone

from . import presentation
from .engine.plan import Lane
from .engine.status import FINAL_STEP_STATUSES, RunStatus, StepStatus
from .models import Run, StepRun

RAIL_BEHIND = 5
RAIL_NODES = 16
"""Nodes of a small rail: some that are done, the current one, the next ones."""
ATTENTION_DAYS = 7
ATTENTION_RUNS = 200
"""How many missed runs are looked through for those that still need attention."""
HISTORY_RUNS = 10
USUAL_MINIMUM = 3


@dataclass(frozen=True, slots=True)
class RailNode:
    name: str
    status: str
    """As shown."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Rail:
    """The stretch of a critical lane around the step that is running or next."""

    before: int
    """Steps left out at the start; all of them are done."""
    nodes: Sequence[RailNode]
    after: int
    """Steps left out at the end."""
    done: int
    total: int


def rail(run: Run) -> Rail | None:
    """The critical lane of a run in small; None if it has none."""
    lane = StepRun.objects.filter(run_id=run.pk, lane=Lane.CRITICAL)
    over = Q(status__in=sorted(FINAL_STEP_STATUSES))
    numbers = lane.aggregate(total=Count("pk"), done=Count("pk", filter=over))
    total, done = numbers["total"], numbers["done"]
    if not total:
        return None
    start = max(0, min(done - RAIL_BEHIND, total - RAIL_NODES))
    columns = ("pk", "name", "status", "protected", "cancel_requested_at")
    steps = lane.order_by("position").only(*columns)[start : start + RAIL_NODES]
    nodes = [RailNode(step.name, presentation.step_shown(step, run)) for step in steps]
    return Rail(before=start, nodes=nodes, after=total - start - len(nodes), done=done, total=total)


def by_attention(run: Run) -> QuerySet[StepRun]:
    """The steps of a run, what needs attention first."""
    asked = Q(cancel_requested_at__isnull=False)
    if presentation.stops_running_steps(run):
        asked = Q()
    asked &= Q(status=StepStatus.RUNNING, protected=False)
    asked |= Q(status=StepStatus.PENDING, cancel_requested_at__isnull=False)
    ranks = {status: rank for rank, status in enumerate(presentation.ATTENTION)}
    order = Case(
        When(asked, then=Value(ranks[presentation.CANCELLING])),
        *(When(status=status, then=Value(ranks[status])) for status in StepStatus),
        output_field=IntegerField(),
    )
    return (
        StepRun.objects.filter(run_id=run.pk).defer("result", "receipt").order_by(order, "position")
    )


def surroundings(run: Run, run_waits: str) -> presentation.Surroundings:
    """What the pending steps of a run may be waiting for. Two queries, none for a final run."""
    if run.is_final:
        return presentation.Surroundings(run=run, run_waits="", critical_now="", busy=0)
    steps = StepRun.objects.filter(run_id=run.pk)
    ahead = steps.filter(
        lane=Lane.CRITICAL, status__in=[StepStatus.PENDING, StepStatus.RUNNING]
    ).order_by("position")
    return presentation.Surroundings(
        run=run,
        run_waits=run_waits,
        critical_now=ahead.values_list("name", flat=True).first() or "",
        busy=len(occupied(run)),
    )


def occupied(run: Run) -> list[StepRun]:
    """The step runs that hold a slot of the pool of an active run."""
    held = Q(status=StepStatus.RUNNING) | Q(abandoned_at__isnull=False)
    steps = StepRun.objects.filter(held, run_id=run.pk, lane=Lane.POOL, slot__isnull=False)
    return list(steps.only("name", "slot", "status", "abandoned_at", "protected",
                           "cancel_requested_at").order_by("slot"))  # fmt: skip


def first_miss(run: Run) -> StepRun | None:
    """The miss that people should look at first: a critical one, else the earliest."""
    missed = StepRun.objects.filter(run_id=run.pk, status__in=presentation.MISSED)
    # "critical" sorts before "pool".
    return missed.defer("result", "receipt").order_by("lane", "finished_at").first()


@dataclass(frozen=True, slots=True)
class Attention:
    """The last run of a batch missed, and none has succeeded since."""

    run: Run
    step: StepRun | None
    """The miss to look at first."""
    in_a_row: int
    """Runs of the batch that missed since its last success."""


def needs_attention(limit: int = 6) -> list[Attention]:
    """Batches whose last word is a miss, the latest first."""
    since = timezone.now() - timedelta(days=ATTENTION_DAYS)
    missed = list(
        Run.objects.filter(
            status__in=[RunStatus.FAILED, RunStatus.PARTIALLY_SUCCEEDED], finished_at__gte=since
        ).order_by("-id")[:ATTENTION_RUNS]
    )
    if not missed:
        return []
    good = Run.objects.filter(status=RunStatus.SUCCEEDED, pk__gt=missed[-1].pk)
    mended = dict(good.values_list("batch_slug").annotate(Max("pk")))
    standing = [run for run in missed if run.pk > mended.get(run.batch_slug, 0)]
    latest: dict[str, Run] = {}
    for run in standing:
        latest.setdefault(run.batch_slug, run)
    return [
        Attention(
            run, first_miss(run), sum(other.batch_slug == run.batch_slug for other in standing)
        )
        for run in list(latest.values())[:limit]
    ]


@dataclass(frozen=True, slots=True)
class History:
    """The last runs of a batch, the latest first, and what they usually take."""

    runs: Sequence[Run]
    usual_seconds: float | None
    """Median of the last ones that succeeded; None below three."""


def histories(batch_ids: Iterable[int]) -> dict[int, History]:
    """The history of each batch; one indexed query for each."""
    return {pk: history(Run.objects.filter(batch_id=pk)) for pk in batch_ids}


def history(runs: QuerySet[Run]) -> History:
    last = list(runs.order_by("-id")[:HISTORY_RUNS])
    seconds = [
        (run.finished_at - run.started_at).total_seconds()
        for run in last
        if run.status == RunStatus.SUCCEEDED and run.started_at and run.finished_at
    ]
    usual = statistics.median(seconds) if len(seconds) >= USUAL_MINIMUM else None
    return History(last, usual)
