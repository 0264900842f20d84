"""Steps that write the time, by the clock of this machine, into the folder of the run's context."""

from __future__ import annotations

import random
import time
from pathlib import Path
from typing import Any

from steps.registry import step
from tests.acceptance.gated.gate import wait_at

TIMEOUT_SECONDS = 100
SHORTEST_SECONDS, LONGEST_SECONDS = 0.12, 0.4


def _stamp(ctx: Any, moment: float) -> None:
    Path(ctx.context["folder"], ctx.name).write_text(repr(moment))


@step("StampFirst", category="benchmark")
def stamp_first(ctx: Any) -> None:
    """Looks at the clock before it does anything else."""
    _stamp(ctx, time.time())


@step("StampLast", category="benchmark")
def stamp_last(ctx: Any) -> None:
    """Ends at no particular moment, right after a look at the clock."""
    ctx.sleep(random.uniform(SHORTEST_SECONDS, LONGEST_SECONDS))
    _stamp(ctx, time.time())


@step("Nothing", category="benchmark")
def nothing(ctx: Any) -> None:
    """Ends at once."""


@step("Gate", category="benchmark", timeout=TIMEOUT_SECONDS)
def gate(ctx: Any) -> None:
    """Holds its run back until the gate is open."""
    wait_at(Path(ctx.context["folder"]), "gate", ctx.sleep)
