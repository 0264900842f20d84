"""The Python steps of the browser tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steps.registry import step

from .gate import wait_at

TIMEOUT_SECONDS = 100


def _wait(ctx: Any, name: str) -> None:
    if gates := ctx.context.get("gates"):
        wait_at(Path(gates), name, ctx.sleep)


def hold(ctx: Any) -> None:
    """Last until the gate of this name is open."""
    ctx.log(f"{ctx.name} begins")
    _wait(ctx, ctx.name)
    ctx.log(f"{ctx.name} ends")


for name, category in (
    ("CreateIndexStep", "search"),
    ("SendDigestStep", "mail"),
    ("WarmCacheStep", "site"),
    ("PruneStep", "site"),
    ("MeasureStep", "site"),
):
    step(name, category=category, timeout=TIMEOUT_SECONDS, description="Waits for its gate.")(hold)

step("GuardedStep", timeout=TIMEOUT_SECONDS, protected=True)(hold)


@step("HeedlessStep", timeout=TIMEOUT_SECONDS, grace=0.2)
def ignore(ctx: Any) -> None:
    """Does not look whether it was asked to stop."""
    if gates := ctx.context.get("gates"):
        wait_at(Path(gates), "HeedlessStep")


@step("BrokenStep", timeout=TIMEOUT_SECONDS)
def fail(ctx: Any) -> None:
    """Fails at its gate."""
    _wait(ctx, "BrokenStep")
    raise RuntimeError("broken on purpose")


@step("TalkingStep", timeout=TIMEOUT_SECONDS)
def talk(ctx: Any) -> None:
    """Prints a line for each gate that opens."""
    for number in range(1, 4):
        ctx.log(f"this is line {number}")
        ctx.progress(number, 4)
        _wait(ctx, f"line {number}")


@step("MarkupStep", timeout=TIMEOUT_SECONDS)
def print_markup(ctx: Any) -> None:
    """Prints markup and fails with some."""
    ctx.log("<script>window.broken = 'output'</script>")
    ctx.log("<img src=x onerror=\"window.broken = 'output'\"> &amp; \x1b[31mred\x1b[0m")
    _wait(ctx, "markup")
    raise RuntimeError("<b onclick=alert(1)>failed</b><script>window.broken = 'message'</script>")
