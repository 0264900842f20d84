"""Who keeps others from writing to a database in a file."""

from __future__ import annotations

import os
from pathlib import Path

from django.db import connection

WRITE_LOCK = 120
"""The byte of the `-shm` file that SQLite locks while it writes in WAL mode."""


def holder() -> int:
    """The pid of the process that is in a write transaction; 0 if none is, or nobody can tell.

    The file itself is never opened: to close it would drop the locks of this very process.
    """
    if connection.vendor != "sqlite":
        return 0
    try:
        file = os.stat(f"{connection.settings_dict['NAME']}-shm")  # noqa: PTH116
        locks = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return 0
    for line in locks:
        # 1: POSIX ADVISORY WRITE PID MAJOR:MINOR:INODE FIRST LAST; those who wait have an arrow.
        _, kind, _, access, *rest = line.split()
        if (kind, access) != ("POSIX", "WRITE"):
            continue
        pid, place, first, last = rest
        end = float("inf") if last == "EOF" else int(last)
        if place.endswith(f":{file.st_ino}") and int(first) <= WRITE_LOCK <= end:
            return int(pid)
    return 0
