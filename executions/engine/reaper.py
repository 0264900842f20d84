"""Process trees as /proc shows them, and the program that ends those of a dead worker.

As a program (`python -I -S reaper.py`) it runs beside each worker and must stand alone: standard
library only. Its standard input comes from the worker, a line at a time:

    + PID KEY    the step KEY runs; its leader is PID, 0 as long as that is not known
    - KEY        the step KEY has ended, with all of its processes

The end of the input means that the worker is gone, however it went. What is still registered then
is ended: SIGTERM, 0.3 s later SIGKILL, until nothing is left.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

COOKIE = "STEPSITE_STEP"
"""The variable in the environment of every process of a step; its value is the step's key."""
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

    A process is one of them if it is in a session or group that a leader opened, carries a key,
    was one of them before, or descends from one. It remembers, so each look finds more than the
    last.
    """

    def __init__(self, leaders: Iterable[int] = (), keys: Iterable[str] = ()) -> None:
        self.leaders = {pid for pid in leaders if pid > 1}
        self.keys = set(keys)
        self.seen: set[tuple[int, int]] = set()

    def look(self) -> list[Process]:
        table = [entry for entry in processes() if entry.is_alive and entry.pid != os.getpid()]
        found = descendants((entry.pid for entry in table if self._is_marked(entry)), table)
        members = [entry for entry in table if entry.pid in found]
        self.seen.update((entry.pid, entry.started) for entry in members)
        return members

    def _is_marked(self, entry: Process) -> bool:
        return (
            entry.session in self.leaders
            or entry.group in self.leaders
            or (entry.pid, entry.started) in self.seen
            or cookie(entry.pid) in self.keys
        )


def send(members: Iterable[Process], number: int) -> None:
    """Send a signal to each; those that are gone by now do not matter."""
    for member in members:
        try:
            os.kill(member.pid, number)
        except (ProcessLookupError, PermissionError):
            continue


def end(sweep: Sweep) -> None:
    """SIGTERM, then SIGKILL until two looks in a row find nothing."""
    started = time.monotonic()
    send(sweep.look(), signal.SIGTERM)
    while sweep.look() and time.monotonic() - started < _TERM_SECONDS:
        time.sleep(_PAUSE_SECONDS)
    empty = 0
    while empty < 2 and time.monotonic() - started < _GIVE_UP_SECONDS:
        members = sweep.look()
        send(members, signal.SIGKILL)
        empty = 0 if members else empty + 1
        if members:
            time.sleep(_PAUSE_SECONDS)


def registered(source: int) -> dict[str, int]:
    """Read until the end of the input; which keys are left then, with their leaders."""
    leaders: dict[str, int] = {}
    rest = b""
    while data := os.read(source, 1 << 16):
        *lines, rest = (rest + data).split(b"\n")
        for line in lines:
            operation, _, words = line.decode().partition(" ")
            if operation == "+":
                pid, _, key = words.partition(" ")
                leaders[key] = int(pid)
            else:
                leaders.pop(words, None)
        # Lines may wait in the pipe: a wake-up for each would cost the worker's processor.
        time.sleep(_PAUSE_SECONDS)
    return leaders


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    leaders = registered(sys.stdin.fileno())
    if leaders:
        end(Sweep(leaders.values(), leaders))


if __name__ == "__main__":
    main()
