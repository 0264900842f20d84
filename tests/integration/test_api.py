"""The JSON API as a program meets it: answers, refusals, and that nothing is half done."""

from __future__ import annotations

import json
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.db import OperationalError
from django.test import Client
from django.urls import get_resolver

from executions import api, api_urls, queries
from executions.engine.status import RunStatus
from executions.models import AuditEntry, Run, StepRun
from executions.permissions import CANCEL_RUN, GROUPS, TRIGGER_RUN, VIEW_RUN, make_groups
from steps.models import Batch, BatchStep, ClassificationRule
from tests.factories import (
    change_steps,
    make_batch,
    make_run,
    make_step,
    make_user,
    make_worker,
    start_steps,
    write_log,
)

pytestmark = pytest.mark.django_db


@pytest.fixture
def operator() -> User:
    return make_user("otto", VIEW_RUN, TRIGGER_RUN, CANCEL_RUN)


@pytest.fixture
def http(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def batch() -> Batch:
    """Two entries, `CreateChatStep` critical by the default rules, and one that is off."""
    batch = make_batch(context={"where": "here"}, pool_width=3)
    for position, name in enumerate(("TidyStep", "CreateChatStep", "OffStep")):
        step = make_step(name, target={"argv": ["true"]})
        BatchStep.objects.create(
            batch=batch, step=step, position=position, enabled=name != "OffStep"
        )
    return batch


def post(client: Client, path: str, body: Any = None, **extra: Any) -> Any:
    data = body if isinstance(body, str | bytes) else json.dumps(body if body is not None else {})
    return client.post(path, data, content_type="application/json", **extra)


def fields_of(response: Any) -> set[str]:
    """The fields of its errors, each of which has a sentence."""
    errors = response.json()["errors"]
    assert errors
    assert all(error["message"].endswith(".") for error in errors)
    return {error["field"] for error in errors}


# ---- who may ask --------------------------------------------------------------------------------

PATHS = [
    "/api/runs",
    "/api/runs/cancel",
    "/api/runs/{run}",
    "/api/runs/{run}/changes",
    "/api/runs/{run}/forecast",
    "/api/runs/{run}/results",
    "/api/runs/{run}/cancel",
    "/api/step-runs/{step_run}/log",
    "/api/step-runs/{step_run}/cancel",
    "/api/plan",
    "/api/cancel-all",
    "/api/nothing-here",
]


def test_the_list_of_paths_is_complete() -> None:
    """So that the tests below meet every address of the API."""
    routed = [str(pattern.pattern) for pattern in api_urls.urlpatterns]
    assert len(routed) == len(PATHS)
    assert all(get_resolver().resolve(path.format(run=1, step_run=1)) for path in PATHS)


@pytest.mark.parametrize("path", PATHS)
def test_without_signing_in_every_answer_is_401(client: Client, path: str) -> None:
    """In JSON, for reading and for writing, and nothing is done."""
    run = make_run()
    path = path.format(run=run.pk, step_run=run.step_runs.first().pk)
    for response in (client.get(path), post(client, path)):
        assert response.status_code == 401
        assert fields_of(response) == {""}
        assert response["Cache-Control"] == "no-store"
    run.refresh_from_db()
    assert run.cancel_requested_at is None


@pytest.mark.parametrize("path", [path for path in PATHS if path != "/api/nothing-here"])
def test_without_a_right_every_answer_is_403(client: Client, path: str) -> None:
    """It names the permission that is missing."""
    client.force_login(make_user())
    run = make_run()
    path = path.format(run=run.pk, step_run=run.step_runs.first().pk)
    statuses = set()
    for response in (client.get(path), post(client, path)):
        statuses.add(response.status_code)
        assert response.status_code in (403, 405)
        if response.status_code == 403:
            assert "permission executions." in response.json()["errors"][0]["message"]
    assert 403 in statuses


@pytest.mark.parametrize("right", [VIEW_RUN, TRIGGER_RUN, CANCEL_RUN])
def test_each_right_allows_its_own(client: Client, right: str, batch: Batch) -> None:
    """Looking, triggering and cancelling are separate rights."""
    client.force_login(make_user("one", right))
    run = make_run()
    may = {
        VIEW_RUN: client.get(f"/api/runs/{run.pk}").status_code == 200,
        TRIGGER_RUN: post(client, "/api/plan", {"batch": "nightly"}).status_code == 200,
        CANCEL_RUN: post(client, f"/api/runs/{run.pk}/cancel").status_code == 202,
    }
    assert [name for name, allowed in may.items() if allowed] == [right]


def test_other_methods_are_405(http: Client) -> None:
    """With the allowed ones named."""
    run = make_run()
    response = http.delete(f"/api/runs/{run.pk}")
    assert response.status_code == 405
    assert response["Allow"] == "GET, HEAD"
    assert fields_of(response) == {""}
    assert http.get(f"/api/runs/{run.pk}/cancel").status_code == 405
    assert http.put("/api/runs").status_code == 405
    assert http.head(f"/api/runs/{run.pk}").status_code == 200


def test_a_post_needs_the_csrf_token(operator: User) -> None:
    """Without it the answer is JSON, and nothing is done; with it the same request works."""
    client = Client(enforce_csrf_checks=True)
    client.force_login(operator)
    run = make_run()
    path = f"/api/runs/{run.pk}/cancel"
    response = post(client, path)
    assert response.status_code == 403
    assert "X-CSRFToken" in response.json()["errors"][0]["message"]
    assert Run.objects.get().cancel_requested_at is None
    client.cookies["csrftoken"] = "a" * 32
    assert post(client, path, headers={"X-CSRFToken": "a" * 32}).status_code == 202
    anonymous = Client(enforce_csrf_checks=True)
    assert post(anonymous, path).status_code == 401


def test_pages_still_get_pages(client: Client) -> None:
    """The sign-in redirect and the CSRF page are for people."""
    assert client.get("/runs/").status_code == 302
    response = Client(enforce_csrf_checks=True).post("/sign-in/", {})
    assert response.status_code == 403
    assert response["Content-Type"].startswith("text/html")


# ---- reading ------------------------------------------------------------------------------------


def test_a_snapshot(http: Client, client: Client) -> None:
    """What the query says, and whether this user may cancel."""
    run = make_run(["running", "pending"])
    response = http.get(f"/api/runs/{run.pk}")
    assert response["Content-Type"] == "application/json"
    assert response["Cache-Control"] == "no-store"
    body = response.json()
    assert body["can"] == {"cancel": True}
    assert body["steps"] == queries.snapshot(run.pk)["steps"]
    client.force_login(make_user("vera", VIEW_RUN))
    assert client.get(f"/api/runs/{run.pk}").json()["can"] == {"cancel": False}


def test_changes(http: Client) -> None:
    """From the sequence on that was given; from the beginning without one."""
    run = make_run(3)
    to = start_steps(run, [1])
    body = http.get(f"/api/runs/{run.pk}/changes?after={run.sequence}").json()
    assert (body["from"], body["to"], len(body["steps"])) == (run.sequence, to, 1)
    assert len(http.get(f"/api/runs/{run.pk}/changes").json()["steps"]) == 3
    future = http.get(f"/api/runs/{run.pk}/changes?after={2**63 - 1}").json()
    assert future == {"v": 1, "resync": True}


@pytest.mark.parametrize("number", ["", "x", "-1", "1.5", "٣", "9" * 30, str(2**63), "0x10", " 1"])
@pytest.mark.parametrize(
    "path", ["/api/runs/{run}/changes?after=", "/api/runs?before=", "/api/step-runs/1/log?offset="]
)
def test_a_number_that_is_none_is_refused(http: Client, path: str, number: str) -> None:
    """The answer names the parameter."""
    response = http.get(path.format(run=make_run().pk) + number)
    assert response.status_code == 400
    assert fields_of(response) <= {"after", "before", "offset"}


@pytest.mark.parametrize("number", ["0", str(2**62), str(2**64), "9" * 40])
@pytest.mark.parametrize(
    "path", [path for path in PATHS if "{" in path and not path.endswith("cancel")]
)
def test_what_does_not_exist_is_404(http: Client, path: str, number: str) -> None:
    """In JSON, also for numbers that no database can hold."""
    response = http.get(path.format(run=number, step_run=number))
    assert response.status_code == 404
    assert fields_of(response) == {""}


def test_cancelling_what_does_not_exist_is_404(http: Client) -> None:
    """And so is an address that means nothing."""
    for path in ("/api/runs/77/cancel", "/api/step-runs/77/cancel", "/api/nothing", "/api/"):
        assert post(http, path).status_code == 404


def test_lists_of_runs(http: Client) -> None:
    """The dashboard's table, or a page of all runs by batch, status and id."""
    make_worker()
    weekly = make_batch("weekly")
    ended = make_run(["failed"], status=RunStatus.FAILED)
    active = make_run(batch=weekly)

    def ids(query: str) -> list[int]:
        return [run["id"] for run in http.get(f"/api/runs{query}").json()["runs"]]

    assert ids("") == [active.pk, ended.pk]
    assert ids("?active=1") == [active.pk, ended.pk]
    assert ids("?active=1&batch=weekly") == [active.pk]
    assert ids("?active=1&status=failed") == []
    assert ids("?status=failed") == [ended.pk]
    assert ids(f"?before={active.pk}") == [ended.pk]
    assert ids("?batch=no-such") == []
    assert http.get("/api/runs").json()["workers"] == {"alive": 1, "slots": 2, "busy": 1}
    response = http.get("/api/runs?status=lost")
    assert response.status_code == 400
    assert fields_of(response) == {"status"}


def test_results(http: Client) -> None:
    """In the note's shape."""
    run = make_run(["succeeded", "failed"], critical=1)
    body = http.get(f"/api/runs/{run.pk}/results").json()
    assert [item["step"] for item in body["critical"]["successful"]] == ["entry 0"]
    assert [item["step"] for item in body["parallel"]["failed"]] == ["entry 1"]


def test_output(http: Client) -> None:
    """Plain text that no browser runs, with where it begins, goes on and ends."""
    run = make_run(["running"])
    step_run = run.step_runs.get()
    write_log(step_run, "naïve <script>\n".encode(), b"more\n")
    response = http.get(f"/api/step-runs/{step_run.pk}/log?offset=3")
    assert response["Content-Type"] == "text/plain; charset=utf-8"
    assert response["Content-Security-Policy"] == "default-src 'none'; sandbox"
    assert response["X-Content-Type-Options"] == "nosniff"
    assert response.content.decode() == "ve <script>\nmore\n"
    headers = {name: response[f"X-Log-{name}"] for name in ("Offset", "Next", "Size", "Final")}
    assert headers == {"Offset": "4", "Next": "21", "Size": "21", "Final": "0"}
    response = http.get(f"/api/step-runs/{step_run.pk}/log?tail=1&limit=5")
    assert response.content == b"more\n"
    response = http.get(f"/api/step-runs/{step_run.pk}/log?raw=1")
    assert response["Content-Disposition"] == f'attachment; filename="step-run-{step_run.pk}.log"'
    assert len(response.content) == 21


def test_a_busy_database_is_503(http: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a hint to try again, which scripts do."""

    def locked(run_id: int) -> Any:
        raise OperationalError("database is locked")

    monkeypatch.setattr(queries, "snapshot", locked)
    response = http.get("/api/runs/1")
    assert response.status_code == 503
    assert response["Retry-After"] == "1"


# ---- planning and triggering --------------------------------------------------------------------


def test_a_plan_says_what_would_happen_and_why(http: Client, batch: Batch) -> None:
    """Both lanes, in order, with a reason each; nothing is started."""
    response = post(http, "/api/plan", {"batch": "nightly"})
    assert response.status_code == 200
    body = response.json()
    assert [step["name"] for step in body["plan"]["critical"]] == ["CreateChatStep"]
    assert [step["name"] for step in body["plan"]["pool"]] == ["TidyStep"]
    assert all(
        step["because"] and step["timeout_seconds"] == 30
        for step in body["plan"]["critical"] + body["plan"]["pool"]
    )
    assert body["warnings"] == ["This run will wait: no worker is running."]
    assert len(body["plan_hash"]) == 64
    assert not Run.objects.exists()


def test_what_was_planned_is_what_runs(http: Client, batch: Batch) -> None:
    """With the hash of the plan; afterwards the run points to that plan."""
    order = {"batch": "nightly", "context": {"a": 1}, "steps": ["TidyStep"]}
    plan = post(http, "/api/plan", order).json()
    response = post(http, "/api/runs", {**order, "plan_hash": plan["plan_hash"]})
    assert response.status_code == 201
    run = Run.objects.get()
    assert response.json() == {
        "id": run.pk,
        "url": run.get_absolute_url(),
        "plan_hash": plan["plan_hash"],
    }
    assert run.input.load_plan().hash == plan["plan_hash"]
    assert run.triggered_by == "otto"
    assert AuditEntry.objects.get().actor_name == "otto"


def test_a_plan_that_changed_is_shown_instead_of_run(http: Client, batch: Batch) -> None:
    """409 with the new plan; the order can be repeated with its hash."""
    old = post(http, "/api/plan", {"batch": "nightly"}).json()["plan_hash"]
    ClassificationRule.objects.all().delete()
    response = post(http, "/api/runs", {"batch": "nightly", "plan_hash": old})
    assert response.status_code == 409
    body = response.json()
    assert body["plan"]["critical"] == []
    assert not Run.objects.exists()
    again = {"batch": "nightly", "plan_hash": body["plan_hash"]}
    assert post(http, "/api/runs", again).status_code == 201


def test_options_override_those_of_the_batch(http: Client, batch: Batch) -> None:
    """What is not given comes from the batch."""
    options = {"failure_policy": "continue", "default_timeout_seconds": 5}
    response = post(http, "/api/runs", {"batch": "nightly", "options": options})
    assert response.status_code == 201
    run = Run.objects.get()
    assert (run.pool_width, run.failure_policy) == (3, "continue")
    assert set(run.step_runs.values_list("timeout_seconds", flat=True)) == {5.0}
    assert run.input.load_plan().context == {"where": "here"}
    assert response.json()["plan_hash"] == run.input.load_plan().hash


@pytest.mark.parametrize("path", ["/api/runs", "/api/plan"])
@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({}, {"batch"}),
        ({"batch": 7}, {"batch"}),
        ({"batch": None}, {"batch"}),
        ({"batch": "no-such"}, {"batch"}),
        ({"batch": "nightly", "bath": 1, "step": []}, {"bath", "step"}),
        ({"batch": "nightly", "context": []}, {"context"}),
        ({"batch": "nightly", "context": "{}"}, {"context"}),
        ({"batch": "nightly", "context": {"a": "x" * 1024 * 1024}}, {"context"}),
        ({"batch": "nightly", "context": {"a": "\ud800"}}, {"context"}),
        ({"batch": "nightly", "context": {"\0": 1}}, {"context"}),
        ({"batch": "nightly", "steps": "TidyStep"}, {"steps"}),
        ({"batch": "nightly", "steps": [1]}, {"steps"}),
        ({"batch": "nightly", "steps": []}, {"steps"}),
        ({"batch": "nightly", "steps": ["NoStep", "OffStep"]}, {"steps"}),
        ({"batch": "nightly", "steps": ["TidyStep", "TidyStep"]}, {"steps"}),
        ({"batch": "nightly", "options": []}, {"options"}),
        ({"batch": "nightly", "options": {"pool_width": 0}}, {"options.pool_width"}),
        ({"batch": "nightly", "options": {"pool_width": True}}, {"options.pool_width"}),
        ({"batch": "nightly", "options": {"pool_width": 2.5}}, {"options.pool_width"}),
        ({"batch": "nightly", "options": {"pool_width": None}}, {"options.pool_width"}),
        ({"batch": "nightly", "options": {"width": 1}}, {"options.width"}),
        ({"batch": "nightly", "plan_hash": 1}, {"plan_hash"}),
        (
            {
                "batch": "no-such",
                "context": 1,
                "steps": 2,
                "options": {
                    "failure_policy": "panic",
                    "pool_start": [],
                    "default_timeout_seconds": -1,
                },
            },
            {
                "batch",
                "context",
                "steps",
                "options.failure_policy",
                "options.pool_start",
                "options.default_timeout_seconds",
            },
        ),
    ],
)
def test_every_problem_is_named(
    http: Client, batch: Batch, path: str, body: Any, fields: set[str]
) -> None:
    """All at once, each with its field; nothing is started."""
    response = post(http, path, body)
    assert response.status_code == 400
    assert fields_of(response) == fields
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    "body",
    [
        "{",
        "[]",
        "null",
        '"text"',
        "7",
        b"\xff\xfe\xfd",
        '{"batch": NaN}',
        '{"batch": "nightly", "context": {"a": 1e999}}',
        '{"batch": "nightly", "context": {"a": -Infinity}}',
        '{"context": ' + "[" * 500 + "]" * 500 + "}",
        "[" * 100_000,
        '{"context": {"a": ' + "9" * 5000 + "}}",
    ],
    ids=range(12),
)
def test_malformed_json_is_400(http: Client, batch: Batch, body: str | bytes) -> None:
    """Never a traceback."""
    for path in ("/api/runs", "/api/plan", f"/api/runs/{make_run().pk}/cancel"):
        response = post(http, path, body)
        assert response.status_code == 400
        assert fields_of(response)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('{"context": {"a": ' + "9" * 5000 + "}}", "numbers of at most 400 digits"),
        ('{"context": {"a": [-' + "9" * 401 + "]}}", "numbers of at most 400 digits"),
        ('{"context": {"day": 1, "at": 2, "day": 3}}', 'the key "day" twice'),
        ('{"context": {"a": [{"b": {}}, {"b": 1, "b": 1}]}}', 'the key "b" twice'),
    ],
)
def test_what_would_be_lost_in_a_context_is_refused(
    http: Client, batch: Batch, text: str, told: str
) -> None:
    """In words of its own, and beside the field."""
    response = post(http, "/api/plan", '{"batch": "nightly", ' + text[1:])
    assert response.status_code == 400
    assert fields_of(response) == {"context"}
    assert told in response.json()["errors"][0]["message"]
    response = post(http, "/api/plan", '{"batch": "nightly", "batch": "weekly"}')
    assert (response.status_code, fields_of(response)) == (400, {"batch"})
    as_large = '{"batch": "nightly", "context": {"a": ' + "9" * 400 + "}}"
    assert post(http, "/api/plan", as_large).status_code == 200


def test_a_body_that_is_too_large_is_413(http: Client, batch: Batch) -> None:
    """Also if its length is not announced."""
    body = json.dumps({"batch": "nightly", "context": {"a": "x" * (4 * 1024 * 1024)}})
    response = post(http, "/api/runs", body)
    assert response.status_code == 413
    assert fields_of(response) == {""}
    response = post(http, "/api/runs", body, CONTENT_LENGTH=len(body))
    assert response.status_code == 413


def test_a_body_of_another_type_is_415(http: Client, batch: Batch) -> None:
    """Forms of other sites can send text, but not JSON."""
    response = http.post("/api/runs", '{"batch": "nightly"}', content_type="text/plain")
    assert response.status_code == 415
    assert not Run.objects.exists()


# ---- cancelling ---------------------------------------------------------------------------------


def test_a_running_run_is_asked_to_stop(http: Client) -> None:
    """The request is recorded with who, why and how far."""
    run = make_run(["running"])
    body = {"note": "wrong day", "mode": "drain"}
    response = post(http, f"/api/runs/{run.pk}/cancel", body)
    assert response.status_code == 202
    answer = response.json()
    assert answer["status"] == "cancelling"
    assert answer["run"]["cancel_requested_by"] == "otto"
    assert (answer["run"]["cancel_note"], answer["run"]["cancel_mode"]) == ("wrong day", "drain")
    assert answer["run"]["sequence"] > run.sequence


def test_a_queued_run_is_cancelled_at_once(http: Client) -> None:
    """There is nobody to ask."""
    run = make_run(status=RunStatus.QUEUED)
    answer = post(http, f"/api/runs/{run.pk}/cancel").json()
    assert (answer["status"], answer["run"]["status"]) == ("cancelled", "cancelled")
    answer = post(http, f"/api/runs/{run.pk}/cancel").json()
    assert answer["status"] == "already_final"


def test_one_step_is_cancelled(http: Client) -> None:
    """The run goes on."""
    run = make_run(["running", "running"])
    step_run = run.step_runs.last()
    response = post(http, f"/api/step-runs/{step_run.pk}/cancel", {"note": "hangs"})
    assert response.status_code == 202
    assert response.json()["status"] == "cancelling"
    asked = StepRun.objects.exclude(cancel_requested_at=None)
    assert list(asked.values_list("pk", "cancel_requested_by")) == [(step_run.pk, "otto")]
    assert response.json()["run"]["cancel_requested_at"] is None


def test_a_protected_step_says_so(http: Client) -> None:
    """409 with the reason."""
    run = make_run(["running"])
    run.step_runs.update(protected=True)
    response = post(http, f"/api/step-runs/{run.step_runs.get().pk}/cancel")
    assert response.status_code == 409
    assert "protected" in response.json()["errors"][0]["message"]


def test_all_active_runs_are_cancelled(http: Client) -> None:
    """Their ids come back."""
    active = [make_run().pk, make_run(status=RunStatus.QUEUED).pk]
    make_run(["failed"], status=RunStatus.FAILED)
    response = post(http, "/api/cancel-all")
    assert response.status_code == 202
    assert response.json() == {"cancelled": active}
    assert post(http, "/api/cancel-all", "").status_code == 202


def test_all_active_runs_are_drained(http: Client) -> None:
    """Mode and note as for one."""
    run = make_run(["running"])
    response = post(http, "/api/runs/cancel", {"mode": "drain", "note": "tonight"})
    assert response.json() == {"cancelled": [run.pk]}
    run.refresh_from_db()
    assert (run.cancel_mode, run.cancel_note) == ("drain", "tonight")
    response = post(http, "/api/runs/cancel", {"mode": "kill", "note": 7})
    assert (response.status_code, fields_of(response)) == (400, {"mode", "note"})


def test_a_forecast(http: Client) -> None:
    """One entry for each step that runs; the words are tested elsewhere."""
    run = make_run(["running", "succeeded", "running", "pending"])
    answer = http.get(f"/api/runs/{run.pk}/forecast").json()
    assert [step["position"] for step in answer["steps"]] == [0, 2]
    assert set(answer["steps"][0]) == {"id", "position", "name", "kind", "text", "processes"}
    ended = make_run(["failed"], status=RunStatus.FAILED)
    assert http.get(f"/api/runs/{ended.pk}/forecast").json() == {"steps": []}


def test_receipts_are_in_snapshots_and_changes(http: Client) -> None:
    """With who asked and why, and the process that ran it."""
    run = make_run(["running"])
    receipt = {"signals": ["SIGTERM"], "processes": 2, "proven_empty": True}
    change_steps(run, cancel_requested_by="ada", cancel_note="wrong day", receipt=receipt)
    for path in (f"/api/runs/{run.pk}", f"/api/runs/{run.pk}/changes?after=1"):
        answer = http.get(path).json()
        step = dict(zip(answer["columns"], answer["steps"][0], strict=True))
        assert (step["receipt"], step["cancel_note"]) == (receipt, "wrong day")
        assert answer["run"]["worker"] == {"host": "host", "pid": 1}
    queued = make_run(status=RunStatus.QUEUED)
    assert http.get(f"/api/runs/{queued.pk}").json()["run"]["worker"] is None


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"mode": "kill"}, {"mode"}),
        ({"note": 7}, {"note"}),
        ({"note": "x" * 501}, {"note"}),
        ({"note": "\0", "mode": []}, {"note"}),
        ({"force": True}, {"force"}),
        ({"note": 7, "mode": 7}, {"mode", "note"}),
    ],
)
def test_a_cancel_that_makes_no_sense_is_refused(http: Client, body: Any, fields: set[str]) -> None:
    """Nothing is recorded."""
    run = make_run(["running"])
    response = post(http, f"/api/runs/{run.pk}/cancel", body)
    assert response.status_code == 400
    assert fields_of(response) == fields
    run.refresh_from_db()
    assert run.cancel_requested_at is None


# ---- groups -------------------------------------------------------------------------------------


def test_a_new_installation_has_groups() -> None:
    """With what their names promise."""
    for name, permissions in GROUPS.items():
        group = Group.objects.get(name=name)
        held = group.permissions.values_list("content_type__app_label", "codename")
        assert {f"{label}.{codename}" for label, codename in held} == set(permissions)
    assert TRIGGER_RUN not in GROUPS["viewers"]
    assert TRIGGER_RUN in GROUPS["operators"]
    assert "steps.change_classificationrule" in GROUPS["rule editors"]


def test_groups_that_a_team_changed_stay_so() -> None:
    """Only a group that does not exist is made."""
    operators = Group.objects.get(name="operators")
    operators.permissions.clear()
    Group.objects.get(name="viewers").delete()
    make_groups()
    make_groups()
    assert not operators.permissions.exists()
    assert Group.objects.get(name="viewers").permissions.count() == len(GROUPS["viewers"])


def test_the_limits_leave_room_for_the_largest_context() -> None:
    """A body can hold a context of the size that is allowed, escapes included."""
    assert api.BODY_LIMIT >= 2 * 1024 * 1024
