"""The relay against a real database: who hears what, when, and at what cost."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from typing import Any

import pytest
from django.db import OperationalError

from executions import queries, relay, watches
from executions.engine.status import RunStatus
from executions.models import Run
from executions.protocol import Close
from executions.relay import Relay
from executions.watches import Viewer
from tests.factories import change_steps, end_run, end_steps, make_run, make_worker, start_steps
from tests.waiting import DEADLINE, in_database, until

pytestmark = pytest.mark.django_db(transaction=True)


async def next_frame(viewer: Viewer, kind: str = "changes") -> Any:
    """The next frame of a kind, or a close code."""
    async with asyncio.timeout(DEADLINE):
        while True:
            item = await viewer.outbox.get()
            if isinstance(item, Close):
                return item
            frame = json.loads(item)
            if frame["type"] == kind:
                return frame


def acknowledge(viewer: Viewer, frame: Any) -> None:
    viewer.acknowledge(frame["to"])


class Clock:
    """A monotonic clock that tests turn."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


async def test_nobody_watches_nothing_is_asked() -> None:
    """No thread and no query before the first viewer and after the last."""
    run = await in_database(make_run)
    one = Relay()
    assert not one.is_polling
    viewers = [one.watch_run(run.pk, run.sequence), one.watch_table()]
    await next_frame(viewers[1], "runs")
    assert one.is_polling
    for viewer in viewers:
        one.leave(viewer)
    await until(lambda: not one.is_polling)
    await until(lambda: not any(t.name.startswith("relay") for t in threading.enumerate()))


async def test_a_change_reaches_its_viewers_once() -> None:
    """With the rows that changed, the run, and from where to where it leads."""
    run = await in_database(make_run)
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    to = await in_database(start_steps, run, [1])
    frame = await next_frame(viewer)
    assert (frame["from"], frame["to"]) == (run.sequence, to)
    assert frame["run"]["counts"]["running"] == 1
    assert [row[frame["columns"].index("status")] for row in frame["steps"]] == ["running"]
    acknowledge(viewer, frame)
    await in_database(end_steps, run, [1])
    frame = await next_frame(viewer)
    assert frame["from"] == to
    one.leave(viewer)


async def test_one_reading_serves_all_viewers(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many they are and whatever they hold; equal ones share one encoding."""
    run = await in_database(make_run, 6)
    start = run.sequence
    for position in range(3):
        await in_database(start_steps, run, [position])
    readings: list[set[int]] = []
    original = queries.changes_after_any

    def counted(run_id: int, starts: set[int]) -> Any:
        readings.append(set(starts))
        return original(run_id, starts)

    monkeypatch.setattr(queries, "changes_after_any", counted)
    one = Relay()
    held = [start, start + 1, start, start + 1, start + 2, start]
    viewers = [one.watch_run(run.pk, number) for number in held]
    items = [await asyncio.wait_for(viewer.outbox.get(), DEADLINE) for viewer in viewers]
    frames = [json.loads(item) for item in items if isinstance(item, str)]
    assert readings == [{start, start + 1, start + 2}]
    assert [frame["from"] for frame in frames] == held
    assert [len(frame["steps"]) for frame in frames] == [3, 2, 3, 2, 1, 3]
    assert items[0] is items[2]
    for viewer in viewers:
        one.leave(viewer)


async def test_a_slow_viewer_gets_one_fat_frame() -> None:
    """Nothing is sent before the acknowledgement; everything missed comes after it, once."""
    run = await in_database(make_run, 20)
    one = Relay()
    slow = one.watch_run(run.pk, run.sequence)
    quick = one.watch_run(run.pk, run.sequence)
    await in_database(start_steps, run, [0])
    first = await next_frame(slow)
    for position in range(1, 20):
        last = await in_database(start_steps, run, [position])
    held = run.sequence
    while held < last:
        frame = await next_frame(quick)
        acknowledge(quick, frame)
        held = frame["to"]
    assert slow.outbox.empty()
    acknowledge(slow, first)
    second = await next_frame(slow)
    assert (second["from"], second["to"]) == (first["to"], last)
    assert len(second["steps"]) + len(first["steps"]) == 20
    one.leave(slow)
    one.leave(quick)


async def test_the_end_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other changes wait until the interval has passed, the end does not."""
    monkeypatch.setattr(watches, "FLUSH_SECONDS", 3600.0)
    run = await in_database(make_run)
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    await in_database(start_steps, run, [0])
    acknowledge(viewer, await next_frame(viewer))
    await in_database(start_steps, run, [1])
    to = await in_database(end_run, run)
    frame = await next_frame(viewer)
    assert frame["to"] == to
    assert frame["run"]["status"] == "succeeded"
    one.leave(viewer)


async def test_a_run_that_is_over_is_asked_for_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its viewers stay, with beats."""
    run = await in_database(make_run, ["succeeded"], status=RunStatus.SUCCEEDED)
    asked: list[list[int]] = []
    original = queries.sequences

    def counted(run_ids: list[int]) -> Any:
        asked.append(run_ids)
        return original(run_ids)

    monkeypatch.setattr(queries, "sequences", counted)
    monkeypatch.setattr(watches, "BEAT_SECONDS", 0.0)
    monkeypatch.setattr(relay, "SETTLED_SECONDS", 0.01)
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    for _ in range(5):
        assert (await next_frame(viewer, "beat"))["to"] == run.sequence
    assert asked == [[run.pk]]
    one.leave(viewer)


async def test_whoever_is_far_behind_is_told_to_resync(monkeypatch: pytest.MonkeyPatch) -> None:
    """And goes on from the snapshot that it acknowledges."""
    monkeypatch.setattr(relay, "ROW_LIMIT", 2)
    run = await in_database(make_run, 4)
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    await in_database(start_steps, run, range(4))
    assert await next_frame(viewer, "resync") == {"type": "resync"}
    snapshot = await in_database(queries.snapshot, run.pk)
    viewer.acknowledge(snapshot["to"])
    to = await in_database(end_steps, run, [3])
    frame = await next_frame(viewer)
    assert (frame["from"], frame["to"]) == (snapshot["to"], to)
    one.leave(viewer)


async def test_whoever_comes_from_the_future_is_told_to_resync() -> None:
    """The database may have been restored from a backup while a page was open."""
    run = await in_database(make_run)
    one = Relay()
    viewer = one.watch_run(run.pk, 900)
    assert await next_frame(viewer, "resync") == {"type": "resync"}
    one.leave(viewer)


async def test_a_deleted_run_ends_its_sockets() -> None:
    """Instead of beating for a run that is gone."""
    run = await in_database(make_run)
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    await in_database(Run.objects.all().delete)
    assert await next_frame(viewer) is Close.GONE
    await until(lambda: not one.is_polling)


async def test_a_stuck_viewer_is_closed() -> None:
    """A minute after a frame that it never acknowledged; the others go on."""
    clock = Clock()
    run = await in_database(make_run)
    one = Relay(clock)
    stuck = one.watch_run(run.pk, run.sequence)
    other = one.watch_run(run.pk, run.sequence)
    await in_database(start_steps, run, [0])
    await next_frame(stuck)
    acknowledge(other, await next_frame(other))
    clock.now += watches.ACKNOWLEDGE_SECONDS
    assert await next_frame(stuck) is Close.STUCK
    await in_database(start_steps, run, [1])
    assert (await next_frame(other))["run"]["counts"]["running"] == 2
    one.leave(other)


async def test_beats_come_every_ten_seconds() -> None:
    """With the sequence, so that a client sees that it misses nothing."""
    clock = Clock()
    run = await in_database(make_run)
    one = Relay(clock)
    viewer = one.watch_run(run.pk, run.sequence)
    for _ in range(3):
        beat = await next_frame(viewer, "beat")
        assert beat["to"] == run.sequence
        assert beat["now"].endswith("Z")
        assert viewer.outbox.empty()
        clock.now += watches.BEAT_SECONDS
    one.leave(viewer)


async def test_a_queued_run_says_why_it_waits_when_that_changes() -> None:
    """The reason is not part of the run's sequence, so a beat carries it at once."""
    clock = Clock()
    run = await in_database(make_run, status=RunStatus.QUEUED)
    one = Relay(clock)
    viewer = one.watch_run(run.pk, run.sequence)
    assert (await next_frame(viewer, "beat"))["waiting"] == "no worker is running"
    await in_database(make_worker)
    clock.now += relay.WAITING_SECONDS
    assert (await next_frame(viewer, "beat"))["waiting"] == ""
    one.leave(viewer)


async def test_an_outage_of_the_database_only_delays(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It is logged once, no beat pretends that all is well, and then the viewer gets the rest."""
    run = await in_database(make_run)
    failures = 0
    original = queries.sequences

    def failing(run_ids: list[int]) -> Any:
        nonlocal failures
        if failures < 4:
            failures += 1
            raise OperationalError("server closed the connection unexpectedly")
        return original(run_ids)

    monkeypatch.setattr(queries, "sequences", failing)
    caplog.set_level(logging.INFO, logger="executions.relay")
    one = Relay()
    viewer = one.watch_run(run.pk, run.sequence)
    await in_database(start_steps, run, [0])
    item = await asyncio.wait_for(viewer.outbox.get(), DEADLINE)
    assert isinstance(item, str)
    assert json.loads(item)["type"] == "changes"
    assert failures == 4
    await until(lambda: len(caplog.messages) >= 2)
    assert caplog.messages == [
        "The live view pauses: server closed the connection unexpectedly",
        "The live view goes on",
    ]
    one.leave(viewer)


async def test_the_table_is_sent_whole_when_it_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbered, and not again while nothing changed."""
    monkeypatch.setattr(watches, "TABLE_FLUSH_SECONDS", 0.01)
    monkeypatch.setattr(watches, "TABLE_REFRESH_SECONDS", 0.02)
    run = await in_database(make_run)
    readings = 0
    original = queries.active_runs

    def counted() -> Any:
        nonlocal readings
        readings += 1
        return original()

    monkeypatch.setattr(queries, "active_runs", counted)
    one = Relay()
    viewer = one.watch_table()
    first = await next_frame(viewer, "runs")
    assert first["n"] == 1
    assert [item["id"] for item in first["runs"]] == [run.pk]
    assert first["workers"] == {"alive": 0, "slots": 0, "busy": 1}
    viewer.acknowledge(first["n"])
    read_before = readings
    await until(lambda: readings > read_before + 2)
    assert all('"beat"' in str(viewer.outbox.get_nowait()) for _ in range(viewer.outbox.qsize()))
    await in_database(end_run, run)
    second = await next_frame(viewer, "runs")
    assert second["n"] == 2
    assert second["runs"][0]["status"] == "succeeded"
    one.leave(viewer)


async def test_the_table_comes_at_most_twice_a_second() -> None:
    """A change within the half second waits for its end."""
    clock = Clock()
    run = await in_database(make_run)
    one = Relay(clock)
    viewer, witness = one.watch_table(), one.watch_run(run.pk, run.sequence)
    viewer.acknowledge((await next_frame(viewer, "runs"))["n"])
    clock.now += 0.4
    await in_database(change_steps, run)
    acknowledge(witness, await next_frame(witness))
    clock.now += 0.05
    await in_database(change_steps, run)
    assert all('"beat"' in str(viewer.outbox.get_nowait()) for _ in range(viewer.outbox.qsize()))
    clock.now += 0.1
    assert (await next_frame(viewer, "runs"))["n"] == 2
    one.leave(viewer)
    one.leave(witness)


async def test_each_event_loop_has_one_relay() -> None:
    """Sockets of one server share it."""
    assert relay.current_relay() is relay.current_relay()
