"""The pages. Each finds what it shows, or asks for one use case, and answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_not_required, permission_required
from django.core.exceptions import PermissionDenied
from django.core.paginator import Page, Paginator
from django.db.models import Count, OuterRef, Q, QuerySet, Subquery
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.templatetags.static import static
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_GET, require_http_methods

from steps.models import Batch, BatchStep, RuleSet, Step
from steps.selection import SelectionError

from . import actions, overview, plan_changes, presentation, queries
from .engine.plan import FailurePolicy, Lane, Plan, PlannedStep
from .engine.status import StepStatus
from .forecast import StepForecast, forecast
from .forms import (
    STATUS_CHOICES,
    CancelForm,
    CancelStepForm,
    RunFilterForm,
    StepFilterForm,
    TriggerForm,
)
from .models import CancelMode, Run, RunInput, StepRun
from .permissions import CANCEL_RUN, TRIGGER_RUN, VIEW_RUN

FIRST_ROWS = 50
"""Steps that the run page holds before scripts take over."""
RAIL_LIMIT = 60
"""Critical steps that the run page draws without scripts."""
LOG_TAIL = 64 * 1024
"""Bytes of output that the run page shows without scripts."""
PLANNED_STEPS = 500
"""Steps of each lane that a plan lists; scripts list as many."""
RUNS_ON_PAGE = 50
STEPS_ON_PAGE = 100
RECENT_RUNS = 12
NOTE_TOO_LONG = "The note may have at most 500 characters; nothing was cancelled."

View = Callable[..., HttpResponse]


def may_view(view: View) -> View:
    """For people who may look at runs; their pages are never kept by a cache."""
    allowed = permission_required(VIEW_RUN, raise_exception=True)
    return never_cache(allowed(view))


# ---- dashboard ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Card:
    """A run on the dashboard."""

    run: Run
    waiting: str
    rail: overview.Rail | None


@require_GET
@may_view
def dashboard(request: HttpRequest) -> HttpResponse:
    active = list(Run.objects.active().order_by("-status", "id")[: queries.TABLE_LIMIT])
    waiting = queries.waiting_sentences(active)
    cards = [Card(run, waiting.get(run.pk, ""), overview.rail(run)) for run in active[:12]]
    batches = list(Batch.objects.order_by("name")[:12])
    histories = overview.histories(batch.pk for batch in batches)
    return render(
        request,
        "executions/dashboard.html",
        {
            "cards": cards,
            "left_out": len(active) - len(cards),
            "workers": queries.workers(),
            "attention": overview.needs_attention(),
            "missing": Step.objects.missing().filter(entries__enabled=True).distinct().count(),
            "recent": Run.objects.final().order_by("-finished_at")[:RECENT_RUNS],
            "batches": [(batch, histories[batch.pk]) for batch in batches],
        },
    )


@require_GET
@may_view
def rails(request: HttpRequest) -> HttpResponse:
    """The small critical rails of the runs `?run=ID`, for the dashboard's scripts."""
    ids = [int(text) for text in request.GET.getlist("run")[:20] if text.isdecimal()]
    drawn = {run.pk: overview.rail(run) for run in Run.objects.filter(pk__in=ids)}
    return JsonResponse(
        {
            "rails": {
                pk: {
                    "before": rail.before,
                    "after": rail.after,
                    "done": rail.done,
                    "total": rail.total,
                    "nodes": [[node.name, node.status] for node in rail.nodes],
                }
                for pk, rail in drawn.items()
                if rail is not None
            }
        }
    )


# ---- batches ------------------------------------------------------------------------------------


@require_GET
@may_view
def batches(request: HttpRequest) -> HttpResponse:
    entries = Count("entries", filter=Q(entries__enabled=True))
    page = _page(request, Batch.objects.annotate(entry_count=entries).order_by("name"), 50)
    histories = overview.histories(batch.pk for batch in page)
    rows = [(batch, histories[batch.pk]) for batch in page]
    return render(request, "executions/batches.html", {"page": page, "rows": rows})


@dataclass(kw_only=True)
class Trigger:
    """What the page of a batch shows beside its form."""

    plan: Plan | None = None
    problems: list[str] = field(default_factory=list)
    """Why there is no plan."""
    changed: bool = False
    """The plan is not the one that was shown before; nothing was started."""
    changes: list[plan_changes.Change] = field(default_factory=list)


@require_http_methods(["GET", "HEAD", "POST"])
@may_view
def batch(request: HttpRequest, slug: str) -> HttpResponse:
    found = get_object_or_404(Batch, slug=slug)
    entries = _entries(found)
    names = [entry.name for entry in entries if entry.is_on]
    if request.method == "POST":
        if not request.user.has_perm(TRIGGER_RUN):
            raise PermissionDenied
        form = TriggerForm(request.POST, batch=found, names=names)
        answer = _start_or_preview(request, found, form)
        if isinstance(answer, HttpResponseRedirect):
            return answer
    else:
        like = _earlier_plan(request, found)
        form = TriggerForm(batch=found, names=names, like=like)
        answer = _preview_initial(found, form, like)
    return render(
        request,
        "executions/batch.html",
        {
            "batch": found,
            "entries": entries,
            "form": form,
            "chosen": form.chosen,
            "trigger": answer,
            "plan_hash": answer.plan.hash if answer.plan else "",
            "lanes": _planned_lanes(answer.plan),
            "warnings": queries.plan_warnings(found, answer.plan) if answer.plan else [],
            "seen": plan_changes.remember(answer.plan) if answer.plan else "",
            "history": overview.history(Run.objects.filter(batch=found)),
            "can_trigger": request.user.has_perm(TRIGGER_RUN),
        },
        status=409 if answer.changed else 200,
    )


@dataclass(frozen=True, slots=True)
class Entry:
    """An entry of a batch. There may be thousands, so it is no model."""

    name: str
    step_name: str
    kind: str
    category: str
    is_missing: bool
    is_on: bool


def _entries(batch: Batch) -> list[Entry]:
    columns = ("step__name", "step__kind", "step__category", "step__missing", "enabled", "name")
    rows = batch.entries.order_by("position", "id").values_list(*columns)
    return [Entry(name or step, step, *rest) for step, *rest, name in rows]


@dataclass(frozen=True, slots=True)
class PlannedLane:
    """As much of a lane as the page lists."""

    total: int
    steps: list[PlannedStep]

    @property
    def unlisted(self) -> int:
        return self.total - len(self.steps)


def _planned_lanes(plan: Plan | None) -> dict[str, PlannedLane]:
    critical, pool = ([], []) if plan is None else (plan.critical, plan.pool)
    lanes = {Lane.CRITICAL.value: critical, Lane.POOL.value: pool}
    return {name: PlannedLane(len(steps), steps[:PLANNED_STEPS]) for name, steps in lanes.items()}


def _start_or_preview(
    request: HttpRequest, batch: Batch, form: TriggerForm
) -> Trigger | HttpResponseRedirect:
    if not form.is_valid():
        return Trigger(problems=["The form holds something that cannot be run; see below."])
    asked: dict[str, Any] = {
        "context": form.cleaned_data["context"],
        "names": form.selection,
        "options": form.options,
    }
    shown_hash = form.cleaned_data["plan_hash"]
    try:
        # Nobody starts what they have not seen.
        if request.POST.get("action") != "start" or not shown_hash:
            return Trigger(plan=actions.preview(batch, **asked))
        actor = _actor(request)
        run = actions.start_run(batch, actor=actor, expected_hash=shown_hash, **asked)
    except SelectionError as error:
        return Trigger(problems=error.problems)
    except actions.PlanChangedError as error:
        seen = plan_changes.recall(form.cleaned_data["seen"])
        differences = [] if seen is None else plan_changes.changes(seen, error.plan)
        return Trigger(plan=error.plan, changed=True, changes=differences)
    return redirect(run)


def _preview_initial(batch: Batch, form: TriggerForm, like: Plan | None) -> Trigger:
    steps = form.initial["steps"]
    names = steps if steps and len(steps) < len(form.names) else None
    context, options = (None, None) if like is None else (like.context, like.options)
    try:
        plan = actions.preview(batch, names=names, context=context, options=options)
    except SelectionError as error:
        return Trigger(problems=error.problems)
    return Trigger(plan=plan)


def _earlier_plan(request: HttpRequest, batch: Batch) -> Plan | None:
    """The plan of `?like=ID`, an earlier run of the batch."""
    number = request.GET.get("like", "")
    if not number.isdecimal() or len(number) > 18:
        return None
    found = RunInput.objects.filter(run_id=int(number), run__batch=batch).first()
    return None if found is None else found.load_plan()


# ---- runs ---------------------------------------------------------------------------------------


@require_GET
@may_view
def runs(request: HttpRequest) -> HttpResponse:
    form = RunFilterForm(request.GET)
    page = _page(request, form.narrow(Run.objects.order_by("-id")), RUNS_ON_PAGE)
    slugs = Batch.objects.order_by("slug").values_list("slug", flat=True)[:200]
    context = {"page": page, "form": form, "slugs": slugs, "statuses": STATUS_CHOICES}
    return render(request, "executions/runs.html", context)


@dataclass(frozen=True, slots=True)
class Row:
    """A step of a run, ready to be shown."""

    step: StepRun
    status: str
    line: str
    can_cancel: bool


@require_GET
@may_view
def run(request: HttpRequest, pk: int) -> HttpResponse:
    found = get_object_or_404(Run, pk=pk)
    waits = queries.waiting_sentences([found]).get(found.pk, "")
    around = overview.surroundings(found, waits)
    can_cancel = request.user.has_perm(CANCEL_RUN)
    critical = StepRun.objects.filter(run_id=pk, lane=Lane.CRITICAL).order_by("position")
    chosen = _chosen_step(request, found)
    receipt = presentation.receipt(chosen, found) if chosen else None
    return render(
        request,
        "executions/run.html",
        {
            "run": found,
            "stands": presentation.stopping_in_words(found) or waits,
            "waits": waits,
            "legend": _legend(found),
            "rows": [
                _row(step, around, can_cancel) for step in overview.by_attention(found)[:FIRST_ROWS]
            ],
            "critical": [
                (step, presentation.step_shown(step, found))
                for step in critical.defer("result", "receipt", "message")[:RAIL_LIMIT]
            ],
            "critical_total": critical.count(),
            "has_pool": StepRun.objects.filter(run_id=pk, lane=Lane.POOL).exists(),
            "slots": _slots(found),
            "busy": around.busy,
            "first_miss": overview.first_miss(found),
            "misses": sum(getattr(found, status) for status in presentation.MISSED),
            "chosen": _row(chosen, around, can_cancel) if chosen else None,
            "receipt": receipt,
            "message": presentation.message_beside(receipt, chosen) if chosen else "",
            "log": _log_tail(chosen) if chosen else "",
            "can_cancel": can_cancel,
            "can_trigger": request.user.has_perm(TRIGGER_RUN),
            "stopping": presentation.stops_running_steps(found),
        },
    )


def _row(step: StepRun, around: presentation.Surroundings, can_cancel: bool) -> Row:
    status = presentation.step_shown(step, around.run)
    may = can_cancel and _may_be_cancelled(step, around.run, status)
    return Row(step, status, presentation.line_of(step, around), may)


def _may_be_cancelled(step: StepRun, run: Run, shown: str) -> bool:
    stoppable = shown == StepStatus.PENDING or (shown == StepStatus.RUNNING and not step.protected)
    return stoppable and not run.is_final


def _chosen_step(request: HttpRequest, run: Run) -> StepRun | None:
    number = request.GET.get("step", "")
    if not number.isdecimal() or len(number) > 18:
        return None
    return StepRun.objects.filter(run=run, pk=int(number)).first()


def _log_tail(step: StepRun) -> str:
    return queries.read_log(step.pk, limit=LOG_TAIL, tail=True).data.decode("utf-8", "replace")


def _legend(run: Run) -> list[tuple[str, int]]:
    numbers = presentation.counts(run)
    return [(s, numbers[s]) for s in presentation.SEGMENTS if numbers.get(s)]


@dataclass(frozen=True, slots=True)
class Slot:
    """A place in the pool; `step` holds it, if anything does."""

    number: int
    step: StepRun | None
    status: str


def _slots(run: Run) -> list[Slot]:
    held = {step.slot: step for step in overview.occupied(run)} if not run.is_final else {}
    slots = []
    for number in range(1, run.pool_width + 1):
        step = held.get(number)
        status = "" if step is None else presentation.step_shown(step, run)
        if step is not None and step.abandoned_at is not None:
            status = presentation.CANCELLING
        slots.append(Slot(number, step, status))
    return slots


# ---- cancelling ---------------------------------------------------------------------------------


def may_cancel(view: View) -> View:
    return may_view(permission_required(CANCEL_RUN, raise_exception=True)(view))


@require_http_methods(["GET", "HEAD", "POST"])
@may_cancel
def cancel_run(request: HttpRequest, pk: int) -> HttpResponse:
    """The dialog of the run page, as a page of its own."""
    found = get_object_or_404(Run, pk=pk)
    if request.method != "POST":
        return _ask_about_run(request, found)
    form = CancelForm(request.POST)
    if not form.is_valid():
        messages.error(request, NOTE_TOO_LONG)
        return redirect("cancel-run", pk=pk)
    result = actions.cancel_run(pk, actor=_actor(request), **form.cleaned_data)
    if result == "already_final":
        messages.info(request, "The run had already ended.")
    return redirect(found)


def _ask_about_run(request: HttpRequest, run: Run) -> HttpResponse:
    running = StepRun.objects.filter(run=run, status=StepStatus.RUNNING, protected=False)
    critical = StepRun.objects.filter(run=run, lane=Lane.CRITICAL)
    return render(
        request,
        "executions/cancel_run.html",
        {
            "run": run,
            "consequences": _consequences(forecast(run)),
            "halfway": running.filter(lane=Lane.CRITICAL).only("name").first(),
            "critical_left": critical.filter(status=StepStatus.PENDING).count(),
            "drains": run.cancel_mode == CancelMode.DRAIN,
        },
    )


def _consequences(steps: Iterable[StepForecast]) -> list[presentation.Consequence]:
    fates = ((step["name"], step["text"], step["processes"]) for step in steps)
    return presentation.consequences(fates)


@require_http_methods(["GET", "HEAD", "POST"])
@may_cancel
def cancel_step(request: HttpRequest, pk: int) -> HttpResponse:
    """The dialog about one step, as a page of its own."""
    step = get_object_or_404(StepRun.objects.select_related("run"), pk=pk)
    if request.method != "POST":
        return _ask_about_step(request, step)
    form = CancelStepForm(request.POST)
    if not form.is_valid():
        messages.error(request, NOTE_TOO_LONG)
        return redirect("cancel-step", pk=pk)
    try:
        result = actions.cancel_step(pk, actor=_actor(request), **form.cleaned_data)
    except actions.ProtectedError as error:
        messages.warning(request, str(error))
    else:
        if result == "already_final":
            messages.info(request, f"“{step.name}” had already ended.")
    return redirect(_address(step))


def _ask_about_step(request: HttpRequest, step: StepRun) -> HttpResponse:
    run = step.run
    shown = presentation.step_shown(step, run)
    later = StepRun.objects.filter(
        run=run, lane=Lane.CRITICAL, status=StepStatus.PENDING, position__gt=step.position
    )
    skips_rest = step.lane == Lane.CRITICAL and run.failure_policy != FailurePolicy.CONTINUE
    return render(
        request,
        "executions/cancel_step.html",
        {
            "step": step,
            "run": run,
            "back": _address(step),
            "offered": _may_be_cancelled(step, run, shown),
            "consequences": _consequences(
                item for item in forecast(run) if item["position"] == step.position
            ),
            "halfway": step.lane == Lane.CRITICAL and step.status == StepStatus.RUNNING,
            "skipped": later.count() if skips_rest else 0,
            "stops_run": skips_rest and run.failure_policy == FailurePolicy.STOP_RUN,
        },
    )


def _address(step: StepRun) -> str:
    return f"{step.run.get_absolute_url()}?step={step.pk}"


@require_http_methods(["GET", "HEAD", "POST"])
@may_cancel
def cancel_all(request: HttpRequest) -> HttpResponse:
    """The dialog of the dashboard, as a page of its own."""
    if request.method != "POST":
        active = Run.objects.active().order_by("-status", "id")
        total = active.count()
        shown = list(active[: queries.TABLE_LIMIT])
        context = {
            "active": [(run, presentation.activity(run)) for run in shown],
            "total": total,
            "left_out": total - len(shown),
        }
        return render(request, "executions/cancel_all.html", context)
    form = CancelForm(request.POST)
    if not form.is_valid():
        messages.error(request, NOTE_TOO_LONG)
        return redirect("cancel-all")
    reached = actions.cancel_all(actor=_actor(request), **form.cleaned_data)
    messages.info(request, presentation.cancelled_in_words(len(reached)))
    return redirect("dashboard")


def _actor(request: HttpRequest) -> actions.Actor:
    return actions.Actor.of(request.user)  # type: ignore[arg-type]


# ---- steps --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StepRow:
    step: Step
    used_in: list[dict[str, Any]]
    """Slug, name and number of entries of each batch that has it."""
    critical: bool
    because: str


@require_GET
@may_view
def steps(request: HttpRequest) -> HttpResponse:
    form = StepFilterForm(request.GET)
    page = _page(request, _narrow_steps(form), STEPS_ON_PAGE)
    uses: dict[int, list[dict[str, Any]]] = {}
    entries = BatchStep.objects.filter(step__in=[step.pk for step in page])
    for use in entries.values("step_id", "batch__slug", "batch__name").annotate(number=Count("pk")):
        uses.setdefault(use["step_id"], []).append(dict(use))
    judge = RuleSet.current().classifier.within({})
    rows = []
    for step in page:
        verdict = judge(step.name, step.category)
        rows.append(StepRow(step, uses.get(step.pk, []), verdict.critical, verdict.because))
    all_steps = Step.objects.order_by()
    return render(
        request,
        "executions/steps.html",
        {
            "page": page,
            "rows": rows,
            "form": form,
            "kinds": all_steps.values_list("kind", flat=True).distinct().order_by("kind"),
            "categories": all_steps.exclude(category="")
            .values_list("category", flat=True)
            .distinct()
            .order_by("category"),
            "missing": Step.objects.missing().count(),
        },
    )


def _narrow_steps(form: StepFilterForm) -> QuerySet[Step]:
    form.is_valid()
    data = form.cleaned_data
    last = StepRun.objects.filter(step=OuterRef("pk")).order_by("-pk")
    found = Step.objects.order_by("name").annotate(
        last_status=Subquery(last.values("status")[:1]), last_run=Subquery(last.values("run")[:1])
    )
    if text := data.get("q"):
        found = found.filter(Q(name__icontains=text) | Q(description__icontains=text))
    for name in ("kind", "category"):
        if data.get(name):
            found = found.filter(**{name: data[name]})
    return found.filter(missing=True) if data.get("missing") else found


# ---- the rest -----------------------------------------------------------------------------------


@login_not_required
@require_GET
def favicon(request: HttpRequest) -> HttpResponse:
    """For whoever asks without reading the page, as browsers do for JSON."""
    return redirect(static("stepsite/icons/favicon-idle.svg"), permanent=True)


def _page(request: HttpRequest, found: QuerySet[Any], size: int) -> Page[Any]:
    return Paginator(found, size).get_page(request.GET.get("page"))
