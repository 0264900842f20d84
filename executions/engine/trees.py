"""The processes below the worker: which are whose, and whether any is left.

On Linux each command leads a session of its own, carries a cookie in its environment, and the
worker is the subreaper of everything below it: when a process of a step ends, its children come to
the worker. So nothing can slip away by `setsid`, by a double fork or by ignoring SIGTERM, and "no
process is left" can be seen instead of guessed. What the kernel does not tie to the step any more,
such as a container started by a daemon, is out of reach.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
from contextlib import nullcontext, suppress
from enum import StrEnum
from pathlib import Path
from typing import Any

from .reaper import Process, Sweep, cookie, process, processes, read

_PR_SET_CHILD_SUBREAPER = 36


class KillLevel(StrEnum):
    """How sure it is that nothing of a step survives."""

    SUBREAPER = "subreaper"
    """Certain: the kernel hands every orphan of a step to the worker."""
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
    if _subreaper == os.getpid():
        return KillLevel.SUBREAPER
    return KillLevel.SWEEP if Path("/proc/self/environ").exists() else KillLevel.GROUP


def start(argv: Any, **options: Any) -> subprocess.Popen[bytes]:
    """Popen in a session of its own; `release` the pid when it has been waited for."""
    # Only children of the main thread stand among the orphans.
    is_main = threading.current_thread() is threading.main_thread()
    with _starting if is_main else nullcontext():
        child = subprocess.Popen(argv, start_new_session=True, **options)
        _owned.add(child.pid)
    return child


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


def are_left(prefix: str) -> bool:
    """Whether processes of steps whose key begins so live on this host, whoever started them."""
    return any(
        (cookie(entry.pid) or "").startswith(prefix) for entry in processes() if entry.is_alive
    )


class Tree:
    """The processes of one command: everything below its leader, orphaned or not."""

    def __init__(self, leader: int, key: str, *, output: int, directory: str = "") -> None:
        """`output`: inode of the pipe it writes to. `directory`: one that only it knows, or ""."""
        self._leader = leader
        self._key = key
        self._output = output
        self._directory = directory
        self._level = kill_level()
        self._sweep = Sweep([leader], [key])
        self._strangers: list[Process] = []
        """Orphans that the last look did not count in."""

    @property
    def count(self) -> int:
        """How many different processes were seen so far."""
        return len(self._sweep.seen)

    def look(self, *, leader_exited: bool) -> list[Process]:
        """Its living processes."""
        if self._level is KillLevel.SWEEP:
            return self._sweep.look()
        if self._level is KillLevel.SUBREAPER:
            members = self._walk(leader_exited=leader_exited)
        else:
            members = self._group()
        self._sweep.seen.update((member.pid, member.started) for member in members)
        return members

    def unknown(self) -> list[int]:
        """Strangers younger than the command that carry no mark: its own, or of another step."""
        leader = process(self._leader) if self._strangers else None
        return [
            orphan.pid
            for orphan in self._strangers
            if (leader is None or orphan.started >= leader.started)
            and orphan.session not in _owned
            and cookie(orphan.pid) == ""
        ]

    def _walk(self, *, leader_exited: bool) -> list[Process]:
        """Down from the leader and from each of its orphans: the kernel leaves no other place."""
        members = []
        pending = set() if leader_exited else {self._leader}
        self._strangers = []
        for orphan in orphans():
            if self._is_mine(orphan):
                pending.add(orphan.pid)
            else:
                self._strangers.append(orphan)
        while pending:
            entry = process(pending.pop())
            if entry is not None and entry.is_alive:
                members.append(entry)
                pending |= _children(entry)
        return members

    def _is_mine(self, orphan: Process) -> bool:
        return (
            self._leader in (orphan.session, orphan.group)
            or (orphan.pid, orphan.started) in self._sweep.seen
            or cookie(orphan.pid) == self._key
            or self._shares_files(orphan.pid)
        )

    def _shares_files(self, pid: int) -> bool:
        """Whether it writes where the command writes, or stands in its private directory."""
        with suppress(OSError):
            if os.stat(f"/proc/{pid}/fd/1").st_ino == self._output:  # noqa: PTH116
                return True
        with suppress(OSError):
            directory = os.readlink(f"/proc/{pid}/cwd")  # noqa: PTH115
            return bool(self._directory) and f"{directory}/".startswith(f"{self._directory}/")
        return False

    def _group(self) -> list[Process]:
        """Where there is no /proc: the process group, as one entry."""
        try:
            os.killpg(self._leader, 0)
        except (ProcessLookupError, PermissionError):
            return []
        return [Process(self._leader, "R", 0, self._leader, self._leader, 1, 0, True)]


def _after_fork() -> None:
    global _starting
    _starting = threading.Lock()
    _owned.clear()


os.register_at_fork(after_in_child=_after_fork)
