"""What a cancel would do right now: sentences per running step, and the processes behind them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
from django.utils import timezone

from executions.engine.plan import Lane, Plan, PlannedStep, RunOptions
from executions.engine.reaper import COOKIE
from executions.forecast import ASKED, StepForecast, forecast
from executions.identity import ProcessIdentity, process_identity
from executions.models import CancelMode, Run, RunInput
from executions.worker import executors
from tests.factories import change_steps, make_run
from tests.processes import until

pytestmark = pytest.mark.django_db

KINDS = ("command", "python", "http", "management")
TREE = """
import subprocess, sys
stay = [sys.executable, "-c", "import sys; sys.stdin.read()"]
children = [subprocess.Popen(stay), subprocess.Popen(stay, env={})]
print("ready", flush=True)
sys.stdin.read()
"""
"""A process with two children, one of which has no environment; all end with its input."""


@pytest.fixture
def run() -> Run:
    """Held by this very process: a running step of each kind, and one that waits."""
    run = make_run(["running"] * len(KINDS) + ["pending"], holder=process_identity())
    steps = [
        PlannedStep(
            position=at,
            name=f"entry {at}",
            step_name="S",
            kind=kind,
            lane=Lane.POOL,
            grace_seconds=7,
        )
        for at, kind in enumerate((*KINDS, "http"))
    ]
    for at, kind in enumerate(KINDS):
        run.step_runs.filter(position=at).update(kind=kind)
    plan = Plan(batch="nightly", ruleset="", options=RunOptions(), context={}, steps=tuple(steps))
    RunInput.objects.create(run=run, plan=plan.to_json())
    return run


@pytest.fixture
def tree() -> Iterator[Callable[[str], subprocess.Popen[str]]]:
    """`tree(key)`: three living processes, of which the first carries the key."""
    started = []

    def start(key: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", TREE],
            env={**os.environ, COOKIE: key},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
        return process

    yield start
    for process in started:
        assert process.stdin
        assert process.stdout
        process.stdin.close()
        process.wait(30)
        process.stdout.close()


def by_position(run: Run) -> dict[int, StepForecast]:
    return {step["position"]: step for step in forecast(run)}


def key_of(run: Run, position: int, attempt: int = 1) -> str:
    return f"{run.pk}:{os.getpid()}:0a1b2c:{position}:{attempt}"


def test_each_running_step_has_the_sentence_of_its_executor(run: Run) -> None:
    """With its own grace; what does not run has no forecast."""
    found = by_position(run)
    steps = run.input.load_plan().steps
    assert [step["kind"] for step in found.values()] == list(KINDS)
    for position, step in found.items():
        assert step["text"] == executors().get(step["kind"]).forecast(steps[position])
        assert step["id"] == run.step_runs.get(position=position).pk
        assert step["processes"] is None
    assert "7 s" in found[0]["text"]


def test_protected_steps_and_steps_that_were_asked(run: Run) -> None:
    """What is asked already is not promised again."""
    change_steps(run, [0], protected=True)
    RunInput.objects.update(plan=_protected(run.input.load_plan()).to_json())
    change_steps(run, [1], cancel_requested_at=timezone.now())
    found = by_position(run)
    assert found[0]["text"].startswith("Protected")
    assert found[1]["text"] == ASKED != found[2]["text"]
    run.cancel_requested_at, run.cancel_mode = timezone.now(), CancelMode.STOP
    found = by_position(run)
    assert found[0]["text"].startswith("Protected")
    assert found[2]["text"] == ASKED


def _protected(plan: Plan) -> Plan:
    return replace(plan, steps=(replace(plan.steps[0], protected=True), *plan.steps[1:]))


def test_living_processes_are_counted(run: Run, tree: Callable[..., object]) -> None:
    """The whole tree of each step, also what has no environment any more; not another attempt's."""
    tree(key_of(run, 0))
    tree(key_of(run, 1) + ":1")
    tree(key_of(run, 1) + ":2")
    tree(key_of(run, 3, attempt=2))
    tree(f"1{key_of(run, 2)}")
    numbers = {position: step["processes"] for position, step in by_position(run).items()}
    assert numbers == {0: 3, 1: 6, 2: None, 3: None}


def test_ended_processes_are_not_counted(run: Run, tree: Callable[..., object]) -> None:
    """The number follows what lives."""
    process = tree(key_of(run, 0))
    assert by_position(run)[0]["processes"] == 3
    process.stdin.close()  # type: ignore[attr-defined]
    until(lambda: by_position(run)[0]["processes"] is None, "the end of the tree")


def test_keys_that_are_none_count_for_nothing(run: Run, tree: Callable[..., object]) -> None:
    """A step can write whatever it likes into the environment of its children."""
    prefix = f"{run.pk}:{os.getpid()}:"
    for rest in ("", "x", "ab:0", "ab:0:1:", "ab:-1:1", f"ab:0:{'1' * 5000}", "ab:0:1:2:3"):
        tree(prefix + rest)
    assert {step["processes"] for step in forecast(run)} == {None}


@pytest.mark.parametrize("change", [{"boot": "another"}, {"pid": 2**22}, {"started": "0"}])
def test_where_nothing_can_be_seen_no_number_is_given(
    run: Run, tree: Callable[..., object], change: dict[str, object]
) -> None:
    """The worker is on another machine, or is gone."""
    tree(key_of(run, 0))
    run.holder = str(replace(ProcessIdentity.parse(run.holder), **change))  # type: ignore[arg-type]
    step = by_position(run)[0]
    assert step["processes"] is None
    assert "SIGTERM" in step["text"]


def test_without_a_readable_plan_the_kind_still_tells(run: Run) -> None:
    """As after an update of the code."""
    RunInput.objects.update(plan={"version": "of tomorrow"})
    assert "SIGTERM to the whole process tree" in by_position(run)[0]["text"]
    RunInput.objects.all().delete()
    assert "the connection is closed" in by_position(run)[2]["text"]


def test_an_executor_that_fails_stands_in_nobodys_way(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A project's own may do anything."""

    class Broken:
        def forecast(self, step: PlannedStep) -> str:
            raise RuntimeError("no idea")

    monkeypatch.setitem(executors()._executors, "http", Broken())  # type: ignore[arg-type]
    assert "the connection is closed" in by_position(run)[2]["text"]
    assert "no idea" in caplog.text
