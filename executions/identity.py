"""Which process holds a run, and whether it is still there."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Differs after every boot and on every machine; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def pid_namespace() -> str:
    """Within what pids mean the same process: a container has one of its own."""
    try:
        return str(Path("/proc/self/ns/pid").stat().st_ino)
    except OSError:
        return ""


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if there is no such process.

    With the pid it names a process for good, since pids are used again.
    """
    fields = _fields(pid)
    return "" if not fields or fields[0] in "ZX" else fields[19]


def _fields(pid: int) -> list[str]:
    """`/proc/PID/stat` from the state on; empty if there is no such process."""
    try:
        line = Path(f"/proc/{pid}/stat").read_bytes()
    except OSError:
        return []
    # The name before it may be anything, also no text.
    return line.rpartition(b")")[2].decode().split()


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process of all machines for all time."""

    host: str
    """For people. Two containers may have the same."""
    boot: str
    namespace: str
    pid: int
    started: str

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        host, boot, namespace, pid, started = text.split("|")
        return cls(host, boot, namespace, int(pid), started)

    def __str__(self) -> str:
        return f"{self.host}|{self.boot}|{self.namespace}|{self.pid}|{self.started}"

    @property
    def is_visible(self) -> bool:
        """Whether this process can tell if that one lives."""
        return bool(self.boot) and (self.boot, self.namespace) == (boot_id(), pid_namespace())

    @property
    def is_proven_dead(self) -> bool:
        return self.is_visible and start_time(self.pid) != self.started

    @property
    def is_gone(self) -> bool:
        """Whether it is proven dead, and no other process has its pid."""
        return self.is_visible and not start_time(self.pid)

    @property
    def is_of_another_boot(self) -> bool:
        """Whether it ran on another machine, or on this one before it was started anew."""
        return bool(self.boot and boot_id()) and self.boot != boot_id()

    def is_below(self, ancestor: int) -> bool:
        """Whether it lives and descends from another process, `ancestor`."""
        if not self.is_visible or self.is_proven_dead:
            return False
        pid = self.pid
        while pid > 1:
            fields = _fields(pid)
            pid = int(fields[1]) if fields else 0
            if pid == ancestor:
                return True
        return False


def process_identity(pid: int | None = None) -> str:
    """The identity of a process of this host, by default of this one."""
    pid = pid or os.getpid()
    host = socket.gethostname()[:100].replace("|", "-")
    return str(ProcessIdentity(host, boot_id(), pid_namespace(), pid, start_time(pid)))
