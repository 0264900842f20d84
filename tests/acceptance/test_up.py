"""`manage.py up` for real: set-up, refusals, and an end that leaves nothing, however it comes."""

from __future__ import annotations

import http.client
import os
import re
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

import pytest

from tests.processes import children, descendants, is_alive, nothing_left, until

ROOT = Path(__file__).parent.parent.parent
NAP = "61.0625"
"""The argument of the `sleep` of these tests, by which its process is found."""
BATCH = f"""
steps:
  - name: NapStep
    kind: command
    target: {{argv: [sh, -c, "setsid sleep {NAP} & trap '' TERM; sleep {NAP}; sleep {NAP}"]}}
    timeout_seconds: 300
batches:
  - slug: nap
    name: Nap
    entries: [NapStep]
"""


def environment(data: Path, **more: str) -> dict[str, str]:
    outside = ("DATABASE_URL", "REDIS_URL", "SECRET_KEY")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not (name in outside or name.startswith("STEPSITE_"))
    }
    ours = {"STEPSITE_DATA": str(data), "DJANGO_SETTINGS_MODULE": "tests.quick_settings"}
    return {**kept, **ours, **more}


def manage(data: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=ROOT,
        env=environment(data, **more),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


class Up:
    """A running `manage.py up`."""

    def __init__(self, data: Path, *arguments: str, below: Sequence[str] = (), **more: str) -> None:
        ready, says = os.pipe()
        self.data = data
        self.process = subprocess.Popen(
            [
                *(*below, sys.executable, "manage.py", "up"),
                *("--port=0", f"--ready-fd={says}", *arguments),
            ],
            cwd=ROOT,
            env=environment(data, **more),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            pass_fds=[says],
            start_new_session=True,
        )
        os.close(says)
        self.output = ""
        self._reading = threading.Thread(target=self._read, daemon=True)
        self._reading.start()
        with os.fdopen(ready) as pipe:
            self.url = pipe.readline().strip()
        if self.url:
            until(lambda: "Ctrl-C" in self.output, "the last line of the banner")

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as pipe:
            for line in pipe:
                self.output += line

    def await_end(self) -> int:
        code = self.process.wait(timeout=60)
        self._reading.join(10)
        return code

    def child(self, name: str) -> int:
        """The pid of `web` or `worker`."""
        for pid in children(self.process.pid):
            if name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
                return pid
        return 0

    def status(self, path: str = "sign-in/") -> int:
        """The HTTP status of a page; 0 while nobody answers."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            return error.code
        except OSError:
            return 0

    def ask(self, query: str) -> list[Any]:
        with closing(sqlite3.connect(self.data / "db.sqlite3", timeout=20)) as database:
            return database.execute(query).fetchall()


StartUp = Callable[..., Up]


@pytest.fixture(scope="module")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database that has its tables already, to save each test the time."""
    data = tmp_path_factory.mktemp("migrated")
    done = manage(data, "migrate", "--verbosity=0")
    assert done.returncode == 0, done.stderr
    return data


@pytest.fixture
def start_up(tmp_path: Path, migrated: Path) -> Iterator[StartUp]:
    started: list[Up] = []

    def start(*arguments: str, empty: bool = False, **more: Any) -> Up:
        if not empty and not started:
            shutil.copytree(migrated, tmp_path, dirs_exist_ok=True)
        up = Up(tmp_path, *arguments, **more)
        started.append(up)
        assert up.url, up.output
        return up

    with nothing_left(f"STEPSITE_DATA={tmp_path}"):
        try:
            yield start
        finally:
            for up in started:
                up.process.terminate()
                up.await_end()


def naps() -> list[str]:
    found = []
    for cmdline in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if cmdline.read_bytes().split(b"\0")[:2] == [b"sleep", NAP.encode()]:
                found.append(cmdline.parent.name)
        except OSError:
            continue
    return found


def start_naps(up: Up) -> None:
    """Run the batch whose step has a deaf process and one that left its session."""
    (up.data / "nap.yaml").write_text(BATCH)
    for arguments in (["load_batches", str(up.data / "nap.yaml")], ["run_batch", "nap"]):
        done = manage(up.data, *arguments)
        assert done.returncode == 0, done.stdout + done.stderr
    until(lambda: len(naps()) == 2, "the processes of the step")


# ---- set-up ----------------------------------------------------------------------------------


def test_an_empty_directory_becomes_a_site_to_sign_in_to(start_up: StartUp) -> None:
    """Tables, rules, the demo and an administrator, all with one command."""
    up = start_up(empty=True)
    password = re.search(r"Password +(\S+)", up.output)
    assert password, up.output
    assert up.url in up.output

    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
    page = browser.open(f"{up.url}sign-in/").read().decode()
    token = re.search(r'name="csrfmiddlewaretoken" value="([^"]+)"', page)
    assert token
    form = {"username": "admin", "password": password[1], "csrfmiddlewaretoken": token[1]}
    answer = browser.open(f"{up.url}sign-in/", urllib.parse.urlencode(form).encode())
    assert answer.url == up.url

    assert up.status("static/admin/css/base.css") == 200
    assert len(up.ask("SELECT 1 FROM steps_batch")) == 3
    assert up.ask("SELECT slots, stopped_at FROM executions_worker") == [(2, None)]
    assert stat.S_IMODE((up.data / "secret_key").stat().st_mode) == 0o600


def test_a_second_start_changes_nothing_and_shows_no_password(start_up: StartUp) -> None:
    up = start_up()
    before = up.ask("SELECT count(*) FROM steps_batchstep")
    up.process.terminate()
    assert up.await_end() == 0
    again = start_up()
    assert "Password" not in again.output
    assert again.ask("SELECT count(*) FROM steps_batchstep") == before
    assert again.ask("SELECT username FROM auth_user") == [("admin",)]


def test_the_administrator_comes_from_the_environment(start_up: StartUp) -> None:
    """Then the password is not printed."""
    up = start_up(
        "--no-demo",
        STEPSITE_ADMIN="ada",
        STEPSITE_ADMIN_PASSWORD="between-us",
    )
    assert up.ask("SELECT username, is_superuser FROM auth_user") == [("ada", 1)]
    assert up.ask("SELECT count(*) FROM steps_batch") == [(0,)]
    assert "between-us" not in up.output


def test_a_second_up_on_the_same_database_is_refused(start_up: StartUp) -> None:
    up = start_up("--no-demo")
    refused = manage(up.data, "up", "--port=0")
    assert refused.returncode == 1
    assert f"already served by process {up.process.pid}" in refused.stderr
    assert up.status() == 200


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        refused = manage(tmp_path, "up", f"--port={port}")
    assert refused.returncode == 1
    assert f"Port {port} of 127.0.0.1 is in use" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_database_that_cannot_be_used_is_told_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "db.sqlite3").write_text("this is no database" * 100)
    refused = manage(tmp_path, "up", "--port=0")
    assert refused.returncode == 1
    assert "The database cannot be used" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_no_reactor_is_imported_by_the_supervisor() -> None:
    """It forks and waits; a reactor would be in its way."""
    code = (
        "import django, sys; django.setup(); import executions.management.commands.up; "
        "sys.exit(any(name.split('.')[0] in ('twisted', 'daphne') for name in sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "DJANGO_SETTINGS_MODULE": "stepsite.settings"},
        timeout=60,
    )
    assert done.returncode == 0


# ---- ending ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_site_and_leaves_nothing(
    start_up: StartUp, number: signal.Signals
) -> None:
    """Also with a browser that keeps its connection open."""
    up = start_up("--no-demo")
    address = urllib.parse.urlsplit(up.url)
    with closing(http.client.HTTPConnection(address.hostname or "", address.port)) as browser:
        browser.request("GET", "/sign-in/")
        assert browser.getresponse().read()
        below = descendants(up.process.pid)
        up.process.send_signal(number)
        assert up.await_end() == 0
        assert not any(map(is_alive, below))
    assert "Traceback" not in up.output
    [(stopped_at,)] = up.ask("SELECT stopped_at FROM executions_worker")
    assert stopped_at is not None


def test_nothing_outlives_a_killed_supervisor(start_up: StartUp) -> None:
    """Neither web nor worker nor what a step started, be it deaf or out of its session."""
    up = start_up("--no-demo", "--workers=1")
    start_naps(up)
    below = descendants(up.process.pid)
    up.process.kill()
    until(lambda: not any(map(is_alive, below)), "the end of all processes")
    until(lambda: not naps(), "the end of the processes of the step")


def test_it_ends_with_what_started_it(start_up: StartUp) -> None:
    """As `make run` wants it: make cannot pass on that it was killed."""
    start = "import subprocess, sys; subprocess.run(sys.argv[1:], close_fds=False)"
    up = start_up("--no-demo", "--with-parent", below=[sys.executable, "-c", start])
    below = descendants(up.process.pid)
    up.process.kill()
    until(lambda: not any(map(is_alive, below)), "the end of all processes")


def test_a_second_signal_cuts_the_drain_short(start_up: StartUp) -> None:
    """Nothing is left then either, and the next start takes the run up."""
    up = start_up("--no-demo", "--workers=1", DJANGO_SETTINGS_MODULE="stepsite.settings")
    start_naps(up)
    up.process.send_signal(signal.SIGINT)
    until(lambda: not up.child("web"), "the end of the web process")
    up.process.send_signal(signal.SIGINT)
    assert up.await_end() == 0
    until(lambda: not naps(), "the end of the processes of the step")
    up = start_up("--no-demo")
    final = "SELECT status FROM executions_run WHERE finished_at IS NOT NULL"
    assert until(lambda: up.ask(final), "the end of the run") == [("failed",)]
    assert up.ask("SELECT status FROM executions_steprun") == [("interrupted",)]


# ---- children that die -----------------------------------------------------------------------


def test_a_killed_child_is_started_again(start_up: StartUp) -> None:
    up = start_up("--no-demo")
    for name in ("web", "worker"):
        pid = up.child(name)
        os.kill(pid, signal.SIGKILL)
        until(lambda name=name, pid=pid: up.child(name) not in (0, pid), f"another {name}")
    until(lambda: up.status() == 200, "an answer")
    until(lambda: len(up.ask("SELECT 1 FROM executions_worker")) == 2, "another worker")
    until(lambda: "The web process ended with signal SIGKILL" in up.output, "the reason")


def test_a_run_goes_on_after_the_death_of_its_worker(start_up: StartUp) -> None:
    """Its steps do not outlive the worker, and the next worker brings the run to its end."""
    up = start_up("--no-demo", "--workers=1")
    start_naps(up)
    os.kill(up.child("worker"), signal.SIGKILL)
    final = "SELECT status FROM executions_run WHERE finished_at IS NOT NULL"
    assert until(lambda: up.ask(final), "the end of the run") == [("failed",)]
    assert up.ask("SELECT status, reason FROM executions_steprun")[0][0] == "interrupted"
    until(lambda: not naps(), "the end of the processes of the step")
