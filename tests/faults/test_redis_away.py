"""Redis is silent or killed: a run is accepted at once all the same, and starts soon after."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.faults.outage import FaultySite, Ledger, await_end, last, report
from tests.faults.private import HOST, PrivateRedis
from tests.faults.proxy import Proxy
from tests.processes import until

TRIGGER_SECONDS = 5.0
"""For an answer. It takes a second or so; the figure is in the report."""
START_SECONDS = 15.0


@dataclass
class World:
    server: PrivateRedis
    proxy: Proxy
    site: FaultySite

    def fault(self, name: str) -> AbstractContextManager[None]:
        faults: dict[str, Callable[[], AbstractContextManager[None]]] = {
            "stalled": self.proxy.stalled,
            "shut": self.proxy.shut,
            "frozen": self.server.frozen,
            "killed": self.server.down,
        }
        return faults[name]()


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    server = PrivateRedis()
    try:
        proxy = Proxy((HOST, server.port))
        try:
            data = tmp_path_factory.mktemp("redis")
            with FaultySite(data, REDIS_URL=server.url(proxy.port)) as site:
                yield World(server, proxy, site)
        finally:
            proxy.close()
    finally:
        server.remove()


def outlive(world: World, fault: str, seconds: float, tmp_path: Path) -> None:
    """Runs triggered before, early in and late in an outage; each step has one effect."""
    client = world.site.sign_in()
    earlier, early, late = (Ledger(tmp_path / name) for name in ("earlier", "early", "late"))
    runs, triggers = [client.start("ledger", {**earlier.context, "seconds": 0.2})], []
    until(earlier.begins, "the first step")

    def trigger(ledger: Ledger) -> None:
        asked = time.monotonic()
        runs.append(client.start("single", ledger.context))
        triggers.append(time.monotonic() - asked)

    with world.fault(fault):
        began = time.monotonic()
        trigger(early)
        last(max(0.0, seconds - 2 - (time.monotonic() - began)))
        trigger(late)
    released = time.monotonic()
    for ledger in (early, late):
        until(ledger.begins, "the start of a run from the outage")
    started = max(0.0, time.monotonic() - released)
    for run_id, ledger in zip(runs, (earlier, early, late), strict=True):
        assert await_end(client, run_id)["status"] == "succeeded"
        ledger.check(client.steps(run_id))
        assert set(ledger.times().values()) == {1}
    assert "Traceback" not in world.site.log, world.site.log
    report(fault=f"Redis {fault} {seconds:g} s", started=started, triggered=max(triggers))
    assert max(triggers) < TRIGGER_SECONDS
    assert started < START_SECONDS


@pytest.mark.parametrize(
    "fault",
    [
        "killed",
        pytest.param("frozen", marks=pytest.mark.chaos),
        pytest.param("shut", marks=pytest.mark.chaos),
        pytest.param("stalled", marks=pytest.mark.chaos),
    ],
)
def test_a_few_seconds_without_it(world: World, tmp_path: Path, fault: str) -> None:
    outlive(world, fault, 2, tmp_path)


@pytest.mark.chaos
@pytest.mark.parametrize("fault", ["stalled", "shut", "frozen", "killed"])
def test_half_a_minute_without_it(world: World, tmp_path: Path, fault: str) -> None:
    outlive(world, fault, 30, tmp_path)


@pytest.mark.chaos
def test_ten_outages_leave_nothing_open(world: World, tmp_path: Path) -> None:
    client = world.site.sign_in()
    before, connections = world.site.warm_up(client, tmp_path), world.server.connections()
    for number in range(10):
        ledger = Ledger(tmp_path / f"ledger {number}")
        with world.fault(("stalled", "shut", "frozen")[number % 3]):
            run_id = client.start("single", ledger.context)
            last(1)
        assert await_end(client, run_id)["status"] == "succeeded"
        assert ledger.times() == {"only": 1}
    until(lambda: world.site.held().is_at_most(before, slack=3), "what was open before")
    until(lambda: world.server.connections() <= connections + 3, "the connections of before")
    report(
        fault="Redis away 10 times",
        before=[*vars(before).values(), connections],
        after=[*vars(world.site.held()).values(), world.server.connections()],
    )
