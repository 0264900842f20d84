"""What an installation may set under `STEPSITE` in its settings, with the defaults."""

from __future__ import annotations

import os
from typing import Any
from urllib.parse import urlsplit

from django.conf import settings
from django.db import connection


class Settings:
    """Each attribute can be overridden by the key of the same name in `settings.STEPSITE`.

    Read on every access, so tests may override settings as usual.
    """

    DRAIN_SECONDS: float = 10.0
    """How long running steps may go on after a worker was told to stop."""

    LOG_LIMIT_BYTES: int = 10 * 1024 * 1024
    """Of the output of one step run; the head and the tail of longer output are kept."""

    LOG_LINE_LIMIT_BYTES: int = 16 * 1024
    """Of one line of output."""

    CONTEXT_LIMIT_BYTES: int = 1024 * 1024
    """Of the context of a run, as JSON."""

    PID_NAMESPACES: bool = False
    """Whether every command gets a PID namespace of its own, where the host allows it."""

    SECRET_PREFIX: str = "STEPSITE_SECRET_"  # noqa: S105  (it names secrets, it is none)
    """Environment variables of a worker that start so are the secrets that steps may ask for."""

    STEP_ENVIRONMENT: tuple[str, ...] = (
        "HOME",
        "LANG",
        "LANGUAGE",
        "LC_ALL",
        "LC_CTYPE",
        "LOGNAME",
        "PATH",
        "PYTHONPATH",
        "SSL_CERT_DIR",
        "SSL_CERT_FILE",
        "STEPSITE_BASE_URL",
        "TMPDIR",
        "TZ",
        "USER",
        "VIRTUAL_ENV",
    )
    """Variables of the worker's environment that every child process of a step gets.

    Nothing here may open the site: a command step gets neither the SECRET_KEY nor the database.
    """

    MANAGEMENT_ENVIRONMENT: tuple[str, ...] = (
        "DATABASE_URL",
        "DJANGO_SETTINGS_MODULE",
        "REDIS_URL",
        "SECRET_KEY",
        "STEPSITE_APPS",
        "STEPSITE_BEHIND_PROXY",
        "STEPSITE_DATA",
        "STEPSITE_DEBUG",
        "STEPSITE_HOSTS",
        "STEPSITE_HTTPS",
        "STEPSITE_ORIGINS",
        "STEPSITE_WORKERS",
    )
    """Variables that management steps and Python steps in a process of their own get as well:
    what `settings.py` reads."""

    WORKER_SEEN_SECONDS: float = 10.0
    """A worker that was not seen for longer counts as gone on the pages; it decides nothing."""

    @property
    def HTTP_ALLOWED_HOSTS(self) -> frozenset[str]:  # noqa: N802
        """`host:port` of private addresses that HTTP steps may fetch.

        The site's own address is always among them, where `up` told it.
        """
        own = urlsplit(os.environ.get("STEPSITE_BASE_URL", "")).netloc
        return frozenset(_chosen("HTTP_ALLOWED_HOSTS", ())) | ({own} if own else set())

    @property
    def POLL_SECONDS(self) -> float:  # noqa: N802
        """Between two looks at the sequences of watched runs: 0.05 on SQLite, else 0.1."""
        default = 0.05 if connection.vendor == "sqlite" else 0.1
        return float(_chosen("POLL_SECONDS", default))

    def __getattribute__(self, name: str) -> Any:
        default = super().__getattribute__(name)
        if isinstance(getattr(type(self), name, None), property):
            return default
        return _chosen(name, default)


def _chosen(name: str, default: Any) -> Any:
    return getattr(settings, "STEPSITE", {}).get(name, default)


conf = Settings()
