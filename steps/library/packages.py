"""The Python packages installed here."""

from __future__ import annotations

import csv
import hashlib
import sys
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from .context import CheckFailed, StepContext
from .files import size_text

NAMED = 5
"""So many files are named in a message; the output has them all."""


def list_packages(ctx: StepContext) -> dict[str, str]:
    """The Python packages installed here: {name: version}."""
    ctx.log(f"Python {sys.version}")
    ctx.log(f"at {sys.executable}")
    packages: dict[str, str] = {}
    for distribution in metadata.distributions():
        ctx.check_cancelled()
        packages[distribution.metadata["Name"]] = distribution.version
    for name, version in sorted(packages.items(), key=lambda item: item[0].lower()):
        ctx.log(f"  {name} {version}")
    ctx.log(f"{len(packages)} packages")
    return packages


def verify_packages(ctx: StepContext) -> int:
    """Compare each installed file with the hash noted at its installation; how many files.

    Raises `CheckFailed` naming files that are missing or were changed.
    """
    wrong: list[str] = []
    count = size = 0
    distributions = list(metadata.distributions())
    for done, distribution in enumerate(distributions, start=1):
        for name, mode, noted in _hashes(distribution):
            ctx.check_cancelled()
            try:
                content = Path(str(distribution.locate_file(name))).read_bytes()
            except OSError as error:
                wrong.append(f"{name} is missing ({error.strerror})")
                continue
            count, size = count + 1, size + len(content)
            digest = hashlib.new(mode, content).digest()
            if urlsafe_b64encode(digest).rstrip(b"=").decode() != noted:
                wrong.append(f"{name} was changed")
        ctx.progress(done, len(distributions))
    for line in wrong:
        ctx.log(line)
    if wrong:
        named = "; ".join(wrong[:NAMED]) + ("; …" if len(wrong) > NAMED else "")
        raise CheckFailed(f"{len(wrong)} installed files are not as installed: {named}.")
    ctx.log(f"{count} files of {len(distributions)} packages, {size_text(size)}: as installed")
    return count


def _hashes(distribution: metadata.Distribution) -> Iterator[tuple[str, str, str]]:
    """Name, algorithm and hash of each file; compiled files and the list itself have none.

    Read from the list itself: `Distribution.files` leaves missing files out since Python 3.12.
    """
    for name, noted, _ in csv.reader((distribution.read_text("RECORD") or "").splitlines()):
        mode, _, digest = noted.partition("=")
        if digest:
            yield name, mode, digest
