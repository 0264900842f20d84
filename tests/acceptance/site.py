"""The real stack for a test: `manage.py up` with a data directory of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.processes import children, until, with_environment

ROOT = Path(__file__).parent.parent.parent
ADMIN, PASSWORD = "admin", "correct horse battery"
START_SECONDS, STOP_SECONDS = 60, 40


class Site:
    """Web, worker and database file; `url` ends with a slash."""

    def __init__(
        self, data: Path, *, options: Sequence[str] = (), environment: Mapping[str, str] = {}
    ) -> None:
        self.data = data
        self._mark = f"STEPSITE_DATA={data}"
        self._environment = {
            **{k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")},
            # Steps call the Python that runs the tests.
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "STEPSITE_DATA": str(data),
            "STEPSITE_ADMIN": ADMIN,
            "STEPSITE_ADMIN_PASSWORD": PASSWORD,
            **environment,
        }
        reading, writing = os.pipe()
        with self.log_path.open("wb") as log, os.fdopen(writing, "wb"):
            self._process = subprocess.Popen(
                self._command("up", "--port", "0", "--ready-fd", str(writing), *options),
                cwd=ROOT,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                pass_fds=[writing],
                start_new_session=True,
            )
        try:
            with os.fdopen(reading) as ready:
                self.url = ready.readline().strip()
            assert self.url, f"the site did not start:\n{self.log}"
        except BaseException:
            self.stop()
            raise

    @property
    def log_path(self) -> Path:
        return self.data / "up.log"

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace")

    def manage(self, *arguments: str) -> str:
        """What a management command prints; it must succeed."""
        done = subprocess.run(
            self._command(*arguments),
            cwd=ROOT,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
        )
        assert done.returncode == 0, f"{arguments} failed:\n{done.stdout}{done.stderr}"
        return done.stdout

    def stop(self) -> None:
        """End everything; nothing of it may be left."""
        with suppress(ProcessLookupError):
            os.kill(self.supervisor, signal.SIGCONT)
            os.kill(self.supervisor, signal.SIGTERM)
        try:
            code = self._process.wait(STOP_SECONDS)
        finally:
            for pid in with_environment(self._mark):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        assert code == 0, f"up ended with {code}:\n{self.log}"

    @property
    def supervisor(self) -> int:
        return self._process.pid

    @property
    def web(self) -> int:
        """The process that serves the pages."""
        return self._child("web")

    @property
    def worker(self) -> int:
        return self._child("worker")

    def _child(self, command: str) -> int:
        def found() -> int | None:
            for pid in children(self.supervisor):
                with suppress(OSError):
                    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
                    if command.encode() in words:
                        return pid
            return None

        return until(found, f"a process for {command}")

    def _command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(ROOT / "manage.py"), *arguments]


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still inside the block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
