"""The batches that the chaos tests run, as a definitions file. JSON is YAML."""

from __future__ import annotations

import sys
from itertools import cycle
from pathlib import Path
from typing import Any

LEDGER = Path(__file__).parent / "effects" / "ledger.py"
LANES = ("critical", "pool")
CRITICAL, POOL = 6, 24
"""Entries of the mixed batch."""
SLEEPERS = 10


def definitions() -> dict[str, Any]:
    return {
        "rules": [{"name": "By lane", "condition": "category_is", "operand": "critical"}],
        "steps": [*_commands(), *_poisons(), SLEEPER],
        "batches": [
            _batch("mixed", _mixed()),
            # A miss has consequences here, and of several runs all but one wait.
            _batch("strict", _mixed(), failure_policy="stop_critical", max_active_runs=1),
            _batch("short", _short()),
            _batch("queue", [_entry("PoolPythonOnce", "only", 0.1)], max_active_runs=1),
            _batch("long", _long(), pool_width=8),
            _batch("marathon", _marathon(), pool_width=2),
            _batch("slow", _slow()),
            _batch("sleepers", _sleepers(), pool_width=SLEEPERS),
            *(_batch(f"poison-{name.lower()}", _poisoned(name)) for name in POISONS),
        ],
    }


POISONS = ("Segfault", "Exit", "Swallow", "Block", "Memory")


def _batch(slug: str, entries: list[Any], **more: Any) -> dict[str, Any]:
    options = {"failure_policy": "continue", "max_active_runs": 50, "pool_width": 4, **more}
    return {"slug": slug, "name": slug.title(), "entries": entries, **options}


def _entry(step: str, name: str, seconds: float) -> dict[str, Any]:
    return {"step": step, "name": name, "parameters": {"seconds": seconds}}


def _kinds(lane: str) -> list[str]:
    return [
        f"{lane.title()}{kind}"
        for kind in ("PythonOnce", "CommandAgain", "PythonAgain", "CommandOnce")
    ]


def _entries(lane: str, number: int, seconds: tuple[float, ...]) -> list[dict[str, Any]]:
    kinds, lengths = cycle(_kinds(lane)), cycle(seconds)
    return [_entry(next(kinds), f"{lane} {count}", next(lengths)) for count in range(1, number + 1)]


def _mixed() -> list[dict[str, Any]]:
    """30 steps of both lanes, about 3 seconds."""
    return [
        *_entries("critical", CRITICAL, (0.1, 0.05, 0.2)),
        *_entries("pool", POOL, (0.05, 0.3, 0.1, 0.0, 0.6)),
    ]


def _short() -> list[dict[str, Any]]:
    return [*_entries("critical", 2, (0.1,)), *_entries("pool", 4, (0.2,))]


def _long() -> list[dict[str, Any]]:
    """Every kind of step in both lanes, most of them longer than a drain; something pending."""
    return [*_entries("pool", 8, (3.0, 2.5)), _entry("PoolPythonOnce", "last", 0.1)]


def _sleepers() -> list[dict[str, Any]]:
    return [{"step": "Sleeper", "name": f"sleep {number}"} for number in range(SLEEPERS)]


def _marathon() -> list[dict[str, Any]]:
    """Goes on for some 10 seconds whatever else starts or dies."""
    return [*_entries("critical", 2, (0.5,)), *_entries("pool", 12, (1.5,))]


def _slow() -> list[dict[str, Any]]:
    return [*_entries("pool", 4, (20.0,)), _entry("PoolPythonOnce", "last", 0.1)]


def _poisoned(name: str) -> list[dict[str, Any]]:
    return [
        {"step": f"{name}Once", "name": "once"},
        {"step": f"{name}Again", "name": "again"},
        *_entries("pool", 2, (0.1,)),
    ]


def _command(name: str, how: str, **more: Any) -> dict[str, Any]:
    argv = [sys.executable, "-I", "-S", str(LEDGER), "{seconds}", how]
    return {
        "name": name,
        "kind": "command",
        "target": {"argv": argv},
        "parameters": {"seconds": 0.1},
        "timeout_seconds": 100,
        **more,
    }


SLEEPER = {
    "name": "Sleeper",
    "kind": "command",
    "category": "pool",
    "target": {"argv": ["sleep", "600"]},
    "timeout_seconds": 600,
}
AGAIN = {"retry_safe": True, "attempts": 5, "backoff_seconds": 0.1}


def _commands() -> list[dict[str, Any]]:
    steps = []
    for lane in LANES:
        # One that is hard to end among those that may be tried again.
        how = "leave" if lane == "pool" else "sleep"
        again = _command(
            f"{lane.title()}CommandAgain", how, category=lane, grace_seconds=0.2, **AGAIN
        )
        steps += [_command(f"{lane.title()}CommandOnce", "sleep", category=lane), again]
    return steps


def _poisons() -> list[dict[str, Any]]:
    brief = {"category": "pool", "grace_seconds": 0.3}
    return [
        _command(
            f"{name}{again}",
            name.lower(),
            **{**brief, "timeout_seconds": seconds, "parameters": {"seconds": 60}},
            **({**AGAIN, "attempts": 2} if again == "Again" else {}),
        )
        for name, seconds in (("Block", 1.5), ("Memory", 60))
        for again in ("Once", "Again")
    ]
