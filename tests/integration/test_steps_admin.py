"""The admin of steps, batches and rules."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.contrib.auth.models import User
from django.test import Client
from django.urls import reverse

from steps import admin as steps_admin
from steps.forms import from_line, to_line
from steps.models import Batch, BatchStep, ClassificationRule, RuleSet, Step
from steps.registry import registry
from tests.factories import make_user

pytestmark = pytest.mark.django_db

STEP_RIGHTS = ("steps.add_step", "steps.change_step", "steps.delete_step", "steps.view_step")
STEP_DEFAULTS = {
    "parameters": "{}",
    "grace_seconds": "5",
    "attempts": "3",
    "backoff_seconds": "1",
}


def url(model: str, action: str, *args: Any) -> str:
    return reverse(f"admin:steps_{model}_{action}", args=args)


def errors(response: Any, form: str = "adminform") -> dict[str, list[str]]:
    """The messages beside the fields of a form that was refused."""
    assert response.status_code == 200
    found: dict[str, list[str]] = response.context[form].form.errors
    return {name: list(messages) for name, messages in found.items()}


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(make_user("root", is_staff=True, is_superuser=True))
    return client


@pytest.fixture
def editor(client: Client) -> Client:
    """A member of the staff who may edit steps, but is no superuser."""
    client.force_login(make_user("editor", *STEP_RIGHTS, is_staff=True))
    return client


@pytest.fixture
def command() -> Step:
    return Step.objects.create(
        name="TidyStep", kind="command", category="care", target={"argv": ["tidy", "-v"]}
    )


def add_step(client: Client, **facts: str) -> Any:
    return client.post(url("step", "add"), {**STEP_DEFAULTS, **facts})


def test_a_command_from_its_fields(root):
    """Arguments are lines, pairs are NAME=value, codes are numbers; empty fields are left out."""
    response = add_step(
        root,
        name="SearchStep",
        kind="command",
        category="source",
        command_argv='grep\r\n-rn\r\n\r\n  {what}  \r\n""\r\n"two\\nlines"\r\nün "quoted"',
        command_cwd="/srv",
        command_exit_codes="0, 1",
        command_env='LANG=C\r\nEMPTY=\r\nTEXT="a\\nb"',
        command_secret_env="TOKEN\r\nOTHER",
        parameters='{"what": "TODO"}',
        timeout_seconds="2.5",
        retry_safe="on",
        http_url="http://ignored/",
    )
    assert response.status_code == 302
    step = Step.objects.get(name="SearchStep")
    assert step.target == {
        "argv": ["grep", "-rn", "{what}", "", "two\nlines", 'ün "quoted"'],
        "cwd": "/srv",
        "exit_codes": [0, 1],
        "env": {"LANG": "C", "EMPTY": "", "TEXT": "a\nb"},
        "secret_env": ["TOKEN", "OTHER"],
    }
    assert (step.parameters, step.timeout_seconds, step.retry_safe) == ({"what": "TODO"}, 2.5, True)
    assert not step.from_code


def test_a_request_and_a_management_command_from_their_fields(root):
    """Each kind takes its own fields and ignores those of the others."""
    add_step(
        root,
        name="FetchStep",
        kind="http",
        http_url="https://example.org/",
        http_method="POST",
        http_headers="Accept: text/plain\r\nX-A:b:c",
        http_body="one\r\ntwo",
        http_allow_private="on",
        command_argv="rm",
    )
    assert Step.objects.get(name="FetchStep").target == {
        "url": "https://example.org/",
        "method": "POST",
        "headers": {"Accept": "text/plain", "X-A": "b:c"},
        "body": "one\ntwo",
        "allow_private": True,
    }
    add_step(
        root,
        name="SessionsStep",
        kind="management",
        management_command="clearsessions",
        management_args="--verbosity\r\n2",
    )
    assert Step.objects.get(name="SessionsStep").target == {
        "command": "clearsessions",
        "args": ["--verbosity", "2"],
    }


def form_data(response: Any) -> dict[str, Any]:
    """What a browser would send back if nobody touched the form."""
    form = response.context["adminform"].form
    data = {}
    for bound in form:
        value = bound.value()
        if isinstance(value, bool):
            if value:
                data[bound.html_name] = "on"
        elif value is not None:
            # Browsers send every line break as CR LF.
            data[bound.html_name] = str(value).replace("\r\n", "\n").replace("\n", "\r\n")
    return data


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        (
            "command",
            {
                "argv": ["sh", "-c", "a\nb\r\nc", "", " lead", '"q"', "\t", "é\u2028"],
                "env": {"A": "", "B": ' "x"\n'},
                "exit_codes": [3],
            },
        ),
        ("http", {"url": "http://x/", "headers": {"A": ""}, "body": " a\r\nb\n "}),
        ("management", {"command": "check", "args": ["--deploy"]}),
    ],
)
def test_saving_an_untouched_form_changes_nothing(root, kind, target):
    """Whatever a target holds survives being shown and sent back."""
    step = Step.objects.create(name="A", kind=kind, target=target, parameters={"é": [1, None]})
    page = root.get(url("step", "change", step.pk))
    root.post(url("step", "change", step.pk), form_data(page))
    again = Step.objects.get(pk=step.pk)
    assert (again.target, again.parameters) == (target, {"é": [1, None]})
    (entry,) = LogEntry.objects.filter(object_id=str(step.pk))
    assert entry.get_change_message() == "No fields changed."


@pytest.mark.parametrize("text", ["", " ", "a", '"', "a\nb", "\\", 'a"b', "\x00", "\u2028", "{x}"])
def test_lines_stand_for_every_text(text):
    """Each text has a line of its own that reads back as it."""
    line = to_line(text)
    assert "\n" not in line
    assert from_line(line.strip(), 1) == text


@pytest.mark.parametrize(
    ("facts", "field", "message"),
    [
        ({"command_argv": ""}, "command_argv", "Must be a list: the program and its arguments."),
        ({"command_argv": '"open'}, "command_argv", "Line 1 begins with a double quote"),
        ({"command_argv": '""'}, "command_argv", 'argv[0] is ""; it must not be empty.'),
        ({"command_exit_codes": "0, x"}, "command_exit_codes", '"x" is not a whole number.'),
        ({"command_exit_codes": "9" * 5000}, "command_exit_codes", "is not a whole number."),
        ({"command_exit_codes": "256"}, "command_exit_codes", "from 0 to 255"),
        ({"command_env": "A"}, "command_env", "Line 1 needs a “=” after a name."),
        ({"command_env": "A=1\nA=2"}, "command_env", 'Line 2: "A" is there already.'),
        ({"command_env": "A B=1"}, "command_env", "must be a variable name"),
        ({"name": ""}, "name", "required"),
        ({"name": "a\u0007b"}, "name", "U+0007 is not"),
        ({"kind": "shell"}, "kind", "shell is not one of the available choices"),
        ({"kind": ""}, "kind", "required"),
        ({"timeout_seconds": "-1"}, "timeout_seconds", "above 0"),
        ({"timeout_seconds": "inf"}, "timeout_seconds", "Enter a number."),
        ({"grace_seconds": "-1"}, "grace_seconds", "from 0"),
        ({"attempts": "0"}, "attempts", "from 1 to 100"),
        ({"attempts": "99999999999999999999"}, "attempts", "from 1 to 100"),
        ({"parameters": "{"}, "parameters", "This is not JSON."),
        ({"parameters": "[1]"}, "parameters", "Must be an object"),
        ({"parameters": '{"a": NaN}'}, "parameters", "finite"),
        ({"parameters": '{"a": "\\ud800"}'}, "parameters", "surrogate"),
        ({"parameters": "[" * 100_000}, "parameters", "This is not JSON."),
        ({"parameters": '{"a": ' + "9" * 5000 + "}"}, "parameters", "of at most 400 digits."),
        ({"parameters": '{"a": [{"b": 1, "b": 2}]}'}, "parameters", 'the key "b" twice'),
        ({"category": "a\tb"}, "category", "U+0009"),
    ],
)
def test_bad_steps_are_refused_beside_the_field(root, facts, field, message):
    """A bad form comes back with a message where the mistake is, and nothing is stored."""
    good = {"name": "BadStep", "kind": "command", "command_argv": "true"}
    found = errors(add_step(root, **{**good, **facts}))
    assert set(found) == {field}
    assert message in found[field][0]
    assert not Step.objects.filter(kind="command").exists()


def test_a_bad_request_is_refused_beside_its_field(root):
    """The model's complaint about the target reaches the field that shows it."""
    found = errors(add_step(root, name="A", kind="http", http_url="ftp://x", http_headers="A B: x"))
    assert set(found) == {"http_url", "http_headers"}


def test_names_are_unique(root, command):
    """A name that is taken is refused with a message."""
    found = errors(add_step(root, name="TidyStep", kind="http", http_url="http://x/"))
    assert found == {"name": ["Step with this Name already exists."]}


def test_markup_in_names_is_shown_as_text(root):
    """No name becomes markup on any page of the admin."""
    evil = "<script>alert(1)</script>"
    step = Step.objects.create(
        name=evil, kind="command", category="<b>", target={"argv": [evil]}, from_code=False
    )
    batch = Batch.objects.create(slug="b", name=evil)
    BatchStep.objects.create(batch=batch, step=step, name=f"{evil}2")
    ClassificationRule.objects.create(position=99, name=evil, condition="name_equals", operand=evil)
    pages = [
        url("step", "changelist"),
        url("step", "change", step.pk),
        url("batch", "changelist"),
        url("batch", "change", batch.pk),
        url("batchstep", "changelist"),
        url("classificationrule", "changelist"),
        url("ruleset", "change", RuleSet.current().pk),
    ]
    for page in pages:
        text = root.get(page).content.decode()
        assert evil not in text, page
        assert "&lt;script&gt;" in text, page


def test_pages_obey_the_content_security_policy(root, command):
    """No page of ours has an inline script, an inline handler or an inline style."""
    batch = Batch.objects.create(slug="b", name="B")
    BatchStep.objects.create(batch=batch, step=command)
    rule = ClassificationRule.objects.earliest("position")
    pages = [
        *(url(model, "changelist") for model in ("step", "batch", "batchstep", "ruleset")),
        url("classificationrule", "changelist"),
        *(url(model, "add") for model in ("step", "batch", "batchstep", "classificationrule")),
        url("step", "change", command.pk),
        url("step", "change", Step.objects.from_code()[0].pk),
        url("batch", "change", batch.pk),
        url("classificationrule", "change", rule.pk),
    ]
    for page in pages:
        response = root.get(page)
        assert response.status_code == 200, page
        text = response.content.decode()
        assert not re.search(r"<script(?![^>]*\b(src|type=\"application/json\"))", text), page
        assert not re.search(r"<[^>]+\s(style|on[a-z]+)=", text), page
        assert "default-src 'self'" in response.headers["Content-Security-Policy"]


def test_the_form_has_a_section_for_each_kind(root):
    """The script that shows and hides them finds its classes, and its file exists."""
    text = root.get(url("step", "add")).content.decode()
    for kind in ("command", "http", "management", "other"):
        assert re.search(rf'<fieldset class="module aligned kind-{kind}\b', text), kind
    script = re.search(r'src="(/static/admin/steps/step_form[^"]*\.js)"', text)
    assert script
    assert root.get(script[1]).status_code == 200


def test_python_steps_cannot_be_made_by_hand(root):
    """They come from code, so the form does not offer them."""
    page = root.get(url("step", "add"))
    kinds = [value for value, _ in page.context["adminform"].form.fields["kind"].choices]
    assert kinds == ["command", "http", "management"]
    assert "kind" in errors(add_step(root, name="A", kind="python"))


def test_steps_from_code_are_only_shown(root):
    """Not even a superuser can change or delete one whose function is there."""
    step = Step.objects.from_code()[0]
    page = root.get(url("step", "change", step.pk))
    text = page.content.decode()
    assert "This step comes from code" in text
    assert f"{step.name} in {step.module}" in text
    assert "a thread of the worker" in text
    assert 'name="_save"' not in text
    assert root.post(url("step", "change", step.pk), {"name": "Mine"}).status_code == 403
    assert root.post(url("step", "delete", step.pk), {"post": "yes"}).status_code == 403
    bulk = {"action": "delete_selected", "_selected_action": step.pk, "post": "yes"}
    root.post(url("step", "changelist"), bulk)
    assert Step.objects.filter(pk=step.pk, name=step.name).exists()


def test_a_step_from_code_tells_where_it_runs(root):
    """In the admin and on the page of all steps."""
    step = Step.objects.create(
        name="HeavyStep", kind="python", from_code=True, target={"isolation": "process"}
    )
    text = root.get(url("step", "change", step.pk)).content.decode()
    assert "a process of its own" in text
    assert "own process" in root.get("/steps/").content.decode()


def test_missing_steps_say_so_and_can_go(root, monkeypatch):
    """A vanished function is explained, with the error of its module, and its row can go."""
    step = Step.objects.create(
        name="GoneStep", kind="python", from_code=True, missing=True, module="shop.steps"
    )
    monkeypatch.setattr(registry, "failures", {"shop.steps": "ZeroDivisionError: by <zero>"})
    text = root.get(url("step", "change", step.pk)).content.decode()
    assert "Missing: no function is registered under this name." in text
    assert "shop.steps could not be imported: ZeroDivisionError: by &lt;zero&gt;" in text
    listed = root.get(url("step", "changelist"), {"missing__exact": 1})
    assert [row.name for row in listed.context["cl"].result_list] == ["GoneStep"]
    assert "its steps are missing: ZeroDivisionError" in listed.content.decode()
    root.post(url("step", "delete", step.pk), {"post": "yes"})
    assert not Step.objects.filter(pk=step.pk).exists()


def test_a_step_of_a_batch_is_not_deleted(root, command):
    """The page says which batch holds it; nothing is lost."""
    batch = Batch.objects.create(slug="b", name="Nightly")
    BatchStep.objects.create(batch=batch, step=command)
    page = root.post(url("step", "delete", command.pk), {"post": "yes"})
    assert "would require deleting the following protected related objects" in (
        page.content.decode()
    )
    assert Step.objects.filter(pk=command.pk).exists()
    assert "Nightly" in root.get(url("step", "change", command.pk)).content.decode()


def test_search_and_filters(root, command):
    """Steps are found by name, description and category, and filtered by category."""
    listed = root.get(url("step", "changelist"), {"q": "tidy", "category": "care"})
    assert list(listed.context["cl"].result_list) == [command]
    filters = [spec.title for spec in listed.context["cl"].filter_specs]
    assert "category" in filters
    assert "kind" in filters


def test_editors_define_requests_but_no_commands(editor, command):
    """Without the right to define commands the form offers none, and those there are only shown."""
    page = editor.get(url("step", "add"))
    kinds = [value for value, _ in page.context["adminform"].form.fields["kind"].choices]
    assert kinds == ["http"]
    assert add_step(editor, name="A", kind="http", http_url="http://x/").status_code == 302
    for kind in ("command", "management"):
        found = errors(
            add_step(editor, name="B", kind=kind, command_argv="x", management_command="x")
        )
        assert "not one of the available choices" in found["kind"][0]
    step = Step.objects.get(name="A")
    data = form_data(editor.get(url("step", "change", step.pk)))
    data |= {"kind": "command", "command_argv": "rm"}
    assert "kind" in errors(editor.post(url("step", "change", step.pk), data))
    shown = editor.get(url("step", "change", command.pk)).content.decode()
    assert "tidy" in shown
    assert 'name="_save"' not in shown
    assert editor.post(url("step", "change", command.pk), data).status_code == 403
    command.refresh_from_db()
    assert command.target == {"argv": ["tidy", "-v"]}


def test_the_setting_opens_commands_to_those_with_the_permission(editor, command, settings):
    """Both are needed: the setting and the permission."""
    settings.STEPSITE = {"COMMANDS_BY_PERMISSION": True}
    change = url("step", "change", command.pk)
    assert 'name="_save"' not in editor.get(change).content.decode()
    user = User.objects.get(username="editor")
    user.delete()
    editor.force_login(
        make_user("trusted", *STEP_RIGHTS, "steps.define_command_step", is_staff=True)
    )
    page = editor.get(change)
    kinds = [value for value, _ in page.context["adminform"].form.fields["kind"].choices]
    assert kinds == ["command", "http", "management"]
    data = form_data(page) | {"command_argv": "tidy\n-q"}
    assert editor.post(change, data).status_code == 302
    command.refresh_from_db()
    assert command.target == {"argv": ["tidy", "-q"]}


def test_a_kind_of_the_project_has_its_target_as_json(root, monkeypatch):
    """A registered kind is offered, and its target is edited as a JSON object."""
    from steps.kinds import KINDS, Field, Kind

    speak = Kind(name="speak", label="Speech", fields={"text": Field(lambda value: [])})
    monkeypatch.setitem(KINDS, "speak", speak)
    assert add_step(root, name="A", kind="speak", target='{"text": "hi"}').status_code == 302
    step = Step.objects.get(name="A")
    assert step.target == {"text": "hi"}
    found = errors(add_step(root, name="B", kind="speak", target='{"volume": 3}'))
    assert "volume is 3" in found["target"][0]
    monkeypatch.delitem(KINDS, "speak")
    assert root.get(url("step", "change", step.pk)).status_code == 200
    assert root.get(url("step", "changelist")).status_code == 200


# --- batches ---


BATCH = {
    "name": "Nightly",
    "slug": "nightly",
    "pool_width": "4",
    "failure_policy": "stop_critical",
    "pool_start": "after_critical",
    "max_active_runs": "1",
    "context": "{}",
}


def entries(*rows: dict[str, Any], initial: int = 0) -> dict[str, Any]:
    data: dict[str, Any] = {
        "entries-TOTAL_FORMS": len(rows),
        "entries-INITIAL_FORMS": initial,
        "entries-MIN_NUM_FORMS": 0,
        "entries-MAX_NUM_FORMS": 1000,
    }
    for index, row in enumerate(rows):
        defaults = {"position": "", "name": "", "parameters": "{}", "enabled": "on"}
        for key, value in {**defaults, **row}.items():
            if value is not None:
                data[f"entries-{index}-{key}"] = value
    return data


def order(batch: Batch) -> list[tuple[int, str]]:
    rows = batch.entries.select_related("step").order_by("position", "id")
    return [(row.position, row.effective_name) for row in rows]


def test_a_batch_with_its_entries(root, command):
    """Entries without a number come in the order of the form; every field arrives."""
    other = Step.objects.create(name="OtherStep", kind="command", target={"argv": ["true"]})
    response = root.post(
        url("batch", "add"),
        BATCH
        | entries(
            {"step": command.pk},
            {
                "step": command.pk,
                "name": "again",
                "enabled": None,
                "parameters": '{"a": 1}',
                "timeout_seconds": "3",
            },
            {"step": other.pk, "position": "1"},
        ),
    )
    assert response.status_code == 302
    batch = Batch.objects.get(slug="nightly")
    assert order(batch) == [(1, "OtherStep"), (2, "TidyStep"), (3, "again")]
    again = batch.entries.get(name="again")
    assert (again.enabled, again.parameters, again.timeout_seconds) == (False, {"a": 1}, 3)


def test_a_number_moves_an_entry_there(root, command):
    """The others make room, and positions stay 1, 2, 3."""
    batch = Batch.objects.create(slug="nightly", name="Nightly")
    rows = [
        BatchStep.objects.create(batch=batch, step=command, name=name, position=position)
        for position, name in enumerate(["a", "b", "c", "d"], start=1)
    ]
    wanted = {"a": "1", "b": "2", "c": "3", "d": "2"}
    root.post(
        url("batch", "change", batch.pk),
        BATCH
        | entries(
            *(
                {"id": r.pk, "batch": batch.pk, "step": command.pk, "name": r.name}
                | {"position": wanted[r.name]}
                for r in rows
            ),
            initial=4,
        ),
    )
    assert order(batch) == [(1, "a"), (2, "d"), (3, "b"), (4, "c")]


def test_entries_can_be_deleted_and_renamed_at_once(root, command):
    """Positions close up after a deletion."""
    batch = Batch.objects.create(slug="nightly", name="Nightly")
    rows = [
        BatchStep.objects.create(batch=batch, step=command, name=name, position=position)
        for position, name in enumerate(["a", "b", "c"], start=1)
    ]
    data = [
        {"id": r.pk, "batch": batch.pk, "step": command.pk, "name": r.name, "position": r.position}
        for r in rows
    ]
    data[0]["DELETE"] = "on"
    data[1]["name"] = "new"
    response = root.post(url("batch", "change", batch.pk), BATCH | entries(*data, initial=3))
    assert response.status_code == 302
    assert order(batch) == [(1, "new"), (2, "c")]


@pytest.mark.parametrize(
    ("rows", "field", "message"),
    [
        (
            [{"name": "x"}, {"name": "x"}],
            "name",
            'Two entries of this batch are called "x".',
        ),
        ([{}, {"name": "TidyStep"}], "name", 'called "TidyStep"'),
        ([{}, {}], "name", "Names are unique in a batch: give one of them another."),
        ([{"timeout_seconds": "-1"}], "timeout_seconds", "above 0"),
        ([{"parameters": "[]"}], "parameters", "Must be an object"),
        ([{"name": "a\u001b"}], "name", "U+001B"),
        ([{"step": "999999"}], "step", "valid choice"),
        ([{"step": "", "name": "x"}], "step", "required"),
    ],
)
def test_bad_entries_are_refused_beside_the_field(root, command, rows, field, message):
    """The batch is not stored either."""
    data = entries(*({"step": command.pk, **row} for row in rows))
    response = root.post(url("batch", "add"), BATCH | data)
    assert response.status_code == 200
    (formset,) = response.context["inline_admin_formsets"]
    assert message in formset.formset.forms[-1].errors[field][0]
    assert not Batch.objects.exists()


@pytest.mark.parametrize(
    ("facts", "field", "message"),
    [
        ({"slug": "a b"}, "slug", "Enter a valid “slug”"),
        ({"slug": "über"}, "slug", "Enter a valid “slug”"),
        ({"name": ""}, "name", "required"),
        ({"pool_width": "0"}, "pool_width", "from 1 to 256"),
        ({"pool_width": "257"}, "pool_width", "from 1 to 256"),
        ({"default_timeout_seconds": "-1"}, "default_timeout_seconds", "above 0"),
        ({"max_active_runs": "0"}, "max_active_runs", "from 1 to 1000"),
        ({"context": "[]"}, "context", "Must be an object"),
        ({"context": '{"a": "' + "x" * 1024 * 1024 + '"}'}, "context", "at most 1048576 bytes"),
        ({"failure_policy": "x"}, "failure_policy", "not one of the available choices"),
    ],
)
def test_bad_batches_are_refused_beside_the_field(root, facts, field, message):
    """Limits, contexts and slugs are checked with a message."""
    found = errors(root.post(url("batch", "add"), BATCH | facts | entries()))
    assert set(found) == {field}
    assert message in found[field][0]


def test_a_long_batch_is_edited_as_a_list(root, command, monkeypatch):
    """Past the limit the page links to the entries, which have pages of their own."""
    monkeypatch.setattr(steps_admin, "ENTRIES_INLINE", 2)
    batch = Batch.objects.create(slug="long", name="Long")
    for number in range(3):
        BatchStep.objects.create(batch=batch, step=command, name=f"n{number}", position=number)
    page = root.get(url("batch", "change", batch.pk))
    assert page.context["inline_admin_formsets"] == []
    link = f"{url('batchstep', 'changelist')}?batch__id__exact={batch.pk}"
    assert link in page.content.decode()
    listed = root.get(link)
    assert len(listed.context["cl"].result_list) == 3
    entry = {"batch": batch.pk, "step": command.pk, "position": "", "parameters": "{}"}
    found = errors(root.post(url("batchstep", "add"), entry | {"name": "n1"}))
    assert 'called "n1"' in found["name"][0] or "have this name" in found["name"][0]
    assert root.post(url("batchstep", "add"), entry | {"name": "n3"}).status_code == 302
    assert order(batch) == [(1, "n0"), (2, "n1"), (3, "n2"), (4, "n3")]
    rows = {entry.name: entry.pk for entry in batch.entries.all()}
    data = {"form-TOTAL_FORMS": 4, "form-INITIAL_FORMS": 4, "_save": "Save"}
    for index, (name, pk) in enumerate(rows.items()):
        data |= {f"form-{index}-id": pk, f"form-{index}-enabled": "on"}
        data[f"form-{index}-position"] = {"n2": 1}.get(name, index + 1)
    assert root.post(link, data).status_code == 302
    assert order(batch) == [(1, "n2"), (2, "n0"), (3, "n1"), (4, "n3")]


def test_the_largest_forms_can_be_sent(root, command):
    """A batch of the greatest size for one page, and a full page of rules, can be saved."""
    rows = [
        {"step": command.pk, "name": f"n{number}", "timeout_seconds": "", "batch": "", "id": ""}
        for number in range(steps_admin.ENTRIES_INLINE)
    ]
    assert root.post(url("batch", "add"), BATCH | entries(*rows)).status_code == 302
    assert BatchStep.objects.count() == steps_admin.ENTRIES_INLINE
    ClassificationRule.objects.bulk_create(
        ClassificationRule(position=n, name=f"r{n}", condition="name_equals", operand="X")
        for n in range(23, steps_admin.RuleAdmin.list_per_page + 1)
    )
    assert listed(root, r500={"enabled": None}).status_code == 302
    assert not ClassificationRule.objects.get(name="r500").enabled


# --- rules ---


RULE = {"position": "1", "name": "Mine", "condition": "name_matches", "operand": "^My"}


def rule_order() -> list[str]:
    rules = ClassificationRule.objects.all()
    assert [rule.position for rule in rules] == list(range(1, len(rules) + 1))
    return [rule.name for rule in rules]


def test_a_new_rule_takes_its_place(root):
    """A rule that is put first is asked first; the form offers the last place."""
    before = rule_order()
    page = root.get(url("classificationrule", "add"))
    assert page.context["adminform"].form["position"].value() == 23
    assert root.post(url("classificationrule", "add"), RULE | {"enabled": "on"}).status_code == 302
    assert rule_order() == ["Mine", *before]
    rule = ClassificationRule.objects.get(name="Mine")
    assert (rule.critical, rule.enabled, rule.value) == (False, True, None)


@pytest.mark.parametrize(
    ("facts", "field", "message"),
    [
        ({"operand": "a(?=b)"}, "operand", "RE2 refuses the pattern: invalid perl operator: (?="),
        ({"operand": "("}, "operand", "RE2 refuses the pattern: missing )"),
        ({"operand": "x" * 1001}, "operand", "at most 1000"),
        ({"operand": ""}, "operand", "required"),
        ({"condition": "name_equals", "operand": "a\u0001"}, "operand", "U+0001"),
        ({"condition": "context_equals"}, "value", "Give the JSON value to compare with"),
        ({"condition": "context_equals", "value": "workflow"}, "value", "double quotes"),
        ({"condition": "context_equals", "value": "NaN"}, "value", "finite"),
        ({"value": "1"}, "value", "leave it empty"),
        ({"name": "IDE steps"}, "name", "already exists"),
        ({"condition": "x"}, "condition", "not one of the available choices"),
    ],
)
def test_bad_rules_are_refused_beside_the_field(root, facts, field, message):
    """A pattern that RE2 refuses is refused with RE2's reason."""
    found = errors(root.post(url("classificationrule", "add"), RULE | facts))
    assert set(found) == {field}
    assert message in found[field][0]


@pytest.mark.parametrize(("text", "value"), [("null", None), ('"a"', "a"), ("[1]", [1])])
def test_values_to_compare_with(root, text, value):
    """Any JSON value, null included, survives a visit to the form."""
    data = RULE | {"condition": "context_equals", "operand": "key", "value": text}
    assert root.post(url("classificationrule", "add"), data).status_code == 302
    rule = ClassificationRule.objects.get(name="Mine")
    assert rule.value == value
    page = root.get(url("classificationrule", "change", rule.pk))
    change = url("classificationrule", "change", rule.pk)
    assert root.post(change, form_data(page)).status_code == 302
    assert ClassificationRule.objects.get(name="Mine").value == value


def listed(client: Client, **changes: dict[str, Any]) -> Any:
    """Send the list of rules back with changes by name; a value of None unticks a box."""
    rules = list(ClassificationRule.objects.all())
    data: dict[str, Any] = {
        "form-TOTAL_FORMS": len(rules),
        "form-INITIAL_FORMS": len(rules),
        "_save": "Save",
    }
    for index, rule in enumerate(rules):
        row = {"id": rule.pk, "position": rule.position, "enabled": "on" if rule.enabled else None}
        for key, value in {**row, **changes.get(rule.name, {})}.items():
            if value is not None:
                data[f"form-{index}-{key}"] = value
    return client.post(url("classificationrule", "changelist"), data)


def test_the_list_switches_and_reorders_rules(root):
    """Boxes and numbers in the list are saved together, and each change is on record."""
    ClassificationRule.objects.filter(position__gt=4).delete()
    a, b, c, d = rule_order()
    changes = {a: {"position": 3}, d: {"position": 1, "enabled": None}}
    assert listed(root, **changes).status_code == 302
    assert rule_order() == [d, b, c, a]
    assert not ClassificationRule.objects.get(name=d).enabled
    logged = LogEntry.objects.values_list("object_repr", "user__username")
    assert set(logged) == {(a, "root"), (d, "root")}


def test_the_list_shows_sentences_and_the_numbers_that_reasons_name(root):
    """A rule that is off has no number, and those after it count on."""
    ClassificationRule.objects.filter(position=1).update(enabled=False)
    page = root.get(url("classificationrule", "changelist"))
    text = page.content.decode()
    assert "Critical if the name matches &quot;IDE.*Step$&quot;" in text
    places = re.findall(r'field-place">([^<]*)<', text)
    assert places[:3] == ["off", "1", "2"]


def test_moving_rules_up_and_down(root):
    """Chosen rules move one place, keep their order, stop at the end, and are on record."""
    ClassificationRule.objects.filter(position__gt=4).delete()
    a, b, c, d = rule_order()

    def move(action: str, *names: str) -> list[str]:
        chosen = ClassificationRule.objects.filter(name__in=names).values_list("pk", flat=True)
        data = {"action": action, "_selected_action": list(chosen)}
        assert root.post(url("classificationrule", "changelist"), data).status_code == 302
        return rule_order()

    assert move("move_up", b, d) == [b, a, d, c]
    assert move("move_up", b, d) == [b, d, a, c]
    assert move("move_up", b, d) == [b, d, a, c]
    assert move("move_down", b, d) == [a, b, d, c]
    assert move("move_down", c) == [a, b, d, c]
    messages = {entry.get_change_message() for entry in LogEntry.objects.all()}
    assert messages == {"Moved up.", "Moved down."}


def test_viewers_of_rules_cannot_move_them(client):
    """Moving is changing."""
    client.force_login(make_user("viewer", "steps.view_classificationrule", is_staff=True))
    before = rule_order()
    rule = ClassificationRule.objects.get(name=before[1])
    data = {"action": "move_up", "_selected_action": [rule.pk]}
    client.post(url("classificationrule", "changelist"), data)
    assert rule_order() == before


def test_rule_sets_are_only_shown(root):
    """What judged a run is never edited."""
    ruleset = RuleSet.current()
    page = root.get(url("ruleset", "change", ruleset.pk))
    assert "9. IDE steps: critical if the name matches" in page.content.decode()
    assert root.post(url("ruleset", "change", ruleset.pk), {}).status_code == 403
    assert root.post(url("ruleset", "delete", ruleset.pk), {"post": "yes"}).status_code == 403
    assert root.get(url("ruleset", "add")).status_code == 403
