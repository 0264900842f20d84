"""`manage.py doctor`: what is right and what is wrong with this installation."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management.base import BaseCommand

from executions.diagnosis import Finding, Level, examine


class Command(BaseCommand):
    help = (
        "Look at database, broker, workers and settings; one line each, and how to mend what is "
        "wrong. Exit code 1 if anything is broken; warnings, such as that no worker is running, "
        "count only with --strict."
    )
    # It must also speak when the checks would not let it.
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--strict", action="store_true", help="exit with 1 on warnings as well")

    def handle(self, *, strict: bool, **options: Any) -> None:
        findings = []
        for finding in examine():
            findings.append(finding)
            self._print(finding)
        bad = {Level.BROKEN, Level.WARNING} if strict else {Level.BROKEN}
        if any(finding.level in bad for finding in findings):
            sys.exit(1)

    def _print(self, finding: Finding) -> None:
        style = {
            Level.GOOD: self.style.SUCCESS,
            Level.WARNING: self.style.WARNING,
            Level.BROKEN: self.style.ERROR,
        }[finding.level]
        label = style(f"{finding.level:8}")
        self.stdout.write(f"{label} {finding.subject:13} {finding.text}")
        if finding.remedy:
            self.stdout.write(f"{'':9}{'':13} → {finding.remedy}")
