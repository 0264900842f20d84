"""The classifier: no database, no Django."""

from __future__ import annotations

import math
import re
import time
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from steps.classifier import (
    BECAUSE_LENGTH,
    DEFAULT_RULES,
    NO_RULE_MATCHED,
    Classifier,
    Condition,
    RuleError,
    RuleSpec,
    classify,
    equals,
    is_truthy,
    pattern_problem,
    rules_hash,
)

NAMES = {
    "IDESendMessageStep",
    "CreateChatStep",
    "TaskExecutionStep",
    "WorkflowExecutionStep",
    "AnalysisExecutionStep",
    "RefactoringStep",
    "TestingStep",
    "DeploymentStep",
}
WORDS = (
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
DEFAULT = Classifier(DEFAULT_RULES)


def note_says(name: str, context: dict[str, Any]) -> bool:
    """The design note's `isCriticalStep`, written again from its text alone."""
    # In JavaScript "." stops at four characters, and "$" is the very end.
    patterns = [rf"{word}[^\n\r\u2028\u2029]*Step\Z" for word in WORDS]
    if name in NAMES or any(re.search(pattern, name) for pattern in patterns):
        return True
    if any(js_truthy(context.get(key)) for key in ("workflow_id", "task_id", "analysis_id")):
        return True
    if context.get("execution_mode") == "workflow":
        return True
    dependencies = context.get("dependencies")
    return isinstance(dependencies, list) and len(dependencies) > 0


def js_truthy(value: Any) -> bool:
    if value is None or value is False or value == "":
        return False
    if isinstance(value, int | float) and not isinstance(value, bool):
        return value != 0 and not math.isnan(value)
    return True


def rule(condition: Condition, operand: str, value: Any = None, **facts: Any) -> RuleSpec:
    facts = {"position": 1, "name": "the rule", **facts}
    return RuleSpec(condition=condition, operand=operand, value=value, **facts)


def matches(condition: Condition, operand: str, value: Any = None, **step: Any) -> bool:
    step = {"name": "AnyStep", "category": "", "context": {}, **step}
    return Classifier([rule(condition, operand, value)]).classify(**step).critical


names = st.lists(
    st.sampled_from(
        [*WORDS, *NAMES, "Step", "step", "\n", "\r", "\u2028", " ", "x", "é", "\ud800"]
    ),
    max_size=4,
).map("".join)
scalars = [None, True, False, 0, -0.0, 1, 1.5, math.nan, math.inf, 2**70, "", "0", "workflow"]
containers = [[], {}, [None], [0], ["workflow"], {"a": 1}, {"length": 2}]
json_values = st.sampled_from([*scalars, *containers])
contexts = st.dictionaries(
    st.sampled_from(
        ["workflow_id", "task_id", "analysis_id", "execution_mode", "dependencies", "workflowId"]
    ),
    json_values,
    max_size=2,
)


@given(names, contexts)
@example("IDE\rStep", {})
@example("TestingStep\n", {})
@example("xIDESendMessageStep", {})
def test_default_rules_judge_as_the_design_note(name: str, context: dict[str, Any]) -> None:
    """The default rules and the note's function agree on every name and context."""
    assert DEFAULT.classify(name, "", context).critical == note_says(name, context)


def test_default_rules_are_names_then_patterns_then_context() -> None:
    """8 names, 9 patterns, 5 conditions on the context, in this order, numbered from 1."""
    conditions = [spec.condition for spec in DEFAULT_RULES]
    assert conditions[:8] == [Condition.NAME_EQUALS] * 8
    assert conditions[8:17] == [Condition.NAME_MATCHES] * 9
    assert {spec.operand for spec in DEFAULT_RULES[:8]} == NAMES
    assert [spec.operand for spec in DEFAULT_RULES[8:17]] == [f"{word}.*Step$" for word in WORDS]
    assert [spec.operand for spec in DEFAULT_RULES[17:]] == [
        "workflow_id",
        "task_id",
        "analysis_id",
        "execution_mode",
        "dependencies",
    ]
    assert [spec.position for spec in DEFAULT_RULES] == list(range(1, 23))
    assert len({spec.name for spec in DEFAULT_RULES}) == 22


def test_classify_keeps_order_and_repetitions() -> None:
    """Both groups keep the order of the names."""
    given_names = ["b", "TestingStep", "a", "CreateXStep", "b"]
    assert classify(given_names, {}) == (["TestingStep", "CreateXStep"], ["b", "a", "b"])
    assert classify(given_names, {"task_id": 7}) == (given_names, [])
    assert classify([], {}) == ([], [])


def test_first_matching_rule_decides() -> None:
    """A rule before another one wins, also with the opposite verdict."""
    rules = [
        rule(Condition.NAME_EQUALS, "A", position=1, name="not this one", critical=False),
        rule(Condition.CONTEXT_TRUTHY, "all", position=2, name="all"),
        rule(Condition.NAME_MATCHES, "^B", position=3, name="never reached", critical=False),
    ]
    judge = Classifier(rules)
    context = {"all": True}
    assert judge.classify("A", "", context).rule == rules[0]
    assert judge.classify("A", "", context).critical is False
    assert judge.classify("B", "", context).rule == rules[1]
    assert judge.classify("B", "", {}).rule == rules[2]
    assert judge.classify("C", "", {}) is NO_RULE_MATCHED


def test_no_rule_means_not_critical() -> None:
    """Without a match the step is not critical, and the reason says so."""
    found = Classifier([]).classify("A", "", {})
    assert (found.critical, found.rule, found.because) == (False, None, "No rule matched")


@pytest.mark.parametrize(
    ("value", "truthy"),
    [
        (None, False),
        (False, False),
        (0, False),
        (0.0, False),
        (-0.0, False),
        (math.nan, False),
        ("", False),
        (True, True),
        (1, True),
        (-1, True),
        (math.inf, True),
        ("0", True),
        (" ", True),
        ([], True),
        ({}, True),
        ([0], True),
    ],
)
def test_truthiness_is_that_of_javascript(value: Any, truthy: bool) -> None:
    """Empty lists and objects are true; null, false, 0, NaN and "" are not."""
    assert is_truthy(value) is truthy
    assert matches(Condition.CONTEXT_TRUTHY, "k", context={"k": value}) is truthy


def test_a_missing_key_is_neither_true_nor_null() -> None:
    """No condition on the context matches a key that is not there."""
    assert not matches(Condition.CONTEXT_TRUTHY, "k")
    assert not matches(Condition.CONTEXT_EQUALS, "k", None)
    assert matches(Condition.CONTEXT_EQUALS, "k", None, context={"k": None})
    assert not matches(Condition.CONTEXT_LIST_NONEMPTY, "k")


@pytest.mark.parametrize(
    ("left", "right", "same"),
    [
        (1, 1.0, True),
        (1, True, False),
        (0, False, False),
        (0, None, False),
        ("", None, False),
        ("1", 1, False),
        ([1, [True]], [1.0, [True]], True),
        ([1, [True]], [1, [1]], False),
        ([1], [1, 2], False),
        ([], {}, False),
        ({"a": 1, "b": []}, {"b": [], "a": 1}, True),
        ({"a": 1}, {"a": True}, False),
        ({"a": 1}, {"b": 1}, False),
        ({"a": None}, {}, False),
        (math.nan, math.nan, False),
    ],
)
def test_equality_is_by_type_and_value(left: Any, right: Any, same: bool) -> None:
    """JSON equality: numbers by value, everything else also by type, at any depth."""
    assert equals(left, right) is same
    assert equals(right, left) is same


def test_equality_survives_any_depth() -> None:
    """Values nested deeper than the interpreter's stack can be compared."""
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    assert not equals(deep, [1])
    assert equals(deep, deep)


@pytest.mark.parametrize(
    ("value", "found"),
    [([1], True), ([None], True), ([], False), ({"a": 1}, False), ("text", False), (None, False)],
)
def test_list_condition_wants_a_list(value: Any, found: bool) -> None:
    """Only a list with something in it matches."""
    assert matches(Condition.CONTEXT_LIST_NONEMPTY, "k", context={"k": value}) is found


def test_category_is_compared_whole() -> None:
    """A category matches as a whole, in its own case."""
    assert matches(Condition.CATEGORY_IS, "search", category="search")
    assert not matches(Condition.CATEGORY_IS, "search", category="Search")
    assert not matches(Condition.CATEGORY_IS, "search", category="research")


def test_patterns_are_searched_anywhere() -> None:
    """A pattern without anchors is found in the middle of a name."""
    assert matches(Condition.NAME_MATCHES, "dex", name="RebuildIndexStep")
    assert not matches(Condition.NAME_MATCHES, "^dex", name="RebuildIndexStep")
    assert matches(Condition.NAME_MATCHES, "^ü.€$", name="üß€")
    assert matches(Condition.NAME_MATCHES, r"\pL", name="ß")


@pytest.mark.parametrize("name", ["\ud800", "IDE\udfffStep", "a\ud800\udc00b", "\udc00\ud800"])
def test_lone_surrogates_do_not_crash(name: str) -> None:
    """Half of a surrogate pair counts as one replacement character."""
    assert matches(Condition.NAME_MATCHES, "^.*$", name=name)
    assert not matches(Condition.NAME_MATCHES, "zzz", name=name)
    assert DEFAULT.classify(name, "", {}).critical is (name == "IDE\udfffStep")
    assert matches(Condition.NAME_EQUALS, name, name=name)
    assert matches(Condition.NAME_MATCHES, "^\ufffd$", name="\ud800")


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(", "missing )"),
        ("a(?=b)", "invalid perl operator: (?="),
        (r"(a)\1", r"invalid escape sequence: \1"),
        ("a{2000}", "invalid repetition size"),
        ("(?:a{1000}){1000}", "invalid repetition size"),
        (r"(?:\pL{500}){2}", "too large"),
        ("", "empty"),
        ("x" * 1001, "at most 1000"),
        ("\ud800", "surrogate"),
    ],
)
def test_refused_patterns_have_a_reason(
    pattern: str, reason: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What RE2 cannot search in linear time is refused in words, and nothing is printed."""
    problem = pattern_problem(pattern)
    assert problem is not None
    assert reason in problem
    assert capfd.readouterr().err == ""


def test_a_refused_pattern_among_the_rules_is_named() -> None:
    """A rule that slipped past validation is an error that names it."""
    with pytest.raises(RuleError, match="Rule 7 “odd”: RE2 refuses"):
        Classifier([rule(Condition.NAME_MATCHES, "(", position=7, name="odd")])


def test_good_patterns_have_no_problem() -> None:
    """Every default pattern, and one of the greatest length, is accepted."""
    assert pattern_problem("x" * 1000) is None
    assert all(pattern_problem(spec.operand) is None for spec in DEFAULT_RULES[8:17])


def test_nasty_patterns_take_linear_time() -> None:
    """A pattern that makes backtracking engines hang does not."""
    judge = Classifier([rule(Condition.NAME_MATCHES, "(x+x+)+y")])
    started = time.perf_counter()
    assert not judge.classify("x" * 100_000, "", {}).critical
    assert time.perf_counter() - started < 1


def test_because_is_one_sentence_with_the_rule() -> None:
    """The reason names the rule's number, its name and its condition."""
    assert DEFAULT.classify("MyIDEStep", "", {}).because == (
        'Rule 9 “IDE steps”: the name matches "IDE.*Step$"'
    )
    assert DEFAULT.classify("x", "", {"execution_mode": "workflow"}).because == (
        'Rule 21 “Workflow mode”: the context\'s "execution_mode" is "workflow"'
    )


def test_because_is_cut_to_what_is_stored() -> None:
    """A pattern of the greatest length still gives a reason that fits its column."""
    long = rule(Condition.NAME_MATCHES, "a?" * 500, name="n" * 200)
    because = Classifier([long]).classify("a", "", {}).because
    assert len(because) == BECAUSE_LENGTH
    assert because.endswith("…")


def test_braces_in_operands_are_text() -> None:
    """A pattern with braces is shown as it is."""
    assert rule(Condition.NAME_EQUALS, "{0}{value}").phrase == 'the name is "{0}{value}"'


@given(names, contexts)
def test_trace_agrees_with_the_verdict(name: str, context: dict[str, Any]) -> None:
    """The trace ends with the rule that decided, and only that one matched."""
    verdict = DEFAULT.classify(name, "", context)
    lines = DEFAULT.trace(name, "", context)
    matched = [line.rule for line in lines if line.matched]
    assert matched == ([] if verdict.rule is None else [verdict.rule])
    if verdict.rule is None:
        assert [line.rule for line in lines] == list(DEFAULT_RULES)
    else:
        assert lines[-1].rule == verdict.rule
        assert len(lines) == verdict.rule.position


def test_trace_says_why_rules_passed() -> None:
    """Each line has a reason of its own."""
    context = {"workflow_id": "", "dependencies": {}}
    why = [line.why for line in DEFAULT.trace("x", "", context)]
    assert why[0] == 'not so: the name is "IDESendMessageStep"'
    assert why[17] == 'the context\'s "workflow_id" is ""'
    assert why[18] == 'the context has no "task_id"'
    assert why[21] == 'the context\'s "dependencies" is {}'


def test_hash_follows_content_and_order() -> None:
    """Equal rules hash alike; any change of text, verdict or order changes the hash."""
    one, other = DEFAULT_RULES[0], DEFAULT_RULES[1]
    assert rules_hash([one, other]) == rules_hash((one, other))
    assert rules_hash([one, other]) != rules_hash([other, one])
    assert rules_hash([one]) != rules_hash([])
    equal_in_python = (True, 1)
    hashes = {rules_hash([rule(Condition.CONTEXT_EQUALS, "k", value)]) for value in equal_in_python}
    assert len(hashes) == 2


@given(json_values.filter(lambda value: value == value))
def test_specs_survive_json(value: Any) -> None:
    """A rule set is stored as JSON and comes back equal."""
    spec = rule(Condition.CONTEXT_EQUALS, "k", value)
    assert RuleSpec.from_json(spec.to_json()) == spec


def test_ten_thousand_steps_are_judged_quickly() -> None:
    """The default rules judge 10,000 different names well within a second."""
    judge = DEFAULT.within({"execution_mode": "manual"})
    started = time.perf_counter()
    for number in range(10_000):
        judge(f"OrdinaryWork{number}", "")
    assert time.perf_counter() - started < 1
