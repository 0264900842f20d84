"""The format of a definitions file: its fields, and the reader that validates them.

docs/batches-file.md describes it for people.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from typing import Any

from django.db import models

from . import values
from .classifier import Condition
from .document import DefinitionError, Document, FileProblem, Path
from .kinds import KINDS
from .models import (
    Batch,
    BatchStep,
    ClassificationRule,
    FailurePolicy,
    PoolStart,
    Step,
    operand_problem,
)
from .registry import registry

Facts = dict[str, Any]
Checks = Mapping[str, values.Check]


def _one_of(choices: Iterable[str]) -> values.Check:
    return partial(values.choice_problem, choices=tuple(choices))


def _list_problem(value: Any) -> str | None:
    return None if isinstance(value, list) else "must be a list"


def _kind_problem(value: Any) -> str | None:
    return values.choice_problem(value, tuple(KINDS))


_operand_text_problem = partial(values.text_problem, limit=1000)

SECTIONS: Checks = {"steps": _list_problem, "batches": _list_problem, "rules": _list_problem}
STEP_FIELDS: Checks = {
    "name": values.name_problem,
    "kind": _kind_problem,
    "category": values.category_problem,
    "description": values.text_problem,
    "target": values.object_problem,
    "parameters": values.object_problem,
    "timeout_seconds": values.optional_seconds_problem,
    "grace_seconds": values.span_problem,
    "retry_safe": values.flag_problem,
    "attempts": values.attempts_problem,
    "backoff_seconds": values.span_problem,
    "protected": values.flag_problem,
}
BATCH_FIELDS: Checks = {
    "slug": values.slug_problem,
    "name": values.name_problem,
    "description": values.text_problem,
    "context": values.context_problem,
    "pool_width": values.pool_width_problem,
    "failure_policy": _one_of(FailurePolicy.values),
    "pool_start": _one_of(PoolStart.values),
    "default_timeout_seconds": values.optional_seconds_problem,
    "max_active_runs": values.active_runs_problem,
    "entries": _list_problem,
}
ENTRY_FIELDS: Checks = {
    "step": values.name_problem,
    "name": values.optional_name_problem,
    "enabled": values.flag_problem,
    "parameters": values.object_problem,
    "timeout_seconds": values.optional_seconds_problem,
}
RULE_FIELDS: Checks = {
    "name": values.name_problem,
    "condition": _one_of(Condition),
    "operand": _operand_text_problem,
    "value": values.json_problem,
    "critical": values.flag_problem,
    "enabled": values.flag_problem,
}


@dataclass(slots=True)
class Definitions:
    """What a file says, with every default filled in."""

    steps: list[Facts] = field(default_factory=list)
    batches: list[Facts] = field(default_factory=list)
    rules: list[Facts] | None = None
    """None: the file says nothing about rules."""


class Reader:
    """Turns a document into definitions, collecting problems on the way."""

    def __init__(self, document: Document) -> None:
        self._document = document
        self._problems: list[FileProblem] = []
        self._rows = {row.name: row for row in Step.objects.only("name", "kind", "from_code")}

    def read(self) -> Definitions:
        data = self._document.data
        if not isinstance(data, dict) or not data:
            message = f"the file must hold at least one of: {', '.join(SECTIONS)}."
            raise DefinitionError([FileProblem(1, "", None, message)])
        sections = self._mapping((), data, SECTIONS)
        definitions = Definitions(steps=self._list(("steps",), sections, self._step))
        definitions.batches = self._list(("batches",), sections, self._batch)
        if "rules" in sections:
            definitions.rules = self._list(("rules",), sections, self._rule)
            self._unique(("rules",), definitions.rules, "name", "in the file")
        self._unique(("steps",), definitions.steps, "name", "in the file")
        self._unique(("batches",), definitions.batches, "slug", "in the file")
        self._step_references(definitions)
        if self._problems:
            raise DefinitionError(self._problems)
        return definitions

    def _complain(self, path: Path, value: Any, phrase: str) -> None:
        self._problems.append(self._document.problem(path, value, f"it {phrase}."))

    def _list(self, path: Path, holder: Facts, read: Callable[[Path, Any], Facts]) -> list[Facts]:
        items = holder.get(str(path[-1]))
        if not isinstance(items, list):
            return []
        return [read((*path, index), item) for index, item in enumerate(items)]

    def _mapping(
        self, path: Path, value: Any, checks: Checks, required: Sequence[str] = ()
    ) -> Facts:
        """`value`, as far as it is good."""
        if not isinstance(value, dict):
            self._complain(path, value, f"must be an object with: {', '.join(checks)}")
            return {}
        for key in value:
            if key not in checks:
                self._complain((*path, key), value[key], _unknown(key, checks))
        for key in required:
            if key not in value:
                allowed = checks[key](None) or "must be given"
                self._complain((*path, key), values.MISSING, allowed)
        good = {}
        for key, check in checks.items():
            if key not in value:
                continue
            if phrase := check(value[key]):
                self._complain((*path, key), value[key], phrase)
            else:
                good[key] = value[key]
        return good

    def _step(self, path: Path, value: Any) -> Facts:
        facts = self._mapping(path, value, STEP_FIELDS, ["name", "kind"])
        if "name" in facts:
            self._ownership(path, facts)
        kind = KINDS.get(facts.get("kind", ""))
        broken = isinstance(value, dict) and "target" in value and "target" not in facts
        if kind and not broken:
            for problem in kind.validate_target(facts.get("target", {})):
                self._complain((*path, "target", *problem.path), problem.value, problem.message)
        return _filled(Step, facts, STEP_FIELDS)

    def _ownership(self, path: Path, facts: Facts) -> None:
        """Code defines Python steps; a file can neither change nor make one."""
        name = facts["name"]
        row = self._rows.get(name)
        if row.from_code if row else name in registry:
            phrase = "must not be a step that comes from code: take this out of the file"
            self._complain((*path, "name"), name, phrase)
        elif facts.get("kind") == "python" and (row is None or row.kind != "python"):
            others = ", ".join(kind for kind in KINDS if kind != "python")
            phrase = f"must be one of: {others} (Python steps come from a steps.py)"
            self._complain((*path, "kind"), "python", phrase)

    def _batch(self, path: Path, value: Any) -> Facts:
        facts = self._mapping(path, value, BATCH_FIELDS, ["slug", "name", "entries"])
        entries = self._list((*path, "entries"), facts, self._entry)
        self._unique((*path, "entries"), entries, "effective_name", "in the batch")
        return {**_filled(Batch, facts, BATCH_FIELDS), "entries": entries}

    def _entry(self, path: Path, value: Any) -> Facts:
        if isinstance(value, str):
            value = {"step": value}
        facts = self._mapping(path, value, ENTRY_FIELDS, ["step"])
        effective = facts.get("name") or facts.get("step", "")
        return {**_filled(BatchStep, facts, ENTRY_FIELDS), "effective_name": effective}

    def _rule(self, path: Path, value: Any) -> Facts:
        facts = self._mapping(path, value, RULE_FIELDS, ["name", "condition", "operand"])
        if "condition" in facts and "operand" in facts:
            if sentence := operand_problem(facts["condition"], facts["operand"]):
                problem = self._document.problem((*path, "operand"), facts["operand"], sentence)
                self._problems.append(problem)
            self._rule_value(path, facts)
        return _filled(ClassificationRule, facts, RULE_FIELDS)

    def _rule_value(self, path: Path, facts: Facts) -> None:
        compares = facts["condition"] == Condition.CONTEXT_EQUALS
        if compares and "value" not in facts:
            phrase = "must be given: the JSON value to compare with"
            self._complain((*path, "value"), values.MISSING, phrase)
        if not compares and facts.get("value") is not None:
            phrase = f"must be left out: only {Condition.CONTEXT_EQUALS} compares with a value"
            self._complain((*path, "value"), facts["value"], phrase)

    def _unique(self, path: Path, items: list[Facts], key: str, where: str) -> None:
        first: dict[str, int] = {}
        shown_key = {"effective_name": "name"}.get(key, key)
        for index, item in enumerate(items):
            place = (*path, index, shown_key)
            value = item.get(key)
            if value in first:
                self._complain(place, value, f"must be unique {where}; line {first[value]} has it")
            elif value:
                first[value] = self._document.line(place)

    def _step_references(self, definitions: Definitions) -> None:
        known = {facts.get("name") for facts in definitions.steps} | self._rows.keys()
        known |= {step.name for step in registry}
        names = sorted(name for name in known if name)
        for index, batch in enumerate(definitions.batches):
            for place, entry in enumerate(batch["entries"]):
                name = entry.get("step")
                if name is not None and name not in known:
                    path = ("batches", index, "entries", place, "step")
                    self._complain(path, name, _no_such_step(name, names))


def _unknown(key: str, checks: Checks) -> str:
    near = get_close_matches(key, checks, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"is not a field here{hint}; the fields are: {', '.join(checks)}"


def _no_such_step(name: str, names: Sequence[str]) -> str:
    near = get_close_matches(name, names, n=1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    return f"must be the name of a step of this file or this site{hint}"


def _filled(model: type[models.Model], facts: Facts, checks: Checks) -> Facts:
    """`facts` with the model's default for each field that a file may leave out."""
    filled = {}
    for key in checks:
        if key in facts:
            filled[key] = facts[key]
        elif key not in ("step", "entries"):
            model_field: Any = model._meta.get_field(key)
            filled[key] = model_field.get_default()
    return filled
