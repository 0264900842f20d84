"""`manage.py web`: serves the pages, the API and the sockets."""

from __future__ import annotations

import os
import threading
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from executions import lifeline

STOP_SECONDS = 5.0
"""For requests under way to end, once the supervisor is gone."""


class Command(BaseCommand):
    help = "Serve the site, until SIGTERM or Ctrl-C. Steps are executed by `manage.py worker`."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="default: %(default)s")
        parser.add_argument("--port", type=int, default=8000, help="default: %(default)s; 0: any")
        parser.add_argument(
            "--ready-fd",
            type=int,
            metavar="N",
            help="when it listens, write its port and a newline to descriptor N and close it",
        )

    def handle(self, *, host: str, port: int, ready_fd: int | None, **options: Any) -> None:
        # First, because it installs the reactor that anything of Twisted's then takes for given.
        from daphne.server import Server  # isort: skip
        from daphne.endpoints import build_endpoint_description_strings
        from twisted.internet import reactor

        from stepsite.asgi import application

        def say_ready() -> None:
            if ready_fd is not None and server.listening_addresses:
                with os.fdopen(ready_fd, "w") as ready:
                    ready.write(f"{server.listening_addresses[0][1]}\n")

        def stop() -> None:
            last_resort = threading.Timer(STOP_SECONDS, os._exit, [1])
            last_resort.daemon = True
            last_resort.start()
            reactor.callFromThread(server.stop)

        server = Server(
            application=application,
            endpoints=build_endpoint_description_strings(host=host, port=port),
            websocket_timeout=-1,
            # It listens before it handles signals; one that comes in between would just kill it.
            ready_callable=lambda: reactor.callWhenRunning(say_ready),
            proxy_forwarded_address_header="X-Forwarded-For" if _behind_proxy() else None,
            proxy_forwarded_proto_header="X-Forwarded-Proto" if _behind_proxy() else None,
            server_name="stepsite",
        )
        lifeline.watch(lifeline.take(), stop)
        server.run()
        if server.abort_start:
            raise CommandError(f"Cannot listen on {host}:{port}; see the message above.")


def _behind_proxy() -> bool:
    return bool(getattr(settings, "SECURE_PROXY_SSL_HEADER", None))
