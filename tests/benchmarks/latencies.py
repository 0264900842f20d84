"""How long people wait, on the real stack: `manage.py up`, a database file, a real browser.

Every moment is read from the one clock of this machine: by a step as its first or last act, by the
page where its rows change, by whoever watches a process end.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import select
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import Browser, Page, sync_playwright

from tests.acceptance.browser import launch
from tests.acceptance.client import Client
from tests.acceptance.run_page import RunPage
from tests.acceptance.site import ADMIN, PASSWORD, Site
from tests.processes import until

from .tables import DISTRIBUTION, distribution, head, machine, row

ENDS, SLEEPERS, BUSY = 24, 12, 10_000
"""Entries of the batches that are run for the ends of steps, for cancels, and beside those."""
BUSY_RUNS = 4
"""Runs that are queued at once, so that one is always under way."""
PATIENCE_SECONDS = 60.0
PAUSES = (0.05, 0.4)
"""Seconds before a sample; at random, so that nothing keeps step with what polls."""


@dataclass(frozen=True, kw_only=True)
class Amounts:
    """How many samples of each kind."""

    starts: int = 40
    ends: int = 48
    cancels: int = 36
    busy_cancels: int = 24


QUICK = Amounts(starts=15, ends=24, cancels=12, busy_cancels=8)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="fewer samples")
    given = parser.parse_args()
    machine()
    measure(quick=given.quick)


def measure(*, quick: bool) -> None:
    amounts = QUICK if quick else Amounts()
    with tempfile.TemporaryDirectory(prefix="stepsite-bench-") as name, _site(Path(name)) as site:
        bench = Bench(site, Path(name))
        head("On an idle system", ("from", "to", *DISTRIBUTION))
        row(("POST /api/runs", "first step running", *distribution(bench.starts(amounts.starts))))
        with sync_playwright() as playwright:
            browser = launch(playwright)
            bench.measure_pages(browser, amounts)
            browser.close()


@contextmanager
def _site(folder: Path) -> Iterator[Site]:
    data = folder / "data"
    data.mkdir()
    site = Site(
        data, options=["--no-demo"], environment={"STEPSITE_APPS": "tests.benchmarks.stamped"}
    )
    try:
        file = folder / "definitions.yaml"
        file.write_text(json.dumps(_definitions()))  # JSON is YAML
        site.manage("load_batches", str(file))
        yield site
    finally:
        site.stop()
        left = [pid for number in range(SLEEPERS) if (pid := _sleeping(number))]
        assert not left, f"processes {left} of cancelled steps are left"


_OBSERVE = """() => {
  window.changes = {};
  const note = (records) => {
    const now = Date.now();
    for (const { target } of records) {
      window.changes[`${target.dataset.stepRun} ${target.dataset.status}`] ??= now;
    }
  };
  const options = { subtree: true, attributes: true, attributeFilter: ["data-status"] };
  new MutationObserver(note).observe(document.getElementById("step-rows"), options);
  const click = (event) => {
    // When the mouse button was pressed and let go, and not when the page came to hear of it.
    window.clicked = Date.now() - (performance.now() - event.timeStamp);
  };
  document.addEventListener("click", click, { capture: true });
}"""
"""Notes in the page when a row first shows a status, and when something was clicked."""


def _definitions() -> dict[str, Any]:
    sleep = {
        "name": "Sleep",
        "kind": "command",
        "target": {"argv": ["sleep", "{seconds}"]},
        "timeout_seconds": 600,
    }
    sleepers = [
        {"step": "Sleep", "name": f"sleep {number}", "parameters": {"seconds": _span(number)}}
        for number in range(SLEEPERS)
    ]
    ends = [{"step": "StampLast", "name": f"end {number}"} for number in range(ENDS)]
    nothing = [{"step": "Nothing", "name": f"nothing {number}"} for number in range(BUSY)]
    gate = {"name": "gate", "condition": "name_equals", "operand": "Gate", "critical": True}
    return {
        "steps": [sleep],
        "batches": [
            {"slug": "start", "name": "Start", "entries": ["StampFirst"]},
            {"slug": "ends", "name": "Ends", "pool_width": 2, "entries": ends},
            {"slug": "sleepers", "name": "Sleepers", "entries": sleepers},
            {"slug": "busy", "name": "Busy", "entries": ["Gate", *nothing]},
        ],
        "rules": [gate],
    }


def _span(number: int) -> str:
    """How long a sleeper sleeps: a number of seconds by which its process is found."""
    return f"300.{number:03d}"


def _sleeping(number: int) -> int | None:
    """The process of a sleeper."""
    wanted = b"sleep\0" + _span(number).encode() + b"\0"
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if (entry / "cmdline").read_bytes() == wanted:
                return int(entry.name)
        except OSError:
            continue
    return None


@dataclass(frozen=True, kw_only=True)
class Cancel:
    """Three moments of a cancel, in seconds since the epoch."""

    clicked: float
    gone: float
    """The process ended."""
    told: float
    """The row of the step said so."""


class Death:
    """Watches a process in a thread of its own, from `with` on; `seen` is when it ended."""

    def __init__(self, pid: int) -> None:
        self.seen = 0.0
        self._descriptor = os.pidfd_open(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Death:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._thread.join(PATIENCE_SECONDS)
        os.close(self._descriptor)
        assert self.seen, "a cancelled process did not end"

    def _watch(self) -> None:
        select.select([self._descriptor], [], [], PATIENCE_SECONDS)
        self.seen = time.time()


class Busy:
    """Runs of many steps, one after the other."""

    def __init__(self, client: Client, run_ids: list[int]) -> None:
        self._client = client
        self._run_ids = run_ids

    @property
    def pending(self) -> int:
        """Steps that have yet to begin."""
        runs = self._client.get("api/runs?active=1")["runs"]
        return sum(run["counts"]["pending"] for run in runs if run["id"] in self._run_ids)


class Bench:
    """A running site and somebody who is signed in."""

    def __init__(self, site: Site, folder: Path) -> None:
        self._site = site
        self._folder = folder
        self._client = Client(site.url, ADMIN, PASSWORD)
        self._runs = 0

    # ---- from the POST to the first step

    def starts(self, number: int) -> list[float]:
        return [self._start() for _ in range(number)]

    def _start(self) -> float:
        folder = self._fresh_folder()
        _pause()
        posted = time.time()
        run_id = self._client.start("start", {"folder": str(folder)})
        stamp = _stamp(folder / "StampFirst")
        self._await_end(run_id)
        return stamp - posted

    # ---- what a page shows

    def measure_pages(self, browser: Browser, amounts: Amounts) -> None:
        context = browser.new_context(base_url=self._site.url)
        context.add_cookies(self._client.cookies)  # type: ignore[arg-type]
        page = context.new_page()
        shown = self._ends(page, amounts.ends)
        row(("the end of a step", "its row says so", *distribution(shown)))
        self._print_cancels(self._cancels(page, amounts.cancels))
        head(f"Beside a run of {BUSY:,} steps that do nothing", ("from", "to", *DISTRIBUTION))
        self._print_cancels(self._busy_cancels(page, amounts.busy_cancels))
        context.close()

    def _ends(self, page: Page, number: int) -> list[float]:
        samples: list[float] = []
        while len(samples) < number:
            folder = self._fresh_folder()
            run_id = self._client.start("ends", {"folder": str(folder)})
            shown = self._open(page, run_id)
            shown.expect_run("Succeeded")
            changes = page.evaluate("window.changes")
            steps = self._client.steps(run_id)
            # A step that ended before the page was there shows no change.
            samples += [
                changes[f"{step['id']} succeeded"] / 1000 - _stamp(folder / step["name"])
                for step in steps
                if f"{step['id']} running" in changes
            ]
        return samples[:number]

    def _open(self, page: Page, run_id: int) -> RunPage:
        page.goto(f"runs/{run_id}/")
        shown = RunPage.live(page, run_id)
        page.evaluate(_OBSERVE)
        return shown

    # ---- from the click on cancel to the end of the process

    @staticmethod
    def _print_cancels(cancels: list[Cancel]) -> None:
        gone = [cancel.gone - cancel.clicked for cancel in cancels]
        told = [cancel.told - cancel.clicked for cancel in cancels]
        row(("click on cancel", "process gone", *distribution(gone)))
        row(("click on cancel", "its row says cancelled", *distribution(told)))

    def _cancels(self, page: Page, number: int) -> list[Cancel]:
        cancels: list[Cancel] = []
        while len(cancels) < number:
            run_id = self._client.start("sleepers", {})
            shown = self._open(page, run_id)
            cancels += [self._cancel(shown, each) for each in range(SLEEPERS)]
            self._check_cancelled(run_id)
        return cancels[:number]

    def _busy_cancels(self, page: Page, number: int) -> list[Cancel]:
        """As `_cancels`, but only those during which the other run went on."""
        cancels: list[Cancel] = []
        while len(cancels) < number:
            run_id = self._client.start("sleepers", {})
            shown = self._open(page, run_id)
            with self._busy() as busy:
                for each in range(SLEEPERS):
                    before = busy.pending
                    cancel = self._cancel(shown, each)
                    if 0 < busy.pending < before:
                        cancels.append(cancel)
            self._check_cancelled(run_id)
        return cancels[:number]

    def _cancel(self, shown: RunPage, number: int) -> Cancel:
        name = f"sleep {number}"
        shown.expect_steps(**{name: "running"})
        pid = until(lambda: _sleeping(number), f"the process of {name}")
        _pause()
        with Death(pid) as death:
            shown.cancel(name).click()
            shown.expect_steps(**{name: "cancelled"})
        step = shown.row(name).get_attribute("data-step-run")
        changes = shown.page.evaluate("window.changes")
        return Cancel(
            clicked=shown.page.evaluate("window.clicked") / 1000,
            gone=death.seen,
            told=changes[f"{step} cancelled"] / 1000,
        )

    def _check_cancelled(self, run_id: int) -> None:
        self._await_end(run_id)
        statuses = self._client.statuses(run_id)
        assert set(statuses.values()) == {"cancelled"}, statuses

    @contextmanager
    def _busy(self) -> Iterator[Busy]:
        """While one run after the other of many steps goes on."""
        folder = self._fresh_folder()
        runs = [self._client.start("busy", {"folder": str(folder)}) for _ in range(BUSY_RUNS)]
        (folder / "gate").touch()
        yield Busy(self._client, runs)
        for run_id in runs:
            self._client.post(f"api/runs/{run_id}/cancel", {})
        for run_id in runs:
            self._await_end(run_id)

    # ---- small things

    def _fresh_folder(self) -> Path:
        self._runs += 1
        folder = self._folder / f"run-{self._runs}"
        folder.mkdir()
        return folder

    def _await_end(self, run_id: int) -> None:
        def is_over() -> bool:
            active = self._client.get("api/runs?active=1")["runs"]
            return all(run["id"] != run_id or run["finished_at"] for run in active)

        until(is_over, f"the end of run {run_id}", seconds=PATIENCE_SECONDS)


def _pause() -> None:
    time.sleep(random.uniform(*PAUSES))


def _stamp(path: Path) -> float:
    """The moment that a step wrote to a file."""
    return float(until(lambda: path.exists() and path.read_text(), f"the stamp {path.name}"))


if __name__ == "__main__":
    main()
