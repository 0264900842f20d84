"""For tests of real processes: a tree to look at, conditions with a deadline."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

PATIENCE_SECONDS = 30.0
"""Far beyond what anything takes here, also on a slow and busy machine."""


def until(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE_SECONDS) -> T:
    """The first true value of `condition`; fails with `what` was awaited after `seconds`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {seconds:.0f} s in vain for: {what}")
        time.sleep(0.01)
    return value


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    """The living children of a process."""
    found = []
    for thread in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in thread.read_text().split()]
    return [child for child in found if is_alive(child)]


def descendants(pid: int) -> list[int]:
    """All living processes below a process."""
    return [each for child in children(pid) for each in (child, *descendants(child))]


def with_environment(entry: str) -> list[int]:
    """All living processes that have `NAME=value` in the environment they were started with."""
    found = []
    for directory in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if entry.encode() in (directory / "environ").read_bytes().split(b"\0"):
                found.append(int(directory.name))
    return [pid for pid in found if is_alive(pid) and pid != os.getpid()]


@contextmanager
def nothing_left(entry: str) -> Iterator[None]:
    """Whatever happened inside, no process with this environment entry outlives the block."""
    try:
        yield
    except BaseException:
        for pid in with_environment(entry):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        raise
    try:
        until(lambda: not with_environment(entry), f"the end of every process with {entry}")
    finally:
        for pid in with_environment(entry):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
