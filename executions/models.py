"""What happened and what is happening: fields, constraints and named queries. No workflow.

Statuses, sequences and counters are written by `transitions.py` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, ClassVar

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.urls import reverse
from django.utils import timezone

from .engine.plan import FailurePolicy, Lane, Plan, PoolStart
from .engine.status import (
    ACTIVE_RUN_STATUSES,
    ACTIVE_STEP_STATUSES,
    FINAL_RUN_STATUSES,
    RunStatus,
    StepStatus,
)


def _choices(enum: Any) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ")) for member in enum]


def _values(statuses: Iterable[StrEnum]) -> list[str]:
    """Plain text, so that migrations do not depend on the enums."""
    return sorted(status.value for status in statuses)


NAME_LENGTH = 200
REASON_LENGTH = 40


class CancelMode(models.TextChoices):
    """How far a cancel goes; it only ever rises."""

    DRAIN = "drain", "let running steps finish, start nothing new"
    STOP = "stop", "stop now"


class CancelFacts(models.Model):
    """Who asked first, when and why. A request is a fact; whether it was met is the status."""

    cancel_requested_at = models.DateTimeField(null=True, blank=True)
    cancel_requested_by = models.CharField(max_length=150, blank=True)
    cancel_note = models.CharField(max_length=500, blank=True)

    class Meta:
        abstract = True


class RunQuerySet(models.QuerySet["Run"]):
    def active(self) -> RunQuerySet:
        return self.filter(status__in=ACTIVE_RUN_STATUSES)

    def final(self) -> RunQuerySet:
        return self.filter(status__in=FINAL_RUN_STATUSES)

    def running(self) -> RunQuerySet:
        return self.filter(status=RunStatus.RUNNING)

    def queued(self) -> RunQuerySet:
        return self.filter(status=RunStatus.QUEUED)


class Run(CancelFacts):
    """One execution of a plan. The row is narrow: it is written with every change of the run."""

    batch = models.ForeignKey("steps.Batch", models.SET_NULL, null=True, related_name="runs")
    batch_slug = models.CharField(max_length=NAME_LENGTH)
    batch_name = models.CharField(max_length=NAME_LENGTH)
    ruleset = models.ForeignKey("steps.RuleSet", models.PROTECT, related_name="runs")
    status = models.CharField(
        max_length=20, choices=_choices(RunStatus), default=RunStatus.QUEUED.value
    )
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    sequence = models.PositiveBigIntegerField(default=1)
    """Number of the last change of this run; every change stamps it on the rows it touched."""
    epoch = models.PositiveIntegerField(default=0)
    """Fencing number: whoever writes for the engine names the epoch it claimed."""
    beat = models.PositiveBigIntegerField(default=0)
    """Raised by the holder while it lives; not a change."""
    holder = models.CharField(max_length=200, blank=True)
    """The process that runs it (see identity.py)."""
    barren_claims = models.PositiveSmallIntegerField(default=0)
    """Claims since the last START. Three of them: the worker keeps dying."""

    pool_width = models.PositiveSmallIntegerField()
    pool_start = models.CharField(max_length=20, choices=_choices(PoolStart))
    failure_policy = models.CharField(max_length=20, choices=_choices(FailurePolicy))

    total = models.PositiveIntegerField()
    pending = models.PositiveIntegerField(default=0)
    running = models.PositiveIntegerField(default=0)
    succeeded = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    timed_out = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    interrupted = models.PositiveIntegerField(default=0)
    skipped = models.PositiveIntegerField(default=0)

    cancel_mode = models.CharField(max_length=5, choices=CancelMode.choices, blank=True)
    triggered_by = models.CharField(max_length=150, blank=True)
    queued_at = models.DateTimeField(default=timezone.now)
    hinted_at = models.DateTimeField(null=True, blank=True)
    """When the queue was last told that this run waits."""
    started_at = models.DateTimeField(null=True, blank=True)
    finished_at = models.DateTimeField(null=True, blank=True)

    objects = RunQuerySet.as_manager()

    COUNTERS: ClassVar[tuple[str, ...]] = tuple(status.value for status in StepStatus)
    """The fields that count step runs, one for each status."""

    class Meta:
        ordering = ["-id"]
        permissions = [
            ("trigger_run", "Can trigger runs"),
            ("cancel_run", "Can cancel runs and steps"),
        ]
        indexes = [
            models.Index(fields=["batch", "-id"], name="run_by_batch"),
            # Not a partial one: SQLite would not use it for conditions with parameters.
            models.Index(fields=["status", "id"], name="run_by_status"),
            models.Index(fields=["finished_at"], name="run_by_end"),
        ]
        constraints = [
            models.CheckConstraint(
                name="run_status_known", condition=Q(status__in=_values(RunStatus))
            ),
            models.CheckConstraint(
                name="run_counters_sum",
                condition=Q(
                    total=F("pending")
                    + F("running")
                    + F("succeeded")
                    + F("failed")
                    + F("timed_out")
                    + F("cancelled")
                    + F("interrupted")
                    + F("skipped")
                ),
            ),
            models.CheckConstraint(
                name="run_finished_when_final",
                condition=Q(status__in=_values(FINAL_RUN_STATUSES), finished_at__isnull=False)
                | Q(status__in=_values(ACTIVE_RUN_STATUSES), finished_at__isnull=True),
            ),
            models.CheckConstraint(
                name="run_held_while_running",
                condition=~Q(status=RunStatus.RUNNING.value) | ~Q(holder=""),
            ),
            models.CheckConstraint(
                name="run_settled_when_final",
                condition=Q(status__in=_values(ACTIVE_RUN_STATUSES)) | Q(pending=0, running=0),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.batch_slug} #{self.pk}"

    def get_absolute_url(self) -> str:
        return reverse("run", args=[self.pk])

    @property
    def is_final(self) -> bool:
        return RunStatus(self.status) in FINAL_RUN_STATUSES

    @property
    def held_by(self) -> tuple[str, int] | None:
        """Host and pid of the process that runs or ran it; None if nobody ever took it."""
        parts = self.holder.split("|")
        is_known = len(parts) > 2 and parts[-2].isdecimal()
        return (parts[0], int(parts[-2])) if is_known else None

    @property
    def is_cancelling(self) -> bool:
        return not self.is_final and self.cancel_requested_at is not None


class RunInput(models.Model):
    """The large part of a run, which never changes."""

    run = models.OneToOneField(Run, models.CASCADE, primary_key=True, related_name="input")
    plan = models.JSONField()
    """`Plan.to_json()`: context, options and every planned step."""

    def __str__(self) -> str:
        return f"input of run {self.run_id}"

    def load_plan(self) -> Plan:
        return Plan.from_json(self.plan)


class StepRun(CancelFacts):
    """One step of one run. Made with the run, never added or deleted afterwards."""

    run = models.ForeignKey(Run, models.CASCADE, related_name="step_runs")
    position = models.PositiveIntegerField()
    name = models.CharField(max_length=NAME_LENGTH)
    step = models.ForeignKey("steps.Step", models.SET_NULL, null=True, related_name="step_runs")
    step_name = models.CharField(max_length=NAME_LENGTH)
    kind = models.CharField(max_length=20)
    category = models.CharField(max_length=100, blank=True)
    lane = models.CharField(max_length=10, choices=_choices(Lane))
    rule_position = models.PositiveIntegerField(null=True)
    because = models.CharField(max_length=500, blank=True)
    protected = models.BooleanField(default=False)
    timeout_seconds = models.FloatField()

    status = models.CharField(
        max_length=20, choices=_choices(StepStatus), default=StepStatus.PENDING.value
    )
    sequence = models.PositiveBigIntegerField(default=1)
    """`Run.sequence` of the last change of this row."""
    attempt = models.PositiveSmallIntegerField(default=0)
    """Number of the current or last attempt; 0: never started."""
    slot = models.PositiveSmallIntegerField(null=True)
    """From 1 in the pool; null in the critical lane and before the START."""
    retry_at = models.DateTimeField(null=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField(null=True)
    abandoned_at = models.DateTimeField(null=True)
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    message = models.TextField(blank=True)
    exit_code = models.IntegerField(null=True)
    result = models.JSONField(null=True)
    receipt = models.JSONField(null=True)
    progress = models.FloatField(null=True)
    """0 to 1, as the step reports it."""
    log_size = models.PositiveBigIntegerField(default=0)
    """Bytes of stored output."""

    class Meta:
        ordering = ["run", "position"]
        constraints = [
            models.UniqueConstraint(fields=["run", "position"], name="step_run_position"),
            models.CheckConstraint(
                name="step_run_status_known", condition=Q(status__in=_values(StepStatus))
            ),
            models.CheckConstraint(
                name="step_run_started_when_running",
                condition=~Q(status=StepStatus.RUNNING.value) | Q(started_at__isnull=False),
            ),
            models.CheckConstraint(
                name="step_run_finished_when_final",
                condition=Q(status__in=_values(ACTIVE_STEP_STATUSES), finished_at__isnull=True)
                | ~Q(status__in=_values(ACTIVE_STEP_STATUSES)) & Q(finished_at__isnull=False),
            ),
        ]
        indexes = [
            models.Index(fields=["run", "sequence"], name="step_run_changes"),
            models.Index(fields=["step", "-id"], name="step_run_by_step"),
        ]

    def __str__(self) -> str:
        return f"{self.name} in run {self.run_id}"


class Attempt(models.Model):
    """An earlier attempt at a step run that was tried again."""

    step_run = models.ForeignKey(StepRun, models.CASCADE, related_name="earlier_attempts")
    number = models.PositiveSmallIntegerField()
    status = models.CharField(max_length=20, choices=_choices(StepStatus))
    reason = models.CharField(max_length=REASON_LENGTH, blank=True)
    message = models.TextField(blank=True)
    started_at = models.DateTimeField(null=True)
    finished_at = models.DateTimeField()

    class Meta:
        ordering = ["step_run", "number"]
        constraints = [
            models.UniqueConstraint(fields=["step_run", "number"], name="attempt_number"),
        ]

    def __str__(self) -> str:
        return f"attempt {self.number} of step run {self.step_run_id}"


class LogChunk(models.Model):
    """A piece of a step run's output: masked bytes from `offset` on."""

    step_run = models.ForeignKey(StepRun, models.CASCADE, related_name="log_chunks")
    offset = models.PositiveBigIntegerField()
    data = models.BinaryField()

    class Meta:
        ordering = ["step_run", "offset"]
        constraints = [
            models.UniqueConstraint(fields=["step_run", "offset"], name="log_chunk_offset"),
        ]

    def __str__(self) -> str:
        return f"output of step run {self.step_run_id} from {self.offset}"


class Worker(models.Model):
    """A cluster that executes runs."""

    host = models.CharField(max_length=100)
    process = models.CharField(max_length=200, unique=True)
    """Which process it is (see identity.py)."""
    slots = models.PositiveSmallIntegerField()
    """Runs it executes at once."""
    kill_level = models.CharField(max_length=40)
    started_at = models.DateTimeField(default=timezone.now)
    seen_at = models.DateTimeField(default=timezone.now)
    stopped_at = models.DateTimeField(null=True)

    class Meta:
        ordering = ["-id"]

    def __str__(self) -> str:
        return f"worker {self.pk} on {self.host}"


class AuditEntry(models.Model):
    """Who did what, written in the transaction that did it."""

    at = models.DateTimeField(default=timezone.now)
    actor = models.ForeignKey(settings.AUTH_USER_MODEL, models.SET_NULL, null=True)
    actor_name = models.CharField(max_length=150)
    """Also for actors without an account, such as `command line`."""
    action = models.CharField(max_length=40)
    run = models.ForeignKey(Run, models.CASCADE, null=True, related_name="audit_entries")
    subject = models.CharField(max_length=NAME_LENGTH, blank=True)
    details = models.JSONField(default=dict)

    class Meta:
        ordering = ["-id"]
        verbose_name_plural = "audit entries"

    def __str__(self) -> str:
        return f"{self.actor_name}: {self.action} {self.subject}".strip()
