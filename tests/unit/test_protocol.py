"""Frames, acknowledgements, and that no interleaving of them loses or doubles a change."""

from __future__ import annotations

import json
import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from executions import protocol
from executions.engine.status import RunStatus
from executions.models import StepRun
from executions.protocol import RESYNC_FRAME, Changes, changes_frames, encode, iso, read_ack
from executions.watches import RunWatch, Viewer


def make_changes(sequences: list[int], to: int, after: int = 0) -> Changes:
    """Changes whose rows have only an id and a sequence."""
    rows = [[number, sequence] for number, sequence in enumerate(sequences)]
    run: Any = {"id": 7}
    return {
        "v": 1,
        "from": after,
        "to": to,
        "now": "2026-01-01T00:00:00Z",
        "run": run,
        "columns": ["id", "sequence"],
        "steps": rows,
    }


# ---- values -------------------------------------------------------------------------------------


def test_every_stored_column_is_a_field_of_a_step_run() -> None:
    """Rows are read by these names, so a renamed field shows here and not in a browser."""
    fields = {field.name for field in StepRun._meta.get_fields()}
    assert set(protocol.STORED_COLUMNS) <= fields
    assert len(set(protocol.SNAPSHOT_COLUMNS)) == len(protocol.SNAPSHOT_COLUMNS)


def test_times_are_utc_with_a_z() -> None:
    """Whatever zone a time comes in, it travels as UTC."""
    moment = datetime(2026, 1, 31, 13, 0, 0, 5, timezone(timedelta(hours=1)))
    assert iso(moment) == "2026-01-31T12:00:00.000005Z"
    assert iso(None) is None


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_numbers_that_json_does_not_know_become_null(number: float) -> None:
    """A browser's parser would refuse the whole frame for one NaN."""
    assert json.loads(encode({"a": [number, 1.5], "b": {"c": number}})) == {
        "a": [None, 1.5],
        "b": {"c": None},
    }


@pytest.mark.parametrize("text", ['{"ack":0}', ' {"ack": 12} ', f'{{"ack":{2**63 - 1}}}'])
def test_an_acknowledgement_is_read(text: str) -> None:
    """A whole number that the database can hold."""
    assert read_ack(text) == json.loads(text)["ack"]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "ack",
        "7",
        "[]",
        "{}",
        '{"ack":-1}',
        '{"ack":1.0}',
        '{"ack":true}',
        '{"ack":null}',
        '{"ack":"1"}',
        f'{{"ack":{2**63}}}',
        '{"ack":' + "9" * 5000 + "}",
        '{"ack":1,"cancel":2}',
        '{"cancel":1}',
        '{"ack":NaN}',
        "[" * 4000,
        '{"ack":1}' + " " * 4096,
        '"\ud800"',
    ],
)
def test_anything_else_is_no_acknowledgement(text: str | None) -> None:
    """Sockets understand one message."""
    assert read_ack(text) is None


# ---- frames -------------------------------------------------------------------------------------


def test_each_start_gets_the_rows_it_lacks() -> None:
    """One reading serves viewers that hold different sequences."""
    frames = changes_frames(make_changes([3, 4, 4, 6], to=6), {2, 3, 5}, row_limit=10)
    rows = {start: [row[1] for row in json.loads(text)["steps"]] for start, text in frames.items()}
    assert rows == {2: [3, 4, 4, 6], 3: [4, 4, 6], 5: [6]}
    assert {json.loads(text)["from"] for text in frames.values()} == {2, 3, 5}
    assert {json.loads(text)["to"] for text in frames.values()} == {6}


def test_a_change_without_rows_is_told() -> None:
    """A cancel request of the run changes no step, and must arrive all the same."""
    frames = changes_frames(make_changes([], to=6), {5}, row_limit=10)
    assert json.loads(frames[5])["steps"] == []


def test_whoever_holds_the_latest_gets_nothing() -> None:
    """There is nothing to tell."""
    assert changes_frames(make_changes([], to=6), {6}, row_limit=10) == {}


def test_whoever_holds_the_future_is_told_to_resync() -> None:
    """That happens after a database was restored from a backup."""
    assert changes_frames(make_changes([], to=6), {7}, row_limit=10) == {7: RESYNC_FRAME}


def test_whoever_lacks_too_much_is_told_to_resync() -> None:
    """A snapshot over HTTP is compressed, a frame is not."""
    frames = changes_frames(make_changes([2, 3, 4], to=4), {1, 2}, row_limit=2)
    assert frames[1] == RESYNC_FRAME
    assert len(json.loads(frames[2])["steps"]) == 2


# ---- the feed as a whole ------------------------------------------------------------------------

ROWS = range(6)
ROW_LIMIT = 4
rows_of = st.sets(st.sampled_from(ROWS))


class Database:
    """A run and its steps: what a transition writes and what the two readings see."""

    def __init__(self) -> None:
        self.sequence = 1
        self.rows = dict.fromkeys(ROWS, 1)
        self.is_over = False

    def change(self, rows: set[int]) -> None:
        self.sequence += 1
        self.rows.update(dict.fromkeys(rows, self.sequence))

    def changes(self, starts: set[int], meanwhile: set[int] | None) -> Changes:
        """The run is read first; `meanwhile` is changed before its steps are."""
        to = self.sequence
        if meanwhile is not None:
            self.change(meanwhile)
        after = min((start for start in starts if start < to), default=to)
        rows = sorted((number, row) for row, number in self.rows.items() if number > after)
        changes = make_changes([], to, after)
        changes["steps"] = [[row, number] for number, row in rows]
        return changes


class Client:
    """A browser, following docs/api.md."""

    def __init__(self) -> None:
        self.held = 0
        self.rows: dict[int, int] = {}

    def take_snapshot(self, database: Database, meanwhile: set[int] | None) -> None:
        held = database.sequence
        if meanwhile is not None:
            database.change(meanwhile)
        self.held, self.rows = held, dict(database.rows)

    def apply(self, frame: dict[str, Any]) -> None:
        if not frame["from"] <= self.held < frame["to"]:
            return
        for row, number in frame["steps"]:
            self.rows[row] = max(number, self.rows[row])
        self.held = frame["to"]


class Feed(RuleBasedStateMachine):
    """Changes, looks, deliveries, acknowledgements and reconnects in any order."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.database = Database()
        self.watch = RunWatch()
        self.client = Client()
        self.client.take_snapshot(self.database, None)
        self.acks: list[int] = []
        self.connect()

    def connect(self) -> None:
        self.watch.viewers.clear()
        self.acks.clear()
        self.viewer = Viewer(self.client.held)
        self.watch.viewers.add(self.viewer)

    @precondition(lambda self: not self.database.is_over)
    @rule(rows=rows_of)
    def change(self, rows: set[int]) -> None:
        self.database.change(rows)

    @precondition(lambda self: not self.database.is_over)
    @rule(rows=rows_of)
    def end(self, rows: set[int]) -> None:
        self.database.change(rows)
        self.database.is_over = True

    @rule(meanwhile=st.none() | rows_of, pause=st.sampled_from([0.0, 0.05, 0.1]))
    def look(self, meanwhile: set[int] | None, pause: float) -> None:
        self.now += pause
        status = RunStatus.SUCCEEDED if self.database.is_over else RunStatus.RUNNING
        if not self.watch.is_over:
            self.watch.saw(self.database.sequence, status)
        due = self.watch.due(self.now)
        if due:
            starts = {viewer.held for viewer in due}
            meanwhile = None if self.database.is_over else meanwhile
            changes = self.database.changes(starts, meanwhile)
            frames = changes_frames(changes, starts, row_limit=ROW_LIMIT)
            self.watch.flush(due, frames, changes["to"], self.now)

    @precondition(lambda self: not self.viewer.outbox.empty())
    @rule(meanwhile=st.none() | rows_of)
    def deliver(self, meanwhile: set[int] | None) -> None:
        text = self.viewer.outbox.get_nowait()
        assert isinstance(text, str)
        frame = json.loads(text)
        if frame["type"] == "resync":
            self.client.take_snapshot(self.database, None if self.database.is_over else meanwhile)
        else:
            self.client.apply(frame)
        self.acks.append(self.client.held)

    @precondition(lambda self: self.acks)
    @rule()
    def acknowledge(self) -> None:
        self.viewer.acknowledge(self.acks.pop(0))

    @rule()
    def reconnect(self) -> None:
        """Frames and acknowledgements on their way are lost."""
        self.connect()

    @invariant()
    def the_client_has_no_gap(self) -> None:
        """Every change up to what the client holds is in its rows."""
        for row, number in self.database.rows.items():
            assert self.client.rows[row] <= number
            if number <= self.client.held:
                assert self.client.rows[row] == number

    @invariant()
    def at_most_one_frame_is_on_its_way(self) -> None:
        assert self.viewer.outbox.qsize() + len(self.acks) <= 1

    def teardown(self) -> None:
        """Once everything is delivered, the client holds exactly what the database does."""
        for _ in range(6):
            self.look(None, 0.1)
            while not self.viewer.outbox.empty():
                self.deliver(None)
            while self.acks:
                self.acknowledge()
        assert self.client.rows == self.database.rows
        assert self.client.held == self.database.sequence


TestFeed = Feed.TestCase
TestFeed.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)


def test_the_end_of_a_run_does_not_wait_for_the_interval() -> None:
    """A final status is flushed at once; other changes wait for their turn."""
    watch, viewer = RunWatch(), Viewer(1)
    watch.viewers.add(viewer)
    watch.saw(2, RunStatus.RUNNING)
    watch.flush(watch.due(0.0), {1: "first"}, 2, 0.0)
    viewer.acknowledge(2)
    watch.saw(3, RunStatus.RUNNING)
    assert watch.due(0.05) == []
    watch.saw(4, RunStatus.FAILED)
    assert watch.due(0.05) == [viewer]


def test_a_stuck_viewer_is_dropped_after_a_minute() -> None:
    """Not earlier, and not one that owes nothing."""
    watch, stuck, idle = RunWatch(), Viewer(1), Viewer(1)
    watch.viewers |= {stuck, idle}
    watch.saw(2, RunStatus.RUNNING)
    watch.flush([stuck], {1: "frame"}, 2, 100.0)
    watch.drop_stuck(159.9)
    assert watch.viewers == {stuck, idle}
    watch.drop_stuck(160.0)
    assert watch.viewers == {idle}
    assert [stuck.outbox.get_nowait() for _ in range(2)] == ["frame", protocol.Close.STUCK]


def test_beats_do_not_pile_up() -> None:
    """A viewer that reads nothing for long finds one beat."""
    watch, viewer = RunWatch(), Viewer(1)
    watch.viewers.add(viewer)
    watch.saw(1, RunStatus.RUNNING)
    for now in range(0, 100, 10):
        watch.tell(float(now))
    assert viewer.outbox.qsize() == 1
    beat = viewer.outbox.get_nowait()
    assert isinstance(beat, str)
    assert json.loads(beat)["to"] == 1


def test_a_beat_of_a_queued_run_says_why_it_waits() -> None:
    """The reason changes without a change of the run."""
    watch, viewer = RunWatch(), Viewer(1)
    watch.viewers.add(viewer)
    watch.saw(1, RunStatus.QUEUED)
    watch.waiting = "no worker is running"
    watch.tell(0.0)
    beat = viewer.outbox.get_nowait()
    assert isinstance(beat, str)
    assert json.loads(beat)["waiting"] == "no worker is running"
