"""The site on SQLite that several fault tests share."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.faults.outage import FaultySite

DISK_SIZE = "64m"


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A file system in memory at `folder`, where this account may mount one."""
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_SIZE},mode=700", "stepsite", str(folder)]
    is_there = False
    if os.geteuid() == 0 and shutil.which("mount") is not None:
        with suppress(subprocess.CalledProcessError):
            subprocess.run(mount, check=True, capture_output=True, timeout=10)
            is_there = True
    try:
        yield
    finally:
        if is_there:
            subprocess.run(["umount", "--lazy", str(folder)], check=True, timeout=10)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FaultySite]:
    data = tmp_path_factory.mktemp("faults")
    with small_disk(data), FaultySite(data) as site:
        yield site
