"""The processes below the worker: which are whose, and whether any is left.

On Linux each command leads a session of its own, carries a cookie in its environment and a mark
among its limits, and the worker is the subreaper of everything below it: when a process of a step
ends, its children come to the worker. So nothing can slip away by `setsid`, by a double fork or by
ignoring SIGTERM, and "no process is left" can be seen instead of guessed. What the kernel does not
tie to the step any more, such as a container started by a daemon, is out of reach.

An orphan that carries no sign of any command is left alone, even if just one command runs: Python
steps and libraries of the worker start processes as well, maybe long ago, and a stranger must
never be ended for a step. It only keeps a cancel from being proven. One of a command itself is
without a sign if it has shed all that a daemon sheds within the first moment, before the worker
could mark the command, or if it has changed that very limit. A PID namespace knows its own.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

from . import namespaces
from .namespaces import Namespace
from .reaper import (
    COOKIE,
    Process,
    Sweep,
    cookie,
    link,
    mark,
    mark_of,
    outputs,
    process,
    processes,
    read,
    set_mark,
)

_PR_SET_CHILD_SUBREAPER = 36
_OOM_SCORE = b"500"
"""Added to the share of memory in ‰ by which the kernel chooses its victim."""


class KillLevel(StrEnum):
    """How sure it is that nothing of a step survives."""

    PID_NAMESPACE = "pid_namespace"
    """Certain, and at once: the kernel ends all that a step started, and says so."""
    SUBREAPER = "subreaper"
    """Certain or said to be not: the kernel hands every orphan of a step to the worker."""
    SWEEP = "sweep"
    """Orphans are found by session and cookie in /proc; one that sheds both escapes."""
    GROUP = "group"
    """Only the process group is ended; whoever leaves it escapes. No Linux, or no /proc."""


_starting = threading.Lock()
"""Held while the main thread starts a child: nobody seems to own it until its pid is known."""
_owned: set[int] = set()
"""Children that a Popen object of the engine will wait for."""
_subreaper = 0
"""The pid of the process that became a subreaper; a fork of it did not."""


def become_subreaper() -> bool:
    """Let the kernel hand the orphans of every step to this process. Once per worker process.

    In the main thread it also sees to it that commands start with the usual SIGINT and SIGTERM:
    an ignored signal is inherited, a handled one is not.
    """
    global _subreaper
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) is signal.SIG_IGN:
                signal.signal(number, lambda *_: None)
    if sys.platform == "linux" and Path(_own_children()).exists():
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0:
            _subreaper = os.getpid()
    return _subreaper == os.getpid()


def kill_level() -> KillLevel:
    """What this process can promise about the end of a step."""
    return KillLevel.PID_NAMESPACE if namespaces.are_enabled() else _level_without_namespace()


def _level_without_namespace() -> KillLevel:
    if _subreaper == os.getpid():
        return KillLevel.SUBREAPER
    return KillLevel.SWEEP if Path("/proc/self/environ").exists() else KillLevel.GROUP


class _Child(subprocess.Popen[bytes]):
    """Tells its pid as early as can be: Popen goes on to wait until the program has begun."""

    def __init__(self, argv: Any, *, on_pid: Callable[[int], None], **options: Any) -> None:
        self._on_pid = on_pid
        super().__init__(argv, **options)

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "pid" and value:
            self._on_pid(value)


def start(
    argv: Any, *, on_pid: Callable[[int], None] = lambda pid: None, **options: Any
) -> subprocess.Popen[bytes]:
    """Popen in a session of its own; `release` the pid when it has been waited for."""
    # Only children of the main thread stand among the orphans.
    is_main = threading.current_thread() is threading.main_thread()
    with _starting if is_main else nullcontext():
        child = _Child(argv, on_pid=on_pid, start_new_session=True, **options)
        _owned.add(child.pid)
    return child


def start_command(
    argv: Any, key: str, *, with_namespace: bool = True, **options: Any
) -> tuple[subprocess.Popen[bytes], Namespace | None]:
    """`start` what the step `key` runs, at the best level; its namespace, if it has one."""

    def start_marked() -> subprocess.Popen[bytes]:
        child = start(argv, on_pid=lambda pid: set_mark(pid, key), **options)
        _mark_below(child.pid, key)
        _prefer_when_memory_is_short(child.pid)
        return child

    if not (with_namespace and namespaces.are_enabled()):
        return start_marked(), None
    return namespaces.start_inside(start_marked, {COOKIE: key}, popen=start, release=release)


def _mark_below(leader: int, key: str) -> None:
    """Mark what the command had started before it was marked itself, from the top down."""
    pending = {leader}
    while pending:
        pid = pending.pop()
        set_mark(pid, key)
        entry = process(pid)
        if entry is not None:
            pending |= _children(entry)


def _prefer_when_memory_is_short(pid: int) -> None:
    """The kernel should end the step, not the worker."""
    with suppress(OSError):
        descriptor = os.open(f"/proc/{pid}/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(descriptor, _OOM_SCORE)
        finally:
            os.close(descriptor)


def release(pid: int) -> None:
    """A child that was started here has been waited for."""
    _owned.discard(pid)


def _own_children() -> str:
    """Children of the main thread: those that it forked, and every orphan."""
    return f"/proc/self/task/{os.getpid()}/children"


def _pids(path: str) -> set[int]:
    return {int(word) for word in read(path).split()}


def _children(entry: Process) -> set[int]:
    """The kernel keeps children by thread."""
    tasks = f"/proc/{entry.pid}/task"
    if entry.threads == 1:
        return _pids(f"{tasks}/{entry.pid}/children")
    with suppress(OSError):
        threads = os.listdir(tasks)  # noqa: PTH208
        return set().union(*(_pids(f"{tasks}/{thread}/children") for thread in threads))
    return set()


def orphans() -> list[Process]:
    """Living processes that the kernel handed to this one; those that ended are reaped.

    A process in this session was started by other code of the worker, which waits for it.
    """
    pids = _pids(_own_children())
    if pids <= _owned:
        return []
    with _starting:
        pids -= _owned
    session = os.getsid(0)
    found = []
    for pid in pids:
        entry = process(pid)
        if entry is None or entry.session == session:
            continue
        if entry.is_alive:
            found.append(entry)
        else:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    return found


def keys_left(prefix: str) -> set[str]:
    """The keys, of those that begin so, whose steps have living processes on this host."""
    cookies = (cookie(entry.pid) or "" for entry in processes() if entry.is_alive)
    return {key for key in cookies if key.startswith(prefix)}


class Signs(NamedTuple):
    """What tells whose an orphan is."""

    mark: int
    cookie: str
    outputs: tuple[str, ...]
    directory: str

    @classmethod
    def of(cls, pid: int) -> Signs:
        return cls(mark_of(pid), cookie(pid) or "", outputs(pid), link(f"/proc/{pid}/cwd"))


class _View(NamedTuple):
    """The orphans of this process as they were at one moment."""

    begun: float
    owned: dict[int, set[int]]
    """Pids by the leader of the command that they belong to."""
    strangers: list[Process]


_trees: dict[int, Tree] = {}
"""Those that are looked at, by leader."""
_members: dict[tuple[int, int], int] = {}
"""The leader by pid and start of each process that was ever seen in one of these trees."""
_looking = threading.Lock()
_view = _View(0.0, {}, [])


def _look_at_orphans() -> _View:
    """Whose the orphans are, at a moment after the call.

    Many commands may end at once, so a look serves everybody who asked before it began.
    """
    global _view
    asked = time.monotonic()
    with _looking:
        if _view.begun <= asked:
            _view = _sorted_by_owner(time.monotonic(), orphans())
        return _view


def _sorted_by_owner(begun: float, found: list[Process]) -> _View:
    owned: dict[int, set[int]] = {}
    strangers = []
    trees = dict(_trees)
    for orphan in found:
        leader = _owner(orphan, trees)
        if leader:
            owned.setdefault(leader, set()).add(orphan.pid)
        else:
            strangers.append(orphan)
    return _View(begun, owned, strangers)


def _owner(orphan: Process, trees: Mapping[int, Tree]) -> int:
    """The leader of the command that an orphan belongs to; 0 if it may be anybody's."""
    known = _members.get((orphan.pid, orphan.started), 0)
    for leader in (orphan.session, orphan.group, known):
        if leader in trees:
            return leader
    signs = Signs.of(orphan.pid)
    return next((leader for leader, tree in trees.items() if tree.has_marked(signs)), 0)


def _below(roots: set[int]) -> list[Process]:
    """The living processes among `roots` and under them."""
    members = []
    pending = set(roots)
    while pending:
        entry = process(pending.pop())
        if entry is not None and entry.is_alive:
            members.append(entry)
            pending |= _children(entry)
    return members


class Tree:
    """The processes of one command: everything below its leader, orphaned or not."""

    def __init__(
        self,
        leader: int,
        key: str,
        *,
        output: str,
        directory: str = "",
        namespace: Namespace | None = None,
    ) -> None:
        """`output`: the pipe it writes to. `directory`: one that only it knows, or ""."""
        self._leader = leader
        self._key = key
        self._mark = mark(key)
        self._output = output
        self._directory = directory
        self._init = namespace.init_pid if namespace else 0
        self.level = KillLevel.PID_NAMESPACE if namespace else _level_without_namespace()
        self._sweep = Sweep([leader], [key], [output])
        self._strangers: list[Process] = []
        """Orphans that the last look did not count in."""
        _trees[leader] = self

    def close(self) -> None:
        """It is not looked at any more."""
        _trees.pop(self._leader, None)
        for identity in self._sweep.seen:
            _members.pop(identity, None)

    @property
    def count(self) -> int:
        """How many different processes were seen so far."""
        return len(self._sweep.seen)

    def look(self, *, leader_exited: bool) -> list[Process]:
        """Its living processes."""
        roots = set() if leader_exited else {self._leader}
        if self.level is KillLevel.PID_NAMESPACE:
            # Its orphans are children of the init, which has one more, in its own session.
            orphaned = _pids(f"/proc/{self._init}/task/{self._init}/children")
            found = _below(roots | orphaned)
            members = [member for member in found if member.session != self._init]
        elif self.level is KillLevel.SUBREAPER:
            view = _look_at_orphans()
            self._strangers = view.strangers
            members = _below(roots | view.owned.get(self._leader, set()))
        elif self.level is KillLevel.SWEEP:
            return self._sweep.look()
        else:
            members = self._group()
        identities = [(member.pid, member.started) for member in members]
        self._sweep.seen.update(identities)
        _members.update(dict.fromkeys(identities, self._leader))
        return members

    def kill(self, members: Sequence[Process]) -> None:
        """SIGKILL to these of its processes."""
        self._sweep.kill(members)

    def unknown(self) -> list[int]:
        """Strangers younger than the command that carry no sign: its own, or of another step."""
        leader = process(self._leader) if self._strangers else None
        return [
            orphan.pid
            for orphan in self._strangers
            if (leader is None or orphan.started >= leader.started)
            and orphan.session not in _owned
            and cookie(orphan.pid) == ""
        ]

    def has_marked(self, signs: Signs) -> bool:
        return (
            signs.mark == self._mark
            or signs.cookie == self._key
            or self._output in signs.outputs
            or (bool(self._directory) and f"{signs.directory}/".startswith(f"{self._directory}/"))
        )

    def _group(self) -> list[Process]:
        """Where there is no /proc: the process group, as one entry."""
        try:
            os.killpg(self._leader, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [Process(self._leader, "R", 0, self._leader, self._leader, 1, 0, True)]


def _after_fork() -> None:
    global _starting, _looking
    _starting = threading.Lock()
    _looking = threading.Lock()
    _owned.clear()
    _trees.clear()
    _members.clear()


os.register_at_fork(after_in_child=_after_fork)
