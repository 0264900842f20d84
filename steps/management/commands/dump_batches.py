"""Write steps, batches and rules as YAML."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError

from steps.definitions import UnknownBatch, dump


class Command(BaseCommand):
    help = "Write steps, batches and rules as YAML that load_batches reads."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "slugs",
            nargs="*",
            metavar="SLUG",
            help="only these batches and their steps, without the rules; default: everything",
        )
        parser.add_argument("--output", metavar="FILE", help="write there, not to stdout")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            text = dump(options["slugs"] or None)
        except UnknownBatch as error:
            raise CommandError(str(error)) from None
        if not options["output"]:
            self.stdout.write(text, ending="")
            return
        try:
            Path(options["output"]).write_text(text, encoding="utf-8")
        except OSError as error:
            raise CommandError(f"{options['output']}: {error.strerror or error}") from None
