"""The program that a worker starts for each Python step with `isolation="process"`."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandParser
from django.db import connections

from executions.engine import child
from steps.registry import registry


class Command(BaseCommand):
    help = "Run one Python step. Workers call this; it is of no use by hand."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("descriptor", type=int, help="of the channel to the worker")

    def handle(self, **given: Any) -> None:
        child.main(
            given["descriptor"], resolve=registry.get, connection_cleanup=connections.close_all
        )
