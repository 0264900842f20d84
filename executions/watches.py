"""Who looks at what, and when they hear of it. Plain bookkeeping: no database and no task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping

from django.utils import timezone

from .engine.status import FINAL_RUN_STATUSES, RunStatus
from .protocol import Close, Table, beat_frame, iso, table_frame

FLUSH_SECONDS = 0.1
"""Between two frames about a run; its end is told at once."""
TABLE_FLUSH_SECONDS = 0.5
TABLE_REFRESH_SECONDS = 2.0
"""Workers come and go, reasons to wait change and ended runs fade without a change of any run."""
BEAT_SECONDS = 10.0
ACKNOWLEDGE_SECONDS = 60.0


class Viewer:
    """One socket: what it holds and whether it may get another frame."""

    def __init__(self, held: int) -> None:
        self.held = held
        """The sequence up to which it knows everything."""
        self.unacknowledged_since: float | None = None
        self.outbox: asyncio.Queue[str | Close] = asyncio.Queue()

    @property
    def is_ready(self) -> bool:
        return self.unacknowledged_since is None

    def send(self, frame: str, now: float) -> None:
        self.unacknowledged_since = now
        self.outbox.put_nowait(frame)

    def acknowledge(self, held: int) -> None:
        self.held = held
        self.unacknowledged_since = None

    def beat(self, frame: str) -> None:
        if self.outbox.empty():
            self.outbox.put_nowait(frame)

    def is_stuck(self, now: float) -> bool:
        since = self.unacknowledged_since
        return since is not None and now - since >= ACKNOWLEDGE_SECONDS

    def close(self, code: Close) -> None:
        self.outbox.put_nowait(code)


class Watch:
    """Something that changes, with everybody who looks at it. Knows nothing of the database."""

    def __init__(self, interval: float) -> None:
        self.interval = interval
        """Seconds between two flushes."""
        self.viewers: set[Viewer] = set()
        self.sequence: int | None = None
        """Of the last change that was seen; None before the first look."""
        self.is_urgent = False
        self._flushed_at = float("-inf")
        self._beat_at = float("-inf")

    def due(self, now: float) -> list[Viewer]:
        """Who gets a frame now."""
        if self.sequence is None or not (self.is_urgent or now - self._flushed_at >= self.interval):
            return []
        return [item for item in self.viewers if item.is_ready and item.held != self.sequence]

    def flush(
        self, due: Collection[Viewer], frames: Mapping[int, str], to: int, now: float
    ) -> None:
        """Send each of `due` the frame for what it holds; `to` is what it will hold then."""
        self.sequence = to
        self.is_urgent = False
        self._flushed_at = now
        for viewer in due:
            frame = frames.get(viewer.held)
            # It may have left or acknowledged something newer while the frames were made.
            if frame is not None and viewer in self.viewers and viewer.is_ready:
                viewer.send(frame, now)

    def beat(self, now: float, frame: Callable[[int], str], *, at_once: bool = False) -> None:
        """Show every viewer that the connection lives, if it is time for that."""
        if self.sequence is None or not (at_once or now - self._beat_at >= BEAT_SECONDS):
            return
        self._beat_at = now
        text = frame(self.sequence)
        for viewer in self.viewers:
            viewer.beat(text)

    def drop_stuck(self, now: float) -> None:
        for viewer in [item for item in self.viewers if item.is_stuck(now)]:
            self.drop(viewer, Close.STUCK)

    def drop_all(self, code: Close) -> None:
        for viewer in list(self.viewers):
            self.drop(viewer, code)

    def drop(self, viewer: Viewer, code: Close) -> None:
        self.viewers.discard(viewer)
        viewer.close(code)


class RunWatch(Watch):
    """A watched run."""

    def __init__(self) -> None:
        super().__init__(FLUSH_SECONDS)
        self.status = ""
        self.waiting: str | None = None
        """Why it is queued, as it was last told."""

    @property
    def is_over(self) -> bool:
        """Nothing about the run will change any more."""
        return self.status in FINAL_RUN_STATUSES

    @property
    def is_settled(self) -> bool:
        """It is over, and every viewer knows all of it."""
        return self.is_over and all(viewer.held == self.sequence for viewer in self.viewers)

    @property
    def is_queued(self) -> bool:
        return self.status == RunStatus.QUEUED

    def saw(self, sequence: int, status: str) -> None:
        if status in FINAL_RUN_STATUSES and not self.is_over:
            self.is_urgent = True
        self.sequence, self.status = sequence, status

    def tell(self, now: float, *, at_once: bool = False) -> None:
        waiting = self.waiting if self.is_queued else None
        self.beat(now, lambda to: beat_frame(_now(), to, waiting), at_once=at_once)


class TableWatch(Watch):
    """The table of the dashboard. It has no sequence of its own: its versions are counted here."""

    def __init__(self) -> None:
        super().__init__(TABLE_FLUSH_SECONDS)
        self.table: Table | None = None
        self._seen: object = None
        self._read_at = float("-inf")

    def is_outdated(self, seen: object, now: float) -> bool:
        age = now - self._read_at
        changed = seen != self._seen and age >= self.interval
        return changed or age >= TABLE_REFRESH_SECONDS

    def read(self, table: Table, seen: object, now: float) -> None:
        if self.table is None or {**table, "now": ""} != {**self.table, "now": ""}:
            self.sequence = (self.sequence or 0) + 1
        self.table, self._seen, self._read_at = table, seen, now

    def send(self, now: float) -> None:
        """Send the table to those who have another version of it, if it is time for that."""
        due = self.due(now)
        if due and self.table is not None and self.sequence is not None:
            # It may have been read a while ago, but viewers set their clocks by `now`.
            frame = table_frame({**self.table, "now": _now()}, self.sequence)
            self.flush(due, {viewer.held: frame for viewer in due}, self.sequence, now)

    def tell(self, now: float) -> None:
        self.beat(now, lambda to: beat_frame(_now(), to))


def _now() -> str:
    return iso(timezone.now()) or ""
