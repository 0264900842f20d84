"""All scenarios as tests: `pytest -m chaos tests/chaos`. `make chaos` also prints the figures."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from .scenarios import Case, all_cases
from .set_ups import SET_UPS, why_not
from .stage import Stages
from .test_quick import expect_fine

SEED = int(os.environ.get("CHAOS_SEED", "7"))
ROUNDS = int(os.environ.get("CHAOS_ROUNDS", "20"))


def cases() -> Iterator[object]:
    for kind in SET_UPS:
        for case in all_cases(kind, seed=SEED, rounds=ROUNDS):
            yield pytest.param(kind, case, id=f"{kind}: {case.label}")


@pytest.mark.chaos
@pytest.mark.parametrize(("kind", "case"), list(cases()))
def test_the_site_survives(stages: Stages, kind: str, case: Case) -> None:
    if reason := why_not(kind):
        pytest.skip(reason)
    expect_fine(case.play(stages))
