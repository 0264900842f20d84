"""How much the engine costs beside the limits of the machine. Part of `make bench`.

Each round measures the limits and stepsite one after the other in this process, and ratios are of
one round. Figures are medians over the rounds.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .tables import head, machine, row

ROUNDS = 5


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="without the 10,000-step rows")
    given = parser.parse_args()
    machine()
    measure(rounds=given.rounds, quick=given.quick)


def measure(*, rounds: int, quick: bool) -> None:
    with tempfile.TemporaryDirectory(prefix="stepsite-bench-") as directory:
        _set_up(Path(directory))
        _dispatch(Path(directory), rounds, [1000] if quick else [1000, 10_000])
        _sleeping(Path(directory), rounds)


def _set_up(directory: Path) -> None:
    os.environ["STEPSITE_DATA"] = str(directory)
    os.environ["DJANGO_SETTINGS_MODULE"] = "stepsite.settings"
    import django

    django.setup()
    import logging

    from django.core.management import call_command

    logging.disable(logging.INFO)
    call_command("migrate", verbosity=0)


def _dispatch(directory: Path, rounds: int, sizes: list[int]) -> None:
    from tests.benchmarks.limits import bare, raw_loop

    title = "Steps that do nothing, pool 4, everything persisted: µs per step"
    head(title, ("steps", "bare pool", "raw loop", "stepsite", "stepsite over raw loop"))
    _stepsite([_nothing] * 1000, width=4)  # to grow the write-ahead log, as for the raw loop
    for number in sizes:
        bodies = [_nothing] * number
        samples = []
        for _ in range(rounds):
            taken = (
                bare(bodies, 4),
                raw_loop(bodies, 4, directory),
                _stepsite(bodies, width=4)[0],
            )
            samples.append([seconds / number * 1e6 for seconds in taken])
        ratios = sorted(sample[2] / sample[1] for sample in samples)
        cells = [f"{statistics.median(column):.0f}" for column in zip(*samples, strict=True)]
        row((f"{number:,}", *cells, _spread(ratios, ".2f")))


def _nothing() -> None:
    pass


def _sleeping(directory: Path, rounds: int) -> None:
    from tests.benchmarks.limits import raw_loop

    nap = 0.05

    def sleep() -> None:
        time.sleep(nap)

    title = "Steps that sleep 0.05 s: wall over ideal, from the first START to the end of the run"
    head(title, ("steps", "raw loop", "stepsite", "stepsite minus raw loop"))
    for label, critical, pool, width in (
        ("100, pool 4", 0, 100, 4),
        ("100, pool 16", 0, 100, 16),
        ("5 critical + 40, pool 4", 5, 40, 4),
    ):
        ideal = (critical + -(-pool // width)) * nap
        bodies = [sleep] * (critical + pool)
        raw, ours = [], []
        for _ in range(rounds):
            raw.append(raw_loop(bodies, width, directory, critical) / ideal)
            ours.append(_stepsite(bodies, width=width, critical=critical)[1] / ideal)
        more = sorted(cost - limit for cost, limit in zip(ours, raw, strict=True))
        cells = [f"{statistics.median(column):.3f}" for column in (raw, ours)]
        row((label, *cells, _spread(more, "+.3f")))


def _spread(ordered: list[float], shape: str) -> str:
    """The median and the range."""
    middle = statistics.median(ordered)
    return f"{middle:{shape}} ({ordered[0]:{shape}} to {ordered[-1]:{shape}})"


def _stepsite(
    bodies: list[Callable[[], object]], *, width: int, critical: int = 0
) -> tuple[float, float]:
    """Seconds from the claim to the end, and from the first START to the end."""
    from django.db.models import Min

    from executions import transitions, worker
    from executions.engine.plan import Lane, Plan, PlannedStep, RunOptions
    from executions.identity import process_identity
    from executions.models import Run
    from steps.models import RuleSet

    name = _registered(bodies[0])
    ruleset = RuleSet.current()
    steps = tuple(
        PlannedStep(
            position=number,
            name=f"bench {number}",
            step_name=name,
            kind="python",
            lane=Lane.CRITICAL if number < critical else Lane.POOL,
            timeout_seconds=30.0,
        )
        for number in range(len(bodies))
    )
    plan = Plan(
        batch="bench", ruleset=ruleset.hash, options=RunOptions(pool_width=width), steps=steps
    )
    run = transitions.create_run(
        plan, batch=None, ruleset_id=ruleset.pk, step_ids={}, triggered_by="bench"
    )
    begun = time.perf_counter()
    lease = transitions.claim_run(run.pk, process_identity())
    assert lease is not None
    worker.carry_out(lease)
    seconds = time.perf_counter() - begun
    run = Run.objects.get(pk=run.pk)
    assert run.succeeded == len(bodies), f"{run.succeeded} of {len(bodies)} succeeded"
    first = run.step_runs.aggregate(first=Min("started_at"))["first"]
    span = (run.finished_at - first).total_seconds()
    run.delete()
    return seconds, span


def _registered(body: Callable[[], object]) -> str:
    """The name under which the registry of steps knows a body."""
    from steps.registry import RegisteredStep, registry

    name = f"bench {getattr(body, '__name__', 'step')}"
    registry.forget(name)
    registry.add(RegisteredStep(name=name, function=lambda ctx: body()))
    return name


if __name__ == "__main__":
    main()
