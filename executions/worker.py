"""The Django side of the engine: takes a run, carries its changes to the database, lets it go.

The coordinator runs in the calling thread. The writer is the only thread that touches the
database for it, and commits whatever has gathered while the last commit was under way.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import NamedTuple, TypeVar

from django.conf import settings
from django.db import (
    DatabaseError,
    DataError,
    IntegrityError,
    InterfaceError,
    connection,
    connections,
)
from django.utils import timezone

from steps.registry import registry

from . import cluster, dispatch, transitions
from .conf import conf
from .engine import crash_points
from .engine.coordinator import Before, Coordinator, Result
from .engine.executors import ExecutorRegistry, ExecutorSettings, default_executors
from .engine.output import Masker, StepOutput
from .engine.ports import (
    CancelSeen,
    Change,
    Committed,
    End,
    Event,
    Fenced,
    Finish,
    HandBack,
    ShutDown,
    Start,
    Sweep,
)
from .engine.status import StepStatus
from .identity import process_identity
from .models import Run, RunQuerySet
from .transitions import FencedError, Group, Lease, LogPiece

T = TypeVar("T")

logger = logging.getLogger(__name__)

OUTAGES = (DatabaseError, InterfaceError)
LOOK_SECONDS = 0.1
"""How often the writer looks for cancel requests while it has nothing to commit."""
OUTPUT_AT_ONCE = 4 * 1024 * 1024
"""Bytes of output after which a commit takes no more: each is a beat, so none may take long."""
BEAT_SECONDS = 2.0
SELF_FENCE_SECONDS = 15.0
"""Without a committed beat for so long, another host may soon rescue the run."""
WATCH_SECONDS = 0.5
"""How often the watchdog looks whether that time is over."""


def execute(run_id: int) -> bool:
    """Claim a run and run it to its end; whether it was to be had."""
    if cluster.stopping():
        return False  # the next worker hears of the run from its first sweep
    holder = process_identity()
    crash_points.passing("claim_begun")
    try:
        lease = transitions.claim_run(run_id, holder)
    except OUTAGES:
        # The claim may be committed all the same, without anybody to act on it.
        _surrender(Run.objects.filter(pk=run_id, holder=holder), proven=True)
        raise
    if lease is None:
        return False
    carry_out(lease)
    return True


def carry_out(lease: Lease) -> None:
    """Run a claimed run to its end, or until this worker loses it or is told to stop."""
    crash_points.passing("claim_committed")
    logger.info("run %s: claimed, epoch %s", lease.run_id, lease.epoch)
    held = Run.objects.filter(pk=lease.run_id, epoch=lease.epoch)
    try:
        run = held.select_related("input").get()
        rows = _rows(run)
        coordinator = Coordinator(
            run.input.load_plan(), run_id=run.pk, executors=executors(), before=_before(rows)
        )
        result = _coordinate(coordinator, Writer(lease, rows, coordinator.post))
    except BaseException:
        cluster.recycle_after_this_run()
        _surrender(held, proven=False)
        raise
    if result is Result.FENCED:
        _surrender(held, proven=not coordinator.abandoned)
    if coordinator.abandoned:
        cluster.recycle_after_this_run()
    logger.info("run %s: %s", run.pk, result)
    _insist(lambda: _hint_next(run))


def _coordinate(coordinator: Coordinator, writer: Writer) -> Result:
    writer.start()
    try:
        return coordinator.run(writer)
    finally:
        writer.close()


class Row(NamedTuple):
    """Where a step run stands in the record."""

    pk: int
    status: str
    attempt: int
    reason: str
    retry_at: datetime | None
    log_size: int


def _rows(run: Run) -> list[Row]:
    # Model objects would cost 20 microseconds a row, where a short step takes 200 in all.
    found = run.step_runs.order_by("position").values_list(*Row._fields)
    return [Row(*row) for row in found]


def _before(rows: Sequence[Row]) -> list[Before]:
    now = timezone.now()
    return [
        Before(
            status=StepStatus(row.status),
            attempt=row.attempt,
            reason=row.reason,
            retry_in=max(0.0, (row.retry_at - now).total_seconds()) if row.retry_at else 0.0,
            death_unproven=row.reason == transitions.WORKER_LOST,
        )
        for row in rows
    ]


def _surrender(held: RunQuerySet, *, proven: bool) -> None:
    """Give up a run that this process still holds on paper but cannot go on with.

    Nobody else would take it: this process lives. So it is tried until the database answers.
    """

    def give_up() -> None:
        for pk, epoch, beat in held.running().values_list("pk", "epoch", "beat"):
            transitions.rescue_run(pk, epoch=epoch, beat=beat, proven=proven)

    _insist(give_up)


def _insist(ask: Callable[[], T], on_failure: Callable[[], None] = lambda: None) -> T:
    """Repeat a query until the database takes it: a locked or restarted one comes back."""
    pause = 0.05
    while True:
        try:
            return ask()
        except (IntegrityError, DataError):
            raise  # what the database refuses today it refuses for ever
        except OUTAGES as error:
            logger.warning("the database does not take it, trying again: %s", error)
            connection.close()
            on_failure()
            time.sleep(pause)
            pause = min(1.0, 2 * pause)


def _hint_next(run: Run) -> None:
    """The next run of the batch may have waited for this one."""
    if run.batch_id is None:
        return
    waiting = Run.objects.queued().filter(batch_id=run.batch_id).order_by("pk")
    following = waiting.values_list("pk", flat=True).first()
    if following is not None:
        dispatch.hint(following)


@cache
def executors() -> ExecutorRegistry:
    """The executors of this process, one for each kind of step."""
    manage = [sys.executable, str(Path(settings.BASE_DIR) / "manage.py")]
    return default_executors(
        ExecutorSettings(
            resolve=registry.get,
            manage=manage,
            isolated=[*manage, "isolated_step"],
            work_dir=settings.DATA_DIR / "work",
            http_allowed_hosts=conf.HTTP_ALLOWED_HOSTS,
            secret=_secret,
            environment=_environment(conf.STEP_ENVIRONMENT),
            management_environment=_environment(
                (*conf.STEP_ENVIRONMENT, *conf.MANAGEMENT_ENVIRONMENT)
            ),
            connection_cleanup=connections.close_all,
        )
    )


def _secret(name: str) -> str:
    """A secret of the worker's environment. Raises `KeyError` with the variable's name."""
    return os.environ[conf.SECRET_PREFIX + name]


def secrets() -> list[str]:
    """All that `_secret` may give away."""
    return [value for name, value in os.environ.items() if name.startswith(conf.SECRET_PREFIX)]


def _environment(names: Iterable[str]) -> dict[str, str]:
    return {name: os.environ[name] for name in names if name in os.environ}


class Writer:
    """The journal of one run: a thread that commits groups of changes, beats, and reads facts."""

    def __init__(self, lease: Lease, rows: Sequence[Row], post: Callable[[Event], None]) -> None:
        self._lease = lease
        self._ids = [row.pk for row in rows]
        self._log_sizes = [row.log_size for row in rows]
        self._post = post
        self._log_limit, self._line_limit = conf.LOG_LIMIT_BYTES, conf.LOG_LINE_LIMIT_BYTES
        self._queue: SimpleQueue[list[Change] | None] = SimpleQueue()
        self._outputs: dict[int, StepOutput] = {}
        self._dirty: set[int] = set()
        self._progress: dict[int, float] = {}
        self._masker = Masker()
        self._next_beat = self._last_look = self._last_beat = time.monotonic()
        self._stop_seen = False
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._work, name="writer", daemon=True)

    def start(self) -> None:
        if self._lease.cancels.mode or self._lease.cancels.step_ids:
            self._report_cancels()
        self._thread.start()
        if connection.vendor != "sqlite":
            # One machine uses a database in a file, and sees whether a process lives.
            threading.Thread(target=self._watch, name="watchdog", daemon=True).start()

    def close(self) -> None:
        """Commit what is left and end the threads."""
        self._queue.put(None)
        self._thread.join()
        self._closed.set()

    # ---- Journal: called by the coordinator and by slot threads ----------------------------

    def record(self, changes: list[Change]) -> None:
        self._queue.put(changes)

    def output(self, position: int) -> StepOutput:
        output = StepOutput(
            limit=max(0, self._log_limit - self._log_sizes[position]),
            line_limit=self._line_limit,
            mask=self._masker,
            on_dirty=lambda: self._dirty.add(position),
        )
        self._outputs[position] = output
        return output

    def progress(self, position: int, fraction: float) -> None:
        self._progress[position] = fraction

    # ---- the threads -----------------------------------------------------------------------

    def _watch(self) -> None:
        """Fence the run when it is time, also while the writer hangs in a call that never ends."""
        while not self._closed.wait(WATCH_SECONDS):
            if self._is_silent:
                logger.warning("run %s: no beat could be committed in time", self._lease.run_id)
                self._post(Fenced())
                return

    @property
    def _is_silent(self) -> bool:
        return time.monotonic() - self._last_beat > SELF_FENCE_SECONDS

    def _work(self) -> None:
        try:
            while True:
                changes, closing = self._gather()
                group = self._group(changes)
                self._commit(group)
                if closing or group.end is not None:
                    return
                self._keep_alive()
        except FencedError:
            logger.warning("run %s: fenced, epoch %s", self._lease.run_id, self._lease.epoch)
            self._post(Fenced())
        except Exception:
            logger.exception("run %s: the writer failed", self._lease.run_id)
            self._post(Fenced())
        finally:
            connection.close()

    def _gather(self) -> tuple[list[Change], bool]:
        """Everything that waits; at most `LOOK_SECONDS` until something does."""
        gathered: list[Change] = []
        try:
            item = self._queue.get(timeout=LOOK_SECONDS)
            # What was committed last may end at once: threads that are ready to say so go first,
            # because one commit of four steps costs little more than one of two.
            time.sleep(0)
            while item is not None:
                gathered += item
                item = self._queue.get_nowait()
        except Empty:
            return gathered, False
        return gathered, True

    def _group(self, changes: list[Change]) -> Group:
        group = Group()
        for change in changes:
            match change:
                case Finish():
                    group.finishes.append(change)
                case Start():
                    group.starts.append(change)
                case Sweep():
                    group.sweeps.append(change)
                case End() | HandBack():
                    group.end = change
        room = OUTPUT_AT_ONCE
        while self._dirty and room > 0:
            room -= self._take_output(self._dirty.pop(), group)
        for finish in group.finishes:
            if finish.outcome.abandoned:
                self._outputs[finish.position].close()
            self._take_output(finish.position, group)
            self._outputs.pop(finish.position, None)
        while self._progress:
            position, fraction = self._progress.popitem()
            group.progress[self._ids[position]] = fraction
        return group

    def _take_output(self, position: int, group: Group) -> int:
        """Add all that an output has ready; how many bytes that are."""
        output, before = self._outputs.get(position), self._log_sizes[position]
        while output and (data := output.take()):
            piece = LogPiece(self._ids[position], self._log_sizes[position], data)
            group.logs.append(piece)
            self._log_sizes[position] += len(data)
        return self._log_sizes[position] - before

    def _commit(self, group: Group) -> None:
        if not any((group.finishes, group.starts, group.sweeps, group.end)) and not (
            group.logs or group.progress
        ):
            return
        known = self._lease.cancels
        recorded = self._beating(lambda: transitions.record(self._lease, group, self._ids))
        if self._lease.cancels is not known:
            self._report_cancels()
        if recorded.started or recorded.refused or group.end:
            ended = group.end is not None
            self._post(Committed(recorded.started, recorded.refused, ended))

    def _keep_alive(self) -> None:
        """Beat or look for facts when it is time, and pass on what was found.

        A commit sees facts by itself, so there is no need to look after one.
        """
        known, now = self._lease.cancels, time.monotonic()
        if now >= self._next_beat:
            self._beating(lambda: transitions.beat(self._lease))
            self._next_beat = now + BEAT_SECONDS
        elif now - self._last_look >= LOOK_SECONDS / 2:
            _insist(lambda: transitions.look(self._lease), self._fence_if_silent)
            self._last_look = time.monotonic()
        if self._lease.cancels is not known:
            self._report_cancels()
        if cluster.stopping() and not self._stop_seen:
            self._stop_seen = True
            self._post(ShutDown(conf.DRAIN_SECONDS))

    def _report_cancels(self) -> None:
        positions = {pk: position for position, pk in enumerate(self._ids)}
        cancels = self._lease.cancels
        self._post(CancelSeen(cancels.mode, frozenset(positions[pk] for pk in cancels.step_ids)))

    def _beating(self, write: Callable[[], T]) -> T:
        """Make a change that raises the beat."""

        def written() -> tuple[float, T]:
            # Others may have seen the new beat from now on, not only when the answer is here.
            return time.monotonic(), write()

        self._last_beat, result = _insist(written, self._fence_if_silent)
        self._last_look = time.monotonic()
        return result

    def _fence_if_silent(self) -> None:
        if connection.vendor != "sqlite" and self._is_silent:
            raise FencedError(self._lease.run_id)
