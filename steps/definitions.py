"""Steps, batches and rules as a YAML file: `load` brings one in, `dump` writes one.

A file is validated as a whole; a bad one changes nothing. Loading twice, or loading what was
dumped, changes nothing either.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import models, transaction

from .classifier import Condition
from .document import DefinitionError, Document, FileProblem, to_yaml
from .file_format import (
    BATCH_FIELDS,
    ENTRY_FIELDS,
    RULE_FIELDS,
    STEP_FIELDS,
    Checks,
    Definitions,
    Facts,
    Reader,
)
from .models import Batch, BatchStep, ClassificationRule, Step
from .registry import registry
from .sync import sync_steps

__all__ = ["DefinitionError", "FileProblem", "LoadReport", "UnknownBatch", "dump", "load"]


class UnknownBatch(LookupError):  # noqa: N818  (reads as a sentence where it is caught)
    """No batch has this slug."""

    def __init__(self, slugs: Sequence[str]) -> None:
        super().__init__(f"There is no batch called {', '.join(slugs)}.")
        self.slugs = slugs


_WORDS = {"steps": "step", "batches": "batch", "entries": "entry", "rules": "rule"}


@dataclass(slots=True)
class LoadReport:
    """How many rows a load touched, by what they are: steps, batches, entries, rules."""

    created: Counter[str] = field(default_factory=Counter)
    updated: Counter[str] = field(default_factory=Counter)
    deleted: Counter[str] = field(default_factory=Counter)
    unchanged: Counter[str] = field(default_factory=Counter)

    @property
    def changed(self) -> bool:
        return any(rows.total() for rows in (self.created, self.updated, self.deleted))

    def __str__(self) -> str:
        parts = [
            f"{count} {one if count == 1 else what} {verb}"
            for what, one in _WORDS.items()
            for verb in ("created", "updated", "deleted", "unchanged")
            if (count := getattr(self, verb)[what])
        ]
        return ", ".join(parts) or "nothing to do"


def load(text: str | bytes, *, dry_run: bool = False) -> LoadReport:
    """Make the database say what the file says about what it names, and leave the rest alone.

    Steps and batches are known by name and slug; a section `rules` replaces all rules. Raises
    `DefinitionError` with all problems of the file, having changed nothing; `dry_run` changes
    nothing in any case.
    """
    document = Document(text)
    report = LoadReport()
    with transaction.atomic():
        definitions = Reader(document).read()
        _sync_if_needed(definitions)
        _apply_steps(definitions.steps, report)
        for facts in definitions.batches:
            _apply_batch(facts, report)
        if definitions.rules is not None:
            _apply_rules(definitions.rules, report)
        transaction.set_rollback(dry_run)
    return report


def _sync_if_needed(definitions: Definitions) -> None:
    """A step that is in the code but not yet in the database gets its row."""
    wanted = {entry["step"] for batch in definitions.batches for entry in batch["entries"]}
    registered = [name for name in wanted if name in registry]
    if len(Step.objects.in_bulk(registered, field_name="name")) < len(registered):
        sync_steps()


def _apply_steps(items: list[Facts], report: LoadReport) -> None:
    rows = Step.objects.in_bulk([facts["name"] for facts in items], field_name="name")
    for facts in items:
        _write(rows.get(facts["name"]) or Step(), facts, report, "steps")


def _apply_batch(facts: Facts, report: LoadReport) -> None:
    entries = facts["entries"]
    batch = Batch.objects.filter(slug=facts["slug"]).first() or Batch()
    _write(batch, {k: v for k, v in facts.items() if k != "entries"}, report, "batches")
    names = {entry["step"] for entry in entries}
    steps = Step.objects.in_bulk(names, field_name="name")
    wanted = [
        (
            entry["effective_name"],
            {
                "step": steps[entry["step"]],
                "name": entry["name"],
                "enabled": entry["enabled"],
                "parameters": entry["parameters"],
                "timeout_seconds": entry["timeout_seconds"],
            },
        )
        for entry in entries
    ]
    rows = [(row.effective_name, row) for row in batch.entries.select_related("step")]
    _apply_order(BatchStep(batch=batch), rows, wanted, report, "entries")


def _apply_rules(items: list[Facts], report: LoadReport) -> None:
    wanted = [(facts["name"], facts) for facts in items]
    rows = [(row.name, row) for row in ClassificationRule.objects.all()]
    _apply_order(ClassificationRule(), rows, wanted, report, "rules")


def _apply_order(
    blank: Any,
    rows: Sequence[tuple[str, Any]],
    wanted: Sequence[tuple[str, Facts]],
    report: LoadReport,
    what: str,
) -> None:
    """Make an ordered list of rows what it should be: known by name, `blank` for new ones."""
    by_name = dict(reversed(rows))
    names = [name for name, _ in wanted]
    kept = set(names)
    for name, row in rows:
        if name not in kept or by_name[name] is not row:
            row.delete()
            report.deleted[what] += 1
    in_order = [name for name in dict.fromkeys(name for name, _ in rows) if name in kept] == names
    new = []
    for place, (name, facts) in enumerate(wanted, start=1):
        known = by_name.get(name)
        if known is None:
            new.append(_copy(blank, {**facts, "position": place}))
        else:
            # Positions that already give this order may keep their gaps.
            position = known.position if in_order else place
            _write(known, {**facts, "position": position}, report, what)
    type(blank)._default_manager.bulk_create(new)
    report.created[what] += len(new)


def _copy(blank: Any, facts: Facts) -> Any:
    shared = {"batch": blank.batch} if isinstance(blank, BatchStep) else {}
    return type(blank)(**shared, **facts)


def _write(row: models.Model, facts: Facts, report: LoadReport, what: str) -> None:
    """Save `row` if it is new or differs from `facts`."""
    changed = [key for key, value in facts.items() if not _same(row, key, value)]
    for key in changed:
        setattr(row, key, facts[key])
    if row._state.adding:
        row.save()
        report.created[what] += 1
    elif changed:
        row.save(update_fields=changed)
        report.updated[what] += 1
    else:
        report.unchanged[what] += 1


def _same(row: models.Model, key: str, value: Any) -> bool:
    current = getattr(row, key)
    if isinstance(row._meta.get_field(key), models.JSONField):
        # Python's == takes 1 for True and for 1.0.
        return json.dumps(current, sort_keys=True) == json.dumps(value, sort_keys=True)
    return bool(current == value)


def dump(slugs: Sequence[str] | None = None) -> str:
    """A file with every step by hand, batch and rule; or with the named batches and their steps.

    Steps from code are left out: they come with the code. Raises `UnknownBatch`.
    """
    batches = Batch.objects.order_by("slug")
    steps = Step.objects.by_hand()
    data: Facts = {}
    if slugs is not None:
        batches = batches.filter(slug__in=slugs)
        if unknown := sorted(set(slugs) - {batch.slug for batch in batches}):
            raise UnknownBatch(unknown)
        steps = steps.filter(entries__batch__in=batches).distinct()
    data["steps"] = [_facts(step, STEP_FIELDS, ("name", "kind")) for step in steps]
    data["batches"] = [_batch_facts(batch) for batch in batches]
    if slugs is None:
        data["rules"] = [_rule_facts(rule) for rule in ClassificationRule.objects.all()]
    return to_yaml(data)


def _batch_facts(batch: Batch) -> Facts:
    fields = {key: check for key, check in BATCH_FIELDS.items() if key != "entries"}
    entries = batch.entries.select_related("step").order_by("position", "id")
    return {
        **_facts(batch, fields, ("slug", "name")),
        "entries": [_entry_facts(entry) for entry in entries],
    }


def _entry_facts(entry: BatchStep) -> Facts | str:
    fields = {key: check for key, check in ENTRY_FIELDS.items() if key != "step"}
    facts = _facts(entry, fields)
    return {"step": entry.step.name, **facts} if facts else entry.step.name


def _rule_facts(rule: ClassificationRule) -> Facts:
    always = ["name", "condition", "operand", "critical"]
    if rule.condition == Condition.CONTEXT_EQUALS:
        always.append("value")
    return _facts(rule, RULE_FIELDS, always)


def _facts(row: models.Model, fields: Checks, always: Sequence[str] = ()) -> Facts:
    """What a file must say about `row`: what is not the default, and `always`."""
    facts = {}
    for key in fields:
        model_field: Any = row._meta.get_field(key)
        value = getattr(row, key)
        if key in always or not _same(row, key, model_field.get_default()):
            facts[key] = value
    return facts
