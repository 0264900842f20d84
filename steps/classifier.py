"""Rules, and the verdict they reach: which steps are critical, and why. Plain Python.

Rules are ordered; the first that matches decides. If none does, the step is not critical.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

import re2

from .values import shown

PATTERN_LENGTH = 1000
BECAUSE_LENGTH = 500
"""Characters; a longer sentence is cut."""
_PATTERN_MEMORY = 1024 * 1024

Context = Mapping[str, Any]


class Condition(StrEnum):
    """What a rule looks at. `operand` is the name, the pattern, the category or the context key."""

    NAME_EQUALS = "name_equals"
    NAME_MATCHES = "name_matches"
    """An RE2 pattern that is found anywhere in the name."""
    CATEGORY_IS = "category_is"
    CONTEXT_TRUTHY = "context_truthy"
    """The key is there, and its value is not null, false, 0, NaN or ""."""
    CONTEXT_EQUALS = "context_equals"
    """The key is there, and its value equals the rule's as JSON: 1 is 1.0, but not true or "1"."""
    CONTEXT_LIST_NONEMPTY = "context_list_nonempty"

    @property
    def reads_context(self) -> bool:
        return self in _CONTEXT_CONDITIONS


_CONTEXT_CONDITIONS = frozenset(
    {Condition.CONTEXT_TRUTHY, Condition.CONTEXT_EQUALS, Condition.CONTEXT_LIST_NONEMPTY}
)


@dataclass(frozen=True, slots=True)
class RuleSpec:
    """A rule as a value. `position` counts from 1 in the ordered list of active rules."""

    position: int
    name: str
    condition: Condition
    operand: str
    value: Any = None
    """What `context_equals` compares with; any JSON value."""
    critical: bool = True

    @property
    def phrase(self) -> str:
        """The condition in words, such as `the name matches "IDE.*Step$"`."""
        return _PHRASES[self.condition].format(
            operand=self.operand, value=shown(self.value, limit=200)
        )

    @property
    def verdict(self) -> str:
        return "critical" if self.critical else "not critical"

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "condition": self.condition.value}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> RuleSpec:
        return cls(**{**data, "condition": Condition(data["condition"])})


_PHRASES = {
    Condition.NAME_EQUALS: 'the name is "{operand}"',
    Condition.NAME_MATCHES: 'the name matches "{operand}"',
    Condition.CATEGORY_IS: 'the category is "{operand}"',
    Condition.CONTEXT_TRUTHY: 'the context has "{operand}"',
    Condition.CONTEXT_EQUALS: 'the context\'s "{operand}" is {value}',
    Condition.CONTEXT_LIST_NONEMPTY: 'the context\'s "{operand}" is a list that is not empty',
}


@dataclass(frozen=True, slots=True)
class Classification:
    """The verdict on one step."""

    critical: bool
    rule: RuleSpec | None
    """The rule that decided; None: no rule matched."""
    because: str
    """One sentence for people, at most 500 characters."""


@dataclass(frozen=True, slots=True)
class TraceLine:
    """What one rule made of a step, on the way to the verdict."""

    rule: RuleSpec
    matched: bool
    """Only the last line of a trace can be a match: it decided."""
    why: str


NO_RULE_MATCHED = Classification(False, None, "No rule matched")


class RuleError(ValueError):
    """A rule that cannot be used, although it should never have been saved; says which."""


class Classifier:
    """Judges steps by `rules`. Compiles once; safe to share between threads."""

    def __init__(self, rules: Sequence[RuleSpec]) -> None:
        """Raises `RuleError` for a pattern that RE2 refuses."""
        self.rules = tuple(rules)
        self._judged = [_Judged(rule) for rule in self.rules]

    def classify(self, name: str, category: str, context: Context) -> Classification:
        return self.within(context)(name, category)

    def within(self, context: Context) -> Callable[[str, str], Classification]:
        """A function of name and category, for many steps of one context.

        Conditions on the context are the same for all of them and are judged only once.
        """
        left: list[_Judged] = []
        otherwise = NO_RULE_MATCHED
        for judged in self._judged:
            if not judged.rule.condition.reads_context:
                left.append(judged)
            elif judged.in_context(context):
                otherwise = judged.classification
                break

        def classify(name: str, category: str) -> Classification:
            subject = _subject(name)
            for judged in left:
                if judged.in_step(name, subject, category):
                    return judged.classification
            return otherwise

        return classify

    def trace(self, name: str, category: str, context: Context) -> list[TraceLine]:
        """Every rule that was asked, in order, up to the one that decided."""
        lines = []
        subject = _subject(name)
        for judged in self._judged:
            rule = judged.rule
            if rule.condition.reads_context:
                matched = judged.in_context(context)
            else:
                matched = judged.in_step(name, subject, category)
            why = rule.phrase if matched else _miss(rule, category, context)
            lines.append(TraceLine(rule, matched, why))
            if matched:
                break
        return lines


class _Judged:
    """A rule with what is computed once for it: its sentence and its compiled pattern."""

    __slots__ = ("classification", "pattern", "rule")

    def __init__(self, rule: RuleSpec) -> None:
        self.rule = rule
        because = f"Rule {rule.position} “{rule.name}”: {rule.phrase}"
        if len(because) > BECAUSE_LENGTH:
            because = f"{because[: BECAUSE_LENGTH - 1]}…"
        self.classification = Classification(rule.critical, rule, because)
        self.pattern = None
        if rule.condition is Condition.NAME_MATCHES:
            if problem := pattern_problem(rule.operand):
                raise RuleError(f"Rule {rule.position} “{rule.name}”: {problem}")
            self.pattern = _compile(rule.operand)

    def in_step(self, name: str, subject: bytes, category: str) -> bool:
        if self.pattern is not None:
            return self.pattern.search(subject) is not None
        if self.rule.condition is Condition.NAME_EQUALS:
            return name == self.rule.operand
        return category == self.rule.operand

    def in_context(self, context: Context) -> bool:
        if self.rule.operand not in context:
            return False
        value = context[self.rule.operand]
        if self.rule.condition is Condition.CONTEXT_TRUTHY:
            return is_truthy(value)
        if self.rule.condition is Condition.CONTEXT_EQUALS:
            return equals(value, self.rule.value)
        return isinstance(value, list) and bool(value)


def is_truthy(value: Any) -> bool:
    """As in JavaScript: empty lists and objects are true."""
    if isinstance(value, float) and math.isnan(value):
        return False
    return isinstance(value, list | dict) or bool(value)


def equals(left: Any, right: Any) -> bool:
    """Equality of JSON values: numbers by value, everything else also by type."""
    waiting = [(left, right)]
    while waiting:
        one, other = waiting.pop()
        if isinstance(one, bool) or isinstance(other, bool):
            same = one is other
        elif isinstance(one, list) and isinstance(other, list):
            same = len(one) == len(other)
            waiting.extend(zip(one, other, strict=False))
        elif isinstance(one, dict) and isinstance(other, dict):
            same = one.keys() == other.keys()
            waiting.extend((one[key], other.get(key)) for key in one)
        else:
            same = one == other
        if not same:
            return False
    return True


def pattern_problem(pattern: str) -> str | None:
    """Why `pattern` cannot be used, as a sentence; None if it can."""
    if not pattern:
        return "The pattern is empty."
    if len(pattern) > PATTERN_LENGTH:
        return f"The pattern has {len(pattern)} characters; at most {PATTERN_LENGTH} are allowed."
    try:
        _compile(pattern)
    except UnicodeEncodeError:
        return "The pattern contains half of a surrogate pair."
    except re2.error as error:
        reason = error.args[0]
        text = reason.decode(errors="replace") if isinstance(reason, bytes) else str(reason)
        return f"RE2 refuses the pattern: {text}."
    return None


@lru_cache(maxsize=1024)
def _compile(pattern: str) -> Any:
    options = re2.Options()
    options.log_errors = False
    options.max_mem = _PATTERN_MEMORY
    options.never_capture = True
    # Bytes: the wrapper otherwise translates offsets that nobody asks for.
    return re2.compile(pattern.encode(), options)


# The patterns of the default rules come from JavaScript, where "." stops at each of these.
_LINE_ENDS = str.maketrans(dict.fromkeys("\r\u2028\u2029", "\n"))


def _subject(name: str) -> bytes:
    """What patterns search: UTF-8, with U+FFFD for each half of a surrogate pair."""
    try:
        encoded = name.encode()
    except UnicodeEncodeError:
        whole = name.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        return _subject(whole)
    return encoded if name.isprintable() else name.translate(_LINE_ENDS).encode()


def _miss(rule: RuleSpec, category: str, context: Context) -> str:
    """Why a rule did not match, in words."""
    if rule.condition in (Condition.NAME_EQUALS, Condition.NAME_MATCHES):
        return f"not so: {rule.phrase}"
    if rule.condition is Condition.CATEGORY_IS:
        return f'the category is "{category}"' if category else "the step has no category"
    if rule.operand not in context:
        return f'the context has no "{rule.operand}"'
    return f'the context\'s "{rule.operand}" is {shown(context[rule.operand])}'


def rules_hash(rules: Iterable[RuleSpec]) -> str:
    """SHA-256, in hex, of what the rules say and their order."""
    canonical = json.dumps(
        [rule.to_json() for rule in rules], sort_keys=True, separators=(",", ":")
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def _default_rules() -> tuple[RuleSpec, ...]:
    names = (
        "IDESendMessageStep",
        "CreateChatStep",
        "TaskExecutionStep",
        "WorkflowExecutionStep",
        "AnalysisExecutionStep",
        "RefactoringStep",
        "TestingStep",
        "DeploymentStep",
    )
    words = (
        "IDE",
        "Workflow",
        "Task",
        "Analysis",
        "Refactoring",
        "Testing",
        "Deployment",
        "Create",
        "Send",
    )
    rows: list[tuple[str, Condition, str, Any]] = [
        *((name, Condition.NAME_EQUALS, name, None) for name in names),
        *((f"{word} steps", Condition.NAME_MATCHES, f"{word}.*Step$", None) for word in words),
        ("Part of a workflow", Condition.CONTEXT_TRUTHY, "workflow_id", None),
        ("Part of a task", Condition.CONTEXT_TRUTHY, "task_id", None),
        ("Part of an analysis", Condition.CONTEXT_TRUTHY, "analysis_id", None),
        ("Workflow mode", Condition.CONTEXT_EQUALS, "execution_mode", "workflow"),
        ("Has dependencies", Condition.CONTEXT_LIST_NONEMPTY, "dependencies", None),
    ]
    return tuple(RuleSpec(position, *row) for position, row in enumerate(rows, start=1))


DEFAULT_RULES = _default_rules()
"""What a new installation begins with."""


def classify(names: Iterable[str], context: Context) -> tuple[list[str], list[str]]:
    """The critical and the other names, each in the order given, by the default rules."""
    verdict = Classifier(DEFAULT_RULES).within(context)
    critical: list[str] = []
    non_critical: list[str] = []
    for name in names:
        (critical if verdict(name, "").critical else non_critical).append(name)
    return critical, non_critical
