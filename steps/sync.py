"""Brings the rows of steps from code in line with the registry."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any

from django.db import DEFAULT_DB_ALIAS, transaction
from django.db.models import Q

from .kinds import ISOLATIONS
from .models import Step
from .registry import RegisteredStep, Registry, registry

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class SyncReport:
    """Names of steps, by what became of them."""

    created: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Python steps without a function, now and before."""
    clashes: list[str] = field(default_factory=list)
    """Registered, but the name belongs to a step of another kind, which was left alone."""


def sync_steps(source: Registry = registry, *, using: str = DEFAULT_DB_ALIAS) -> SyncReport:
    """Make or update a row for each registered step, and mark those whose function is gone.

    Never deletes a row. Idempotent; safe beside another process that does the same.
    """
    report = SyncReport()
    with transaction.atomic(using=using):
        concerned = Q(kind="python") | Q(name__in=[step.name for step in source])
        steps = Step.objects.using(using).filter(concerned).select_for_update()
        rows = {row.name: row for row in steps}
        for step in source:
            _sync(step, rows.get(step.name), report, using)
        for row in rows.values():
            if row.kind == "python" and row.name not in source:
                report.missing.append(row.name)
                _update(row, {"missing": True}, using)
    for name in report.clashes:
        logger.warning(clash_sentence(name, source))
    return report


def _sync(step: RegisteredStep, row: Step | None, report: SyncReport, using: str) -> None:
    facts = code_facts(step)
    if row is None:
        _, created = Step.objects.using(using).get_or_create(name=step.name, defaults=facts)
        if created:
            report.created.append(step.name)
    elif row.kind != "python":
        report.clashes.append(step.name)
    elif _update(row, facts, using):
        report.updated.append(step.name)


def code_facts(step: RegisteredStep) -> dict[str, Any]:
    """The fields of a row that its function's decorator decides: all but the name."""
    default_grace = Step._meta.get_field("grace_seconds").get_default()
    return {
        "kind": "python",
        "category": step.category,
        "description": step.description,
        "target": {} if step.isolation == ISOLATIONS[0] else {"isolation": step.isolation},
        "parameters": dict(step.parameters),
        "timeout_seconds": step.timeout,
        "grace_seconds": default_grace if step.grace is None else step.grace,
        "retry_safe": step.retry_safe,
        "attempts": step.attempts,
        "backoff_seconds": step.backoff,
        "protected": step.protected,
        "from_code": True,
        "module": step.module,
        "missing": False,
    }


def _update(row: Step, facts: dict[str, Any], using: str) -> bool:
    """Write what differs; False if nothing does."""
    changed = [name for name, value in facts.items() if getattr(row, name) != value]
    for name in changed:
        setattr(row, name, facts[name])
    if changed:
        row.save(using=using, update_fields=changed)
    return bool(changed)


def clashes(source: Registry = registry, *, using: str = DEFAULT_DB_ALIAS) -> list[str]:
    """Registered names that belong to steps of other kinds."""
    names = [step.name for step in source]
    taken = Step.objects.using(using).filter(name__in=names).exclude(kind="python")
    return list(taken.values_list("name", flat=True))


def clash_sentence(name: str, source: Registry = registry) -> str:
    place = next((step.place for step in source if step.name == name), "code")
    return (
        f"The step “{name}” of {place} has no row: a step of another kind has that name. "
        f"Rename one of the two."
    )
