"""A page that loses the server says so, and afterwards shows exactly what is stored."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable

import pytest
from playwright.sync_api import Page, expect

from tests.processes import is_alive, until

from .client import Client
from .conftest import OPERATOR, Open
from .gates import Gates
from .run_page import RunPage
from .site import Site, stopped
from .watch import Watch

pytestmark = pytest.mark.browser

Start = Callable[..., int]


def pill(page: Page) -> str:
    return page.locator("#connection-text").inner_text()


def test_offline_and_back(
    visit: Open, start: Start, api: Client, gates: Gates, watch: Watch
) -> None:
    """The pill says so at once; what happened meanwhile is there on return, without a reload."""
    run_id = start("nightly")
    run = RunPage.live(visit(f"runs/{run_id}/", name=OPERATOR), run_id)
    page = run.page
    run.expect_steps(CreateIndexStep="running")
    with run.staying(), watch.broken_line():
        page.context.set_offline(True)
        run.expect_connection("lost")
        assert pill(page) == "Reconnecting"
        gates.open("CreateIndexStep")
        until(
            lambda: api.statuses(run.run_id)["SendDigestStep"] == "running",
            "the next step to run, seen or not",
        )
        run.expect_steps(CreateIndexStep="running", SendDigestStep="pending")
        banner = page.locator("#lost-banner")
        expect(banner).to_contain_text(re.compile(r"Connection lost at \d\d:\d\d:\d\d UTC\."))
        expect(banner).to_contain_text("Showing the last known state; steps keep running")

        run.cancel("PruneStep").click()
        expect(page.get_by_role("alert")).to_contain_text(
            "“PruneStep” was not cancelled. The server did not answer."
        )
        run.expect_steps(PruneStep="pending")

        page.context.set_offline(False)
        run.expect_connection("open")
        expect(banner).to_be_hidden()
        expect(page.locator("#back-banner")).to_contain_text("nothing was lost.")
        run.expect_steps(CreateIndexStep="succeeded", SendDigestStep="running")
        run.expect_record(api)
        gates.open_all()
        run.expect_run("Succeeded")
        run.expect_record(api)


def test_the_server_dies_and_comes_back(
    visit: Open, start: Start, site: Site, api: Client, gates: Gates, watch: Watch
) -> None:
    """Runs go on without pages; when the web is back so are they, and nothing is missing."""
    run_id = start("nightly")
    run = RunPage.live(visit(f"runs/{run_id}/", name=OPERATOR), run_id)
    page = run.page
    run.expect_steps(CreateIndexStep="running")
    with run.staying(), watch.broken_line():
        with stopped(site.supervisor):  # so that it starts no other before the banner is seen
            web = site.web
            os.kill(web, signal.SIGKILL)
            run.expect_connection("lost")
            assert pill(page) == "Reconnecting"
            gates.open("CreateIndexStep", "SendDigestStep", "WarmCacheStep", "PruneStep")
            expect(page.locator("#lost-banner")).to_contain_text("Connection lost at")
            expect(page.locator("#lost-retry")).to_contain_text("Retrying")
            run.expect_steps(CreateIndexStep="running")
        run.expect_connection("open")
        assert not is_alive(web)
        run.expect_steps(PruneStep="succeeded", MeasureStep="running")
        expect(page.locator("#back-banner")).to_contain_text(re.compile(r"\d+ changes replayed"))
        run.expect_record(api)
        gates.open_all()
        run.expect_run("Succeeded")
        run.expect_record(api)


def test_the_server_falls_silent(
    visit: Open, start: Start, site: Site, api: Client, gates: Gates, watch: Watch
) -> None:
    """A line over which nothing comes any more, not even a beat, counts as lost."""
    run_id = start("nightly")
    page = visit(f"runs/{run_id}/", name=OPERATOR)
    page.clock.install()
    page.reload()
    run = RunPage.live(page, run_id)
    run.expect_steps(CreateIndexStep="running")
    with run.staying(), watch.broken_line():
        with stopped(site.web):
            page.clock.fast_forward("00:30")
            run.expect_connection("lost")
            expect(page.locator("#lost-banner")).to_be_visible()
            gates.open("CreateIndexStep")
        run.expect_connection("open")
        run.expect_steps(CreateIndexStep="succeeded", SendDigestStep="running")
        run.expect_record(api)


def test_the_dashboard_loses_the_server_too(
    visit: Open, start: Start, site: Site, gates: Gates, watch: Watch
) -> None:
    """Its cards stand still, say so, and then catch up."""
    run_id = start("nightly")
    page = visit("", name=OPERATOR)
    expect(page.locator("html")).to_have_attribute("data-live", "open")
    card = page.locator(f'.run-card[data-run="{run_id}"]')
    expect(card).to_have_attribute("data-status", "running")
    page.evaluate("window.stayed = true")
    with watch.broken_line():
        with stopped(site.supervisor):
            os.kill(site.web, signal.SIGKILL)
            expect(page.locator("html")).to_have_attribute("data-live", "lost")
            expect(page.locator("#lost-banner")).to_contain_text("runs keep running on the server")
            gates.open_all()
        expect(page.locator("html")).to_have_attribute("data-live", "open")
        expect(page.locator("#lost-banner")).to_be_hidden()
        expect(card).to_have_attribute("data-status", "succeeded")
    assert page.evaluate("window.stayed")
