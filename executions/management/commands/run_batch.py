"""Runs a batch from the command line."""

from __future__ import annotations

import json
import time
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser
from rich.console import Console
from rich.live import Live

from executions import actions, queries
from executions.actions import Actor
from executions.engine.plan import RunOptions
from executions.engine.status import RunStatus
from executions.models import Run
from executions.run_options import (
    ContextError,
    chosen_options,
    option_from_text,
    option_problems,
    read_context,
)
from executions.terminal import run_view
from steps.models import Batch
from steps.selection import SelectionError

SUCCEEDED, NOT_SUCCEEDED, USAGE, INTERRUPTED = 0, 1, 2, 130
LOOK_SECONDS = 0.1

COMMAND_LINE = Actor("command line")


class Command(BaseCommand):
    help = (
        "Run a batch. Exit code with --wait: 0 it succeeded, 1 it did not, 2 wrong usage, "
        "130 Ctrl-C, which cancels the run."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", help="slug of the batch")
        parser.add_argument("--context", help="a JSON object; default: the batch's own")
        parser.add_argument(
            "--steps", help="names of entries, separated by commas; default: all on"
        )
        parser.add_argument(
            "--option",
            action="append",
            default=[],
            metavar="KEY=VALUE",
            help="pool_width, failure_policy, pool_start or default_timeout_seconds",
        )
        parser.add_argument("--wait", action="store_true", help="show the run until it ends")
        parser.add_argument("--json", action="store_true", help="print JSON and nothing else")

    def handle(self, **given: Any) -> None:
        batch, context, names, options = self._parse(given)
        try:
            run = actions.start_run(
                batch, actor=COMMAND_LINE, context=context, names=names, options=options
            )
        except SelectionError as error:
            raise CommandError("\n".join(error.problems), returncode=USAGE) from error
        if not given["wait"]:
            self._print_started(run, as_json=given["json"])
            return
        try:
            self._watch(run, quiet=given["json"])
        except KeyboardInterrupt:
            actions.cancel_run(run.pk, actor=COMMAND_LINE, note="Ctrl-C")
            self._watch(run, quiet=given["json"])
            raise SystemExit(INTERRUPTED) from None
        finally:
            run.refresh_from_db()
        if given["json"]:
            self.stdout.write(json.dumps(queries.results(run.pk), indent=2))
        if run.status != RunStatus.SUCCEEDED:
            raise SystemExit(NOT_SUCCEEDED)

    def _parse(
        self, given: dict[str, Any]
    ) -> tuple[Batch, dict[str, Any] | None, list[str] | None, RunOptions]:
        batch = self._batch(given["slug"])
        try:
            context = None if given["context"] is None else read_context(given["context"])
        except ContextError as error:
            raise CommandError(str(error), returncode=USAGE) from error
        pairs = [pair.partition("=") for pair in given["option"]]
        options = {name: option_from_text(text) for name, _, text in pairs}
        if problems := option_problems(options):
            text = "\n".join(f"--option {name} {problem}." for name, problem in problems.items())
            raise CommandError(text, returncode=USAGE)
        names = None
        if given["steps"] is not None:
            names = [name.strip() for name in given["steps"].split(",")]
        return batch, context, names, chosen_options(options, actions.default_options(batch))

    def _batch(self, slug: str) -> Batch:
        try:
            return Batch.objects.get(slug=slug)
        except Batch.DoesNotExist:
            known = ", ".join(Batch.objects.values_list("slug", flat=True)) or "none"
            raise CommandError(
                f"There is no batch {slug!r}. Batches: {known}.", returncode=USAGE
            ) from None

    def _print_started(self, run: Run, *, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"id": run.pk, "url": run.get_absolute_url()}))
        else:
            self.stdout.write(f"Run {run.pk} of {run.batch_slug} waits for a worker.")

    def _watch(self, run: Run, *, quiet: bool) -> None:
        """Show the run until it ends."""
        console = Console(quiet=quiet)
        with Live(console=console, refresh_per_second=8) as live:
            while True:
                run.refresh_from_db()
                live.update(run_view(run))
                if run.is_final:
                    return
                time.sleep(LOOK_SECONDS)
