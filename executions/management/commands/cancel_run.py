"""Cancels a run, one of its steps, or everything."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from executions import actions
from executions.actions import Actor, ProtectedError
from executions.models import CancelMode, Run

COMMAND_LINE = Actor("command line")
USAGE = 2


class Command(BaseCommand):
    help = "Cancel a run (or, with --step, one step of it; or, with --all, every active run)."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("id", type=int, nargs="?", help="number of the run")
        parser.add_argument("--step", help="name of the entry to cancel; the run goes on")
        parser.add_argument("--all", action="store_true", help="cancel every active run")
        parser.add_argument("--drain", action="store_true", help="let running steps finish")
        parser.add_argument("--note", default="", help="why; kept with the run")

    def handle(self, **given: Any) -> None:
        if (given["id"] is None) == (not given["all"]):
            raise CommandError("Name one run, or --all.", returncode=USAGE)
        if given["all"]:
            ids = actions.cancel_all(actor=COMMAND_LINE, note=given["note"])
            self.stdout.write(f"Cancelled: {', '.join(map(str, ids)) or 'nothing was active'}.")
            return
        run = Run.objects.filter(pk=given["id"]).first()
        if run is None:
            raise CommandError(f"There is no run {given['id']}.", returncode=USAGE)
        result = self._cancel(run, given)
        what = f"step {given['step']} of run {run.pk}" if given["step"] else f"run {run.pk}"
        if result == "already_final":
            self.stdout.write(f"{what} has already ended.".capitalize())
        else:
            self.stdout.write(f"{what}: {result}.".capitalize())

    def _cancel(self, run: Run, given: dict[str, Any]) -> str:
        if not given["step"]:
            mode = CancelMode.DRAIN if given["drain"] else CancelMode.STOP
            return actions.cancel_run(run.pk, actor=COMMAND_LINE, note=given["note"], mode=mode)
        step_run = run.step_runs.filter(name=given["step"]).first()
        if step_run is None:
            raise CommandError(f"Run {run.pk} has no step {given['step']!r}.", returncode=USAGE)
        try:
            return actions.cancel_step(step_run.pk, actor=COMMAND_LINE, note=given["note"])
        except ProtectedError as error:
            raise CommandError(str(error)) from error
