"""Keeps a few child processes alive and ends them together. Plain Python.

Each child is the leader of a process group, so that Ctrl-C in a terminal reaches the supervisor
alone, and reads from a lifeline pipe, so that it ends by itself when the supervisor is killed.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from . import lifeline

FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.2, 5.0
"""Before a child that died is started again; doubled with each death that is not long ago."""
DEATHS, DEATHS_WITHIN_SECONDS = 5, 60.0
"""So many deaths of one child in so short a time: starting it again will not help."""
AWAY_CODE = os.EX_TEMPFAIL
"""How a child ends that lacks nothing but a service which will be back; that is no death."""
AWAY_PAUSE_SECONDS = 1.0
TICK_SECONDS = 0.05


class Child:
    """One process to keep alive.

    Its command must take `--ready-fd N` and write something there once it can do its work.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        stop_seconds: float,
    ) -> None:
        self.name = name
        self.stop_seconds = stop_seconds
        """How long it may take to end after SIGTERM."""
        self._command = command
        self._environment = environment
        self._process: subprocess.Popen[bytes] | None = None
        self._ready_fd = -1
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._start_at = 0.0

    def start(self, lifeline_fd: int) -> None:
        if self._ready_fd >= 0:
            os.close(self._ready_fd)
        self._ready_fd, says_ready = os.pipe()
        self._process = subprocess.Popen(
            [*self._command, "--ready-fd", str(says_ready)],
            env={**self._environment, lifeline.VARIABLE: str(lifeline_fd)},
            stdin=subprocess.DEVNULL,
            pass_fds=(lifeline_fd, says_ready),
            process_group=0,
        )
        os.close(says_ready)

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def is_ready(self) -> bool:
        """Whether it said so, or ended: look at `is_alive` first."""
        return bool(select.select([self._ready_fd], [], [], 0)[0])

    @property
    def exit(self) -> str:
        """How it ended: `exit code 3`, `signal SIGKILL`."""
        code = self._process.returncode if self._process else None
        return "" if code is None else _describe(code)

    def revive(self, lifeline_fd: int, say: Callable[[str], None]) -> str:
        """Start it again if it died and its pause is over; the reason to give up, or nothing."""
        now = time.monotonic()
        if self._process is not None and not self.is_alive:
            pause = AWAY_PAUSE_SECONDS
            if self._process.returncode != AWAY_CODE:
                self._deaths.append(now)
                recent = [at for at in self._deaths if now - at < DEATHS_WITHIN_SECONDS]
                if len(recent) == DEATHS:
                    return (
                        f"the {self.name} process ended {DEATHS} times within "
                        f"{DEATHS_WITHIN_SECONDS:.0f} s, the last time with {self.exit}"
                    )
                pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** (len(recent) - 1))
            say(
                f"The {self.name} process ended with {self.exit}. It starts again in {pause:.1f} s."
            )
            self._process = None
            self._start_at = now + pause
        if self._process is None and now >= self._start_at:
            self.start(lifeline_fd)
        return ""

    def terminate(self) -> None:
        if self._process is not None:
            self._process.terminate()

    def kill_group(self) -> None:
        """End it and what is left in its group; its steps have sessions and a reaper."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class Supervisor:
    """Runs children until a signal; the first lets them end, the second cuts that short.

    To be made in the main thread: it takes over the signals.
    """

    def __init__(self, children: Sequence[Child], say: Callable[[str], None]) -> None:
        self._children = children
        self._say = say
        self._asked = 0
        # The write end stays here, unused: that it closes is the message.
        self._lifeline_fd, self._held_fd = os.pipe()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self._asked += 1

    def start(self) -> bool:
        """Start the children; whether they all got ready, before a signal or a death."""
        for child in self._children:
            child.start(self._lifeline_fd)
        while not self._asked:
            for child in self._children:
                if not child.is_alive:
                    self._say(f"The {child.name} process ended at its start with {child.exit}.")
                    return False
            if all(child.is_ready for child in self._children):
                return True
            time.sleep(TICK_SECONDS)
        return False

    def run(self) -> int:
        """Until a signal, or until a child cannot be kept alive. 0: all ended as asked."""
        while not self._asked:
            for child in self._children:
                if reason := child.revive(self._lifeline_fd, self._say):
                    self._say(f"Giving up: {reason}.")
                    self.stop()
                    return 1
            time.sleep(TICK_SECONDS)
        return self.stop()

    def stop(self) -> int:
        """End the children; 1 if none had asked, or if one had to be killed."""
        code = 0 if self._asked else 1
        began, passed_on = time.monotonic(), 0
        while left := [child for child in self._children if child.is_alive]:
            if passed_on == 0 or passed_on < self._asked:
                passed_on += 1
                for child in left:
                    child.terminate()
            for child in left:
                if time.monotonic() - began > child.stop_seconds:
                    self._say(f"The {child.name} process does not end and is killed.")
                    child.kill_group()
                    code = 1
            time.sleep(TICK_SECONDS)
        return code


def _describe(code: int) -> str:
    if code >= 0:
        return f"exit code {code}"
    try:
        return f"signal {signal.Signals(-code).name}"
    except ValueError:
        return f"signal {-code}"
