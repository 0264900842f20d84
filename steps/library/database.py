"""The live database, read and tended through Django's connection. Nothing here runs in `atomic`."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from django.contrib.auth import get_user_model
from django.contrib.auth.models import Group
from django.contrib.sessions.models import Session
from django.db.backends.base.base import BaseDatabaseWrapper
from django.template.backends.base import BaseEngine
from django.utils import timezone

from .backups import check_sqlite
from .context import CheckFailed, StepContext
from .files import size_text, walk


def sqlite_file(connection: BaseDatabaseWrapper) -> Path | None:
    """The file that `connection` works on; None if that is not SQLite."""
    if connection.vendor != "sqlite":
        return None
    return Path(connection.settings_dict["NAME"])


def _one(connection: BaseDatabaseWrapper, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute(sql)
        row = cursor.fetchone()
    return row[0] if row else None


def count_rows(
    ctx: StepContext, connection: BaseDatabaseWrapper, *, prefix: str = ""
) -> dict[str, int]:
    """Rows of each table whose name begins with `prefix`, most first."""
    tables = [name for name in connection.introspection.table_names() if name.startswith(prefix)]
    rows: dict[str, int] = {}
    for table in tables:
        ctx.check_cancelled()
        name = connection.ops.quote_name(table)
        rows[table] = _one(connection, f"SELECT count(*) FROM {name}")  # noqa: S608  (quoted)
        ctx.progress(len(rows), len(tables))
    return dict(sorted(rows.items(), key=lambda item: -item[1]))


def analyse(ctx: StepContext, connection: BaseDatabaseWrapper) -> dict[str, int]:
    """Rows of each table, with the size of the whole. Logs a table."""
    rows = count_rows(ctx, connection)
    for table, count in rows.items():
        ctx.log(f"{count:>9}  {table}")
    ctx.log(f"{sum(rows.values()):>9}  in {len(rows)} tables")
    ctx.log(f"{connection.display_name}: {size_text(_size(connection))}")
    return rows


def _size(connection: BaseDatabaseWrapper) -> int:
    if path := sqlite_file(connection):
        beside = [path, path.with_name(path.name + "-wal")]
        return sum(file.stat().st_size for file in beside if file.exists())
    return int(_one(connection, "SELECT pg_database_size(current_database())"))


def check_integrity(ctx: StepContext, connection: BaseDatabaseWrapper) -> None:
    """Raise `CheckFailed` if the database itself finds something damaged or unproven."""
    if path := sqlite_file(connection):
        check_sqlite(ctx, path)
        return
    rows = count_rows(ctx, connection)
    ctx.log(f"{sum(rows.values())} rows in {len(rows)} tables could be read")
    invalid = int(_one(connection, "SELECT count(*) FROM pg_index WHERE NOT indisvalid"))
    unproven = int(_one(connection, "SELECT count(*) FROM pg_constraint WHERE NOT convalidated"))
    ctx.log(f"{invalid} invalid indexes, {unproven} constraints never validated")
    if invalid or unproven:
        raise CheckFailed(
            f"{invalid} indexes are invalid and {unproven} constraints not validated."
            " REINDEX the first, VALIDATE the second."
        )


def optimise(ctx: StepContext, connection: BaseDatabaseWrapper) -> None:
    """Bring the query planner's statistics up to date, in a short statement of its own."""
    if connection.vendor == "sqlite":
        with connection.cursor() as cursor:
            # It bounds the rows read per index, so that the write lock is held for milliseconds.
            cursor.execute("PRAGMA analysis_limit = 400")
            cursor.execute("PRAGMA optimize")
            cursor.execute("PRAGMA wal_checkpoint(PASSIVE)")
            _, frames, moved = cursor.fetchone()
        ctx.log("PRAGMA optimize: done")
        ctx.log(f"checkpoint: {moved} of {frames} pages of the journal are in the database")
        pages, free = (
            int(_one(connection, f"PRAGMA {name}")) for name in ("page_count", "freelist_count")
        )
        ctx.log(f"{pages} pages, {free} of them free")
        return
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE")
    ctx.log("ANALYZE: done")
    dead = _one(connection, "SELECT coalesce(sum(n_dead_tup), 0) FROM pg_stat_user_tables")
    ctx.log(f"{dead} dead rows wait for the autovacuum")


def read_clock(connection: BaseDatabaseWrapper) -> datetime:
    """What the database takes for now."""
    if connection.vendor == "sqlite":
        text = _one(connection, "SELECT strftime('%Y-%m-%d %H:%M:%f', 'now')")
        return datetime.fromisoformat(text).replace(tzinfo=UTC)
    now: datetime = _one(connection, "SELECT clock_timestamp()")
    return now.astimezone(UTC)


def count_sessions(ctx: StepContext) -> dict[str, int]:
    """Sessions {total, expired}."""
    total = Session.objects.count()
    expired = Session.objects.filter(expire_date__lt=timezone.now()).count()
    ctx.log(f"{total} sessions, {expired} of them expired")
    return {"total": total, "expired": expired}


def review_access(ctx: StepContext) -> dict[str, int]:
    """Who may do what: accounts by kind, and the members of each group."""
    users = get_user_model().objects
    counts = {
        "accounts": users.count(),
        "active": users.filter(is_active=True).count(),
        "administrators": users.filter(is_active=True, is_superuser=True).count(),
        "never signed in": users.filter(is_active=True, last_login=None).count(),
    }
    for name, count in counts.items():
        ctx.log(f"{count:>5}  {name}")
    for group in Group.objects.order_by("name"):
        ctx.log(f"group {group.name}: {group.user_set.count()} members")
    if not counts["administrators"]:
        ctx.log("Nobody can administer this site. manage.py createsuperuser makes somebody.")
    return counts


def compile_templates(ctx: StepContext, engine: BaseEngine, folders: Iterable[Path]) -> int:
    """Compile each template under `folders`; how many. Raises what the first broken one raises."""
    count = 0
    for folder in folders:
        for path in walk(folder, frozenset({".html", ".txt"})):
            ctx.check_cancelled()
            engine.get_template(str(path.relative_to(folder)))
            ctx.log(str(path.relative_to(folder)))
            count += 1
    ctx.log(f"{count} templates compile")
    return count


def snapshot_queue(ctx: StepContext, connection: BaseDatabaseWrapper) -> dict[str, int]:
    """Rows of the task queue's tables. They hold hints; the runs themselves lie elsewhere."""
    rows = count_rows(ctx, connection, prefix="django_q_")
    for table, count in rows.items():
        ctx.log(f"{count:>6}  {table}")
    return rows
