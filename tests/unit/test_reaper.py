from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executions.engine import reaper
from executions.engine.processes import Reaper
from tests.unit.calls import DEADLINE, processes_named, processes_of, wait_until
from tests.unit.test_processes import HOSTILE

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")

WORKER = """
import os, sys, threading
from executions.engine.processes import *
from executions.engine.cancellation import CancelToken
become_subreaper()
def step(number):
    command = Command(argv=["sh", "-c", sys.argv[2]], key=f"{sys.argv[1]}:{number}",
        environment={"PATH": "/usr/bin:/bin"}, grace_seconds=60)
    run(command, wake_up=WakeUp(CancelToken()), on_output=lambda data: os.write(1, data))
threads = [threading.Thread(target=step, args=(number,)) for number in range(2)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
"""


@pytest.fixture
def key() -> str:
    return f"reaper:{os.getpid()}:{os.urandom(4).hex()}"


@pytest.fixture
def fresh() -> Iterator[Reaper]:
    made = Reaper()
    yield made
    made.close()


class Worker:
    """A process that runs a script as two steps at once; what they write is its output."""

    def __init__(self, key: str, script: str) -> None:
        argv = [sys.executable, "-c", WORKER, key, script]
        self._process = subprocess.Popen(argv, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        self.output = self._process.stdout

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def end(self) -> int:
        return self._process.wait(DEADLINE)


@pytest.fixture
def start_worker(key: str) -> Iterator[Callable[[str], Worker]]:
    workers: list[Worker] = []

    def start(script: str) -> Worker:
        workers.append(Worker(key, script))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()
        worker.output.close()


def reapers() -> set[int]:
    return {
        entry.pid
        for entry in reaper.processes()
        if entry.is_alive and b"reaper.py" in reaper.read(f"/proc/{entry.pid}/cmdline")
    }


def test_nothing_survives_the_death_of_the_worker(
    key: str, start_worker: Callable[[str], Worker]
) -> None:
    """After SIGKILL of a worker every process of its steps ends, and so does the reaper."""
    before = reapers()
    worker = start_worker(HOSTILE)
    wait_until(lambda: len(processes_of(key)) >= 14, "both trees are up")
    worker.kill()
    wait_until(lambda: not processes_of(key), "every process has ended")
    wait_until(lambda: not reapers() - before, "the reaper has ended")


def test_a_session_is_enough_to_be_found(key: str, start_worker: Callable[[str], Worker]) -> None:
    """A step that shed its cookie ends with its worker, by the session that it leads."""
    words = f"trap : TERM; echo up; sleep 61; : {key}"
    worker = start_worker(f"exec env -i /bin/sh -c '{words}'")
    assert [worker.output.readline() for _ in range(2)] == [b"up\n"] * 2
    assert processes_of(key) == []
    assert len(processes_named(words)) >= 3, "two steps, and the worker that was told so"
    worker.kill()
    wait_until(lambda: not processes_named(words), "every process has ended")


def test_an_open_pipe_or_the_limits_are_enough_to_be_found(
    key: str, start_worker: Callable[[str], Worker]
) -> None:
    """A daemon without session and environment ends with its worker."""
    sleep = f"sleep 62.{os.getpid()}"
    script = (
        f"(setsid env -i /bin/sh -c '{sleep} & exit'); sleep 0.3; "
        f"(cd /; setsid env -i /bin/sh -c '{sleep} & exit' </dev/null >/dev/null 2>&1); "
        f"echo up; exec sleep 60; : {key}"
    )
    line = sleep.encode().replace(b" ", b"\0") + b"\0"

    def daemons() -> list[int]:
        found = processes_named(sleep)
        return [pid for pid in found if reaper.read(f"/proc/{pid}/cmdline") == line]

    worker = start_worker(script)
    wait_until(lambda: len(daemons()) == 4, "two daemons of each step")
    worker.kill()
    wait_until(lambda: not daemons(), "every daemon has ended")


def test_a_group_with_strangers_in_it_is_not_killed_as_one(key: str) -> None:
    """A process may carry the cookie in a session that no step opened: it dies alone."""
    script = f"{reaper.COOKIE}={key} sleep 60 & echo $!; exec sleep 60"
    argv = ["env", "-u", reaper.COOKIE, "sh", "-c", script]
    shell = subprocess.Popen(argv, stdout=subprocess.PIPE, start_new_session=True)
    try:
        assert shell.stdout is not None
        carrier = int(shell.stdout.readline())
        wait_until(lambda: reaper.cookie(carrier) == key, "the cookie shows")
        reaper.end(reaper.Sweep([], [key]))
        assert shell.poll() is None
        sweep = reaper.Sweep([], [key])
        assert sweep.look() == []
    finally:
        shell.kill()
        shell.wait()
        assert shell.stdout is not None
        shell.stdout.close()


def test_a_worker_that_ends_in_order_leaves_no_reaper(
    start_worker: Callable[[str], Worker],
) -> None:
    """The reaper goes with its worker when there is nothing to do."""
    before = reapers()
    assert start_worker("echo done").end() == 0
    wait_until(lambda: not reapers() - before, "the reaper has ended")


def test_what_has_ended_is_left_alone(fresh: Reaper, key: str) -> None:
    """A key that was taken back is nothing to the reaper, nor is anybody else's process."""
    environment = {"PATH": "/usr/bin:/bin", reaper.COOKIE: key}
    bystander = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
    try:
        fresh.watch(key)
        fresh.watch(key, bystander.pid)
        fresh.watch("other")
        fresh.forget(key)
        fresh.close()
        assert bystander.poll() is None
    finally:
        bystander.kill()
        bystander.wait()


def test_a_dead_reaper_is_replaced(fresh: Reaper, key: str) -> None:
    """The next step starts another one and tells it what runs already."""
    environment = {"PATH": "/usr/bin:/bin", reaper.COOKIE: key}
    survivor = subprocess.Popen(["sleep", "60"], env=environment, start_new_session=True)
    fresh.watch(key, survivor.pid)
    assert fresh._process is not None
    first = fresh._process.pid
    os.kill(first, signal.SIGKILL)
    fresh._process.wait()
    fresh.watch("other")
    assert fresh._process.pid != first
    fresh._steps.pop("other")
    fresh.close()
    assert survivor.wait(DEADLINE) == -signal.SIGTERM


def test_a_fork_of_the_worker_does_not_keep_it_alive() -> None:
    """The pipe is closed in forks, or the end of the worker would not be seen."""
    script = (
        "import os\n"
        "from executions.engine import processes\n"
        "processes._reaper.watch('k')\n"
        "pipe = processes._reaper._pipe\n"
        "os.fstat(pipe)\n"
        "if os.fork():\n"
        "    os.wait()\n"
        "else:\n"
        "    try:\n"
        "        os.fstat(pipe)\n"
        "    except OSError:\n"
        "        print('closed')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=DEADLINE)
    assert (done.stdout, done.stderr) == (b"closed\n", b"")


def test_lines_are_read_however_they_arrive() -> None:
    """Registrations that were taken back are gone, the last pid counts, keys may hold colons."""
    read_end, write_end = os.pipe()
    os.write(write_end, b"+ 0 - 1:2:1:a\n+ 77 pipe:[8] 1:2:1:a\n+ 0 - 1:3:1:b\n- 1:3:")
    os.write(write_end, b"1:b\n+ 5 - c")
    os.write(write_end, b"\n")
    os.close(write_end)
    try:
        assert reaper.registered(read_end) == {"1:2:1:a": (77, "pipe:[8]"), "c": (5, "-")}
    finally:
        os.close(read_end)


def test_it_stands_alone() -> None:
    """The program runs isolated and without site packages, and ends with its input."""
    done = subprocess.run(
        [sys.executable, "-I", "-S", reaper.__file__],
        input=b"+ 0 - nobody\n- nobody\n",
        capture_output=True,
        timeout=DEADLINE,
    )
    assert (done.returncode, done.stderr) == (0, b"")


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({reaper.COOKIE: "k:1"}, "k:1"),
        ({"A": "b", reaper.COOKIE: "k:1", "Z": ""}, "k:1"),
        ({"A": f"x {reaper.COOKIE}=k:1"}, ""),
        ({}, ""),
    ],
)
def test_the_cookie_is_read_from_the_environment(
    environment: dict[str, str], expected: str
) -> None:
    """Only the variable itself counts, also as the first one or in an empty environment."""
    child = subprocess.Popen(["/bin/sleep", "60"], env=environment)
    try:
        assert reaper.cookie(child.pid) == expected
    finally:
        child.kill()
        child.wait()
    assert reaper.cookie(child.pid) is None


def test_names_of_processes_may_hold_anything(tmp_path: Path) -> None:
    """Parentheses and spaces in a program's name do not shift the fields."""
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(program), "60"])
    try:
        entry = reaper.process(child.pid)
        assert entry is not None
        assert (entry.pid, entry.parent, entry.session) == (child.pid, os.getpid(), os.getsid(0))
        assert entry.is_alive
    finally:
        child.kill()
        child.wait()
