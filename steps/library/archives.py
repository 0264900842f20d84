"""Archives: files packed together with their hashes, and checked by opening them again."""

from __future__ import annotations

import os
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, cast

from .context import CheckFailed, StepContext
from .files import Digest, digest_file, digest_stream, open_private, part_of, size_text


class _Watched:
    """A stream that ends with `StepCancelled` when its step is to stop."""

    def __init__(self, ctx: StepContext, stream: IO[bytes]) -> None:
        self._ctx, self._stream = ctx, stream

    def read(self, size: int = -1) -> bytes:
        self._ctx.check_cancelled()
        return self._stream.read(size)


def create_archive(ctx: StepContext, target: Path, members: Mapping[str, Path]) -> dict[str, Any]:
    """Pack `members` (name in the archive: file) into the new file `target`, a tar.gz.

    Returns the record {path, size, sha256, members: {name: {sha256, size}}}.
    """
    part = part_of(target)
    digests: dict[str, Digest] = {}
    try:
        with open_private(part) as raw, tarfile.open(fileobj=raw, mode="w:gz") as archive:
            for name, path in members.items():
                digests[name] = digest_file(ctx, path)
                _add(ctx, archive, name, path)
                ctx.log(f"packed {name}: {size_text(digests[name].size)}")
                ctx.progress(len(digests), len(members))
        with part.open("rb") as file:
            os.fsync(file.fileno())
        whole = digest_file(ctx, part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
    unpacked = sum(digest.size for digest in digests.values())
    ctx.log(f"{target.name}: {size_text(whole.size)} for {size_text(unpacked)}")
    return {
        "path": str(target),
        "size": whole.size,
        "sha256": whole.sha256,
        "members": {name: asdict(digest) for name, digest in digests.items()},
    }


def _add(ctx: StepContext, archive: tarfile.TarFile, name: str, path: Path) -> None:
    with path.open("rb") as file:
        member = archive.gettarinfo(arcname=name, fileobj=file)
        member.mode = 0o600
        # tarfile asks of a stream no more than read().
        archive.addfile(member, cast("IO[bytes]", _Watched(ctx, file)))


def verify_archive(ctx: StepContext, record: Mapping[str, Any]) -> None:
    """Unpack the archive that `record` describes in memory and compare each member's hash.

    Raises `CheckFailed` if it is missing, damaged, or differs in any member.
    """
    path = Path(record["path"])
    expected: Mapping[str, Mapping[str, Any]] = record["members"]
    if not path.is_file():
        raise CheckFailed(f"The archive {path} does not exist any more.")
    found = _read_members(ctx, path, len(expected))
    problems = [f"{name} is missing" for name in expected if name not in found]
    problems += [f"{name} was added" for name in found if name not in expected]
    problems += [
        f"{name} has SHA-256 {found[name].sha256} instead of {member['sha256']}"
        for name, member in expected.items()
        if name in found and found[name].sha256 != member["sha256"]
    ]
    if problems:
        raise CheckFailed(f"The archive {path} was changed: {'; '.join(problems)}.")
    if (whole := digest_file(ctx, path)).sha256 != record["sha256"]:
        raise CheckFailed(
            f"The archive {path} was changed around its members: SHA-256 {whole.sha256}"
            f" instead of {record['sha256']}."
        )
    ctx.log(f"{path.name}: {len(found)} members, each hash as recorded")


def _read_members(ctx: StepContext, path: Path, expected: int) -> dict[str, Digest]:
    found: dict[str, Digest] = {}
    try:
        with tarfile.open(path, "r:gz") as archive:
            for member in archive:
                stream = archive.extractfile(member)
                if stream is None:
                    raise CheckFailed(f"The archive {path} holds {member.name!r}, no plain file.")
                found[member.name] = digest = digest_stream(ctx, stream)
                ctx.log(f"{digest.sha256}  {member.name} ({size_text(digest.size)})")
                ctx.progress(len(found), max(expected, len(found)))
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise CheckFailed(f"The archive {path} is damaged: {error}.") from error
    return found
