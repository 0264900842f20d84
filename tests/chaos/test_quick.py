"""The quick part of the chaos: one of each sort of fault, on real sites, in both set-ups."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from . import scenarios
from .scenarios import SILENCE_SECONDS, RandomRounds, Trial
from .stage import Stages

SEED = 7


def expect_fine(trial: Trial) -> None:
    if trial.skipped:
        pytest.skip(trial.skipped)
    told = "\n".join(map(str, trial.findings))
    assert not trial.findings, f"{trial.fault}, data in {trial.data}:\n{told}"


@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("web", "hint_sent"),
        ("worker", "claim_committed"),
        ("worker", "start_committed"),
        ("worker", "finish_written"),
        ("worker", "end_committed"),
    ],
)
def test_a_crash_at_a_point_loses_and_doubles_nothing(
    stages: Stages, program: str, name: str
) -> None:
    """All points, twice and in both set-ups, are in `make chaos`."""
    expect_fine(scenarios.crash_at(stages, "embedded", name, 1, program))


def test_a_crash_in_the_middle_of_a_rescue_is_rescued(stages: Stages, grown: str) -> None:
    expect_fine(scenarios.crash_at(stages, grown, "rescue_written", 1, "worker"))


def test_everything_dies_at_once(stages: Stages) -> None:
    expect_fine(scenarios.everything(stages, "embedded"))


def test_a_worker_that_stood_still_writes_nothing(stages: Stages, grown: str) -> None:
    """Another one has its run by then."""
    expect_fine(scenarios.stop_cluster(stages, grown, 0.0, SILENCE_SECONDS))


def test_another_worker_takes_over_from_a_host_that_is_gone(stages: Stages, grown: str) -> None:
    expect_fine(scenarios.lose_host(stages, grown, SILENCE_SECONDS))


def test_poison_hurts_its_own_run_alone(stages: Stages) -> None:
    expect_fine(scenarios.poison(stages, "embedded", scenarios.POISONS))


def test_a_worker_that_is_told_to_stop_hands_its_run_back(stages: Stages, grown: str) -> None:
    expect_fine(scenarios.shutdown(stages, grown, "worker"))


def test_a_site_that_is_told_to_stop_ends_cleanly(stages: Stages) -> None:
    expect_fine(scenarios.shutdown(stages, "embedded", "up"))


def test_a_rolling_restart_loses_and_doubles_nothing(stages: Stages, grown: str) -> None:
    expect_fine(scenarios.rolling_restart(stages, grown, workers=2, rounds=1))


def test_random_kills(stages: Stages, kind: str) -> None:
    """`make chaos` plays hundreds, with another seed each time."""
    chaos = RandomRounds(kind, SEED)
    for number in range(1, 3):
        expect_fine(chaos.play(stages, number))
    expect_fine(chaos.end())


def test_a_web_process_that_is_ready_can_be_told_to_stop(stages: Stages) -> None:
    """At once: what tells it to may have waited for just that."""
    stage = stages.new("embedded")
    web = stage.web()
    for _ in range(4):
        web.signal(signal.SIGTERM)
        assert web.wait() == 0
        web.start()
    assert stage.stop() == []
    stage.close()


def test_the_unit_files_are_valid(tmp_path: Path) -> None:
    complaints, reason = scenarios.verify_units(tmp_path)
    if reason:
        pytest.skip(reason)
    assert complaints == ""
