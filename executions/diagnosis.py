"""What is right and what is wrong with this installation, and how to mend it."""

from __future__ import annotations

import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone

from steps.models import Step
from steps.registry import registry

from .broker import broker
from .conf import conf
from .engine.namespaces import are_possible
from .engine.processes import KillLevel, become_subreaper, kill_level
from .models import Worker

SQLITE_FULL = 2
DJANGO_Q2 = ((1, 11, 1), (1, 12))
"""From, and before: the cluster leans on internals of this minor version."""


class Level(StrEnum):
    """How good a finding is."""

    GOOD = "good"
    WARNING = "warning"
    """Works, but somebody should know."""
    BROKEN = "broken"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One line of the diagnosis."""

    level: Level
    subject: str
    text: str
    remedy: str = ""
    """How to mend it, for whatever is not good."""


def good(subject: str, text: str) -> Finding:
    return Finding(level=Level.GOOD, subject=subject, text=text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    return Finding(level=Level.WARNING, subject=subject, text=text, remedy=remedy)


def broken(subject: str, text: str, remedy: str) -> Finding:
    return Finding(level=Level.BROKEN, subject=subject, text=text, remedy=remedy)


def examine() -> Iterator[Finding]:
    """Every finding, in the order in which one would mend them. Never raises."""
    yield _safely("database", _database)
    yield _safely("migrations", _migrations)
    yield _safely("broker", _broker)
    yield _safely("workers", _workers)
    yield _safely("kill level", _kill_level)
    yield _safely("steps", _steps)
    yield _safely("static files", _static_files)
    yield _safely("secret key", _secret_key)
    yield _safely("hosts", _hosts)
    yield _safely("debug", _debug)
    yield _safely("django-q2", _django_q2)


def _safely(subject: str, look: Callable[[], Finding]) -> Finding:
    try:
        return look()
    except DatabaseError as error:
        return broken(subject, f"not known: {_first_line(error)}", "Mend the database first.")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _database() -> Finding:
    subject = "database"
    try:
        connection.ensure_connection()
    except DatabaseError as error:
        return broken(
            subject,
            f"{connection.vendor} does not answer: {_first_line(error)}",
            "Start it, or correct DATABASE_URL or STEPSITE_DATA.",
        )
    if connection.vendor == "sqlite":
        return _sqlite()
    version = ".".join(map(str, connection.get_database_version()))
    if _ask("SHOW synchronous_commit") == "off":
        return warning(
            subject,
            f"{connection.display_name} {version}, synchronous_commit off",
            "Set synchronous_commit to on: after a power cut a step could run twice.",
        )
    return good(subject, f"{connection.display_name} {version}")


def _sqlite() -> Finding:
    journal, synchronous = _ask("PRAGMA journal_mode"), _ask("PRAGMA synchronous")
    version = sqlite3.sqlite_version
    if journal != "wal":
        return broken(
            "database",
            f"SQLite {version}, journal mode {journal} instead of wal",
            "Put the database on a local disk: no network file system has what WAL needs.",
        )
    if int(synchronous) < SQLITE_FULL:
        return broken(
            "database",
            f"SQLite {version}, synchronous {synchronous} instead of 2 (FULL)",
            "Restore the init_command of settings.py: after a power cut a step could run twice.",
        )
    return good(
        "database",
        f"SQLite {version}, WAL, synchronous FULL; it has one writer at a time, so steps should "
        f"keep their transactions short",
    )


def _ask(query: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(query)
        return cursor.fetchone()[0]


def _migrations() -> Finding:
    executor = MigrationExecutor(connection)
    missing = executor.migration_plan(executor.loader.graph.leaf_nodes())
    if missing:
        first = ".".join((missing[0][0].app_label, missing[0][0].name))
        return broken(
            "migrations", f"{len(missing)} not applied, from {first} on", "Run manage.py migrate."
        )
    return good("migrations", "all applied")


def _broker() -> Finding:
    subject = "broker"
    try:
        queue = broker()
    except ImportError as error:
        return broken(subject, str(error), "Install stepsite with its extra: grown.")
    if not queue.ping():
        return broken(
            subject,
            f"{queue.info()} does not answer; runs wait until it does",
            "Start it, or correct REDIS_URL.",
        )
    return good(subject, f"{queue.info()}, {queue.queue_size()} hints waiting")


def _alive() -> list[Worker]:
    since = timezone.now() - timedelta(seconds=conf.WORKER_SEEN_SECONDS)
    return list(Worker.objects.filter(stopped_at=None, seen_at__gte=since))


def _workers() -> Finding:
    alive = _alive()
    if not alive:
        return warning(
            "workers",
            "none is running, so runs wait",
            "Start one with manage.py worker, or everything with manage.py up.",
        )
    slots = sum(worker.slots for worker in alive)
    hosts = ", ".join(sorted({worker.host for worker in alive}))
    return good("workers", f"{len(alive)} alive on {hosts}, for {slots} runs at once")


def _kill_level() -> Finding:
    """What the living workers promise; without any, what one on this machine would."""
    levels = {worker.kill_level for worker in _alive() if worker.kill_level}
    if not levels:
        become_subreaper()
        possible = conf.PID_NAMESPACES and are_possible()
        levels = {str(KillLevel.PID_NAMESPACE if possible else kill_level())}
    text = ", ".join(sorted(levels))
    if conf.PID_NAMESPACES and levels != {KillLevel.PID_NAMESPACE}:
        return warning(
            "kill level",
            f"{text}, although PID_NAMESPACES asks for {KillLevel.PID_NAMESPACE}",
            "Restart the workers, as root or where users may make namespaces "
            "(sysctl user.max_user_namespaces and user.max_pid_namespaces; in a container "
            "CAP_SYS_ADMIN), or set PID_NAMESPACES to False.",
        )
    if levels <= {KillLevel.SUBREAPER, KillLevel.PID_NAMESPACE}:
        return good("kill level", f"{text}: nothing of a step outlives its end")
    return warning(
        "kill level",
        f"{text}: a process of a step that takes pains can outlive its end",
        "Run workers on Linux with /proc mounted.",
    )


def _steps() -> Finding:
    subject = "steps"
    if registry.failures:
        told = "; ".join(f"{module}: {why}" for module, why in registry.failures.items())
        return broken(subject, f"cannot be imported: {told}", "Correct the named modules.")
    missing = list(Step.objects.filter(missing=True).values_list("name", flat=True))
    if missing:
        return warning(
            subject,
            f"no function for {', '.join(missing)}",
            "Restore the functions, or take the steps out of their batches.",
        )
    return good(subject, f"{Step.objects.count()} defined, {len(registry)} of them from code")


def _static_files() -> Finding:
    if finders.find("admin/css/base.css") is None:
        return broken(
            "static files",
            "not found, so pages come without their looks",
            "Install stepsite and Django as a whole, and keep the staticfiles app installed.",
        )
    absent = [str(path) for path in settings.STATICFILES_DIRS if not Path(path).is_dir()]
    if absent:
        return broken(
            "static files", f"no directory {', '.join(absent)}", "Restore it, or the setting."
        )
    return good("static files", "served from where they lie")


def _secret_key() -> Finding:
    subject = "secret key"
    if os.environ.get("SECRET_KEY"):
        return good(subject, "from the environment; web and workers must have the same")
    path = Path(settings.DATA_DIR) / "secret_key"
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
    except OSError:
        return good(subject, "from the settings")
    if mode & 0o077:
        return broken(
            subject,
            f"{path} has mode {mode:04o}: others can read it, and sign in as anybody",
            f"Run chmod 600 {path}, or delete it for a new one, which signs everybody out.",
        )
    return good(subject, f"{path}, readable by its owner alone")


def _hosts() -> Finding:
    subject = "hosts"
    hosts = list(settings.ALLOWED_HOSTS)
    beyond = [host for host in hosts if host not in ("localhost", "127.0.0.1", "[::1]")]
    if "*" in hosts:
        return broken(
            subject,
            "every Host header is accepted",
            "Name in STEPSITE_HOSTS the names by which the site is reached.",
        )
    if beyond and not settings.SESSION_COOKIE_SECURE:
        return warning(
            subject,
            f"{', '.join(beyond)}, without https: passwords and sessions can be overheard",
            "Put a proxy with TLS before it, and set STEPSITE_HTTPS=1 and STEPSITE_BEHIND_PROXY=1.",
        )
    return good(subject, f"{', '.join(beyond)}, https only" if beyond else "this machine only")


def _debug() -> Finding:
    if settings.DEBUG:
        return warning(
            "debug",
            "on: error pages show settings and code to everybody",
            "Unset STEPSITE_DEBUG.",
        )
    return good("debug", "off")


def _django_q2() -> Finding:
    version = metadata.version("django-q2")
    numbers = tuple(int(part) for part in version.split(".") if part.isdigit())
    first, before = DJANGO_Q2
    if first <= numbers < before:
        return good("django-q2", version)
    return broken(
        "django-q2",
        f"{version}, but the worker is made for {'.'.join(map(str, first))} and later fixes",
        "Install the version that constraints.txt names.",
    )
