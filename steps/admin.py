"""The admin: where people define steps, batches and rules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db import transaction
from django.db.models import Count, QuerySet
from django.http import HttpRequest, HttpResponse
from django.urls import reverse
from django.utils.html import format_html, format_html_join

from .forms import (
    BatchForm,
    EntryForm,
    EntryFormSet,
    LoneEntryForm,
    RuleForm,
    StepForm,
    target_fields,
)
from .kinds import KINDS
from .models import Batch, BatchStep, ClassificationRule, RuleSet, Step
from .ordering import put, renumber, shift
from .permissions import may_define
from .registry import registry
from .sync import clash_sentence, clashes
from .values import pretty

ENTRIES_INLINE = 100
"""Up to so many entries are edited on the page of their batch."""

_RUNNING = (
    "parameters",
    "timeout_seconds",
    "grace_seconds",
    "retry_safe",
    "attempts",
    "backoff_seconds",
    "protected",
)


def _kind_fieldsets() -> list[tuple[str, dict[str, Any]]]:
    """One per kind; step_form.js shows that of the chosen one."""
    own = [
        (KINDS[name].label, {"fields": fields, "classes": [f"kind-{name}"]})
        for name in ("command", "http", "management")
        if (fields := list(target_fields(name).values()))
    ]
    return [*own, ("Target", {"fields": ["target"], "classes": ["kind-other"]})]


@admin.register(Step)
class StepAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = StepForm
    list_display = (
        "name",
        "kind_label",
        "category",
        "origin",
        "is_there",
        "timeout_seconds",
        "retry_safe",
        "protected",
    )
    list_filter = ("kind", "category", "from_code", "missing", "retry_safe", "protected")
    search_fields = ("name", "description", "category")
    search_help_text = "Name, description or category"
    list_per_page = 100

    class Media:
        js = ("admin/steps/step_form.js",)

    @admin.display(description="kind", ordering="kind")
    def kind_label(self, step: Step) -> str:
        return step.kind_label

    @admin.display(description="defined", ordering="from_code")
    def origin(self, step: Step) -> str:
        return f"in code: {step.module}" if step.from_code else "here"

    @admin.display(description="there", boolean=True, ordering="missing")
    def is_there(self, step: Step) -> bool:
        """Off for a Python step without its function."""
        return not step.missing

    @admin.display(description="function")
    def function(self, step: Step) -> str:
        if not step.missing:
            return f"{step.name} in {step.module}"
        reason = registry.failures.get(step.module)
        detail = f" {step.module} could not be imported: {reason}" if reason else ""
        return f"Missing: no function is registered under this name.{detail}"

    @admin.display(description="runs in")
    def isolation(self, step: Step) -> str:
        return "a process of its own" if step.is_isolated else "a thread of the worker"

    @admin.display(description="target")
    def target_text(self, step: Step) -> str:
        return format_html("<pre>{}</pre>", pretty(step.target))

    @admin.display(description="parameters")
    def parameters_text(self, step: Step) -> str:
        return format_html("<pre>{}</pre>", pretty(step.parameters))

    @admin.display(description="batches")
    def used_in(self, step: Step) -> str:
        batches = Batch.objects.filter(entries__step=step).distinct()
        links = (
            (reverse("admin:steps_batch_change", args=[batch.pk]), batch.name) for batch in batches
        )
        return format_html_join(", ", '<a href="{}">{}</a>', links) or "none"

    def get_fieldsets(self, request: HttpRequest, obj: Step | None = None) -> Any:
        main: tuple[str, ...] = ("name", "kind", "category", "description")
        if obj is not None and not self.has_change_permission(request, obj):
            return self._shown_fieldsets(obj, main)
        sets: list[Any] = [(None, {"fields": main}), *_kind_fieldsets()]
        sets.append(("Running it", {"fields": _RUNNING}))
        return [*sets, ("Use", {"fields": ("used_in",)})] if obj is not None else sets

    def _shown_fieldsets(self, step: Step, main: tuple[str, ...]) -> list[Any]:
        """For somebody who may only look: the values as text."""
        what = ("function", "isolation") if step.kind == "python" else ("target_text",)
        sets: list[Any] = [
            (None, {"fields": ("name", "kind_label", *main[2:])}),
            ("What it runs", {"fields": what}),
            ("Running it", {"fields": ("parameters_text", *_RUNNING[1:])}),
            ("Use", {"fields": ("used_in",)}),
        ]
        if step.from_code:
            sets[1][1]["description"] = (
                "This step comes from code, and all of it is changed there, not here."
            )
        return sets

    def get_readonly_fields(self, request: HttpRequest, obj: Step | None = None) -> tuple[str, ...]:
        return ("used_in",)

    def get_form(
        self, request: HttpRequest, obj: Step | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        if obj is not None and not self.has_change_permission(request, obj):
            # Everything is shown as text; the form's own fields have no place on that page.
            kwargs = {**kwargs, "form": forms.ModelForm, "fields": ()}
            return super().get_form(request, obj, change, **kwargs)
        form: Any = super().get_form(request, obj, change, **kwargs)
        return type(form)(form.__name__, (form,), {"user": request.user})

    def has_change_permission(self, request: HttpRequest, obj: Step | None = None) -> bool:
        if not super().has_change_permission(request, obj):
            return False
        return obj is None or (not obj.from_code and may_define(request.user, obj.kind))

    def has_delete_permission(self, request: HttpRequest, obj: Step | None = None) -> bool:
        if not super().has_delete_permission(request, obj):
            return False
        # A step whose function is there would come back at the next start.
        return obj is None or obj.missing or not obj.from_code

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        for module, reason in registry.failures.items():
            messages.warning(
                request, f"{module} could not be imported, so its steps are missing: {reason}"
            )
        for name in clashes():
            messages.warning(request, clash_sentence(name))
        return super().changelist_view(request, extra_context)


class EntryInline(admin.TabularInline):  # type: ignore[type-arg]
    model = BatchStep
    form = EntryForm
    formset = EntryFormSet
    fields = ("position", "step", "name", "enabled", "parameters", "timeout_seconds")
    autocomplete_fields = ("step",)
    ordering = ("position", "id")
    extra = 0

    def get_queryset(self, request: HttpRequest) -> QuerySet[BatchStep]:
        return super().get_queryset(request).select_related("step")

    def formfield_for_dbfield(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        field: Any = super().formfield_for_dbfield(db_field, request, **kwargs)
        if db_field.name == "step":
            # Four icons in each of 100 rows are more than anybody looks for.
            widget = field.widget
            widget.can_add_related = widget.can_change_related = widget.can_delete_related = False
        return field


@admin.register(Batch)
class BatchAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = BatchForm
    inlines = (EntryInline,)
    list_display = (
        "name",
        "slug",
        "entry_count",
        "pool_width",
        "failure_policy",
        "pool_start",
        "default_timeout_seconds",
        "max_active_runs",
    )
    list_filter = ("failure_policy", "pool_start", "entries__step__category")
    search_fields = ("name", "slug", "description", "entries__name", "entries__step__name")
    search_help_text = "Name, slug, description, or a step in it"
    prepopulated_fields: ClassVar[dict[str, Sequence[str]]] = {"slug": ("name",)}
    save_on_top = True
    fieldsets = (
        (None, {"fields": ("name", "slug", "description", "entries_elsewhere")}),
        (
            "Running it",
            {
                "fields": (
                    "failure_policy",
                    "pool_width",
                    "pool_start",
                    "default_timeout_seconds",
                    "max_active_runs",
                    "context",
                )
            },
        ),
    )
    readonly_fields = ("entries_elsewhere",)

    @admin.display(description="entries", ordering="count")
    def entry_count(self, batch: Batch) -> int:
        return int(getattr(batch, "count", 0))

    @admin.display(description="entries")
    def entries_elsewhere(self, batch: Batch) -> str:
        if batch.pk is None:
            return "Add them below."
        url = reverse("admin:steps_batchstep_changelist")
        return format_html('<a href="{}?batch__id__exact={}">As a list</a>', url, batch.pk)

    def get_queryset(self, request: HttpRequest) -> QuerySet[Batch]:
        batches: QuerySet[Batch] = super().get_queryset(request)
        return batches.annotate(count=Count("entries", distinct=True))

    def get_inlines(self, request: HttpRequest, obj: Batch | None) -> Any:
        large = obj is not None and obj.entries.count() > ENTRIES_INLINE
        return () if large else self.inlines


@admin.register(BatchStep)
class EntryAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """Entries one by one: the way to edit batches that are too long for one page."""

    form = LoneEntryForm
    list_display = ("effective_name", "batch", "position", "step", "enabled", "timeout_seconds")
    list_editable = ("position", "enabled")
    list_filter = ("batch", "enabled", "step__category")
    list_select_related = ("batch", "step")
    search_fields = ("name", "step__name")
    autocomplete_fields = ("batch", "step")
    ordering = ("batch", "position", "id")

    def save_model(self, request: HttpRequest, obj: BatchStep, form: Any, change: bool) -> None:
        if obj.position is None:
            obj.position = obj.batch.entries.count() + 1
        super().save_model(request, obj, form, change)
        if not change or {"position", "batch"} & set(form.changed_data):
            put(obj, obj.batch.entries.all(), obj.position)


@admin.register(ClassificationRule)
class RuleAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    form = RuleForm
    list_display = ("place", "name", "sentence", "position", "enabled")
    list_display_links = ("name",)
    list_editable = ("position", "enabled")
    list_filter = ("enabled", "critical", "condition")
    search_fields = ("name", "operand")
    search_help_text = "Name or operand"
    list_per_page = 500
    sortable_by = ()
    actions = ("move_up", "move_down")

    class Media:
        js = ("admin/steps/rule_form.js",)

    fieldsets = (
        (None, {"fields": ("name", "position", "enabled")}),
        (
            "Rule",
            {
                "fields": ("condition", "operand", "value", "critical"),
                "description": (
                    "Rules are asked in order, and the first that matches decides. If none does, "
                    "the step is not critical. Patterns are RE2: they may match anywhere in the "
                    "name, and know no look-ahead, look-behind or backreferences."
                ),
            },
        ),
    )

    @admin.display(description="rule", empty_value="off")
    def place(self, rule: ClassificationRule) -> int | None:
        """The number that reasons name: among the rules that are on."""
        return getattr(rule, "place", None) if rule.enabled else None

    def get_queryset(self, request: HttpRequest) -> QuerySet[ClassificationRule]:
        rules = super().get_queryset(request)
        return rules.with_place()  # type: ignore[attr-defined,no-any-return]

    def get_changeform_initial_data(self, request: HttpRequest) -> dict[str, Any]:
        return {
            "position": ClassificationRule.objects.count() + 1,
            **super().get_changeform_initial_data(request),
        }

    def save_model(
        self, request: HttpRequest, obj: ClassificationRule, form: Any, change: bool
    ) -> None:
        super().save_model(request, obj, form, change)
        if not change or "position" in form.changed_data:
            put(obj, ClassificationRule.objects.all(), obj.position)

    @admin.action(description="Move up", permissions=["change"])
    def move_up(self, request: HttpRequest, chosen: QuerySet[ClassificationRule]) -> None:
        self._move(request, chosen, -1)

    @admin.action(description="Move down", permissions=["change"])
    def move_down(self, request: HttpRequest, chosen: QuerySet[ClassificationRule]) -> None:
        self._move(request, chosen, 1)

    def _move(self, request: HttpRequest, chosen: QuerySet[ClassificationRule], by: int) -> None:
        with transaction.atomic():
            order = list(ClassificationRule.objects.select_for_update())
            wanted = set(chosen.values_list("pk", flat=True))
            moved = shift(order, [rule.pk in wanted for rule in order], by)
            renumber(order)
            for rule in moved:
                self.log_change(request, rule, f"Moved {'up' if by < 0 else 'down'}.")
        if not moved:
            self.message_user(request, "They cannot move further.", messages.WARNING)


@admin.register(RuleSet)
class RuleSetAdmin(admin.ModelAdmin):  # type: ignore[type-arg]
    """What judged earlier runs; only to look at."""

    list_display = ("__str__", "created_at")
    fields = ("hash", "created_at", "rule_list")
    readonly_fields = fields

    @admin.display(description="rules")
    def rule_list(self, ruleset: RuleSet) -> str:
        rows = (
            (spec.position, spec.name, f"{spec.verdict} if {spec.phrase}")
            for spec in ruleset.specs()
        )
        return format_html_join("", "<div>{}. {}: {}</div>", rows) or "none"

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: RuleSet | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: RuleSet | None = None) -> bool:
        return False
