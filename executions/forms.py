"""What people may fill in: the trigger of a run, the note of a cancel, the filters of lists."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from django import forms
from django.db.models import Q, QuerySet

from steps import validators, values
from steps.models import Batch

from . import actions
from .engine.plan import FailurePolicy, Plan, PoolStart, RunOptions
from .engine.status import ACTIVE_RUN_STATUSES, RunStatus
from .models import CancelMode, Run
from .presentation import WORDS
from .run_options import ContextError, read_context

POLICY_CHOICES = [
    (FailurePolicy.STOP_CRITICAL.value, "skip the rest of the critical lane"),
    (FailurePolicy.STOP_RUN.value, "start nothing new"),
    (FailurePolicy.CONTINUE.value, "go on: every step gets its turn"),
]
POOL_START_CHOICES = [
    (PoolStart.AFTER_CRITICAL.value, "after the critical lane"),
    (PoolStart.BESIDE_CRITICAL.value, "beside the critical lane"),
]
ACTIVE = "active"
MISSED = "missed"
MISSED_STATUSES = (RunStatus.FAILED, RunStatus.PARTIALLY_SUCCEEDED)
STATUS_CHOICES = [
    ("", "Any status"),
    (ACTIVE, "Active"),
    (MISSED, "Missed something"),
    *((status.value, WORDS[status]) for status in RunStatus),
]


class TriggerForm(forms.Form):
    """Entries, context and options of a run, and the plan that was shown for them."""

    steps = forms.Field(widget=forms.MultipleHiddenInput, required=False)
    context = forms.CharField(required=False)
    pool_width = forms.IntegerField(
        min_value=values.POOL_WIDTHS[0], max_value=values.POOL_WIDTHS[1]
    )
    failure_policy = forms.ChoiceField(choices=POLICY_CHOICES)
    pool_start = forms.ChoiceField(choices=POOL_START_CHOICES)
    default_timeout_seconds = forms.FloatField(
        required=False, validators=[validators.validate_seconds]
    )
    plan_hash = forms.CharField(required=False)
    seen = forms.CharField(required=False)

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        *,
        batch: Batch,
        names: Sequence[str],
        like: Plan | None = None,
    ) -> None:
        """`names` are the entries that are on; `like` is an earlier plan to begin with."""
        self.batch = batch
        self.names = names
        initial = initial_values(batch, names, like)
        super().__init__(data, initial=initial)
        for name, field in self.fields.items():
            if self.is_bound and self.errors.get(name):
                field.widget.attrs["aria-invalid"] = "true"

    def clean_context(self) -> dict[str, Any]:
        try:
            return read_context(self.cleaned_data["context"].strip() or "{}")
        except ContextError as error:
            raise forms.ValidationError(str(error)) from None

    def clean_steps(self) -> list[str]:
        return list(self.cleaned_data["steps"] or [])

    @property
    def chosen(self) -> set[str]:
        """Names of the entries whose boxes are ticked."""
        return set(self["steps"].value() or [])

    @property
    def selection(self) -> list[str] | None:
        """The names for `actions`: None stands for every entry that is on."""
        steps: list[str] = self.cleaned_data["steps"]
        return None if steps and set(steps) == set(self.names) else steps

    @property
    def options(self) -> RunOptions:
        data = self.cleaned_data
        return RunOptions(
            pool_width=data["pool_width"],
            failure_policy=FailurePolicy(data["failure_policy"]),
            pool_start=PoolStart(data["pool_start"]),
            default_timeout_seconds=data["default_timeout_seconds"],
        )


def initial_values(batch: Batch, names: Sequence[str], like: Plan | None) -> dict[str, Any]:
    """What the form shows at first: the batch's own values, or those of an earlier run."""
    options = actions.default_options(batch) if like is None else like.options
    context = batch.context if like is None else like.context
    chosen = set(names)
    if like is not None:
        chosen &= {step.name for step in like.steps}
    return {
        "steps": [name for name in names if name in chosen],
        "context": json.dumps(context, indent=2, ensure_ascii=False),
        "pool_width": options.pool_width,
        "failure_policy": options.failure_policy.value,
        "pool_start": options.pool_start.value,
        "default_timeout_seconds": _plain_number(options.default_timeout_seconds),
    }


def _plain_number(number: float | None) -> str | None:
    """`20` for 20.0, as people would type it."""
    return None if number is None else f"{number:.12g}"


class CancelStepForm(forms.Form):
    """Why a step is cancelled."""

    note = forms.CharField(max_length=500, required=False)


class CancelForm(CancelStepForm):
    """How far a cancel of runs goes, and why."""

    mode = forms.ChoiceField(choices=CancelMode.choices, required=False)

    def clean_mode(self) -> str:
        return self.cleaned_data["mode"] or CancelMode.STOP.value


class RunFilterForm(forms.Form):
    """The filters of the list of runs; they live in the address."""

    status = forms.ChoiceField(choices=STATUS_CHOICES, required=False)
    batch = forms.CharField(max_length=values.NAME_LENGTH, required=False)
    who = forms.CharField(max_length=150, required=False)
    q = forms.CharField(max_length=values.NAME_LENGTH, required=False)

    def narrow(self, runs: QuerySet[Run]) -> QuerySet[Run]:
        """`runs` without those that the filters leave out; a filter that makes no sense is none."""
        self.is_valid()
        data = self.cleaned_data
        if status := data.get("status"):
            runs = runs.filter(status__in=statuses(status))
        if batch := data.get("batch"):
            runs = runs.filter(batch_slug=batch)
        if who := data.get("who"):
            runs = runs.filter(triggered_by__icontains=who)
        if text := data.get("q"):
            runs = runs.filter(_matching(text))
        return runs

    @property
    def is_empty(self) -> bool:
        self.is_valid()
        return not any(self.cleaned_data.values())


def statuses(choice: str) -> list[str]:
    """The stored statuses behind a choice of the filter."""
    groups = {ACTIVE: ACTIVE_RUN_STATUSES, MISSED: MISSED_STATUSES}
    return sorted(groups.get(choice, [choice]))


def _matching(text: str) -> Q:
    found = Q(batch_slug__icontains=text) | Q(batch_name__icontains=text)
    number = text.removeprefix("#")
    # Longer numbers are no ids, and some databases refuse to compare with them.
    if number.isascii() and number.isdigit() and len(number) < 19:
        found |= Q(pk=int(number))
    return found


class StepFilterForm(forms.Form):
    """The filters of the list of steps; they live in the address."""

    q = forms.CharField(max_length=values.NAME_LENGTH, required=False)
    kind = forms.CharField(max_length=20, required=False)
    category = forms.CharField(max_length=values.CATEGORY_LENGTH, required=False)
    missing = forms.BooleanField(required=False)
