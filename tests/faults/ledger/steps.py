"""Steps that write when they begin and end into the file that the run's context names."""

from __future__ import annotations

import json
import os
import time
from typing import Any

from steps.registry import step


def note(path: str, **entry: Any) -> None:
    """One line, in one write, on the disk when this returns."""
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, json.dumps(entry).encode() + b"\n")
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@step("LedgerStep", timeout=120)
def write_ledger(ctx: Any) -> None:
    """Note the begin and the end, `seconds` apart, and print `bytes` of output between."""
    told = {**ctx.context, **ctx.params}
    what = {"step": ctx.name, "attempt": ctx.attempt, "key": ctx.key}
    note(told["ledger"], what="begin", at=time.monotonic(), **what)
    for _ in range(int(told.get("bytes", 0)) // 1024):
        ctx.log("x" * 1023)
    ctx.sleep(float(told.get("seconds", 0.2)))
    note(told["ledger"], what="end", at=time.monotonic(), **what)


@step("LedgerSafeStep", timeout=120, retry_safe=True, attempts=5, backoff=0.2)
def write_ledger_safely(ctx: Any) -> None:
    """The same, and may be tried again."""
    write_ledger(ctx)


@step("LedgerFailingStep", timeout=120, retry_safe=True, attempts=2, backoff=5)
def fail_once(ctx: Any) -> None:
    """Fails at the first attempt."""
    note(ctx.context["ledger"], what="begin", at=time.monotonic(), step=ctx.name, key=ctx.key)
    if ctx.attempt == 1:
        raise RuntimeError("the first attempt fails")
