"""A whole site whose services fail: its steps' effects, its records, what it holds open."""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from executions.engine.status import FINAL_RUN_STATUSES
from tests.acceptance.client import Client
from tests.acceptance.site import ADMIN, PASSWORD, Site
from tests.processes import PATIENCE_SECONDS, descendants, until

LEDGER_APP = "tests.faults.ledger"
BATCHES = Path(__file__).parent / "ledger" / "batches.yaml"
STEPS_OF_LEDGER = 10
RETRY_SAFE = ("Second in order", "beside 2")
END_SECONDS = 90.0
REFUSED_SLACK = 20
"""Threads or files. The first refusals fill the pool of the web's event loop, which stays, and what
a refused request held goes with the next collection of garbage."""
ANSWER_SECONDS = 40.0
"""Longer than the site promises, to see how long it takes."""


class FaultySite(Site):
    """`manage.py up` with the ledger's steps and batches."""

    _warm: Held | None = None

    def __init__(self, data: Path, **environment: str) -> None:
        super().__init__(
            data,
            options=["--no-demo"],
            environment={"STEPSITE_APPS": LEDGER_APP, **environment},
        )
        try:
            self.manage("load_batches", str(BATCHES))
        except BaseException:
            self.stop()
            raise

    def __enter__(self) -> FaultySite:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def sign_in(self) -> Client:
        return Client(self.url, ADMIN, PASSWORD, timeout=ANSWER_SECONDS)

    def warm_up(self, client: Client, folder: Path) -> Held:
        """What is held once every process has opened what it keeps: after runs in all slots."""
        if self._warm is None:
            context = {**Ledger(folder / "warm").context, "seconds": 0}
            slugs = ("ledger", "ledger", "commands", "commands")
            runs = [client.start(slug, context) for slug in slugs]
            for run_id in runs:
                await_end(client, run_id)
            self._warm = self.held()
        return self._warm

    def held(self) -> Held:
        """What web and worker hold open now, process by process."""
        return Held.of([self.web, self.worker, *descendants(self.worker)])


@dataclass(frozen=True)
class Held:
    """Counts over some processes."""

    processes: int
    threads: int
    files: int

    @classmethod
    def of(cls, pids: list[int]) -> Held:
        entries = [Path(f"/proc/{pid}") for pid in pids]
        return cls(
            len(pids),
            sum(len(list((entry / "task").iterdir())) for entry in entries),
            sum(len(list((entry / "fd").iterdir())) for entry in entries),
        )

    def is_at_most(self, other: Held, slack: int = 0) -> bool:
        return (
            self.processes <= other.processes
            and self.threads <= other.threads + slack
            and self.files <= other.files + slack
        )


class Ledger:
    """The effects of one run's steps."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def context(self) -> dict[str, Any]:
        return {"ledger": str(self.path)}

    def entries(self, what: str) -> list[dict[str, Any]]:
        if not self.path.exists():
            return []
        lines = map(json.loads, self.path.read_text().splitlines())
        return [entry for entry in lines if entry["what"] == what]

    def begins(self) -> list[dict[str, Any]]:
        return self.entries("begin")

    def begun_between(self, since: float, until: float) -> list[dict[str, Any]]:
        """What began then, by `time.monotonic`, which all processes of a machine share."""
        return [entry for entry in self.begins() if since < entry["at"] < until]

    def times(self) -> Counter[str]:
        """How often each step began."""
        return Counter(entry["step"] for entry in self.begins())

    def check(self, rows: list[dict[str, Any]]) -> None:
        """The record of a run that is over tells no lie about its effects.

        No step began twice unless it is safe, none began that the record says never did, and one
        that succeeded came to its end.
        """
        begins, ends = self.times(), Counter(entry["step"] for entry in self.entries("end"))
        for row in rows:
            name, begun = row["name"], begins[row["name"]]
            assert row["status"] not in ("pending", "running"), row
            assert begun <= row["attempt"], f"{name} began {begun} times: {row}"
            assert begun <= 1 or name in RETRY_SAFE, f"{name} was done twice: {row}"
            assert row["status"] != "succeeded" or ends[name] >= 1, f"{name} never ended: {row}"


@dataclass
class Timing:
    """Seconds from the end of a fault."""

    answered: float = 0.0
    recovered: float = 0.0


@dataclass
class Person:
    """Somebody who keeps asking for something while a service is away."""

    client: Client
    path: str = "api/runs"
    pause: float = 0.3
    answers: list[tuple[float, float, int]] = field(default_factory=list)
    """When asked, after how many seconds, with which HTTP status (0: none)."""

    @contextmanager
    def asking(self) -> Iterator[None]:
        ended = threading.Event()

        def ask() -> None:
            while not ended.is_set():
                began = time.monotonic()
                status = status_of(lambda: self.client.get(self.path))
                self.answers.append((began, time.monotonic() - began, status))
                ended.wait(self.pause)

        thread = threading.Thread(target=ask, daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join(60)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(status for _, _, status in self.answers)

    @property
    def slowest(self) -> float:
        return max(seconds for _, seconds, _ in self.answers)


def status_of(ask: Any) -> int:
    """The HTTP status of an answer; 0 without one."""
    try:
        ask()
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200


def last(seconds: float) -> None:
    """A fault lasts so long, whatever happens meanwhile. No wait for anything."""
    time.sleep(seconds)


@contextmanager
def locked(database: Path, mode: str = "IMMEDIATE", *, wait: float = 20) -> Iterator[None]:
    """Another writer holds the SQLite database inside the block; it waits `wait` s for it."""
    with closing(sqlite3.connect(database, timeout=wait, isolation_level=None)) as connection:
        connection.execute(f"BEGIN {mode}")
        try:
            yield
        finally:
            connection.execute("ROLLBACK")


def await_end(client: Client, run_id: int, *, seconds: float = END_SECONDS) -> dict[str, Any]:
    """The run once it is over; answers that fail meanwhile do not count."""

    def ended() -> dict[str, Any] | None:
        try:
            run = client.run(run_id)
        except OSError:
            return None
        return run if run["status"] in FINAL_RUN_STATUSES else None

    return until(ended, f"the end of run {run_id}", seconds=seconds) or {}


@contextmanager
def recovery(client: Client, run_id: int, *, within: float = PATIENCE_SECONDS) -> Iterator[Timing]:
    """The end of a fault: how long after the block people are answered and the run goes on."""
    before = sequence(client, run_id)
    timing = Timing()
    yield timing
    began = time.monotonic()
    until(lambda: sequence(client, run_id) is not None, "an answer", seconds=within)
    timing.answered = time.monotonic() - began
    until(lambda: sequence(client, run_id) != before, "a change of the run", seconds=within)
    timing.recovered = time.monotonic() - began


def sequence(client: Client, run_id: int) -> int | None:
    try:
        return int(client.run(run_id)["sequence"])
    except OSError:
        return None


def report(**figures: Any) -> None:
    """A line for the table of faults; `pytest -s` shows it."""
    rounded = {k: round(v, 2) if isinstance(v, float) else v for k, v in figures.items()}
    print(json.dumps(rounded), flush=True)


def fetch(url: str, **headers: str) -> tuple[int, dict[str, str], str]:
    """Status, headers and body, also of a refusal."""
    request = urllib.request.Request(url, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=40) as answer:
            return answer.status, dict(answer.headers), answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, dict(error.headers), error.read().decode()
