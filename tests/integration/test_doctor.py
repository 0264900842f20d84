"""`manage.py doctor`: every finding it can have, and its exit code."""

from __future__ import annotations

import socket
from datetime import timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import OperationalError, connection
from django.db.migrations.recorder import MigrationRecorder
from django.utils import timezone

from executions import broker, diagnosis
from executions.diagnosis import Finding, Level, examine
from executions.engine.processes import KillLevel
from executions.models import Worker
from steps.models import Step
from steps.registry import registry

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def healthy(settings: Any, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation with nothing to complain about but that no worker runs."""
    monkeypatch.delenv("SECRET_KEY", raising=False)
    (data_dir / "secret_key").touch(0o600)
    settings.ALLOWED_HOSTS = ["localhost"]
    settings.DEBUG = False
    monkeypatch.setattr(registry, "failures", {})
    # It would hold for the process of the tests as well, and for good.
    monkeypatch.setattr(diagnosis, "become_subreaper", lambda: True)
    monkeypatch.setattr(diagnosis, "kill_level", lambda: KillLevel.SUBREAPER)
    Step.objects.filter(missing=True).delete()


@pytest.fixture
def worker(db: None) -> Worker:
    return Worker.objects.create(host="here", process="x", slots=2, kill_level="subreaper")


def find(subject: str) -> Finding:
    return next(finding for finding in examine() if finding.subject == subject)


def doctor(*arguments: str) -> tuple[int, str]:
    """Exit code and output."""
    output = StringIO()
    try:
        call_command("doctor", *arguments, stdout=output, no_color=True)
    except SystemExit as end:
        return int(end.code or 0), output.getvalue()
    return 0, output.getvalue()


def test_a_healthy_installation_is_good_in_one_line_each(worker: Worker) -> None:
    code, output = doctor("--strict")
    assert code == 0, output
    lines = output.splitlines()
    assert len(lines) == 11
    assert all(line.startswith("good") for line in lines)
    assert "1 alive on here, for 2 runs at once" in output


def test_without_a_worker_there_is_only_a_warning() -> None:
    """It says how to start one; --strict makes it count."""
    code, output = doctor()
    assert code == 0
    assert "manage.py worker" in output
    assert doctor("--strict")[0] == 1


def test_a_worker_that_was_not_seen_lately_or_has_stopped_is_none(worker: Worker) -> None:
    Worker.objects.update(stopped_at=timezone.now())
    assert find("workers").level is Level.WARNING
    Worker.objects.update(stopped_at=None, seen_at=timezone.now() - timedelta(minutes=1))
    assert find("workers").level is Level.WARNING


def test_something_broken_gives_exit_code_1_and_a_remedy(data_dir: Path) -> None:
    (data_dir / "secret_key").chmod(0o644)
    code, output = doctor()
    assert code == 1
    assert "0644" in output
    assert f"→ Run chmod 600 {data_dir / 'secret_key'}" in output


def test_a_database_that_does_not_answer_leaves_the_rest_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: Any) -> None:
        raise OperationalError("connection refused")

    monkeypatch.setattr(connection, "ensure_connection", fail)
    monkeypatch.setattr(connection, "cursor", fail)
    findings = list(examine())
    assert len(findings) == 11
    broken = {finding.subject for finding in findings if finding.level is Level.BROKEN}
    assert {"database", "migrations", "workers"} <= broken
    assert all(finding.remedy for finding in findings if finding.level is not Level.GOOD)


@pytest.mark.skipif("connection.vendor != 'sqlite'")
@pytest.mark.parametrize(("journal", "synchronous"), [("delete", 2), ("wal", 1)])
def test_an_sqlite_that_can_forget_a_commit_is_broken(
    monkeypatch: pytest.MonkeyPatch, journal: str, synchronous: int
) -> None:
    answers = {"PRAGMA journal_mode": journal, "PRAGMA synchronous": synchronous}
    monkeypatch.setattr(diagnosis, "_ask", answers.__getitem__)
    assert find("database").level is Level.BROKEN


def test_a_migration_that_was_not_applied_is_broken() -> None:
    MigrationRecorder.Migration.objects.filter(app="steps").order_by("-name")[0].delete()
    finding = find("migrations")
    assert finding.level is Level.BROKEN
    assert "steps.0" in finding.text


def test_a_redis_that_is_gone_is_broken(settings: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings.REDIS_URL = f"redis://127.0.0.1:{taken.getsockname()[1]}/0"
    monkeypatch.setattr(broker.Conf, "REDIS", settings.REDIS_URL)
    broker.broker.cache_clear()
    try:
        assert find("broker").level is Level.BROKEN
    finally:
        broker.broker.cache_clear()


def test_steps_that_do_not_import_are_broken() -> None:
    registry.failures["shop.steps"] = "NameError: name 'x' is not defined"
    finding = find("steps")
    assert finding.level is Level.BROKEN
    assert "shop.steps: NameError" in finding.text


def test_a_step_without_its_function_is_a_warning() -> None:
    Step.objects.create(name="LostStep", kind="python", from_code=True, missing=True)
    finding = find("steps")
    assert finding.level is Level.WARNING
    assert "LostStep" in finding.text


def test_hosts_beyond_this_machine_want_https(settings: Any) -> None:
    settings.ALLOWED_HOSTS = ["localhost", "steps.example.org"]
    settings.SESSION_COOKIE_SECURE = False
    assert find("hosts").level is Level.WARNING
    settings.SESSION_COOKIE_SECURE = True
    assert find("hosts").level is Level.GOOD
    settings.ALLOWED_HOSTS = ["*"]
    assert find("hosts").level is Level.BROKEN


def test_debug_is_a_warning(settings: Any) -> None:
    settings.DEBUG = True
    assert find("debug").level is Level.WARNING


def test_static_files_that_are_not_there_are_broken(settings: Any, tmp_path: Path) -> None:
    settings.STATICFILES_DIRS = [tmp_path / "absent"]
    assert find("static files").level is Level.BROKEN


@pytest.mark.parametrize(
    ("version", "level"),
    [
        ("1.11.1", Level.GOOD),
        ("1.11.9", Level.GOOD),
        ("1.11.0", Level.BROKEN),
        ("1.12", Level.BROKEN),
    ],
)
def test_another_minor_version_of_django_q2_is_broken(
    monkeypatch: pytest.MonkeyPatch, version: str, level: Level
) -> None:
    monkeypatch.setattr(diagnosis.metadata, "version", lambda _: version)
    assert find("django-q2").level is level


def test_a_worker_that_promises_less_is_a_warning(worker: Worker) -> None:
    Worker.objects.update(kill_level="group")
    assert find("kill level").level is Level.WARNING
