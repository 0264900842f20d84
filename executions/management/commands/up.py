"""`manage.py up`: the whole site on this machine, web and worker, with one command."""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connections
from rich.console import Console
from rich.panel import Panel
from rich.table import Table

from executions import installation, lifeline
from executions.cluster import FORCE_AFTER_DRAIN_SECONDS
from executions.conf import conf
from executions.installation import Administrator, AlreadyUpError, NameTakenError
from executions.supervisor import Child, Supervisor

WEB_STOP_SECONDS = 5.0
MARGIN_SECONDS = 5.0
"""The worker ends itself by then; only a stuck one is killed."""


class Command(BaseCommand):
    help = (
        "Set the site up where that is still to do, then run web and worker until Ctrl-C. The "
        "first one lets running steps go on for DRAIN_SECONDS, the second ends at once."
    )
    # Some need the database, whose troubles are told below.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
        parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any")
        parser.add_argument(
            "--workers",
            type=int,
            default=settings.Q_CLUSTER["workers"],
            metavar="N",
            help="how many runs are executed at once (default: %(default)s)",
        )
        parser.add_argument(
            "--no-demo", action="store_true", help="do not load the demo into an empty site"
        )
        parser.add_argument(
            "--with-parent",
            action="store_true",
            help="end when the process that started this one ends, as make does (Linux)",
        )
        parser.add_argument(
            "--ready-fd",
            type=int,
            metavar="N",
            help="when the site is ready, write its URL and a newline to descriptor N, close it",
        )

    def handle(
        self,
        *,
        host: str,
        port: int,
        workers: int,
        no_demo: bool,
        with_parent: bool,
        ready_fd: int | None,
        **options: Any,
    ) -> None:
        if workers < 1:
            raise CommandError(f"--workers {workers}: at least 1 run is executed at once.")
        if with_parent:
            lifeline.follow_parent(os.getppid(), signal.SIGTERM)
        try:
            with installation.held():
                self.check()
                port = free_port(host, port)
                administrator = installation.set_up(demo=not no_demo)
                connections.close_all()
                sys.exit(_run(Site(host, port, workers), administrator, ready_fd))
        except (AlreadyUpError, NameTakenError) as error:
            raise CommandError(str(error)) from error
        except DatabaseError as error:
            raise CommandError(f"The database cannot be used: {error}") from error
        except KeyboardInterrupt:
            sys.exit(130)


class Site:
    """Where the site is to be reached, and the processes that it is made of."""

    def __init__(self, host: str, port: int, workers: int) -> None:
        self.host = host
        self.port = port
        self.workers = workers

    @property
    def url(self) -> str:
        """For a browser, or a step, on this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104
        return f"http://[{host}]:{self.port}/" if ":" in host else f"http://{host}:{self.port}/"

    def children(self) -> list[Child]:
        environment = self._environment()
        return [
            Child(
                "web",
                self._manage("web", "--host", self.host, "--port", self.port),
                environment=environment,
                stop_seconds=WEB_STOP_SECONDS,
            ),
            Child(
                "worker",
                self._manage("worker", "--workers", self.workers),
                environment=environment,
                stop_seconds=conf.DRAIN_SECONDS + FORCE_AFTER_DRAIN_SECONDS + MARGIN_SECONDS,
            ),
        ]

    def _manage(self, *arguments: object) -> list[str]:
        return [sys.executable, str(Path(settings.BASE_DIR) / "manage.py"), *map(str, arguments)]

    def _environment(self) -> dict[str, str]:
        hosts = [os.environ.get("STEPSITE_HOSTS", ""), self.host]
        return {
            **os.environ,
            "STEPSITE_BASE_URL": os.environ.get("STEPSITE_BASE_URL") or self.url.rstrip("/"),
            "STEPSITE_HOSTS": ",".join(filter(None, hosts)),
        }


def free_port(host: str, port: int) -> int:
    """The port, if one can listen on it; for 0 one that the system chooses."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        # As the server does: a port whose last owner just ended is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise CommandError(
                    f"Port {port} of {host} is in use. Stop what listens there, or choose another "
                    f"port with --port."
                ) from error
            raise CommandError(f"Cannot listen on {host}:{port}: {error.strerror}.") from error
        return int(probe.getsockname()[1])


def _run(site: Site, administrator: Administrator | None, ready_fd: int | None) -> int:
    console = Console()
    supervisor = Supervisor(
        site.children(), say=lambda text: console.print(text, style="yellow", highlight=False)
    )
    if not supervisor.start():
        return supervisor.stop()
    console.print(_banner(site, administrator))
    if ready_fd is not None:
        with os.fdopen(ready_fd, "w") as file:
            file.write(f"{site.url}\n")
    return supervisor.run()


def _banner(site: Site, administrator: Administrator | None) -> Panel:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column()
    table.add_row("Open", f"[bold link={site.url}]{site.url}[/]")
    if administrator is None:
        table.add_row("Sign in", "with your account")
    elif administrator.password is None:
        table.add_row("Sign in", f"[bold]{administrator.name}[/], password as you chose it")
    else:
        table.add_row("Sign in", f"[bold]{administrator.name}[/]")
        table.add_row("Password", f"[bold]{administrator.password}[/]  (shown only now)")
    table.add_row("Stop", "Ctrl-C")
    return Panel(table, title="stepsite", border_style="green", expand=False, padding=(1, 3))
