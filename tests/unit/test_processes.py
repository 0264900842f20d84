from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from executions.engine import processes, reaper, trees
from executions.engine.cancellation import CancelReason, CancelToken
from executions.engine.errors import CannotStart
from executions.engine.processes import Command, Ended, KillLevel, WakeUp
from tests.unit.calls import DEADLINE, make_call, processes_named, processes_of, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the tree is Linux's")

# Sleeps that only this test process starts, by which processes without a cookie are found.
SLEEPS = [f"sleep {60 + number}.{os.getpid()}" for number in range(3)]
HOSTILE = """
trap '' TERM
(setsid sh -c 'trap "" TERM; while :; do sleep 1; done' >/dev/null 2>&1 &)
(setsid sh -c '(sh -c "trap : TERM; sleep 60; sleep 60" &)' &)
setsid sh -c 'trap "" TERM; echo up; sleep 60' &
while :; do sleep 1; done
"""


@pytest.fixture(params=[KillLevel.SUBREAPER, KillLevel.SWEEP])
def level(request: pytest.FixtureRequest) -> Iterator[KillLevel]:
    """Each of the levels that Linux offers."""
    if request.param is KillLevel.SUBREAPER:
        assert trees.become_subreaper()
    assert trees.kill_level() is request.param
    yield request.param
    trees._subreaper = 0
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


@pytest.fixture
def subreaper() -> Iterator[None]:
    assert trees.become_subreaper()
    yield
    trees._subreaper = 0
    ctypes.CDLL(None).prctl(36, 0, 0, 0, 0)


class Running:
    """A command at work in a thread."""

    def __init__(
        self,
        *argv: str,
        grace: float = 0.2,
        timeout: float | None = None,
        environment: Mapping[str, str] | None = None,
        directory: str | None = None,
    ) -> None:
        self.token = CancelToken()
        self.key = make_call().key
        self.output = b""
        self.changed = threading.Event()
        self._command = Command(
            argv=argv,
            key=self.key,
            environment={"PATH": os.environ["PATH"]} if environment is None else environment,
            directory=directory,
            grace_seconds=grace,
        )
        self._timeout = timeout
        self._result: list[Ended | BaseException] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        wake_up = WakeUp(self.token)
        try:
            self._result.append(
                processes.run(
                    self._command,
                    wake_up=wake_up,
                    on_output=self._add,
                    timeout_seconds=self._timeout,
                )
            )
        except BaseException as error:
            self._result.append(error)
        finally:
            wake_up.close()

    def _add(self, data: bytes) -> None:
        self.output += data

    def until(self, words: str) -> Running:
        wait_until(lambda: words.encode() in self.output, f"{words!r} in the output")
        return self

    def cancel(self, reason: CancelReason = CancelReason.STEP_CANCELLED) -> Ended:
        self.token.cancel(reason)
        return self.ended()

    def ended(self) -> Ended:
        self._thread.join(DEADLINE)
        assert self._result, "the command did not end"
        if isinstance(self._result[0], BaseException):
            raise self._result[0]
        return self._result[0]


def receipt(ended: Ended) -> Mapping[str, object]:
    assert ended.receipt is not None
    return ended.receipt


def has_begun(words: str) -> bool:
    """Whether a process has this command line; its shell, before, only contains it."""
    line = words.replace(" ", "\0").encode() + b"\0"
    return any(reaper.read(f"/proc/{pid}/cmdline") == line for pid in processes_named(words))


def states(key: str) -> set[str]:
    found = map(reaper.process, processes_of(key))
    return {entry.state for entry in found if entry is not None}


def orphans() -> list[int]:
    return [entry.pid for entry in trees.orphans()]


def zombies() -> list[int]:
    me = os.getpid()
    return [entry.pid for entry in reaper.processes() if entry.parent == me and not entry.is_alive]


@pytest.fixture
def nothing_unreaped() -> Iterator[None]:
    """The next look for orphans, at the latest, waits for what has ended."""
    before = set(zombies())
    yield
    wait_until(lambda: (orphans(), set(zombies()) <= before)[1], "everything is waited for")


# --- A command that ends by itself ----------------------------------------------------------------


def test_both_streams_arrive_in_order(level: KillLevel) -> None:
    """Output and errors share one stream; an exit code is no signal and needs no receipt."""
    running = Running("sh", "-c", "echo one; echo two >&2; echo three; exit 4")
    ended = running.ended()
    assert running.output == b"one\ntwo\nthree\n" == ended.tail
    assert (ended.exit_code, ended.stopped, ended.receipt) == (4, False, None)


def test_a_signal_is_a_negative_exit_code() -> None:
    """A command that a signal ended says which."""
    assert Running("sh", "-c", "kill -KILL $$").ended().exit_code == -signal.SIGKILL


def test_a_command_starts_clean() -> None:
    """It leads its own session, reads nothing, and gets the given environment and the cookie."""
    running = Running("sh", "-c", "cat; cut -d' ' -f1,6 /proc/self/stat; env")
    running.ended()
    first, *variables = running.output.decode().splitlines()
    _, session = first.split()
    assert int(session) != os.getsid(0)
    named = {line.partition("=")[0] for line in variables}
    assert f"STEPSITE_STEP={running.key}" in variables
    assert named <= {"PATH", "PWD", "OLDPWD", "SHLVL", "_", "STEPSITE_STEP"}


def test_no_descriptor_of_the_worker_reaches_a_command() -> None:
    """Only the three standard streams are open."""
    running = Running("sh", "-c", "exec ls /proc/self/fd")
    running.ended()
    assert len(running.output.split()) == 4, "0, 1, 2 and the directory that ls reads"


def test_blocked_signals_are_not_inherited() -> None:
    """SIGTERM arrives although the thread of the slot blocks it."""
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    try:
        running = Running("grep", "SigBlk", "/proc/self/status")
        running.ended()
        assert int(running.output.split()[1], 16) == 0
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


def test_an_ignored_interrupt_is_not_inherited() -> None:
    """A worker that ignores SIGINT starts commands that do not."""
    script = (
        "import signal, sys\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "from executions.engine.processes import *\n"
        "from executions.engine.cancellation import CancelToken\n"
        "become_subreaper()\n"
        "command = Command(argv=['grep', 'SigIgn', '/proc/self/status'], key='k:1',\n"
        "    environment={'PATH': '/usr/bin:/bin'}, grace_seconds=1)\n"
        "run(command, wake_up=WakeUp(CancelToken()), on_output=sys.stdout.buffer.write)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, timeout=DEADLINE)
    assert int(done.stdout.split()[1], 16) & 1 << signal.SIGINT - 1 == 0, done.stderr


@pytest.mark.parametrize(
    ("argv", "directory", "words"),
    [
        (["no-such-program"], None, "'no-such-program': no such program in PATH"),
        (["/no/such/program"], None, "'/no/such/program': No such file or directory"),
        (["/etc/passwd"], None, "'/etc/passwd': Permission denied"),
        (["true"], "/no/such/place", "in '/no/such/place': No such file or directory"),
        (["true"], "/etc/hostname", "in '/etc/hostname': Not a directory"),
        (["true", "\0"], None, "'true': embedded null byte"),
        (["true", "\ud800"], None, "not valid Unicode"),
        (["true", "x" * 3_000_000], None, "arguments and environment are too long"),
    ],
)
def test_what_cannot_start_says_why(argv: Sequence[str], directory: str, words: str) -> None:
    """The error names program or directory, and the reason."""
    with pytest.raises(CannotStart, match=words):
        Running(*argv, directory=directory).ended()


def test_a_script_without_its_interpreter_says_so(tmp_path: Path) -> None:
    """A file that exists is not called missing."""
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(CannotStart, match="interpreter that its first line names"):
        Running(str(script)).ended()


def test_much_output_passes_and_its_end_is_kept() -> None:
    """The tail is bounded, the output is not."""
    running = Running("sh", "-c", "head -c 300000 /dev/zero; echo end")
    ended = running.ended()
    assert len(running.output) == 300_004
    assert len(ended.tail) <= 2 * processes.TAIL_LIMIT
    assert ended.tail.endswith(b"end\n")


def test_side_by_side_each_gets_its_own(level: KillLevel) -> None:
    """Exit codes and output of commands that run at once are not mixed, no descriptor stays."""

    def one(number: int) -> tuple[int | None, bytes, int]:
        running = Running("sh", "-c", f"echo {number}; exit {number}")
        return running.ended().exit_code, running.output, number

    descriptors = Path("/proc/self/fd")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(one, range(4)))
        before = len(list(descriptors.iterdir()))
        for exit_code, output, number in pool.map(one, range(60)):
            assert (exit_code, output) == (number, f"{number}\n".encode())
        assert len(list(descriptors.iterdir())) == before


# --- What a command leaves behind -----------------------------------------------------------------


def test_what_ends_soon_after_the_command_is_waited_for(level: KillLevel) -> None:
    """A `tee` that still writes when its script has ended loses nothing, and is no leftover."""
    running = Running("sh", "-c", "(sleep 0.05; echo late) & echo early")
    assert running.ended().receipt is None
    assert running.output == b"early\nlate\n"


def test_background_processes_end_with_their_command(level: KillLevel) -> None:
    """What goes on after the exit is ended with the grace; the exit code stands."""
    running = Running("sh", "-c", "sleep 60 & setsid sleep 60 & (trap '' TERM; sleep 60) & exit 5")
    ended = running.ended()
    assert (ended.exit_code, ended.stopped) == (5, False)
    assert receipt(ended)["after_exit"]
    assert receipt(ended)["proven_empty"]
    assert receipt(ended)["signals"] == ["SIGTERM", "SIGKILL"]
    assert processes_of(running.key) == []


def test_who_holds_the_pipe_open_does_not_hold_up_the_step(level: KillLevel) -> None:
    """A process that shed session and cookie, but not the pipe, delays nothing."""
    script = f"(setsid env -i /bin/sh -c 'exec {SLEEPS[0]}') & sleep 0.05"
    running = Running("sh", "-c", script)
    ended = running.ended()
    escaped = processes_named(SLEEPS[0])
    try:
        assert ended.exit_code == 0
        if level is KillLevel.SUBREAPER:
            assert receipt(ended)["proven_empty"]
            assert escaped == []
    finally:
        for pid in escaped:
            os.kill(pid, signal.SIGKILL)


# --- A command that is stopped --------------------------------------------------------------------


def test_an_obedient_command_ends_at_once(level: KillLevel) -> None:
    """SIGTERM is enough, and the proof does not wait for the grace."""
    running = Running("sh", "-c", "echo up; exec sleep 60", grace=60).until("up")
    started = time.monotonic()
    ended = running.cancel()
    assert time.monotonic() - started < 1
    assert ended.stopped
    assert ended.exit_code == -signal.SIGTERM
    assert receipt(ended) | {"seconds": 0} == {
        "signals": ["SIGTERM"],
        "processes": 1,
        "proven_empty": True,
        "seconds": 0,
        "kill_level": level.value,
        "after_exit": False,
    }


def test_a_command_may_clean_up_within_its_grace(level: KillLevel) -> None:
    """Handlers run, may start processes, are asked once only, and their output is kept."""
    script = (
        "trap 'sh -c \"sleep 0.1; echo clean\"; exit 0' TERM; echo up; while :; do sleep 1; done"
    )
    running = Running("sh", "-c", script, grace=30).until("up")
    ended = running.cancel()
    assert running.output.endswith(b"clean\n")
    assert receipt(ended)["signals"] == ["SIGTERM"]
    assert ended.stopped, "an exit code of 0 after SIGTERM is no success"


@pytest.mark.usefixtures("nothing_unreaped")
def test_no_process_of_a_hostile_tree_survives(level: KillLevel) -> None:
    """setsid, double forks and ignored signals do not help: the tree is proven empty."""
    running = Running("sh", "-c", HOSTILE).until("up")
    wait_until(lambda: len(processes_of(running.key)) >= 7, "the whole tree is up")
    ended = running.cancel()
    assert processes_of(running.key) == []
    assert receipt(ended)["signals"] == ["SIGTERM", "SIGKILL"]
    assert receipt(ended)["proven_empty"]
    assert ended.exit_code == -signal.SIGKILL


@pytest.mark.usefixtures("nothing_unreaped")
def test_hostile_trees_side_by_side_all_end(subreaper: None) -> None:
    """Trees that are stopped at once do not get into each other's way."""
    running = [Running("sh", "-c", HOSTILE) for _ in range(4)]
    for each in running:
        wait_until(lambda each=each: len(processes_of(each.key)) >= 7, "the whole tree is up")
    bystander = Running("sh", "-c", "setsid sleep 60 & echo up; exec sleep 60").until("up")
    for each in running:
        each.token.cancel(CancelReason.RUN_CANCELLED)
    for each in running:
        assert receipt(each.ended())["proven_empty"]
        assert processes_of(each.key) == []
    assert len(processes_of(bystander.key)) == 2
    bystander.cancel()
    assert processes_of(bystander.key) == []


def test_a_tree_that_keeps_growing_is_ended(level: KillLevel) -> None:
    """Processes that are born while others are ended, each in its own session, end as well."""
    script = "trap '' TERM; echo up; while :; do setsid sleep 60 & sleep 0.005; done"
    running = Running("sh", "-c", script).until("up")
    ended = running.cancel()
    assert processes_of(running.key) == []
    assert receipt(ended)["proven_empty"]


def test_children_without_cookie_and_session_are_remembered(subreaper: None) -> None:
    """A process that sheds every mark is ended if it still had a living parent when it began."""
    inner = f'exec setsid env -i /bin/sh -c "trap : TERM; echo up; {SLEEPS[1]}; :"'
    script = f"sh -c 'cd /; {inner}' & wait"
    running = Running("sh", "-c", script).until("up")
    wait_until(lambda: processes_named(SLEEPS[1]), "the last process")
    ended = running.cancel()
    assert receipt(ended)["proven_empty"]
    assert processes_named(SLEEPS[1]) == []


def daemon(words: str) -> str:
    """A script that starts `words` with nothing on it by which the step could know it."""
    return f"(cd /; setsid env -i /bin/sh -c '{words} & exit' </dev/null >/dev/null 2>&1)"


def test_a_daemon_that_sheds_everything_keeps_its_limits(subreaper: None) -> None:
    """A new session, an empty environment, closed files and another directory do not help."""
    script = f"sleep 0.3; {daemon(f'exec {SLEEPS[2]}')}; echo up; exec sleep 60"
    running = Running("sh", "-c", script).until("up")
    wait_until(lambda: has_begun(SLEEPS[2]), "the daemon sleeps")
    ended = running.cancel()
    assert processes_named(SLEEPS[2]) == []
    assert receipt(ended)["proven_empty"]
    assert "unknown_pids" not in receipt(ended)


def test_a_stranger_is_never_ended(subreaper: None) -> None:
    """What a library or a Python step started comes to the worker as an orphan as well."""
    running = Running("sh", "-c", "echo up; exec sleep 60").until("up")
    subprocess.run(["sh", "-c", daemon(f"exec {SLEEPS[2]}")], check=True, timeout=DEADLINE)
    wait_until(lambda: has_begun(SLEEPS[2]), "the stranger sleeps")
    (stranger,) = processes_named(SLEEPS[2])
    try:
        ended = running.cancel()
        assert processes_named(SLEEPS[2]) == [stranger]
        assert receipt(ended)["unknown_pids"] == [stranger]
    finally:
        os.kill(stranger, signal.SIGKILL)
    wait_until(lambda: stranger not in (*orphans(), *zombies()), "the stranger is reaped")


def test_an_orphan_without_any_mark_is_no_proof(subreaper: None) -> None:
    """What may or may not belong to the step is left alone, and said."""
    script = f"{daemon(f'exec prlimit --rttime=9:9 {SLEEPS[2]}')}; echo up; exec sleep 60"
    running = Running("sh", "-c", script).until("up")
    wait_until(lambda: has_begun(SLEEPS[2]), "the orphan sleeps")
    wait_until(lambda: len(processes_named(SLEEPS[2])) == 1, "only the orphan is left")
    (stray,) = processes_named(SLEEPS[2])
    try:
        ended = running.cancel()
        assert not receipt(ended)["proven_empty"]
        assert receipt(ended)["unknown_pids"] == [stray]
        assert not ended.is_proven
    finally:
        os.kill(stray, signal.SIGKILL)
    wait_until(lambda: stray not in (*orphans(), *zombies()), "the orphan is reaped")


def test_the_kernel_prefers_a_step_when_memory_is_short() -> None:
    """A command counts for more than the worker, and so does what it starts."""
    running = Running("sh", "-c", "sleep 0.2; cat /proc/self/oom_score_adj")
    running.ended()
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert int(running.output) == 500 > own


def test_what_cannot_be_killed_is_said(level: KillLevel, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that has become another user's stays, and the end is not proven."""
    monkeypatch.setattr(processes, "GIVE_UP_SECONDS", 0.2)
    monkeypatch.setattr(reaper, "_send", lambda member, number: None)
    monkeypatch.setattr(os, "killpg", lambda group, number: None)
    running = Running("sh", "-c", "echo up; exec sleep 60").until("up")
    ended = running.cancel()
    monkeypatch.undo()
    for pid in processes_of(running.key):
        os.kill(pid, signal.SIGKILL)
    assert ended.exit_code is None
    assert not receipt(ended)["proven_empty"]
    assert receipt(ended)["signals"] == ["SIGTERM", "SIGKILL"]
    (child,) = processes._unended
    assert child.wait(DEADLINE) == -signal.SIGKILL
    processes._unended.clear()


def test_a_pid_that_was_used_again_gets_no_signal() -> None:
    """Between the look and the signal a process can end and its pid go to another one."""
    bystander = subprocess.Popen(["sleep", "60"])
    try:
        entry = reaper.process(bystander.pid)
        assert entry is not None
        reaper.send([entry._replace(started=entry.started - 1)], signal.SIGKILL)
        assert bystander.poll() is None
        reaper.send([entry], signal.SIGKILL)
        assert bystander.wait(DEADLINE) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.wait()


def test_a_very_deep_tree_ends(level: KillLevel) -> None:
    """A chain of a hundred processes, each the child of the one before."""
    script = 'if [ $1 -gt 0 ]; then sh -c "$0" "$0" $(($1 - 1)); else echo up; sleep 60; fi; :'
    running = Running("sh", "-c", script, script, "100").until("up")
    assert len(processes_of(running.key)) >= 100
    assert receipt(running.cancel())["proven_empty"]
    assert processes_of(running.key) == []


def test_zombies_do_not_count(level: KillLevel) -> None:
    """A parent that never waits for its children is ended with the first signal."""
    script = (
        "import subprocess, time\n"
        "children = [subprocess.Popen(['true']) for _ in range(3)]\n"
        "time.sleep(0.1)\n"
        "print('up', flush=True)\n"
        "time.sleep(60)\n"
    )
    running = Running(sys.executable, "-c", script, grace=30).until("up")
    ended = running.cancel()
    assert receipt(ended)["signals"] == ["SIGTERM"]
    assert receipt(ended)["processes"] == 1


def test_a_stopped_process_that_ignores_sigterm_is_killed(level: KillLevel) -> None:
    """A suspended process cannot hide behind its state."""
    script = "trap '' TERM; (kill -STOP $$; sleep 1) & wait; echo up; kill -STOP $$"
    running = Running("sh", "-c", script)
    wait_until(lambda: "T" in states(running.key), "it is suspended")
    assert receipt(running.cancel())["proven_empty"]
    assert processes_of(running.key) == []


def test_a_stopped_process_is_woken_for_its_signal(level: KillLevel) -> None:
    """SIGTERM reaches a process that was suspended."""
    running = Running("sh", "-c", "echo up; kill -STOP $$; sleep 60", grace=30).until("up")
    wait_until(
        lambda: "T" in states(running.key),
        "it is suspended",
    )
    assert receipt(running.cancel())["signals"] == ["SIGTERM"]


def test_the_time_limit_of_a_command_ends_it(level: KillLevel) -> None:
    """A timeout works without the token."""
    running = Running("sleep", "60", timeout=0.05)
    assert running.ended().stopped
    assert not running.token.is_cancelled
    assert processes_of(running.key) == []


def test_a_fenced_step_has_little_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """When another worker has the run, its own end comes soon."""
    monkeypatch.setattr(processes, "FENCED_GRACE_SECONDS", 0.05)
    running = Running("sh", "-c", "trap '' TERM; echo up; sleep 60; sleep 60", grace=60).until("up")
    started = time.monotonic()
    assert receipt(running.cancel(CancelReason.FENCED))["signals"] == ["SIGTERM", "SIGKILL"]
    assert time.monotonic() - started < 5


def test_without_proc_the_group_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """Elsewhere than on Linux the process group is all that is promised."""
    monkeypatch.setattr(trees, "_level_without_namespace", lambda: KillLevel.GROUP)
    monkeypatch.setattr(processes, "_pidfd", lambda pid: -1)
    running = Running("sh", "-c", "trap '' TERM; echo up; sleep 60; sleep 60").until("up")
    ended = running.cancel()
    assert receipt(ended)["kill_level"] == "group"
    assert receipt(ended)["signals"] == ["SIGTERM", "SIGKILL"]
    assert processes_of(running.key) == []


def test_a_token_that_fires_after_the_end_wakes_nobody() -> None:
    """Its descriptor may belong to another file by then."""
    running = Running("true")
    running.ended()
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    try:
        running.token.cancel(CancelReason.STEP_CANCELLED)
        with pytest.raises(BlockingIOError):
            os.read(read_end, 1)
    finally:
        os.close(read_end)
        os.close(write_end)


# --- Other children of the worker -----------------------------------------------------------------


def test_children_of_others_are_not_reaped(subreaper: None) -> None:
    """Code of the worker that waits for a child of its own gets its exit code."""
    child = subprocess.Popen(["sh", "-c", "exit 7"])
    wait_until(lambda: child.pid in zombies(), "the child has ended")
    running = Running("sh", "-c", "setsid sleep 60 & echo up").until("up")
    assert receipt(running.ended())["proven_empty"]
    assert child.wait() == 7


@pytest.mark.usefixtures("nothing_unreaped")
def test_orphans_that_ended_unseen_are_reaped(subreaper: None) -> None:
    """A worker does not gather zombies."""
    script = "(setsid sh -c 'exit 0' &); sleep 0.05"
    for _ in range(3):
        assert Running("sh", "-c", script).ended().exit_code == 0


def test_children_of_threads_do_not_stand_among_orphans(subreaper: None) -> None:
    """The kernel lists a child with the thread that started it; that is relied upon."""
    children: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        children.append(subprocess.Popen(["sleep", "60"], start_new_session=True))
        assert children[0].pid not in orphans()

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    children[0].kill()
    children[0].wait()
