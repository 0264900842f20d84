"""The disk is full: nothing starts without a durable START, and all goes on when there is room."""

from __future__ import annotations

import os
import sqlite3
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.outage import (
    REFUSED_SLACK,
    FaultySite,
    Ledger,
    Person,
    await_end,
    last,
    recovery,
    report,
    status_of,
)
from tests.processes import until

FULL_SECONDS = 3.0


@contextmanager
def full(disk: Path) -> Iterator[None]:
    """Not a byte is free inside the block."""
    ballast = disk / "ballast"
    descriptor = os.open(ballast, os.O_WRONLY | os.O_CREAT)
    try:
        for size in (1 << 20, 4096, 1):
            with suppress(OSError):
                while True:
                    os.write(descriptor, b"\0" * size)
        yield
    finally:
        os.close(descriptor)
        ballast.unlink()


def is_sound(site: FaultySite) -> bool:
    with closing(sqlite3.connect(site.data / "db.sqlite3", timeout=20)) as database:
        return database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_full_while_steps_print(site: FaultySite, tmp_path: Path) -> None:
    outlive(site, tmp_path, FULL_SECONDS)


@pytest.mark.chaos
def test_full_for_half_a_minute(site: FaultySite, tmp_path: Path) -> None:
    outlive(site, tmp_path, 30)


def outlive(site: FaultySite, tmp_path: Path, seconds: float) -> None:
    if not os.path.ismount(site.data):
        pytest.skip("a full disk takes a file system of its own: run the tests as root on Linux")
    client, ledger = site.sign_in(), Ledger(tmp_path / "ledger")
    before = site.warm_up(client, tmp_path)
    run_id = client.start("ledger", {**ledger.context, "seconds": 0.4, "bytes": 400_000})
    until(lambda: len(ledger.begins()) >= 2, "the second step")
    # Each of these needs a directory with the context in it.
    commands_id = client.start("commands", {"padding": "x" * 10_000})
    person, refused = Person(client), []
    with person.asking(), recovery(client, run_id) as timing, full(site.data):
        deadline = time.monotonic() + seconds
        large = {**ledger.context, "padding": "x" * 500_000}
        while time.monotonic() < deadline:
            refused.append(status_of(lambda: client.start("single", large)))
            # A START that fitted into what the database had left over is durable as well.
            begun = set(ledger.times())
            on_record = {row["name"] for row in client.steps(run_id) if row["attempt"]}
            assert begun <= on_record | {"only"}
            last(0.2)
    run = await_end(client, run_id)
    assert run["status"] == "succeeded", run
    assert {name: n for name, n in ledger.times().items() if n > 1 and name != "only"} == {}
    ledger.check(client.steps(run_id))
    await_end(client, commands_id)
    ended = Counter((row["status"], row["reason"]) for row in client.steps(commands_id))
    assert set(ended) <= {("succeeded", ""), ("failed", "cannot_start")}, ended
    assert set(person.statuses) <= {200, 503}, person.answers
    assert 503 in refused, "it was never full for the database"
    assert set(refused) <= {200, 503}
    later = Ledger(tmp_path / "later")
    assert await_end(client, client.start("single", later.context))["status"] == "succeeded"
    assert is_sound(site)
    until(lambda: site.held().is_at_most(before, slack=REFUSED_SLACK), "what was open before")
    report(
        fault=f"disk full {seconds:g} s",
        recovered=timing.recovered,
        triggers=len(refused),
        refused=refused.count(503),
        pages=dict(person.statuses),
        commands={" ".join(key).strip(): number for key, number in ended.items()},
    )
