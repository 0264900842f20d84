"""How a child process learns that the one above it is gone, however it went.

From a supervisor it has a pipe, whose end tells. From any other parent the kernel tells it.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
from collections.abc import Callable

VARIABLE = "STEPSITE_LIFELINE"
"""Names, in the environment of a child, the descriptor from which it reads."""

_PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


def follow_parent(parent: int, number: signal.Signals) -> None:
    """Have the kernel send this process a signal when its parent dies. Linux only.

    Strictly, when the thread of the parent that started it ends. If the parent is gone already,
    the signal comes at once.
    """
    if sys.platform == "linux":
        _libc.prctl(_PR_SET_PDEATHSIG, number, 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), number)


def take() -> int | None:
    """The descriptor that the supervisor gave, for `watch`; None without a supervisor.

    It means nothing to the processes that this one starts, so they do not learn of it.
    """
    descriptor = os.environ.pop(VARIABLE, "")
    if not descriptor:
        return None
    os.set_inheritable(int(descriptor), False)
    return int(descriptor)


def watch(descriptor: int | None, on_end: Callable[[], None]) -> None:
    """Call `on_end` in a thread when the supervisor is gone."""
    if descriptor is not None:
        threading.Thread(
            target=_wait, args=(descriptor, on_end), name="lifeline", daemon=True
        ).start()


def _wait(descriptor: int, on_end: Callable[[], None]) -> None:
    try:
        while os.read(descriptor, 1):
            pass
    except OSError:
        pass
    on_end()
