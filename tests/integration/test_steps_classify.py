"""`manage.py classify`."""

from __future__ import annotations

import io
import json
import sys
import time
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from steps.models import ClassificationRule, Step

pytestmark = pytest.mark.django_db


@pytest.fixture
def classify(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs the command on bytes; returns the answers and the closing error or None."""

    def run(text: bytes) -> tuple[list[dict[str, Any]], str | None]:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text)))
        out = io.StringIO()
        error = None
        try:
            call_command("classify", stdout=out)
        except CommandError as raised:
            error = f"{raised} (exit code {raised.returncode})"
        return [json.loads(line) for line in out.getvalue().splitlines()], error

    return run


def lines(*questions: Any) -> bytes:
    return "".join(json.dumps(question) + "\n" for question in questions).encode()


def test_one_answer_for_each_question(classify):
    """Answers come in the order of the questions, with exactly the agreed keys."""
    answers, error = classify(
        lines(
            {"name": "MyIDEStep", "context": {}},
            {"name": "Plain", "context": {"workflow_id": []}},
            {"name": "Plain", "context": {"workflow_id": 0}},
            {"name": "Plain"},
        )
    )
    assert error is None
    assert answers == [
        {
            "name": "MyIDEStep",
            "critical": True,
            "rule": "IDE steps",
            "because": 'Rule 9 “IDE steps”: the name matches "IDE.*Step$"',
        },
        {
            "name": "Plain",
            "critical": True,
            "rule": "Part of a workflow",
            "because": 'Rule 18 “Part of a workflow”: the context has "workflow_id"',
        },
        {"name": "Plain", "critical": False, "rule": None, "because": "No rule matched"},
        {"name": "Plain", "critical": False, "rule": None, "because": "No rule matched"},
    ]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        (b"{", "not JSON"),
        (b"[1]", "not an object"),
        (b'"name"', "not an object"),
        (b'{"context": {}}', "The name is null"),
        (b'{"name": 3}', "The name is 3"),
        (b'{"name": "a", "context": []}', "The context is []"),
        (b'{"name": "a", "context": null}', "The context is null"),
        (b'{"name": "a", "category": 3}', "The category is 3"),
        (b'{"name": "\xff"}', "not UTF-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"name": "a", "context": {"x": ' + b"9" * 5000 + b"}}", "cannot be read"),
    ],
)
def test_a_bad_line_spoils_only_itself(classify, bad, error):
    """It is answered with its number and reason; the others are answered; the end is exit 1."""
    good = b'{"name": "TestingStep"}\n'
    answers, closing = classify(good + bad + b"\n" + good)
    assert [answer.get("critical") for answer in answers] == [True, None, True]
    assert answers[1]["line"] == 2
    assert error in answers[1]["error"]
    assert set(answers[1]) == {"line", "error"}
    assert closing == "1 line could not be read. (exit code 1)"


def test_odd_names_are_no_bad_lines(classify):
    """Halves of surrogate pairs, NUL, markup and nothing at all are names like any other."""
    names = ["\ud800IDEStep", "a\0IDE Step", "<b>", "", "x" * 100_000]
    answers, error = classify(lines(*({"name": name} for name in names)))
    assert error is None
    assert [answer["name"] for answer in answers] == names
    assert [answer["critical"] for answer in answers] == [True, True, False, False, False]


def test_blank_lines_and_a_byte_order_mark_are_passed_over(classify):
    """Blank lines have no answer, but they count."""
    answers, error = classify(b'\xef\xbb\xbf{"name": "TestingStep"}\n\n  \nx\n')
    assert [answer.get("line") for answer in answers] == [None, 4]
    assert error == "1 line could not be read. (exit code 1)"
    assert classify(b"") == ([], None)


def test_rules_and_categories_are_those_of_the_site(classify):
    """Rules that are off do not count; the category is the step's, or the one given."""
    ClassificationRule.objects.all().update(enabled=False)
    ClassificationRule.objects.create(
        position=99, name="Billing", condition="category_is", operand="billing"
    )
    Step.objects.create(name="PayStep", kind="command", category="billing")
    answers, _ = classify(
        lines(
            {"name": "PayStep"},
            {"name": "PayStep", "category": "other"},
            {"name": "NewStep", "category": "billing"},
            {"name": "TestingStep"},
        )
    )
    assert [answer["critical"] for answer in answers] == [True, False, True, False]
    assert answers[0]["because"] == 'Rule 1 “Billing”: the category is "billing"'


def test_five_thousand_lines_take_a_few_seconds(classify):
    """The bar is a few seconds; this leaves room for a slow machine."""
    questions = [
        {"name": f"Work{n}", "context": {"n": n, "execution_mode": "manual"}} for n in range(5_000)
    ]
    started = time.perf_counter()
    answers, error = classify(lines(*questions))
    assert time.perf_counter() - started < 3
    assert (len(answers), error) == (5_000, None)
