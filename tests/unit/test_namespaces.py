"""Commands in PID namespaces of their own, where this host allows them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from executions.engine import namespaces, processes, reaper, trees
from executions.engine.errors import CannotStart
from tests.unit.calls import DEADLINE, processes_named, processes_of, wait_until
from tests.unit.test_processes import HOSTILE, SLEEPS, Running, daemon, receipt

pytestmark = pytest.mark.skipif(
    os.getuid() != 0 or not namespaces.are_possible(),
    reason="this user may not make PID namespaces here without one for users",
)


@pytest.fixture(autouse=True)
def enabled() -> Iterator[None]:
    assert processes.use_namespaces()
    assert processes.kill_level() == "pid_namespace"
    yield
    namespaces._enabled = 0
    assert namespaces._lifelines == set()
    assert namespaces._unended == []


def test_a_command_is_a_command_as_ever() -> None:
    """Arguments, streams, session, environment and exit code are as without a namespace."""
    running = Running(
        "sh", "-c", 'echo "$1" $$; cat; env; ls /proc/self/fd | wc -l; exit 7', "-", "a b"
    )
    ended = running.ended()
    lines = running.output.decode().splitlines()
    assert lines[0].startswith("a b ")
    assert int(lines[0].split()[-1]) < 10, "pids begin anew"
    assert f"STEPSITE_STEP={running.key}" in lines
    assert lines[-1] == "4"
    assert (ended.exit_code, ended.stopped, ended.receipt) == (7, False, None)


def test_a_signal_is_a_negative_exit_code() -> None:
    """Nothing stands between the command and the worker."""
    assert Running("sh", "-c", "kill -SEGV $$").ended().exit_code == -signal.SIGSEGV


def test_what_cannot_start_says_why() -> None:
    """The namespace goes, the error comes."""
    with pytest.raises(CannotStart, match="no such program in PATH"):
        Running("no-such-program").ended()


def test_an_obedient_command_ends_with_sigterm() -> None:
    """Every member is asked first, and may clean up."""
    script = "trap 'echo clean; exit 0' TERM; echo up; while :; do sleep 0.1; done"
    running = Running("sh", "-c", script, grace=30).until("up")
    ended = running.cancel()
    assert b"clean" in running.output
    assert receipt(ended)["signals"] == ["SIGTERM"]
    assert receipt(ended)["kill_level"] == "pid_namespace"
    assert receipt(ended)["proven_empty"]


def test_nothing_survives_whatever_it_shed() -> None:
    """Also what no sign at all ties to the step, from its very first moment on."""
    begin = daemon(f'trap "" TERM; exec {SLEEPS[0]}').replace("exec", "prlimit --rttime=9:9")
    running = Running("sh", "-c", f"{begin}; {HOSTILE}").until("up")
    wait_until(lambda: processes_named(SLEEPS[0]), "the daemon sleeps")
    ended = running.cancel()
    assert processes_of(running.key) == []
    assert processes_named(SLEEPS[0]) == []
    assert receipt(ended)["signals"] == ["SIGTERM", "SIGKILL"]
    assert receipt(ended)["proven_empty"]
    assert "unknown_pids" not in receipt(ended)
    assert ended.exit_code == -signal.SIGKILL


def test_what_goes_on_after_the_exit_is_ended() -> None:
    """The command is over, but not its namespace."""
    ended = Running("sh", "-c", "sleep 60 & exit 5").ended()
    assert ended.exit_code == 5
    assert receipt(ended)["after_exit"]
    assert receipt(ended)["processes"] == 1


def test_orphans_are_reaped() -> None:
    """A process that waits for the end of an orphan sees it."""
    script = (
        "pid=$(sh -c 'sleep 0.1 >/dev/null 2>&1 & echo $!')\n"
        "while kill -0 $pid 2>/dev/null; do sleep 0.05; done; echo gone"
    )
    running = Running("sh", "-c", script)
    assert running.ended().exit_code == 0
    assert running.output == b"gone\n"


def test_everything_ends_with_the_worker() -> None:
    """The kernel ends what the reaper could not know: no sign is left on the daemon."""
    words = f"prlimit --rttime=9:9 {SLEEPS[1]}"
    script = (
        "import sys\n"
        "from executions.engine.processes import *\n"
        "from executions.engine.cancellation import CancelToken\n"
        "become_subreaper(); assert use_namespaces()\n"
        "command = Command(argv=['sh', '-c', sys.argv[1]], key='k:' + sys.argv[2],\n"
        "    environment={'PATH': '/usr/bin:/bin'}, grace_seconds=60)\n"
        "run(command, wake_up=WakeUp(CancelToken()), on_output=lambda data: None)\n"
    )
    argv = [sys.executable, "-c", script, f"{daemon(words)}; exec sleep 60", str(os.getpid())]
    worker = subprocess.Popen(argv)
    sleep = SLEEPS[1].encode().replace(b" ", b"\0") + b"\0"

    def daemons() -> list[int]:
        found = processes_named(SLEEPS[1])
        return [pid for pid in found if reaper.read(f"/proc/{pid}/cmdline") == sleep]

    wait_until(daemons, "the daemon sleeps")
    worker.kill()
    worker.wait(DEADLINE)
    wait_until(lambda: not daemons(), "the daemon has ended")


def test_a_namespace_that_is_refused_is_done_without(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command runs all the same, and its receipt says at which level."""

    def refuse(flags: int) -> None:
        raise OSError("no space for another namespace")

    monkeypatch.setattr(namespaces, "_unshare", refuse)
    running = Running("sh", "-c", "echo up; exec sleep 60").until("up")
    assert receipt(running.cancel())["kill_level"] == "sweep"


def test_another_user_gets_them_with_a_user_namespace(tmp_path: Path) -> None:
    """Where users may make namespaces, no root is needed; else the probe says no."""
    program = tmp_path / "namespaces.py"
    program.write_text(Path(namespaces.__file__).read_text())
    system = "/usr/bin/python3"
    if not Path(system).exists():
        pytest.skip("there is no Python that other users can run")
    for directory in (program, *tmp_path.parents[:2], tmp_path):
        directory.chmod(0o755)
    argv = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", system]
    works = subprocess.run([*argv, "-I", "-S", str(program)], timeout=DEADLINE, check=False)
    allowed = subprocess.run(
        [*argv[:-1], "unshare", "--user", "--map-current-user", "--pid", "--fork", "true"],
        timeout=DEADLINE,
        check=False,
        capture_output=True,
    )
    assert works.returncode == (0 if allowed.returncode == 0 else 1)


def test_the_worker_keeps_nothing() -> None:
    """Neither descriptors nor children stay."""
    assert trees.become_subreaper()
    try:
        Running("true").ended()
        others = {orphan.pid for orphan in trees.orphans()}
        before = len(list(Path("/proc/self/fd").iterdir()))
        for _ in range(5):
            Running("true").ended()
        assert len(list(Path("/proc/self/fd").iterdir())) == before
        assert {orphan.pid for orphan in trees.orphans()} <= others
    finally:
        trees._subreaper = 0
