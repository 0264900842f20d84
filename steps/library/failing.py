"""What goes wrong, on purpose: the Python steps of the demo "What failing looks like"."""

from __future__ import annotations

import time
from typing import NoReturn

from .context import CheckFailed, StepContext


def raise_error(ctx: StepContext) -> NoReturn:
    """Raise an error that has a cause."""
    ctx.log("reading the third of two items")
    items = ["first", "second"]
    try:
        items[2]
    except IndexError as error:
        raise RuntimeError("The list has 2 items, the third was asked for.") from error
    raise AssertionError("unreachable")


def ignore_cancel(ctx: StepContext, seconds: float) -> None:
    """Never look at the cancel token, for `seconds`: nothing can end a thread from outside."""
    ctx.log(f"asleep for {seconds:g} seconds, whatever anybody asks")
    ends_at = time.monotonic() + seconds
    while (left := ends_at - time.monotonic()) > 0:
        time.sleep(min(left, 0.5))
    ctx.log("awake again; by now nobody listens")


def fail_first(ctx: StepContext) -> None:
    """Fail at the first attempt, succeed at any other."""
    if ctx.attempt == 1:
        ctx.log("first attempt: the other side does not answer")
        raise CheckFailed("The other side did not answer. It will, the second time.")
    ctx.log(f"attempt {ctx.attempt}: the other side answers now")
