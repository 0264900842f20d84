"""Moments at which a test has a process die. Outside of tests passing one does nothing.

Set where a process is started:

    STEPSITE_CRASH=NAME:N        the process that passes NAME for the N-th time is killed there
    STEPSITE_CRASH=NAME:N:stop   it stands still instead, until it gets a SIGCONT
    STEPSITE_CRASH_NOTE=FILE     it first makes FILE; while that exists nobody crashes any more
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress

NAMES = (
    # Whoever starts or cancels a run: web, command line.
    "run_written",
    "cancel_written",
    "cancel_committed",
    # Whoever sends or takes a hint.
    "hint_begun",
    "hint_sent",
    "hint_taken",
    # A process that executes a run. `written` is before the commit.
    "claim_begun",
    "claim_written",
    "claim_committed",
    "start_written",
    "start_committed",
    "step_begun",
    "step_returned",
    "finish_written",
    "finish_committed",
    "end_written",
    "end_committed",
    "hand_back_written",
    "hand_back_committed",
    "beat_committed",
    # The worker beside the runs that it executes.
    "worker_registered",
    "worker_seen",
    "rescue_written",
    "rescue_committed",
)


def passing(name: str, happens: object = True) -> None:
    """This is the point `name`, if `happens`."""


class _Crash:
    def __init__(self, order: str, note: str) -> None:
        self._name, number, *stop = order.split(":")
        if self._name not in NAMES or stop not in ([], ["stop"]):
            raise ValueError(f"STEPSITE_CRASH={order}: NAME:N or NAME:N:stop, NAME of {NAMES}")
        self._left = int(number)
        self._signal = signal.SIGSTOP if stop else signal.SIGKILL
        self._note = note

    def passing(self, name: str, happens: object = True) -> None:
        if name != self._name or not happens:
            return
        self._left -= 1
        if self._left == 0 and self._is_first():
            os.kill(os.getpid(), self._signal)

    def _is_first(self) -> bool:
        """Whether no process has crashed before this one."""
        if not self._note:
            return True
        with suppress(FileExistsError):
            os.close(os.open(self._note, os.O_CREAT | os.O_EXCL, 0o600))
            return True
        return False


if _order := os.environ.get("STEPSITE_CRASH"):
    passing = _Crash(_order, os.environ.get("STEPSITE_CRASH_NOTE", "")).passing
