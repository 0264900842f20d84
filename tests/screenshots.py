"""Takes the pictures of the documentation anew: `python -m tests.screenshots [FOLDER]`.

A site of its own runs the demo; while a run is in a telling state its worker is held still, so
that each look shows the same moment.
"""

from __future__ import annotations

import argparse
import os
import signal
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.acceptance.browser import PATIENCE_MS, launch
from tests.acceptance.client import Client
from tests.acceptance.site import ADMIN, PASSWORD, ROOT, Site
from tests.processes import descendants, until

FOLDER = ROOT / "docs" / "screenshots"
LOOKS: dict[str, dict[str, Any]] = {
    "light": {"viewport": {"width": 1280, "height": 960}, "color_scheme": "light"},
    "dark": {"viewport": {"width": 1280, "height": 960}, "color_scheme": "dark"},
    "phone": {
        "viewport": {"width": 390, "height": 844},
        "color_scheme": "light",
        "device_scale_factor": 2,
        "has_touch": True,
        "is_mobile": True,
    },
}
SORTED = """() => {
    const order = ["failed", "timed_out", "interrupted", "cancelling", "running", "pending"];
    const rows = [...document.querySelectorAll("#step-rows .step-row")];
    const ranks = rows.map((row) => (order.indexOf(row.dataset.status) + 99) % 99);
    return ranks.every((rank, at) => at === 0 || ranks[at - 1] <= rank);
}"""
"""The list of steps is sorted a little after what it shows."""
LIVE = "html[data-live=open]"
STYLE = "html { scrollbar-gutter: auto !important }"
"""Pictures have no scrollbars, so no place is kept for them."""
LONGEST_SECONDS = 120
TRIES = 5


class Photographer:
    """One page per look, kept open: what a page shows depends on what it saw."""

    def __init__(self, browser: Browser, client: Client, folder: Path) -> None:
        self._folder = folder
        self.pages = {look: self._page(browser, client, **LOOKS[look]) for look in LOOKS}

    @staticmethod
    def _page(browser: Browser, client: Client, **options: Any) -> Page:
        context = browser.new_context(
            base_url=client.url,
            reduced_motion="reduce",
            bypass_csp=True,  # for STYLE
            **options,
        )
        context.add_cookies(client.cookies)  # type: ignore[arg-type]
        return context.new_page()

    def open(self, path: str, ready: str = "body") -> None:
        for page in self.pages.values():
            page.goto(path)
            expect(page.locator(ready)).not_to_have_count(0)

    def take(self, name: str, prepare: Callable[[Page], None] = lambda page: None) -> None:
        for look, page in self.pages.items():
            prepare(page)
            path = self._folder / f"{name}-{look}.png"
            page.screenshot(path=path, style=STYLE)
            sys.stdout.write(f"{path} {path.stat().st_size // 1024} KiB\n")


@contextmanager
def held_still(pid: int) -> Iterator[None]:
    """A process and everything below it stand still inside the block."""
    held = [pid, *descendants(pid)]
    _signal(held, signal.SIGSTOP)
    try:
        yield
    finally:
        _signal(reversed(held), signal.SIGCONT)


def _signal(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # a step may end by itself
            os.kill(pid, number)


def counts(client: Client, run_id: int) -> dict[str, int]:
    numbers: dict[str, int] = client.run(run_id)["counts"]
    return numbers


def until_ended(client: Client, *runs: int) -> None:
    for run_id in runs:
        until(
            lambda: client.run(run_id)["finished_at"],  # noqa: B023
            f"the end of run {run_id}",
            seconds=LONGEST_SECONDS,
        )


def take_live(site: Site, client: Client, camera: Photographer) -> None:
    """Two runs side by side: one of them on its page, both on the dashboard."""
    for _ in range(TRIES):
        options = {"pool_start": "beside_critical", "pool_width": 4}
        run_id = client.start("maintenance", {}, options=options)
        pool = client.start("pool", {}, options={"pool_width": 8})
        camera.open(f"runs/{run_id}/", LIVE)
        until(
            lambda: is_telling(site, run_id) or client.run(run_id)["finished_at"],  # noqa: B023
            "a step in the middle of the critical lane",
            seconds=LONGEST_SECONDS,
        )
        with held_still(site.worker):
            is_caught = is_telling(site, run_id)
            if is_caught:
                sequence = str(client.run(run_id)["sequence"])
                camera.take("run", partial(_expect_drawn, sequence=sequence))
                camera.open("", LIVE)
                camera.take("dashboard")
        until_ended(client, run_id, pool)
        if is_caught:
            return
    sys.exit("The middle of the critical lane was missed each time; is the machine very busy?")


def is_telling(site: Site, run_id: int) -> bool:
    """Whether some critical steps are done, one is running, and others run beside it.

    That lasts for some ten milliseconds, so it is asked of the database file itself.
    """
    with closing(sqlite3.connect(f"file:{site.data / 'db.sqlite3'}?mode=ro", uri=True)) as file:
        rows = file.execute(
            "SELECT lane, status FROM executions_steprun WHERE run_id = ?", [run_id]
        ).fetchall()
    return (
        rows.count(("critical", "succeeded")) >= 3
        and rows.count(("critical", "running")) == 1
        and rows.count(("pool", "running")) >= 3
    )


def take_failing(site: Site, client: Client, camera: Photographer) -> None:
    run_id = client.start("failing", {})
    camera.open(f"runs/{run_id}/", LIVE)
    until(
        lambda: (now := counts(client, run_id))["failed"] >= 5 and now["timed_out"] >= 1,
        "some failures",
        seconds=LONGEST_SECONDS,
    )
    with held_still(site.worker):
        sequence = str(client.run(run_id)["sequence"])

        def choose(page: Page) -> None:
            _expect_drawn(page, sequence)
            page.locator(".step-name a").get_by_text("RaiseErrorStep", exact=True).click()
            expect(page.locator("#log-lines")).not_to_be_empty()
            page.mouse.move(0, 0)

        camera.take("run-failed", choose)
    until_ended(client, run_id)


def _expect_drawn(page: Page, sequence: str) -> None:
    """What is known is shown, and sorted."""
    expect(page.locator("html")).to_have_attribute("data-sequence", sequence)
    page.wait_for_function(SORTED)


def take_all(site: Site, browser: Browser, folder: Path) -> None:
    client = Client(site.url, ADMIN, PASSWORD)
    camera = Photographer(browser, client, folder)
    # So that there is a history, and durations that are usual.
    for slug in ("pool", "failing", "maintenance"):
        until_ended(client, client.start(slug, {}))
    take_live(site, client, camera)
    take_failing(site, client, camera)
    for name, path in (("batch", "batches/maintenance/"), ("runs", "runs/"), ("steps", "steps/")):
        camera.open(path)
        camera.take(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=FOLDER)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as data, sync_playwright() as playwright:
        site = Site(Path(data), options=["--workers", "3"])
        try:
            browser = launch(playwright)
            expect.set_options(timeout=PATIENCE_MS)
            take_all(site, browser, folder)
            browser.close()
        finally:
            site.stop()


if __name__ == "__main__":
    main()
