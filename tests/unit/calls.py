"""Calls for executors under test, and a look at what they left behind."""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from executions.engine import reaper
from executions.engine.cancellation import CancelToken
from executions.engine.executors import Call, Executor, ExecutorSettings
from executions.engine.outcomes import Outcome
from executions.engine.output import Masker, StepOutput
from executions.engine.plan import Lane, PlannedStep

DEADLINE = 30.0
"""Seconds after which a test gives up waiting."""

_numbers = itertools.count(1)


def make_call(
    target: Mapping[str, Any] | None = None,
    *,
    context: Mapping[str, Any] | None = None,
    **fields: Any,
) -> Call:
    values = {"name": "entry", "step_name": "step", "kind": "test", "grace_seconds": 0.2} | fields
    return Call(
        step=PlannedStep(position=3, lane=Lane.POOL, target=target or {}, **values),
        context=context if context is not None else {},
        attempt=1,
        key=f"test:{os.getpid()}:{next(_numbers)}",
        token=CancelToken(),
        output=StepOutput(mask=Masker()),
        progress=lambda fraction: None,
    )


def make_settings(work_dir: Path, **fields: Any) -> ExecutorSettings:
    def secret(name: str) -> str:
        return {"TOKEN": "s3cr3t-v4lue"}[name]

    values: dict[str, Any] = {
        "resolve": lambda name: None,
        "manage": [sys.executable, "manage.py"],
        "work_dir": work_dir / "work",
        "secret": secret,
        "environment": {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"},
    }
    return ExecutorSettings(**(values | fields))


def output_of(call: Call) -> str:
    call.output.close()
    return (call.output.take() or b"").decode()


def wait_until(condition: Callable[[], Any], what: str) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + DEADLINE
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited in vain: {what}"
        time.sleep(0.002)
    return value


def processes_of(key: str) -> list[int]:
    """Living processes with the cookie of `key` or of a command that it ran."""
    return [
        entry.pid
        for entry in reaper.processes()
        if entry.is_alive and (reaper.cookie(entry.pid) or "").startswith(key)
    ]


def processes_named(words: str) -> list[int]:
    """Living processes whose command line contains `words`."""
    return [
        entry.pid
        for entry in reaper.processes()
        if entry.is_alive
        and words.encode() in reaper.read(f"/proc/{entry.pid}/cmdline").replace(b"\0", b" ")
    ]


class Started:
    """An executor at work in a thread, as in a slot."""

    def __init__(self, executor: Executor, call: Call) -> None:
        self.call = call
        self._outcome: list[Outcome] = []
        self._thread = threading.Thread(
            target=lambda: self._outcome.append(executor.run(call)), daemon=True
        )
        self._thread.start()

    def outcome(self) -> Outcome:
        self._thread.join(DEADLINE)
        assert self._outcome, "the executor did not return"
        return self._outcome[0]
