"""The token through which a running step learns that it should stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum


class CancelReason(StrEnum):
    """Why a step is asked to stop. The first reason wins and never changes."""

    STEP_CANCELLED = "step_cancelled"
    RUN_CANCELLED = "run_cancelled"
    TIMEOUT = "timeout"
    SHUTDOWN = "shutdown"
    FENCED = "fenced"


class StepCancelled(Exception):  # noqa: N818  (it is a request, not an error)
    """The step was asked to stop. Raised by the step context; let it pass."""


class CancelToken:
    """Fires once. Callbacks run in the thread that fires it, or at once if it has fired."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fired = threading.Event()
        self._callbacks: list[Callable[[], None]] = []
        self.reason: CancelReason | None = None

    def cancel(self, reason: CancelReason) -> bool:
        """Fire; False if it had fired before."""
        with self._lock:
            if self.reason is not None:
                return False
            self.reason = reason
            callbacks, self._callbacks = self._callbacks, []
        self._fired.set()
        for callback in callbacks:
            callback()
        return True

    @property
    def is_cancelled(self) -> bool:
        return self._fired.is_set()

    def wait(self, seconds: float | None) -> bool:
        """Wait until it fires, at most `seconds`; whether it has fired."""
        return self._fired.wait(seconds)

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Call `callback` when the token fires."""
        with self._lock:
            if self.reason is None:
                self._callbacks.append(callback)
                return
        callback()

    def check(self) -> None:
        """Raise `StepCancelled` if the token has fired."""
        if self._fired.is_set():
            raise StepCancelled(str(self.reason))
