"""Waiting for a file."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

EVERY_GATE = "every gate"
"""A file of this name opens all gates of its folder."""
DEADLINE_SECONDS = 90.0
"""A test that failed opens its gates; this is for tests that were killed."""
LOOK_SECONDS = 0.01


def wait_at(folder: Path, name: str, pause: Callable[[float], None] = time.sleep) -> None:
    gates = (folder / name, folder / EVERY_GATE)
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not any(gate.exists() for gate in gates):
        if time.monotonic() > deadline:
            raise TimeoutError(f"Nobody opened {gates[0]} within {DEADLINE_SECONDS:.0f} s.")
        pause(LOOK_SECONDS)
