"""Stand-ins that several tests use."""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from executions.engine.cancellation import StepCancelled


@dataclass
class FakeCompleted:
    exit_code: int
    stdout: str


class FakeContext:
    """A step context that keeps what it is told; what its commands write is logged.

    `cancel_at` is the number of the look at the token (from 1) that finds it fired.
    """

    def __init__(self, *, cancel_at: int | None = None, attempt: int = 1, **params: Any) -> None:
        self.attempt = attempt
        self.params: Mapping[str, Any] = params
        self.context: Mapping[str, Any] = {}
        self.lines: list[str] = []
        self.progressed: list[tuple[float, float]] = []
        self.looks = 0
        self._cancel_at = cancel_at

    def log(self, text: str) -> None:
        self.lines.append(text)

    def progress(self, done: float, total: float = 1) -> None:
        self.progressed.append((done, total))

    def check_cancelled(self) -> None:
        self.looks += 1
        if self._cancel_at is not None and self.looks >= self._cancel_at:
            raise StepCancelled

    def run(
        self, argv: Sequence[str], *, check: bool = True, cwd: Path | None = None
    ) -> FakeCompleted:
        self.check_cancelled()
        ended = subprocess.run(
            argv, check=check, cwd=cwd, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.lines += ended.stdout.splitlines()
        return FakeCompleted(ended.returncode, ended.stdout)

    @property
    def text(self) -> str:
        return "\n".join(self.lines)
