"""The pages as a browser without scripts gets them: what they say, offer and refuse."""

from __future__ import annotations

import json
import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.http import HttpResponse
from django.template import Context, Template
from django.template.loader import render_to_string
from django.test import Client
from django.utils import timezone
from django.utils.html import escape

from executions import overview, plan_changes, presentation
from executions.engine.status import RunStatus, StepStatus
from executions.models import CancelMode, Run, StepRun
from executions.permissions import CANCEL_RUN, TRIGGER_RUN, VIEW_RUN
from steps.models import Batch, BatchStep, ClassificationRule, Step
from tests.factories import (
    change_steps,
    end_run,
    make_batch,
    make_run,
    make_step,
    make_user,
    make_worker,
    start_steps,
    write_log,
)

pytestmark = pytest.mark.django_db

ROOT = Path(__file__).parent.parent.parent
SCRIPTS = ROOT / "static" / "stepsite" / "js"
MARKUP = '<img src=x onerror="alert(1)"> & "quoted"'


@pytest.fixture
def operator() -> User:
    return make_user("otto", VIEW_RUN, TRIGGER_RUN, CANCEL_RUN)


@pytest.fixture
def http(client: Client, operator: User) -> Client:
    client.force_login(operator)
    return client


@pytest.fixture
def viewer() -> Client:
    client = Client()
    client.force_login(make_user("vera", VIEW_RUN))
    return client


@pytest.fixture
def batch() -> Batch:
    """`CreateChatStep` is critical by the default rules, `OffStep` is off."""
    batch = make_batch(context={"where": "here"}, pool_width=3)
    for position, name in enumerate(("TidyStep", "CreateChatStep", "OffStep")):
        step = make_step(name, target={"argv": ["true"]})
        BatchStep.objects.create(
            batch=batch, step=step, position=position, enabled=name != "OffStep"
        )
    return batch


def text_of(response: Any) -> str:
    return str(response.content.decode())


def hidden(response: Any, name: str) -> str:
    """The value of a hidden field of the trigger form."""
    found = re.search(rf'name="{name}"[^>]*value="([^"]*)"', text_of(response))
    assert found
    return found[1].replace("&quot;", '"').replace("&#x27;", "'").replace("&amp;", "&")


def filled(page: HttpResponse, **changes: Any) -> dict[str, Any]:
    """The trigger form of a page as a browser would send it."""
    return {
        "steps": ["TidyStep", "CreateChatStep"],
        "context": '{"where": "here"}',
        "pool_width": "3",
        "failure_policy": "stop_critical",
        "pool_start": "after_critical",
        "default_timeout_seconds": "",
        "plan_hash": hidden(page, "plan_hash"),
        "seen": hidden(page, "seen"),
        "action": "start",
    } | changes


# ---- every page ---------------------------------------------------------------------------------


@pytest.fixture
def site(batch: Batch) -> Run:
    """A bit of everything, with markup wherever people may write."""
    Batch.objects.update(name=MARKUP, description=MARKUP)
    step = make_step(MARKUP, category=MARKUP, description=MARKUP, kind="python", missing=True)
    BatchStep.objects.create(batch=batch, step=step, position=9)
    failed = make_run(["failed", "skipped"], status=RunStatus.FAILED, batch=batch, critical=1)
    failed.step_runs.update(name=MARKUP, message=MARKUP, because=MARKUP)
    run = make_run(["running", "pending"], batch=batch, critical=1, triggered_by=MARKUP)
    change_steps(run, [0], name=MARKUP, because=MARKUP)
    return run


PATHS = [
    "/",
    "/batches/",
    "/batches/nightly/",
    "/runs/",
    "/runs/{run}/",
    "/runs/{run}/?step={step}",
    "/runs/{run}/cancel/",
    "/runs/cancel/",
    "/step-runs/{step}/cancel/",
    "/steps/",
    "/sign-in/",
    "/nowhere/",
]


@pytest.mark.parametrize("path", PATHS)
def test_pages_are_safe_and_complete(http: Client, site: Run, path: str) -> None:
    """Whatever people wrote is text, and nothing needs more than the strict policy allows."""
    step = site.step_runs.first()
    assert step
    response = http.get(path.format(run=site.pk, step=step.pk))
    assert response.status_code == {"/nowhere/": 404, "/sign-in/": 302}.get(path, 200)
    page = text_of(response)
    assert MARKUP not in page
    assert "<img src=x" not in page
    assert not re.search(r"\sstyle=|\son[a-z]+=[\"']|<style|javascript:", page.replace(MARKUP, ""))
    assert not re.search(r"<script(?![^>]*\bsrc=)", page)


@pytest.mark.parametrize("path", PATHS[:-2])
def test_references_inside_a_page_lead_somewhere(http: Client, site: Run, path: str) -> None:
    """Ids occur once; labels, descriptions and symbols that are referred to exist."""
    step = site.step_runs.first()
    assert step
    page = text_of(http.get(path.format(run=site.pk, step=step.pk)))
    ids = re.findall(r'\sid="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    referred = re.findall(
        r'\s(?:for|aria-labelledby|aria-describedby|aria-controls)="([^"]+)"', page
    )
    referred += re.findall(r'<use href="#([^"]+)"', page)
    assert set(referred) <= set(ids)


def test_an_account_without_rights_is_told_so(client: Client) -> None:
    """Signed in is not enough; the page says whom to ask."""
    client.force_login(make_user("nobody"))
    response = client.get("/")
    assert response.status_code == 403
    assert "Ask an administrator" in text_of(response)


def test_the_favicon_is_there_for_everybody(client: Client) -> None:
    """Browsers that show JSON ask for it; it is no 404 and no sign-in page."""
    response = client.get("/favicon.ico")
    assert response.status_code == 301
    assert response["Location"].endswith("favicon-idle.svg")


def test_pages_are_not_kept(http: Client) -> None:
    """The back button after signing out shows nothing of the site."""
    assert "no-store" in http.get("/")["Cache-Control"]


def test_signing_in_leads_to_where_one_wanted_to_go(client: Client) -> None:
    """The address survives the sign-in page; a wrong password is said in words."""
    make_user("vera", VIEW_RUN, password="correct horse")
    asked = client.get("/runs/?status=failed")
    page = client.get(asked["Location"])
    assert 'name="next" value="/runs/?status=failed"' in text_of(page)
    wrong = client.post(asked["Location"], {"username": "vera", "password": "battery"})
    assert "Please enter a correct username and password" in text_of(wrong)
    right = {"username": "vera", "password": "correct horse", "next": "/runs/?status=failed"}
    assert client.post("/sign-in/", right)["Location"] == "/runs/?status=failed"


# ---- dashboard ----------------------------------------------------------------------------------


def test_without_a_worker_the_dashboard_says_how_to_start_one(http: Client) -> None:
    """The most common first question is answered where it comes up."""
    banner = re.compile(r'id="no-worker" role="status"\s*(hidden)?')
    page = text_of(http.get("/"))
    assert "python manage.py worker" in page
    assert (found := banner.search(page))
    assert not found[1]
    make_worker()
    assert (found := banner.search(text_of(http.get("/"))))
    assert found[1]


def test_the_dashboard_shows_active_runs(http: Client, viewer: Client) -> None:
    """Each with progress, a small rail and a way to cancel it for those who may."""
    make_worker()
    run = make_run(["succeeded", "running", "pending", "pending"], critical=3)
    page = text_of(http.get("/"))
    assert f'data-run="{run.pk}" data-status="running"' in page
    assert "1 succeeded, 1 running, 2 pending" in page
    assert "Critical lane: 1 of 3 done" in page
    assert f'href="/runs/{run.pk}/cancel/"' in page
    assert f'href="/runs/{run.pk}/cancel/"' not in text_of(viewer.get("/"))


def test_a_queued_run_says_why_it_waits(http: Client) -> None:
    """On the dashboard and on its own page."""
    run = make_run(2, status=RunStatus.QUEUED)
    for path in ("/", f"/runs/{run.pk}/"):
        assert "no worker is running" in text_of(http.get(path))


def test_attention_is_for_what_nobody_mended(http: Client, batch: Batch) -> None:
    """A batch is listed with its first miss until it succeeds again."""
    for _ in range(2):
        run = make_run(["failed", "failed"], status=RunStatus.FAILED, batch=batch, critical=1)
    run.step_runs.filter(position=0).update(message="no space left on device")
    page = text_of(http.get("/"))
    assert "no space left on device" in page
    assert "2 times in a row" in page
    make_run(["succeeded"], status=RunStatus.SUCCEEDED, batch=batch)
    assert overview.needs_attention() == []


def test_attention_names_the_critical_miss_first() -> None:
    """Also if a step of the pool missed earlier."""
    run = make_run(["failed", "timed_out"], status=RunStatus.FAILED, critical=0)
    run.step_runs.filter(position=1).update(lane="critical")
    earlier = timezone.now() - timedelta(minutes=5)
    run.step_runs.filter(position=0).update(finished_at=earlier)
    miss = overview.first_miss(run)
    assert miss
    assert miss.position == 1


def test_a_long_rail_is_drawn_around_the_current_step(http: Client) -> None:
    """With the numbers of steps left out on both sides."""
    statuses = ["succeeded"] * 20 + ["running"] + ["pending"] * 29
    run = make_run(statuses, critical=50)
    rail = http.get(f"/rails/?run={run.pk}&run=999&run=x").json()["rails"][str(run.pk)]
    shown = [status for _, status in rail["nodes"]]
    assert (rail["before"], rail["done"], rail["total"]) == (15, 20, 50)
    assert rail["before"] + len(shown) + rail["after"] == 50
    assert shown[:6] == ["succeeded"] * 5 + ["running"]


# ---- batches and triggering ---------------------------------------------------------------------


def test_the_batch_page_shows_the_plan(http: Client, batch: Batch) -> None:
    """Both lanes in order, and for each entry the reason."""
    page = text_of(http.get("/batches/nightly/"))
    critical, pool = page.split('data-lane="critical"')[1].split('data-lane="pool"')
    assert 'data-name="CreateChatStep"' in critical
    assert escape('Rule 2 “CreateChatStep”: the name is "CreateChatStep"') in critical
    assert 'data-name="TidyStep"' in pool
    assert "No rule matched" in pool
    assert 'data-name="OffStep"' not in page


def test_viewers_see_the_plan_and_cannot_start_it(viewer: Client, batch: Batch) -> None:
    """The page offers no button, and the view refuses."""
    page = viewer.get("/batches/nightly/")
    assert "Start this run" not in text_of(page)
    assert viewer.post("/batches/nightly/", filled(page)).status_code == 403
    assert not Run.objects.exists()


def test_starting_runs_what_was_shown(http: Client, batch: Batch) -> None:
    """One run, of exactly the plan whose hash came with the form."""
    page = http.get("/batches/nightly/")
    response = http.post("/batches/nightly/", filled(page))
    run = Run.objects.get()
    assert response["Location"] == f"/runs/{run.pk}/"
    assert run.input.load_plan().hash == hidden(page, "plan_hash")
    assert run.triggered_by == "otto"


def test_previewing_starts_nothing(http: Client, batch: Batch) -> None:
    """Other entries, context and options give another plan, and its hash starts it."""
    page = http.get("/batches/nightly/")
    chosen = {"steps": ["TidyStep"], "context": '{"workflow_id": 7}', "pool_width": "2"}
    shown = http.post("/batches/nightly/", filled(page, action="preview", **chosen))
    assert shown.status_code == 200
    assert not Run.objects.exists()
    critical = text_of(shown).split('data-lane="critical"')[1].split('data-lane="pool"')[0]
    assert 'data-name="TidyStep"' in critical
    http.post("/batches/nightly/", filled(shown, **chosen))
    plan = Run.objects.get().input.load_plan()
    assert [step.name for step in plan.critical] == ["TidyStep"]
    assert (plan.context, plan.options.pool_width) == ({"workflow_id": 7}, 2)


def test_nobody_starts_what_they_have_not_seen(http: Client, batch: Batch) -> None:
    """A form without a hash shows the plan instead."""
    page = http.get("/batches/nightly/")
    response = http.post("/batches/nightly/", filled(page, plan_hash=""))
    assert response.status_code == 200
    assert not Run.objects.exists()


def test_a_changed_plan_is_shown_instead_of_started(http: Client, batch: Batch) -> None:
    """With what differs; the second start, with the new hash, is a start."""
    page = http.get("/batches/nightly/")
    ClassificationRule.objects.filter(name="CreateChatStep").update(critical=False)
    Step.objects.filter(name="TidyStep").update(timeout_seconds=7)
    again = http.post("/batches/nightly/", filled(page))
    assert again.status_code == 409
    assert not Run.objects.exists()
    told = text_of(again)
    assert "Nothing was started" in told
    assert "<b>CreateChatStep</b> moves to the pool" in told
    assert "<b>TidyStep</b> has a timeout of 7 s instead of 30 s" in told
    assert http.post("/batches/nightly/", filled(again)).status_code == 302


def test_a_plan_can_change_out_of_sight(http: Client, batch: Batch) -> None:
    """Lanes and limits are as before, the definition is not: that is said, too."""
    page = http.get("/batches/nightly/")
    Step.objects.filter(name="TidyStep").update(target={"argv": ["false"]})
    again = http.post("/batches/nightly/", filled(page))
    assert again.status_code == 409
    assert "a definition is not" in text_of(again)


@pytest.mark.parametrize("seen", ["", "nonsense", "[[1]]", '[["a","moon",1,""]]', "[" * 5000])
def test_what_was_seen_may_be_anything(http: Client, batch: Batch, seen: str) -> None:
    """It comes from a browser; only the differences depend on it."""
    page = http.get("/batches/nightly/")
    response = http.post("/batches/nightly/", filled(page, plan_hash="0" * 64, seen=seen))
    assert response.status_code == 409


CONTEXTS = {
    '{"a": ': "This is not JSON",
    "[1]": "must be an object",
    '"text"': "must be an object",
    '{"a": NaN}': "NaN is not JSON",
    '{"a": ' + "9" * 5000 + "}": "must have numbers of at most 400 digits",
    '{"day": 1, "day": 2}': "must not hold the key &quot;day&quot; twice",
    "[" * 100_000: "This is not JSON",
    json.dumps({"a": "x" * 1_100_000}): "must have at most 1048576 bytes",
}


@pytest.mark.parametrize(("text", "told"), CONTEXTS.items(), ids=range(len(CONTEXTS)))
def test_a_bad_context_is_explained(http: Client, batch: Batch, text: str, told: str) -> None:
    """What was typed stays, what is wrong with it is said, nothing is made."""
    page = http.get("/batches/nightly/")
    response = http.post("/batches/nightly/", filled(page, context=text))
    assert response.status_code == 200
    assert told in text_of(response)
    assert escape(text[:80]) in text_of(response)
    assert not Run.objects.exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"steps": []}, "Choose at least one"),
        ({"steps": ["TidyStep", "Nothing"]}, "no entry called"),
        ({"steps": ["TidyStep", "OffStep"]}, "is off"),
        ({"steps": ["TidyStep", "TidyStep"]}, "chosen twice"),
        ({"pool_width": "0"}, "greater than or equal to 1"),
        ({"pool_width": "257"}, "less than or equal to 256"),
        ({"pool_width": "many"}, "whole number"),
        ({"default_timeout_seconds": "-1"}, "above 0"),
        ({"default_timeout_seconds": "nan"}, "number"),
        ({"failure_policy": "panic"}, "not one of the available choices"),
        ({"pool_start": ""}, "This field is required"),
    ],
)
def test_bad_choices_are_explained(
    http: Client, batch: Batch, changes: dict[str, Any], told: str
) -> None:
    """Beside the field or above the plan, and nothing is made."""
    page = http.get("/batches/nightly/")
    response = http.post("/batches/nightly/", filled(page, **changes))
    assert response.status_code == 200
    assert told in text_of(response)
    assert not Run.objects.exists()


def test_a_batch_without_entries_says_so(http: Client) -> None:
    """It is no error to look at it."""
    make_batch("bare")
    page = text_of(http.get("/batches/bare/"))
    assert "This batch has no entries" in page
    assert "has no entry that is on" in page


def test_running_again_begins_with_what_ran(http: Client, batch: Batch) -> None:
    """Entries, context and options of the earlier run are filled in."""
    page = http.get("/batches/nightly/")
    chosen = {"steps": ["TidyStep"], "context": '{"day": "monday"}', "pool_width": "5"}
    shown = http.post("/batches/nightly/", filled(page, action="preview", **chosen))
    http.post("/batches/nightly/", filled(shown, **chosen))
    again = text_of(http.get(f"/batches/nightly/?like={Run.objects.get().pk}"))
    assert "monday" in again
    assert 'value="5"' in again
    assert "1</span> of 2 chosen" in again
    assert http.get("/batches/nightly/?like=nonsense").status_code == 200


def test_large_batches_can_be_triggered(http: Client) -> None:
    """One field for each entry is more than Django allows by default."""
    batch = make_batch("large")
    step = make_step()
    BatchStep.objects.bulk_create(
        BatchStep(batch=batch, step=step, position=n, name=f"entry {n}") for n in range(1500)
    )
    page = http.get("/batches/large/")
    names = [f"entry {n}" for n in range(1, 1500)]
    response = http.post(
        "/batches/large/", filled(page, steps=names, context="{}", action="preview")
    )
    assert response.status_code == 200
    assert "1,000 more" not in text_of(response)
    assert "and 999 more" in text_of(response)


# ---- the page of a run --------------------------------------------------------------------------


def rows_of(response: Any) -> list[tuple[int, str]]:
    """Id and shown status of each row, in order."""
    rows = text_of(response).split('id="step-rows"')[1].split('id="step-foot"')[0]
    found = re.findall(r'data-step-run="(\d+)" data-status="(\w+)"', rows)
    return [(int(pk), status) for pk, status in found]


def test_steps_come_in_the_order_of_attention(http: Client) -> None:
    """What missed, what is stopping, what runs, what waits, and only then what is over."""
    statuses = [
        "succeeded", "pending", "skipped", "running", "interrupted",
        "cancelled", "timed_out", "running", "failed",
    ]  # fmt: skip
    run = make_run(statuses)
    change_steps(run, [7], cancel_requested_at=timezone.now())
    shown = [status for _, status in rows_of(http.get(f"/runs/{run.pk}/"))]
    assert shown == list(presentation.ATTENTION)


def test_large_runs_show_their_first_rows(http: Client) -> None:
    """Without scripts the page stays small, and says what it leaves out."""
    run = make_run(400)
    response = http.get(f"/runs/{run.pk}/")
    assert len(rows_of(response)) == 50
    assert "The first 50 of 400 steps" in text_of(response)


def test_the_number_of_queries_does_not_grow(
    http: Client, django_assert_max_num_queries: Any
) -> None:
    """Neither with the steps of a run nor with the runs of a list."""
    run = make_run(["running"] * 60 + ["pending"] * 60, critical=60)
    for _ in range(30):
        make_run(["succeeded"], status=RunStatus.SUCCEEDED)
    for path in (f"/runs/{run.pk}/", "/runs/"):
        with django_assert_max_num_queries(16):
            http.get(path)


@pytest.mark.parametrize(
    ("status", "mode", "protected", "expected"),
    [
        ("running", "stop", False, "cancelling"),
        ("running", "drain", False, "running"),
        ("running", "stop", True, "running"),
        ("pending", "stop", False, "pending"),
        ("succeeded", "stop", False, "succeeded"),
    ],
)
def test_cancelling_is_derived(
    http: Client, status: str, mode: str, protected: bool, expected: str
) -> None:
    """A request is a fact; whom it stops depends on its mode and on protection."""
    run = make_run([status, "running"])
    Run.objects.update(cancel_requested_at=timezone.now(), cancel_mode=mode)
    change_steps(run, [0], protected=protected)
    response = http.get(f"/runs/{run.pk}/")
    step = run.step_runs.get(position=0)
    assert (step.pk, expected) in rows_of(response)
    assert 'class="pill lg" data-status="cancelling"' in text_of(response)


def test_only_those_who_may_are_offered_a_cancel(http: Client, viewer: Client) -> None:
    """A form per step that can be cancelled, a link for the run; nothing for viewers."""
    run = make_run(["running", "running", "pending", "succeeded"])
    change_steps(run, [1], protected=True)
    offered = re.compile(r'action="/step-runs/(\d+)/cancel/"')
    steps = dict(run.step_runs.values_list("position", "pk"))
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert {int(pk) for pk in offered.findall(page)} == {steps[0], steps[2]}
    assert 'id="cancel-run"' in page
    page = text_of(viewer.get(f"/runs/{run.pk}/"))
    assert not offered.search(page)
    assert 'id="cancel-run"' not in page
    assert "cancel-dialog" not in page


def test_a_final_run_offers_no_cancel(http: Client) -> None:
    """The button is hidden, the rows have none."""
    run = make_run(["succeeded"], status=RunStatus.SUCCEEDED)
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert re.search(r'id="cancel-run"[^>]*hidden', page)
    assert "/step-runs/" not in page


def test_the_output_of_a_chosen_step_is_shown_as_text(http: Client) -> None:
    """Its end, decoded as well as that can be done, never as markup."""
    run = make_run(["failed"], status=RunStatus.FAILED)
    step = run.step_runs.get()
    write_log(step, b"<script>alert(1)</script>\n\xff\xfe binary\n")
    page = text_of(http.get(f"/runs/{run.pk}/?step={step.pk}"))
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "\ufffd\ufffd binary" in page
    assert http.get(f"/runs/{run.pk}/?step=nonsense").status_code == 200
    other = make_run(1)
    assert "binary" not in text_of(http.get(f"/runs/{other.pk}/?step={step.pk}"))


def waits(run: Run, position: int) -> str:
    run.refresh_from_db()
    step = run.step_runs.get(position=position)
    return presentation.line_of(step, overview.surroundings(run, ""))


def test_every_pending_step_says_what_it_waits_for() -> None:
    """The step ahead, the critical lane, a slot, a pause, or nothing any more."""
    run = make_run(["running", "pending", "pending"], critical=2)
    assert waits(run, 1) == "waits for entry 0"
    assert waits(run, 2) == "waits for the critical lane"
    Run.objects.update(pool_start="beside_critical", pool_width=1)
    assert waits(run, 2) == "starts next"
    busy = make_run(["running", "pending"], pool_width=1)
    change_steps(busy, [0], slot=1)
    assert waits(busy, 1) == "pool full 1/1"
    change_steps(busy, [1], retry_at=timezone.now(), attempt=1)
    assert waits(busy, 1) == "attempt 2 comes after a pause"
    Run.objects.update(cancel_requested_at=timezone.now())
    assert waits(busy, 1) == "will not start: the run is being cancelled"


def test_an_abandoned_step_holds_its_slot(http: Client) -> None:
    """As long as the run goes on; the pool counts it and says so."""
    run = make_run(["timed_out", "running"])
    change_steps(run, [0], abandoned_at=timezone.now(), slot=2)
    assert "keeps slot 2" in waits(run, 0)
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert 'data-slot="2" data-status="cancelling"' in page
    assert "data-abandoned" in page
    end_run(run)
    assert "keeps slot" not in waits(run, 0)


# ---- cancelling ---------------------------------------------------------------------------------


def test_cancelling_a_run_is_explained_first(http: Client) -> None:
    """Per kind of step what will happen, what stays half done, what will not start."""
    run = make_run(["running", "running", "running", "pending", "pending"], critical=1)
    change_steps(run, [1], kind="http")
    change_steps(run, [2], protected=True)
    page = re.sub(r"\s+", " ", text_of(http.get(f"/runs/{run.pk}/cancel/")))
    assert "<b>entry 0</b>: SIGTERM to the whole process tree" in page
    assert "<b>entry 1</b>: the connection is closed" in page
    assert "<b>entry 2</b>: protected" in page
    assert "Critical step <b>entry 0</b> stops half-way" in page
    assert "<b>2 pending steps</b> will not start" in page


@pytest.mark.parametrize("mode", ["stop", "drain"])
def test_cancelling_a_run_by_form(http: Client, mode: str) -> None:
    """The request is stored with its mode and note, and the page shows it."""
    run = make_run(["running", "pending"])
    response = http.post(f"/runs/{run.pk}/cancel/", {"mode": mode, "note": "wrong day"})
    assert response["Location"] == f"/runs/{run.pk}/"
    run.refresh_from_db()
    assert (run.cancel_mode, run.cancel_note, run.cancel_requested_by) == (
        mode,
        "wrong day",
        "otto",
    )
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert "wrong day" in page
    # A drain can still be raised to a stop, a stop to nothing.
    hidden_button = re.search(r'id="cancel-run"[^>]*hidden', page)
    assert bool(hidden_button) is (mode == CancelMode.STOP)


def test_a_note_that_is_too_long_cancels_nothing(http: Client) -> None:
    """It is said, and the run goes on."""
    run = make_run(["running"])
    response = http.post(f"/runs/{run.pk}/cancel/", {"note": "x" * 501}, follow=True)
    assert "nothing was cancelled" in text_of(response)
    run.refresh_from_db()
    assert run.cancel_requested_at is None


def test_cancelling_a_final_run_says_so(http: Client) -> None:
    """Whoever was too late learns it."""
    run = make_run(["succeeded"], status=RunStatus.SUCCEEDED)
    assert "has ended" in text_of(http.get(f"/runs/{run.pk}/cancel/"))
    response = http.post(f"/runs/{run.pk}/cancel/", follow=True)
    assert "had already ended" in text_of(response)


def test_cancelling_a_step_by_form(http: Client) -> None:
    """The page comes back with that step chosen and shown as cancelling."""
    run = make_run(["running", "running"])
    step = run.step_runs.get(position=1)
    response = http.post(f"/step-runs/{step.pk}/cancel/", follow=True)
    assert response.redirect_chain == [(f"/runs/{run.pk}/?step={step.pk}", 302)]
    assert (step.pk, "cancelling") in rows_of(response)


def test_a_protected_step_is_not_cancelled(http: Client) -> None:
    """The page says what ends it instead."""
    run = make_run(["running"])
    change_steps(run, [0], protected=True)
    step = run.step_runs.get()
    response = http.post(f"/step-runs/{step.pk}/cancel/", follow=True)
    assert "only its timeout" in text_of(response)
    step.refresh_from_db()
    assert step.cancel_requested_at is None


def test_a_step_is_asked_about_first(http: Client) -> None:
    """Where it is critical: what becomes of it, and of those that come after it."""
    run = make_run(["running", "pending", "pending", "running"], critical=3)
    critical, free = run.step_runs.get(position=0), run.step_runs.get(position=3)
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert f'href="/step-runs/{critical.pk}/cancel/"' in page
    assert f'action="/step-runs/{free.pk}/cancel/"' in page
    asked = text_of(http.get(f"/step-runs/{critical.pk}/cancel/"))
    assert "<b>entry 0</b>: SIGTERM to the whole process tree" in asked
    assert "Critical step <b>entry 0</b> stops half-way" in asked
    assert "<b>2 critical steps</b> after it will be skipped" in asked
    assert "entry 3" not in asked
    Run.objects.update(failure_policy="continue")
    assert "after it" not in text_of(http.get(f"/step-runs/{critical.pk}/cancel/"))
    Run.objects.update(failure_policy="stop_run")
    assert "Nothing new starts after it" in text_of(http.get(f"/step-runs/{critical.pk}/cancel/"))
    pending = run.step_runs.get(position=1)
    assert "will not start" in text_of(http.get(f"/step-runs/{pending.pk}/cancel/"))
    http.post(f"/step-runs/{critical.pk}/cancel/", {"note": "it hangs"})
    critical.refresh_from_db()
    assert (critical.cancel_requested_by, critical.cancel_note) == ("otto", "it hangs")
    assert "cannot be cancelled now" in text_of(http.get(f"/step-runs/{critical.pk}/cancel/"))
    response = http.post(f"/step-runs/{pending.pk}/cancel/", {"note": "x" * 501}, follow=True)
    assert "nothing was cancelled" in text_of(response)


def test_everything_is_cancelled_by_form(http: Client, viewer: Client) -> None:
    """After a page that lists what is active."""
    assert "Nothing is active" in text_of(http.get("/runs/cancel/"))
    running = make_run(["running", "running", "pending"])
    queued = make_run(status=RunStatus.QUEUED)
    assert 'id="cancel-all"' in text_of(http.get("/"))
    assert 'id="cancel-all"' not in text_of(viewer.get("/"))
    assert viewer.get("/runs/cancel/").status_code == 403
    page = text_of(http.get("/runs/cancel/"))
    assert "Cancel all 2 active runs?" in page
    assert f"<b>Nightly #{running.pk}</b>: 2 steps running, 1 pending" in page
    assert f"<b>Nightly #{queued.pk}</b>: queued, 3 steps pending" in page
    response = http.post("/runs/cancel/", {"mode": "drain", "note": "tonight"}, follow=True)
    assert "The cancel reached 2 runs." in text_of(response)
    running.refresh_from_db()
    queued.refresh_from_db()
    assert (running.cancel_mode, running.cancel_note) == ("drain", "tonight")
    assert queued.status == RunStatus.CANCELLED
    response = http.post("/runs/cancel/", {"note": "x" * 501}, follow=True)
    assert "nothing was cancelled" in text_of(response)


def test_a_drain_is_shown_with_what_still_runs(http: Client) -> None:
    """And a stop as such."""
    run = make_run(["running", "running", "cancelled"], cancel_requested_at=timezone.now())
    for mode, verb in ((CancelMode.DRAIN, "draining"), (CancelMode.STOP, "stopping")):
        Run.objects.update(cancel_mode=mode, cancel_requested_by="ada")
        page = text_of(http.get(f"/runs/{run.pk}/"))
        assert f'<em id="waiting">{verb}: 2 steps still running</em>' in page
        assert ("Running steps may finish." in page) is (mode == CancelMode.DRAIN)


def test_without_pool_steps_there_is_no_pool(http: Client) -> None:
    """A card that says 0 of 4 would be read as trouble."""
    ordered, mixed = make_run(2, critical=2), make_run(2, critical=1)
    assert re.search(r'id="pool" +hidden', text_of(http.get(f"/runs/{ordered.pk}/")))
    assert not re.search(r'id="pool" +hidden', text_of(http.get(f"/runs/{mixed.pk}/")))


# ---- receipts -----------------------------------------------------------------------------------

NOW = timezone.now()
SECONDS_AGO = NOW - timedelta(seconds=2)
STEP_ASKED = {"cancel_requested_at": SECONDS_AGO, "cancel_requested_by": "ada"}
KILLED = {
    "signals": ["SIGTERM", "SIGKILL"],
    "processes": 4,
    "proven_empty": True,
    "seconds": 1.25,
    "kill_level": "subreaper",
    "after_exit": False,
}


@pytest.mark.parametrize(
    ("status", "facts", "said"),
    [
        ("running", STEP_ASKED, "Asked to stop; shown as cancelled when that is proven."),
        ("cancelled", STEP_ASKED, "Cancelled 2.0s later."),
        ("cancelled", {**STEP_ASKED, "started_at": None}, "It had not started."),
        ("succeeded", STEP_ASKED, "It came to its own end first, 2.0s after the request."),
        (
            "cancelled",
            {**STEP_ASKED, "receipt": KILLED},
            "SIGTERM, then SIGKILL to 4 processes; none left after 1.2s. Kill level: subreaper.",
        ),
        (
            "timed_out",
            {"reason": "timeout", "receipt": KILLED},
            "Its limit of 30 s was reached. SIGTERM, then SIGKILL to 4 processes",
        ),
        ("timed_out", {"reason": "timeout"}, "Its limit of 30 s was reached."),
        (
            "succeeded",
            {"receipt": {**KILLED, "after_exit": True}},
            "It ended by itself and left something running. SIGTERM, then SIGKILL",
        ),
    ],
)
def test_a_receipt_says_what_was_done(
    http: Client, status: str, facts: dict[str, Any], said: str
) -> None:
    """On the page of the step, with who asked and when if somebody did."""
    run = make_run([status])
    change_steps(run, **({"finished_at": NOW} if status != "running" else {}) | facts)
    page = text_of(http.get(f"/runs/{run.pk}/?step={run.step_runs.get().pk}"))
    receipt = re.sub(r"<[^>]+>", "", page[page.index('id="log-receipt"') :].split("</div>")[0])
    assert said in receipt
    who = f"Cancel asked for by ada at {SECONDS_AGO:%H:%M:%S} UTC."
    assert (who in receipt) is ("cancel_requested_by" in facts)


def test_a_step_that_ended_by_itself_has_no_receipt(http: Client) -> None:
    """Nor has one that its run's cancel did not meet."""
    run = make_run(["succeeded", "failed"], cancel_requested_at=NOW, cancel_mode="drain")
    for step in run.step_runs.all():
        assert presentation.receipt(step, run) is None


def test_the_receipt_of_a_run_that_was_cancelled() -> None:
    """Who asked for the run did it."""
    run = make_run(
        ["cancelled"],
        status=RunStatus.CANCELLED,
        cancel_requested_at=SECONDS_AGO,
        cancel_requested_by="ada",
        cancel_note="wrong day",
    )
    change_steps(run, reason="run_cancelled", receipt=KILLED)
    found = presentation.receipt(run.step_runs.get(), run)
    assert found is not None
    assert (found.by, found.note, found.doubt) == ("ada", "wrong day", "")


def test_what_is_not_proven_comes_with_what_to_do() -> None:
    """Where to look for it, and not to run it again before."""
    run = make_run(["interrupted"], holder="web1|boot|ns|4711|99")
    doubtful = {**KILLED, "proven_empty": False}
    change_steps(run, receipt={**doubtful, "unknown_pids": [12, 13]})
    found = presentation.receipt(run.step_runs.get(), run)
    assert found is not None
    assert "not proven that none is left" in found.text
    assert "Look on web1 with “ps -fp 12,13”" in found.doubt
    change_steps(run, receipt=doubtful)
    found = presentation.receipt(run.step_runs.get(), run)
    assert found is not None
    assert f"grep -ls STEPSITE_STEP={run.pk}:" in found.doubt


@pytest.mark.parametrize(("slot", "kept"), [(3, "slot 3 of 4"), (None, "the critical lane")])
def test_an_abandoned_thread_is_named(slot: int | None, kept: str) -> None:
    """With its process, and what it keeps for how long."""
    run = make_run(["interrupted"], holder="web1|boot|ns|4711|99")
    change_steps(run, abandoned_at=NOW, slot=slot, **STEP_ASKED)
    found = presentation.receipt(run.step_runs.get(), run)
    assert found is not None
    assert "may still be running in worker process 4711 on web1" in found.doubt
    assert f"keeps {kept} until it returns" in found.doubt
    end_run(run, RunStatus.FAILED)
    run.refresh_from_db()
    found = presentation.receipt(run.step_runs.get(), run)
    assert found is not None
    assert "ends when that process is replaced" in found.doubt


# ---- lists --------------------------------------------------------------------------------------


def runs_of(response: Any) -> set[int]:
    return {int(pk) for pk in re.findall(r'<tr data-run="(\d+)"', text_of(response))}


def test_runs_are_filtered_by_the_address(http: Client) -> None:
    """Status, groups of statuses, batch, person, name and number; nonsense filters nothing."""
    weekly = make_batch("weekly")
    running = make_run(["running"], triggered_by="ada").pk
    failed = make_run(["failed"], status=RunStatus.FAILED, batch=weekly).pk
    partial = make_run(["failed"], status=RunStatus.PARTIALLY_SUCCEEDED).pk
    good = make_run(["succeeded"], status=RunStatus.SUCCEEDED).pk
    for query, expected in {
        "": {running, failed, partial, good},
        "?status=failed": {failed},
        "?status=missed": {failed, partial},
        "?status=active": {running},
        "?batch=weekly": {failed},
        "?who=AD": {running},
        "?q=week": {failed},
        f"?q=%23{good}": {good},
        "?q=99999999999999999999": set(),
        "?status=nonsense": {running, failed, partial, good},
    }.items():
        assert runs_of(http.get(f"/runs/{query}")) == expected, query


def test_pages_keep_the_filters(http: Client) -> None:
    """The link to the next page carries them; a page that does not exist is the last one."""
    for _ in range(53):
        make_run(1, status=RunStatus.QUEUED)
    first = http.get("/runs/?status=active")
    assert len(runs_of(first)) == 50
    assert "?status=active&amp;page=2" in text_of(first)
    assert len(runs_of(http.get("/runs/?status=active&page=2"))) == 3
    assert len(runs_of(http.get("/runs/?page=99"))) == 3
    assert len(runs_of(http.get("/runs/?page=nonsense"))) == 50


def test_empty_lists_offer_one_next_action(http: Client) -> None:
    """Nothing yet, or nothing that matches, are two things."""
    assert "Choose a batch" in text_of(http.get("/runs/"))
    assert "load_batches" in text_of(http.get("/batches/"))
    Step.objects.all().delete()
    assert "steps.py" in text_of(http.get("/steps/"))
    assert "Show all runs" in text_of(http.get("/runs/?q=nothing"))
    assert "Show all steps" in text_of(http.get("/steps/?q=nothing"))


def test_batches_show_how_they_did(http: Client, batch: Batch) -> None:
    """Their last runs as glyphs with words, and how many entries a run has."""
    make_run(["failed"], status=RunStatus.FAILED, batch=batch)
    page = text_of(http.get("/batches/"))
    assert 'aria-label="Failed"' in page
    assert re.search(r">\s*2<span", page)


def test_a_batch_is_known_by_its_usual_duration() -> None:
    """The median of what succeeded, once there are three."""
    batch = make_batch()
    now = timezone.now()
    for seconds in (10, 20, 90):
        assert overview.history(Run.objects.filter(batch=batch)).usual_seconds is None
        make_run(
            ["succeeded"],
            status=RunStatus.SUCCEEDED,
            batch=batch,
            started_at=now,
            finished_at=now + timedelta(seconds=seconds),
        )
    assert overview.history(Run.objects.filter(batch=batch)).usual_seconds == 20


def test_steps_say_where_they_are_used(http: Client, batch: Batch) -> None:
    """With the lane by today's rules and its reason, and a mark for missing functions."""
    make_step("LostStep", kind="python", missing=True)
    page = text_of(http.get("/steps/"))
    assert "1 step without its function" in page
    tidy = page.split('data-step="TidyStep"')[1].split("</tr>")[0]
    assert 'href="/batches/nightly/"' in tidy
    assert "No rule matched" in tidy
    lost = page.split('data-step="LostStep"')[1].split("</tr>")[0]
    assert "function missing" in lost
    assert "no batch" in lost
    only = text_of(http.get("/steps/?missing=on"))
    assert "TidyStep" not in only


# ---- words, glyphs, numbers ---------------------------------------------------------------------


def list_in_script(name: str) -> list[str]:
    """A list of texts in words.js."""
    text = (SCRIPTS / "lib" / "words.js").read_text()
    found = re.search(rf"const {name} = \[(.*?)\]", text, re.S)
    assert found
    return re.findall(r'"([^"]+)"', found[1])


def test_scripts_say_the_same_as_the_server() -> None:
    """Statuses, their order and the consequences of a cancel are written down twice."""
    text = (SCRIPTS / "lib" / "words.js").read_text()
    assert list_in_script("ATTENTION") == list(presentation.ATTENTION)
    assert list_in_script("SEGMENTS") == list(presentation.SEGMENTS)
    for status, word in presentation.WORDS.items():
        assert f'{status}: "{word}"' in text
    flat = re.sub(r'"\s*\+\s*"', "", text)
    for sentence in (*presentation.CONSEQUENCES.values(), presentation.PROTECTED_CONSEQUENCE):
        assert sentence in flat


def test_each_status_has_its_own_glyph_and_colours() -> None:
    """Nothing is told by colour alone, and no silhouette stands for two ends."""
    sprite = render_to_string("_sprite.html")
    colours = (ROOT / "static" / "stepsite" / "css" / "tokens.css").read_text()
    shapes: dict[str, str] = {}
    for status in {*presentation.WORDS, *map(str, RunStatus), *map(str, StepStatus)}:
        found = re.search(rf'<symbol id="g-{status}"[^>]*>(.*?)</symbol>', sprite, re.S)
        assert found, status
        assert f'[data-status="{status}"]' in colours
        shapes[status] = found[1]
    # A run that is queued and a step that is pending both wait.
    assert shapes.pop("queued") == shapes["pending"]
    assert len(set(shapes.values())) == len(shapes)


def test_every_icon_of_the_scripts_is_in_the_sprite() -> None:
    """Those of the templates are checked page by page."""
    sprite = render_to_string("_sprite.html")
    used = {
        name
        for path in SCRIPTS.rglob("*.js")
        for name in re.findall(r'\bicon\("([a-z-]+)"', path.read_text())
    }
    assert used
    assert not {name for name in used if f'id="i-{name}"' not in sprite}


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0 ms"),
        (0.3404, "340 ms"),
        (0.9999, "999 ms"),
        (6.27, "6.2s"),
        (59.99, "59.9s"),
        (252.45, "4m 12.4s"),
        (3852, "1h 04m 12s"),
        (184_230, "2d 03h 10m"),
    ],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    """Never rounded up: a step that has not reached its limit must not look as if it had."""
    assert presentation.duration_in_words(seconds) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(1, "just now"), (60, "1 minute ago"), (7300, "2 hours ago"), (90_000, "1 day ago")],
)
def test_relative_times_carry_the_absolute_one(seconds: int, text: str) -> None:
    """In UTC, for people and for programs."""
    moment = timezone.now() - timedelta(seconds=seconds)
    template = Template("{% load stepsite %}{% ago moment %}")
    html = template.render(Context({"moment": moment}))
    assert text in html
    assert f'title="{moment:%Y-%m-%d %H:%M:%S} UTC"' in html
    assert f'datetime="{moment:%Y-%m-%dT%H:%M:%S}' in html


def test_one_failure_among_thousands_is_seen() -> None:
    """Segments have a least width and fill the bar all the same."""
    bars = presentation.segments({"succeeded": 9999, "failed": 1})
    assert [bar.status for bar in bars] == ["succeeded", "failed"]
    assert bars[1].width > 1
    assert sum(bar.width for bar in bars) == pytest.approx(100, abs=0.01)
    assert presentation.segments({}) == []


def test_differences_between_plans(http: Client, batch: Batch) -> None:
    """New, gone, moved and reordered entries are each named once."""
    plan = http.get("/batches/nightly/").context["trigger"].plan
    seen = plan_changes.recall(plan_changes.remember(plan))
    assert seen is not None
    assert plan_changes.changes(seen, plan) == []
    texts = [str(change) for change in plan_changes.changes(list(reversed(seen)), plan)]
    assert len(texts) == 1
    gone = plan_changes.SeenStep("Gone", "pool", 30.0, "")
    [change] = plan_changes.changes([*seen, gone], plan)
    assert (change.name, change.text) == ("Gone", "is not in it any more")
    [change] = plan_changes.changes(seen[1:], plan)
    assert change.text.startswith("is new, in ")


def test_rows_are_found_by_their_step_run(http: Client) -> None:
    """The hooks that scripts and tests use."""
    run = make_run(["running"])
    start_steps(run, [0])
    step = StepRun.objects.get(run=run)
    page = text_of(http.get(f"/runs/{run.pk}/"))
    assert f'data-step-run="{step.pk}" data-status="running"' in page
    assert f'data-run="{run.pk}" data-run-status="running"' in page
