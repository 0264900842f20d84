"""Files: records, hashes, counts, sizes."""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from .context import CheckFailed, StepContext

CHUNK = 1024 * 1024
SKIPPED_FOLDERS = frozenset({"__pycache__", "node_modules", "var"})


@dataclass(frozen=True, kw_only=True, slots=True)
class Digest:
    """What a file was when it was read: SHA-256 in hex, size in bytes."""

    sha256: str
    size: int


def size_text(size: float) -> str:
    """A number of bytes for people: "812 B", "4.0 KiB", "1.3 MiB"."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def private_folder(path: Path) -> Path:
    """`path`, made if need be. Backups hold password hashes: nobody else may look inside."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    return path


def open_private(path: Path) -> IO[bytes]:
    """`path`, emptied and open for writing, readable by its owner alone."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    return os.fdopen(descriptor, "wb")


def part_of(path: Path) -> Path:
    """Where `path` is written until it is complete, so that a half file never bears its name."""
    return path.with_name(path.name + ".part")


def write_record(path: Path, record: Mapping[str, Any]) -> None:
    """Leave facts as JSON for a later step, whole or not at all."""
    private_folder(path.parent)
    with open_private(part_of(path)) as file:
        file.write(json.dumps(record, indent=1, sort_keys=True).encode())
    part_of(path).replace(path)


def read_record(path: Path, *, made_by: str) -> dict[str, Any]:
    """The facts that the step `made_by` left in `path`.

    Raises `CheckFailed` if they are missing or not a JSON object.
    """
    try:
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise CheckFailed(f"{path} does not exist. Run {made_by} first; it writes it.") from None
    except ValueError as error:
        raise CheckFailed(f"{path} is no JSON ({error}). Run {made_by} again.") from None
    if not isinstance(record, dict):
        raise CheckFailed(f"{path} holds no JSON object. Run {made_by} again.")
    return record


def digest_stream(ctx: StepContext, stream: IO[bytes]) -> Digest:
    """The digest of the rest of `stream`, read piece by piece."""
    sha256, size = hashlib.sha256(), 0
    while chunk := stream.read(CHUNK):
        ctx.check_cancelled()
        sha256.update(chunk)
        size += len(chunk)
    return Digest(sha256=sha256.hexdigest(), size=size)


def digest_file(ctx: StepContext, path: Path) -> Digest:
    with path.open("rb") as file:
        return digest_stream(ctx, file)


def hash_files(ctx: StepContext, files: Sequence[tuple[str, Path]]) -> dict[str, Digest]:
    """The digest of each (name, path), by name. Logs one line a file."""
    digests: dict[str, Digest] = {}
    for done, (name, path) in enumerate(files, start=1):
        ctx.check_cancelled()
        digests[name] = digest = digest_file(ctx, path)
        ctx.log(f"{digest.sha256}  {name}")
        ctx.progress(done, len(files))
    total = sum(digest.size for digest in digests.values())
    ctx.log(f"{len(digests)} files, {size_text(total)}")
    return digests


def walk(folder: Path, suffixes: frozenset[str] | None = None) -> Iterator[Path]:
    """The regular files under `folder`, sorted, without hidden and generated folders."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(
            name for name in folders if not name.startswith(".") and name not in SKIPPED_FOLDERS
        )
        for name in sorted(names):
            path = Path(root, name)
            if (suffixes is None or path.suffix in suffixes) and path.is_file():
                yield path


def compile_sources(ctx: StepContext, folder: Path) -> int:
    """Compile each Python file under `folder` in memory; how many there were.

    Raises `CheckFailed` naming every file that does not compile.
    """
    broken: list[str] = []
    paths = list(walk(folder, frozenset({".py"})))
    for done, path in enumerate(paths, start=1):
        ctx.check_cancelled()
        try:
            compile(path.read_bytes(), str(path), "exec", dont_inherit=True)
        except (SyntaxError, ValueError) as error:
            broken.append(f"{path.relative_to(folder)}: {error}")
            ctx.log(broken[-1])
        ctx.progress(done, len(paths))
    if broken:
        raise CheckFailed(
            f"{len(broken)} of {len(paths)} files do not compile: {'; '.join(broken)}"
        )
    ctx.log(f"{len(paths)} Python files compile")
    return len(paths)


def search_sources(ctx: StepContext, folder: Path, pattern: str, within: Sequence[str]) -> None:
    """Let grep print the lines of Python that match `pattern`, an extended regular expression.

    `within` names folders below `folder`. Raises `CheckFailed` if nothing matches, or if grep
    cannot search.
    """
    options = ["-rnE", "--include=*.py", "-e", pattern, "--"]
    ended = ctx.run(["grep", *options, *within], check=False, cwd=folder)
    if ended.exit_code == 1:
        raise CheckFailed(f"No line in {', '.join(within)} matches {pattern!r}.")
    if ended.exit_code != 0:
        raise CheckFailed(f"grep ended with exit code {ended.exit_code}; its output says why.")


def count_lines(ctx: StepContext, folder: Path) -> dict[str, int]:
    """Lines under `folder` by file suffix, most first. Logs a small table."""
    lines: Counter[str] = Counter()
    files: Counter[str] = Counter()
    for path in walk(folder, frozenset({".py", ".html", ".css", ".js", ".md", ".yaml", ".toml"})):
        ctx.check_cancelled()
        lines[path.suffix] += path.read_bytes().count(b"\n")
        files[path.suffix] += 1
    for suffix, count in lines.most_common():
        ctx.log(f"{suffix:<6} {count:>8} lines in {files[suffix]:>4} files")
    ctx.log(f"total  {lines.total():>8} lines in {files.total():>4} files")
    return dict(lines.most_common())


def measure_folder(ctx: StepContext, folder: Path) -> int:
    """Bytes of the files under `folder`. Logs each of its own entries with its size."""
    total = 0
    for entry in sorted(folder.iterdir()):
        size = 0
        for path in [entry] if entry.is_file() else sorted(entry.rglob("*")):
            ctx.check_cancelled()
            # Files come and go while a site runs: a journal, a log, another step's work.
            try:
                facts = path.lstat()
            except FileNotFoundError:
                continue
            size += facts.st_size if stat.S_ISREG(facts.st_mode) else 0
        ctx.log(f"{size_text(size):>10}  {entry.name}{'/' if entry.is_dir() else ''}")
        total += size
    ctx.log(f"{size_text(total):>10}  in all")
    return total


def check_private(ctx: StepContext, path: Path) -> None:
    """Raise `CheckFailed` if anybody but its owner may read or write `path`."""
    mode = stat.S_IMODE(path.stat().st_mode)
    ctx.log(f"{path.name}: mode {mode:04o}, {size_text(path.stat().st_size)}")
    if mode & 0o077:
        raise CheckFailed(f"{path} has mode {mode:04o}: others can read it. Run chmod 600 on it.")


def measure_writing(ctx: StepContext, folder: Path, megabytes: int) -> dict[str, float]:
    """Write, sync, read back and compare `megabytes` MiB in `folder`; MiB per second of each.

    The file is gone afterwards. Raises `CheckFailed` if what is read is not what was written.
    """
    path = private_folder(folder) / "speed.part"
    block = os.urandom(CHUNK)
    written = hashlib.sha256()
    try:
        started = time.perf_counter()
        with open_private(path) as file:
            for done in range(megabytes):
                ctx.check_cancelled()
                written.update(block)
                file.write(block)
                ctx.progress(done + 1, megabytes)
            file.flush()
            os.fsync(file.fileno())
        between = time.perf_counter()
        read = digest_file(ctx, path)
        ended = time.perf_counter()
    finally:
        path.unlink(missing_ok=True)
    if read.sha256 != written.hexdigest():
        raise CheckFailed(f"{megabytes} MiB written to {folder} came back changed.")
    speeds = {"write": megabytes / (between - started), "read": megabytes / (ended - between)}
    ctx.log(f"wrote and synced {megabytes} MiB: {speeds['write']:.0f} MiB/s")
    ctx.log(f"read back and compared: {speeds['read']:.0f} MiB/s, most of it from the cache")
    return speeds
