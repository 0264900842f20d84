"""The dashboard and the lists: what they show, and what lives in the address."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.processes import until

from .client import Client
from .conftest import OPERATOR, Open
from .gates import Gates
from .run_page import RunPage
from .site import Site, stopped

pytestmark = pytest.mark.browser

Start = Callable[..., int]


def card_of(page: Page, run_id: int) -> Locator:
    return page.locator(f'.run-card[data-run="{run_id}"]')


def finish(api: Client, *runs: int) -> None:
    for run_id in runs:
        until(lambda: api.run(run_id)["finished_at"], f"the end of run {run_id}")  # noqa: B023


def test_the_dashboard_follows_what_runs(visit: Open, start: Start, gates: Gates) -> None:
    """Cards come, move and end by themselves; what went wrong is listed beside them."""
    page = visit("", name=OPERATOR)
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    page.evaluate("window.stayed = true")
    run_id = start("stubborn")
    card = card_of(page, run_id)
    expect(card).to_have_attribute("data-status", "running")
    expect(card.get_by_role("link", name=f"Hard to stop #{run_id}")).to_be_visible()
    expect(page.locator("#workers-text")).to_have_text("1 worker, busy 1/2")
    expect(page.locator("#nothing-running")).to_be_hidden()
    gates.open("WarmCacheStep")
    expect(card.locator("[data-done]")).to_have_text("1")
    gates.open_all()
    expect(card).to_have_attribute("data-status", "succeeded")
    recent = page.locator(f'.runs-table [data-run="{run_id}"]')
    expect(recent).to_have_attribute("data-run-status", "succeeded")

    failed = start("markup")
    expect(card_of(page, failed)).to_have_attribute("data-status", "partially_succeeded")
    item = page.locator(".attention li").filter(has_text=f"#{failed}")
    expect(item).to_contain_text("MarkupStep failed")
    assert page.evaluate("window.stayed")
    item.get_by_role("link").click()
    expect(page.locator("#log-title")).to_have_text("MarkupStep")


def test_a_run_is_cancelled_from_the_dashboard(visit: Open, start: Start) -> None:
    """Its card leads to a page that says what will happen, and asks."""
    run_id = start("nightly")
    page = visit("", name=OPERATOR)
    card_of(page, run_id).get_by_role("link", name="Cancel").click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"Cancel Nightly work #{run_id}?")
    expect(page.locator(".consequences")).to_contain_text("pending steps will not start.")
    page.get_by_role("button", name="Cancel run").click()
    RunPage(page, run_id).expect_run("Cancelled")


def test_without_a_worker_the_command_to_start_one_is_shown(
    visit: Open, start: Start, site: Site
) -> None:
    """The banner and the reason that a run waits come and go with the worker."""
    page = visit("", name=OPERATOR)
    banner = page.locator("#no-worker")
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    expect(banner).to_be_hidden()
    with stopped(site.supervisor):  # so that it starts no other
        os.kill(site.worker, signal.SIGTERM)
        expect(banner).to_be_visible()
        expect(banner).to_contain_text("No worker is running")
        expect(banner.locator("code")).to_have_text("python manage.py worker")
        expect(page.locator("#workers-text")).to_have_text("no worker")
        run_id = start("quick")
        expect(card_of(page, run_id)).to_contain_text("no worker is running")
        again = visit("", name=OPERATOR, java_script_enabled=False)
        expect(again.locator("#no-worker")).to_be_visible()
        run = RunPage.live(visit(f"runs/{run_id}/", name=OPERATOR), run_id)
        run.expect_run("Queued")
        expect(run.page.locator("#waiting")).to_have_text("no worker is running")
    run.expect_run("Succeeded")
    expect(banner).to_be_hidden()
    expect(card_of(page, run_id)).to_have_attribute("data-status", "succeeded")


def rows(page: Page) -> Locator:
    return page.locator(".runs-table tbody tr")


def test_filters_of_the_runs_live_in_the_address(visit: Open, start: Start, api: Client) -> None:
    """Each choice changes the address; going back and opening it again brings it back."""
    runs = [start("quick"), start("quick-too"), start("quick")]
    waiting = start("talking")
    finish(api, *runs)
    page = visit("runs/", name=OPERATOR)
    expect(rows(page).first).to_have_attribute("data-run", str(waiting))

    page.get_by_label("Batch", exact=True).select_option("quick")
    expect(page).to_have_url(re.compile(r"[?&]batch=quick(&|$)"))
    expect(rows(page).first).to_have_attribute("data-run", str(runs[2]))
    expect(rows(page).nth(1)).to_have_attribute("data-run", str(runs[0]))
    page.get_by_label("Status", exact=True).select_option("Failed")
    expect(page).to_have_url(re.compile(r"status=failed.*batch=quick"))
    expect(page.get_by_text("No run matches these filters")).to_be_visible()
    page.go_back()
    expect(page.get_by_label("Status", exact=True)).to_have_value("")
    expect(rows(page).first).to_have_attribute("data-run", str(runs[2]))

    copy = visit(page.url, name=OPERATOR)
    expect(copy.get_by_label("Batch", exact=True)).to_have_value("quick")
    expect(rows(copy).first).to_have_attribute("data-run", str(runs[2]))
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url("/runs/")
    page.wait_for_load_state()  # the address is there before the scripts are

    page.get_by_label("Status", exact=True).select_option("Active")
    expect(rows(page)).to_have_count(1)
    expect(rows(page)).to_have_attribute("data-run", str(waiting))


def test_a_run_is_found_by_its_number_and_by_the_slash_key(
    visit: Open, start: Start, api: Client
) -> None:
    """The field in the bar searches from every page; `/` leads to it."""
    run_id = start("quick-too")
    finish(api, run_id)
    page = visit("steps/", name=OPERATOR)
    page.keyboard.press("/")
    field = page.get_by_role("searchbox", name="Find a run")
    expect(field).to_be_focused()
    field.fill(f"#{run_id}")
    field.press("Enter")
    expect(page).to_have_url(re.compile(rf"/runs/\?q=%23{run_id}$"))
    expect(rows(page)).to_have_count(1)
    page.get_by_role("link", name=f"Quick as well #{run_id}").click()
    RunPage(page, run_id).expect_run("Succeeded")


def test_steps_are_filtered_in_the_address(visit: Open) -> None:
    """Kind, category and text narrow the list; each step says where it would run, and why."""
    page = visit("steps/", name=OPERATOR)
    page.get_by_label("Category").select_option("mail")
    expect(page).to_have_url(re.compile(r"[?&]category=mail(&|$)"))
    row = page.locator("tr[data-step]")
    expect(row).to_have_count(1)
    expect(row).to_contain_text("SendDigestStep")
    expect(row.locator(".lane-cell")).to_contain_text("critical")
    expect(row.locator(".lane-cell")).to_contain_text("Send steps")
    row.get_by_role("link", name="Nightly work").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Nightly work")


def test_the_theme_is_chosen_once_for_all_pages(visit: Open) -> None:
    """The switch goes round; the choice holds on the next page, the admin among them."""
    page = visit("batches/")
    html = page.locator("html")
    expect(html).to_have_attribute("data-theme", "auto")
    page.get_by_role("button", name="Colours: automatic").click()
    page.get_by_role("button", name="Colours: light").click()
    expect(html).to_have_attribute("data-theme", "dark")
    page.goto("runs/")
    expect(html).to_have_attribute("data-theme", "dark")
    expect(page.get_by_role("button", name="Colours: dark")).to_be_visible()
    page.goto("admin/")
    expect(html).to_have_attribute("data-theme", "dark")
