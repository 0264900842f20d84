"""Private directories in which commands run."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import stat
import tempfile
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

_PREFIX = "step-"

_last_context: tuple[Mapping[str, Any], bytes] = ({}, b"{}")


def _encoded(context: Mapping[str, Any]) -> bytes:
    """Every step of a run shares one context, which may be large: it is encoded once."""
    global _last_context
    original, data = _last_context
    if original is not context:
        data = json.dumps(context, default=str).encode()
        _last_context = (context, data)
    return data


def context_file(directory: str) -> str:
    """Where the context of the run stands in a directory."""
    return f"{directory}/context.json"


class Workspaces:
    """Makes a directory of mode 0700 for each command, with the run's context in it.

    Making and removing a directory costs as much as a fifth of a short command. So one that was
    given back as clean as it was made is used again, as long as other commands run.

    Each is locked as long as its process lives. The first one that a process makes is the occasion
    to remove what dead ones have left: those whose lock can be taken.
    """

    def __init__(self, parent: Path) -> None:
        self._parent = parent
        self._begin()

    def _begin(self) -> None:
        self._process = os.getpid()
        self._lock = threading.Lock()
        self._clean: list[str] = []
        self._in_use = 0
        self._locks: dict[str, int] = {}
        """Descriptors by directory."""
        self._has_tidied = False

    def take(self, context: Mapping[str, Any]) -> str:
        """A directory for one command; to be given back. Raises `OSError`."""
        if self._process != os.getpid():
            self._begin()  # what it knew belongs to the process that this one was forked from
        with self._lock:
            directory = self._clean.pop() if self._clean else ""
            self._in_use += 1
        try:
            directory = directory or self._make()
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
            with os.fdopen(os.open(context_file(directory), flags, 0o600), "wb") as file:
                file.write(_encoded(context))
        except BaseException:
            self.give_back(directory, reusable=False)
            raise
        return directory

    def give_back(self, directory: str, *, reusable: bool) -> None:
        """The command has ended; `reusable` if nothing of it can still write there."""
        reusable = reusable and _is_clean(directory)
        with self._lock:
            self._in_use -= 1
            surplus = []
            if reusable and self._in_use:
                self._clean.append(directory)
            else:
                surplus.append(directory)
            if not self._in_use:
                surplus += self._clean
                self._clean = []
        for each in surplus:
            shutil.rmtree(each, ignore_errors=True)
            if (lock := self._locks.pop(each, None)) is not None:
                os.close(lock)

    def _make(self) -> str:
        self._tidy_once()
        while True:
            try:
                directory = tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent)
                lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                self._parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                continue
            with suppress(OSError):  # not every file system has locks, and then nobody tidies
                fcntl.flock(lock, fcntl.LOCK_EX)
            # Somebody who tidies may have been quicker to lock it.
            if os.fstat(lock).st_nlink:
                self._locks[directory] = lock
                return directory
            os.close(lock)

    def _tidy_once(self) -> None:
        with self._lock:
            if self._has_tidied:
                return
            self._has_tidied = True
        for directory in self._parent.glob(f"{_PREFIX}*"):
            with suppress(OSError):
                _remove_if_left(directory)


def _remove_if_left(directory: Path) -> None:
    """Raises `OSError` if somebody holds its lock, or removed it."""
    lock = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(directory, ignore_errors=True)
    finally:
        os.close(lock)


def _is_clean(directory: str) -> bool:
    """Remove the context; whether the directory is as it was made."""
    try:
        os.unlink(context_file(directory))  # noqa: PTH108
        with os.scandir(directory) as entries:
            is_empty = next(entries, None) is None
        return is_empty and stat.S_IMODE(os.stat(directory).st_mode) == 0o700  # noqa: PTH116
    except OSError:
        return False
