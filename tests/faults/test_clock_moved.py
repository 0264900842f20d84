"""The wall clock is moved under a site that runs: nothing ends early, is lost, or waits for it."""

from __future__ import annotations

import os
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from executions.identity import ProcessIdentity
from tests.faults.outage import STEPS_OF_LEDGER, FaultySite, Ledger, await_end, report
from tests.faults.test_hints import in_queue, worker_frozen
from tests.processes import until

SOURCE = Path(__file__).parent / "moved_clock.c"
HOUR, DAY = 3600, 86400
START_SECONDS = 25.0


class Clock:
    """The wall clock of the site's processes: so many seconds from the machine's."""

    def __init__(self, folder: Path) -> None:
        self._library = folder / "moved_clock.so"
        self._offset = folder / "offset"
        compiler = shutil.which("cc")
        if compiler is None or not sys.platform.startswith("linux"):
            pytest.skip("the clock is moved by a library made here: apt-get install gcc")
        command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(self._library), str(SOURCE)]
        subprocess.run([*command, "-ldl"], check=True, timeout=60)
        self.move(0)

    def move(self, seconds: int) -> None:
        # In place: the processes have mapped the file.
        descriptor = os.open(self._offset, os.O_WRONLY | os.O_CREAT, 0o600)
        os.pwrite(descriptor, struct.pack("q", seconds), 0)
        os.close(descriptor)

    @property
    def environment(self) -> dict[str, str]:
        return {"LD_PRELOAD": str(self._library), "MOVED_CLOCK": str(self._offset)}


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Clock:
    return Clock(tmp_path_factory.mktemp("clock"))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[FaultySite]:
    with FaultySite(tmp_path_factory.mktemp("clocked"), **clock.environment) as site:
        yield site


def test_the_clock_is_really_moved(clock: Clock) -> None:
    """Of every other process that is started so, and only the clock on the wall."""
    ask = "import time; print(time.time(), time.monotonic())"
    clock.move(DAY)
    command = [sys.executable, "-c", ask]
    told = subprocess.check_output(command, env={**os.environ, **clock.environment}, text=True)
    wall, steady = map(float, told.split())
    clock.move(0)
    assert wall - time.time() == pytest.approx(DAY, abs=60)
    assert steady == pytest.approx(time.monotonic(), abs=60)


@pytest.mark.chaos
@pytest.mark.parametrize("by", [HOUR, -HOUR, DAY, -DAY])
def test_moved_while_a_run_is_on(site: FaultySite, clock: Clock, tmp_path: Path, by: int) -> None:
    """No timeout comes early, no lease is lost, a back-off and a lost hint do not wait for it."""
    clock.move(0)
    client = site.sign_in()
    ledger, failing, lost = (Ledger(tmp_path / name) for name in ("ledger", "failing", "lost"))
    run_id = client.start("ledger", {**ledger.context, "seconds": 3})
    until(lambda: len(ledger.begins()) >= 2, "the second step")
    failing_id = client.start("backoff", failing.context)
    until(failing.begins, "the attempt that fails")
    with worker_frozen(site):
        lost_id = client.start("single", lost.context)
        in_queue(site, "DELETE FROM django_q_ormq")
        clock.move(by)
    moved = time.monotonic()
    # A session may be over after a day; whoever signs in again goes on.
    client = site.sign_in()
    until(lambda: len(failing.begins()) == 2, "the second attempt", seconds=START_SECONDS)
    again = time.monotonic() - moved
    until(lost.begins, "the run without a hint", seconds=START_SECONDS)
    started = time.monotonic() - moved
    run = await_end(client, run_id)
    assert run["status"] == "succeeded", client.steps(run_id)
    assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    assert await_end(client, failing_id)["status"] == "succeeded"
    assert await_end(client, lost_id)["status"] == "succeeded"
    assert "rescued" not in site.log
    assert "Traceback" not in site.log
    report(fault=f"clock moved by {by / HOUR:+g} h", attempt_again=again, lost_hint=started)


@pytest.mark.chaos
@pytest.mark.parametrize("by", [-HOUR, -DAY])
def test_a_back_off_survives_its_worker(
    site: FaultySite, clock: Clock, tmp_path: Path, by: int
) -> None:
    """The next worker reads when the attempt was due from the record, by a clock of then."""
    clock.move(0)
    client, failing = site.sign_in(), Ledger(tmp_path / "failing")
    run_id = client.start("backoff", {**failing.context})
    until(failing.begins, "the attempt that fails")
    until(lambda: client.steps(run_id)[0]["status"] == "pending", "the back-off")
    clock.move(by)
    with closing(sqlite3.connect(site.data / "db.sqlite3", timeout=20)) as database:
        ((holder,),) = database.execute(
            "SELECT holder FROM executions_run WHERE id = ?", (run_id,)
        ).fetchall()
    os.kill(ProcessIdentity.parse(holder).pid, signal.SIGKILL)
    began = time.monotonic()
    until(lambda: len(failing.begins()) == 2, "the second attempt", seconds=START_SECONDS)
    report(fault=f"back-off, clock {by / HOUR:+g} h, worker killed", again=time.monotonic() - began)
    client = site.sign_in()
    assert await_end(client, run_id)["status"] == "succeeded"
