"""What `manage.py doctor` says when PID namespaces are asked for."""

from __future__ import annotations

from typing import Any

import pytest

from executions import cluster, diagnosis
from executions.diagnosis import Level
from executions.engine.processes import KillLevel
from executions.models import Worker

from .test_doctor import find, healthy, worker  # noqa: F401

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def asked_for(settings: Any) -> None:
    settings.STEPSITE = {**getattr(settings, "STEPSITE", {}), "PID_NAMESPACES": True}


def test_a_worker_with_namespaces_is_good(worker: Worker) -> None:  # noqa: F811
    Worker.objects.update(kill_level="pid_namespace")
    assert find("kill level").level is Level.GOOD


def test_a_worker_without_them_is_a_warning_with_a_remedy(worker: Worker) -> None:  # noqa: F811
    finding = find("kill level")
    assert finding.level is Level.WARNING
    assert "subreaper, although PID_NAMESPACES asks for pid_namespace" in finding.text
    assert "CAP_SYS_ADMIN" in finding.remedy


@pytest.mark.parametrize(("possible", "level"), [(True, Level.GOOD), (False, Level.WARNING)])
def test_without_workers_the_host_is_asked(
    monkeypatch: pytest.MonkeyPatch, possible: bool, level: Level
) -> None:
    monkeypatch.setattr(diagnosis, "are_possible", lambda: possible)
    assert find("kill level").level is level


def test_a_worker_promises_what_it_could_get(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that takes runs asks for namespaces, and falls back openly."""
    asked: list[bool] = []
    monkeypatch.setattr(cluster, "become_subreaper", lambda: True)
    monkeypatch.setattr(cluster, "use_namespaces", lambda: asked.append(True))
    monkeypatch.setattr(cluster, "kill_level", lambda: KillLevel.SUBREAPER)
    board = cluster.Board(1)
    board.on_spawn()
    assert asked == [True]
    assert board.kill_level.value == b"subreaper"
