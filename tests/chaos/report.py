"""Collects what trials found, and prints it as a table of markdown."""

from __future__ import annotations

from collections import Counter

from tests.benchmarks.tables import head, percentile, row, say

from .checker import DOUBLED, LOST, SURVIVED, WRONG
from .scenarios import Trial

COLUMNS = (
    *("fault", "tried", "lost", "doubled", "survivors", "otherwise wrong"),
    *("back after: samples", "p50", "p95", "max"),
)


class Report:
    """Adds up trials of the same fault."""

    def __init__(self) -> None:
        self._trials: dict[str, list[Trial]] = {}

    def add(self, trial: Trial) -> None:
        self._trials.setdefault(trial.fault, []).append(trial)

    @property
    def is_clean(self) -> bool:
        return not any(trial.findings for trials in self._trials.values() for trial in trials)

    def print(self, title: str) -> None:
        head(title, COLUMNS)
        for fault, trials in self._trials.items():
            tried = [trial for trial in trials if not trial.skipped]
            if tried:
                row((fault, len(tried), *_counts(tried), *_times(tried)))
        for fault, trials in self._trials.items():
            for reason in {trial.skipped for trial in trials if trial.skipped}:
                say(f"\nNot tried: {fault}: {reason}.")


def _counts(trials: list[Trial]) -> list[int]:
    """In each column the trials that broke that promise."""
    broken = Counter(
        sort for trial in trials for sort in {finding.sort for finding in trial.findings}
    )
    return [broken[sort] for sort in (LOST, DOUBLED, SURVIVED, WRONG)]


def _times(trials: list[Trial]) -> list[str]:
    seconds = [each for trial in trials for each in trial.seconds]
    if not seconds:
        return ["0", "", "", ""]
    figures = percentile(seconds, 0.5), percentile(seconds, 0.95), max(seconds)
    return [str(len(seconds)), *(f"{figure:.2f} s" for figure in figures)]
