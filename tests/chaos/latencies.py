"""From a cancel request to the end of the process, for a command that obeys SIGTERM."""

from __future__ import annotations

import random
import time

from tests.benchmarks.latencies import Death
from tests.benchmarks.tables import DISTRIBUTION, distribution, head, row
from tests.processes import until

from .definitions import SLEEPERS
from .stage import Stage, Stages

PAUSES = (0.05, 0.4)


def measure(stages: Stages, kind: str, number: int) -> None:
    stage = stages.new(kind)
    try:
        if stage.set_up.has_many_workers:
            stage.web()
            stage.worker()
        else:
            stage.up()
        samples: list[float] = []
        while len(samples) < number:
            samples += _cancels(stage)
        head(f"Cancels, {kind}", ("from", "to", *DISTRIBUTION))
        row(("POST cancel", "process gone", *distribution(samples[:number])))
    finally:
        stage.close()


def _cancels(stage: Stage) -> list[float]:
    """Cancel every step of one run by itself."""
    run_id = stage.trigger("sleepers")
    until(lambda: len(stage.step_processes()) == SLEEPERS, "all processes")
    query = f"SELECT id, position FROM executions_steprun WHERE run_id = {run_id} ORDER BY position"
    samples = []
    for step_run, position in stage.rows(query):
        [pid] = [pid for pid in stage.step_processes() if f":{position}:1" in _key(pid)]
        time.sleep(random.uniform(*PAUSES))
        with Death(pid) as death:
            posted = time.time()
            stage.client.post(f"api/step-runs/{step_run}/cancel", {})
        samples.append(death.seen - posted)
    stage.await_end()
    return samples


def _key(pid: int) -> str:
    from executions.engine import reaper

    for entry in reaper.read(f"/proc/{pid}/environ").split(b"\0"):
        name, _, value = entry.partition(b"=")
        if name == b"STEPSITE_STEP":
            return value.decode()
    return ""
