"""Steps that use the site from a process of their own."""

from __future__ import annotations

import asyncio
import os
import threading
from typing import Any

from steps.models import Batch
from steps.registry import step


@step("CountingStep", isolation="process")
def count(ctx: Any) -> dict[str, Any]:
    """Reads and writes the database, and shows a secret."""
    Batch.objects.create(slug="from-the-step", name=ctx.params["name"])
    ctx.log("token", ctx.secret("TOKEN"))
    print("printed")
    ctx.progress(1, 2)
    return {
        "batches": Batch.objects.count(),
        "process": os.getpid(),
        "main": threading.current_thread() is threading.main_thread(),
        "secrets": [name for name in os.environ if name.startswith("STEPSITE_SECRET_")],
    }


@step("FailingStep", isolation="process")
def fail(ctx: Any) -> None:
    Batch.objects.get(slug="none")


@step("SleepingStep", isolation="process")
async def sleep(ctx: Any) -> None:
    ctx.log("asleep")
    await asyncio.Event().wait()
