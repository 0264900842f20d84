"""Lists what runs and what waits."""

from __future__ import annotations

import json
from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from rich.console import Console
from rich.table import Table
from rich.text import Text

from executions import queries
from executions.models import Run


class Command(BaseCommand):
    help = "List the runs that are running or waiting."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, **given: Any) -> None:
        runs = queries.run_objects(list(Run.objects.active().order_by("pk")))
        if given["json"]:
            self.stdout.write(json.dumps(runs, indent=2))
            return
        if not runs:
            self.stdout.write("Nothing runs and nothing waits.")
            return
        table = Table("run", "batch", "status", "steps", "by", "waits for")
        for run in runs:
            done = run["total"] - run["counts"]["pending"] - run["counts"]["running"]
            status = "cancelling" if run["cancel_requested_at"] else run["status"]
            table.add_row(
                str(run["id"]),
                Text(run["batch"]["slug"]),
                status,
                f"{done}/{run['total']}",
                Text(run["triggered_by"]),
                Text(run["waiting"]),
            )
        Console(file=self.stdout).print(table)  # type: ignore[arg-type]
