"""The real stack on either database, with what it stores in reach of the tests."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.site import Site

POSTGRES_URL = os.environ.get("POSTGRES_URL", "postgres://postgres@127.0.0.1:5432/postgres")


class NoisySite(Site):
    """`database_url` is empty for the embedded set-up."""

    def __init__(self, data: Path, database_url: str, environment: Mapping[str, str]) -> None:
        self.database_url = database_url
        url = {"DATABASE_URL": database_url} if database_url else {}
        super().__init__(
            data, options=["--no-demo", "--workers=1"], environment={**environment, **url}
        )

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        if not self.database_url:
            with closing(sqlite3.connect(self.data / "db.sqlite3", timeout=30)) as database:
                return database.execute(query).fetchall()
        import psycopg

        with psycopg.connect(self.database_url) as database:
            return list(database.execute(query).fetchall())

    def stored(self) -> bytes:
        """All of the database as bytes: its files, or a dump with the output as it was."""
        if not self.database_url:
            return b"".join(path.read_bytes() for path in sorted(self.data.glob("db.sqlite3*")))
        command = ["pg_dump", "--inserts", self.database_url]
        dump = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
        chunks = self.rows('SELECT data FROM executions_logchunk ORDER BY step_run_id, "offset"')
        return dump + b"".join(bytes(data) for (data,) in chunks)


@contextmanager
def database(kind: str) -> Iterator[str]:
    """The URL of a database of its own, empty if it is a file. Skips, but not in CI."""
    if kind == "embedded":
        yield ""
        return
    import psycopg

    name = f"torture_{uuid.uuid4().hex[:10]}"
    try:
        server = psycopg.connect(POSTGRES_URL, autocommit=True, connect_timeout=3)
    except psycopg.OperationalError as error:
        if os.environ.get("CI"):
            raise
        pytest.skip(f"no PostgreSQL: {error}".splitlines()[0])
    with server:
        server.execute(f'CREATE DATABASE "{name}"')
        try:
            yield f"{POSTGRES_URL.rpartition('/')[0]}/{name}"
        finally:
            server.execute(f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')
