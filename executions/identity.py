"""Which process holds a run, and whether it is still there."""

from __future__ import annotations

import os
import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path


@cache
def boot_id() -> str:
    """Differs after every boot of this host; empty where the system does not tell."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def start_time(pid: int) -> str:
    """When a process started, in clock ticks since boot; empty if there is no such process.

    With the pid it names a process for good, since pids are used again.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    zombie = fields[0] in "ZX"
    return "" if zombie else fields[19]


@dataclass(frozen=True, slots=True)
class ProcessIdentity:
    """Names one process on one host for all time."""

    host: str
    boot: str
    pid: int
    started: str

    @classmethod
    def parse(cls, text: str) -> ProcessIdentity:
        host, boot, pid, started = text.split("|")
        return cls(host, boot, int(pid), started)

    def __str__(self) -> str:
        return f"{self.host}|{self.boot}|{self.pid}|{self.started}"

    @property
    def is_local(self) -> bool:
        """Whether this host can tell if it lives."""
        return self.host == socket.gethostname() and bool(self.boot)

    @property
    def is_proven_dead(self) -> bool:
        if not self.is_local:
            return False
        return self.boot != boot_id() or start_time(self.pid) != self.started


def process_identity(pid: int | None = None) -> str:
    """The identity of a process of this host, by default of this one."""
    pid = pid or os.getpid()
    return str(ProcessIdentity(socket.gethostname()[:100], boot_id(), pid, start_time(pid)))
