"""The Python steps. What they do goes by their parameters."""

from __future__ import annotations

import ctypes
import os
import time
from typing import Any

from steps.registry import step

from .ledger import note

TIMEOUT_SECONDS = 100


def leave_traces(ctx: Any) -> None:
    """Note the begin, last `seconds`, note the end."""
    note(ctx.context["ledger"], ctx.key, "begin")
    ctx.log(f"attempt {ctx.attempt} began")
    ctx.sleep(ctx.params["seconds"])
    note(ctx.context["ledger"], ctx.key, "end")


for lane in ("critical", "pool"):
    for name, retry_safe in (("Once", False), ("Again", True)):
        step(
            f"{lane.title()}Python{name}",
            category=lane,
            timeout=TIMEOUT_SECONDS,
            retry_safe=retry_safe,
            attempts=5,
            backoff=0.1,
            parameters={"seconds": 0.1},
        )(leave_traces)


def segfault() -> None:
    ctypes.string_at(0)


def leave_process() -> None:
    os._exit(1)


def swallow_everything() -> None:
    """Goes on whatever is thrown at it; not for ever, lest a failed test leave it."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            time.sleep(0.05)
        except BaseException:
            continue


POISONS = {"Segfault": segfault, "Exit": leave_process, "Swallow": swallow_everything}


def take(poison: str) -> Any:
    def run(ctx: Any) -> None:
        note(ctx.context["ledger"], ctx.key, "begin")
        POISONS[poison]()
        note(ctx.context["ledger"], ctx.key, "end")

    run.__qualname__ = f"take.{poison}"
    return run


for poison in POISONS:
    for name, retry_safe in (("Once", False), ("Again", True)):
        step(
            f"{poison}{name}",
            category="pool",
            timeout=1.5 if poison == "Swallow" else TIMEOUT_SECONDS,
            grace=0.5,
            retry_safe=retry_safe,
            attempts=2,
            backoff=0.1,
        )(take(poison))
