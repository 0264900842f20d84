"""Whatever a step writes: bounded memory, bounded storage, and text on the page."""

from __future__ import annotations

import json
import os
import re
import signal
import statistics
import time
from itertools import pairwise
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from tests.acceptance.browser import PATIENCE_MS
from tests.acceptance.client import Client
from tests.acceptance.watch import Watch
from tests.processes import is_alive

from .noisy.emit import CASES
from .noisy_site import NoisySite
from .reading import LONG_SECONDS, finish, raw_log, until

LIMIT = 10 * 1024 * 1024
MARKS = 200
"""Bytes that the marks of a cut may add."""
GROWTH_KB = 64 * 1024
MIDDLE_CUT = re.compile(r"… from here on only the end is kept: ([\d,]+) bytes cut …\n")
LINE_CUT = re.compile(r" … ([\d,]+) bytes of this line cut …")

full = pytest.mark.chaos


def kilobytes(pid: int, name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found
    return int(found[1])


def notes(folder: Path, case: str) -> list[dict[str, int]]:
    return [json.loads(path.read_text()) for path in folder.glob(f"{case}-*")]


@pytest.mark.parametrize("slug", ["quick", pytest.param("full", marks=full)])
def test_whatever_is_written_is_stored_bounded_and_as_text(
    site: NoisySite, api: Client, folder: Path, slug: str
) -> None:
    """All cases, four at a time: the worker stays small, head and tail and marks are there."""
    finish(api, api.start("small", {"folder": str(folder)}))
    worker = notes(folder, "lines")[0]["worker"]
    before, started = kilobytes(worker, "VmRSS"), time.monotonic()
    run_id = api.start(slug, {"folder": str(folder)})
    assert finish(api, run_id)["status"] == "succeeded"
    seconds, grown = time.monotonic() - started, kilobytes(worker, "VmHWM") - before
    steps = {step["name"]: step for step in api.steps(run_id)}
    print(f"\n{site.data}: {slug}: {seconds:.1f} s, worker {before} kB, at most {grown:+} kB")
    assert {note["worker"] for case in CASES for note in notes(folder, case)} == {worker}
    for name, step in steps.items():
        text = raw_log(api, step["id"]).decode()
        case = "ansi" if name.startswith("log ") else name
        print(f"  {name:12} stored {step['log_size']:>10,}")
        assert len(text.encode()) == step["log_size"] <= LIMIT + MARKS
        assert "\0" not in text
        assert text.startswith(f"{case} begins\n")
        assert text.rstrip().endswith(f"\n{case} ends")
        if case == "one_line":
            assert LINE_CUT.search(text)
        elif slug == "full" or not name.startswith("log "):
            assert MIDDLE_CUT.search(text), name
            assert step["log_size"] > LIMIT - 64 * 1024
    assert grown <= GROWTH_KB


@pytest.mark.browser
def test_the_page_shows_all_of_it_as_text(
    site: NoisySite, api: Client, folder: Path, browser: Browser, watch: Watch
) -> None:
    """No script runs, nothing is refused, nothing turns the text around."""
    run_id = api.start("quick", {"folder": str(folder)})
    context = browser.new_context(base_url=site.url)
    context.set_default_timeout(PATIENCE_MS)
    watch.follow(context)
    try:
        context.add_cookies(api.cookies)  # type: ignore[arg-type]
        page = context.new_page()
        page.goto(f"runs/{run_id}/")
        finish(api, run_id)
        shown = {
            "lines": "line ",
            "one_line": "bytes of this line cut …",
            "nul": "\N{REPLACEMENT CHARACTER}" * 3,
            "invalid": "invalid",
            "ansi": "red text<U+0008><U+0008><U+0007>",
            "bidi": "<U+202E>right to left<U+2066> override <U+200F>",
            "markup": "<script>alert(1)</script><img src=x onerror=alert(1)>",
            "binary": "\N{REPLACEMENT CHARACTER}",
        }
        for name, text in shown.items():
            page.locator(".step-name a").get_by_text(name, exact=True).click()
            lines = page.locator("#log-lines")
            expect(lines).to_contain_text(f"{name} ends")
            expect(lines).to_contain_text(text)
            assert not re.search(r"[\x00-\x08\x0b-\x1f\u202a-\u202e]", lines.inner_text())
        assert page.locator("#log-lines script, #log-lines img").count() == 0
        assert watch.complaints == []
    finally:
        context.close()


@pytest.mark.parametrize("times", [2, pytest.param(20, marks=full)])
def test_a_step_that_floods_its_output_is_cancelled_as_any_other(
    api: Client, folder: Path, times: int
) -> None:
    """It obeys SIGTERM, so its process is gone without any grace."""
    took = []
    for number in range(times):
        place = folder / str(number)
        place.mkdir()
        run_id = api.start("flood", {"folder": str(place)})
        [note] = until(lambda place=place: notes(place, "lines"), "the flood")
        until(lambda run_id=run_id: api.steps(run_id)[0]["log_size"] > 9_000_000, "the head")
        started = time.monotonic()
        api.post(f"api/runs/{run_id}/cancel", {})
        until(lambda pid=note["pid"]: not is_alive(pid), "the end of the process")
        took.append(time.monotonic() - started)
        assert finish(api, run_id)["status"] == "cancelled"
        assert len(raw_log(api, api.steps(run_id)[0]["id"])) > 9_000_000
    took.sort()
    p95 = took[max(0, round(0.95 * len(took)) - 1)]
    print(f"\ncancel of a flood, {times}: p50 {statistics.median(took):.3f} s, p95 {p95:.3f} s")


@full
def test_twenty_noisy_steps_do_not_silence_the_worker(
    site: NoisySite, api: Client, folder: Path
) -> None:
    """It beats on time, and stays small, while they write as fast as they can, at most 100 MB/s."""
    finish(api, api.start("small", {"folder": str(folder)}))
    worker = notes(folder, "lines")[0]["worker"]
    before = kilobytes(worker, "VmRSS")
    run_id = api.start("choir", {"folder": str(folder)})
    query = f"SELECT beat FROM executions_run WHERE id = {run_id}"
    beats: list[tuple[int, float]] = []

    def over() -> bool:
        [(beat,)] = site.rows(query)
        if not beats or beats[-1][0] != beat:
            beats.append((beat, time.monotonic()))
        return bool(api.run(run_id)["finished_at"])

    started = time.monotonic()
    until(over, "the end of the choir", seconds=LONG_SECONDS)
    gaps = [after[1] - earlier[1] for earlier, after in pairwise(beats)]
    seconds = time.monotonic() - started
    grown = kilobytes(worker, "VmHWM") - before
    print(
        f"\n20 steps: {3000 / seconds:.0f} MB/s, {len(beats)} beats, longest gap {max(gaps):.2f} s,"
        f" worker at most {grown:+} kB"
    )
    assert max(gaps) < 5


def test_what_was_written_before_the_worker_was_killed_is_kept(
    site: NoisySite, api: Client, folder: Path
) -> None:
    """But for the last second, which a busy machine may stretch: that figure is printed."""
    run_id = api.start("count", {"folder": str(folder)})
    step = api.steps(run_id)[0]
    counted = folder / "counted"
    until(lambda: counted.exists() and len(counted.read_text().splitlines()) > 600, "counting")
    os.kill(int((folder / "worker").read_text()), signal.SIGKILL)
    killed = time.monotonic()
    run = finish(api, run_id)
    assert run["status"] == "failed"
    assert api.steps(run_id)[0]["status"] == "interrupted"
    written = [line.split() for line in counted.read_text().splitlines()]
    owed = max(int(number) for number, at in written if float(at) < killed - 1)
    kept = [int(line.rstrip(".")) for line in raw_log(api, step["id"]).decode().split()]
    print(f"\nwritten {written[-1][0]}, a second before the kill {owed}, kept {kept[-1]}")
    assert kept == list(range(1, kept[-1] + 1))
    assert kept[-1] >= max(int(number) for number, at in written if float(at) < killed - 5)
