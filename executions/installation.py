"""What a site needs before it can run: tables, definitions, somebody who may sign in.

Everything here looks first and does only what is missing.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import StringIO
from pathlib import Path

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.db import connection

import steps
from steps.models import Batch
from steps.sync import sync_steps

DEMO = Path(steps.__file__).parent / "demo"
PASSWORD_ALPHABET = "abcdefghjkmnpqrstuvwxyz23456789"  # noqa: S105
"""Without the characters that look like others."""


class AlreadyUpError(Exception):
    """Another supervisor looks after this database."""

    def __init__(self, holder: str) -> None:
        who = f"by process {holder}" if holder else "by another process"
        super().__init__(
            f"This database is already served {who} (manage.py up). Stop that one first, or set "
            f"STEPSITE_DATA or DATABASE_URL so that this one has a database of its own."
        )


class NameTakenError(Exception):
    """The first administrator cannot have the name of an ordinary user."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"There is no administrator yet, and the name {name!r} belongs to an ordinary user. "
            f"Set STEPSITE_ADMIN to another name."
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class Administrator:
    """Who can sign in to a site that was empty before."""

    name: str
    password: str | None
    """Only if it was made up just now: nobody can read it later."""


@contextmanager
def held() -> Iterator[None]:
    """Keep other supervisors away from this database. Raises `AlreadyUpError`.

    The lock goes with the process, however it ends.
    """
    path = lock_path()
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise AlreadyUpError(file.read().strip()) from None
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        yield


def lock_path() -> Path:
    """Beside an SQLite database; for a server, in the data directory of this machine."""
    database = connection.settings_dict
    if connection.vendor == "sqlite":
        return Path(f"{Path(database['NAME']).resolve()}.lock")
    address = "|".join(str(database[key]) for key in ("HOST", "PORT", "NAME"))
    return Path(settings.DATA_DIR) / f"up-{hashlib.sha256(address.encode()).hexdigest()[:12]}.lock"


def set_up(*, demo: bool) -> Administrator | None:
    """Bring the database up to date; the administrator, if one was created."""
    call_command("migrate", interactive=False, verbosity=0)
    sync_steps()
    if demo and not Batch.objects.exists():
        files = sorted(map(str, DEMO.glob("*.yaml")))
        call_command("load_batches", *files, stdout=StringIO())
    return _first_administrator()


def _first_administrator() -> Administrator | None:
    users = get_user_model()._default_manager
    if users.filter(is_superuser=True).exists():
        return None
    name = os.environ.get("STEPSITE_ADMIN") or "admin"
    if users.filter(**{users.model.USERNAME_FIELD: name}).exists():
        raise NameTakenError(name)
    chosen = os.environ.get("STEPSITE_ADMIN_PASSWORD")
    password = chosen or _made_up_password()
    users.create_superuser(name, password=password)
    return Administrator(name=name, password=None if chosen else password)


def _made_up_password() -> str:
    """Some 79 bits, in groups that can be copied by hand."""
    groups = ["".join(secrets.choice(PASSWORD_ALPHABET) for _ in range(4)) for _ in range(4)]
    return "-".join(groups)
