"""Process trees as /proc shows them, and the program that ends those of a dead worker.

As a program (`python -I -S reaper.py`) it runs beside each worker and must stand alone: standard
library only. Its standard input comes from the worker, a line at a time:

    + PID OUTPUT KEY    the step KEY runs and writes to OUTPUT, such as pipe:[123];
                        its leader is PID, 0 as long as that is not known
    - KEY               the step KEY has ended, with all of its processes

The end of the input means that the worker is gone, however it went. What is still registered then
is ended: SIGTERM, 0.3 s later SIGKILL, until nothing is left.
"""

from __future__ import annotations

import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from hashlib import blake2b
from typing import NamedTuple

COOKIE = "STEPSITE_STEP"
"""The variable in the environment of every process of a step; its value is the step's key."""
_MARKED_LIMIT = getattr(resource, "RLIMIT_RTTIME", -1)
"""Processor time of a real-time process in µs. Nobody notices a limit of many thousand years."""
_TERM_SECONDS = 0.3
_GIVE_UP_SECONDS = 30.0
_PAUSE_SECONDS = 0.02
_READ_SIZE = 64 * 1024
_PAGE_SIZE = 4096
_COOKIE_LOOKS = 20
_COOKIE_PAUSE_SECONDS = 0.001
_KERNEL_THREADS = 2
"""The pid of their common parent."""


class Process(NamedTuple):
    """One line of the process table."""

    pid: int
    state: str
    parent: int
    group: int
    session: int
    threads: int
    started: int
    """Ticks since boot. With the pid it names a process for ever; a pid alone is used again."""
    has_memory: bool
    """False for a moment while it begins a program or ends, and always in kernel threads."""

    @property
    def is_alive(self) -> bool:
        # A process lives on while any of its threads does, even if the first one is a zombie.
        return self.state not in "ZXx" or self.threads > 1


def _contents(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = [os.read(descriptor, _READ_SIZE)]
        # The kernel hands out whole pages as long as there is more.
        while len(parts[-1]) > _PAGE_SIZE // 2:
            parts.append(os.read(descriptor, _READ_SIZE))
        return b"".join(parts)
    finally:
        os.close(descriptor)


def read(path: str) -> bytes:
    """A file of /proc; empty if the process is gone or not ours."""
    try:
        return _contents(path)
    except OSError:
        return b""


def process(pid: int) -> Process | None:
    """What the table says about `pid`; None if it does not exist."""
    line = read(f"/proc/{pid}/stat")
    if not line:
        return None
    # The name in front may contain spaces and parentheses.
    fields = line[line.rindex(b")") + 2 :].split()
    return Process(
        pid=pid,
        state=fields[0].decode(),
        parent=int(fields[1]),
        group=int(fields[2]),
        session=int(fields[3]),
        threads=int(fields[17]),
        started=int(fields[19]),
        has_memory=fields[48] != b"0",
    )


def processes() -> Iterator[Process]:
    """The whole table."""
    for name in os.listdir("/proc"):  # noqa: PTH208  (the lightest way; it runs in a hurry)
        if name.isdigit() and (found := process(int(name))) is not None:
            yield found


def cookie(pid: int) -> str | None:
    """The key of the step that `pid` belongs to, as its environment says; "" if none.

    None if the process has ended.
    """
    had_memory = False
    for _ in range(_COOKIE_LOOKS):
        try:
            environment = _contents(f"/proc/{pid}/environ")
        except PermissionError:
            return ""
        except OSError:
            return None
        if environment:
            _, found, rest = (b"\0" + environment).partition(b"\0" + COOKIE.encode() + b"=")
            return rest.partition(b"\0")[0].decode(errors="replace") if found else ""
        entry = process(pid)
        if entry is None or not entry.is_alive:
            return None
        # Empty also while it begins a program: that must not make it a stranger.
        if (had_memory and entry.has_memory) or _KERNEL_THREADS in (pid, entry.parent):
            return ""
        had_memory = entry.has_memory
        if not had_memory:
            time.sleep(_COOKIE_PAUSE_SECONDS)
    return ""


def link(path: str) -> str:
    """Where a link of /proc leads; empty if the process is gone or not ours."""
    try:
        return os.readlink(path)  # noqa: PTH115
    except OSError:
        return ""


def outputs(pid: int) -> tuple[str, str]:
    """What a process writes to; `pipe:[…]` names one pipe of this host."""
    return link(f"/proc/{pid}/fd/1"), link(f"/proc/{pid}/fd/2")


def mark(key: str) -> int:
    """What makes the processes of a step known that shed everything else: a resource limit.

    A daemon opens a session, clears its environment, changes its directory and closes its files.
    Limits it inherits, and this one no program changes but on purpose.
    """
    return 1 << 61 | int.from_bytes(blake2b(key.encode(), digest_size=7).digest(), "big")


def set_mark(pid: int, key: str) -> None:
    """Mark a process that has just started, unless a limit or another mark is on it already."""
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    # No prlimit elsewhere than on Linux; a process that has ended, or is another user's by now.
    with suppress(AttributeError, ValueError, OSError):
        if resource.prlimit(pid, _MARKED_LIMIT) == unlimited:
            resource.prlimit(pid, _MARKED_LIMIT, (mark(key), mark(key)))


def mark_of(pid: int) -> int:
    """The mark of a process; some other number if it has none."""
    try:
        return resource.prlimit(pid, _MARKED_LIMIT)[1]
    except PermissionError:  # it has changed its user; what it may read of others is more
        _, _, rest = read(f"/proc/{pid}/limits").partition(b"Max realtime timeout")
        hard = rest.split()[1:2]
        return int(hard[0]) if hard and hard[0].isdigit() else 0
    except (AttributeError, ValueError, OSError):
        return 0


def descendants(roots: Iterable[int], table: Iterable[Process]) -> set[int]:
    """The pids of `roots` and of everything below them in `table`."""
    children: dict[int, list[int]] = {}
    for entry in table:
        children.setdefault(entry.parent, []).append(entry.pid)
    found: set[int] = set()
    pending = list(roots)
    while pending:
        pid = pending.pop()
        if pid not in found:
            found.add(pid)
            pending += children.get(pid, ())
    return found


class Sweep:
    """Finds the living processes of some steps in the whole table.

    A process is one of them if it is in a session or group that a leader opened, carries a key or
    its mark, writes to one of their pipes, was one of them before, or descends from one. It
    remembers, so each look finds more than the last.
    """

    def __init__(
        self,
        leaders: Iterable[int] = (),
        keys: Iterable[str] = (),
        pipes: Iterable[str] = (),
    ) -> None:
        self.leaders = {pid for pid in leaders if pid > 1}
        self.keys = set(keys)
        self._marks = {mark(key) for key in self.keys}
        self._pipes = {pipe for pipe in pipes if pipe.startswith("pipe:")}
        self.seen: set[tuple[int, int]] = set()

    def look(self) -> list[Process]:
        table = [entry for entry in processes() if entry.is_alive and entry.pid != os.getpid()]
        found = descendants((entry.pid for entry in table if self._is_marked(entry)), table)
        members = [entry for entry in table if entry.pid in found]
        self.seen.update((entry.pid, entry.started) for entry in members)
        return members

    def kill(self, members: Sequence[Process]) -> None:
        """SIGKILL to each, and to whole groups, so that none of them can fork away meanwhile.

        Only sessions that a process of the steps has opened are sure to hold nobody else.
        """
        own = self.leaders | {pid for pid, _ in self.seen}
        groups = {member.group for member in members if member.session in own}
        for group in groups - {0, 1, os.getpgrp()}:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(group, signal.SIGKILL)
        send(members, signal.SIGKILL)

    def _is_marked(self, entry: Process) -> bool:
        return (
            entry.session in self.leaders
            or entry.group in self.leaders
            or (entry.pid, entry.started) in self.seen
            or mark_of(entry.pid) in self._marks
            or cookie(entry.pid) in self.keys
            or not self._pipes.isdisjoint(outputs(entry.pid))
        )


def send(members: Iterable[Process], number: int) -> None:
    """Send a signal to each; those that are gone by now do not matter."""
    for member in members:
        with suppress(ProcessLookupError, PermissionError):
            _send(member, number)


def _send(member: Process, number: int) -> None:
    try:
        descriptor = os.pidfd_open(member.pid)
    except ProcessLookupError:
        return
    except (AttributeError, OSError):
        os.kill(member.pid, number)
        return
    try:
        now = process(member.pid)
        # Between the look and the signal its pid may have gone to somebody else.
        if now is not None and now.started == member.started:
            signal.pidfd_send_signal(descriptor, number)
    finally:
        os.close(descriptor)


def end(sweep: Sweep, give_up_seconds: float = _GIVE_UP_SECONDS) -> None:
    """SIGTERM, then SIGKILL until two looks in a row find nothing."""
    started = time.monotonic()
    send(sweep.look(), signal.SIGTERM)
    while sweep.look() and time.monotonic() - started < _TERM_SECONDS:
        time.sleep(_PAUSE_SECONDS)
    empty = 0
    while empty < 2 and time.monotonic() - started < give_up_seconds:
        members = sweep.look()
        sweep.kill(members)
        empty = 0 if members else empty + 1
        if members:
            time.sleep(_PAUSE_SECONDS)


def registered(source: int) -> dict[str, tuple[int, str]]:
    """Read until the end of the input; which keys are left then, with leader and output."""
    running: dict[str, tuple[int, str]] = {}
    rest = b""
    while data := os.read(source, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            operation, _, words = line.decode().partition(" ")
            if operation == "+":
                pid, output, key = words.split(" ", 2)
                running[key] = int(pid), output
            else:
                running.pop(words, None)
        # Lines may wait in the pipe: a wake-up for each would cost the worker's processor.
        time.sleep(_PAUSE_SECONDS)
    return running


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    running = registered(sys.stdin.fileno())
    if running:
        leaders, pipes = zip(*running.values(), strict=True)
        end(Sweep(leaders, running, pipes))


if __name__ == "__main__":
    main()
