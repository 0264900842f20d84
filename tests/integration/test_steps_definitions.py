"""Definitions as YAML: in, out, and refused."""

from __future__ import annotations

import io
import itertools
import json
import re
import sys
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.forms.models import model_to_dict
from hypothesis import HealthCheck, example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from steps.definitions import DefinitionError, UnknownBatch, dump, load
from steps.document import Document, to_yaml
from steps.file_format import BATCH_FIELDS, ENTRY_FIELDS, RULE_FIELDS, STEP_FIELDS
from steps.models import Batch, BatchStep, ClassificationRule, RuleSet, Step
from steps.values import json_problem

FILE = """
steps:
  - name: SearchStep
    kind: command
    category: source
    description: |
      Searches.

      In two paragraphs.
    target:
      argv: [grep, -rn, "{what}"]
      exit_codes: [0, 1]
    parameters: {what: TODO}
    timeout_seconds: 5
    retry_safe: true
  - name: FetchStep
    kind: http
    target: {url: "http://localhost:8000/", allow_private: true}
batches:
  - slug: source-care
    name: Care of the source
    context: {execution_mode: manual, nested: {list: [1, 2.5, null, true, "on"]}}
    pool_width: 2
    failure_policy: stop_run
    pool_start: beside_critical
    default_timeout_seconds: 12.5
    max_active_runs: 3
    entries:
      - SearchStep
      - step: SearchStep
        name: Search again
        enabled: false
        parameters: {what: FIXME}
        timeout_seconds: 3
      - FetchStep
"""


def state() -> list[dict[str, Any]]:
    """Every definition, with its keys: equal before and after means that nothing changed."""
    return [
        model_to_dict(row) | {"id": row.pk}
        for model in (Step, Batch, BatchStep, ClassificationRule)
        for row in model._default_manager.order_by("pk")
    ]


def problems(text: str | bytes) -> list[str]:
    """What is wrong with a file, after checking that it changed nothing."""
    before = state()
    with pytest.raises(DefinitionError) as caught:
        load(text)
    assert state() == before
    return [str(problem) for problem in caught.value.problems]


def entry_names(slug: str) -> list[str]:
    entries = Batch.objects.get(slug=slug).entries.select_related("step")
    return [entry.effective_name for entry in entries.order_by("position", "id")]


@pytest.mark.django_db
def test_load_makes_what_the_file_says():
    """Every field of the format arrives in its row."""
    report = load(FILE)
    assert str(report) == "2 steps created, 1 batch created, 3 entries created"
    step = Step.objects.get(name="SearchStep")
    assert step.target == {"argv": ["grep", "-rn", "{what}"], "exit_codes": [0, 1]}
    assert step.description == "Searches.\n\nIn two paragraphs.\n"
    assert (step.timeout_seconds, step.retry_safe, step.attempts) == (5, True, 3)
    batch = Batch.objects.get(slug="source-care")
    assert batch.context["nested"] == {"list": [1, 2.5, None, True, "on"]}
    assert (batch.pool_width, batch.failure_policy) == (2, "stop_run")
    assert (batch.pool_start, batch.default_timeout_seconds) == ("beside_critical", 12.5)
    assert batch.max_active_runs == 3
    assert entry_names("source-care") == ["SearchStep", "Search again", "FetchStep"]
    again = batch.entries.get(name="Search again")
    assert (again.enabled, again.parameters, again.timeout_seconds) == (False, {"what": "FIXME"}, 3)
    for row in [*Step.objects.by_hand(), batch, *batch.entries.all()]:
        row.full_clean()


@pytest.mark.django_db
def test_loading_twice_changes_nothing():
    """The second time every row is unchanged, keys included."""
    load(FILE)
    before = state()
    report = load(FILE)
    assert not report.changed
    assert str(report) == "2 steps unchanged, 1 batch unchanged, 3 entries unchanged"
    assert state() == before


@pytest.mark.django_db
def test_dumping_and_loading_changes_nothing():
    """A dump of everything loads without a change, and dumps the same again."""
    load(FILE)
    BatchStep.objects.filter(name="Search again").update(position=90)
    ClassificationRule.objects.create(
        position=50, name="null", condition="context_equals", operand="k", critical=False
    )
    ClassificationRule.objects.filter(name="IDE steps").update(enabled=False)
    Step.objects.create(name="LostStep", kind="python", missing=True)
    Batch.objects.create(slug="empty", name="Empty")
    before = state()
    text = dump()
    assert not load(text).changed
    assert state() == before
    assert dump() == text


@pytest.mark.django_db
def test_a_dump_restores_an_empty_site():
    """What was dumped comes back in full after everything was deleted."""
    load(FILE)
    text = dump()
    BatchStep.objects.all().delete()
    for model in (Batch, ClassificationRule):
        model.objects.all().delete()
    Step.objects.by_hand().delete()
    load(text)
    assert dump() == text


@pytest.mark.django_db
def test_load_updates_replaces_and_reorders():
    """Fields left out return to their defaults; the entries become those of the file."""
    load(FILE)
    kept = BatchStep.objects.get(name="Search again").pk
    report = load(
        """
        steps:
          - {name: SearchStep, kind: command, target: {argv: [find]}}
        batches:
          - slug: source-care
            name: Care
            entries:
              - {step: FetchStep, name: Search again}
              - SearchStep
        """
    )
    assert str(report) == ("1 step updated, 1 batch updated, 2 entries updated, 1 entry deleted")
    step = Step.objects.get(name="SearchStep")
    assert (step.target, step.parameters, step.timeout_seconds) == ({"argv": ["find"]}, {}, None)
    assert (step.category, step.description, step.retry_safe) == ("", "", False)
    assert Batch.objects.get(slug="source-care").pool_width == 4
    assert entry_names("source-care") == ["Search again", "SearchStep"]
    again = BatchStep.objects.get(pk=kept)
    assert (again.step.name, again.enabled, again.parameters) == ("FetchStep", True, {})


@pytest.mark.django_db
def test_load_leaves_alone_what_the_file_does_not_name():
    """Other steps and batches stay, and so do the rules of a file without that section."""
    load(FILE)
    before = state()
    load("batches: [{slug: other, name: Other, entries: [FetchStep]}]")
    after = state()
    assert [row for row in after if row in before] == before
    assert len(after) == len(before) + 2


@pytest.mark.django_db
def test_rules_of_a_file_replace_all_rules():
    """Rules are known by name, so one that stays keeps its row; the rest goes."""
    kept = ClassificationRule.objects.get(name="IDE steps").pk
    report = load(
        """
        rules:
          - {name: Never, condition: name_equals, operand: QuickStep, critical: false}
          - {name: IDE steps, condition: name_matches, operand: '^IDE'}
          - {name: Mode, condition: context_equals, operand: mode, value: {deep: [1, null]}}
          - {name: Later, condition: category_is, operand: x, enabled: false}
        """
    )
    assert str(report) == "3 rules created, 1 rule updated, 21 rules deleted"
    specs = RuleSet.current().specs()
    assert [(s.position, s.name, s.critical) for s in specs] == [
        (1, "Never", False),
        (2, "IDE steps", True),
        (3, "Mode", True),
    ]
    assert specs[2].value == {"deep": [1, None]}
    assert ClassificationRule.objects.get(name="IDE steps").pk == kept
    load("rules: []")
    assert not ClassificationRule.objects.exists()


@pytest.mark.django_db
def test_a_value_changes_type_only():
    """1, 1.0, true and "1" are different values, although Python finds three of them equal."""
    text = "steps: [{name: A, kind: command, target: {argv: [a]}, parameters: {p: %s}}]"
    for value in ("1", "true", "1.0", '"1"', "null", "1"):
        assert load(text % value).changed
        stored = Step.objects.get(name="A").parameters["p"]
        assert json.dumps(stored) == value


@pytest.mark.django_db
def test_dry_run_changes_nothing():
    """It says what would happen, and nothing does."""
    before = state()
    report = load(FILE, dry_run=True)
    assert report.created["entries"] == 3
    assert state() == before


@pytest.mark.django_db
def test_every_problem_names_line_field_value_and_what_is_allowed():
    """All problems of a file come at once, in the order of its lines."""
    load(FILE)
    assert problems(
        """steps:
  - name: "bell\\u0007"
    kind: shell
    timout_seconds: 3
  - {name: X, kind: command, target: {argv: []}}
  - name: X
    kind: command
    target: {arg: [], exit_codes: [0, 999]}
    timeout_seconds: -3
    attempts: true
  - {name: H, kind: http, target: {url: "ftp://x"}}
  - just text
batches:
  - slug: a b
    pool_width: 0
    failure_policy: off
    pool_start: 3
    context: []
    max_active_runs: 0
    entries:
      - SerchStep
      - X
      - {step: X, enabled: 1}
      - {step: H, parameters: [1], timeout_seconds: 0}
      - 5
  - {slug: s, name: S, entries: X}
  - {slug: s, name: S, entries: []}
rules:
  - {name: R, condition: name_matches, operand: "a(?=b)"}
  - {name: S, condition: context_equals, operand: k}
  - {name: T, condition: category_is, operand: k, value: 3, critical: maybe}
  - {name: R, condition: sounds_like, operand: k}
stepz: []
"""
    ) == [
        'line 2: steps[0].name is "bell\\u0007"; it must have printable characters only, and '
        "U+0007 is not.",
        'line 3: steps[0].kind is "shell"; it must be one of: python, command, http, management.',
        "line 4: steps[0].timout_seconds is 3; it is not a field here (did you mean "
        "timeout_seconds?); the fields are: name, kind, category, description, target, "
        "parameters, timeout_seconds, grace_seconds, retry_safe, attempts, backoff_seconds, "
        "protected.",
        "line 5: steps[1].target.argv is []; it must be a list: the program and its arguments.",
        'line 6: steps[2].name is "X"; it must be unique in the file; line 5 has it.',
        "line 8: steps[2].target.arg is []; it is unknown here; command steps know argv, cwd, "
        "exit_codes, env, secret_env.",
        "line 8: steps[2].target.argv is missing; it must be a list: the program and its "
        "arguments.",
        "line 8: steps[2].target.exit_codes[1] is 999; it must be a whole number from 0 to 255.",
        "line 9: steps[2].timeout_seconds is -3; it must be a number of seconds above 0, up to "
        "2592000 (30 days).",
        "line 10: steps[2].attempts is true; it must be a whole number from 1 to 100.",
        'line 11: steps[3].target.url is "ftp://x"; it must be a URL that begins with http:// or '
        "https:// and names a host.",
        'line 12: steps[4] is "just text"; it must be an object with: name, kind, category, '
        "description, target, parameters, timeout_seconds, grace_seconds, retry_safe, attempts, "
        "backoff_seconds, protected.",
        "line 14: batches[0].name is missing; it must be text (put it in quotes).",
        'line 14: batches[0].slug is "a b"; it must be 1 to 200 letters (a-z, A-Z), digits, '
        "hyphens and underscores.",
        "line 15: batches[0].pool_width is 0; it must be a whole number from 1 to 256.",
        'line 16: batches[0].failure_policy is "off"; it must be one of: continue, '
        "stop_critical, stop_run.",
        "line 17: batches[0].pool_start is 3; it must be one of: after_critical, beside_critical.",
        "line 18: batches[0].context is []; it must be an object: names with values.",
        "line 19: batches[0].max_active_runs is 0; it must be a whole number from 1 to 1000.",
        'line 21: batches[0].entries[0].step is "SerchStep"; it must be the name of a step of '
        "this file or this site (did you mean SearchStep?).",
        "line 23: batches[0].entries[2].enabled is 1; it must be true or false.",
        'line 23: batches[0].entries[2].name is "X"; it must be unique in the batch; line 22 has '
        "it.",
        "line 24: batches[0].entries[3].parameters is [1]; it must be an object: names with "
        "values.",
        "line 24: batches[0].entries[3].timeout_seconds is 0; it must be a number of seconds "
        "above 0, up to 2592000 (30 days).",
        "line 25: batches[0].entries[4] is 5; it must be an object with: step, name, enabled, "
        "parameters, timeout_seconds.",
        'line 26: batches[1].entries is "X"; it must be a list.',
        'line 27: batches[2].slug is "s"; it must be unique in the file; line 26 has it.',
        'line 29: rules[0].operand is "a(?=b)"; RE2 refuses the pattern: invalid perl operator: '
        "(?=.",
        "line 30: rules[1].value is missing; it must be given: the JSON value to compare with.",
        'line 31: rules[2].critical is "maybe"; it must be true or false.',
        "line 31: rules[2].value is 3; it must be left out: only context_equals compares with a "
        "value.",
        'line 32: rules[3].condition is "sounds_like"; it must be one of: name_equals, '
        "name_matches, category_is, context_truthy, context_equals, context_list_nonempty.",
        'line 32: rules[3].name is "R"; it must be unique in the file; line 29 has it.',
        "line 33: stepz is []; it is not a field here (did you mean steps?); the fields are: "
        "steps, batches, rules.",
    ]


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "line 1: the file must hold at least one of: steps, batches, rules."),
        ("- a", "line 1: the file must hold at least one of"),
        ("steps:\n", "line 1: steps is null; it must be a list."),
        ("steps: [1", "line 1: this is no YAML: expected ',' or ']'"),
        ("rules: []\nrules: []", "line 2: this is no YAML: found duplicate key"),
        ("a: *b", "line 1: this is no YAML: found undefined alias"),
        ("--- {}\n--- {}", "line 2: this is no YAML"),
        ("steps:\n\t- a", "line 2: this is no YAML: found character '\\t'"),
        (b"rules: []\nsteps: \xff", "line 2: the file is not UTF-8 here."),
        ("rules: []\n# \x01", "line 2: U+0001 is not allowed in YAML."),
        ("rules:\n- 2020-01-01", 'line 2: rules[0] is "2020-01-01"; it must be text, a number'),
        ("rules: !!python/object:os.system x", 'line 1: rules is "x"; it must be text'),
        ("rules: .nan", 'line 1: rules is "nan"; it must be text, a number'),
        ("rules: []\n1: x", 'line 2: 1 is "1"; the name itself must be text'),
        ("&a [*a]", "line 1: the file is nested too deeply here."),
        ("a: " + "[" * 2000, "this is no YAML: RecursionError"),
        ("a: " + "9" * 5000, "this is no YAML: ValueError"),
        ("a: !!int x", "this is no YAML: ValueError"),
        ("x: " + "y" * (10 * 1024 * 1024), "the file has more than 10485760 bytes."),
        (
            'steps: [{name: A, kind: command, target: {argv: [a]}, parameters: {a: "\\0"}}]',
            'line 1: steps[0].parameters is {"a": "\\u0000"}; it must not contain the NUL',
        ),
        (
            'steps: [{name: "\\ud800", kind: command, target: {argv: [a]}}]',
            'line 1: steps[0].name is "\\ud800"; it must have printable characters only',
        ),
    ],
)
def test_files_that_are_no_definitions(text, problem):
    """Whatever is thrown at it, a file is refused in words, with a line where there is one."""
    (found,) = problems(text)
    assert found.startswith(problem)


@pytest.mark.django_db
def test_aliases_that_unfold_without_end_are_refused():
    """A few lines that stand for billions of values do not fill the memory."""
    letters = "abcdefghij"
    text = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
        f"{here}: &{here} [{', '.join([f'*{before}'] * 9)}]\n"
        for before, here in itertools.pairwise(letters)
    )
    assert problems(text) == ["the file unfolds to more than 500000 values."]


@pytest.mark.django_db
def test_anchors_and_merges_work():
    """YAML's own means of not repeating oneself are welcome."""
    load(
        """
        steps:
          - &base {name: A, kind: command, target: {argv: [a]}, timeout_seconds: 7}
          - {<<: *base, name: B}
        """
    )
    assert Step.objects.get(name="B").timeout_seconds == 7


@pytest.mark.django_db
def test_steps_from_code_belong_to_the_code():
    """A file can use them, but neither define nor make one."""
    name = Step.objects.from_code().first().name  # type: ignore[union-attr]
    load(f"batches: [{{slug: a, name: A, entries: [{name}]}}]")
    assert problems(f"steps: [{{name: {name}, kind: command, target: {{argv: [a]}}}}]") == [
        f'line 1: steps[0].name is "{name}"; it must not be a step that comes from code: take '
        f"this out of the file."
    ]
    assert problems("steps: [{name: NewStep, kind: python}]") == [
        'line 1: steps[0].kind is "python"; it must be one of: command, http, management (Python '
        "steps come from a steps.py)."
    ]


@pytest.mark.django_db
def test_a_step_that_is_in_the_code_gets_its_row():
    """Right after a deployment a file may use a step that no migration has synced yet."""
    name = Step.objects.from_code().first().name  # type: ignore[union-attr]
    Step.objects.filter(name=name).delete()
    load(f"batches: [{{slug: a, name: A, entries: [{name}]}}]")
    assert Step.objects.get(name=name).from_code
    assert entry_names("a") == [name]


@pytest.mark.django_db
def test_dump_of_one_batch_has_its_steps_and_no_rules():
    """A dump of some batches can be handed to another site."""
    load(FILE)
    Step.objects.create(name="UnusedStep", kind="command", target={"argv": ["true"]})
    data = Document(dump(["source-care"])).data
    assert [step["name"] for step in data["steps"]] == ["FetchStep", "SearchStep"]
    assert [batch["slug"] for batch in data["batches"]] == ["source-care"]
    assert "rules" not in data
    with pytest.raises(UnknownBatch, match="There is no batch called nope"):
        dump(["source-care", "nope"])


yaml_texts = st.text(
    st.characters(blacklist_categories=("Cs",), blacklist_characters="\0")
    | st.sampled_from("\n :#-'"),
    max_size=12,
)
yaml_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | yaml_texts
    | st.sampled_from(["on", "null", "1e3", "0o7", "~", "=", "<<", "2020-01-01", "- a", "a: b"]),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(yaml_texts, children, max_size=3)
    ),
    max_leaves=8,
)


@given(yaml_values)
@hypothesis_settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@example("a\nb\n")
@example("  lead\nb")
@example("a \nb")
@example("a\n\n")
@example("a\n\n b\n")
@example("#!/bin/sh\necho hi\n")
@example("\x85\u2028\ufeff\x7f")
@example(1e-7)
@example(1e22)
@example({"<<": 1})
@example({"\x85": "\x85"})
@example("\x85")
def test_every_json_value_survives_yaml(value):
    """What can be stored is written so that reading gives the same value and type."""
    assert json_problem(value) is None
    back = Document(to_yaml({"value": value})).data["value"]
    assert json.dumps(back) == json.dumps(value)


@pytest.mark.django_db
def test_commands_bring_definitions_out_and_in(tmp_path, monkeypatch, capsys):
    """`dump_batches` writes what `load_batches` reads, from files and from standard input."""
    file = tmp_path / "batches.yaml"
    file.write_text(FILE)
    call_command("load_batches", str(file), "--check")
    assert not Batch.objects.filter(slug="source-care").exists()
    call_command("load_batches", str(file))
    call_command("dump_batches", "--output", str(tmp_path / "out.yaml"))
    call_command("dump_batches")
    out = capsys.readouterr().out
    assert out.endswith((tmp_path / "out.yaml").read_text())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(dump().encode())))
    call_command("load_batches", "-")
    assert "created" not in capsys.readouterr().out


@pytest.mark.django_db
def test_load_batches_refuses_all_files_if_one_is_bad(tmp_path):
    """A good file beside a bad one changes nothing either; the error has file and line."""
    good, bad = tmp_path / "good.yaml", tmp_path / "bad.yaml"
    good.write_text(FILE)
    bad.write_text("rules:\n  - {}\n")
    before = state()
    with pytest.raises(CommandError) as caught:
        call_command("load_batches", str(good), str(bad))
    assert state() == before
    assert caught.value.returncode == 1
    message = str(caught.value)
    assert message.startswith("3 errors; nothing was changed.\n")
    assert f"{bad}: line 2: rules[0].name is missing; it must be text" in message
    with pytest.raises(CommandError, match="No such file"):
        call_command("load_batches", str(tmp_path / "nope.yaml"))
    with pytest.raises(CommandError, match="There is no batch called nope"):
        call_command("dump_batches", "nope")
    with pytest.raises(CommandError, match="Is a directory"):
        call_command("dump_batches", "--output", str(tmp_path))


@pytest.mark.django_db
@pytest.mark.parametrize("page", ["steps.md", "rules.md", "batches-file.md"])
def test_examples_of_the_documentation_load(page):
    """Every YAML example in the documentation is a file that loads, and what it shows is valid."""
    text = (settings.BASE_DIR / "docs" / page).read_text()
    examples = re.findall(r"^```yaml\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    assert examples
    for file in examples:
        assert load(file).changed
        assert not load(file).changed


def test_the_documentation_names_every_field():
    """A field that a file may have stands in its table, and no other does."""
    text = (settings.BASE_DIR / "docs" / "batches-file.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)
    fields = [*STEP_FIELDS, *BATCH_FIELDS, *ENTRY_FIELDS, *RULE_FIELDS]
    assert sorted(rows) == sorted(fields)
