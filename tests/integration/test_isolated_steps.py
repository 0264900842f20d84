"""Isolated steps in whole runs: the real program, with Django, the database and the worker."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.db import connection

from executions import actions, queries, worker
from executions.actions import Actor
from executions.engine import trees
from executions.engine.executors import step_key_prefix
from executions.models import Run, StepRun
from steps.models import Batch, BatchStep, Step
from tests.processes import until

pytestmark = pytest.mark.django_db(transaction=True)

ADA = Actor("ada")
DEADLINE = 60.0


@pytest.fixture(autouse=True)
def _this_database_for_steps(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps in other processes find the database of the tests, and the steps of `isolating`."""
    name = connection.settings_dict["NAME"]
    if connection.vendor == "sqlite":
        url = f"sqlite:///{name}"
    else:
        url = urlsplit(os.environ["DATABASE_URL"])._replace(path=f"/{name}").geturl()
    monkeypatch.setenv("DATABASE_URL", url)
    monkeypatch.setenv("STEPSITE_APPS", "tests.integration.isolating")
    monkeypatch.setenv("STEPSITE_SECRET_TOKEN", "s3cr3t-v4lue")
    monkeypatch.setattr("executions.dispatch._send", lambda run_id: None)
    worker.executors.cache_clear()
    yield
    worker.executors.cache_clear()


def start(*names: str, **fields: Any) -> Run:
    batch = Batch.objects.create(slug="nightly", name="Nightly")
    for name in names:
        step = Step.objects.create(
            name=name, kind="python", target={"isolation": "process"}, **fields
        )
        BatchStep.objects.create(batch=batch, step=step)
    return actions.start_run(batch, actor=ADA)


def log_of(step_run: StepRun) -> str:
    return queries.read_log(step_run.pk, 0, 100_000).data.decode()


def test_a_step_in_a_process_uses_the_site() -> None:
    """ORM, parameters, secret, output and result are what they are in a thread."""
    run = start("CountingStep", parameters={"name": "Ünï"}, timeout_seconds=DEADLINE)
    assert worker.execute(run.pk)
    step_run = run.step_runs.get()
    assert (step_run.status, step_run.message) == ("succeeded", "")
    pid = step_run.result.pop("process")
    assert pid != os.getpid()
    assert step_run.result == {"batches": 2, "main": True, "secrets": []}
    assert Batch.objects.get(slug="from-the-step").name == "Ünï"
    assert log_of(step_run) == "token •••\nprinted\n"
    assert step_run.progress == 0.5


def test_its_errors_are_told_and_hurt_no_other_step() -> None:
    """An exception of the site's own code, and a step whose function is nowhere."""
    run = start("FailingStep", "NowhereStep", timeout_seconds=DEADLINE)
    worker.execute(run.pk)
    failed, unknown = run.step_runs.order_by("position")
    assert (failed.status, failed.reason) == ("failed", "exception")
    assert failed.message.startswith("DoesNotExist: Batch matching query does not exist. (steps.py")
    assert "steps.py" in log_of(failed)
    assert (unknown.status, unknown.reason) == ("failed", "unknown_step")
    assert 'No function is registered for the step "NowhereStep"' in unknown.message


def test_it_is_cancelled_with_a_receipt() -> None:
    """The request reaches the process, and CANCELLED says that none is left."""
    run = start("SleepingStep", timeout_seconds=DEADLINE)
    thread = threading.Thread(target=_execute, args=(run.pk,), daemon=True)
    thread.start()
    step_run = run.step_runs.get()
    until(lambda: log_of(step_run) == "asleep\n", "the step", seconds=DEADLINE)
    actions.cancel_run(run.pk, actor=ADA)
    thread.join(DEADLINE)
    assert not trees.keys_left(step_key_prefix(run.pk, os.getpid()))
    step_run.refresh_from_db()
    assert (step_run.status, step_run.reason) == ("cancelled", "run_cancelled")
    assert step_run.message == "cancelled with its run; 1 process ended with SIGTERM"
    assert step_run.receipt["proven_empty"]


def _execute(run_id: int) -> None:
    try:
        worker.execute(run_id)
    finally:
        connection.close()
