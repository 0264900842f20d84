"""Where a scenario plays: a data directory, a database, a ledger, and the programs of a site."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import urllib.error
import uuid
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from tests.acceptance.client import Client
from tests.processes import children, is_alive, until, with_environment

from .definitions import definitions
from .set_ups import SET_UPS

ROOT = Path(__file__).parent.parent.parent
ADMIN, PASSWORD = "admin", "between us"
PATIENCE_SECONDS = 90.0
START_AGAIN_SECONDS = 0.2
"""What a service manager would wait before it starts a program again that died."""
APART = ("unshare", "--pid", "--fork", "--mount-proc", "--kill-child")
"""A command before which a program runs as on another host: its pids mean nothing outside."""


@dataclass(frozen=True)
class Line:
    """One line of the ledger."""

    run_id: int
    pid: int
    """Of the process that executed the run."""
    position: int
    attempt: int
    event: str
    at: float


class Program:
    """A management command that runs until it is told to stop."""

    def __init__(self, stage: Stage, arguments: Sequence[str], *, apart: bool = False) -> None:
        self.stage = stage
        self.name = arguments[0]
        self._arguments = [*arguments]
        self._apart = apart
        self.log_path = stage.data / f"{self.name}-{uuid.uuid4().hex[:4]}.log"
        self.starts = 0
        self.codes: list[int] = []
        self.port = 0
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, crash: str = "") -> Program:
        """Start it and wait until it is ready, or dead. `crash` is for STEPSITE_CRASH."""
        ready, says = os.pipe()
        self.starts += 1
        with self.log_path.open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(APART if self._apart else ()),
                    *(sys.executable, str(ROOT / "manage.py"), *self._arguments),
                    *("--ready-fd", str(says)),
                ],
                cwd=ROOT,
                env={**self.stage.environment, **_crash(self.stage, crash)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[says],
                start_new_session=True,
            )
        os.close(says)
        with os.fdopen(ready) as pipe:
            self._said = pipe.readline()
        return self

    @property
    def is_ready(self) -> bool:
        return self._said.endswith("\n")

    @property
    def pid(self) -> int:
        """Of the command itself; 0 once it has ended."""
        if self._process is None or self._process.poll() is not None:
            return 0
        return next(iter(children(self._process.pid)), 0) if self._apart else self._process.pid

    @property
    def is_alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def signal(self, number: int) -> None:
        with suppress(ProcessLookupError):
            if pid := self.pid:
                os.kill(pid, number)

    def wait(self, seconds: float = PATIENCE_SECONDS) -> int:
        """The exit code."""
        assert self._process is not None
        code = self._process.wait(seconds)
        self.codes.append(code)
        return code

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""


def _crash(stage: Stage, order: str) -> dict[str, str]:
    return {"STEPSITE_CRASH": order, "STEPSITE_CRASH_NOTE": str(stage.note)} if order else {}


class Keeper(threading.Thread):
    """Starts programs again that died, as a service manager does."""

    def __init__(self) -> None:
        super().__init__(name="keeper", daemon=True)
        self._programs: list[Program] = []
        self._ended = threading.Event()
        self._lock = threading.Lock()

    def keep(self, program: Program) -> None:
        with self._lock:
            self._programs.append(program)

    def release(self, program: Program) -> None:
        with self._lock:
            if program in self._programs:
                self._programs.remove(program)

    def end(self) -> list[Program]:
        """Keep nothing any more; what was kept."""
        self._ended.set()
        if self.ident is not None:
            self.join()
        with self._lock:
            return list(self._programs)

    def run(self) -> None:
        while not self._ended.wait(START_AGAIN_SECONDS):
            with self._lock:
                for program in self._programs:
                    if not program.is_alive:
                        program.start()


class Stage:
    """One site of either set-up. `close` ends everything and removes the database."""

    def __init__(
        self,
        kind: str,
        folder: Path,
        template: Stage | None,
        *,
        drain: float = 1.0,
        silence: float | None = None,
    ) -> None:
        self.name = f"chaos_{uuid.uuid4().hex[:10]}"
        self.data = folder / self.name
        (self.data / "tmp").mkdir(parents=True)
        self.ledger_path = self.data / "ledger"
        self.ledger_path.touch()
        self.note = self.data / "crashed"
        self.set_up = SET_UPS[kind](
            self.data, self.name, template.set_up.template() if template else None
        )
        self.port = _free_port()
        self.environment = _environment(self, drain, silence)
        self.programs: list[Program] = []
        self.keeper = Keeper()
        self.accepted: list[int] = []
        self.is_closed = False
        self._client: Client | None = None
        self.rows = self.set_up.rows

    # ---- programs --------------------------------------------------------------------------

    def up(self, slots: int = 2) -> Program:
        return self._program("up", f"--port={self.port}", "--no-demo", f"--workers={slots}")

    def web(self, crash: str = "") -> Program:
        return self._program("web", f"--port={self.port}", crash=crash)

    def worker(self, slots: int = 2, *, crash: str = "", apart: bool = False) -> Program:
        return self._program("worker", f"--workers={slots}", crash=crash, apart=apart)

    def _program(self, *arguments: str, crash: str = "", apart: bool = False) -> Program:
        program = Program(self, arguments, apart=apart).start(crash)
        self.programs.append(program)
        return program

    def keep(self, *programs: Program) -> None:
        """From now on, start these again when they die."""
        for program in programs:
            self.keeper.keep(program)
        if self.keeper.ident is None:
            self.keeper.start()

    def manage(self, *arguments: str) -> None:
        """Run a management command to its end, which must be a success."""
        done = subprocess.run(
            [sys.executable, str(ROOT / "manage.py"), *arguments],
            cwd=ROOT,
            env=self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stdout + done.stderr

    # ---- runs ------------------------------------------------------------------------------

    @property
    def client(self) -> Client:
        if self._client is None:
            self._client = Client(f"http://127.0.0.1:{self.port}/", ADMIN, PASSWORD)
        return self._client

    def trigger(self, slug: str) -> int:
        """Start a run; asks again for as long as nobody answers. The id that was promised."""

        def asked() -> int:
            body = {"batch": slug, "context": {"ledger": str(self.ledger_path)}}
            try:
                return int(self.client.post("api/runs", body)["id"])
            except urllib.error.HTTPError as error:
                if error.code == 503:
                    return 0
                raise AssertionError(f"{error.code}: {error.read().decode()}") from error
            except (OSError, HTTPException):
                return 0

        run_id = until(asked, "an answer of the site", seconds=PATIENCE_SECONDS)
        self.accepted.append(run_id)
        return run_id

    def cancel(self, run_id: int) -> None:
        def asked() -> bool:
            try:
                return bool(self.client.post(f"api/runs/{run_id}/cancel", {}))
            except (OSError, HTTPException) as error:
                if isinstance(error, urllib.error.HTTPError) and error.code != 503:
                    raise
                return False

        until(asked, "an answer of the site", seconds=PATIENCE_SECONDS)

    def active(self) -> list[int]:
        query = "SELECT id FROM executions_run WHERE finished_at IS NULL ORDER BY id"
        return [row[0] for row in self.rows(query)]

    def holder(self, run_id: int) -> int:
        """The pid of the process that executes a run, in its own namespace; 0: nobody does."""
        query = f"SELECT holder FROM executions_run WHERE id = {run_id} AND status = 'running'"
        found = self.rows(query)
        return int(found[0][0].split("|")[-2]) if found else 0

    def await_end(self, seconds: float = PATIENCE_SECONDS) -> None:
        until(lambda: not self.active(), "the end of all runs", seconds=seconds)

    def ledger(self) -> list[Line]:
        lines = []
        for text in self.ledger_path.read_text().splitlines():
            entry = json.loads(text)
            run_id, pid, _, position, attempt = entry["key"].split(":")[:5]
            numbers = map(int, (run_id, pid, position, attempt))
            lines.append(Line(*numbers, event=entry["event"], at=entry["at"]))
        return lines

    def has_begun(self, run_id: int, number: int = 1) -> bool:
        """Whether so many steps of the run are executing now, or did."""
        begun = [line for line in self.ledger() if line.run_id == run_id]
        return len([line for line in begun if line.event == "begin"]) >= number

    # ---- processes -------------------------------------------------------------------------

    def own_processes(self) -> list[int]:
        """The processes of the site: those of its programs, not those of steps."""
        return with_environment(f"STEPSITE_DATA={self.data}")

    def step_processes(self) -> list[int]:
        """The processes of steps, wherever they hide."""
        own = set(self.own_processes())
        return [pid for pid in with_environment(f"TMPDIR={self.data}/tmp") if pid not in own]

    def kill_everything(self) -> None:
        """As when the machine goes down: no process can react to the death of another."""
        stopped: set[int] = set()
        # Some fork while the table is read; what stands still does not.
        while found := set(with_environment(f"TMPDIR={self.data}/tmp")) - stopped:
            _send(found, signal.SIGSTOP)
            stopped |= found
        _send(stopped, signal.SIGKILL)
        until(lambda: not any(map(is_alive, stopped)), "the end of all processes")

    def stop(self) -> list[str]:
        """Tell all programs to stop; what was wrong with how they did."""
        self.keeper.end()
        wrong = []
        for program in self.programs:
            program.signal(signal.SIGCONT)
            program.signal(signal.SIGTERM)
        for program in self.programs:
            if program.is_alive and (code := program.wait()):
                wrong.append(f"{program.name} ended with {code}")
        with suppress(AssertionError):
            until(lambda: not self.own_processes(), "the end of all", seconds=10)
        if left := self.own_processes():
            wrong.append(f"left of the site: {_describe(left)}")
        return wrong

    def close(self, *, keep: bool = False) -> None:
        """End everything by force; with `keep`, the data stays to be looked at."""
        self.keeper.end()
        self.kill_everything()
        for program in self.programs:
            if program.is_alive:
                program.wait()
        self.set_up.close(keep=keep)
        self.is_closed = True


def _send(pids: Iterable[int], number: int) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _describe(pids: Sequence[int]) -> list[str]:
    words = []
    for pid in pids:
        with suppress(OSError):
            command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
            words.append(f"{pid} {command.strip()}")
    return words


def _environment(stage: Stage, drain: float, silence: float | None) -> dict[str, str]:
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in ("DATABASE_URL", "REDIS_URL", "SECRET_KEY", "CI")
        and not name.startswith(("STEPSITE_", "CHAOS_"))
    }
    return {
        **kept,
        "CHAOS_DRAIN": str(drain),
        "CHAOS_NAME": stage.name,
        **({"CHAOS_SILENCE": str(silence)} if silence else {}),
        "DJANGO_SETTINGS_MODULE": "tests.chaos.settings",
        "PYTHONPATH": str(ROOT),
        "STEPSITE_ADMIN": ADMIN,
        "STEPSITE_ADMIN_PASSWORD": PASSWORD,
        "STEPSITE_APPS": "tests.chaos.effects",
        "STEPSITE_DATA": str(stage.data),
        # Steps get it as well, so every process of this stage can be told from all others.
        "TMPDIR": f"{stage.data}/tmp",
        **stage.set_up.environment(),
    }


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


# ---- many stages ---------------------------------------------------------------------------

MAKE_ADMINISTRATOR = f"""
from django.contrib.auth.models import User
from steps.sync import sync_steps
sync_steps()
User.objects.create_superuser({ADMIN!r}, password={PASSWORD!r})
"""


class Stages:
    """Makes stages in a folder. Their databases are copies of one that is made at first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._templates: dict[str, Stage] = {}
        self._made: list[Stage] = []

    def new(self, kind: str, *, drain: float = 1.0, silence: float | None = None) -> Stage:
        if kind not in self._templates:
            self._templates[kind] = self._make_template(kind)
        stage = Stage(kind, self._folder, self._templates[kind], drain=drain, silence=silence)
        self._made.append(stage)
        return stage

    def _make_template(self, kind: str) -> Stage:
        stage = Stage(kind, self._folder, None)
        file = stage.data / "definitions.yaml"
        file.write_text(json.dumps(definitions()))
        stage.manage("migrate", "--verbosity=0")
        stage.manage("shell", "--verbosity=0", "--command", MAKE_ADMINISTRATOR)
        stage.manage("load_batches", str(file))
        return stage

    def close(self) -> None:
        """End what a trial that was cut short left."""
        for stage in [*self._made, *self._templates.values()]:
            if not stage.is_closed:
                stage.close()
