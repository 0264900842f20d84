from __future__ import annotations

import gzip
import hashlib
import json
import os
import socket
import sqlite3
import sys
import tarfile
import threading
import time
from base64 import urlsafe_b64encode
from contextlib import closing
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from django.contrib.auth.models import Group, User
from django.contrib.sessions.models import Session
from django.db import connection
from django.db.utils import ConnectionHandler
from django.template import engines
from django.utils import timezone

from executions.engine.cancellation import StepCancelled
from steps.library import archives, backups, database, failing, files, machine, packages, site
from steps.library.context import CheckFailed
from tests.fakes import FakeContext


@pytest.fixture
def live(tmp_path) -> Path:
    """A database in WAL mode, larger than one round of the backup."""
    path = tmp_path / "live.sqlite3"
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute('CREATE TABLE "odd name" (id INTEGER PRIMARY KEY, body BLOB)')
        db.execute('CREATE TABLE child (id INTEGER PRIMARY KEY, parent REFERENCES "odd name"(id))')
        db.executemany(
            'INSERT INTO "odd name" (body) VALUES (?)', [(os.urandom(4000),) for _ in range(600)]
        )
        db.execute("INSERT INTO child (parent) VALUES (1), (2)")
        db.commit()
    return path


@pytest.fixture
def backup(live, tmp_path) -> dict:
    return backups.back_up_sqlite(FakeContext(), live, tmp_path / "copy.sqlite3")


def damage(path: Path, at: float = 0.5) -> None:
    content = bytearray(path.read_bytes())
    place = int(len(content) * at)
    content[place : place + 64] = bytes(byte ^ 0xFF for byte in content[place : place + 64])
    path.write_bytes(content)


# --- files --------------------------------------------------------------------------------------


def test_sizes_are_for_people():
    """Bytes are whole, everything above has one digit and a unit."""
    sizes = [0, 812, 1024, 4 * 1024**2, 3 * 1024**4]
    assert [files.size_text(size) for size in sizes] == [
        "0 B",
        "812 B",
        "1.0 KiB",
        "4.0 MiB",
        "3.0 TiB",
    ]


def test_record_comes_back(tmp_path):
    """A record is read as it was written, is private, and leaves no half file."""
    path = tmp_path / "maintenance" / "backup.json"
    files.write_record(path, {"rows": {"a": 1}})
    assert files.read_record(path, made_by="AStep") == {"rows": {"a": 1}}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in path.parent.iterdir()] == ["backup.json"]


@pytest.mark.parametrize("content", [None, b"{", b"[]", b"\xff"])
def test_unusable_record_names_the_step_that_makes_it(tmp_path, content):
    """A record that is missing or no JSON object says which step to run."""
    path = tmp_path / "backup.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckFailed, match="CreateBackupStep"):
        files.read_record(path, made_by="CreateBackupStep")


def test_files_are_hashed(tmp_path):
    """Each file has its SHA-256 and size, and a line in the output."""
    path = tmp_path / "a.css"
    path.write_bytes(b"body{}")
    ctx = FakeContext()
    digests = files.hash_files(ctx, [("css/a.css", path)])
    expected = hashlib.sha256(b"body{}").hexdigest()
    assert digests == {"css/a.css": files.Digest(sha256=expected, size=6)}
    assert f"{expected}  css/a.css" in ctx.text
    assert ctx.progressed == [(1, 1)]


def test_hashing_stops_when_cancelled(tmp_path):
    """A cancel ends the hashing before the next file is read."""
    path = tmp_path / "a"
    path.write_bytes(b"a")
    ctx = FakeContext(cancel_at=3)
    with pytest.raises(StepCancelled):
        files.hash_files(ctx, [("one", path), ("two", path)])
    assert len(ctx.lines) == 1


def test_sources_compile(tmp_path):
    """Python files are counted, hidden and generated folders left out, nothing is written."""
    (tmp_path / "good.py").write_text("x = 1\n")
    (tmp_path / ".venv").mkdir()
    (tmp_path / ".venv" / "bad.py").write_text("def\n")
    assert files.compile_sources(FakeContext(), tmp_path) == 1
    assert not (tmp_path / "__pycache__").exists()


@pytest.mark.parametrize("source", [b"def\n", b"x = '\xff'\n", b"x = 1\0"])
def test_source_that_does_not_compile_is_named(tmp_path, source):
    """A syntax error, a wrong encoding and a null byte are each found."""
    (tmp_path / "bad.py").write_bytes(source)
    with pytest.raises(CheckFailed, match=r"1 of 1 files do not compile: bad\.py"):
        files.compile_sources(FakeContext(), tmp_path)


def test_sources_are_searched(tmp_path):
    """grep's lines are output; nothing found and a folder that is not there each fail."""
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "a.py").write_text("x = 1\ndef f(): ...\n")
    (tmp_path / "app" / "b.md").write_text("def g\n")
    ctx = FakeContext()
    files.search_sources(ctx, tmp_path, "^def ", ["app"])
    assert ctx.lines == ["app/a.py:2:def f(): ..."]
    with pytest.raises(CheckFailed, match="No line in app matches"):
        files.search_sources(FakeContext(), tmp_path, "-nothing", ["app"])
    with pytest.raises(CheckFailed, match="exit code 2"):
        files.search_sources(FakeContext(), tmp_path, "x", ["gone"])


def test_lines_are_counted(tmp_path):
    """Lines are counted by suffix; other files are left out."""
    (tmp_path / "a.py").write_text("1\n2\n")
    (tmp_path / "b.md").write_text("1\n")
    (tmp_path / "c.png").write_bytes(b"\n\n\n")
    assert files.count_lines(FakeContext(), tmp_path) == {".py": 2, ".md": 1}


def test_folder_is_measured(tmp_path):
    """Sizes of nested files add up, one line for each entry of the folder."""
    (tmp_path / "deep" / "deeper").mkdir(parents=True)
    (tmp_path / "deep" / "deeper" / "a").write_bytes(b"x" * 2048)
    (tmp_path / "b").write_bytes(b"x")
    ctx = FakeContext()
    assert files.measure_folder(ctx, tmp_path) == 2049
    assert ctx.lines[1].split() == ["2.0", "KiB", "deep/"]


def test_open_secret_is_found(tmp_path):
    """A key that others can read fails the check; one that they cannot passes."""
    path = tmp_path / "secret_key"
    path.write_text("x")
    path.chmod(0o600)
    files.check_private(FakeContext(), path)
    path.chmod(0o640)
    with pytest.raises(CheckFailed, match="0640"):
        files.check_private(FakeContext(), path)


def test_writing_is_measured(tmp_path):
    """Both speeds are positive and the file is gone, also after a cancel."""
    assert min(files.measure_writing(FakeContext(), tmp_path, 2).values()) > 0
    with pytest.raises(StepCancelled):
        files.measure_writing(FakeContext(cancel_at=2), tmp_path, 2)
    assert list(tmp_path.iterdir()) == []


# --- backups ------------------------------------------------------------------------------------


def test_backup_holds_every_row(live, backup):
    """The copy is one private file with every row, and passes its verification."""
    path = Path(backup["path"])
    assert backup["rows"] == {"odd name": 600, "child": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.stat().st_size == backup["size"]
    with closing(sqlite3.connect(path)) as copy, closing(sqlite3.connect(live)) as db:
        assert list(copy.iterdump()) == list(db.iterdump())
    ctx = FakeContext()
    backups.verify_backup(ctx, backup)
    assert "602 rows in 2 tables, each count as recorded" in ctx.text
    assert sorted(path.parent.glob("copy*")) == [path]


def test_backup_is_of_one_moment_and_holds_up_no_writer(live, tmp_path):
    """A row that is committed while the copy is made neither waits, nor is in the copy."""

    class Writing(FakeContext):
        def progress(self, done, total=1):
            super().progress(done, total)
            with closing(sqlite3.connect(live, timeout=0)) as db:
                db.execute("INSERT INTO child (parent) VALUES (3)")
                db.commit()

    ctx = Writing()
    record = backups.back_up_sqlite(ctx, live, tmp_path / "copy.sqlite3")
    assert len(ctx.progressed) > 1
    backups.verify_backup(FakeContext(), record)
    assert record["rows"]["child"] == 2


def test_cancelled_backup_leaves_nothing(live, tmp_path):
    """A cancel in the middle of the copy ends it; no file, whole or half, is left."""
    before = set(tmp_path.iterdir())
    with pytest.raises(StepCancelled):
        backups.back_up_sqlite(FakeContext(cancel_at=4), live, tmp_path / "copy.sqlite3")
    left = {path for path in set(tmp_path.iterdir()) - before if "live" not in path.name}
    assert left == set()


def test_changed_backup_is_found(backup):
    """A backup with other bytes than were written fails, with both hashes named."""
    damage(Path(backup["path"]))
    with pytest.raises(CheckFailed, match=backup["sha256"]):
        backups.verify_backup(FakeContext(), backup)


@pytest.mark.parametrize("at", [0.0, 0.002, 0.5])
def test_damaged_backup_is_found(backup, at):
    """Damage is found by SQLite itself, also where the recorded hash is that of the damage."""
    path = Path(backup["path"])
    content = bytearray(path.read_bytes())
    place = int(len(content) * at) // 4096 * 4096
    content[place : place + 2048] = b"\xa5" * 2048
    path.write_bytes(content)
    record = {**backup, "sha256": hashlib.sha256(content).hexdigest()}
    with pytest.raises(CheckFailed, match=r"is damaged|cannot be read"):
        backups.verify_backup(FakeContext(), record)


def test_empty_and_missing_backups_are_found(backup):
    """Neither an empty file nor none passes for a backup."""
    path = Path(backup["path"])
    path.write_bytes(b"")
    empty = {**backup, "sha256": hashlib.sha256(b"").hexdigest()}
    with pytest.raises(CheckFailed, match="lacks or adds rows"):
        backups.verify_backup(FakeContext(), empty)
    path.unlink()
    with pytest.raises(CheckFailed, match="does not exist"):
        backups.verify_backup(FakeContext(), backup)


def test_backup_without_some_rows_is_found(backup):
    """A sound database with fewer rows than were recorded fails, naming the table."""
    path = Path(backup["path"])
    with closing(sqlite3.connect(path)) as copy:
        copy.execute("DELETE FROM child WHERE id = 1")
        copy.commit()
    record = {**backup, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    with pytest.raises(CheckFailed, match="child 1 instead of 2"):
        backups.verify_backup(FakeContext(), record)


def test_orphans_are_found(live):
    """A row that refers to a row that is not there fails the integrity check."""
    backups.check_sqlite(FakeContext(), live)
    with closing(sqlite3.connect(live)) as db:
        db.execute("INSERT INTO child (parent) VALUES (99999)")
        db.commit()
    with pytest.raises(CheckFailed, match="row 3 of child"):
        backups.check_sqlite(FakeContext(), live)


@pytest.mark.django_db(transaction=True)
def test_json_backup_holds_every_object(tmp_path):
    """The portable backup has one line an object, can be opened, and holds what was recorded."""
    user = User.objects.create_user("ada", password="a password")
    user.groups.add(Group.objects.create(name="menders"))
    record = backups.back_up_as_json(FakeContext(), connection, tmp_path / "copy.jsonl.gz")
    assert record["rows"]["auth.user"] == 1
    backups.verify_backup(FakeContext(), record)
    with gzip.open(record["path"], "rt") as stream:
        objects = [json.loads(line) for line in stream]
    assert len(objects) == sum(record["rows"].values())
    ada = next(item for item in objects if item["model"] == "auth.user")
    assert ada["fields"]["username"] == "ada"
    assert len(ada["fields"]["groups"]) == 1


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("change", ["cut", "bent", "fewer", "foreign"])
def test_damaged_json_backup_is_found(tmp_path, change):
    """A dump that is cut off, damaged, short of a line or of unknown models fails."""
    Group.objects.create(name="menders")
    record = backups.back_up_as_json(FakeContext(), connection, tmp_path / "copy.jsonl.gz")
    path = Path(record["path"])
    if change == "cut":
        path.write_bytes(path.read_bytes()[:-20])
    elif change == "bent":
        damage(path)
    else:
        lines = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
        other = b'{"model": "no.such", "pk": 1, "fields": {}}\n'
        path.write_bytes(gzip.compress(b"".join(lines[1:] if change == "fewer" else [other])))
    record["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    with pytest.raises(CheckFailed):
        backups.verify_backup(FakeContext(), record)


@pytest.mark.django_db(transaction=True)
def test_cancelled_json_backup_leaves_nothing(tmp_path):
    """A cancel between two objects ends the dump and removes its half file."""
    Group.objects.bulk_create(Group(name=f"group {number}") for number in range(5))
    with pytest.raises(StepCancelled):
        backups.back_up_as_json(FakeContext(cancel_at=3), connection, tmp_path / "copy.jsonl.gz")
    assert list(tmp_path.iterdir()) == []


def test_rotation_keeps_the_newest(tmp_path):
    """Of each kind the newest stay; files with other names are left alone."""
    for day in range(1, 8):
        for name in ("database", "archive"):
            suffix = ".sqlite3" if name == "database" else ".tar.gz"
            (tmp_path / f"{name}-202601{day:02}T000000000000Z{suffix}").touch()
    for name in ("mine.sqlite3", "database-old.sqlite3", "database-1.sqlite3.part"):
        (tmp_path / name).touch()
    deleted = backups.rotate(FakeContext(), tmp_path, 5)
    assert sorted(deleted) == [
        "archive-20260101T000000000000Z.tar.gz",
        "archive-20260102T000000000000Z.tar.gz",
        "database-20260101T000000000000Z.sqlite3",
        "database-20260102T000000000000Z.sqlite3",
    ]
    assert len(list(tmp_path.iterdir())) == 13
    assert backups.rotate(FakeContext(), tmp_path, 5) == []


def test_rotation_knows_the_names_that_backups_get(tmp_path):
    """The names made for backups and archives are those that rotation counts."""
    for suffix in (".sqlite3", ".jsonl.gz", ".tar.gz"):
        for _ in range(2):
            backups.stamped(tmp_path, "database", suffix).touch()
    assert len(backups.rotate(FakeContext(), tmp_path, 1)) == 3


def test_rotation_never_deletes_all(tmp_path):
    """Keeping none is refused."""
    backups.stamped(tmp_path, "database", ".sqlite3").touch()
    with pytest.raises(CheckFailed, match="at least one"):
        backups.rotate(FakeContext(), tmp_path, 0)
    assert len(list(tmp_path.iterdir())) == 1


# --- archives -----------------------------------------------------------------------------------


@pytest.fixture
def archive(tmp_path) -> dict:
    members = {}
    for name in ("one.bin", "two.json"):
        members[name] = tmp_path / name
        members[name].write_bytes(os.urandom(100_000))
    return archives.create_archive(FakeContext(), tmp_path / "archive.tar.gz", members)


def test_archive_holds_its_members(archive, tmp_path):
    """Every member is in the archive, unchanged, and the verification says so."""
    ctx = FakeContext()
    archives.verify_archive(ctx, archive)
    assert "2 members, each hash as recorded" in ctx.text
    with tarfile.open(archive["path"]) as opened:
        stream = opened.extractfile("one.bin")
        assert stream is not None
        assert stream.read() == (tmp_path / "one.bin").read_bytes()
    assert Path(archive["path"]).stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("at", [0.0, 0.3, 0.6, 0.9997])
def test_damaged_archive_is_found(archive, at):
    """Wherever its bytes are changed, the archive fails."""
    damage(Path(archive["path"]), at)
    with pytest.raises(CheckFailed, match=r"damaged|changed"):
        archives.verify_archive(FakeContext(), archive)


def test_cut_archive_is_found(archive):
    """An archive that ends too early fails."""
    path = Path(archive["path"])
    path.write_bytes(path.read_bytes()[:60_000])
    with pytest.raises(CheckFailed, match="damaged"):
        archives.verify_archive(FakeContext(), archive)


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ({"one.bin": b"new", "two.json": None}, "one.bin has SHA-256"),
        ({"two.json": None}, "one.bin is missing"),
        ({"one.bin": None, "two.json": None, "three": b"x"}, "three was added"),
    ],
)
def test_packed_anew_is_found(archive, tmp_path, members, said):
    """An archive that is sound but packed with other files fails, naming the member."""
    for name, content in members.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
    other = archives.create_archive(
        FakeContext(), tmp_path / "other.tar.gz", {name: tmp_path / name for name in members}
    )
    with pytest.raises(CheckFailed, match=said):
        archives.verify_archive(FakeContext(), {**archive, "path": other["path"]})


def test_missing_archive_is_found(archive):
    """An archive that was deleted fails."""
    Path(archive["path"]).unlink()
    with pytest.raises(CheckFailed, match="does not exist"):
        archives.verify_archive(FakeContext(), archive)


def test_cancelled_archive_leaves_nothing(tmp_path):
    """A cancel while packing ends it and removes the half archive."""
    (tmp_path / "one").write_bytes(b"x" * 100_000)
    with pytest.raises(StepCancelled):
        archives.create_archive(
            FakeContext(cancel_at=2), tmp_path / "a.tar.gz", {"one": tmp_path / "one"}
        )
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


# --- database -----------------------------------------------------------------------------------


@pytest.fixture
def own(db, live):
    """Django's connection to the database `live`."""
    handler = ConnectionHandler(
        {"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(live)}}
    )
    yield handler["default"]
    handler["default"].close()


def test_tables_are_counted(own):
    """Each table has its rows, the largest first, and the output the whole size."""
    ctx = FakeContext()
    assert list(database.analyse(ctx, own).items()) == [("odd name", 600), ("child", 2)]
    assert "SQLite" in ctx.lines[-1]
    assert "MiB" in ctx.lines[-1]


def test_damaged_live_database_is_found(own, live):
    """The integrity check passes on a sound database and fails on a damaged one."""
    ctx = FakeContext()
    database.check_integrity(ctx, own)
    assert "integrity check ok" in ctx.text
    own.close()
    with live.open("r+b") as file:
        file.seek(50 * 4096)
        file.write(b"\xa5" * 4096)
    with pytest.raises((CheckFailed, sqlite3.DatabaseError), match=r"damaged|malformed"):
        database.check_integrity(FakeContext(), own)


def test_optimising_leaves_no_lock(own, live):
    """Afterwards another connection can write at once."""
    ctx = FakeContext()
    database.optimise(ctx, own)
    assert "PRAGMA optimize: done" in ctx.text
    with closing(sqlite3.connect(live, timeout=0)) as other:
        other.execute("DELETE FROM child")
        other.commit()


@pytest.mark.django_db(transaction=True)
def test_own_database_is_sound():
    """The database of the tests, whichever it is, passes analysis, check and tending."""
    ctx = FakeContext()
    assert "auth_user" in database.analyse(ctx, connection)
    database.check_integrity(ctx, connection)
    database.optimise(ctx, connection)
    assert connection.display_name in ctx.text
    assert not connection.in_atomic_block


@pytest.mark.django_db
def test_database_clock_is_now():
    """The database's clock is read in UTC and close to ours."""
    assert abs(database.read_clock(connection) - datetime.now(UTC)) < timedelta(seconds=5)


@pytest.mark.django_db
def test_expired_sessions_are_counted():
    """Sessions past their end are told from the others."""
    for days in (-1, -2, 1):
        Session.objects.create(
            session_key=f"key{days}",
            session_data="",
            expire_date=timezone.now() + timedelta(days=days),
        )
    ctx = FakeContext()
    assert database.count_sessions(ctx) == {"total": 3, "expired": 2}
    assert ctx.text == "3 sessions, 2 of them expired"


@pytest.mark.django_db
def test_access_is_reviewed():
    """Accounts are counted by kind, groups with their members; lacking an administrator shows."""
    group = Group.objects.create(name="menders")
    User.objects.create_user("ada").groups.add(group)
    ctx = FakeContext()
    assert database.review_access(ctx)["administrators"] == 0
    assert "group menders: 1 members" in ctx.text
    assert "Nobody can administer" in ctx.text
    User.objects.create_superuser("root")
    assert database.review_access(FakeContext()) == {
        "accounts": 2,
        "active": 2,
        "administrators": 1,
        "never signed in": 2,
    }


@pytest.mark.django_db
def test_queue_is_counted():
    """Only the tables of the queue are counted."""
    rows = database.snapshot_queue(FakeContext(), connection)
    assert rows["django_q_ormq"] == 0
    assert all(name.startswith("django_q_") for name in rows)


def test_templates_are_compiled(settings, tmp_path):
    """Templates are compiled through the engine; a broken one raises."""
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "good.html").write_text("{% if x %}{% endif %}")
    engine = engines["django"]
    engine.engine.dirs, before = [str(tmp_path)], engine.engine.dirs
    try:
        ctx = FakeContext()
        loaders = engine.engine.template_loaders
        for loader in loaders:
            loader.reset()
        assert database.compile_templates(ctx, engine, [tmp_path]) == 1
        (tmp_path / "bad.html").write_text("{% if %}")
        with pytest.raises(Exception, match="Unexpected end of expression"):
            database.compile_templates(ctx, engine, [tmp_path])
    finally:
        engine.engine.dirs = before
        for loader in loaders:
            loader.reset()


# --- machine ------------------------------------------------------------------------------------


def test_disk_is_read(tmp_path):
    """Free space is read; wanting more than there is fails with both figures."""
    reading = machine.read_disk(FakeContext(), tmp_path, 1)
    assert 0 < reading["free"] <= reading["total"]
    with pytest.raises(CheckFailed, match="999999999 MiB"):
        machine.read_disk(FakeContext(), tmp_path, 999_999_999)


def test_memory_is_read():
    """Memory is read; wanting more than there is fails with both figures."""
    reading = machine.read_memory(FakeContext(), 1)
    assert reading["total"] > 0
    with pytest.raises(CheckFailed, match="999999999 MiB"):
        machine.read_memory(FakeContext(), 999_999_999)


def test_load_is_read():
    """Load and cores are read."""
    assert machine.read_load(FakeContext())["cores"] >= 1


def test_limits_are_read():
    """The open files of this process are counted; wanting more than may be opened fails."""
    reading = machine.read_limits(FakeContext(), 1)
    assert reading["open"] > 2
    with pytest.raises(CheckFailed, match="wanted are"):
        machine.read_limits(FakeContext(), 10**12)


def test_clocks_agree(tmp_path):
    """Clocks of one machine agree; a database that is a minute behind fails."""
    ctx = FakeContext()
    machine.check_clocks(ctx, tmp_path, datetime.now(UTC), "Europe/Vienna")
    assert "Europe/Vienna" in ctx.text
    late = datetime.now(UTC) - timedelta(minutes=1)
    with pytest.raises(CheckFailed, match="database by -60"):
        machine.check_clocks(FakeContext(), tmp_path, late, "UTC")


def test_loopback_carries():
    """Bytes come back unchanged, at some speed; a cancel ends it."""
    assert machine.check_loopback(FakeContext(), 64) > 0
    with pytest.raises(StepCancelled):
        machine.check_loopback(FakeContext(cancel_at=3), 64)


# --- packages -----------------------------------------------------------------------------------


@pytest.fixture
def installed(tmp_path, monkeypatch) -> Path:
    """The only package installed, with one file."""
    code = tmp_path / "thing.py"
    code.write_bytes(b"x = 1")
    facts = tmp_path / "thing-1.2.dist-info"
    facts.mkdir()
    (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: thing\nVersion: 1.2\n")
    digest = urlsafe_b64encode(hashlib.sha256(b"x = 1").digest()).rstrip(b"=").decode()
    (facts / "RECORD").write_text(f"thing.py,sha256={digest},5\nthing-1.2.dist-info/RECORD,,\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    return code


def test_packages_are_listed(installed):
    """The list holds each package with its version."""
    ctx = FakeContext()
    assert packages.list_packages(ctx) == {"thing": "1.2"}
    assert "  thing 1.2" in ctx.lines


def test_package_files_are_compared(installed):
    """A file as it was installed passes; one that was changed or deleted fails by its name."""
    assert packages.verify_packages(FakeContext()) == 1
    installed.write_bytes(b"x = 2")
    with pytest.raises(CheckFailed, match=r"thing\.py was changed"):
        packages.verify_packages(FakeContext())
    installed.unlink()
    with pytest.raises(CheckFailed, match=r"thing\.py is missing"):
        packages.verify_packages(FakeContext())


# --- site ---------------------------------------------------------------------------------------

STYLE = b"body { color: teal }"
PAGES: dict[str, tuple[int, bytes]] = {
    "/": (200, b'<link rel="stylesheet" href="/a.css?v=1"><script src="b.js"></script>'),
    "/a.css?v=1": (200, STYLE),
    "/b.js": (200, b"1"),
    "/broken": (200, b'<img src="/gone.png"><script src="https://cdn.example/x.js"></script>'),
    "/moved": (302, b""),
}
GUARDS = {
    "Content-Security-Policy": "default-src 'self'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "same-origin",
}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        status, body = PAGES.get(self.path, (404, b"not here"))
        self.send_response(status)
        if self.headers.get("X-Forwarded-Proto") == "https":
            for name, value in GUARDS.items():
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as served:
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        yield site.Site(base_url=f"http://127.0.0.1:{served.server_port}", headers={})
        served.shutdown()
        thread.join()


def test_page_is_fetched(server):
    """A page that answers 200 and holds what is looked for passes."""
    ctx = FakeContext()
    page = site.fetch_page(ctx, server, "/", contains="stylesheet")
    assert page.body == PAGES["/"][1]
    assert ctx.lines[0].startswith("200 http://127.0.0.1:")


@pytest.mark.parametrize(
    ("path", "contains", "said"),
    [
        ("/gone", "", "answered 404"),
        ("/moved", "", "answered 302"),
        ("/", "<h1>", "'<h1>' is not in it"),
    ],
)
def test_wrong_page_is_found(server, path, contains, said):
    """Another status, a redirect and a page without what is looked for fail."""
    with pytest.raises(CheckFailed, match=said):
        site.fetch_page(FakeContext(), server, path, contains=contains)


def test_silent_site_is_found():
    """A closed port fails with the address and where it comes from."""
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
    closed = site.Site(base_url=f"http://127.0.0.1:{port}", headers={})
    with pytest.raises(CheckFailed, match=rf"127\.0\.0\.1:{port}/ does not answer.*BASE_URL"):
        closed.fetch("/")


def test_served_file_is_compared(server, tmp_path):
    """A served file passes if it is the one on disk, and fails if it is another."""
    original = tmp_path / "a.css"
    original.write_bytes(STYLE)
    site.fetch_file(FakeContext(), server, "/a.css?v=1", original)
    original.write_bytes(STYLE + b" ")
    with pytest.raises(CheckFailed, match="is served with SHA-256"):
        site.fetch_file(FakeContext(), server, "/a.css?v=1", original)


def test_assets_are_fetched(server):
    """What a page loads is fetched, relative addresses and queries included."""
    assert site.fetch_assets(FakeContext(), server, "/") == 2


def test_missing_assets_are_found(server):
    """A file that is not there and one on a foreign host fail, both named."""
    with pytest.raises(CheckFailed, match=r"gone\.png answered 404.*cdn\.example.*another host"):
        site.fetch_assets(FakeContext(), server, "/broken")


def test_guarding_headers_are_checked(server):
    """All guarding headers pass; without them each is named. Extra headers reach the site."""
    proxied = site.Site(base_url=server.base_url, headers={"X-Forwarded-Proto": "https"})
    site.check_headers(FakeContext(), proxied, "/")
    with pytest.raises(CheckFailed, match="content-security-policy with default-src, x-content"):
        site.check_headers(FakeContext(), server, "/")


def test_answers_are_measured(server):
    """Fastest, median and slowest are in order; a wrong answer ends it."""
    answers = site.measure_answers(FakeContext(), server, "/", 3)
    assert 0 < answers["fastest"] <= answers["median"] <= answers["slowest"]
    with pytest.raises(CheckFailed, match="404 the 1th time"):
        site.measure_answers(FakeContext(), server, "/gone", 3)


# --- failing ------------------------------------------------------------------------------------


def test_error_has_a_cause():
    """The demo's error is chained to what caused it."""
    with pytest.raises(RuntimeError, match="2 items") as caught:
        failing.raise_error(FakeContext())
    assert isinstance(caught.value.__cause__, IndexError)


def test_stubborn_step_never_looks():
    """It lasts as long as it was told to and never looks at the token."""
    ctx = FakeContext(cancel_at=1)
    started = time.monotonic()
    failing.ignore_cancel(ctx, 0.05)
    assert time.monotonic() - started >= 0.05
    assert ctx.looks == 0


def test_flaky_step_fails_once():
    """It fails at its first attempt and succeeds at its second."""
    with pytest.raises(CheckFailed):
        failing.fail_first(FakeContext(attempt=1))
    failing.fail_first(FakeContext(attempt=2))
