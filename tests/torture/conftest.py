"""Sites whose steps write what nobody expects."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.client import Client
from tests.acceptance.conftest import browser, chromium, watch  # noqa: F401  (fixtures)
from tests.acceptance.site import ADMIN, PASSWORD

from .definitions import definitions
from .noisy_site import NoisySite, database
from .secrets_of_tests import CANARIES, PREFIX


@pytest.fixture(scope="session", params=["embedded", "postgres"])
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[NoisySite]:
    """The whole stack with one worker slot, on each database."""
    data = tmp_path_factory.mktemp("site")
    secrets = {f"{PREFIX}{name}": value for name, value in CANARIES.items()}
    with database(request.param) as url:
        site = NoisySite(data, url, {"STEPSITE_APPS": "tests.torture.noisy", **secrets})
        try:
            (data / "definitions.yaml").write_text(json.dumps(definitions()))
            site.manage("load_batches", str(data / "definitions.yaml"))
            yield site
        finally:
            site.stop()


@pytest.fixture(scope="session")
def api(site: NoisySite) -> Client:
    return Client(site.url, ADMIN, PASSWORD)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where the steps of a test leave their notes."""
    folder = tmp_path / "notes"
    folder.mkdir()
    return folder
