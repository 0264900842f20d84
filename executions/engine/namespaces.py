"""A PID namespace for each command: the kernel itself ends everything in it, at once.

The first process of a namespace is its init. When that ends, the kernel kills all the others and
lets the init go only after the last of them: its end is the proof. Here it is a shell that waits
until a pipe is closed which the worker holds, so it also ends, with all the rest, when the worker
dies. The command itself stays a child of the worker, with its own exit code and pipes.

What a new namespace is for is decided thread by thread, and only on the way in: each command is
started by a thread of its own, which ends right afterwards. `/proc` is not mounted anew, so inside
it shows the pids of the worker's namespace.

As a program (`python -I -S namespaces.py`) it tells with its exit code whether all that works.
"""

from __future__ import annotations

import ctypes
import os
import select
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import suppress
from functools import cache

_CLONE_NEWUSER = 0x10000000
_CLONE_NEWPID = 0x20000000
_PROBE_SECONDS = 10.0
# The shell waits for the subshell, and reaps meanwhile every orphan that comes to it. It must not
# read itself: the end of an orphan would interrupt that.
_INIT = ("/bin/sh", "-c", "(read _); exit")

Popen = Callable[..., subprocess.Popen[bytes]]
"""`subprocess.Popen`, or what stands for it."""

_enabled = 0
"""The pid of the process that may make namespaces; a fork of it did not ask."""
_lifelines: set[int] = set()
"""Write ends of the pipes that the inits read from."""
_unended: list[subprocess.Popen[bytes]] = []
"""Inits that the kernel still keeps for one of their processes."""


class Namespace:
    """A namespace with its init."""

    def __init__(
        self, environment: Mapping[str, str], popen: Popen, release: Callable[[int], None]
    ) -> None:
        """Start the init; it must be the first child since the thread left its namespace."""
        self._release = release
        read_end, self._lifeline = os.pipe()
        _lifelines.add(self._lifeline)
        try:
            self._init = popen(
                _INIT,
                stdin=read_end,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd="/",
                env=environment,
            )
        except OSError:
            self._cut_lifeline()
            raise
        finally:
            os.close(read_end)
        self.init_pid = self._init.pid

    def end(self, leader: subprocess.Popen[bytes] | None, seconds: float) -> bool:
        """Kill all that is in it; whether nothing is left, after `seconds` at most.

        `leader`: the process that was started in it; it is waited for.
        """
        deadline = time.monotonic() + seconds
        self._init.kill()
        # A zombie counts: the kernel keeps the init until the leader is waited for.
        is_over = leader is None or _is_reaped(leader, deadline)
        return is_over and _is_reaped(self._init, deadline)

    def close(self) -> None:
        """Forget it."""
        self._cut_lifeline()
        if self._init.poll() is None:
            _unended.append(self._init)
        else:
            self._release(self.init_pid)

    def _cut_lifeline(self) -> None:
        if self._lifeline in _lifelines:
            _lifelines.discard(self._lifeline)
            os.close(self._lifeline)


Started = tuple[subprocess.Popen[bytes], Namespace]


def _is_reaped(child: subprocess.Popen[bytes], deadline: float) -> bool:
    """Wait for a child; whether it has ended before the deadline."""
    if child.poll() is None:
        with suppress(OSError):
            descriptor = os.pidfd_open(child.pid)
            try:
                poll = select.poll()
                poll.register(descriptor, select.POLLIN)
                poll.poll(max(0.0, deadline - time.monotonic()) * 1000)
            finally:
                os.close(descriptor)
    return child.poll() is not None


def start_inside(
    start: Callable[[], subprocess.Popen[bytes]],
    environment: Mapping[str, str],
    *,
    popen: Popen = subprocess.Popen,
    release: Callable[[int], None] = lambda pid: None,
) -> tuple[subprocess.Popen[bytes], Namespace | None]:
    """Call `start` so that its child gets a namespace; None if the kernel refuses one.

    The init is started by `popen` with `environment`, and `release` is told its pid when it has
    been waited for. Raises what `start` raises.
    """
    done: Future[Started | None] = Future()

    def start_here() -> None:
        try:
            _unshare(_CLONE_NEWPID)
            namespace = Namespace(environment, popen, release)
        except OSError:
            done.set_result(None)
        except BaseException as error:
            done.set_exception(error)
        else:
            _start_with(namespace, start, done)

    thread = threading.Thread(target=start_here, name="namespace", daemon=True)
    thread.start()
    thread.join()
    return done.result() or (start(), None)


def _start_with(
    namespace: Namespace,
    start: Callable[[], subprocess.Popen[bytes]],
    done: Future[Started | None],
) -> None:
    try:
        done.set_result((start(), namespace))
    except BaseException as error:
        namespace.end(None, _PROBE_SECONDS)
        namespace.close()
        done.set_exception(error)


def _unshare(flags: int) -> None:
    """Raises `OSError`."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(flags) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@cache
def are_possible() -> bool:
    """Whether this user may make namespaces on this host. Tried once, in a process of its own."""
    if sys.platform != "linux" or not hasattr(os, "pidfd_open"):
        return False
    argv = [sys.executable, "-I", "-S", __file__]
    try:
        done = subprocess.run(argv, capture_output=True, timeout=_PROBE_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def enable() -> bool:
    """Let every command that this process starts have a namespace; whether that works.

    Call it while the process has one thread: without the rights of root it has to move into a
    user namespace first. There it keeps its user, but nothing below it can change its own, so
    `sudo` and the like no longer work in steps.
    """
    global _enabled
    if are_possible() and _can_start():
        _enabled = os.getpid()
    return are_enabled()


def are_enabled() -> bool:
    return _enabled == os.getpid()


def _can_start() -> bool:
    return _try() or (_enter_user_namespace() and _try())


def _try() -> bool:
    """Whether a process can be started in a namespace and be ended with it."""
    child, namespace = start_inside(lambda: subprocess.Popen(["/bin/sh", "-c", ":"], env={}), {})
    if namespace is None:
        child.wait()
        return False
    works = namespace.end(child, _PROBE_SECONDS)
    namespace.close()
    return works


def _enter_user_namespace() -> bool:
    user, group = os.getuid(), os.getgid()
    try:
        _unshare(_CLONE_NEWUSER)
        for name, line in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            with open(f"/proc/self/{name}", "w") as file:  # noqa: PTH123
                file.write(line)
    except OSError:
        return False
    return True


def _after_fork() -> None:
    """A fork of the worker must not keep its commands alive."""
    for descriptor in _lifelines:
        os.close(descriptor)
    _lifelines.clear()


os.register_at_fork(after_in_child=_after_fork)

if __name__ == "__main__":
    sys.exit(0 if _can_start() else 1)
