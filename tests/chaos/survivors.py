"""Many hostile steps at once, all cancelled, or their worker killed: is anything left?

    python -m tests.chaos.survivors --steps 100 --grace 1 --level subreaper
    python -m tests.chaos.survivors --level namespace --kill-worker

A process of its own holds the steps, as a worker does. Exits with 1 if anything survived, or if an
end was not proven.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executions.engine import processes, reaper
from executions.engine.cancellation import CancelReason, CancelToken
from executions.engine.executors import Call, ExecutorSettings
from executions.engine.executors.command import CommandExecutor
from executions.engine.output import Masker, StepOutput
from executions.engine.plan import Lane, PlannedStep
from tests.benchmarks.tables import DISTRIBUTION, distribution, head, machine, row, say
from tests.processes import until

LEVELS = ("subreaper", "namespace")
SLEEPS = 13
"""Of one step when it is up; each but two has a process of its own around it."""
START_SECONDS = 120.0
END_SECONDS = 60.0
# Everything ignores SIGTERM. One opens a session, one is orphaned, one holds the pipe open without
# cookie and session, one sheds all that a daemon sheds ($2 seconds later, because of the first
# moments only a namespace is sure), and a storm brings forth six more.
HOSTILE = """
trap '' TERM
setsid sleep $1 &
(setsid sh -c 'sleep $0 & exit' "$1" >/dev/null 2>&1 &)
(setsid env -i /bin/sh -c 'exec sleep $0' "$1" &)
(sleep $2; cd / && setsid env -i /bin/sh -c 'exec sleep $0' "$1" </dev/null >/dev/null 2>&1) &
(for n in 1 2 3 4 5 6; do setsid sleep $1 & done; exec sleep $1) &
sh -c 'sh -c "sleep $1; :" - "$1"; :' - "$1" &
echo up
while :; do sleep $1; done
"""


@dataclass(kw_only=True)
class Result:
    """What came of an attack."""

    survivors: int
    seconds: float = 0.0
    """From the worker's SIGKILL until nothing was left."""
    outcomes: list[dict[str, Any]] = field(default_factory=list)
    """Of each step: seconds from the cancel to the outcome, status, message, receipt."""

    @property
    def unproven(self) -> list[dict[str, Any]]:
        return [outcome for outcome in self.outcomes if outcome["status"] != "cancelled"]


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos.survivors", description=__doc__)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--grace", type=float, default=1.0, help="seconds (%(default)s)")
    parser.add_argument("--level", choices=LEVELS, default=LEVELS[0])
    parser.add_argument("--shed-after", type=float, default=0.3, help="seconds (%(default)s)")
    parser.add_argument("--kill-worker", action="store_true", help="SIGKILL instead of cancelling")
    parser.add_argument("--hold", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.hold:
        return hold(given.steps, given.grace, given.level)
    machine()
    say(f"\n{given.steps} steps with {SLEEPS} sleeps each, kill level {given.level}.")
    result = attack(
        given.steps,
        given.grace,
        given.level,
        shed_after=given.shed_after,
        kill_worker=given.kill_worker,
    )
    say(f"Survivors: {result.survivors}.")
    if given.kill_worker:
        say(f"Seconds from the worker's SIGKILL until nothing was left: {result.seconds:.2f}.")
    else:
        _tell(result, given.grace)
    return 1 if result.survivors or result.unproven else 0


def attack(
    steps: int, grace: float, level: str, *, shed_after: float = 0.3, kill_worker: bool = False
) -> Result:
    """Start the steps, wait until all is up, then cancel them or kill their worker."""
    # By this argument the sleeps are known whatever they shed; nobody else sleeps so long.
    seconds = f"{100_000 + os.getpid()}.{time.time_ns() % 10**9:09}"
    argv = [sys.executable, "-m", "tests.chaos.survivors", "--hold", "--level", level]
    holder = subprocess.Popen(
        [*argv, "--steps", str(steps), "--grace", str(grace)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SLEEP": f"{seconds} {shed_after}"},
    )
    try:
        up = steps * SLEEPS
        until(lambda: len(sleeps(seconds)) == up, f"{up} sleeps", seconds=START_SECONDS)
        return _kill(holder, seconds) if kill_worker else _cancel(holder, seconds)
    finally:
        holder.kill()
        holder.communicate()
        for pid in sleeps(seconds):
            os.kill(pid, signal.SIGKILL)


def sleeps(seconds: str) -> list[int]:
    """Pids of the living sleeps of the attack."""
    words = b"sleep\0" + seconds.encode() + b"\0"
    return [
        entry.pid
        for entry in reaper.processes()
        if entry.is_alive and reaper.read(f"/proc/{entry.pid}/cmdline") == words
    ]


def _kill(holder: subprocess.Popen[str], seconds: str) -> Result:
    killed = time.monotonic()
    holder.kill()
    with suppress(AssertionError):
        until(lambda: not sleeps(seconds), "the end of everything", seconds=END_SECONDS)
    took = time.monotonic() - killed
    return Result(survivors=len(sleeps(seconds)), seconds=took)


def _cancel(holder: subprocess.Popen[str], seconds: str) -> Result:
    output, _ = holder.communicate("cancel\n", END_SECONDS)
    left = len(sleeps(seconds))
    return Result(survivors=left, outcomes=[json.loads(line) for line in output.splitlines()])


def _tell(result: Result, grace: float) -> None:
    receipts = [outcome["receipt"] for outcome in result.outcomes]
    counts = [receipt["processes"] for receipt in receipts]
    levels = ", ".join({receipt["kill_level"] for receipt in receipts})
    say(f"Receipts: {min(counts)} to {max(counts)} processes a step, kill level {levels}.")
    if result.unproven:
        say(f"Not proven: {len(result.unproven)}, such as: {result.unproven[0]['message']}")
    head("Beyond the grace", ("from", "to", *DISTRIBUTION))
    late = [outcome["seconds"] - grace for outcome in result.outcomes]
    row(("cancel", "outcome", *distribution(late)))


def hold(steps: int, grace: float, level: str) -> int:
    """Run the steps until told to cancel them."""
    processes.become_subreaper()
    if level == "namespace" and not processes.use_namespaces():
        sys.exit("This host does not allow PID namespaces.")
    with tempfile.TemporaryDirectory() as folder:
        executor = CommandExecutor(_settings(Path(folder)))
        held = [_Held(executor, number, grace) for number in range(steps)]
        sys.stdin.readline()
        for each in held:
            each.cancel()
        for each in held:
            print(json.dumps(each.result()), flush=True)
    return 0


class _Held:
    """A step at work in a thread."""

    def __init__(self, executor: CommandExecutor, number: int, grace: float) -> None:
        self._call = _call(number, grace)
        self._result: dict[str, Any] = {}
        self._asked = 0.0
        self._thread = threading.Thread(target=self._run, args=(executor,))
        self._thread.start()

    def _run(self, executor: CommandExecutor) -> None:
        outcome = executor.run(self._call)
        self._result = {
            "seconds": time.monotonic() - self._asked,
            "status": outcome.status.value,
            "message": outcome.message,
            "receipt": outcome.receipt,
        }

    def cancel(self) -> None:
        self._asked = time.monotonic()
        self._call.token.cancel(CancelReason.RUN_CANCELLED)

    def result(self) -> dict[str, Any]:
        self._thread.join()
        return self._result


def _call(number: int, grace: float) -> Call:
    return Call(
        step=PlannedStep(
            position=number,
            lane=Lane.POOL,
            name=f"hostile {number}",
            step_name="hostile",
            kind="command",
            grace_seconds=grace,
            target={"argv": ["sh", "-c", HOSTILE, "-", *os.environ["SLEEP"].split()]},
        ),
        context={},
        attempt=1,
        key=f"survivors:{os.getpid()}:{number}",
        token=CancelToken(),
        output=StepOutput(mask=Masker()),
        progress=lambda fraction: None,
    )


def _settings(folder: Path) -> ExecutorSettings:
    def nothing(name: str) -> Any:
        raise KeyError(name)

    return ExecutorSettings(
        resolve=nothing,
        manage=[],
        work_dir=folder,
        secret=nothing,
        environment={"PATH": os.environ["PATH"]},
    )


if __name__ == "__main__":
    sys.exit(main())
