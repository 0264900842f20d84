"""A hint is lost, comes five times, or comes when all is over: each step has one effect."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.client import Client
from tests.faults.outage import STEPS_OF_LEDGER, FaultySite, Ledger, await_end, locked, report
from tests.processes import descendants, until

COPY = "INSERT INTO django_q_ormq (key, payload, lock) VALUES (?, ?, ?)"


@pytest.fixture
def client(site: FaultySite) -> Client:
    return site.sign_in()


@contextmanager
def worker_frozen(site: FaultySite) -> Iterator[None]:
    """Nobody takes hints inside the block, and nobody stands still with SQLite's lock in hand."""
    pids = [site.worker, *descendants(site.worker)]
    until(lambda: _freeze(pids, site.data / "db.sqlite3"), "a moment without a transaction")
    try:
        yield
    finally:
        _signal(pids, signal.SIGCONT)


def _freeze(pids: list[int], database: Path) -> bool:
    _signal(pids, signal.SIGSTOP)
    with suppress(sqlite3.OperationalError), locked(database, wait=0.5):
        return True
    _signal(pids, signal.SIGCONT)
    return False


def _signal(pids: list[int], number: signal.Signals) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def in_queue(site: FaultySite, statement: str, *rows: tuple[Any, ...]) -> list[tuple[Any, ...]]:
    """Do something with the table of hints, for each of `rows`; what the statement found."""
    with closing(sqlite3.connect(site.data / "db.sqlite3", timeout=20)) as database, database:
        if rows:
            return database.executemany(statement, rows).fetchall()
        return database.execute(statement).fetchall()


@pytest.mark.chaos
def test_a_lost_hint_costs_seconds(site: FaultySite, client: Client, tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger")
    with worker_frozen(site):
        run_id = client.start("ledger", ledger.context)
        in_queue(site, "DELETE FROM django_q_ormq")
    began = time.monotonic()
    until(ledger.begins, "the first step")
    waited = time.monotonic() - began
    assert await_end(client, run_id)["status"] == "succeeded"
    assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    report(fault="hint lost", started=waited)


def test_five_more_of_it_change_nothing(site: FaultySite, client: Client, tmp_path: Path) -> None:
    """Before the run is taken, while it runs, and when it is over."""
    ledger = Ledger(tmp_path / "ledger")
    with worker_frozen(site):
        run_id = client.start("ledger", {**ledger.context, "seconds": 0.3})
        (hint,) = in_queue(site, "SELECT key, payload, lock FROM django_q_ormq")
        in_queue(site, COPY, *[hint] * 5)
    until(ledger.begins, "the first step")
    in_queue(site, COPY, *[hint] * 5)
    run = await_end(client, run_id)
    assert run["status"] == "succeeded"
    in_queue(site, COPY, *[hint] * 5)
    until(lambda: not in_queue(site, "SELECT id FROM django_q_ormq"), "an empty queue")
    # Whatever the last ones did is done when a run that came after them is over.
    after = Ledger(tmp_path / "after")
    await_end(client, client.start("single", after.context))
    assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    again = client.run(run_id)
    assert (again["status"], again["sequence"]) == (run["status"], run["sequence"])
    assert after.times() == {"only": 1}
