"""Tells the sockets of a web process what changed. It asks the database only while somebody looks.

One relay per event loop. It polls the sequences of the watched runs and reads what changed once
for all viewers. A viewer gets its next frame only after it has acknowledged the last: the server
below would buffer without bound for a browser tab that stopped reading. A slow viewer thus gets
fewer, fatter frames, and one that is stuck is closed.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar
from weakref import WeakKeyDictionary

from django.db import DatabaseError, InterfaceError, connections

from . import queries
from .conf import conf
from .models import Run
from .protocol import Close, changes_frames
from .watches import RunWatch, TableWatch, Viewer, Watch

logger = logging.getLogger(__name__)

WAITING_SECONDS = 1.0
"""Between two looks at why queued runs wait, which changes without a change of the run."""
BACKOFF_LIMIT_SECONDS = 1.0
SETTLED_SECONDS = 1.0
"""Between two looks while everything that is watched is over and told."""
ROW_LIMIT = 5000
"""Rows of a frame. A viewer that lacks more is better off with a compressed snapshot."""

T = TypeVar("T")


class Relay:
    """The watches of one event loop and the task that serves them."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._runs: dict[int, RunWatch] = {}
        self._table: TableWatch | None = None
        self._task: asyncio.Task[None] | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._awake = asyncio.Event()
        self._waiting_asked_at = float("-inf")

    # ---- for consumers

    def watch_run(self, run_id: int, held: int) -> Viewer:
        """A viewer that holds everything up to sequence `held` of a run."""
        return self._join(self._runs.setdefault(run_id, RunWatch()), Viewer(held))

    def watch_table(self) -> Viewer:
        """A viewer of the table of active runs."""
        if self._table is None:
            self._table = TableWatch()
        return self._join(self._table, Viewer(held=0))

    def leave(self, viewer: Viewer) -> None:
        for watch in self._watches():
            watch.viewers.discard(viewer)
        self._forget_the_unwatched()

    def wake(self) -> None:
        """Look now instead of after the usual pause.

        Polling alone is complete. A message bus that tells of changes only has to call this.
        """
        self._awake.set()

    @property
    def is_polling(self) -> bool:
        return self._task is not None

    # ---- the task

    def _join(self, watch: Watch, viewer: Viewer) -> Viewer:
        watch.viewers.add(viewer)
        if self._task is None:
            self._task = asyncio.create_task(self._serve(), name="relay")
        self.wake()
        return viewer

    def _watches(self) -> list[RunWatch | TableWatch]:
        return [*self._runs.values(), *([self._table] if self._table else [])]

    def _forget_the_unwatched(self) -> None:
        self._runs = {run_id: watch for run_id, watch in self._runs.items() if watch.viewers}
        if self._table is not None and not self._table.viewers:
            self._table = None
        if not self._watches():
            self.wake()  # to end

    async def _serve(self) -> None:
        self._thread = ThreadPoolExecutor(1, "relay")
        failures = 0
        try:
            while self._watches():
                try:
                    await self._look()
                    if failures:
                        logger.info("The live view goes on")
                    failures = 0
                    await self._pause()
                except Exception as error:
                    failures += 1
                    await self._recover(error, failures)
        finally:
            self._thread.submit(_close_connections)
            self._thread.shutdown(wait=False)
            self._task = None

    async def _recover(self, error: Exception, failures: int) -> None:
        """Log the first of several failures and wait; viewers get no beat meanwhile."""
        if failures == 1:
            is_bug = not isinstance(error, DatabaseError | InterfaceError)
            logger.error("The live view pauses: %s", error, exc_info=is_bug)
        await self._ask(_close_connections)
        await asyncio.sleep(min(BACKOFF_LIMIT_SECONDS, conf.POLL_SECONDS * 2 ** min(failures, 10)))

    async def _pause(self) -> None:
        """Until the next look. The one place where wake-ups come in."""
        settled = self._table is None and all(watch.is_settled for watch in self._runs.values())
        with suppress(TimeoutError):
            async with asyncio.timeout(SETTLED_SECONDS if settled else conf.POLL_SECONDS):
                await self._awake.wait()
        self._awake.clear()

    async def _ask(self, question: Callable[..., T], *arguments: object) -> T:
        """Run a query in the one thread that the relay keeps for that.

        The threads of the views would make every viewer wait for the slowest page.
        """
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._thread, question, *arguments)

    async def _look(self) -> None:
        await self._look_at_runs()
        await self._look_at_waiting()
        await self._look_at_table()
        now = self._clock()
        for watch in self._watches():
            watch.tell(now)
            watch.drop_stuck(now)
        self._forget_the_unwatched()

    async def _look_at_runs(self) -> None:
        polled = [run_id for run_id, watch in self._runs.items() if not watch.is_over]
        if polled:
            known = await self._ask(queries.sequences, polled)
            for run_id in polled:
                self._note(run_id, known.get(run_id))
        for run_id, watch in list(self._runs.items()):
            if due := watch.due(self._clock()):
                starts = {viewer.held for viewer in due}
                made = await self._ask(_frames, run_id, starts)
                if made is None:
                    watch.drop_all(Close.GONE)
                else:
                    watch.flush(due, *made, self._clock())

    def _note(self, run_id: int, known: tuple[int, str] | None) -> None:
        watch = self._runs.get(run_id)
        if watch is None:  # its last viewer left meanwhile
            return
        if known is None:
            watch.drop_all(Close.GONE)
        else:
            watch.saw(*known)

    async def _look_at_waiting(self) -> None:
        now = self._clock()
        queued = {run_id: watch for run_id, watch in self._runs.items() if watch.is_queued}
        if not queued or now - self._waiting_asked_at < WAITING_SECONDS:
            return
        self._waiting_asked_at = now
        reasons = await self._ask(queries.waiting_reasons, list(queued))
        for run_id, reason in reasons.items():
            watch = queued[run_id]
            if watch.waiting != reason:
                watch.waiting = reason
                watch.tell(now, at_once=True)

    async def _look_at_table(self) -> None:
        watch = self._table
        if watch is None:
            return
        seen = await self._ask(queries.active_sequences)
        now = self._clock()
        if watch.is_outdated(seen, now):
            watch.read(await self._ask(queries.active_runs), seen, now)
        watch.send(now)


def _frames(run_id: int, starts: Collection[int]) -> tuple[dict[int, str], int] | None:
    """A frame for each of `starts` and the sequence that they lead to; None without such a run."""
    try:
        changes = queries.changes_after_any(run_id, starts)
    except Run.DoesNotExist:
        return None
    return changes_frames(changes, starts, row_limit=ROW_LIMIT), changes["to"]


def _close_connections() -> None:
    with suppress(Exception):
        connections.close_all()


_relays: WeakKeyDictionary[asyncio.AbstractEventLoop, Relay] = WeakKeyDictionary()


def current_relay() -> Relay:
    """The relay of the running event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _relays:
        _relays[loop] = Relay()
    return _relays[loop]
