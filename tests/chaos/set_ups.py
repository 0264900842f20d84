"""The two set-ups: what a site stores its record and its hints in, and how a test reads them."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

POSTGRES_URL = os.environ.get("POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")
REDIS_URL = os.environ.get("CHAOS_REDIS_URL", "redis://127.0.0.1:6379/9")


class SetUp(ABC):
    """A database with tables and definitions, made from `template`; `name` is unique."""

    kind: str
    has_many_workers: bool

    @abstractmethod
    def environment(self) -> Mapping[str, str]: ...

    @abstractmethod
    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """The answer to a query. For one thread at a time."""

    @abstractmethod
    def faults(self) -> list[str]:
        """What the database itself finds wrong with its files."""

    @abstractmethod
    def hints(self) -> int:
        """How many wait in the queue."""

    @abstractmethod
    def template(self) -> Any:
        """What another set-up of this kind can be made from; nobody may be connected."""

    @abstractmethod
    def close(self, *, keep: bool = False) -> None:
        """Remove what is not in the data directory, unless it is to be looked at."""


class Embedded(SetUp):
    kind = "embedded"
    has_many_workers = False

    def __init__(self, data: Path, name: str, template: Path | None) -> None:
        self._file = data / "db.sqlite3"
        if template is not None:
            shutil.copy(template, self._file)

    def environment(self) -> Mapping[str, str]:
        return {}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(self._file, timeout=30)) as database:
            return database.execute(query).fetchall()

    def faults(self) -> list[str]:
        found = [row[0] for row in self.rows("PRAGMA integrity_check") if row[0] != "ok"]
        return found + [f"foreign key: {row}" for row in self.rows("PRAGMA foreign_key_check")]

    def hints(self) -> int:
        return int(self.rows("SELECT count(*) FROM django_q_ormq")[0][0])

    def template(self) -> Path:
        with closing(sqlite3.connect(self._file)) as database:
            database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        return self._file

    def close(self, *, keep: bool = False) -> None:
        """Nothing to do: all of it is in the data directory."""


class Grown(SetUp):
    kind = "grown"
    has_many_workers = True

    def __init__(self, data: Path, name: str, template: str | None) -> None:
        import psycopg

        self._server = psycopg.connect(POSTGRES_URL, autocommit=True)
        self._name = name
        self._server.execute(
            f'CREATE DATABASE "{name}"' + (f' TEMPLATE "{template}"' if template else "")
        )
        self._url = f"{POSTGRES_URL.rpartition('/')[0]}/{name}"
        self._database: Any = None

    def environment(self) -> Mapping[str, str]:
        return {"DATABASE_URL": self._url, "REDIS_URL": REDIS_URL}

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        import psycopg

        if self._database is None:
            self._database = psycopg.connect(self._url, autocommit=True)
        return list(self._database.execute(query).fetchall())

    def faults(self) -> list[str]:
        return []

    def hints(self) -> int:
        with self._redis() as redis:
            return int(redis.llen(f"stepsite:{self._name}:hints"))

    def template(self) -> str:
        self._disconnect()
        return self._name

    def connections(self) -> int:
        """Other processes that are connected to the database."""
        query = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND pid <> %s"
        own = self._database.info.backend_pid if self._database else 0
        found = self._server.execute(query, [self._name, own]).fetchone()
        return int(found[0]) if found else 0

    def close(self, *, keep: bool = False) -> None:
        self._disconnect()
        if not keep:
            self._server.execute(f'DROP DATABASE IF EXISTS "{self._name}" WITH (FORCE)')
        self._server.close()
        with self._redis() as redis:
            redis.delete(f"stepsite:{self._name}:hints")

    def _disconnect(self) -> None:
        if self._database is not None:
            self._database.close()
            self._database = None

    @staticmethod
    def _redis() -> Any:
        import redis

        return redis.Redis.from_url(REDIS_URL)


SET_UPS: dict[str, type[Embedded] | type[Grown]] = {"embedded": Embedded, "grown": Grown}


def why_not(kind: str) -> str:
    """Why a set-up cannot be had on this machine; empty if it can."""
    if kind == "embedded":
        return ""
    try:
        import psycopg
        import redis

        psycopg.connect(POSTGRES_URL, connect_timeout=3).close()
        redis.Redis.from_url(REDIS_URL, socket_connect_timeout=3).ping()
    except Exception as error:
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return ""


def can_unshare() -> bool:
    """Whether a process can have pids of its own, as in a container."""
    command = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child", "true"]
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except OSError:
        return False
