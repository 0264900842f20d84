"""A whole site with all its processes, to be hurt: which is which, and how long it limps."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.processes import children, descendants, is_alive, until

from .checker import Finding, check_end
from .stage import PATIENCE_SECONDS, Stage

SLOTS = 2
LOOK_SECONDS = 0.02


def _has_word(pid: int, word: str) -> bool:
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return any(each.endswith(word.encode()) for each in words)
    return False


def _started(pid: int) -> tuple[int, int]:
    """For sorting processes by their age."""
    with suppress(OSError):
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]), pid
    return 0, pid


class Cluster:
    """The processes below one `manage.py worker`. It must be new when it is first looked at."""

    def __init__(self, parent: int, slots: int) -> None:
        self.parent = parent
        self.sentinel = until(lambda: next(iter(children(parent)), 0), "a sentinel")
        until(lambda: len(self._below()) == slots + 2, "the processes of a cluster")
        *executors, monitor, pusher = self._below()
        self._roles = {f"executor {slot}": pid for slot, pid in enumerate(executors)}
        self._roles |= {"monitor": monitor, "pusher": pusher}

    def _below(self) -> list[int]:
        return sorted(children(self.sentinel), key=_started)

    def roles(self) -> dict[str, int]:
        """Who is who by now: each newcomer has the part of one that died."""
        newcomers = [pid for pid in self._below() if pid not in self._roles.values()]
        for role, pid in self._roles.items():
            if not is_alive(pid) and newcomers:
                self._roles[role] = newcomers.pop(0)
        return {role: pid for role, pid in self._roles.items() if is_alive(pid)}

    @property
    def executors(self) -> list[int]:
        return [pid for role, pid in self.roles().items() if role.startswith("executor")]


class Scene:
    """A site that is kept up: `up` where everything is embedded, else web and two workers."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self._clusters: dict[int, Cluster] = {}
        if stage.set_up.has_many_workers:
            self._up = None
            self._web = stage.web()
            self._workers = [stage.worker(SLOTS), stage.worker(SLOTS)]
        else:
            self._up = stage.up(SLOTS)
        assert all(program.is_ready for program in stage.programs), stage.programs[0].log
        self.clusters()
        stage.keep(*stage.programs)

    def __enter__(self) -> Scene:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self.stage.close(keep=kind is not None)

    # ---- who is who ------------------------------------------------------------------------

    def _parents(self) -> list[int]:
        if self._up is None:
            return [program.pid for program in self._workers if program.pid]
        return [pid for pid in children(self._up.pid) if _has_word(pid, "worker")]

    def clusters(self) -> list[Cluster]:
        """Those that are complete, busy ones first. A new one is waited for."""
        parents = self._parents()
        self._clusters = {pid: found for pid, found in self._clusters.items() if pid in parents}
        for parent in parents:
            if parent not in self._clusters:
                with suppress(AssertionError):
                    self._clusters[parent] = Cluster(parent, SLOTS)
        holders = [self.stage.holder(run_id) for run_id in self.stage.active()]
        found = list(self._clusters.values())
        return sorted(found, key=lambda cluster: not set(holders) & set(cluster.executors))

    def pids(self, kind: str) -> list[int]:
        """The processes of a kind, at this moment."""
        if kind == "supervisor":
            return [self._up.pid] if self._up and self._up.pid else []
        if kind == "web":
            if self._up is None:
                return [self._web.pid] if self._web.pid else []
            return [pid for pid in children(self._up.pid) if _has_word(pid, "web")]
        if kind == "parent":
            return self._parents()
        if kind == "busy executor":
            holders = [self.stage.holder(run_id) for run_id in self.stage.active()]
            return [pid for pid in holders if pid and is_alive(pid)]
        if kind == "reaper":
            below = [each for cluster in self.clusters() for each in descendants(cluster.parent)]
            return [pid for pid in below if _has_word(pid, "reaper.py")]
        if kind == "sentinel":
            return [cluster.sentinel for cluster in self.clusters()]
        if kind == "idle executor":
            busy = self.pids("busy executor")
            found = [pid for cluster in self.clusters() for pid in cluster.executors]
            return [pid for pid in found if pid not in busy]
        roles = [cluster.roles() for cluster in self.clusters()]
        return [each[kind] for each in roles if kind in each]

    # ---- how long --------------------------------------------------------------------------

    def await_order(self) -> None:
        """Wait until every program is there again, with all of its processes."""

        def is_whole() -> bool:
            expected = 1 if self._up else len(self._workers)
            clusters = self.clusters()
            return (
                all(program.is_alive and program.is_ready for program in self.stage.programs)
                and len(clusters) == expected
                and all(len(cluster.roles()) == SLOTS + 2 for cluster in clusters)
                and bool(self.pids("web"))
            )

        until(is_whole, "the whole site to be there again", seconds=PATIENCE_SECONDS)

    def end(self) -> list[Finding]:
        return check_end(self.stage)


class Recovery(threading.Thread):
    """Measures how long the runs that are active now stand still; with `note`, from that file on.

    A run goes on when the worker that brings it to its end has claimed it or, if it never changed
    hands, when its next step has started.
    """

    def __init__(self, stage: Stage, note: Path | None = None) -> None:
        super().__init__(daemon=True)
        self._stage = stage
        self._note = note
        self._since = time.monotonic()
        self._before: dict[int, State] = {} if note else self._now()
        self._back: dict[int, tuple[int, float]] = {}
        """By run: the epoch under which it was last seen to go on, and when that was."""
        self.start()

    def run(self) -> None:
        if self._note is not None:
            until(self._note.exists, "a crash", seconds=PATIENCE_SECONDS)
            self._since = time.monotonic()
            self._before = self._now()
        deadline = self._since + PATIENCE_SECONDS
        left = set(self._before)
        while left and time.monotonic() < deadline:
            now = self._now()
            for run_id in left:
                self._look(run_id, now.get(run_id))
            left &= set(now)
            time.sleep(LOOK_SECONDS)

    def _look(self, run_id: int, state: State | None) -> None:
        before, (epoch, _) = self._before[run_id], self._back.get(run_id, (-1, 0.0))
        is_over = state is None
        goes_on = state is not None and state.status == "running" and state != before
        if (is_over and epoch < 0) or (goes_on and state.epoch > epoch):  # type: ignore[union-attr]
            reached = before.epoch if state is None else state.epoch
            self._back[run_id] = reached, time.monotonic() - self._since

    def _now(self) -> dict[int, State]:
        return {row[0]: State(*row[1:]) for row in self._stage.rows(_NOW)}

    def await_end(self) -> list[float]:
        """The seconds that the last of the runs needed, when all are over; empty for no runs."""
        self.join()
        return [max(seconds for _, seconds in self._back.values())] if self._back else []


class State(NamedTuple):
    """Where an active run is."""

    status: str
    epoch: int
    starts: int


_NOW = """SELECT r.id, r.status, r.epoch, sum(s.attempt) FROM executions_run r
    JOIN executions_steprun s ON s.run_id = r.id WHERE r.finished_at IS NULL
    GROUP BY r.id, r.status, r.epoch"""


def kill(pids: list[int], number: int = signal.SIGKILL) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)
