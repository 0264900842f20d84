"""Waiting for conditions, with a deadline, and database work beside an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, TypeVar

from django.db import connections

DEADLINE = 10.0
T = TypeVar("T")


async def in_database(work: Callable[..., T], *arguments: Any, **named: Any) -> T:
    """Do something with the database in a thread that leaves no connection behind."""

    def worker() -> T:
        try:
            return work(*arguments, **named)
        finally:
            connections.close_all()

    return await asyncio.to_thread(worker)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        while not condition():
            await asyncio.sleep(0.005)
