"""Every page in every look, as axe sees it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.processes import until

from .client import Client
from .conftest import Open
from .gates import Gates
from .run_page import RunPage

pytestmark = pytest.mark.browser

Start = Callable[..., int]
WIDTHS = (1280, 390)


def expect_accessible(page: Page) -> None:
    """No violation at either width, in light or dark."""
    found = []
    axe = Axe()
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
            page.evaluate(SETTLED)
            results = axe.run(page)
            if results.violations_count:
                found.append(f"{page.url}, {scheme}, {width} px: {results.generate_report()}")
            overflow = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            if overflow > 0:
                found.append(f"{page.url}, {width} px: {overflow} px too wide")
    assert not found, "\n".join(found)


SETTLED = """async () => {
    await new Promise(requestAnimationFrame);
    const ending = document.getAnimations().filter(
        (animation) => animation.effect.getComputedTiming().iterations !== Infinity,
    );
    await Promise.allSettled(ending.map((animation) => animation.finished));
}"""
"""Colours that fade into each other would be judged half-way."""


@pytest.fixture
def some_history(start: Start, api: Client, gates: Gates) -> None:
    """A run that ended well, one that did not, one that is running."""
    quick, markup = start("quick"), api.start("markup", {})
    for run_id in (quick, markup):
        until(lambda: api.run(run_id)["finished_at"], f"the end of run {run_id}")  # noqa: B023
    start("nightly")


@pytest.mark.usefixtures("some_history")
@pytest.mark.parametrize("path", ["batches/", "batches/nightly/", "runs/", "steps/"])
def test_lists_and_forms(visit: Open, path: str) -> None:
    """Whoever cannot see the page, or not well, can use it."""
    expect_accessible(visit(path))


@pytest.mark.usefixtures("some_history")
def test_the_dashboard(visit: Open) -> None:
    """With cards, recent runs and something that needs attention."""
    page = visit("")
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    expect(page.locator(".run-card")).not_to_have_count(0)
    expect_accessible(page)


def test_signing_in(visit: Open) -> None:
    """Also while it says what was wrong."""
    page = visit("sign-in/", name=None)
    expect_accessible(page)
    page.get_by_label("User name").fill("nobody")
    page.get_by_label("Password").fill("nothing")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_be_visible()
    expect_accessible(page)


def test_a_plan_that_is_refused(visit: Open) -> None:
    """Problems beside fields and in the plan."""
    page = visit("batches/nightly/")
    page.get_by_role("textbox", name="Context").fill("[")
    expect(page.locator("#context-error")).not_to_be_empty()
    expect_accessible(page)


def test_a_run_from_its_start_to_its_end(visit: Open, start: Start, gates: Gates) -> None:
    """Running, with output; while the dialog is open; while it is being cancelled; ended."""
    run_id = start("stubborn")
    run = RunPage.live(visit(f"runs/{run_id}/"), run_id)
    run.expect_steps(DeafStep="running", WarmCacheStep="running", GuardedStep="running")
    expect(run.page.locator("#log-lines")).not_to_be_empty()
    expect_accessible(run.page)
    run.page.get_by_role("button", name="Cancel run").click()
    expect(run.page.get_by_role("dialog")).to_be_visible()
    expect_accessible(run.page)
    run.page.get_by_role("dialog").get_by_role("button", name="Cancel run").click()
    run.expect_steps(DeafStep="cancelling", WarmCacheStep="cancelled")
    expect_accessible(run.page)
    gates.open_all()
    run.expect_run("Cancelled")
    expect_accessible(run.page)


def test_a_run_that_went_wrong(visit: Open, api: Client) -> None:
    """Failed steps, their messages and their output."""
    run_id = api.start("markup", {})
    run = RunPage(visit(f"runs/{run_id}/"), run_id)
    run.expect_run("Partially succeeded")
    run.row("MarkupStep").get_by_role("link").click()
    expect(run.page.locator("#log-message")).to_be_visible()
    expect_accessible(run.page)


def test_what_is_asked_before_a_cancel(visit: Open, start: Start) -> None:
    """The dialog about a critical step, the one about everything, and the pages behind them."""
    run_id = start("strict")
    run = RunPage.live(visit(f"runs/{run_id}/"), run_id)
    run.expect_steps(CreateIndexStep="running")
    run.cancel("CreateIndexStep").click()
    expect(run.page.get_by_role("dialog")).to_contain_text("after it will be skipped")
    expect_accessible(run.page)
    page = visit("")
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    page.get_by_role("button", name="Cancel everything").click()
    expect(page.get_by_role("dialog").get_by_role("listitem")).not_to_have_count(0)
    expect_accessible(page)
    step = run.page.locator(".step-row[data-step-run]").first.get_attribute("data-step-run")
    for path in ("runs/cancel/", f"runs/{run_id}/cancel/", f"step-runs/{step}/cancel/"):
        expect_accessible(visit(path))


def test_what_may_still_be_running(visit: Open, start: Start) -> None:
    """The warning of an abandoned thread."""
    run_id = start("heedless")
    run = RunPage.live(visit(f"runs/{run_id}/"), run_id)
    run.expect_steps(HeedlessStep="running")
    run.cancel("HeedlessStep").click()
    run.expect_steps(HeedlessStep="interrupted")
    run.row("HeedlessStep").get_by_role("link").click()
    expect(run.page.locator("#log-receipt .doubt")).to_be_visible()
    expect_accessible(run.page)
