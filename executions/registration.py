"""The entry of this worker in the table of workers, and the rescue rounds beside it."""

from __future__ import annotations

import logging
import socket
import threading
import time

from django.db import DatabaseError, InterfaceError, close_old_connections, connection
from django.utils import timezone

from . import cluster
from .engine import crash_points
from .identity import process_identity
from .models import Worker
from .rescue import Rescuer

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 1.0
SEEN_SECONDS = 2.0


class Registration(threading.Thread):
    """A thread that says that this worker lives and looks after the runs of those that do not.

    Start it after the fork. An outage of the database only makes it try again.
    """

    def __init__(self, *, slots: int) -> None:
        super().__init__(name="registration", daemon=True)
        self._slots = slots
        self._process = process_identity()
        self._rescuer = Rescuer()
        self._ended = threading.Event()
        self._seen_at = float("-inf")
        self._failing = False

    def run(self) -> None:
        while not self._ended.is_set():
            self._round()
            self._ended.wait(SWEEP_SECONDS)
        connection.close()

    def end(self) -> None:
        """Sign off; to be called once the cluster has ended."""
        self._ended.set()
        if self.ident is None:
            return
        self.join(timeout=SEEN_SECONDS)
        try:
            Worker.objects.filter(process=self._process).update(stopped_at=timezone.now())
        except Exception as error:
            logger.warning("The end of this worker could not be recorded: %s", error)
        connection.close()

    def _round(self) -> None:
        try:
            close_old_connections()
            if time.monotonic() - self._seen_at >= SEEN_SECONDS:
                self._say_seen()
                self._seen_at = time.monotonic()
            if not cluster.stopping():
                self._rescuer.sweep()
            self._failing = False
        except Exception as error:
            if not self._failing:
                outage = isinstance(error, DatabaseError | InterfaceError)
                text = "This worker could not look after runs; it tries again every second: %s"
                logger.warning(text, str(error).strip(), exc_info=None if outage else error)
            self._failing = True
            self._free_database()
            connection.close()

    def _free_database(self) -> None:
        try:
            self._rescuer.free_database()
        except Exception as error:  # this thread outlives whatever it meets
            logger.debug("nothing can be read either: %s", error)

    def _say_seen(self) -> None:
        seen = {"seen_at": timezone.now(), "kill_level": cluster.promised_kill_level()}
        if not Worker.objects.filter(process=self._process).update(**seen):
            Worker.objects.create(
                process=self._process, host=socket.gethostname()[:100], slots=self._slots, **seen
            )
            crash_points.passing("worker_registered")
        crash_points.passing("worker_seen")
