"""The steps and batches of the torture tests."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from .noisy.emit import CASES
from .secrets_of_tests import CANARIES

NOISY = Path(__file__).parent / "noisy"
QUICK_BYTES, FULL_BYTES = 12_000_000, 200_000_000
FULL_LINE_BYTES = 50_000_000


def _command(name: str, program: str, *arguments: str, **target: Any) -> dict[str, Any]:
    argv = [sys.executable, "-I", "-S", str(NOISY / program), *arguments]
    return {
        "name": name,
        "kind": "command",
        "target": {"argv": argv, **target},
        "timeout_seconds": 600,
        "parameters": {"case": "lines", "bytes": 1},
    }


def _emit(case: str, size: int) -> dict[str, Any]:
    return {"step": "emit", "name": case, "parameters": {"case": case, "bytes": size}}


def _everything(size: int, line: int) -> list[dict[str, Any]]:
    commands = [_emit(case, line if case == "one_line" else size) for case in CASES]
    logged = [
        {"step": f"log {isolation}", "name": f"log {isolation}"}
        | {"parameters": {"case": "ansi", "bytes": size // 2}}
        for isolation in ("thread", "process")
    ]
    return [*commands, *logged]


def _telling() -> list[dict[str, Any]]:
    return [
        {"step": "tell", "name": "tell command"},
        *(
            {"step": f"{what} {isolation}", "parameters": {"secrets": list(CANARIES)}}
            for what in ("tell", "fail", "pass_on")
            for isolation in ("thread", "process")
        ),
    ]


def _batch(slug: str, entries: list[dict[str, Any]], width: int = 4) -> dict[str, Any]:
    return {
        "slug": slug,
        "name": slug,
        "pool_width": width,
        "max_active_runs": 9,
        "entries": entries,
    }


def definitions() -> dict[str, Any]:
    return {
        "steps": [
            _command("emit", "emit.py", "{case}", "{bytes}"),
            _command("flood", "emit.py", "lines", "0", "20000000"),
            _command("murmur", "emit.py", "lines", "{bytes}", "5000000"),
            _command("count", "count.py", "0.01", "20"),
            _command("tell", "tell.py", *CANARIES, secret_env=list(CANARIES)),
        ],
        "batches": [
            _batch("small", [_emit("lines", 1)]),
            _batch("quick", _everything(QUICK_BYTES, QUICK_BYTES)),
            _batch("full", _everything(FULL_BYTES, FULL_LINE_BYTES)),
            _batch("flood", [{"step": "flood"}]),
            _batch(
                "choir",
                [
                    {"step": "murmur", "name": f"murmur {n}", "parameters": {"bytes": 150_000_000}}
                    for n in range(20)
                ],
                width=20,
            ),
            _batch("count", [{"step": "count"}]),
            _batch(
                "secrets",
                [
                    *_telling(),
                    {"step": "bystander thread"},
                    {"step": "bystander process"},
                ],
                width=9,
            ),
        ],
    }
