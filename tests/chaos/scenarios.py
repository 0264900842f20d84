"""Every fault and what is done about it: each function plays one and tells how it went.

All of them end in the same way: every run is brought to its end, `checker` looks at the record, the
ledger and the process table, the site is told to stop, and they look once more.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from executions.engine import crash_points
from tests.processes import descendants, is_alive, until

from .checker import DOUBLED, USUAL, WRONG, Finding, check, check_end
from .scene import Cluster, Recovery, Scene, kill
from .set_ups import can_unshare
from .stage import PATIENCE_SECONDS, ROOT, Program, Stage, Stages

NOTICED_SECONDS = 1.0
"""After a SIGTERM nothing is claimed any more; it takes 0.1 s where nothing else runs."""
SILENCE_SECONDS = 3.0
"""Instead of 20: after this a silent holder counts as lost, where a scenario is to be quick."""


@dataclass
class Trial:
    """One time that a fault was tried."""

    fault: str
    findings: list[Finding] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)
    """From the fault until the runs that it hit went on, or were over."""
    skipped: str = ""
    """Why it could not be tried."""
    data: Path | None = None


@dataclass(frozen=True)
class Case:
    """A trial that can be asked for by its label."""

    label: str
    play: Callable[[Stages], Trial]


@contextmanager
def _staged(stages: Stages, kind: str, trial: Trial, **options: float) -> Iterator[Stage]:
    """A stage for a trial. What goes wrong on it is a finding; then its data is kept."""
    stage = stages.new(kind, **options)
    trial.data = stage.data
    try:
        yield stage
    except Exception as error:
        trial.findings.append(Finding(WRONG, f"{type(error).__name__}: {error}"))
        trial.findings += _active_runs(stage)
    finally:
        stage.close(keep=bool(trial.findings))
    if not trial.findings:
        shutil.rmtree(stage.data, ignore_errors=True)


def _active_runs(stage: Stage) -> list[Finding]:
    """What did not come to an end, or began too often, by the time that a trial was given up."""
    with suppress(Exception):
        return [finding for finding in check(stage) if finding.sort in ("lost", DOUBLED)]
    return []


# ---- crash points --------------------------------------------------------------------------

WEB_POINTS = ("run_written", "hint_begun", "hint_sent", "cancel_written", "cancel_committed")
ONCE_ONLY = ("hand_back_written", "hand_back_committed", "worker_registered")
"""A process passes them no second time."""


def crash_point_cases(kind: str, passings: Iterable[int] = (1, 2)) -> Iterator[Case]:
    for name in crash_points.NAMES:
        for number in passings:
            if number > 1 and name in ONCE_ONLY:
                continue
            if name in WEB_POINTS:
                yield _point_case(kind, name, number, "web")
            if name not in WEB_POINTS or name.startswith("hint"):
                yield _point_case(kind, name, number, "worker")


def _point_case(kind: str, name: str, number: int, program: str) -> Case:
    label = f"crash {program} {name}:{number}"
    return Case(label, lambda stages: crash_at(stages, kind, name, number, program))


def crash_at(stages: Stages, kind: str, name: str, number: int, program: str) -> Trial:
    """A process is killed where it passes a point for the `number`-th time."""
    trial = Trial(f"crash point, {program}")
    with _staged(stages, kind, trial) as stage:
        order = f"{name}:{number}"
        slots = number if name.startswith("rescue") else 1
        if program == "web":
            worker, web = stage.worker(1), stage.web(order)
        else:
            web, worker = stage.web(), stage.worker(slots, crash=order)
        stage.keep(web, worker)
        recovery = Recovery(stage, stage.note)
        DRIVES[name if name in DRIVES else f"{program} {name}"](stage, worker, number)
        until(stage.note.exists, f"a crash at {order}", seconds=PATIENCE_SECONDS)
        stage.await_end()
        trial.seconds += recovery.await_end()
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


Drive = Callable[[Stage, Program, int], None]


def _drive_runs(stage: Stage, worker: Program, number: int) -> None:
    for _ in range(number):
        stage.trigger("short")


def _drive_cancels(stage: Stage, worker: Program, number: int) -> None:
    for _ in range(number):
        run_id = stage.trigger("slow")
        until(lambda run_id=run_id: stage.has_begun(run_id), "a step to cancel")
        stage.cancel(run_id)
    for run_id in stage.active():
        stage.cancel(run_id)


def _drive_waiting(stage: Stage, worker: Program, number: int) -> None:
    """At the end of each run the worker hints the one that waits for it."""
    for _ in range(number + 1):
        stage.trigger("queue")


def _drive_beats(stage: Stage, worker: Program, number: int) -> None:
    stage.trigger("long")


def _drive_hand_back(stage: Stage, worker: Program, number: int) -> None:
    run_id = stage.trigger("long")
    until(lambda: stage.has_begun(run_id, 3), "running steps")
    worker.signal(signal.SIGTERM)


def _drive_rescue(stage: Stage, worker: Program, number: int) -> None:
    runs = [stage.trigger("long") for _ in range(number)]
    until(lambda: all(stage.has_begun(run_id) for run_id in runs), "running steps")
    kill([stage.holder(run_id) for run_id in runs])


def _drive_nothing(stage: Stage, worker: Program, number: int) -> None:
    pass


DRIVES: dict[str, Drive] = {
    **dict.fromkeys(("cancel_written", "cancel_committed"), _drive_cancels),
    **dict.fromkeys(("rescue_written", "rescue_committed"), _drive_rescue),
    **dict.fromkeys(("hand_back_written", "hand_back_committed"), _drive_hand_back),
    **dict.fromkeys(("worker hint_begun", "worker hint_sent"), _drive_waiting),
    **dict.fromkeys(("worker_registered", "worker_seen"), _drive_runs),
    "beat_committed": _drive_beats,
    **{
        f"{program} {name}": _drive_runs
        for name in crash_points.NAMES
        for program in ("web", "worker")
        if not (program == "worker" and name in ("hint_begun", "hint_sent"))
    },
}

# ---- one process killed --------------------------------------------------------------------

KINDS = (
    *("busy executor", "idle executor", "reaper", "sentinel", "pusher", "monitor", "parent"),
    *("web", "supervisor"),
)


def kill_cases(kind: str) -> Iterator[Case]:
    for process in KINDS:
        for busy in (True, False):
            if not (process == "busy executor" and not busy):
                yield _kill_case(kind, process, busy)


def _kill_case(kind: str, process: str, busy: bool) -> Case:
    label = f"kill {process}, {'busy' if busy else 'idle'}"
    return Case(label, lambda stages: kill_one(stages, kind, process, busy=busy))


def kill_one(stages: Stages, kind: str, process: str, *, busy: bool) -> Trial:
    """A SIGKILL hits one process while a run is executed, or while there is none."""
    trial = Trial(f"SIGKILL {process}, {'busy' if busy else 'idle'} site")
    with _staged(stages, kind, trial) as stage:
        scene = Scene(stage)
        if busy or process == "reaper":
            run_id = stage.trigger("mixed")
            until(lambda: stage.has_begun(run_id, 4), "running steps")
        if not busy:
            stage.await_end()
        found = scene.pids(process)
        if not found:
            trial.skipped = f"there is no {process} here"
            return trial
        kill(found[:1])
        if busy:
            recovery = Recovery(stage)
            stage.await_end()
            trial.seconds += recovery.await_end()
        else:
            trial.seconds.append(_time_to_start(stage))
        stage.trigger("short")
        stage.await_end()
        trial.findings += check(stage)
        scene.await_order()
        trial.findings += scene.end()
    return trial


def _time_to_start(stage: Stage) -> float:
    """Seconds until a run that is started now executes its first step."""
    since = time.monotonic()
    run_id = stage.trigger("short")
    until(lambda: stage.has_begun(run_id), "the first step", seconds=PATIENCE_SECONDS)
    return time.monotonic() - since


# ---- all at once ---------------------------------------------------------------------------


def everything_cases(kind: str, times: int) -> Iterator[Case]:
    for number in range(1, times + 1):
        yield Case(f"everything {number}", lambda stages, n=number: everything(stages, kind, n))
    yield Case("group SIGTERM", lambda stages: group_sigterm(stages, kind))


def everything(stages: Stages, kind: str, number: int = 1) -> Trial:
    """Every process dies at the same moment, those of steps as well; later the site starts."""
    trial = Trial("SIGKILL everything at once")
    with _staged(stages, kind, trial) as stage:
        is_grown = stage.set_up.has_many_workers
        programs = [stage.web(), stage.worker()] if is_grown else [stage.up()]
        runs = [stage.trigger("mixed"), stage.trigger("short"), stage.trigger("strict")]
        until(lambda: stage.has_begun(runs[0], 2 * number), "running steps")
        stage.kill_everything()
        for program in programs:
            program.wait()
        recovery = Recovery(stage)
        for program in programs:
            program.start()
        stage.await_end()
        trial.seconds += recovery.await_end()
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


def group_sigterm(stages: Stages, kind: str) -> Trial:
    """SIGTERM reaches every process of the worker's group, as from a terminal or systemd."""
    trial = Trial("SIGTERM to the group")
    with _staged(stages, kind, trial) as stage:
        scene = Scene(stage)
        run_id = stage.trigger("long")
        until(lambda: stage.has_begun(run_id, 3), "running steps")
        [parent] = [c.parent for c in scene.clusters() if stage.holder(run_id) in c.executors]
        os.killpg(os.getpgid(parent), signal.SIGTERM)
        until(lambda: not is_alive(parent), "the end of the worker")
        recovery = Recovery(stage)
        stage.await_end()
        trial.seconds += recovery.await_end()
        trial.findings += check(stage)
        scene.await_order()
        trial.findings += scene.end()
    return trial


# ---- standing still ------------------------------------------------------------------------


def stop_cases(kind: str) -> Iterator[Case]:
    yield Case("stop executor 30 s", lambda stages: stop_executor(stages, kind, 30.0))
    yield Case("stop cluster 30 s", lambda stages: stop_cluster(stages, kind, 30.0))


def stop_executor(stages: Stages, kind: str, seconds: float, silence: float | None = None) -> Trial:
    """The process that executes a run stands still for `seconds`, then goes on, if it can."""
    trial = Trial(f"SIGSTOP executor {seconds:.0f} s")
    options = {"silence": silence} if silence else {}
    with _staged(stages, kind, trial, **options) as stage:
        scene = Scene(stage)
        run_id = stage.trigger("mixed")
        until(lambda: stage.has_begun(run_id, 8), "running steps")
        found = scene.pids("busy executor")
        kill(found, signal.SIGSTOP)
        recovery = Recovery(stage)
        time.sleep(seconds)
        kill(found, signal.SIGCONT)
        stage.await_end()
        trial.seconds += recovery.await_end()
        trial.findings += check(stage)
        trial.findings += scene.end()
    return trial


def stop_cluster(stages: Stages, kind: str, seconds: float, silence: float | None = None) -> Trial:
    """All of a worker stands still. Where there is another one, that takes the run over."""
    trial = Trial(f"SIGSTOP cluster {seconds:.0f} s")
    options = {"silence": silence} if silence else {}
    with _staged(stages, kind, trial, **options) as stage:
        stage.web()
        first = stage.worker()
        run_id = stage.trigger("mixed")
        until(lambda: stage.has_begun(run_id, 8), "running steps")
        pids = [first.pid, *_without_steps(stage, descendants(first.pid))]
        kill(pids, signal.SIGSTOP)
        since, recovery = time.monotonic(), Recovery(stage)
        if stage.set_up.has_many_workers:
            stage.worker()
            until(lambda: run_id not in stage.active(), "another worker", seconds=PATIENCE_SECONDS)
        time.sleep(max(0.0, seconds - (time.monotonic() - since)))
        before = _written(stage, run_id)
        kill(pids, signal.SIGCONT)
        stage.await_end()
        trial.seconds += recovery.await_end()
        if stage.set_up.has_many_workers:
            until(lambda: "fenced" in first.log, "the first worker to notice")
            stage.trigger("short")
            stage.await_end()
            if _written(stage, run_id) != before:
                trial.findings.append(Finding(DOUBLED, "the fenced worker wrote"))
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


def _without_steps(stage: Stage, pids: Iterable[int]) -> list[int]:
    steps = set(stage.step_processes())
    return [pid for pid in pids if pid not in steps]


def _written(stage: Stage, run_id: int) -> list[tuple[object, ...]]:
    """All that an engine writes about a run."""
    return [
        *stage.rows(f"SELECT status, sequence, epoch, beat FROM executions_run WHERE id={run_id}"),
        *stage.rows(
            "SELECT position, status, sequence, attempt, reason, log_size FROM executions_steprun "
            f"WHERE run_id = {run_id} ORDER BY position"
        ),
    ]


# ---- a host that stays gone ----------------------------------------------------------------


def takeover_cases(kind: str) -> Iterator[Case]:
    if kind == "grown":
        yield Case("host gone", lambda stages: lose_host(stages, kind))


def lose_host(stages: Stages, kind: str, silence: float | None = None) -> Trial:
    """A worker on another host dies with all of its steps; nobody can see that it is dead."""
    trial = Trial("host dies for good")
    if not can_unshare():
        trial.skipped = "no process may have a PID namespace of its own here"
        return trial
    options = {"silence": silence} if silence else {}
    with _staged(stages, kind, trial, **options) as stage:
        stage.web()
        far = stage.worker(apart=True)
        run_id = stage.trigger("marathon")
        until(lambda: stage.has_begun(run_id, 3), "running steps")
        near = stage.worker()
        pids = [far.pid, *descendants(far.pid)]
        kill(pids)
        until(lambda: not any(map(is_alive, pids)), "the end of that host")
        far.wait()
        recovery = Recovery(stage)
        stage.await_end()
        trial.seconds += recovery.await_end()
        assert near.is_alive
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


# ---- poison --------------------------------------------------------------------------------

POISONS = {
    "segfault": {"interrupted"},
    "exit": {"interrupted"},
    "swallow": {"timed_out"},
    "block": {"timed_out"},
    "memory": {"failed"},
}
"""How the steps of each batch end that are poison."""


def poison_cases(kind: str) -> Iterator[Case]:
    for name in POISONS:
        yield Case(f"poison {name}", lambda stages, name=name: poison(stages, kind, [name]))


def poison(stages: Stages, kind: str, names: Iterable[str]) -> Trial:
    """A step that hurts its worker: it ends after its attempts, another run never notices."""
    names = list(names)
    trial = Trial(f"poison: {', '.join(names)}")
    with _staged(stages, kind, trial) as stage:
        stage.web()
        worker = stage.worker(2)
        cluster = Cluster(worker.pid, 2)
        fixed = {role: pid for role, pid in cluster.roles().items() if "executor" not in role}
        beside = stage.trigger("mixed")
        until(lambda: stage.has_begun(beside), "the run beside it")
        for name in names:
            since = time.monotonic()
            run_id = stage.trigger(f"poison-{name}")
            until(
                lambda run_id=run_id: run_id not in stage.active(),
                f"the end of {name}",
                seconds=PATIENCE_SECONDS,
            )
            trial.seconds.append(time.monotonic() - since)
            trial.findings += _poisoned(stage, run_id, POISONS[name])
        stage.await_end()
        trial.findings += check(stage, allowed={*USUAL, "failed", "timed_out"})
        untouched = stage.rows(
            f"SELECT count(*) FROM executions_steprun WHERE run_id = {beside} "
            "AND (status <> 'succeeded' OR attempt <> 1)"
        )
        if untouched[0][0]:
            trial.findings.append(Finding(WRONG, "the run beside it was hurt"))
        roles = cluster.roles()
        if not (worker.is_alive and fixed.items() <= roles.items()):
            trial.findings.append(Finding(WRONG, f"the cluster was {fixed} and is {roles}"))
        trial.findings += check_end(stage)
    return trial


def _poisoned(stage: Stage, run_id: int, expected: set[str]) -> list[Finding]:
    rows = stage.rows(
        "SELECT name, status, attempt FROM executions_steprun "
        f"WHERE run_id = {run_id} AND name IN ('once', 'again')"
    )
    return [
        Finding(WRONG, f"poison “{name}” ended {status} at attempt {attempt}")
        for name, status, attempt in rows
        if status not in expected or attempt > {"once": 1, "again": 2}[name]
    ]


# ---- stopping ------------------------------------------------------------------------------


def shutdown_cases(kind: str) -> Iterator[Case]:
    yield Case("shutdown worker", lambda stages: shutdown(stages, kind, "worker"))
    if kind == "embedded":
        yield Case("shutdown up", lambda stages: shutdown(stages, kind, "up"))
    yield Case("rolling restart", lambda stages: rolling_restart(stages, kind, 3))


def shutdown(stages: Stages, kind: str, program: str) -> Trial:
    """SIGTERM while steps run: nothing new is claimed, nothing runs on, the rest waits."""
    trial = Trial(f"SIGTERM {program}")
    with _staged(stages, kind, trial) as stage:
        if program == "up":
            stopped = stage.up()
        else:
            stage.web()
            stopped = stage.worker()
        run_id = stage.trigger("slow")
        until(lambda: stage.has_begun(run_id, 4), "running steps")
        since = time.monotonic()
        stopped.signal(signal.SIGTERM)
        late = 0
        if program == "worker":
            time.sleep(NOTICED_SECONDS)
            late = stage.trigger("short")
        code = stopped.wait()
        trial.seconds.append(time.monotonic() - since)
        trial.findings += _shut_down(stage, run_id, late, code)
        stopped.start()
        for run_id in stage.active():
            stage.cancel(run_id) if run_id != late else None
        stage.await_end()
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


def _shut_down(stage: Stage, run_id: int, late: int, code: int) -> Iterator[Finding]:
    if code:
        yield Finding(WRONG, f"exit code {code}")
    if late and stage.rows(f"SELECT epoch FROM executions_run WHERE id = {late}") != [(0,)]:
        yield Finding(WRONG, "a run was claimed after the SIGTERM")
    if stage.step_processes():
        yield Finding("survived", f"processes {stage.step_processes()} of steps")
    rows = stage.rows(
        "SELECT position, step_name, status, reason FROM executions_steprun "
        f"WHERE run_id = {run_id} ORDER BY position"
    )
    for position, step, status, reason in rows:
        safe = step.endswith("Again")
        expected = "pending" if safe or position == len(rows) - 1 else "interrupted"
        if status != expected or (status == "interrupted" and reason != "worker_stopped"):
            yield Finding(WRONG, f"{step} is {status}, {reason}; {expected} was expected")


def rolling_restart(stages: Stages, kind: str, workers: int, rounds: int = 2) -> Trial:
    """One worker after the other is told to stop and started again, under load."""
    trial = Trial(f"rolling restart of {workers} workers")
    with _staged(stages, kind, trial) as stage:
        stage.web()
        programs = [stage.worker(1) for _ in range(workers)]
        recoveries = []
        for _ in range(rounds):
            for program in programs:
                for _ in range(2):
                    stage.trigger("mixed")
                until(lambda: bool(stage.active()), "a run under way")
                program.signal(signal.SIGTERM)
                if code := program.wait():
                    trial.findings.append(Finding(WRONG, f"a worker ended with {code}"))
                recoveries.append(Recovery(stage))
                program.start()
        stage.await_end(2 * PATIENCE_SECONDS)
        trial.seconds += [each for recovery in recoveries for each in recovery.await_end()]
        trial.findings += check(stage)
        trial.findings += check_end(stage)
    return trial


# ---- at random -----------------------------------------------------------------------------

AT_RANDOM = (
    *KINDS,
    *("busy executor", "parent"),  # what hurts most comes more often
    *("everything", "group", "pause executor", "pause cluster"),
)
SINGLE_SHARE = 0.7
"""Of the rounds have one fault; the others two or three."""
LONGEST_SECONDS = 4.0
"""About what a round takes undisturbed: faults come within it."""


class RandomRounds:
    """Rounds of random faults at random times, on one site as long as nothing is found wrong."""

    ROUNDS_PER_SITE = 10

    def __init__(self, kind: str, seed: int) -> None:
        self._kind = kind
        self._seed = seed
        self._scene: Scene | None = None
        self._played = 0

    def case(self, number: int) -> Case:
        return Case(f"random {number}", lambda stages: self.play(stages, number))

    def play(self, stages: Stages, number: int) -> Trial:
        chance = random.Random(f"{self._seed}:{number}")
        faults = [chance.choice(AT_RANDOM)]
        if chance.random() > SINGLE_SHARE:
            faults += chance.choices(AT_RANDOM, k=chance.randint(1, 2))
        moments = sorted(chance.uniform(0.0, LONGEST_SECONDS) for _ in faults)
        slugs = chance.choices(("mixed", "mixed", "strict", "short"), k=2)
        trial = Trial("random: one fault" if len(faults) == 1 else "random: two or three")
        try:
            if self._scene is None:
                self._scene = Scene(stages.new(self._kind))
            trial.data = self._scene.stage.data
            plan = list(zip(moments, faults, strict=True))
            self._round(self._scene, chance, plan, slugs, trial)
        except Exception as error:
            trial.findings.append(
                Finding(WRONG, f"{faults} at {moments}: {type(error).__name__}: {error}")
            )
            if self._scene is not None:
                trial.findings += _active_runs(self._scene.stage)
        self._played += 1
        if trial.findings:
            self._leave(keep=True)
        elif self._played % self.ROUNDS_PER_SITE == 0:
            trial.findings += self.end().findings
        return trial

    def end(self) -> Trial:
        """Stop the site that the rounds were played on."""
        trial = Trial("SIGTERM after random rounds")
        if self._scene is not None:
            trial.data = self._scene.stage.data
            trial.findings += self._scene.end()
        self._leave(keep=bool(trial.findings))
        return trial

    def _leave(self, *, keep: bool) -> None:
        if self._scene is not None:
            self._scene.stage.close(keep=keep)
            if not keep:
                shutil.rmtree(self._scene.stage.data, ignore_errors=True)
        self._scene = None

    @staticmethod
    def _round(
        scene: Scene,
        chance: random.Random,
        faults: list[tuple[float, str]],
        slugs: list[str],
        trial: Trial,
    ) -> None:
        stage = scene.stage
        since = time.monotonic()
        for slug in slugs:
            stage.trigger(slug)
        for moment, fault in faults:
            time.sleep(max(0.0, moment - (time.monotonic() - since)))
            hurt(scene, chance, fault)
        recovery = Recovery(stage)
        stage.await_end()
        trial.seconds += recovery.await_end()
        trial.findings += [
            Finding(finding.sort, f"{finding.text} (faults: {faults})") for finding in check(stage)
        ]
        scene.await_order()


def hurt(scene: Scene, chance: random.Random, fault: str) -> None:
    """Do one of `AT_RANDOM`. Nothing, where there is no such process at the moment."""
    if fault == "everything":
        scene.stage.kill_everything()
    elif fault == "group":
        for pid in scene.pids("parent")[:1]:
            with suppress(ProcessLookupError):
                os.killpg(os.getpgid(pid), signal.SIGTERM)
    elif fault.startswith("pause"):
        if fault == "pause executor":
            pids = scene.pids("busy executor")
        else:
            pids = [each for pid in scene.pids("parent")[:1] for each in (pid, *descendants(pid))]
        kill(pids, signal.SIGSTOP)
        time.sleep(chance.uniform(0.2, 1.5))
        kill(pids, signal.SIGCONT)
    else:
        found = scene.pids(fault)
        if found:
            kill([chance.choice(found)])


# ---- unit files ----------------------------------------------------------------------------


def verify_units(folder: Path) -> tuple[str, str]:
    """What `systemd-analyze verify` says about the unit files of docs, and why it cannot be asked.

    The paths in them are examples, so the program is replaced by one that is here.
    """
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return "", "there is no systemd-analyze here"
    units = []
    for unit in sorted((ROOT / "docs" / "systemd").glob("*.service")):
        text = unit.read_text().replace("/srv/stepsite/.venv/bin/python", sys.executable)
        copy = folder / unit.name
        copy.write_text(text)
        units.append(str(copy))
    assert units
    done = subprocess.run(
        [analyze, "verify", "--man=no", *units], capture_output=True, text=True, timeout=60
    )
    about_ours = [line for line in done.stderr.splitlines() if "stepsite" in line]
    return "\n".join(about_ours), ""


# ---- all of them ---------------------------------------------------------------------------


def all_cases(kind: str, *, seed: int, rounds: int) -> Iterator[Case]:
    yield from crash_point_cases(kind)
    yield from kill_cases(kind)
    yield from everything_cases(kind, times=5)
    yield from stop_cases(kind)
    yield from takeover_cases(kind)
    yield from poison_cases(kind)
    yield from shutdown_cases(kind)
    chaos = RandomRounds(kind, seed)
    for number in range(1, rounds + 1):
        yield chaos.case(number)
    yield Case("random end", lambda stages: chaos.end())
