"""One attempt at one step, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from executions.engine.cancellation import CancelToken
from executions.engine.outcomes import Outcome
from executions.engine.output import StepOutput
from executions.engine.plan import PlannedStep


def _no_cleanup() -> None:
    pass


def step_key_prefix(run_id: int, pid: int) -> str:
    """How the keys of all steps of a run begin that this worker process carries out."""
    return f"{run_id}:{pid}:"


@dataclass(frozen=True, kw_only=True, slots=True)
class Call:
    """One attempt at one step."""

    step: PlannedStep
    context: Mapping[str, Any]
    """The context of the run; shared with every other step, so it is only read."""
    attempt: int
    """From 1."""
    key: str
    """Unique, without spaces; the cookie in the environment of the attempt's processes."""
    token: CancelToken
    """Its reason says why the step should stop."""
    output: StepOutput
    progress: Callable[[float], None]
    """Takes 0 to 1, from any thread."""


class Executor(Protocol):
    """Carries out the steps of one kind."""

    def run(self, call: Call) -> Outcome:
        """Carry out one attempt, in the thread of its slot; closes the call's output, never raises.

        A result that is there before the request to stop, or a success after it, stands. What
        ends because of the request is `verdicts.stopped`.
        """

    def stop_seconds(self, step: PlannedStep) -> float | None:
        """How long after the request a step may take to return before it counts as abandoned."""

    def forecast(self, step: PlannedStep) -> str:
        """One sentence: what a cancel will do to this step while it runs."""


@dataclass(frozen=True, kw_only=True)
class ExecutorSettings:
    """What executors need to know about the installation."""

    resolve: Callable[[str], Callable[..., Any]]
    """The function of a Python step, by the step's name; raises if there is none."""
    manage: Sequence[str]
    """The argv in front of a management command, such as `[python, "/srv/site/manage.py"]`."""
    isolated: Sequence[str] = ()
    """The argv of the program that runs isolated steps; the number of its channel's descriptor
    follows. It calls `child.main`."""
    work_dir: Path
    """Where working directories of steps are made; created when it is first needed."""
    http_allowed_hosts: frozenset[str] = frozenset()
    """`host` or `host:port` that HTTP steps may reach although the address is not public."""
    secret: Callable[[str], str]
    """The value of a secret by name; raises `KeyError`."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """The environment that commands start with."""
    management_environment: Mapping[str, str] | None = None
    """The same for management commands and isolated steps, which need the site's settings; None: as
    commands."""
    connection_cleanup: Callable[[], None] = _no_cleanup
    """Called after each Python step, in its thread."""
