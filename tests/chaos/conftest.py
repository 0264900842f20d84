"""Stages for the chaos tests, and the set-ups that they can have here."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from .set_ups import SET_UPS, why_not
from .stage import Stages


@pytest.fixture(scope="session")
def stages(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stages]:
    folder: Path = tmp_path_factory.mktemp("chaos")
    stages = Stages(folder)
    yield stages
    stages.close()


@pytest.fixture(params=SET_UPS)
def kind(request: pytest.FixtureRequest) -> str:
    """Each of the set-ups."""
    return _available(request.param)


@pytest.fixture
def grown() -> str:
    """The set-up in which a worker can have others beside it."""
    return _available("grown")


def _available(kind: str) -> str:
    """The set-up itself. Without PostgreSQL and Redis the test is skipped, but never in CI."""
    if reason := why_not(kind):
        if os.environ.get("CI"):
            pytest.fail(f"the {kind} set-up cannot be tested: {reason}")
        pytest.skip(reason)
    return kind
