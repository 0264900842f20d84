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

from . import dispatch, file_lock, transitions
from .engine import trees
from .engine.executors import step_key_prefix
from .engine.reaper import Sweep
from .engine.reaper import end as end_sweep
from .identity import ProcessIdentity, process_identity
from .models import Run

logger = logging.getLogger(__name__)

SILENCE_SECONDS = 20.0
"""How long the same beat must have been read before a holder that may live counts as lost."""
LATE_SECONDS = 5.0
"""Between two sweeps. After a longer pause of its own the rescuer knows nothing of the others'."""
HINT_AGAIN_SECONDS = 3.0
"""After which a run that could be claimed and still waits is hinted again."""
REAPER_SECONDS = 5.0
"""After which what a dead process left is ended here: its reaper must be dead as well."""


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
        self._blocker: tuple[int, dict[int, int]] = (0, {})
        self._blocked_since = clock()
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
            prefix = step_key_prefix(pk, identity.pid)
            left = trees.keys_left(prefix)
            # With the pid used again the keys may be those of another site on this host.
            if left and identity.is_gone and self._is_silent(pk, REAPER_SECONDS):
                logger.warning("run %s: ends what its dead worker left: %s", pk, sorted(left))
                end_sweep(Sweep(keys=left), give_up_seconds=2.0)
                left = trees.keys_left(prefix)
            if not left or self._is_silent(pk):
                self._rescue(pk, epoch, beat, proven=not left)
        elif self._is_silent(pk):
            if identity.is_below(os.getpid()):
                # A step that never lets go of the interpreter does that. Its death is proof.
                _end(identity.pid, f"run {pk}: process {identity.pid} does not beat")
            else:
                self._rescue(pk, epoch, beat, proven=False)

    def free_database(self) -> None:
        """End a process of this worker that stands still in the middle of a transaction.

        To be called whenever a write failed. Nobody can write until that process ends, so this
        cannot wait for a sweep, and who else holds a database in a file is left alone.
        """
        pid = file_lock.holder()
        identity = process_identity(pid) if pid else ""
        held = Run.objects.running().filter(holder=identity).values_list("pk", "beat")
        blocker = pid, dict(held)
        if blocker != self._blocker:
            self._blocker, self._blocked_since = blocker, self._clock()
            return
        is_still = bool(held) and self._clock() - self._blocked_since >= SILENCE_SECONDS
        if is_still and ProcessIdentity.parse(identity).is_below(os.getpid()):
            _end(pid, f"process {pid} does not let go of the database")

    def _sight(self, seen: Sighting | None, epoch: int, beat: int) -> Sighting:
        if seen and (seen.epoch, seen.beat) == (epoch, beat):
            return seen
        return Sighting(epoch, beat, self._clock())

    def _is_silent(self, pk: int, seconds: float = SILENCE_SECONDS) -> bool:
        return self._clock() - self._sightings[pk].since >= seconds

    def _rescue(self, pk: int, epoch: int, beat: int, *, proven: bool) -> None:
        # Who holds the row now will let go of it, or of life; the others need not wait for that.
        if transitions.rescue_run(pk, epoch=epoch, beat=beat, proven=proven, waits=False):
            logger.warning(
                "run %s: rescued from a worker that %s", pk, "died" if proven else "is lost"
            )
            if Run.objects.queued().filter(pk=pk).exists():
                dispatch.hint(pk)

    def _hint_waiting(self) -> None:
        """Hint what waits and has no hint under way; one too many does no harm.

        The first time everything: hints that an earlier worker took went down with it.
        """
        age = timedelta(seconds=0.0 if self._is_first else HINT_AGAIN_SECONDS)
        overdue = transitions.overdue_hints(age)
        if overdue and not dispatch.queue_is_empty():
            return
        for pk in overdue:
            if transitions.mark_hinted(pk, age=age):
                dispatch.hint(pk)
        self._is_first = False


def _end(pid: int, why: str) -> None:
    logger.warning("%s; killed", why)
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _is_dead(identity: ProcessIdentity) -> bool:
    """Whether the process is proven dead.

    A database in a file is used by one machine, so there an earlier boot is a proof, too.
    """
    if connection.vendor == "sqlite" and identity.is_of_another_boot:
        return True
    return identity.is_proven_dead
