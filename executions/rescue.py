"""Finds runs whose holder died and hints that were lost, and brings both back on their way."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from django.db import DatabaseError, InterfaceError
from django.utils import timezone

from . import dispatch, transitions
from .engine import trees
from .engine.executors import step_key_prefix
from .identity import ProcessIdentity
from .models import Run

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 20.0
"""How long the same beat must have been read before a holder on another host counts as lost."""
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
        self._is_first = True

    def sweep(self) -> None:
        """One round. A failing database raises; beats then have to be observed afresh."""
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
        if identity.is_proven_dead:
            # What it ran outlives it until its reaper is done: nothing may start beside that.
            left = trees.are_left(step_key_prefix(pk, identity.pid))
            if not left or self._is_silent(pk):
                self._rescue(pk, epoch, beat, proven=not left)
        elif not identity.is_local and self._is_silent(pk):
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
        before = timezone.now() - timedelta(seconds=age)
        waiting = Run.objects.queued().order_by("pk").values_list("pk", "hinted_at")
        overdue = [pk for pk, hinted_at in waiting if hinted_at is None or hinted_at < before]
        if overdue and dispatch.queue_is_empty():
            for pk in overdue:
                if transitions.mark_hinted(pk, before=before):
                    dispatch.hint(pk)
        self._is_first = False
