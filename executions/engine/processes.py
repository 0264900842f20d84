"""Runs one command to its end, and ends whatever it started."""

from __future__ import annotations

import atexit
import errno
import logging
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import reaper, trees
from .cancellation import CancelReason, CancelToken
from .errors import CannotStart
from .namespaces import Namespace
from .namespaces import enable as use_namespaces
from .reaper import Process, send
from .trees import KillLevel, Tree, become_subreaper, kill_level

__all__ = [
    "Command",
    "Ended",
    "KillLevel",
    "Reaper",
    "WakeUp",
    "become_subreaper",
    "kill_level",
    "run",
    "use_namespaces",
]

TAIL_LIMIT = 64 * 1024
"""Bytes of a command's output that `Ended.tail` keeps."""
SETTLE_SECONDS = 0.5
"""How long what a command left behind may take to end by itself, as the `tee` of a script does."""
FENCED_GRACE_SECONDS = 1.0
"""Another worker may already run the step again, so there is no time for the usual grace."""
GIVE_UP_SECONDS = 10.0
"""After the first SIGKILL. Only the kernel or another owner can keep a process for so long."""
STOP_MARGIN_SECONDS = 15.0
"""What ending a tree may take beyond the grace."""
_READ_SIZE = 64 * 1024
_KILL_PAUSE_SECONDS = 0.05
_POLL_SECONDS = 0.02
_DRAIN_READS = 32

logger = logging.getLogger(__name__)


class Reaper:
    """Tells the reaper process which steps run, so that they end when this process dies.

    It is started with the first step, and again if it should have died.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe = -1
        self._steps: dict[str, tuple[int, str]] = {}

    def watch(self, key: str, pid: int = 0, output: str = "-") -> None:
        """The step `key` runs or is about to."""
        self._steps[key] = pid, output
        self._tell(f"+ {pid} {output} {key}\n")

    def forget(self, key: str) -> None:
        """The step `key` has ended with everything that it started."""
        self._steps.pop(key, None)
        self._tell(f"- {key}\n")

    def close(self) -> None:
        """End the reaper process; it ends first what is still registered."""
        with self._lock:
            self._steps.clear()
            if self._process is not None:
                os.close(self._pipe)
                self._let_go()

    def _after_fork(self) -> None:
        """The process belongs to the parent, which is not dead as long as it holds the pipe."""
        self._lock = threading.Lock()
        self._steps = {}
        if self._process is not None:
            os.close(self._pipe)
            self._process.returncode = 0  # its destructor would wait for it
            self._process = None

    def _tell(self, line: str) -> None:
        # Without the lock: a line is written whole, and every step passes here.
        child = self._process
        if child is not None:
            with suppress(OSError):
                os.write(self._pipe, line.encode())
                return
        with self._lock:
            if self._process is child:
                self._start_again()

    def _start_again(self) -> None:
        """Start the reaper process and tell it all that runs."""
        self._let_go()
        # The old pipe stays open: another thread may be about to write to its number.
        read_end, self._pipe = os.pipe()
        try:
            self._process = trees.start(
                [sys.executable, "-I", "-S", reaper.__file__],
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
            )
            for key, (pid, output) in tuple(self._steps.items()):
                os.write(self._pipe, f"+ {pid} {output} {key}\n".encode())
        except OSError as error:
            # Steps run all the same; only the death of this very process would leave some behind.
            logger.warning("The reaper of worker process %d does not run: %s", os.getpid(), error)
        finally:
            os.close(read_end)

    def _let_go(self) -> None:
        child, self._process = self._process, None
        if child is not None:
            with suppress(subprocess.TimeoutExpired):
                child.wait(2)
            trees.release(child.pid)


_reaper = Reaper()
os.register_at_fork(after_in_child=_reaper._after_fork)
atexit.register(_reaper.close)


@dataclass(frozen=True, kw_only=True, slots=True)
class Command:
    """What to start, and how to end it."""

    argv: Sequence[str]
    key: str
    """Unique; the value of the cookie."""
    environment: Mapping[str, str]
    """All of it; the cookie is added."""
    directory: str | None = None
    """Working directory; None: that of the worker."""
    grace_seconds: float
    private_directory: str = ""
    """A directory that only this command knows: another mark of its processes."""
    pass_fds: Sequence[int] = ()
    """Descriptors that it inherits, under the same numbers."""
    may_have_namespace: bool = True
    """Not if it looks after processes itself: inside, /proc shows the pids of outside."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """How a command ended."""

    exit_code: int | None
    """Negative: minus the number of the signal. None: it could not be ended."""
    stopped: bool
    """It was asked to end before it ended by itself."""
    receipt: dict[str, Any] | None
    """How its processes were ended; None if none was left when the command had exited.

    signals: names in the order they were sent; processes: how many there were; proven_empty;
    seconds; kill_level; after_exit: they outlived the command, which had exited by itself;
    unknown_pids: unmarked orphans, if any, because of which it is not proven.
    """
    tail: bytes
    """The last bytes of its output, unmasked."""

    @property
    def is_proven(self) -> bool:
        return self.receipt is None or bool(self.receipt["proven_empty"])


def nothing_to_end() -> dict[str, Any]:
    """The receipt of a step that was to stop, but whose processes had all ended, or not begun."""
    return {
        "signals": [],
        "processes": 0,
        "proven_empty": True,
        "seconds": 0.0,
        "kill_level": kill_level().value,
        "after_exit": False,
    }


class WakeUp:
    """A descriptor that becomes readable when the token fires, and stays so."""

    def __init__(self, token: CancelToken) -> None:
        self.token = token
        self._lock = threading.Lock()
        self._is_open = True
        self.descriptor, self._write_end = os.pipe()
        token.on_cancel(self._fire)

    def _fire(self) -> None:
        with self._lock:
            if self._is_open:
                os.write(self._write_end, b"!")

    def close(self) -> None:
        # The token keeps the callback, and the number may belong to another file by then.
        with self._lock:
            self._is_open = False
            os.close(self.descriptor)
            os.close(self._write_end)


def run(
    command: Command,
    *,
    wake_up: WakeUp,
    on_output: Callable[[bytes], None],
    timeout_seconds: float | None = None,
) -> Ended:
    """Run a command to its end; what it writes, on either stream, goes to `on_output`.

    When the token fires or the time is over, its processes are ended: SIGTERM to all of them,
    SIGKILL to those that are left after the grace. What a command leaves running when it exits is
    ended likewise. Raises `CannotStart`.
    """
    _reaper.watch(command.key)
    try:
        child, namespace, output = _start(command)
        _reaper.watch(command.key, child.pid, _name(output))
        attempt = _Attempt(command, child, namespace, output, wake_up, on_output)
        try:
            return attempt.run(timeout_seconds)
        finally:
            attempt.close()
    finally:
        _reaper.forget(command.key)


def _start(command: Command) -> tuple[subprocess.Popen[bytes], Namespace | None, int]:
    """The running command, its namespace, and the end of the pipe that its output comes from."""
    environment = {reaper.COOKIE: command.key, **command.environment, reaper.COOKIE: command.key}
    read_end, write_end = os.pipe()
    # A blocked signal is inherited, and SIGTERM must arrive.
    blocked = signal.pthread_sigmask(signal.SIG_SETMASK, ())
    try:
        child, namespace = trees.start_command(
            command.argv,
            command.key,
            with_namespace=command.may_have_namespace,
            stdin=subprocess.DEVNULL,
            stdout=write_end,
            stderr=write_end,
            cwd=command.directory,
            env=environment,
            pass_fds=command.pass_fds,
        )
    except (OSError, ValueError) as error:
        os.close(read_end)
        raise CannotStart(_why_not(command, error)) from error
    finally:
        os.close(write_end)
        if blocked:
            signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    return child, namespace, read_end


def _name(descriptor: int) -> str:
    """Of a pipe, such as `pipe:[123]`."""
    return reaper.link(f"/proc/self/fd/{descriptor}") or "-"


def _why_not(command: Command, error: OSError | ValueError) -> str:
    program = command.argv[0]
    if isinstance(error, UnicodeError):
        return f"cannot run {program!a}: an argument or a variable is not valid Unicode"
    if isinstance(error, ValueError):
        return f"cannot run {program!r}: {error}"
    if error.filename is not None and error.filename == command.directory:
        return f"cannot run {program!r} in {command.directory!r}: {error.strerror}"
    if isinstance(error, FileNotFoundError) and "/" not in program:
        return f"cannot run {program!r}: no such program in PATH"
    if isinstance(error, FileNotFoundError) and Path(program).exists():
        return f"cannot run {program!r}: the interpreter that its first line names does not exist"
    if error.errno == errno.E2BIG:
        return f"cannot run {program!r}: arguments and environment are too long"
    return f"cannot run {program!r}: {error.strerror}"


def _pidfd(pid: int) -> int:
    """A descriptor that becomes readable when `pid` ends; -1 where there is no such thing.

    Raises `ProcessLookupError`.
    """
    try:
        return os.pidfd_open(pid)
    except ProcessLookupError:
        raise
    except (AttributeError, OSError):
        return -1


def _is_over(deadline: float | None) -> bool:
    return deadline is not None and time.monotonic() >= deadline


_unended: list[subprocess.Popen[bytes]] = []
"""Children that not even SIGKILL has ended."""


class _Attempt:
    """One running command with its tree. All of it happens in the thread that calls `run`."""

    def __init__(
        self,
        command: Command,
        child: subprocess.Popen[bytes],
        namespace: Namespace | None,
        output: int,
        wake_up: WakeUp,
        on_output: Callable[[bytes], None],
    ) -> None:
        self._command = command
        self._child = child
        self._namespace = namespace
        self._wake_up = wake_up
        self._on_output = on_output
        self._tail = bytearray()
        self._output = output
        self._output_is_open = True
        self._pidfd = _pidfd(child.pid)
        self._exited = False
        self._tree = Tree(
            child.pid,
            command.key,
            output=_name(output),
            directory=command.private_directory,
            namespace=namespace,
        )
        self._poll = select.poll()
        for descriptor in (output, self._pidfd, wake_up.descriptor):
            if descriptor >= 0:
                self._poll.register(descriptor, select.POLLIN)

    def run(self, timeout_seconds: float | None) -> Ended:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        stopped = False
        receipt = None
        while not self._exited and not stopped:
            ready = self._pump(deadline)
            stopped = self._wake_up.descriptor in ready or _is_over(deadline)
        # It may have come to its own end since.
        members = [] if self._exited else self._look()
        if members:
            receipt = self._end(members, after_exit=False)
        elif self._settle():
            receipt = self._end(self._look(), after_exit=True)
        self._drain()
        return Ended(
            # Not waited for earlier: a zombie leader keeps its pid from naming another session.
            exit_code=self._child.poll(),
            stopped=receipt is not None and not receipt["after_exit"],
            receipt=receipt,
            tail=bytes(self._tail),
        )

    def close(self) -> None:
        self._tree.close()
        if self._namespace is not None:
            self._namespace.end(self._child, GIVE_UP_SECONDS)
            self._namespace.close()
        if self._child.poll() is None:
            # Nothing helped, or the engine itself failed.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._child.pid, signal.SIGKILL)
            _unended.append(self._child)
        else:
            trees.release(self._child.pid)
        os.close(self._output)
        if self._pidfd >= 0:
            os.close(self._pidfd)

    # Waiting

    def _pump(self, deadline: float | None) -> set[int]:
        """Wait for anything until `deadline`; pass output on; which descriptors are ready."""
        seconds = None if deadline is None else max(0.0, deadline - time.monotonic())
        if self._pidfd < 0 and not self._exited:
            seconds = _POLL_SECONDS if seconds is None else min(seconds, _POLL_SECONDS)
        ready = {
            descriptor
            for descriptor, _ in self._poll.poll(None if seconds is None else seconds * 1000)
        }
        if self._output in ready:
            self._read()
        if self._pidfd in ready:
            self._poll.unregister(self._pidfd)
            self._exited = True
        elif self._pidfd < 0 and self._child.poll() is not None:
            self._exited = True
        return ready

    def _read(self) -> None:
        data = os.read(self._output, _READ_SIZE)
        if not data:
            self._poll.unregister(self._output)
            self._output_is_open = False
            return
        self._tail += data
        if len(self._tail) > 2 * TAIL_LIMIT:
            del self._tail[:-TAIL_LIMIT]
        self._on_output(data)

    def _drain(self) -> None:
        """What is still in the pipe. A process of somebody else may hold its other end open."""
        for _ in range(_DRAIN_READS):
            if not self._output_is_open or self._output not in self._pump(0.0):
                return

    def _await(self, member: Process, deadline: float) -> None:
        """Wait until `member` has ended, at most until `deadline`; output passes meanwhile."""
        try:
            descriptor = _pidfd(member.pid)
        except ProcessLookupError:
            return
        if descriptor < 0:
            self._pump(min(deadline, time.monotonic() + _POLL_SECONDS))
            return
        try:
            self._poll.register(descriptor, select.POLLIN)
            while descriptor not in self._pump(deadline) and not _is_over(deadline):
                pass
            self._poll.unregister(descriptor)
        finally:
            os.close(descriptor)

    def _settle(self) -> bool:
        """Give what the command left running a moment to end; whether something is left."""
        deadline = time.monotonic() + SETTLE_SECONDS
        while members := self._tree.look(leader_exited=True):
            if _is_over(deadline) or self._wake_up.token.is_cancelled:
                return True
            self._await(members[0], deadline)
        return False

    # Ending

    def _end(self, members: list[Process], *, after_exit: bool) -> dict[str, Any]:
        """End the tree, of which `members` are known, and say how."""
        started = time.monotonic()
        # A token stays fired: its descriptor would cut every further wait short.
        self._poll.unregister(self._wake_up.descriptor)
        signals = ["SIGTERM"]
        self._terminate(members)
        is_empty = self._is_empty_before(started + self._grace())
        if not is_empty:
            signals.append("SIGKILL")
        if self._namespace is not None:
            # Two empty looks are good, the word of the kernel is better.
            is_empty = self._namespace.end(self._child, GIVE_UP_SECONDS)
        elif not is_empty:
            is_empty = self._kill()
        unknown = self._tree.unknown()
        receipt: dict[str, Any] = {
            "signals": signals,
            "processes": self._tree.count,
            "proven_empty": is_empty and not unknown,
            "seconds": round(time.monotonic() - started, 3),
            "kill_level": self._tree.level.value,
            "after_exit": after_exit,
        }
        if unknown:
            receipt["unknown_pids"] = unknown
        return receipt

    def _grace(self) -> float:
        if self._wake_up.token.reason is CancelReason.FENCED:
            return min(self._command.grace_seconds, FENCED_GRACE_SECONDS)
        return self._command.grace_seconds

    def _look(self) -> list[Process]:
        """Before each signal: who descends from whom is lost when the first of them ends."""
        return self._tree.look(leader_exited=self._exited)

    def _terminate(self, members: list[Process]) -> None:
        """SIGTERM to each process once: the second one makes some programs drop everything."""
        leader = self._child.pid
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(leader, signal.SIGTERM)
        send((member for member in members if member.group != leader), signal.SIGTERM)
        send((member for member in members if member.state in "Tt"), signal.SIGCONT)

    def _is_empty_before(self, deadline: float) -> bool:
        """Wait until two looks in a row find nothing; False if the deadline comes first."""
        while not _is_over(deadline):
            members = self._look()
            if members:
                self._await(members[0], deadline)
            elif not self._look():
                return True
        return False

    def _kill(self) -> bool:
        """SIGKILL until two looks in a row find nothing; False if it does not help."""
        deadline = time.monotonic() + GIVE_UP_SECONDS
        empty = 0
        while empty < 2:
            members = self._look()
            if not members:
                empty += 1
                continue
            empty = 0
            if _is_over(deadline):
                return False
            self._tree.kill(members)
            # To look is dearer than to wait, above all when many steps end at once.
            pause = time.monotonic() + _KILL_PAUSE_SECONDS
            for member in members:
                self._await(member, pause)
        return True
