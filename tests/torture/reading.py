"""What a site says about a run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from tests.acceptance.client import Client
from tests.processes import until as until_soon

LONG_SECONDS = 900.0
PATIENCE_SECONDS = 120.0
"""All of these tests keep the machine busy."""
T = TypeVar("T")


def until(condition: Callable[[], T], what: str, *, seconds: float = PATIENCE_SECONDS) -> T:
    return until_soon(condition, what, seconds=seconds)


def finish(api: Client, run_id: int, seconds: float = LONG_SECONDS) -> dict[str, Any]:
    """The run, once it has ended."""

    def ended() -> dict[str, Any] | None:
        run = api.run(run_id)
        return run if run["finished_at"] else None

    return until(ended, f"the end of run {run_id}", seconds=seconds)


def raw_log(api: Client, step_run_id: int) -> bytes:
    """All output that is stored, as it comes over HTTP."""
    return api.read(f"api/step-runs/{step_run_id}/log?raw=1")
