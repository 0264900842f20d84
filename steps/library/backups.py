"""Backups of the database: made, opened again, and rotated.

SQLite is copied by its online backup; any other database is written as one JSON line an object.
"""

from __future__ import annotations

import gzip
import os
import re
import sqlite3
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.apps import apps
from django.core import serializers
from django.core.serializers.base import DeserializationError
from django.db import models, transaction
from django.db.backends.base.base import BaseDatabaseWrapper

from .context import CheckFailed, StepContext
from .files import digest_file, open_private, part_of, private_folder, size_text

PAGES_AT_ONCE = 256
"""Pages copied between two looks at the cancel token: 1 MiB of the usual 4 KiB pages."""


def stamped(folder: Path, name: str, suffix: str) -> Path:
    """A name in `folder` that sorts by time and that `rotate` knows."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    return private_folder(folder) / f"{name}-{moment}{suffix}"


@contextmanager
def _opened(path: Path, *, immutable: bool = False) -> Iterator[sqlite3.Connection]:
    """A read-only connection, without Python's own transactions.

    `immutable` reads a file that nobody writes, and leaves no journal beside it.
    """
    uri = f"{path.resolve().as_uri()}?{'immutable=1' if immutable else 'mode=ro'}"
    with closing(sqlite3.connect(uri, uri=True, timeout=20, isolation_level=None)) as connection:
        yield connection


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _table_rows(ctx: StepContext, connection: sqlite3.Connection) -> dict[str, int]:
    """Rows of each table, by its name."""
    names = [
        name
        for (name,) in connection.execute(
            "SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite^_%'"
            " ESCAPE '^' ORDER BY name"
        )
    ]
    rows: dict[str, int] = {}
    for name in names:
        ctx.check_cancelled()
        query = f"SELECT count(*) FROM {_quoted(name)}"  # noqa: S608  (a quoted identifier)
        rows[name] = connection.execute(query).fetchone()[0]
    return rows


def back_up_sqlite(ctx: StepContext, source: Path, target: Path) -> dict[str, Any]:
    """Copy the live database `source` into the new file `target`.

    Returns the record {path, kind, size, sha256, rows: {table: count}}. Rows and copy are of one
    moment; writers are not held up.
    """
    part = part_of(target)
    open_private(part).close()
    try:
        with _opened(source) as live, closing(sqlite3.connect(part)) as copy:
            # One read transaction around count and copy. Without it every commit of another
            # connection would start the copy again from the first page.
            live.execute("BEGIN")
            rows = _table_rows(ctx, live)

            def look_up(_status: int, remaining: int, total: int) -> None:
                ctx.check_cancelled()
                ctx.progress(total - remaining, total)

            live.backup(copy, pages=PAGES_AT_ONCE, progress=look_up)
            live.execute("ROLLBACK")
            # The copy says WAL, as its source does; one file should be all there is to keep.
            copy.execute("PRAGMA journal_mode = DELETE")
        return _finished(ctx, part, target, kind="sqlite", rows=rows)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _one_moment(connection: BaseDatabaseWrapper) -> Iterator[None]:
    """Let every query inside see the same rows, where that blocks nobody: on PostgreSQL.

    On SQLite a transaction of Django's would hold the write lock.
    """
    if connection.vendor != "postgresql":
        yield
        return
    with transaction.atomic(using=connection.alias):
        with connection.cursor() as cursor:
            cursor.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield


def dumped_models() -> list[type[models.Model]]:
    """Every model with a table of its own, in an order in which they can be loaded."""
    configs = [(config, None) for config in apps.get_app_configs()]
    ordered = serializers.sort_dependencies(configs, allow_cycles=True)
    return [model for model in ordered if not model._meta.proxy and model._meta.managed]


def back_up_as_json(
    ctx: StepContext, connection: BaseDatabaseWrapper, target: Path
) -> dict[str, Any]:
    """Write every object of `connection` into the new file `target`, gzipped JSON lines.

    `manage.py loaddata` reads it on any database. Returns the record of `back_up_sqlite`, with
    rows by model label.
    """
    part = part_of(target)
    rows: dict[str, int] = {}
    every = dumped_models()
    try:
        with (
            _one_moment(connection),
            open_private(part) as raw,
            gzip.open(raw, "wt", encoding="utf-8", compresslevel=6) as stream,
        ):
            for done, model in enumerate(every, start=1):
                queryset = model._base_manager.using(connection.alias).order_by("pk")
                rows[model._meta.label_lower] = queryset.count()
                serializers.serialize("jsonl", _watched(ctx, queryset), stream=stream)
                ctx.progress(done, len(every))
        return _finished(ctx, part, target, kind="json", rows=rows)
    finally:
        part.unlink(missing_ok=True)


def _watched(ctx: StepContext, queryset: models.QuerySet[Any]) -> Iterator[Any]:
    for instance in queryset.iterator(chunk_size=1000):
        ctx.check_cancelled()
        yield instance


def _finished(
    ctx: StepContext, part: Path, target: Path, *, kind: str, rows: dict[str, int]
) -> dict[str, Any]:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    digest = digest_file(ctx, part)
    part.replace(target)
    ctx.log(f"{target.name}: {size_text(digest.size)}, sha256 {digest.sha256}")
    ctx.log(f"{sum(rows.values())} rows in {len(rows)} tables")
    return {
        "path": str(target),
        "kind": kind,
        "size": digest.size,
        "sha256": digest.sha256,
        "rows": rows,
    }


def verify_backup(ctx: StepContext, record: dict[str, Any]) -> None:
    """Open the backup that `record` describes and compare what is in it.

    Raises `CheckFailed` if it is missing, changed, damaged, or lacks rows.
    """
    path = Path(record["path"])
    if not path.is_file():
        raise CheckFailed(f"The backup {path} does not exist any more.")
    digest = digest_file(ctx, path)
    if digest.sha256 != record["sha256"]:
        raise CheckFailed(
            f"The backup {path} is not what was written: it has {digest.size} bytes and SHA-256"
            f" {digest.sha256}, recorded were {record['size']} and {record['sha256']}."
        )
    ctx.log(f"{path.name}: {size_text(digest.size)}, SHA-256 as recorded")
    rows = _rows_in_sqlite(ctx, path) if record["kind"] == "sqlite" else _rows_in_json(ctx, path)
    _compare_rows(ctx, rows, record["rows"])


def _rows_in_sqlite(ctx: StepContext, path: Path) -> dict[str, int]:
    """Rows by table, after SQLite's own check of every page."""
    try:
        with _opened(path, immutable=True) as connection:
            check_pages(ctx, connection, path.name)
            return _table_rows(ctx, connection)
    except sqlite3.DatabaseError as error:
        raise CheckFailed(f"The backup {path} cannot be read: {error}.") from error


def _rows_in_json(ctx: StepContext, path: Path) -> dict[str, int]:
    """Objects by model, after making each of them, unsaved."""
    rows: Counter[str] = Counter()
    try:
        with gzip.open(path, "rt", encoding="utf-8") as stream:
            for line in stream:
                ctx.check_cancelled()
                rows[_label_of(line)] += 1
    except (OSError, EOFError, ValueError, zlib.error, DeserializationError) as error:
        raise CheckFailed(f"The backup {path} cannot be read: {error}.") from error
    ctx.log(f"{rows.total()} objects could be made from {path.name}")
    return dict(rows)


def _label_of(line: str) -> str:
    for made in serializers.deserialize("jsonl", line):
        return str(made.object._meta.label_lower)
    raise ValueError(f"no object in the line {line[:80]!r}")


def _compare_rows(ctx: StepContext, found: dict[str, int], recorded: dict[str, int]) -> None:
    different = [
        f"{name} {found.get(name, 0)} instead of {recorded.get(name, 0)}"
        for name in sorted(found.keys() | recorded.keys())
        if found.get(name, 0) != recorded.get(name, 0)
    ]
    if different:
        raise CheckFailed(f"The backup lacks or adds rows: {', '.join(different)}.")
    for name, count in sorted(recorded.items()):
        ctx.log(f"{count:>8}  {name}")
    ctx.log(f"{sum(found.values())} rows in {len(recorded)} tables, each count as recorded")


def check_pages(ctx: StepContext, connection: sqlite3.Connection, name: str) -> None:
    """SQLite's integrity and foreign key checks. Raises `CheckFailed` with what they say."""
    problems = [line for (line,) in connection.execute("PRAGMA integrity_check") if line != "ok"]
    ctx.check_cancelled()
    orphans = connection.execute("PRAGMA foreign_key_check").fetchmany(20)
    problems += [f"row {row} of {table} refers to no row of {to}" for table, row, to, _ in orphans]
    if problems:
        raise CheckFailed(f"{name} is damaged: {'; '.join(problems)}. Restore a backup.")
    pages = connection.execute("PRAGMA page_count").fetchone()[0]
    ctx.log(f"{name}: integrity check ok over {pages} pages, foreign keys ok")


def check_sqlite(ctx: StepContext, path: Path) -> None:
    """`check_pages` of a live database; writers are not held up."""
    with _opened(path) as connection:
        check_pages(ctx, connection, path.name)


_STAMPED = re.compile(r"(?P<name>[a-z]+)-\d{8}T\d{12}Z(?P<suffix>\.[a-z0-9.]+)")


def rotate(ctx: StepContext, folder: Path, keep: int) -> list[str]:
    """Delete all but the newest `keep` of each kind of stamped file; the names deleted.

    Files that nobody here named are left alone.
    """
    if keep < 1:
        raise CheckFailed(f"keep is {keep}; at least one backup has to stay.")
    kinds: dict[tuple[str, str], list[Path]] = {}
    for path in sorted(private_folder(folder).iterdir()):
        if match := _STAMPED.fullmatch(path.name):
            kinds.setdefault((match["name"], match["suffix"]), []).append(path)
    deleted: list[str] = []
    for (name, suffix), paths in kinds.items():
        ctx.check_cancelled()
        for path in paths[:-keep]:
            path.unlink(missing_ok=True)
            deleted.append(path.name)
            ctx.log(f"deleted {path.name}")
        ctx.log(f"{name}*{suffix}: {min(len(paths), keep)} kept, of {len(paths)}")
    return deleted
