"""django-q2's cluster, made to survive kills and to leave nothing behind.

Processes: the parent (`manage.py worker`) → the sentinel → one per slot, which executes runs,
and two that carry messages. As shipped, the cluster stands still for ever when a process is
killed while it holds a lock, which idle ones always do; it hangs on a SIGTERM to its group; and
its orphans go on executing when the parent or the sentinel dies. So nothing here holds a lock
that others wait for, signals reach the parent alone, and every process dies with its parent.

What is replaced in django-q2: `cluster.Queue`, `Event`, `Sentinel` and `get_mp_context`, and the
settings in `_prepare`. The tests look whether all that is still there.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import select
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from multiprocessing import sharedctypes
from multiprocessing.context import ForkProcess
from typing import Any

from django.db import connections
from django_q import cluster as django_q_cluster
from django_q.conf import Conf
from django_q.signals import post_execute_in_worker, post_spawn, pre_execute

from . import lifeline
from .broker import JsonSerializer, broker
from .conf import conf
from .engine.processes import become_subreaper, kill_level, use_namespaces

logger = logging.getLogger(__name__)

CLEAN, BROKEN, FORCED = 0, 3, 4
"""Exit codes of a worker: ended as told; its sentinel died; ended by force."""

FORCE_AFTER_DRAIN_SECONDS = 10.0
"""After the drain time: for ending the steps that are left and handing the runs back."""
LOST_SECONDS = 5.0
"""A hint that no process took up for so long went down with the process that had received it."""
TICK_SECONDS = 0.05

_json = JsonSerializer()


class Board:
    """What the processes of one cluster tell each other, in shared memory without locks.

    Each value has one writer at a time, and to read it late does no harm.
    """

    def __init__(self, slots: int) -> None:
        self.stopping = sharedctypes.RawValue(ctypes.c_bool, False)
        self.busy = sharedctypes.RawArray(ctypes.c_bool, slots)
        self.handed_at = sharedctypes.RawValue(ctypes.c_double, 0.0)
        """When a hint went to the processes that none has taken up yet; 0: there is none."""
        self.kill_level = sharedctypes.RawArray(ctypes.c_char, 40)
        """What the executing processes can promise; empty until one has said so."""
        self.slot = 0
        """Not shared: the slot of this process, or of the next one that the sentinel starts."""

    def may_take(self) -> bool:
        """Whether a slot is free for a hint. A busy worker leaves hints to idle ones elsewhere."""
        if time.monotonic() - self.handed_at.value < LOST_SECONDS:
            return False
        return not all(self.busy)

    def on_take(self) -> None:
        self.handed_at.value = time.monotonic()

    def on_spawn(self, **_: Any) -> None:
        become_subreaper()
        if conf.PID_NAMESPACES:
            use_namespaces()
        self.kill_level.value = kill_level().encode()

    def on_execute(self, **_: Any) -> None:
        self.busy[self.slot] = True
        self.handed_at.value = 0.0

    def on_executed(self, **_: Any) -> None:
        self.busy[self.slot] = False


_board: Board | None = None


def stopping() -> bool:
    """Whether this worker was told to stop: claim nothing more, finish or hand back."""
    return _board is not None and bool(_board.stopping.value)


def promised_kill_level() -> str:
    """How sure it is that nothing of a step survives here; empty before that is known."""
    return _board.kill_level.value.decode() if _board is not None else ""


def recycle_after_this_run() -> None:
    """Replace this process when the current run is done: it may hold a thread that never ends."""
    # The limit of resident memory, in KiB, above which django-q2 recycles a process.
    Conf.MAX_RSS = 1


class MessageQueue:
    """Stands in for a multiprocessing queue: a datagram is written whole and read by one reader.

    Messages are JSON and far smaller than the datagrams that every system allows.
    """

    LIMIT_BYTES = 64 * 1024

    def __init__(self, maxsize: int = 0) -> None:
        self._reader, self._writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)

    def put(self, message: Any) -> None:
        self._writer.send(_json.dumps(message))

    def get(self) -> Any:
        return _json.loads(self._reader.recv(self.LIMIT_BYTES))

    def empty(self) -> bool:
        return not select.select([self._reader], [], [], 0)[0]

    def qsize(self) -> int:
        return int(not self.empty())

    def __del__(self) -> None:
        self._reader.close()
        self._writer.close()

    def close(self) -> None:
        """Nothing to do: what was put has yet to be read."""

    def join_thread(self) -> None:
        """Nothing to do: what was put is already with the kernel."""


class Flag:
    """Stands in for a multiprocessing event."""

    def __init__(self) -> None:
        self._value = sharedctypes.RawValue(ctypes.c_bool, False)

    def set(self) -> None:
        self._value.value = True

    def is_set(self) -> bool:
        return bool(self._value.value)

    def wait(self, timeout: float) -> bool:
        deadline = time.monotonic() + timeout
        while not self.is_set() and time.monotonic() < deadline:
            time.sleep(TICK_SECONDS)
        return self.is_set()


class Timer(ctypes.c_float):
    """Stands in for the countdown of a process; nothing times out here."""

    def get_lock(self) -> AbstractContextManager[None]:
        return nullcontext()


class ClusterProcess(ForkProcess):
    """A process of the cluster: it dies with its parent and with nothing that a step left."""

    def run(self) -> None:
        parent = multiprocessing.parent_process()
        if parent is not None and parent.pid is not None:
            # A cluster forks in main threads alone, so this is the death of the process.
            lifeline.follow_parent(parent.pid, signal.SIGKILL)
        _ignore_signals()
        code = 1
        try:
            super().run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            for child in multiprocessing.active_children():
                child.kill()
            sys.stdout.flush()
            sys.stderr.flush()
            # A normal end would wait for threads that steps left behind.
            os._exit(code)


class ForkContext:
    """Stands in for the multiprocessing context from which django-q2 takes its processes."""

    Process = ClusterProcess


class Sentinel(django_q_cluster.Sentinel):  # type: ignore[misc]
    """The sentinel, which also gives each executing process its slot on the board."""

    board: Board

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs, start=False)
        # Its constructor restores what a signal to the whole group would kill it by.
        _ignore_signals()
        self.start()

    def spawn_worker(self) -> None:
        taken = {process.slot for process in self.pool}
        self.board.slot = next(slot for slot in range(self.pool_size) if slot not in taken)
        self.spawn_process(
            django_q_cluster.worker,
            self.task_queue,
            self.result_queue,
            sharedctypes.RawValue(Timer, -1),
            self.timeout,
        )
        self.pool[-1].slot = self.board.slot

    def reincarnate(self, process: Any) -> None:
        if process in self.pool:
            self.board.busy[process.slot] = False
        super().reincarnate(process)


class Cluster(django_q_cluster.Cluster):  # type: ignore[misc]
    """The parent's handle on the cluster. Its signal handler only notes that it was asked."""

    def __init__(self) -> None:
        self.asked = 0
        super().__init__(broker())
        signal.signal(signal.SIGHUP, self.sig_handler)

    def sig_handler(self, signum: int, frame: object) -> None:
        self.asked += 1


def run(slots: int, *, once_forked: Callable[[], None] = lambda: None) -> int:
    """Run a cluster that executes `slots` runs at once, until a signal; returns the exit code.

    `once_forked` may start threads in this process: one that ran earlier would be forked in the
    middle of what it does. To be called in the main thread, once per process.
    """
    board = _prepare(slots)
    connections.close_all()
    cluster = Cluster()
    try:
        cluster.start()
    except RuntimeError as error:
        logger.critical("%s", error)
        return BROKEN
    once_forked()
    while not cluster.asked and cluster.sentinel.is_alive():
        time.sleep(TICK_SECONDS)
    board.stopping.value = True
    return _stop(cluster)


def _prepare(slots: int) -> Board:
    global _board
    django_q_cluster.Queue = MessageQueue
    django_q_cluster.Event = Flag
    django_q_cluster.Sentinel = Sentinel
    django_q_cluster.get_mp_context = ForkContext
    Conf.WORKERS = slots
    _board = Sentinel.board = board = Board(slots)
    post_spawn.connect(board.on_spawn, weak=False)
    pre_execute.connect(board.on_execute, weak=False)
    post_execute_in_worker.connect(board.on_executed, weak=False)
    queue = broker()
    queue.may_take, queue.on_take = board.may_take, board.on_take
    return board


def _stop(cluster: Cluster) -> int:
    """End the cluster: after the drain time, or at the second signal, by force."""
    deadline = time.monotonic() + conf.DRAIN_SECONDS + FORCE_AFTER_DRAIN_SECONDS
    cluster.stop_event.set()
    while cluster.sentinel.is_alive() and time.monotonic() < deadline and cluster.asked < 2:
        time.sleep(TICK_SECONDS)
    if cluster.sentinel.is_alive():
        logger.warning("This worker ends by force. Runs that it held will be taken up again.")
        # The others die with it.
        cluster.sentinel.kill()
        cluster.sentinel.join()
        return FORCED
    if not cluster.asked or cluster.sentinel.exitcode:
        logger.critical("The sentinel of this worker died. The worker ends, to be started again.")
        return BROKEN
    return CLEAN


def _ignore_signals() -> None:
    """Only the parent acts on signals; those that reach the whole group change nothing here.

    A handler, not SIG_IGN: the commands of steps would inherit that.
    """
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, _do_nothing)


def _do_nothing(signum: int, frame: object) -> None:
    pass
