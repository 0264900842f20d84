"""Finds runs whose holder died and hints that were lost, and brings both back on their way."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError, InterfaceError, connection

from . import dispatch, transitions
from .engine import trees
from .engine.executors import step_key_prefix
from .identity import ProcessIdentity
from .models import Run

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 20.0
"""How long the same beat must have been read before a holder that may live counts as lost."""
LATE_SECONDS = 5.0
"""Between two sweeps. After a longer pause of its own the rescuer knows nothing of the others'."""
HINT_AGAIN_SECONDS = 10.0
"""After which a run that still waits is hinted again."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """The beat of a run and when, by this process's own clock, it was first read."""

    epoch: int
    beat: int
    since: float


class Rescuer:
    """Looks after all runs of the database. Call `sweep` about once a second."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._sightings: dict[int, Sighting] = {}
        self._swept_at = clock()
        self._is_first = True

    def sweep(self) -> None:
        """One round. A failing database raises; beats then have to be observed afresh.

        So do they after a late round: what held up this process may have held up all of them.
        """
        now = self._clock()
        if now - self._swept_at > LATE_SECONDS:
            self._sightings.clear()
        self._swept_at = now
        try:
            self._rescue_dead()
            self._hint_waiting()
        except Exception:
            self._sightings.clear()
            raise

    def _rescue_dead(self) -> None:
        held = list(Run.objects.running().values_list("pk", "holder", "epoch", "beat"))
        self._sightings = {
            pk: self._sight(self._sightings.get(pk), epoch, beat) for pk, _, epoch, beat in held
        }
        for pk, holder, epoch, beat in held:
            try:
                self._look_after(pk, holder, epoch, beat)
            except (DatabaseError, InterfaceError):
                raise
            except Exception:
                # One run that cannot be rescued must not keep the others from it.
                logger.exception("run %s: could not be looked after", pk)

    def _look_after(self, pk: int, holder: str, epoch: int, beat: int) -> None:
        identity = ProcessIdentity.parse(holder)
        if _is_dead(identity):
            # What it ran outlives it until its reaper is done: nothing may start beside that.
            left = trees.are_left(step_key_prefix(pk, identity.pid))
            if not left or self._is_silent(pk):
                self._rescue(pk, epoch, beat, proven=not left)
        elif self._is_silent(pk):
            if identity.is_below(os.getpid()):
                # A step that never lets go of the interpreter does that. Its death is proof.
                logger.warning("run %s: process %s does not beat; killed", pk, identity.pid)
                with suppress(ProcessLookupError):
                    os.kill(identity.pid, signal.SIGKILL)
            else:
                self._rescue(pk, epoch, beat, proven=False)

    def _sight(self, seen: Sighting | None, epoch: int, beat: int) -> Sighting:
        if seen and (seen.epoch, seen.beat) == (epoch, beat):
            return seen
        return Sighting(epoch, beat, self._clock())

    def _is_silent(self, pk: int) -> bool:
        return self._clock() - self._sightings[pk].since >= SILENCE_SECONDS

    def _rescue(self, pk: int, epoch: int, beat: int, *, proven: bool) -> None:
        if transitions.rescue_run(pk, epoch=epoch, beat=beat, proven=proven):
            logger.warning(
                "run %s: rescued from a worker that %s", pk, "died" if proven else "is lost"
            )
            if Run.objects.queued().filter(pk=pk).exists():
                dispatch.hint(pk)

    def _hint_waiting(self) -> None:
        """Hint what waits and has no hint under way; one too many does no harm.

        The first time everything: hints that an earlier worker took went down with it.
        """
        age = 0.0 if self._is_first else HINT_AGAIN_SECONDS
        overdue = transitions.overdue_hints(timedelta(seconds=age))
        if overdue and dispatch.queue_is_empty():
            for pk in overdue:
                if transitions.mark_hinted(pk, age=timedelta(seconds=age)):
                    dispatch.hint(pk)
        self._is_first = False


def _is_dead(identity: ProcessIdentity) -> bool:
    """Whether the process is proven dead.

    A database in a file is used by one machine, so there an earlier boot is a proof, too.
    """
    if connection.vendor == "sqlite" and identity.is_of_another_boot:
        return True
    return identity.is_proven_dead
