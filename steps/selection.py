"""Which entries of a batch a run would execute, each with its verdict."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .classifier import Classification
from .models import Batch, RuleSet, Step
from .values import shown


class SelectionError(ValueError):
    """The entries asked for cannot be run; `problems` says why, a sentence each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__(" ".join(problems))
        self.problems = problems


@dataclass(frozen=True, kw_only=True, slots=True)
class SelectedEntry:
    """One entry with everything that its execution needs. Durations in seconds."""

    position: int
    """From 0, among the selected."""
    name: str
    step_id: int
    step_name: str
    kind: str
    category: str
    target: Mapping[str, Any]
    parameters: Mapping[str, Any]
    """The step's, overridden by the entry's."""
    timeout_seconds: float | None
    """The entry's, else the step's; None: neither has one."""
    grace_seconds: float
    retry_safe: bool
    attempts: int
    backoff_seconds: float
    protected: bool
    missing: bool
    """A Python step without its function: it can be planned, but will fail."""
    critical: bool
    rule_position: int | None
    because: str


@dataclass(frozen=True, slots=True)
class Selection:
    """What a run of a batch consists of, and the rules that judged it."""

    entries: tuple[SelectedEntry, ...]
    ruleset: RuleSet


_STEP_COLUMNS = (
    "name",
    "kind",
    "category",
    "target",
    "parameters",
    "timeout_seconds",
    "grace_seconds",
    "retry_safe",
    "attempts",
    "backoff_seconds",
    "protected",
    "missing",
)
_COLUMNS = (
    "name",
    "parameters",
    "timeout_seconds",
    "step_id",
    *(f"step__{column}" for column in _STEP_COLUMNS),
)
_Row = dict[str, Any]
_Verdict = Callable[[str, str], Classification]


def select(
    batch: Batch, context: Mapping[str, Any], names: Sequence[str] | None = None
) -> Selection:
    """The entries of `batch` that are on, or those of them called `names`, in the batch's order.

    `context` is a JSON object (`values.context_problem` says whether it is fit). Three queries,
    however many entries. Raises `SelectionError` for names that are unknown, off or repeated, and
    if nothing is left.
    """
    rows = _rows(batch)
    if names is not None:
        rows = _chosen(batch, rows, names)
    elif not rows:
        raise SelectionError([f"The batch “{batch}” has no entry that is on."])
    if repeated := _repeated([_name(row) for row in rows]):
        raise SelectionError(
            [f"Two entries of the batch “{batch}” are called {shown(n)}." for n in repeated]
        )
    return _judged(rows, context)


def select_steps(names: Sequence[str], context: Mapping[str, Any]) -> Selection:
    """The steps called `names`, in this order and without a batch.

    Each is an entry under its own name. Raises `SelectionError` as `select` does.
    """
    problems = _problems_of(names)
    texts = [name for name in names if isinstance(name, str)]
    rows = {row["step__name"]: row for row in _step_rows(texts)}
    problems += [
        f"There is no step called {shown(name)}."
        for name in dict.fromkeys(texts)
        if name not in rows
    ]
    if problems:
        raise SelectionError(problems)
    return _judged([rows[name] for name in texts], context)


def _judged(rows: Sequence[_Row], context: Mapping[str, Any]) -> Selection:
    ruleset = RuleSet.current()
    verdict = ruleset.classifier.within(context)
    return Selection(
        tuple(_entry(position, row, verdict) for position, row in enumerate(rows)), ruleset
    )


def _step_rows(names: Sequence[str]) -> list[_Row]:
    """Steps in the shape of entries that add nothing to them."""
    steps = Step.objects.filter(name__in=names).values("id", *_STEP_COLUMNS)
    return [
        {
            "name": "",
            "parameters": {},
            "timeout_seconds": None,
            "step_id": step["id"],
            **{f"step__{column}": step[column] for column in _STEP_COLUMNS},
        }
        for step in steps
    ]


def _problems_of(names: Sequence[str]) -> list[str]:
    """What is wrong with the names that were chosen, wherever they should be found."""
    if not names:
        return ["Choose at least one step."]
    problems = [f"{shown(n)} is not a name." for n in names if not isinstance(n, str)]
    texts = [name for name in names if isinstance(name, str)]
    return problems + [f"{shown(name)} was chosen twice." for name in _repeated(texts)]


def _rows(batch: Batch) -> list[_Row]:
    entries = batch.entries.filter(enabled=True).order_by("position", "id")
    return list(entries.values(*_COLUMNS))


def _name(row: _Row) -> str:
    name: str = row["name"] or row["step__name"]
    return name


def _chosen(batch: Batch, rows: list[_Row], names: Sequence[str]) -> list[_Row]:
    problems = _problems_of(names)
    wanted = {name for name in names if isinstance(name, str)}
    on = {_name(row) for row in rows}
    if absent := wanted - on:
        off = _off(batch)
        problems += [
            f"The entry {shown(name)} is off."
            if name in off
            else f"The batch “{batch}” has no entry called {shown(name)}."
            for name in sorted(absent)
        ]
    if problems:
        raise SelectionError(problems)
    return [row for row in rows if _name(row) in wanted]


def _off(batch: Batch) -> set[str]:
    rows = batch.entries.filter(enabled=False).values_list("name", "step__name")
    return {name or step_name for name, step_name in rows}


def _repeated(names: Sequence[str]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]


def _entry(position: int, row: _Row, verdict: _Verdict) -> SelectedEntry:
    classification = verdict(row["step__name"], row["step__category"])
    timeout = row["timeout_seconds"]
    rule = classification.rule
    return SelectedEntry(
        position=position,
        name=_name(row),
        step_id=row["step_id"],
        step_name=row["step__name"],
        kind=row["step__kind"],
        category=row["step__category"],
        target=row["step__target"],
        parameters={**row["step__parameters"], **row["parameters"]},
        timeout_seconds=row["step__timeout_seconds"] if timeout is None else timeout,
        grace_seconds=row["step__grace_seconds"],
        retry_safe=row["step__retry_safe"],
        attempts=row["step__attempts"],
        backoff_seconds=row["step__backoff_seconds"],
        protected=row["step__protected"],
        missing=row["step__missing"],
        critical=classification.critical,
        rule_position=None if rule is None else rule.position,
        because=classification.because,
    )
