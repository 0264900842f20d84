"""Cancelling: what is said before, what is asked on the way, what is proven afterwards."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.processes import is_alive, until

from .client import Client
from .conftest import OPERATOR, VIEWER, Open
from .gates import Gates
from .run_page import RunPage
from .site import Site, stopped
from .watch import Watch

pytestmark = pytest.mark.browser

Start = Callable[..., int]

AUDIT = """
import json
from executions.models import AuditEntry
entries = AuditEntry.objects.filter(run_id=%d).order_by("pk")
print(json.dumps([[e.action, e.actor_name, e.details.get("mode", "")] for e in entries]))
"""


def live(visit: Open, run_id: int, **options: object) -> RunPage:
    return RunPage.live(visit(f"runs/{run_id}/", name=OPERATOR, **options), run_id)


def audit(site: Site, run_id: int) -> list[tuple[str, str, str]]:
    """Action, actor and mode of each entry about the run but its trigger."""
    printed = site.manage("shell", "-v", "0", "-c", AUDIT % run_id)
    return [tuple(entry) for entry in json.loads(printed)[1:]]


def requests_to(page: Page, pattern: str) -> list[str]:
    """The POSTs that the page makes from now on; the list grows."""
    made: list[str] = []
    page.on(
        "request",
        lambda request: (
            made.append(request.url)
            if request.method == "POST" and re.search(pattern, request.url)
            else None
        ),
    )
    return made


def ask_to_cancel(run: RunPage) -> Locator:
    """The open dialog about the run."""
    run.page.locator("#cancel-run").click()
    dialog = run.page.get_by_role("dialog", name=f"Cancel run #{run.run_id}?")
    expect(dialog).to_be_visible()
    return dialog


def tree(visit: Open, start: Start) -> RunPage:
    """A run whose `TreeStep` has all of its four processes."""
    run = live(visit, start("trees"))
    run.expect_steps(TreeStep="running", WarmCacheStep="running", BrokenStep="running")
    run.row("TreeStep").get_by_role("link").click()
    for leaf in range(1, 4):
        expect(run.page.locator("#log-lines")).to_contain_text(f"leaf {leaf}")
    return run


# ---- before -------------------------------------------------------------------------------------


def test_the_forecast_counts_processes_and_follows_them(
    visit: Open, start: Start, gates: Gates
) -> None:
    """Per step what will really happen; it is asked anew while the dialog is open."""
    run = tree(visit, start)
    dialog = ask_to_cancel(run)
    items = dialog.get_by_role("listitem")
    expect(items.filter(has_text="TreeStep")).to_have_text(
        re.compile(r"^TreeStep \(4 processes\): SIGTERM .*SIGKILL .*0\.5 s")
    )
    threads = items.filter(has_text="WarmCacheStep")
    expect(threads).to_have_text(re.compile(r"^WarmCacheStep, BrokenStep: .*abandoned"))
    gates.open("TreeStep leaf 2")
    expect(items.filter(has_text="TreeStep")).to_contain_text("TreeStep (3 processes)")
    dialog.get_by_label("Let running steps finish").check()
    expect(items.first).to_have_text("TreeStep, WarmCacheStep, BrokenStep: run to their end.")


def test_without_a_forecast_the_dialog_still_cancels(
    visit: Open, start: Start, watch: Watch
) -> None:
    """It says what the kind of each step tells, and its button waits for nobody."""
    watch.provoke("forecast", "status of 500")
    run = tree(visit, start)
    asked: list[str] = []

    def refuse(route: object) -> None:
        asked.append("")
        route.fulfill(status=500, body="")  # type: ignore[attr-defined]

    run.page.route("**/forecast", refuse)
    dialog = ask_to_cancel(run)
    until(lambda: run.page.title() and asked, "a request for the forecast")
    expect(dialog).to_contain_text("TreeStep: SIGTERM to the whole process tree")
    dialog.get_by_role("button", name="Cancel run").click()
    run.expect_run("Cancelled")


def test_the_foot_of_the_dialog_stays_where_it_is(visit: Open, start: Start) -> None:
    """The forecast is longer than what stands there first; no button moves under the pointer."""
    run = tree(visit, start)
    held: list[object] = []
    run.page.route("**/forecast", lambda route: held.append(route))
    dialog = ask_to_cancel(run)
    until(lambda: run.page.title() and held, "a request for the forecast")
    button = dialog.get_by_role("button", name="Cancel run")
    before = button.bounding_box()
    held[0].continue_()  # type: ignore[attr-defined]
    expect(dialog).to_contain_text("TreeStep (4 processes)")
    assert button.bounding_box() == before


# ---- on the way ---------------------------------------------------------------------------------


def test_a_drain_says_so_and_can_be_raised_to_a_stop(
    visit: Open, start: Start, site: Site, api: Client, gates: Gates
) -> None:
    """What was asked, by whom and why stays; only how far it goes rises."""
    run = live(visit, start("nightly"))
    page = run.page
    run.expect_steps(CreateIndexStep="running")
    with run.staying():
        dialog = ask_to_cancel(run)
        dialog.get_by_label("Let running steps finish").check()
        dialog.get_by_label("Note").fill("the day is over")
        dialog.get_by_role("button", name="Start nothing new").click()
        expect(page.locator("#waiting")).to_have_text("draining: 1 step still running")
        run.expect_steps(CreateIndexStep="running", SendDigestStep="cancelled")
        verdict = page.locator("#verdict-body")
        expect(verdict).to_contain_text(f"Cancel asked for by {OPERATOR}")
        expect(verdict).to_contain_text("“the day is over”. Running steps may finish.")
        asked_at = api.run(run.run_id)["cancel_requested_at"]
        expect(verdict.locator("time")).to_have_attribute("datetime", asked_at)

        plain = visit(f"runs/{run.run_id}/cancel/", name=OPERATOR, java_script_enabled=False)
        expect(plain.get_by_label("Let running steps finish")).to_be_disabled()
        plain.get_by_label("Note").fill("no time for that")
        plain.get_by_role("button", name="Cancel run").click()
        run.expect_run("Cancelled")
        run.expect_steps(CreateIndexStep="cancelled")
        expect(page.locator("#waiting")).to_be_empty()
    stored = api.run(run.run_id)
    assert (stored["cancel_mode"], stored["cancel_note"]) == ("stop", "the day is over")
    assert stored["cancel_requested_at"] == asked_at
    assert audit(site, run.run_id) == [
        ("cancelled run", OPERATOR, "drain"),
        ("cancelled run", OPERATOR, "stop"),
    ]


def test_a_critical_step_is_not_cancelled_by_a_click_alone(
    visit: Open, start: Start, api: Client
) -> None:
    """Others depend on it, so the page asks first, and says what becomes of them."""
    run = live(visit, start("strict"))
    page = run.page
    run.expect_steps(CreateIndexStep="running", SendDigestStep="pending")
    expect(page.locator("#pool")).to_be_hidden()
    with run.staying():
        run.cancel("CreateIndexStep").click()
        dialog = page.get_by_role("dialog", name="Cancel CreateIndexStep?")
        expect(dialog.get_by_role("button", name="Keep it")).to_be_focused()
        expect(dialog).to_contain_text("Critical step CreateIndexStep stops half-way.")
        expect(dialog).to_contain_text("1 critical step after it will be skipped.")
        page.keyboard.press("Enter")
        expect(dialog).to_be_hidden()
        assert api.statuses(run.run_id)["CreateIndexStep"] == "running"
        assert api.steps(run.run_id)[0]["cancel_requested_at"] is None

        run.cancel("CreateIndexStep").click()
        dialog.get_by_label("Note").fill("it hangs")
        page.keyboard.press("Enter")
        run.expect_steps(CreateIndexStep="cancelled", SendDigestStep="skipped")
        run.expect_run("Failed")
    step = api.steps(run.run_id)[0]
    assert (step["cancel_requested_by"], step["cancel_note"]) == (OPERATOR, "it hangs")


def test_a_critical_step_is_cancelled_without_scripts(
    visit: Open, start: Start, api: Client
) -> None:
    """Its dialog is a page of its own."""
    run_id = start("strict")
    RunPage(visit(f"runs/{run_id}/"), run_id).expect_steps(CreateIndexStep="running")
    page = visit(f"runs/{run_id}/", name=OPERATOR, java_script_enabled=False)
    page.get_by_role("link", name="Cancel CreateIndexStep").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel CreateIndexStep?")
    expect(page.locator(".consequences")).to_contain_text("1 critical step after it will be skip")
    page.get_by_label("Note").fill("it hangs")
    page.get_by_role("button", name="Cancel step").click()
    expect(page.locator("#log-receipt")).to_contain_text(f"Cancel asked for by {OPERATOR} at ")
    until(lambda: api.run(run_id)["finished_at"], "the end of the run")
    assert api.statuses(run_id) == {"CreateIndexStep": "cancelled", "SendDigestStep": "skipped"}


def test_a_double_click_asks_once(visit: Open, start: Start, site: Site) -> None:
    """For a step and for a run: one request, one entry in the audit, and nothing else is hit."""
    run = tree(visit, start)
    made = requests_to(run.page, "/cancel")
    with run.staying():
        run.cancel("WarmCacheStep").dblclick()
        run.expect_steps(WarmCacheStep="cancelled", TreeStep="running", BrokenStep="running")
        dialog = ask_to_cancel(run)
        dialog.get_by_role("button", name="Cancel run").dblclick()
        run.expect_run("Cancelled")
    assert len(made) == 2
    assert [entry[0] for entry in audit(site, run.run_id)] == ["cancelled step", "cancelled run"]


def test_a_cancel_that_cannot_be_sent_says_so(
    visit: Open, start: Start, api: Client, watch: Watch
) -> None:
    """Before and after the click; what was shown as cancelling is taken back."""
    run = live(visit, start("nightly"))
    run.expect_steps(CreateIndexStep="running")
    with run.staying(), watch.broken_line():
        run.page.context.set_offline(True)
        run.expect_connection("lost")
        dialog = ask_to_cancel(run)
        expect(dialog).to_contain_text("The connection is lost: the request may not arrive.")
        dialog.get_by_role("button", name="Cancel run").click()
        expect(run.page.get_by_role("alert")).to_contain_text(
            "The run was not cancelled. The server did not answer."
        )
        run.expect_run("Running")
        assert api.run(run.run_id)["cancel_requested_at"] is None
        run.page.context.set_offline(False)
        run.expect_connection("open")
        ask_to_cancel(run).get_by_role("button", name="Cancel run").click()
        run.expect_run("Cancelled")


def test_a_cancel_without_an_answer_is_not_taken_for_granted(
    visit: Open, start: Start, site: Site, api: Client, watch: Watch
) -> None:
    """After ten seconds the page says that it does not know; what came of it shows by itself."""
    run = live(visit, start("nightly"))
    run.expect_steps(CreateIndexStep="running")
    with run.staying(), watch.broken_line():
        with stopped(site.web):
            dialog = ask_to_cancel(run)
            dialog.get_by_role("button", name="Cancel run").click()
            run.expect_run("Cancelling")
            expect(run.page.get_by_role("alert")).to_contain_text(
                "It is not known whether the run was cancelled.", timeout=30_000
            )
        run.expect_connection("open")
        # It may have arrived in the end, or not: asking again does no harm.
        api.post(f"api/runs/{run.run_id}/cancel", {})
        run.expect_run("Cancelled")


# ---- everything ---------------------------------------------------------------------------------


@pytest.fixture
def calm(api: Client) -> None:
    """No other test's run is active."""
    api.post("api/runs/cancel", {"note": "before the test"})
    until(lambda: not active(api), "the end of every run")


def active(api: Client) -> list[int]:
    runs = api.get("api/runs?active=1")["runs"]
    return [run["id"] for run in runs if not run["finished_at"]]


@pytest.mark.usefixtures("calm")
def test_everything_that_is_active_is_cancelled(
    visit: Open, start: Start, site: Site, api: Client
) -> None:
    """After a dialog that lists it; each run gets the note and an entry in the audit."""
    page = visit("", name=OPERATOR)
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    button = page.get_by_role("button", name="Cancel everything")
    expect(button).to_be_hidden()
    runs = [start("nightly"), start("strict")]
    button.click()
    dialog = page.get_by_role("dialog", name="Cancel all 2 active runs?")
    expect(dialog.get_by_role("button", name="Keep running")).to_be_focused()
    items = dialog.get_by_role("listitem")
    expect(items).to_have_text(
        [
            f"Nightly work #{runs[0]}: 1 step running, 4 pending",
            f"In order only #{runs[1]}: 1 step running, 1 pending",
        ]
    )
    dialog.get_by_label("Note").fill("fire drill")
    made = requests_to(page, "/cancel")
    dialog.get_by_role("button", name="Cancel everything").dblclick()
    expect(page.locator(".toast")).to_contain_text("The cancel reached 2 runs.")
    for run_id in runs:
        card = page.locator(f'.run-card[data-run="{run_id}"]')
        expect(card).to_have_attribute("data-status", "cancelled")
        assert api.run(run_id)["cancel_note"] == "fire drill"
        assert audit(site, run_id) == [("cancelled run", OPERATOR, "stop")]
    assert len(made) == 1
    expect(button).to_be_hidden()


@pytest.mark.usefixtures("calm")
def test_everything_is_drained_without_scripts(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """The dialog is a page; running steps finish if that is what was asked."""
    run_id = start("strict")
    RunPage(visit(f"runs/{run_id}/"), run_id).expect_steps(CreateIndexStep="running")
    page = visit("", name=OPERATOR, java_script_enabled=False)
    page.get_by_role("button", name="Cancel everything").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Cancel the one active run?")
    expect(page.locator(".consequences")).to_contain_text("1 step running, 1 pending")
    page.get_by_label("Let running steps finish").check()
    page.get_by_role("button", name="Cancel everything").click()
    expect(page.locator(".messages")).to_contain_text("The cancel reached 1 run.")
    gates.open("CreateIndexStep")
    until(lambda: api.run(run_id)["finished_at"], "the end of the run")
    assert api.statuses(run_id) == {"CreateIndexStep": "succeeded", "SendDigestStep": "cancelled"}


def test_viewers_are_not_offered_to_cancel_anything(visit: Open, start: Start) -> None:
    """Nor does a link of somebody else let them."""
    start("nightly")
    page = visit("", name=VIEWER)
    expect(page.locator(".run-card").first).to_be_visible()
    expect(page.get_by_role("button", name="Cancel everything")).to_have_count(0)
    assert page.request.get("/runs/cancel/").status == 403


# ---- afterwards ---------------------------------------------------------------------------------


def test_the_receipt_says_what_was_done(visit: Open, start: Start, api: Client) -> None:
    """Live and without scripts: who asked and when, which signals, how many, what is left."""
    run = tree(visit, start)
    receipt = run.page.locator("#log-receipt")
    with run.staying():
        expect(receipt).to_be_hidden()
        run.page.locator("#log-cancel").click()
        run.expect_steps(TreeStep="cancelled")
        expect(receipt).to_have_text(
            re.compile(
                rf"^Cancel asked for by {OPERATOR} at \d\d:\d\d:\d\d UTC\. "
                r"SIGTERM, then SIGKILL to 4 processes; none left after .+ Kill level: \w+\.$"
            )
        )
    said = receipt.inner_text()
    step = next(step for step in api.steps(run.run_id) if step["name"] == "TreeStep")
    assert step["receipt"]["proven_empty"] is True
    plain = visit(f"runs/{run.run_id}/?step={step['id']}", name=OPERATOR, java_script_enabled=False)
    expect(plain.locator("#log-receipt")).to_have_text(said)


def test_a_timeout_has_a_receipt_too(visit: Open, start: Start) -> None:
    """It names the limit, and nobody as the one who asked."""
    run = live(visit, start("hasty"))
    run.expect_run("Failed")
    receipt = run.page.locator("#log-receipt")
    expect(receipt).to_contain_text("Its limit of 3 s was reached. SIGTERM")
    expect(receipt).to_contain_text("none left after")
    expect(receipt).not_to_contain_text("Cancel asked for by")


def test_what_could_not_be_ended_is_shown_as_a_warning(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """Where it may still be running, what that costs, and what to do."""
    run = live(visit, start("heedless"))
    run.expect_steps(HeedlessStep="running", WarmCacheStep="running")
    with run.staying():
        run.cancel("HeedlessStep").click()
        run.expect_steps(HeedlessStep="interrupted", WarmCacheStep="running")
        run.row("HeedlessStep").get_by_role("link").click()
        doubt = run.page.locator("#log-receipt .doubt")
        worker = api.run(run.run_id)["worker"]
        assert is_alive(worker["pid"])
        expect(doubt).to_contain_text(
            f"may still be running in worker process {worker['pid']} on {worker['host']}; "
            "it keeps slot 1 of 2 until it returns."
        )
        gates.open("WarmCacheStep")
        run.expect_run("Partially succeeded")
        expect(doubt).to_contain_text("it ends when that process is replaced.")


# ---- which step is shown ------------------------------------------------------------------------


def test_after_the_end_the_panel_shows_the_first_miss(
    visit: Open, start: Start, gates: Gates
) -> None:
    """It followed a step that succeeded, and nobody had chosen another."""
    run = live(visit, start("trees"))
    title = run.page.locator("#log-title")
    with run.staying():
        expect(title).to_have_text("TreeStep")
        gates.open("BrokenStep")
        run.expect_steps(BrokenStep="failed")
        gates.open_all()
        run.expect_run("Partially succeeded")
        expect(title).to_have_text("BrokenStep")
        expect(run.page.locator("#log-message")).to_contain_text("broken on purpose")


def test_on_a_phone_the_peek_belongs_to_the_selected_step(visit: Open, start: Start) -> None:
    """One line of the output at the foot of the screen; of another step it would be a lie."""
    phone = {"viewport": {"width": 390, "height": 844}}
    run = live(visit, start("stubborn"), **phone)
    head = run.page.locator("#log-head")
    expect(head).to_have_attribute("data-last", re.compile("process"))
    run.row("MeasureStep").get_by_role("link").click()
    expect(run.page.locator("#log-title")).to_have_text("MeasureStep")
    assert head.get_attribute("data-last") is None
