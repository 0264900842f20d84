"""Another writer holds the SQLite database: people wait, nothing is lost or done twice."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.faults.outage import (
    REFUSED_SLACK,
    STEPS_OF_LEDGER,
    FaultySite,
    Ledger,
    Person,
    await_end,
    last,
    locked,
    recovery,
    report,
    status_of,
)
from tests.processes import until

BEGUN_SLACK_SECONDS = 1.0
"""Between the commit of a START and the step's first line, on a busy machine."""


def test_ten_seconds_are_not_seen_but_as_waiting(site: FaultySite, tmp_path: Path) -> None:
    """Signing in, starting, cancelling and looking all succeed; a run that is on ends well."""
    client, ledger = site.sign_in(), Ledger(tmp_path / "ledger")
    before = site.warm_up(client, tmp_path)
    run_id = client.start("ledger", {**ledger.context, "seconds": 0.5})
    doomed = client.start("single", {**Ledger(tmp_path / "doomed").context, "seconds": 60})
    until(ledger.begins, "the first step")
    until(lambda: client.run(doomed)["status"] == "running", "the run that will be cancelled")
    person, database = Person(client), site.data / "db.sqlite3"
    with ThreadPoolExecutor() as threads:
        with person.asking(), recovery(client, run_id) as timing, locked(database, "EXCLUSIVE"):
            since = time.monotonic()
            asked = [
                threads.submit(site.sign_in),
                threads.submit(client.start, "single", Ledger(tmp_path / "later").context),
                threads.submit(client.post, f"api/runs/{doomed}/cancel", {}),
            ]
            last(10)
            released = time.monotonic()
        answers = [future.result(60) for future in asked]
    assert set(person.statuses) == {200}
    assert ledger.begun_between(since + BEGUN_SLACK_SECONDS, released) == []
    run = await_end(client, run_id)
    assert run["status"] == "succeeded", run
    assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    assert await_end(client, doomed)["status"] == "cancelled"
    assert await_end(client, int(answers[1]))["status"] == "succeeded"
    until(lambda: site.held().is_at_most(before, slack=1), "what was open before, and no more")
    assert "Traceback" not in site.log
    report(fault="SQLite locked 10 s", recovered=timing.recovered, slowest_read=person.slowest)


@pytest.mark.chaos
@pytest.mark.parametrize("number", range(4))
def test_ten_seconds_once_more(site: FaultySite, tmp_path: Path, number: int) -> None:
    test_ten_seconds_are_not_seen_but_as_waiting(site, tmp_path)


@pytest.mark.chaos
def test_sixty_seconds_are_told_and_outlived(site: FaultySite, tmp_path: Path) -> None:
    """Who wants to write is told after 20 s; nothing is lost, and no lease falls."""
    client, ledger = site.sign_in(), Ledger(tmp_path / "ledger")
    before = site.warm_up(client, tmp_path)
    # The first step runs all through the lock: nobody may take it for dead.
    run_id = client.start("ledger", {**ledger.context, "seconds": 70})
    until(ledger.begins, "the first step")
    other, others = Ledger(tmp_path / "other"), []
    other_id = client.start("ledger", {**other.context, "seconds": 0.5})
    until(other.begins, "the first step of the other run")
    person, database = Person(client), site.data / "db.sqlite3"
    with person.asking(), recovery(client, other_id) as timing, locked(database):
        since = time.monotonic()
        deadline = since + 60
        others.append((status_of(site.sign_in), time.monotonic() - since))
        while time.monotonic() < deadline:
            asked = time.monotonic()
            status = status_of(lambda: client.start("single", ledger.context))
            others.append((status, time.monotonic() - asked))
        released = time.monotonic()
    assert set(person.statuses) == {200}, person.statuses
    # The last one may have been lucky.
    assert {status for status, _ in others[:-1]} == {503}, others
    assert max(seconds for _, seconds in others) < 30
    assert other.begun_between(since + BEGUN_SLACK_SECONDS, released) == []
    assert await_end(client, other_id)["status"] == "succeeded"
    other.check(client.steps(other_id))
    client.post(f"api/runs/{run_id}/cancel", {})
    await_end(client, run_id)
    first = client.steps(run_id)[0]
    assert first["attempt"] == 1, first
    assert "does not beat" not in site.log
    assert ledger.times()["First in order"] == 1
    until(lambda: site.held().is_at_most(before, slack=REFUSED_SLACK), "what was open before")
    assert "Traceback" not in site.log
    report(
        fault="SQLite locked 60 s",
        recovered=timing.recovered,
        writes=others,
        before=vars(before),
        after=vars(site.held()),
    )


@pytest.mark.chaos
def test_ten_locks_leave_nothing_open(site: FaultySite, tmp_path: Path) -> None:
    client = site.sign_in()
    before = site.warm_up(client, tmp_path)
    for number in range(10):
        ledger = Ledger(tmp_path / f"ledger {number}")
        run_id = client.start("ledger", {**ledger.context, "seconds": 0.3})
        until(ledger.begins, "the first step")
        with Person(client).asking(), locked(site.data / "db.sqlite3"):
            last(2)
        assert await_end(client, run_id)["status"] == "succeeded"
        assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    until(lambda: site.held().is_at_most(before, slack=1), "what was open before")
    report(fault="SQLite locked 10 times", before=vars(before), after=vars(site.held()))


@pytest.mark.chaos
def test_a_process_that_stands_still_with_the_lock(tmp_path: Path) -> None:
    """Stopped in the middle of a transaction, it keeps everybody from writing: it is ended."""
    stopped = tmp_path / "stopped"
    crash = {"STEPSITE_CRASH": "start_written:1:stop", "STEPSITE_CRASH_NOTE": str(stopped)}
    with FaultySite(tmp_path, **crash) as site:
        client = site.sign_in()
        run_id = client.start("commands", {})
        until(stopped.exists, "a process that stands still in a transaction")
        began = time.monotonic()
        until(lambda: status_of(site.sign_in) == 200, "a write of somebody else", seconds=120)
        report(fault="stopped with SQLite's lock", recovered=time.monotonic() - began)
        assert await_end(client, run_id)["status"] == "succeeded"
        assert "does not let go of the database" in site.log
