"""PostgreSQL and Redis for one test, so that the test may stop, freeze and kill them."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.processes import descendants, until

HOST = "127.0.0.1"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


class Server:
    """A server process with its children."""

    def __init__(
        self, folder: Path, command: list[str], *, port: int, host: str = HOST, user: str | None
    ) -> None:
        self.host = host
        self.port = port
        self._folder = folder
        self._command = command
        self._user = user
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                cwd=self._folder,
                user=self._user,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        until(lambda: answers(self.host, self.port), f"an answer of {self._command[0]}")

    def kill(self) -> None:
        """End it with its children at once, as a crash does."""
        self._signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(10)
            self._process = None

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """It keeps its connections and says nothing inside the block."""
        self._signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self._signal(signal.SIGCONT)

    @contextmanager
    def down(self) -> Iterator[None]:
        """It is not there inside the block, and starts again on its data after it."""
        self.kill()
        try:
            yield
        finally:
            self.start()

    def remove(self) -> None:
        self._signal(signal.SIGCONT)
        self.kill()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is None:
            return
        # The parent first, so that it starts no further child meanwhile.
        for pid in (self._process.pid, *descendants(self._process.pid)):
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Network:
    """A network of this machine and another one that is none: a namespace of the kernel.

    Unlike a proxy it can lose what is sent without anybody noticing. Needs root.
    """

    host = "10.99.77.2"
    _here = "10.99.77.1"

    def __init__(self) -> None:
        self._name = f"stepsite-{os.getpid()}"
        self._link = f"ss{os.getpid()}"
        if os.geteuid() != 0 or not shutil.which("ip") or not shutil.which("runuser"):
            pytest.skip("a network that loses packets is made by root, with `ip` and `runuser`")
        try:
            self._make()
        except subprocess.CalledProcessError as error:
            self.remove()
            pytest.skip(f"no network can be made here: {error.stderr.decode().strip()}")

    def _make(self) -> None:
        there = f"{self._link}t"
        self._ip("netns", "add", self._name)
        self._ip("link", "add", self._link, "type", "veth", "peer", "name", there)
        self._ip("link", "set", there, "netns", self._name)
        self._ip("addr", "add", f"{self._here}/30", "dev", self._link)
        self._ip("link", "set", self._link, "up")
        self._ip("-n", self._name, "addr", "add", f"{self.host}/30", "dev", there)
        self._ip("-n", self._name, "link", "set", there, "up")
        self._ip("-n", self._name, "link", "set", "lo", "up")

    def inside(self, command: list[str], user: str | None) -> list[str]:
        return [
            *("ip", "netns", "exec", self._name),
            *("runuser", "-u", user or "root", "--"),
            *command,
        ]

    @contextmanager
    def swallowing(self) -> Iterator[None]:
        """What goes there arrives; no answer and no acknowledgement ever comes back."""
        self._ip("-n", self._name, "route", "add", "blackhole", self._here)
        try:
            yield
        finally:
            self._ip("-n", self._name, "route", "del", "blackhole", self._here)

    def remove(self) -> None:
        with suppress(subprocess.CalledProcessError):
            self._ip("link", "del", self._link)
        with suppress(subprocess.CalledProcessError):
            self._ip("netns", "del", self._name)

    def _ip(self, *words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True, timeout=10)


def _without(what: str, how: str) -> NoReturn:
    message = f"There is no {what} to start: {how}"
    if os.environ.get("CI"):
        pytest.fail(message)
    pytest.skip(message)


def _postgres_program(name: str) -> str:
    """The program of the newest PostgreSQL here."""
    found = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3])
    )
    program = str(found[-1]) if found else shutil.which(name)
    if program is None:
        _without("PostgreSQL", "apt-get install postgresql, or put `initdb` on the PATH.")
    return program


def _folder(user: str | None) -> Path:
    """Not below pytest's own: another user could not enter that."""
    folder = Path(tempfile.mkdtemp(prefix="stepsite-server-"))
    if user is not None:
        account = pwd.getpwnam(user)
        os.chown(folder, account.pw_uid, account.pw_gid)
    return folder


def _unprivileged() -> str | None:
    """The account for PostgreSQL, which refuses to run as root; None: as the tests do."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    _without("account for PostgreSQL", "it does not run as root; run the tests as somebody else.")


class PrivatePostgres(Server):
    """An empty cluster of databases whose superuser needs no password."""

    def __init__(self, network: Network | None = None) -> None:
        initdb, postgres = _postgres_program("initdb"), _postgres_program("postgres")
        user, port = _unprivileged(), free_port()
        folder = _folder(user)
        data = folder / "data"
        subprocess.run(
            [initdb, "-D", str(data), "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync"],
            cwd=folder,
            user=user,
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=60,
        )
        with (data / "pg_hba.conf").open("a") as file:
            file.write("host all all samenet trust\n")
        host = network.host if network else HOST
        options = {"listen_addresses": host, "port": str(port), "unix_socket_directories": ""}
        words = [word for key, value in options.items() for word in ("-c", f"{key}={value}")]
        command = [postgres, "-D", str(data), *words]
        if network is not None:
            command, user = network.inside(command, user), None
        super().__init__(folder, command, port=port, host=host, user=user)
        self.start()

    def start(self) -> None:
        super().start()
        until(self._is_ready, "PostgreSQL's recovery")

    def _is_ready(self) -> bool:
        import psycopg  # an optional dependency

        try:
            psycopg.connect(self.url(), connect_timeout=3).close()
        except psycopg.OperationalError:
            return False
        return True

    def url(self, port: int = 0) -> str:
        """For DATABASE_URL; `port` is that of a proxy."""
        return f"postgres://postgres@{self.host}:{port or self.port}/postgres"

    def connections(self) -> int:
        """Of clients, without the one that asks."""
        import psycopg

        ask = "SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'"
        with psycopg.connect(self.url(), connect_timeout=3) as connection:
            row = connection.execute(ask).fetchone()
        return (row[0] if row else 0) - 1


class PrivateRedis(Server):
    """An empty Redis that stores nothing."""

    def __init__(self) -> None:
        program = shutil.which("redis-server")
        if program is None:
            _without("Redis", "apt-get install redis-server.")
        port, folder = free_port(), _folder(None)
        options = ["--port", str(port), "--bind", HOST, "--save", "", "--appendonly", "no"]
        super().__init__(folder, [program, *options], port=port, user=None)
        self.start()

    def url(self, port: int = 0) -> str:
        """For REDIS_URL; `port` is that of a proxy."""
        return f"redis://{HOST}:{port or self.port}/0"

    def connections(self) -> int:
        """Of clients, without the one that asks."""
        import redis

        client = redis.Redis.from_url(self.url(), socket_timeout=3)
        try:
            return len(client.client_list()) - 1
        finally:
            client.close()
