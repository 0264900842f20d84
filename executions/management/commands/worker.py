"""`manage.py worker`: executes runs, until it is told to stop."""

from __future__ import annotations

import os
import signal
import sys
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, OperationalError, connection
from django.db.migrations.executor import MigrationExecutor

import executions.worker  # loaded once, before the fork, not in every process
from executions import cluster, lifeline
from executions.engine.masking import Masker, mask_writes
from executions.registration import Registration
from executions.supervisor import AWAY_CODE
from steps.sync import sync_steps


class Command(BaseCommand):
    help = (
        "Execute runs. The first SIGTERM or Ctrl-C lets running steps go on for DRAIN_SECONDS and "
        "hands back what is left, the second ends at once. Exit codes: 0 ended as told, 3 the "
        "cluster broke and should be started again, 4 ended by force, 75 the database is away."
    )
    # Some need the database, whose troubles are told below.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--workers",
            type=int,
            default=settings.Q_CLUSTER["workers"],
            metavar="N",
            help="how many runs it executes at once (default: %(default)s)",
        )
        parser.add_argument(
            "--ready-fd",
            type=int,
            metavar="N",
            help="when it waits for runs, write a newline to descriptor N and close it",
        )

    def handle(self, *, workers: int, ready_fd: int | None, **options: Any) -> None:
        if workers < 1:
            raise CommandError(f"--workers {workers}: a worker executes at least 1 run at once.")
        try:
            self.check()
            _refuse_old_tables()
            sync_steps()
        except DatabaseError as error:
            code = AWAY_CODE if isinstance(error, OperationalError) else 1
            raise CommandError(f"The database cannot be used: {error}", returncode=code) from error
        # A step may print a secret, or log it, without `ctx`: that ends here.
        masker = Masker(executions.worker.secrets())
        for stream in (sys.stdout, sys.stderr):
            mask_writes(stream, masker)
        line = lifeline.take()
        registration = Registration(slots=workers)

        def begin() -> None:
            registration.start()
            lifeline.watch(line, lambda: os.kill(os.getpid(), signal.SIGTERM))
            if ready_fd is not None:
                os.write(ready_fd, b"\n")
                os.close(ready_fd)

        code = cluster.run(workers, once_forked=begin)
        registration.end()
        sys.exit(code)


def _refuse_old_tables() -> None:
    executor = MigrationExecutor(connection)
    if executor.migration_plan(executor.loader.graph.leaf_nodes()):
        raise CommandError("The database does not have all migrations. Run: manage.py migrate")
