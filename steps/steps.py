"""The built-in steps: what runs under which name. What they do stands in library/."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.contrib.staticfiles import finders
from django.db import connection
from django.shortcuts import resolve_url
from django.template import engines

from .library import archives, backups, database, failing, files, machine, packages, site
from .library.context import CheckFailed, StepContext
from .registry import step

# Whoever only looks may look again after a crash.
reading = partial(step, retry_safe=True, attempts=2)


def _sign_in() -> str:
    return resolve_url(settings.LOGIN_URL)


def _data() -> Path:
    return Path(settings.DATA_DIR)


def _source() -> Path:
    return Path(settings.BASE_DIR)


def _backups() -> Path:
    return _data() / "backups"


def _record(name: str) -> Path:
    """Where one step leaves what the next one needs to know."""
    return _data() / "maintenance" / f"{name}.json"


def _site() -> site.Site:
    headers = {}
    if getattr(settings, "SECURE_PROXY_SSL_HEADER", None):
        # Behind a proxy plain HTTP would be redirected to the address that the world sees.
        name, value = settings.SECURE_PROXY_SSL_HEADER
        headers[name.removeprefix("HTTP_").replace("_", "-")] = value
    return site.Site(
        base_url=os.environ.get("STEPSITE_BASE_URL", "http://127.0.0.1:8000"), headers=headers
    )


# --- backup -------------------------------------------------------------------------------------


@step(
    "CreateStaticManifestStep",
    category="backup",
    description="Hashes every static file with SHA-256 and writes the list for the archive.",
    timeout=120,
)
def create_static_manifest(ctx: StepContext) -> dict[str, int]:
    found: dict[str, Path] = {}
    for finder in finders.get_finders():
        for name, storage in finder.list([]):
            # Of two files with one name, the first is served.
            found.setdefault(name, Path(storage.path(name)))
    digests = files.hash_files(ctx, sorted(found.items()))
    files.write_record(_record("static"), {name: d.sha256 for name, d in digests.items()})
    return {"files": len(digests), "bytes": sum(d.size for d in digests.values())}


@step(
    "CreateBackupStep",
    category="backup",
    description="Copies the live database into a new file, without holding up its writers.",
    timeout=600,
)
def create_backup(ctx: StepContext) -> dict[str, Any]:
    if path := database.sqlite_file(connection):
        target = backups.stamped(_backups(), "database", ".sqlite3")
        record = backups.back_up_sqlite(ctx, path, target)
    else:
        target = backups.stamped(_backups(), "database", ".jsonl.gz")
        record = backups.back_up_as_json(ctx, connection, target)
    files.write_record(_record("backup"), record)
    return {"file": target.name, "bytes": record["size"], "rows": sum(record["rows"].values())}


@step(
    "TestingBackupStep",
    category="backup",
    description="Opens the newest backup, checks it, and compares its row counts.",
    timeout=600,
)
def verify_backup(ctx: StepContext) -> None:
    record = files.read_record(_record("backup"), made_by="CreateBackupStep")
    backups.verify_backup(ctx, record)


@step(
    "CreateArchiveStep",
    category="backup",
    description="Packs the newest backup and the list of static files into one tar.gz.",
    timeout=600,
)
def create_archive(ctx: StepContext) -> dict[str, Any]:
    backup = files.read_record(_record("backup"), made_by="CreateBackupStep")
    files.read_record(_record("static"), made_by="CreateStaticManifestStep")
    path = Path(backup["path"])
    record = archives.create_archive(
        ctx,
        backups.stamped(_backups(), "archive", ".tar.gz"),
        {path.name: path, "backup.json": _record("backup"), "static.json": _record("static")},
    )
    files.write_record(_record("archive"), record)
    return {"file": Path(record["path"]).name, "bytes": record["size"]}


@step(
    "TestingArchiveStep",
    category="backup",
    description="Opens the newest archive again and compares the hash of each file in it.",
    timeout=600,
)
def verify_archive(ctx: StepContext) -> None:
    record = files.read_record(_record("archive"), made_by="CreateArchiveStep")
    archives.verify_archive(ctx, record)


@step(
    "RotateBackupsStep",
    category="backup",
    description="Deletes all but the newest backups and archives.",
    timeout=60,
    parameters={"keep": 5},
)
def rotate_backups(ctx: StepContext) -> dict[str, int]:
    return {"deleted": len(backups.rotate(ctx, _backups(), int(ctx.params["keep"])))}


# --- database -----------------------------------------------------------------------------------


@step(
    "DatabaseAnalysisStep",
    category="database",
    description="Counts the rows of each table and measures the whole.",
    timeout=120,
)
def analyse_database(ctx: StepContext) -> dict[str, int]:
    return database.analyse(ctx, connection)


@step(
    "TaskQueueSnapshotStep",
    category="database",
    description="Counts what waits in the task queue and what it has behind it.",
)
def snapshot_queue(ctx: StepContext) -> dict[str, int]:
    return database.snapshot_queue(ctx, connection)


@reading(
    "DatabaseIntegrityStep",
    category="database",
    description="Lets the live database check its own pages, indexes and foreign keys.",
    timeout=300,
)
def check_integrity(ctx: StepContext) -> None:
    database.check_integrity(ctx, connection)


@step(
    "OptimiseDatabaseStep",
    category="database",
    description="Brings the statistics of the query planner up to date.",
    timeout=120,
)
def optimise_database(ctx: StepContext) -> None:
    database.optimise(ctx, connection)


@reading(
    "ExpiredSessionsStep",
    category="database",
    description="Counts the sessions that nobody can use any more.",
)
def count_sessions(ctx: StepContext) -> dict[str, int]:
    return database.count_sessions(ctx)


@reading(
    "AccessReviewStep",
    category="database",
    description="Counts accounts, administrators, and the members of each group.",
)
def review_access(ctx: StepContext) -> dict[str, int]:
    return database.review_access(ctx)


# --- machine ------------------------------------------------------------------------------------


@reading(
    "DiskReadingStep",
    category="machine",
    description="Reads how full the disk of the data folder is.",
    parameters={"minimum_free_mib": 50},
)
def read_disk(ctx: StepContext) -> dict[str, int]:
    return machine.read_disk(ctx, _data(), int(ctx.params["minimum_free_mib"]))


@reading(
    "DiskSpeedStep",
    category="machine",
    description="Writes a file to the data folder, syncs it, and reads it back.",
    timeout=120,
    parameters={"megabytes": 64},
)
def measure_disk(ctx: StepContext) -> dict[str, float]:
    return files.measure_writing(ctx, _data() / "maintenance", int(ctx.params["megabytes"]))


@reading(
    "DataFolderSizeStep",
    category="machine",
    description="Measures what the data folder holds.",
    timeout=120,
)
def measure_data(ctx: StepContext) -> dict[str, int]:
    return {"bytes": files.measure_folder(ctx, _data())}


@reading(
    "MemoryReadingStep",
    category="machine",
    description="Reads how much memory is left, and what this worker takes.",
    parameters={"minimum_free_mib": 50},
)
def read_memory(ctx: StepContext) -> dict[str, int]:
    return machine.read_memory(ctx, int(ctx.params["minimum_free_mib"]))


@reading(
    "LoadReadingStep",
    category="machine",
    description="Reads the load averages and the number of cores.",
)
def read_load(ctx: StepContext) -> dict[str, float]:
    return machine.read_load(ctx)


@reading(
    "OpenFileLimitStep",
    category="machine",
    description="Reads how many files this worker may open, and has open.",
    parameters={"minimum_files": 100},
)
def read_limits(ctx: StepContext) -> dict[str, int]:
    return machine.read_limits(ctx, int(ctx.params["minimum_files"]))


@reading(
    "ClockCheckStep",
    category="machine",
    description="Compares the clocks of this machine, the database and the file system.",
)
def check_clocks(ctx: StepContext) -> dict[str, float]:
    return machine.check_clocks(ctx, _data(), database.read_clock(connection), settings.TIME_ZONE)


@reading(
    "LoopbackCheckStep",
    category="machine",
    description="Sends random bytes through a connection of this machine to itself.",
    parameters={"kibibytes": 65536},
)
def check_loopback(ctx: StepContext) -> dict[str, float]:
    return {"mib_per_second": machine.check_loopback(ctx, int(ctx.params["kibibytes"]))}


@reading(
    "PythonEnvironmentStep",
    category="machine",
    description="Lists the Python packages installed here.",
)
def list_packages(ctx: StepContext) -> dict[str, int]:
    return {"packages": len(packages.list_packages(ctx))}


@reading(
    "PackageFilesStep",
    category="machine",
    description="Compares each installed file of each package with its hash.",
    timeout=300,
)
def verify_packages(ctx: StepContext) -> dict[str, int]:
    return {"files": packages.verify_packages(ctx)}


@reading(
    "SecretFileStep",
    category="machine",
    description="Checks that nobody but its owner can read the site's secret key.",
)
def check_secret(ctx: StepContext) -> None:
    path = _data() / "secret_key"
    if not path.exists():
        ctx.log("the key comes from the environment; there is no file to look at")
        return
    files.check_private(ctx, path)


# --- source -------------------------------------------------------------------------------------


@reading(
    "SourceCompileStep",
    category="source",
    description="Compiles each Python file of the project in memory.",
    timeout=120,
)
def compile_sources(ctx: StepContext) -> dict[str, int]:
    return {"files": files.compile_sources(ctx, _source())}


@reading(
    "SourceSearchStep",
    category="source",
    description="Lets grep find every function of the project.",
    timeout=60,
    parameters={"pattern": "^ *(async )?def ", "folders": ["steps", "executions", "stepsite"]},
)
def search_sources(ctx: StepContext) -> None:
    files.search_sources(ctx, _source(), str(ctx.params["pattern"]), ctx.params["folders"])


@reading(
    "LineCountStep",
    category="source",
    description="Counts the lines of the project's own files by kind.",
    timeout=120,
)
def count_lines(ctx: StepContext) -> dict[str, int]:
    return files.count_lines(ctx, _source())


@reading(
    "TemplateCheckStep",
    category="source",
    description="Compiles each page template of the project.",
    timeout=120,
)
def compile_templates(ctx: StepContext) -> dict[str, int]:
    engine = engines.all()[0]
    # The templates of installed packages are their authors' affair.
    own = [
        folder
        for folder in map(Path, engine.template_dirs)
        if folder.is_relative_to(_source()) and "site-packages" not in folder.parts
    ]
    return {"templates": database.compile_templates(ctx, engine, own)}


# --- site ---------------------------------------------------------------------------------------


@reading(
    "FetchSignInPageStep",
    category="site",
    description="Fetches the sign-in page as a visitor would.",
)
def fetch_sign_in(ctx: StepContext) -> None:
    site.fetch_page(ctx, _site(), _sign_in(), contains="csrfmiddlewaretoken")


@reading(
    "FetchStaticFileStep",
    category="site",
    description="Fetches one static file and compares it with the file on disk.",
    parameters={"file": "admin/css/base.css"},
)
def fetch_static(ctx: StepContext) -> None:
    name = str(ctx.params["file"])
    original = finders.find(name)
    if not isinstance(original, str):
        raise CheckFailed(f"There is no static file {name!r}. Correct the parameter `file`.")
    site.fetch_file(ctx, _site(), f"{settings.STATIC_URL}{name}", Path(original))


@reading(
    "FetchPageAssetsStep",
    category="site",
    description="Fetches every stylesheet, script and picture that the sign-in page loads.",
    timeout=60,
)
def fetch_assets(ctx: StepContext) -> dict[str, int]:
    return {"files": site.fetch_assets(ctx, _site(), _sign_in())}


@reading(
    "SecurityHeadersStep",
    category="site",
    description="Checks the headers of the sign-in page that guard the browser.",
)
def check_headers(ctx: StepContext) -> None:
    site.check_headers(ctx, _site(), _sign_in())


@reading(
    "AnswerTimeStep",
    category="site",
    description="Measures how fast the sign-in page answers.",
    timeout=60,
    parameters={"times": 100},
)
def measure_answers(ctx: StepContext) -> dict[str, float]:
    return site.measure_answers(ctx, _site(), _sign_in(), int(ctx.params["times"]))


# --- failing, on purpose ------------------------------------------------------------------------


@step(
    "RaiseErrorStep",
    category="demo",
    description="Raises an error. For the demo.",
)
def raise_error(ctx: StepContext) -> None:
    failing.raise_error(ctx)


@step(
    "StubbornStep",
    category="demo",
    description="Ignores every request to stop for a minute. For the demo.",
    timeout=2,
    grace=1,
    parameters={"seconds": 60},
)
def ignore_cancel(ctx: StepContext) -> None:
    failing.ignore_cancel(ctx, float(ctx.params["seconds"]))


@step(
    "FlakyStep",
    category="demo",
    description="Fails at its first attempt and succeeds at its second. For the demo.",
    retry_safe=True,
    attempts=3,
    backoff=1.0,
)
def fail_first(ctx: StepContext) -> None:
    failing.fail_first(ctx)
