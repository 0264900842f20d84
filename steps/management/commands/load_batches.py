"""Bring steps, batches and rules in from YAML files."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from steps.definitions import DefinitionError, load


class Command(BaseCommand):
    help = "Load steps, batches and rules from YAML files. A bad file changes nothing."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("files", nargs="+", metavar="FILE", help="a YAML file; - reads stdin")
        parser.add_argument(
            "--check", action="store_true", help="only say what would change, and change nothing"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        reports = []
        # Together: a bad file must not leave the others half of the work done.
        with transaction.atomic():
            for file in options["files"]:
                reports.append(self._load(file))
            transaction.set_rollback(options["check"])
        would = "would be: " if options["check"] else ""
        for file, report in zip(options["files"], reports, strict=True):
            self.stdout.write(f"{file}: {would}{report}")

    def _load(self, file: str) -> str:
        try:
            text = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
            return str(load(text))
        except OSError as error:
            raise CommandError(f"{file}: {error.strerror or error}") from None
        except DefinitionError as error:
            lines = "\n".join(f"{file}: {problem}" for problem in error.problems)
            count = len(error.problems)
            errors = "1 error" if count == 1 else f"{count} errors"
            raise CommandError(f"{errors}; nothing was changed.\n{lines}") from None
