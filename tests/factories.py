"""Rows for tests, made directly: quick, and in states that would take a whole run to reach."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import timedelta
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Permission, User
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from executions.engine.status import FINAL_RUN_STATUSES, FINAL_STEP_STATUSES, RunStatus, StepStatus
from executions.models import LogChunk, Run, StepRun, Worker
from steps.models import Batch, RuleSet, Step


def make_user(
    name: str = "vera", *permissions: str, password: str | None = None, **fields: Any
) -> User:
    """A user with permissions such as `executions.view_run`.

    Without a password, whose hash would take longer than most tests, use `force_login`.
    """
    user = get_user_model().objects.create_user(name, password=password, **fields)
    for permission in permissions:
        label, codename = permission.split(".")
        user.user_permissions.add(
            Permission.objects.get(content_type__app_label=label, codename=codename)
        )
    return user


def make_step(name: str = "TidyStep", **fields: Any) -> Step:
    return Step.objects.create(name=name, **{"kind": "command", **fields})


def make_batch(slug: str = "nightly", **fields: Any) -> Batch:
    return Batch.objects.create(slug=slug, **{"name": slug.capitalize(), **fields})


def make_ruleset() -> RuleSet:
    return RuleSet.objects.get_or_create(hash="0" * 64, defaults={"rules": []})[0]


def make_run(
    statuses: int | Sequence[str] = 3,
    *,
    status: str = RunStatus.RUNNING,
    batch: Batch | None = None,
    steps: Sequence[Step | None] = (),
    critical: int = 0,
    **fields: Any,
) -> Run:
    """A run with a step in each of `statuses` (or so many pending ones), consistent with them.

    `steps` are the definitions, by position; the first `critical` are in the critical lane.
    """
    if isinstance(statuses, int):
        statuses = [StepStatus.PENDING] * statuses
    now = timezone.now()
    run = Run.objects.create(
        **{
            "batch": batch,
            "batch_slug": batch.slug if batch else "nightly",
            "batch_name": batch.name if batch else "Nightly",
            "ruleset": make_ruleset(),
            "status": str(status),
            "pool_width": 4,
            "pool_start": "after_critical",
            "failure_policy": "stop_critical",
            "holder": "host|boot|1|1" if status == RunStatus.RUNNING else "",
            "total": len(statuses),
            **Counter(map(str, statuses)),
            "started_at": None if status == RunStatus.QUEUED else now,
            "finished_at": now if status in FINAL_RUN_STATUSES else None,
            **fields,
        }
    )
    StepRun.objects.bulk_create(
        StepRun(
            run=run,
            position=position,
            name=f"entry {position}",
            step=steps[position] if position < len(steps) else None,
            step_name=f"Step{position}",
            kind="command",
            lane="critical" if position < critical else "pool",
            because="no rule matched",
            timeout_seconds=30.0,
            status=str(step_status),
            attempt=0 if step_status in NEVER_STARTED else 1,
            started_at=None if step_status in NEVER_STARTED else now - timedelta(seconds=1),
            finished_at=now if step_status in FINAL_STEP_STATUSES else None,
        )
        for position, step_status in enumerate(statuses)
    )
    return run


NEVER_STARTED = (StepStatus.PENDING, StepStatus.SKIPPED)


def change_steps(run: Run, positions: Iterable[int] = (0,), **fields: Any) -> int:
    """Change some steps of a run and stamp it on them, as a transition would; the new sequence."""
    with transaction.atomic():
        sequence = _next_sequence(run)
        run.step_runs.filter(position__in=list(positions)).update(sequence=sequence, **fields)
        counts = Counter(run.step_runs.values_list("status", flat=True))
        Run.objects.filter(pk=run.pk).update(**{name: counts[name] for name in Run.COUNTERS})
    return sequence


def start_steps(run: Run, positions: Iterable[int]) -> int:
    return change_steps(
        run, positions, status=StepStatus.RUNNING.value, started_at=timezone.now(), attempt=1
    )


def end_steps(run: Run, positions: Iterable[int], status: str = StepStatus.SUCCEEDED) -> int:
    return change_steps(run, positions, status=str(status), finished_at=timezone.now())


def end_run(run: Run, status: str = RunStatus.SUCCEEDED) -> int:
    """End every step and the run in one change."""
    with transaction.atomic():
        end_steps(run, range(run.total))
        sequence = _next_sequence(run)
        Run.objects.filter(pk=run.pk).update(status=str(status), finished_at=timezone.now())
    return sequence


def _next_sequence(run: Run) -> int:
    Run.objects.filter(pk=run.pk).update(sequence=F("sequence") + 1)
    return Run.objects.values_list("sequence", flat=True).get(pk=run.pk)


def write_log(step_run: StepRun, *pieces: bytes) -> int:
    """Store output, a chunk for each piece; the size by then."""
    for piece in pieces:
        LogChunk.objects.create(step_run=step_run, offset=step_run.log_size, data=piece)
        step_run.log_size += len(piece)
    StepRun.objects.filter(pk=step_run.pk).update(log_size=step_run.log_size)
    return step_run.log_size


def make_worker(slots: int = 2, **fields: Any) -> Worker:
    number = Worker.objects.count() + 1
    return Worker.objects.create(
        **{
            "host": "host",
            "process": f"host|boot|{number}|1",
            "slots": slots,
            "kill_level": "subreaper",
            **fields,
        }
    )
