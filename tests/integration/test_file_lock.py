"""Who is in a write transaction of a database in a file."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from django.db import connection

from executions import file_lock
from executions.identity import start_time

WRITER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
print("in it", flush=True)
sys.stdin.readline()
database.execute("COMMIT")
print("out of it", flush=True)
sys.stdin.readline()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_a_process_may_have_any_name(tmp_path: Path) -> None:
    """The kernel cuts names after 15 bytes, also in the middle of a character."""
    program = tmp_path / "ёжик-ёжик"
    program.symlink_to("/bin/sleep")
    with subprocess.Popen([program, "60"]) as sleeper:
        try:
            assert start_time(sleeper.pid)
        finally:
            sleeper.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_process_that_writes_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "db.sqlite3"
    monkeypatch.setitem(connection.settings_dict, "NAME", path)
    monkeypatch.setattr(connection, "vendor", "sqlite")
    assert file_lock.holder() == 0, "there is no such file"
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode=WAL")
        database.execute("CREATE TABLE things (id)")
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], **pipes) as writer:
            assert writer.stdin
            assert writer.stdout
            assert writer.stdout.readline() == "in it\n"
            assert file_lock.holder() == writer.pid
            writer.stdin.write("\n")
            writer.stdin.flush()
            assert writer.stdout.readline() == "out of it\n"
            assert file_lock.holder() == 0
