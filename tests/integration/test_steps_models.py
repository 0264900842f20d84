"""Constraints, validation and rule sets."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from django.test.utils import CaptureQueriesContext

from steps.classifier import DEFAULT_RULES, Condition, RuleSpec
from steps.conf import conf
from steps.models import Batch, BatchStep, ClassificationRule, RuleSet, Step
from steps.permissions import definable_kinds, may_define
from tests.factories import make_user

COMMAND: dict[str, Any] = {"kind": "command", "target": {"argv": ["true"]}}


@pytest.fixture
def batch(db: None) -> Batch:
    return Batch.objects.create(slug="nightly", name="Nightly")


@pytest.fixture
def step(db: None) -> Step:
    return Step.objects.create(name="TidyStep", **COMMAND)


@pytest.mark.django_db
@pytest.mark.parametrize(
    "facts",
    [
        {"timeout_seconds": 0},
        {"timeout_seconds": -1},
        {"grace_seconds": -0.1},
        {"attempts": 0},
        {"backoff_seconds": -1},
        {"name": ""},
    ],
)
def test_database_refuses_impossible_steps(facts):
    """Numbers that make no sense are refused below every form."""
    with pytest.raises(IntegrityError):
        Step.objects.create(**{"name": "A", **COMMAND, **facts})


@pytest.mark.django_db
@pytest.mark.parametrize(
    "facts",
    [
        {"pool_width": 0},
        {"pool_width": 257},
        {"default_timeout_seconds": 0},
        {"max_active_runs": 0},
        {"failure_policy": "shrug"},
        {"pool_start": "whenever"},
        {"slug": ""},
    ],
)
def test_database_refuses_impossible_batches(facts):
    """A batch has a pool of 1 to 256, positive limits and known policies."""
    with pytest.raises(IntegrityError):
        Batch.objects.create(**{"slug": "a", "name": "A", **facts})


@pytest.mark.django_db
def test_edges_are_allowed():
    """The least and the greatest allowed values can be stored."""
    Step.objects.create(
        name="A", **COMMAND, timeout_seconds=0.001, grace_seconds=0, attempts=1, backoff_seconds=0
    )
    Batch.objects.create(slug="a", name="A", pool_width=1)
    Batch.objects.create(slug="b", name="B", pool_width=256)


def test_database_refuses_two_entries_of_one_name(batch, step):
    """Neither the same own name nor the same nameless step can come twice."""
    BatchStep.objects.create(batch=batch, step=step)
    with pytest.raises(IntegrityError), transaction.atomic():
        BatchStep.objects.create(batch=batch, step=step)
    BatchStep.objects.create(batch=batch, step=step, name="again")
    with pytest.raises(IntegrityError), transaction.atomic():
        BatchStep.objects.create(batch=batch, step=step, name="again")
    with pytest.raises(IntegrityError), transaction.atomic():
        BatchStep.objects.create(batch=batch, step=step, name="late", timeout_seconds=-1)


def test_step_of_a_batch_cannot_be_deleted(batch, step):
    """A batch never loses an entry silently."""
    BatchStep.objects.create(batch=batch, step=step)
    with pytest.raises(IntegrityError):
        step.delete()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("facts", "field"),
    [
        ({"name": "a\u0007"}, "name"),
        ({"name": "a\ud800"}, "name"),
        ({"kind": "shell"}, "kind"),
        ({"target": {"argv": []}}, "target"),
        ({"target": "ls"}, "target"),
        ({"parameters": [1]}, "parameters"),
        ({"parameters": {"a": float("nan")}}, "parameters"),
        ({"timeout_seconds": -3}, "timeout_seconds"),
        ({"timeout_seconds": float("inf")}, "timeout_seconds"),
        ({"attempts": 101}, "attempts"),
        ({"category": "a\nb"}, "category"),
        ({"description": "a\0b"}, "description"),
    ],
)
def test_step_validation_names_the_field(facts, field):
    """`full_clean` complains about the field that is wrong."""
    with pytest.raises(ValidationError) as caught:
        Step(**{"name": "A", **COMMAND, **facts}).full_clean()
    assert set(caught.value.message_dict) == {field}


@pytest.mark.django_db
def test_markup_in_names_is_text():
    """Angle brackets are allowed: templates escape them."""
    Step(name="<b>A & B</b>", **COMMAND).full_clean()


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("condition", "operand", "value", "field"),
    [
        ("name_matches", "a(?!b)", None, "operand"),
        ("name_matches", "", None, "operand"),
        ("name_equals", "a\nb", None, "operand"),
        ("category_is", "x" * 101, None, "operand"),
        ("context_truthy", "key", 1, "value"),
        ("context_equals", "key", float("nan"), "value"),
        ("no_such", "key", None, "condition"),
    ],
)
def test_rule_validation_names_the_field(condition, operand, value, field):
    """A rule that could not work is refused at save, with the reason."""
    rule = ClassificationRule(
        position=1, name="r", condition=condition, operand=operand, value=value
    )
    with pytest.raises(ValidationError) as caught:
        rule.full_clean()
    assert field in caught.value.message_dict


@pytest.mark.django_db
def test_refused_pattern_has_the_reason_of_re2():
    """The message is RE2's own."""
    rule = ClassificationRule(position=1, name="r", condition="name_matches", operand="a(?=b)")
    with pytest.raises(ValidationError, match="RE2 refuses the pattern: invalid perl operator"):
        rule.full_clean()


@pytest.mark.django_db
def test_migration_installs_the_default_rules():
    """A new installation has the default rules, all on, in order, and each is valid."""
    assert ClassificationRule.objects.specs() == list(DEFAULT_RULES)
    for rule in ClassificationRule.objects.all():
        rule.full_clean()


@pytest.mark.django_db
def test_sentence_reads_as_a_rule():
    """The admin's list shows a rule in words."""
    rule = ClassificationRule.objects.get(name="IDE steps")
    assert rule.sentence == 'Critical if the name matches "IDE.*Step$"'
    rule.critical = False
    assert rule.sentence == 'Not critical if the name matches "IDE.*Step$"'


@pytest.mark.django_db
def test_positions_count_the_active_rules_only():
    """The rule that a reason names is its place among the rules that are on."""
    ClassificationRule.objects.filter(position__lte=3).update(enabled=False)
    ruleset = RuleSet.current()
    found = ruleset.classifier.classify("WorkflowExecutionStep", "", {})
    assert found.rule is not None
    assert found.rule.position == 1
    assert found.because.startswith("Rule 1 “WorkflowExecutionStep”")
    places = {r.name: r.place for r in ClassificationRule.objects.with_place()}  # type: ignore[attr-defined]
    assert places["WorkflowExecutionStep"] == 1
    assert places["Has dependencies"] == 19


@pytest.mark.django_db
def test_rule_set_is_made_once_and_costs_two_queries():
    """The same rules give the same row; other rules give another, and the old one stays."""
    first = RuleSet.current()
    with CaptureQueriesContext(
        connection,
    ) as queries:
        assert RuleSet.current() == first
    assert len(queries) == 2
    ClassificationRule.objects.filter(name="IDE steps").update(enabled=False)
    second = RuleSet.current()
    assert second != first
    assert first.specs() == list(DEFAULT_RULES)
    assert len(second.specs()) == 21
    ClassificationRule.objects.filter(name="IDE steps").update(enabled=True)
    assert RuleSet.current() == first


@pytest.mark.django_db
def test_rule_set_of_no_rules():
    """Without rules nothing is critical."""
    ClassificationRule.objects.all().delete()
    ruleset = RuleSet.current()
    assert ruleset.specs() == []
    assert not ruleset.classifier.classify("TestingStep", "", {}).critical


@pytest.mark.django_db
def test_json_values_of_rules_survive_the_database():
    """Null, true and 1 stay what they are."""
    ClassificationRule.objects.all().delete()
    for position, value in enumerate([None, True, 1, "1", {"a": [1.5]}], start=1):
        spec = RuleSpec(position, f"r{position}", Condition.CONTEXT_EQUALS, "k", value, True)
        ClassificationRule.from_spec(spec).save()
    judge = RuleSet.current().classifier
    for position, value in enumerate([None, True, 1, "1", {"a": [1.5]}], start=1):
        found = judge.classify("x", "", {"k": value})
        assert found.rule is not None
        assert found.rule.position == position


@pytest.mark.django_db(transaction=True)
def test_rule_set_survives_a_race():
    """Many callers that meet new rules at once all get the same row."""
    ClassificationRule.objects.all().delete()
    ClassificationRule.objects.create(
        position=1, name="race", condition="name_equals", operand="RaceStep"
    )
    barrier = threading.Barrier(8)
    found: list[int] = []
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            barrier.wait(10)
            found.append(RuleSet.current().pk)
        except BaseException as error:
            errors.append(error)
        finally:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert len(found) == 8
    assert set(found) == {RuleSet.objects.get().pk}


@pytest.mark.django_db
@pytest.mark.parametrize("kind", ["command", "management", "nobody_knows"])
def test_only_superusers_define_what_runs_code(kind, settings):
    """Others need the setting and the permission, both."""
    anyone = make_user("anyone", "steps.add_step", "steps.change_step")
    trusted = make_user("trusted", "steps.define_command_step")
    root = make_user("root", is_superuser=True)
    gone = make_user("gone", is_superuser=True, is_active=False)
    allowed = {user.username for user in (anyone, trusted, root, gone) if may_define(user, kind)}
    assert allowed == {"root"}
    settings.STEPSITE = {"COMMANDS_BY_PERMISSION": True}
    assert conf.commands_by_permission
    allowed = {user.username for user in (anyone, trusted, root, gone) if may_define(user, kind)}
    assert allowed == {"root", "trusted"}


@pytest.mark.django_db
def test_everybody_may_define_requests():
    """HTTP steps run no code of their author's on the workers."""
    assert [kind.name for kind in definable_kinds(make_user())] == ["python", "http"]
