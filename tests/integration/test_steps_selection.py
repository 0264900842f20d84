"""Which entries a run would execute."""

from __future__ import annotations

import time
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from steps.models import Batch, BatchStep, RuleSet, Step
from steps.selection import SelectionError, select, select_steps

pytestmark = pytest.mark.django_db


def make_step(name: str, **facts: Any) -> Step:
    facts = {"kind": "command", "target": {"argv": ["true"]}, **facts}
    return Step.objects.create(name=name, **facts)


def add(batch: Batch, step: Step, position: int, **facts: Any) -> BatchStep:
    return BatchStep.objects.create(batch=batch, step=step, position=position, **facts)


@pytest.fixture
def batch() -> Batch:
    """Three entries in the order C, A, B; B is off."""
    batch = Batch.objects.create(slug="nightly", name="Nightly")
    a = make_step("CreateAStep", category="x", parameters={"p": 1, "q": 1}, timeout_seconds=10)
    b = make_step("BStep")
    add(batch, b, 30, name="off", enabled=False)
    add(batch, a, 20, parameters={"q": 2}, timeout_seconds=5)
    add(batch, b, 10, name="first")
    return batch


def refusals(*arguments: Any) -> list[str]:
    with pytest.raises(SelectionError) as caught:
        select(*arguments)
    return caught.value.problems


def test_all_entries_that_are_on_in_order(batch):
    """Without names, every enabled entry comes, numbered from 0, judged and merged."""
    selection = select(batch, {})
    assert selection.ruleset == RuleSet.objects.get()
    first, second = selection.entries
    assert (first.position, first.name, first.step_name) == (0, "first", "BStep")
    assert (first.critical, first.rule_position, first.because) == (False, None, "No rule matched")
    assert (first.timeout_seconds, first.parameters) == (None, {})
    assert (second.position, second.name, second.step_name) == (1, "CreateAStep", "CreateAStep")
    assert (second.critical, second.rule_position) == (True, 16)
    assert second.because.startswith("Rule 16 “Create steps”")
    assert second.parameters == {"p": 1, "q": 2}
    assert second.timeout_seconds == 5
    assert (second.kind, second.category) == ("command", "x")
    assert second.target == {"argv": ["true"]}
    assert (second.grace_seconds, second.attempts, second.backoff_seconds) == (5, 3, 1)
    assert (second.retry_safe, second.protected, second.missing) == (False, False, False)


def test_rules_read_the_step_not_the_entry(batch):
    """An entry's own name does not change its verdict; the context does."""
    BatchStep.objects.filter(name="first").update(name="TestingStep")
    assert not select(batch, {}).entries[0].critical
    assert all(entry.critical for entry in select(batch, {"task_id": "7"}).entries)


def test_chosen_names_keep_the_order_of_the_batch(batch):
    """The order of the names does not matter, and the choice is numbered from 0."""
    chosen = select(batch, {}, ["CreateAStep", "first"])
    assert [entry.name for entry in chosen.entries] == ["first", "CreateAStep"]
    (only,) = select(batch, {}, ["CreateAStep"]).entries
    assert (only.position, only.name) == (0, "CreateAStep")


def test_all_problems_with_names_are_told(batch):
    """Unknown, repeated, switched off and impossible names are told apart, all at once."""
    assert refusals(batch, {}, ["first", "first", "off", "BStep", 7, "\ud800"]) == [
        "7 is not a name.",
        '"first" was chosen twice.',
        'The batch “Nightly” has no entry called "BStep".',
        'The entry "off" is off.',
        'The batch “Nightly” has no entry called "\\ud800".',
    ]


def test_nothing_left_is_a_problem(batch):
    """An empty choice, and a batch without an entry that is on, cannot be run."""
    assert refusals(batch, {}, []) == ["Choose at least one step."]
    batch.entries.update(enabled=False)
    assert refusals(batch, {}) == ["The batch “Nightly” has no entry that is on."]
    empty = Batch.objects.create(slug="empty", name="Empty")
    assert refusals(empty, {}) == ["The batch “Empty” has no entry that is on."]


def test_two_entries_of_one_name_are_a_problem(batch):
    """A name that an entry has, and another one's step, is told and never run twice."""
    add(batch, make_step("CStep"), 40, name="CreateAStep")
    assert refusals(batch, {}) == ['Two entries of the batch “Nightly” are called "CreateAStep".']


def test_missing_steps_are_selected_and_marked(batch):
    """A step without its function can be planned; the plan says that it is missing."""
    add(batch, make_step("GoneStep", kind="python", target={}, missing=True), 50)
    assert [entry.missing for entry in select(batch, {}).entries] == [False, False, True]


def test_steps_without_a_batch(batch):
    """`select_steps` takes steps by name, in the order given."""
    selection = select_steps(["CreateAStep", "BStep"], {"analysis_id": 0})
    assert [(entry.name, entry.critical) for entry in selection.entries] == [
        ("CreateAStep", True),
        ("BStep", False),
    ]
    assert selection.entries[0].parameters == {"p": 1, "q": 1}
    assert selection.entries[0].timeout_seconds == 10
    with pytest.raises(SelectionError) as caught:
        select_steps(["BStep", "BStep", "NoStep"], {})
    assert caught.value.problems == [
        '"BStep" was chosen twice.',
        'There is no step called "NoStep".',
    ]
    with pytest.raises(SelectionError):
        select_steps([], {})


def test_ten_thousand_entries_take_a_second_and_three_queries():
    """The size of a batch changes neither the number of queries nor the patience needed."""
    steps = Step.objects.bulk_create(
        Step(name=f"Work{n}", kind="command", target={"argv": ["true", str(n)]})
        for n in range(10_000)
    )
    batch = Batch.objects.create(slug="large", name="Large")
    BatchStep.objects.bulk_create(
        BatchStep(batch=batch, step=step, position=n, parameters={"n": n})
        for n, step in enumerate(steps)
    )
    RuleSet.current()
    names = [f"Work{n}" for n in range(0, 10_000, 2)]
    with CaptureQueriesContext(connection) as queries:
        started = time.perf_counter()
        selection = select(batch, {"execution_mode": "manual"})
        seconds = time.perf_counter() - started
    assert len(selection.entries) == 10_000
    assert len(queries) == 3
    assert seconds < 1
    with CaptureQueriesContext(connection) as queries:
        assert len(select(batch, {}, names).entries) == 5_000
    assert len(queries) == 3
