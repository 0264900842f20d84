"""Readings of the machine: disk, memory, load, limits, clocks, loopback."""

from __future__ import annotations

import os
import resource
import shutil
import socket
import sys
import tempfile
import time
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path

from .context import CheckFailed, StepContext
from .files import size_text

MIB = 1024 * 1024
CLOCK_TOLERANCE_SECONDS = 5.0


def read_disk(ctx: StepContext, folder: Path, minimum_free_mib: int) -> dict[str, int]:
    """Bytes {total, used, free} of the file system under `folder`.

    Raises `CheckFailed` below `minimum_free_mib` MiB free, or without a free inode.
    """
    usage = shutil.disk_usage(folder)
    ctx.log(f"file system of {folder}")
    ctx.log(f"  {size_text(usage.total)} in all, {size_text(usage.used)} used")
    ctx.log(f"  {size_text(usage.free)} free ({usage.free / usage.total:.0%})")
    inodes = os.statvfs(folder)
    ctx.log(f"  {inodes.f_favail} of {inodes.f_files} inodes free")
    if usage.free < minimum_free_mib * MIB:
        raise CheckFailed(
            f"{size_text(usage.free)} free on the file system of {folder}, wanted are"
            f" {minimum_free_mib} MiB. Delete old backups or runs."
        )
    # Some file systems (btrfs, ZFS) count no inodes and say 0 of 0.
    if inodes.f_files and not inodes.f_favail:
        raise CheckFailed(f"No inode is free on the file system of {folder}. Delete files.")
    return {"total": usage.total, "used": usage.used, "free": usage.free}


def read_memory(ctx: StepContext, minimum_free_mib: int) -> dict[str, int]:
    """Bytes {total, available} of memory, as far as the system tells.

    Raises `CheckFailed` below `minimum_free_mib` MiB available.
    """
    reading = {"total": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")}
    facts = Path("/proc/meminfo")
    if facts.exists():
        kilobytes = {
            line.split(":")[0]: int(line.split()[1]) for line in facts.read_text().splitlines()
        }
        for name in ("MemTotal", "MemAvailable", "Buffers", "Cached", "SwapTotal", "SwapFree"):
            ctx.log(f"{name:<13} {size_text(kilobytes.get(name, 0) * 1024):>10}")
        reading["available"] = kilobytes.get("MemAvailable", kilobytes["MemFree"]) * 1024
    else:
        ctx.log(f"{size_text(reading['total'])} in all; this system has no /proc/meminfo")
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    # Linux counts KiB, macOS bytes.
    own = largest * (1 if sys.platform == "darwin" else 1024)
    ctx.log(f"this worker   {size_text(own):>10} at most")
    if reading.get("available", reading["total"]) < minimum_free_mib * MIB:
        raise CheckFailed(
            f"{size_text(reading['available'])} of memory available, wanted are"
            f" {minimum_free_mib} MiB. Stop what uses it, or run fewer workers."
        )
    return reading


def read_load(ctx: StepContext) -> dict[str, float]:
    """Load averages over 1, 5 and 15 minutes, and the number of cores."""
    one, five, fifteen = os.getloadavg()
    cores = os.cpu_count() or 1
    ctx.log(f"load {one:.2f} over 1 minute, {five:.2f} over 5, {fifteen:.2f} over 15")
    ctx.log(f"{cores} cores: {one / cores:.0%} of them busy or waited for")
    uptime = Path("/proc/uptime")
    if uptime.exists():
        ctx.log(f"up for {float(uptime.read_text().split()[0]) / 3600:.1f} hours")
    return {"one": one, "five": five, "fifteen": fifteen, "cores": cores}


def read_limits(ctx: StepContext, minimum_files: int) -> dict[str, int]:
    """How many files this worker has open, and how many it may {open, limit}.

    Raises `CheckFailed` if it may open fewer than `minimum_files` more.
    """
    for label, kind in (
        ("open files", resource.RLIMIT_NOFILE),
        ("processes", resource.RLIMIT_NPROC),
        ("core size", resource.RLIMIT_CORE),
        ("address space", resource.RLIMIT_AS),
    ):
        soft, hard = (_limit_text(limit) for limit in resource.getrlimit(kind))
        ctx.log(f"{label:<14} {soft:>12} (at most {hard})")
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    opened = len(list(Path("/dev/fd").iterdir()))
    ctx.log(f"this worker has {opened} files open")
    if limit != resource.RLIM_INFINITY and limit - opened < minimum_files:
        raise CheckFailed(
            f"This worker may open {limit - opened} files more, wanted are {minimum_files}."
            " Raise the limit (ulimit -n) where it is started."
        )
    return {"open": opened, "limit": limit}


def _limit_text(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else str(limit)


def check_clocks(
    ctx: StepContext, folder: Path, database_now: datetime, time_zone: str
) -> dict[str, float]:
    """Seconds by which the clocks of database and file system differ from this one's.

    `database_now` was read just before. Raises `CheckFailed` beyond 5 seconds.
    """
    now = datetime.now(UTC)
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        touched = Path(file.name).stat().st_mtime
        differences = {
            "database": (database_now - now).total_seconds(),
            "file system": touched - time.time(),
        }
    ctx.log(f"now {now:%Y-%m-%d %H:%M:%S} UTC; the site shows times in {time_zone}")
    ctx.log(f"here the zone is {time.tzname[0]}, {-time.timezone / 3600:+.1f} hours from UTC")
    ctx.log(f"monotonic clock ticks every {time.get_clock_info('monotonic').resolution:g} s")
    for name, seconds in differences.items():
        ctx.log(f"{name} differs by {seconds:+.3f} s")
    wrong = {k: v for k, v in differences.items() if abs(v) > CLOCK_TOLERANCE_SECONDS}
    if wrong:
        said = ", ".join(f"{name} by {seconds:+.1f} s" for name, seconds in wrong.items())
        raise CheckFailed(f"Clocks differ: {said}. Set them by NTP.")
    return differences


def check_loopback(ctx: StepContext, kibibytes: int) -> float:
    """Send `kibibytes` KiB through a connection of this machine to itself; MiB per second.

    Raises `CheckFailed` if another content arrives.
    """
    block = os.urandom(1024)
    with (
        closing(socket.create_server(("127.0.0.1", 0))) as server,
        closing(socket.create_connection(server.getsockname(), timeout=5)) as sender,
    ):
        receiver, _ = server.accept()
        with closing(receiver):
            receiver.settimeout(5)
            started = time.perf_counter()
            for done in range(kibibytes):
                ctx.check_cancelled()
                sender.sendall(block)
                if _received(receiver, len(block)) != block:
                    raise CheckFailed(f"Loopback changed the {done + 1}th KiB sent through it.")
            seconds = time.perf_counter() - started
        port = server.getsockname()[1]
    ctx.log(f"{kibibytes} KiB through 127.0.0.1:{port} in {seconds * 1000:.0f} ms, unchanged")
    ctx.log(f"{seconds / kibibytes * 1e6:.0f} µs a KiB sent and received")
    return kibibytes / 1024 / seconds


def _received(receiver: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        piece = receiver.recv(size - len(received))
        if not piece:
            break
        received += piece
    return received
