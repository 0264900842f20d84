"""A run on its page: what happens is shown as it happens, and cancels are real."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, Route, expect

from tests.processes import is_alive

from .client import Client
from .conftest import OPERATOR, Open
from .gates import Gates
from .run_page import RunPage

pytestmark = pytest.mark.browser

Start = Callable[..., int]


def live(visit: Open, run_id: int) -> RunPage:
    return RunPage.live(visit(f"runs/{run_id}/", name=OPERATOR), run_id)


def test_steps_change_while_one_looks(visit: Open, start: Start, api: Client, gates: Gates) -> None:
    """Lane by lane, as the gates open, without a reload; in the end the page shows the record."""
    run = live(visit, start("nightly"))
    page = run.page
    with run.staying():
        run.expect_run("Running")
        run.expect_steps(CreateIndexStep="running", SendDigestStep="pending", PruneStep="pending")
        expect(run.row("SendDigestStep")).to_contain_text("waits for CreateIndexStep")
        expect(run.row("PruneStep")).to_contain_text("waits for the critical lane")
        expect(page.locator("#why")).to_contain_text("Why is CreateIndexStep critical?")
        gates.open("CreateIndexStep")
        run.expect_steps(CreateIndexStep="succeeded", SendDigestStep="running")
        expect(page.locator("#critical-done")).to_have_text("1 of 2 done")
        gates.open("SendDigestStep")
        run.expect_steps(WarmCacheStep="running", PruneStep="running", MeasureStep="pending")
        expect(run.row("MeasureStep")).to_contain_text("pool full 2/2")
        expect(page.locator("#pool-busy")).to_have_text("2")
        expect(page.locator('#slots [data-status="running"]')).to_have_count(2)
        gates.open("WarmCacheStep")
        run.expect_steps(WarmCacheStep="succeeded", MeasureStep="running")
        expect(page.locator("#done")).to_have_text("3")
        gates.open_all()
        run.expect_run("Succeeded")
        run.expect_connection("ended")
        expect(page.locator("#elapsed")).not_to_have_text("—")
        expect(page).to_have_title(f"✓ Succeeded Nightly work #{run.run_id}")
        run.expect_record(api)


def test_the_output_grows_while_one_looks(visit: Open, start: Start, gates: Gates) -> None:
    """Lines appear as they are printed, whole and once each."""
    run = live(visit, start("talking"))
    lines = run.page.locator("#log-lines")
    with run.staying():
        for number in range(1, 4):
            expect(lines).to_contain_text(f"this is line {number}")
            expect(lines).not_to_contain_text(f"this is line {number + 1}")
            expect(run.page.locator("#log-facts")).to_contain_text(f"{25 * number} %")
            gates.open(f"line {number}")
        run.expect_run("Succeeded")
        text = lines.inner_text()
        assert [text.count(f"this is line {number}") for number in range(1, 5)] == [1, 1, 1, 0]
    with run.page.expect_download() as download:
        run.page.get_by_role("link", name="Whole output").click()
    assert download.value.path().read_text() == "".join(
        f"this is line {number}\n" for number in range(1, 4)
    )


def test_the_address_names_the_chosen_step(visit: Open, start: Start) -> None:
    """Choosing a step changes the address in place; it opens the same view for somebody else."""
    run = live(visit, start("nightly"))
    with run.staying():
        run.row("PruneStep").get_by_role("link").click()
        expect(run.page.locator("#log-title")).to_have_text("PruneStep")
        expect(run.page.locator("#log-why")).to_contain_text("Pool No rule matched")
    page = visit(run.page.url, name=OPERATOR)
    expect(page.locator("#log-title")).to_have_text("PruneStep")


def test_a_long_run_is_searched_and_scrolled(visit: Open, start: Start, gates: Gates) -> None:
    """Only what can be seen is drawn; filters and the end of the list still reach every step."""
    run = live(visit, start("long"))
    page = run.page
    rows = page.locator("#step-rows .step-row")
    with run.staying():
        expect(page.locator("#step-foot")).to_have_text("120 steps")
        expect(page.get_by_role("button", name="Pending 116")).to_be_visible()
        assert rows.count() < 60
        expect(run.row("item 120")).to_have_count(0)
        page.mouse.wheel(0, 20_000)
        expect(run.row("item 120")).to_be_visible()
        page.mouse.wheel(0, -20_000)

        page.get_by_label("Filter steps by name").fill("ITEM 11")
        expect(page.locator("#step-foot")).to_have_text("10 of 120 steps")
        expect(rows).to_have_count(10)
        page.get_by_label("Filter steps by name").fill("")
        page.get_by_role("button", name="Running 4").click()
        expect(rows).to_have_count(4)
        gates.open("item 002")
        expect(run.row("item 002")).to_have_count(0)
        expect(run.row("item 005")).to_be_visible()
        page.get_by_role("button", name="All 120").click()
        gates.open_all()
        run.expect_run("Succeeded")
        expect(page.locator("#done")).to_have_text("120")
        expect(page.get_by_role("button", name="Succeeded 120")).to_be_visible()


def test_cancelling_one_step_is_asked_then_proven(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """`Cancelling` stands there before the server knows, `Cancelled` when the process is gone."""
    run = live(visit, start("stubborn"))
    run.expect_steps(DeafStep="running", WarmCacheStep="running", GuardedStep="running")
    held = hold(run.page, "**/api/step-runs/*/cancel")
    with run.staying():
        run.cancel("DeafStep").click()
        run.expect_steps(DeafStep="cancelling")
        assert {step["name"]: step["cancel_requested_at"] for step in api.steps(run.run_id)}[
            "DeafStep"
        ] is None
        held().continue_()
        run.row("DeafStep").get_by_role("link").click()
        output = run.page.locator("#log-lines")
        expect(output).to_contain_text("asked to stop")
        process = int(re.search(r"process (\d+)", output.inner_text())[1])
        assert is_alive(process)
        expect(run.page.locator("#log-receipt")).to_contain_text(
            f"Cancel asked for by {OPERATOR} at "
        )
        assert api.statuses(run.run_id)["DeafStep"] == "running"
        run.expect_steps(DeafStep="cancelling", WarmCacheStep="running")
        gates.open("DeafStep")
        run.expect_steps(DeafStep="cancelled", WarmCacheStep="running", GuardedStep="running")
        assert not is_alive(process)
        gates.open_all()
        run.expect_run("Partially succeeded")
        run.expect_record(api)
    assert api.statuses(run.run_id) == {
        "DeafStep": "cancelled",
        "WarmCacheStep": "succeeded",
        "GuardedStep": "succeeded",
        "MeasureStep": "succeeded",
    }


def hold(page: Page, pattern: str) -> Callable[[], Route]:
    """Keep requests from the server; the answer gives the one that was made."""
    routes: list[Route] = []
    page.route(pattern, lambda route: routes.append(route))

    def made() -> Route:
        assert len(routes) == 1
        return routes.pop()

    return made


def test_a_pending_step_is_cancelled_before_it_starts(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """It never runs; those before and after it do."""
    run = live(visit, start("nightly"))
    run.expect_steps(CreateIndexStep="running")
    with run.staying():
        run.cancel("SendDigestStep").click()
        dialog = run.page.get_by_role("dialog", name="Cancel SendDigestStep?")
        dialog.get_by_role("button", name="Cancel step").click()
        run.expect_steps(SendDigestStep="cancelled", CreateIndexStep="running")
        run.cancel("PruneStep").click()
        run.expect_steps(PruneStep="cancelled")
        gates.open_all()
        run.expect_run("Failed")  # a critical step was missed
        run.expect_steps(CreateIndexStep="succeeded", WarmCacheStep="succeeded")
        run.expect_record(api)
    steps = {step["name"]: step for step in api.steps(run.run_id)}
    assert steps["SendDigestStep"]["started_at"] is None
    assert steps["SendDigestStep"]["cancel_requested_by"] == OPERATOR


def test_a_protected_step_offers_no_cancel(visit: Open, start: Start) -> None:
    """Where nothing can be cancelled there is no button, but a word."""
    run = live(visit, start("stubborn"))
    run.expect_steps(GuardedStep="running", MeasureStep="pending")
    expect(run.cancel("DeafStep")).to_be_visible()
    expect(run.cancel("GuardedStep")).to_have_count(0)
    expect(run.row("GuardedStep").locator(".step-action")).to_have_text("protected")


def test_the_dialog_says_what_becomes_of_each_step(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """Then the run is cancelled, with the note; what is protected still ends by itself."""
    run = live(visit, start("stubborn"))
    page = run.page
    run.expect_steps(DeafStep="running", WarmCacheStep="running", GuardedStep="running")
    page.get_by_role("button", name="Cancel run").click()
    dialog = page.get_by_role("dialog", name=f"Cancel run #{run.run_id}?")
    expect(dialog.get_by_role("button", name="Keep running")).to_be_focused()
    items = dialog.get_by_role("listitem")
    expect(items).to_contain_text(
        [
            "DeafStep (1 process): SIGTERM",
            "WarmCacheStep: It is asked to stop",
            "GuardedStep: Protected: it goes on, only its timeout of 100 s ends it.",
            "1 pending step will not start.",
        ]
    )
    dialog.get_by_role("button", name="Keep running").click()
    expect(dialog).to_be_hidden()
    assert api.run(run.run_id)["cancel_requested_at"] is None

    with run.staying():
        page.get_by_role("button", name="Cancel run").click()
        dialog.get_by_label("Note").fill("the <b>wrong</b> day")
        dialog.get_by_role("button", name="Cancel run").click()
        run.expect_run("Cancelling")
        run.expect_steps(
            DeafStep="cancelling",
            WarmCacheStep="cancelled",
            GuardedStep="running",
            MeasureStep="cancelled",
        )
        expect(page.locator("#verdict-body")).to_contain_text(
            f"Cancel asked for by {OPERATOR} just now: “the <b>wrong</b> day”."
        )
        expect(page.get_by_role("button", name="Cancel run")).to_be_hidden()
        gates.open("DeafStep")
        run.expect_steps(DeafStep="cancelled")
        run.expect_run("Cancelling")
        gates.open("GuardedStep")
        run.expect_run("Cancelled")
        run.expect_steps(GuardedStep="succeeded")
        run.expect_record(api)


def test_the_dialog_follows_the_run_and_warns_of_half_done_work(
    visit: Open, start: Start, gates: Gates
) -> None:
    """A critical step that would stop half-way is named, and what runs meanwhile is kept up."""
    run = live(visit, start("nightly"))
    run.expect_steps(CreateIndexStep="running")
    run.page.get_by_role("button", name="Cancel run").click()
    dialog = run.page.get_by_role("dialog")
    expect(dialog).to_contain_text("Critical step CreateIndexStep stops half-way.")
    expect(dialog).to_contain_text("The 1 critical step after it will not run.")
    expect(dialog).to_contain_text("4 pending steps will not start.")
    gates.open("CreateIndexStep")
    expect(dialog).to_contain_text("Critical step SendDigestStep stops half-way.")
    expect(dialog).to_contain_text("3 pending steps will not start.")
    run.page.keyboard.press("Escape")
    expect(dialog).to_be_hidden()
    run.page.get_by_role("button", name="Cancel run").click()
    gates.open_all()
    expect(dialog).to_be_hidden()
    run.expect_run("Succeeded")


def test_draining_lets_running_steps_finish(
    visit: Open, start: Start, api: Client, gates: Gates
) -> None:
    """Nothing new starts; the way on to stopping at once stays open."""
    run = live(visit, start("nightly"))
    page = run.page
    run.expect_steps(CreateIndexStep="running")
    with run.staying():
        page.get_by_role("button", name="Cancel run").click()
        dialog = page.get_by_role("dialog")
        dialog.get_by_label("Let running steps finish").check()
        expect(dialog).to_contain_text("CreateIndexStep: run to their end.")
        dialog.get_by_role("button", name="Start nothing new").click()
        run.expect_run("Cancelling")
        run.expect_steps(CreateIndexStep="running", SendDigestStep="cancelled")
        expect(page.locator("#verdict-body")).to_contain_text("Running steps may finish.")
        page.get_by_role("button", name="Stop now").click()
        expect(dialog.get_by_label("Let running steps finish")).to_be_disabled()
        dialog.get_by_role("button", name="Keep running").click()
        gates.open("CreateIndexStep")
        run.expect_run("Cancelled")
        run.expect_record(api)
    assert api.statuses(run.run_id) == {
        "CreateIndexStep": "succeeded",
        **dict.fromkeys(
            ["SendDigestStep", "WarmCacheStep", "PruneStep", "MeasureStep"], "cancelled"
        ),
    }


def test_without_scripts_steps_and_runs_are_cancelled_by_forms(
    visit: Open, start: Start, api: Client
) -> None:
    """Each button is a plain form; loading again shows what became of it."""
    run_id = start("nightly")
    watched = live(visit, run_id)
    watched.expect_steps(CreateIndexStep="running")

    page = visit(f"runs/{run_id}/", name=OPERATOR, java_script_enabled=False)
    plain = RunPage(page, run_id)
    plain.expect_steps(CreateIndexStep="running", PruneStep="pending")
    plain.cancel("PruneStep").click()
    watched.expect_steps(PruneStep="cancelled")
    page.reload()
    plain.expect_steps(PruneStep="cancelled", CreateIndexStep="running")

    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel Nightly work #{run_id}?")
    expect(page.locator(".consequences")).to_contain_text("CreateIndexStep: It is asked to stop")
    expect(page.locator(".consequences")).to_contain_text("CreateIndexStep stops half-way.")
    expect(page.locator(".consequences")).to_contain_text("3 pending steps will not start.")
    page.get_by_label("Note").fill("enough")
    page.get_by_role("button", name="Cancel run").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("Nightly work")
    watched.expect_run("Cancelled")
    page.reload()
    plain.expect_run("Cancelled")
    expect(page.locator("#verdict-body")).to_contain_text("“enough”")
    assert set(api.statuses(run_id).values()) == {"cancelled"}
