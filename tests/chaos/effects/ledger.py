"""The ledger of effects, and the command that writes to it: `ledger.py SECONDS [HOW]`.

A line is one JSON object: the key of the attempt, `begin` or `end`. Each is on the disk before the
step goes on. Standard library only, because the command runs with `python -I -S`.
"""

from __future__ import annotations

import json
import os
import sys
import time


def note(path: str, key: str, event: str) -> None:
    line = json.dumps({"key": key, "event": event, "at": time.time()}) + "\n"
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(descriptor, line.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def block_signals(seconds: float) -> None:
    import signal

    signal.pthread_sigmask(signal.SIG_BLOCK, range(1, signal.NSIG))
    time.sleep(seconds)


def eat_memory(seconds: float) -> None:
    import resource

    resource.setrlimit(resource.RLIMIT_AS, (256 * 1024 * 1024,) * 2)
    eaten = []
    while True:
        eaten.append(bytearray(16 * 1024 * 1024))


def leave_session(seconds: float) -> None:
    """Go on in a process that left its session and ignores SIGTERM."""
    import signal

    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(600)
    time.sleep(seconds)


WAYS = {
    "sleep": time.sleep,
    "block": block_signals,
    "memory": eat_memory,
    "leave": leave_session,
}


def main(seconds: str, how: str = "sleep") -> None:
    with open(os.environ["STEPSITE_CONTEXT"]) as file:  # noqa: PTH123  (quick to start)
        path = json.load(file)["ledger"]
    key = os.environ["STEPSITE_STEP"]
    note(path, key, "begin")
    WAYS[how](float(seconds))
    note(path, key, "end")


if __name__ == "__main__":
    main(*sys.argv[1:])
