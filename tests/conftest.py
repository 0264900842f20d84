"""What every test may use."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from django.db import connection


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what is long or cannot be had here.

    Tests of real row locks need PostgreSQL: `make test` runs them where one answers.
    """
    if "chaos" not in config.option.markexpr:
        long = [item for item in items if item.get_closest_marker("chaos")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]
    if os.environ.get("DATABASE_URL", "").startswith("postgres"):
        return
    reason = "needs DATABASE_URL=postgres://…; `make test-postgres` says how"
    for item in items:
        if item.get_closest_marker("postgres"):
            item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def data_dir(settings: Any, tmp_path: Path) -> Path:
    """A directory of its own for everything that an installation writes."""
    settings.DATA_DIR = tmp_path
    return tmp_path


@pytest.fixture
def is_sqlite(db: None) -> bool:
    return connection.vendor == "sqlite"
