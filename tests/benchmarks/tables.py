"""How figures are shown: as markdown, so that docs/performance.md can hold them as printed."""

from __future__ import annotations

import os
import platform
import sqlite3
import statistics
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import django


def say(text: str = "") -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def head(title: str, columns: Sequence[str]) -> None:
    """The title of a table and its first lines; the rows may take their time."""
    say(f"\n{title}\n")
    row(columns)
    say(f"|{'---|' * len(columns)}")


def row(cells: Iterable[object]) -> None:
    say(f"| {' | '.join(map(str, cells))} |")


def machine() -> None:
    """What the figures hold for."""
    head("Machine", ("what", "which"))
    row(("processor", f"{_processor()}, {os.cpu_count()} cores"))
    row(("system", f"{platform.system()} {platform.release()}"))
    row(("Python, Django", f"{platform.python_version()}, {django.get_version()}"))
    row(("SQLite", sqlite3.sqlite_version))
    loads = " ".join(f"{load:.2f}" for load in os.getloadavg())
    row(("load before (1, 5, 15 minutes)", loads))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that is not below `share` (0 to 1) of them: one that was measured."""
    ordered = sorted(samples)
    return ordered[max(0, -int(-share * len(ordered) // 1) - 1)]


DISTRIBUTION = ("samples", "median", "p95", "range")


def distribution(seconds: Sequence[float]) -> tuple[str, ...]:
    """Cells under `DISTRIBUTION`."""
    low, middle, high, highest = (
        f"{1000 * value:.0f} ms"
        for value in (
            min(seconds),
            statistics.median(seconds),
            percentile(seconds, 0.95),
            max(seconds),
        )
    )
    return str(len(seconds)), middle, high, f"{low} to {highest}"
