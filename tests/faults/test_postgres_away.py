"""PostgreSQL is slow, silent, shut or killed: nothing starts without a durable START."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.outage import (
    STEPS_OF_LEDGER,
    FaultySite,
    Ledger,
    Person,
    await_end,
    fetch,
    last,
    recovery,
    report,
)
from tests.faults.private import HOST, Network, PrivatePostgres
from tests.faults.proxy import Proxy
from tests.faults.watcher import Watcher
from tests.processes import until

BEGUN_SLACK_SECONDS = 1.0
"""Between the commit of a START and the step's first line, on a busy machine."""
RECOVERY_SECONDS = 10.0
FENCE_SECONDS = 15.0
"""A worker that could not beat for so long has stopped its steps."""


Fault = Callable[[], AbstractContextManager[None]]


@dataclass
class World:
    server: PrivatePostgres
    site: FaultySite
    faults: dict[str, Fault]
    delay: Callable[[float], None] = lambda seconds: None


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """PostgreSQL behind a proxy."""
    with ExitStack() as stack:
        server = PrivatePostgres()
        stack.callback(server.remove)
        proxy = Proxy((HOST, server.port))
        stack.callback(proxy.close)
        data = tmp_path_factory.mktemp("postgres")
        site = stack.enter_context(FaultySite(data, DATABASE_URL=server.url(proxy.port)))
        faults: dict[str, Fault] = {
            "stalled": proxy.stalled,
            "shut": proxy.shut,
            "frozen": server.frozen,
            "killed": server.down,
        }
        yield World(server, site, faults, proxy.delay)


@pytest.fixture(scope="module")
def far_world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """PostgreSQL in a network of its own."""
    with ExitStack() as stack:
        network = Network()
        stack.callback(network.remove)
        server = PrivatePostgres(network)
        stack.callback(server.remove)
        data = tmp_path_factory.mktemp("far")
        site = stack.enter_context(FaultySite(data, DATABASE_URL=server.url()))
        yield World(server, site, {"swallowed": network.swallowing})


def outlive(
    world: World, fault: str, seconds: float, ledger: Ledger, *, step_seconds: float = 1.0
) -> None:
    """A run, a person and a live view during an outage, and all that must hold after it."""
    client = world.site.sign_in()
    run_id = client.start("ledger", {**ledger.context, "seconds": step_seconds})
    person, watcher = Person(client), Watcher(client, run_id)
    with watcher.watching():
        until(lambda: len(ledger.begins()) >= 2 and watcher.frames, "the second step, seen live")
        with person.asking(), recovery(client, run_id) as timing, world.faults[fault]():
            since = time.monotonic()
            last(seconds)
            released = time.monotonic()
        run = await_end(client, run_id)
        until(lambda: watcher.changes_after(released), "a change in the live view")
    seen = watcher.changes_after(released)[0] - released
    assert set(person.statuses) <= {200, 503}, person.answers
    assert person.slowest < 30, person.answers
    # A query that was under way when the silence began may be answered after it.
    assert ledger.begun_between(since + BEGUN_SLACK_SECONDS, released) == []
    ledger.check(client.steps(run_id))
    assert watcher.gaps == 0
    if seconds < FENCE_SECONDS:
        assert run["status"] == "succeeded", run
        assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    assert "Traceback" not in world.site.log, world.site.log
    report(
        fault=f"PostgreSQL {fault} {seconds:g} s",
        status=run["status"],
        answered=timing.answered,
        recovered=timing.recovered,
        seen_live=seen,
        slowest_page=person.slowest,
        answers=dict(person.statuses),
        sockets_closed=len(watcher.closed),
    )
    assert timing.recovered < RECOVERY_SECONDS


@pytest.mark.parametrize(
    "fault",
    [
        "stalled",
        pytest.param("shut", marks=pytest.mark.chaos),
        pytest.param("frozen", marks=pytest.mark.chaos),
        pytest.param("killed", marks=pytest.mark.chaos),
    ],
)
def test_a_few_seconds_without_it(world: World, tmp_path: Path, fault: str) -> None:
    """A run that is on ends as if nothing had been."""
    outlive(world, fault, 2, Ledger(tmp_path / "ledger"), step_seconds=0.4)


def test_what_people_and_programs_are_told(world: World) -> None:
    client = world.site.sign_in()
    cookies = "; ".join(f"{each['name']}={each['value']}" for each in client.cookies)
    with world.faults["shut"]():
        page = fetch(f"{world.site.url}runs/", Cookie=cookies)
        answer = fetch(f"{world.site.url}api/runs", Cookie=cookies)
        watcher = Watcher(client, 1)
        with watcher.watching():
            until(lambda: len(watcher.closed) >= 2, "refusals of a socket")
    for status, headers, text in (page, answer):
        assert status == 503
        assert 1 <= int(headers["Retry-After"]) <= 10
        assert "database" in text
    assert json.loads(answer[2])["errors"]
    assert "The database does not answer" in page[2]
    assert "Traceback" not in world.site.log, world.site.log


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["stalled", "shut", "frozen", "killed"])
@pytest.mark.parametrize("number", range(2))
def test_half_a_minute_without_it(world: World, tmp_path: Path, fault: str, number: int) -> None:
    outlive(world, fault, 30, Ledger(tmp_path / "ledger"))


@pytest.mark.chaos
@pytest.mark.parametrize("seconds", [3, 30])
def test_a_network_that_swallows_answers(far_world: World, tmp_path: Path, seconds: float) -> None:
    """Queries arrive and are carried out, but nobody hears of it: not even that they arrived."""
    outlive(far_world, "swallowed", seconds, Ledger(tmp_path / "ledger"))


@pytest.mark.chaos
def test_a_worker_that_starts_without_it(world: World, tmp_path: Path) -> None:
    """`up` does not give up a worker because the database is away for a while."""
    client, ledger = world.site.sign_in(), Ledger(tmp_path / "ledger")
    with world.faults["shut"]():
        os.kill(world.site.worker, signal.SIGKILL)
        last(30)
    began = time.monotonic()
    run_id = client.start("ledger", ledger.context)
    until(ledger.begins, "the first step")
    report(fault="PostgreSQL shut 30 s, worker killed", started=time.monotonic() - began)
    assert await_end(client, run_id)["status"] == "succeeded"


@pytest.mark.chaos
def test_a_slow_way_to_it(world: World, tmp_path: Path) -> None:
    """A round trip of 200 ms makes a run slow and nothing else."""
    client, ledger = world.site.sign_in(), Ledger(tmp_path / "ledger")
    world.delay(0.1)
    try:
        began = time.monotonic()
        run_id = client.start("ledger", {**ledger.context, "seconds": 1.0})
        triggered = time.monotonic() - began
        person = Person(client)
        with person.asking():
            run = await_end(client, run_id)
        lasted = time.monotonic() - began
    finally:
        world.delay(0)
    assert run["status"] == "succeeded"
    assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    assert set(person.statuses) == {200}
    report(fault="PostgreSQL 200 ms away", triggered=triggered, run=lasted, slowest=person.slowest)


@pytest.mark.chaos
def test_ten_outages_leave_nothing_open(world: World, tmp_path: Path) -> None:
    client = world.site.sign_in()
    before, connections = world.site.warm_up(client, tmp_path), world.server.connections()
    for number in range(10):
        ledger = Ledger(tmp_path / f"ledger {number}")
        run_id = client.start("ledger", {**ledger.context, "seconds": 0.3})
        until(ledger.begins, "the first step")
        with Person(client).asking(), world.faults[("stalled", "shut", "frozen")[number % 3]]():
            last(2)
        assert await_end(client, run_id)["status"] == "succeeded"
        assert sorted(ledger.times().values()) == [1] * STEPS_OF_LEDGER
    until(lambda: world.site.held().is_at_most(before, slack=1), "what was open before")
    until(lambda: world.server.connections() <= connections + 1, "the connections of before")
    report(
        fault="PostgreSQL away 10 times",
        before=[*vars(before).values(), connections],
        after=[*vars(world.site.held()).values(), world.server.connections()],
    )
