"""Running, listing and cancelling from the command line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from django.core.management import CommandError, call_command

from executions import worker
from executions.engine.status import RunStatus
from executions.models import Run
from steps.models import Batch, BatchStep, Step

pytestmark = pytest.mark.django_db(transaction=True)

EXECUTE: list[Callable[[int], object]] = []


@pytest.fixture
def batch(monkeypatch: pytest.MonkeyPatch) -> Batch:
    """A batch whose runs are executed as soon as they are hinted, in this process."""
    monkeypatch.setattr("executions.dispatch._send", worker.execute)
    batch = Batch.objects.create(slug="nightly", name="Nightly")
    good = Step.objects.create(name="Good", kind="command", target={"argv": ["true"]})
    bad = Step.objects.create(name="Bad", kind="command", target={"argv": ["false"]})
    for position, step in enumerate((good, bad)):
        BatchStep.objects.create(batch=batch, step=step, position=position)
    return batch


def run_command(*arguments: Any, **options: Any) -> str:
    out = io.StringIO()
    call_command(*arguments, stdout=out, **options)
    return out.getvalue()


def exit_code(*arguments: str) -> int:
    with pytest.raises((SystemExit, CommandError)) as caught:
        run_command(*arguments)
    error = caught.value
    return error.returncode if isinstance(error, CommandError) else int(error.code or 0)


def test_wait_ends_with_success(batch: Batch) -> None:
    """Exit code 0 and the results as JSON."""
    results = json.loads(run_command("run_batch", "nightly", "--steps", "Good", "--wait", "--json"))
    assert results["total"] == 1
    assert results["successful"][0]["step"] == "Good"


def test_wait_ends_with_failure(batch: Batch) -> None:
    """Exit code 1 when a step missed."""
    assert exit_code("run_batch", "nightly", "--wait", "--json") == 1
    assert Run.objects.get().status == RunStatus.PARTIALLY_SUCCEEDED


def test_progress_is_shown(batch: Batch, capsys: pytest.CaptureFixture[str]) -> None:
    """Without --json the terminal shows the run and what missed."""
    assert exit_code("run_batch", "nightly", "--wait") == 1
    shown = capsys.readouterr().out
    assert "partially succeeded" in shown
    assert "exit code 1" in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nothing"], "There is no batch 'nothing'. Batches: nightly."),
        (["nightly", "--context", "[1]"], "must be an object"),
        (["nightly", "--context", "{"], "not JSON"),
        (["nightly", "--steps", "Good,Nowhere"], "no entry called"),
        (["nightly", "--option", "pool_width=0"], "pool_width"),
        (["nightly", "--option", "colour=red"], "only: pool_width"),
    ],
)
def test_wrong_usage(batch: Batch, arguments: list[str], words: str) -> None:
    """Exit code 2, a sentence that says what is allowed, and no run."""
    with pytest.raises(CommandError, match=words) as caught:
        run_command("run_batch", *arguments)
    assert caught.value.returncode == 2
    assert not Run.objects.exists()


def test_options_and_context_reach_the_run(batch: Batch) -> None:
    """Text becomes the value that the option has."""
    options = ["--option", "pool_width=7", "--option", "failure_policy=continue"]
    run_command("run_batch", "nightly", "--context", '{"a": 1}', *options)
    run = Run.objects.get()
    assert (run.pool_width, run.failure_policy) == (7, "continue")
    assert run.input.load_plan().context == {"a": 1}


def test_ctrl_c_cancels_the_run(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 130, and the run says who cancelled it."""
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)

    def interrupt(seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("executions.management.commands.run_batch.time.sleep", interrupt)
    assert exit_code("run_batch", "nightly", "--wait", "--json") == 130
    run = Run.objects.get()
    assert (run.status, run.cancel_note) == (RunStatus.CANCELLED, "Ctrl-C")


def test_cancel_commands(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """One step, one run, everything; what has ended is said to have ended."""
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)
    first, second = (_start(batch) for _ in range(2))
    assert "cancelled" in run_command("cancel_run", first.pk, step="Good")
    assert first.step_runs.get(name="Good").status == "cancelled"
    assert "cancelled" in run_command("cancel_run", first.pk, note="late")
    assert "already ended" in run_command("cancel_run", first.pk)
    assert str(second.pk) in run_command("cancel_run", all=True)
    assert "nothing was active" in run_command("cancel_run", all=True)
    assert exit_code("cancel_run") == 2
    assert exit_code("cancel_run", "999999") == 2
    assert exit_code("cancel_run", str(first.pk), "--step", "Nowhere") == 2


def test_active_runs(batch: Batch, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every active run with what it waits for, also as JSON."""
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)
    assert "Nothing runs" in run_command("active_runs")
    run = _start(batch)
    assert "nightly" in run_command("active_runs")
    (shown,) = json.loads(run_command("active_runs", json=True))
    assert (shown["id"], shown["status"]) == (run.pk, "queued")
    assert shown["waiting"]


def _start(batch: Batch) -> Run:
    run_command("run_batch", batch.slug)
    return Run.objects.order_by("-pk")[0]
