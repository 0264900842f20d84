"""The queue of hints: who starts a run puts one in, a worker takes it out.

A hint says "run 7 may have work". It is removed before anybody acts on it, so it never comes
twice by itself and nothing piles up; one that is lost with its worker is sent again by rescue.
"""

from __future__ import annotations

import datetime
import json
import logging
import time
from collections.abc import Callable
from functools import cache
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import DatabaseError, InterfaceError, connections
from django.utils import timezone
from django.utils.functional import Promise
from django_q import signing
from django_q.brokers import Broker
from django_q.conf import Conf
from django_q.models import OrmQ
from django_q.signing import BadSignature
from django_q.status import Stat

from .engine import crash_points

logger = logging.getLogger(__name__)

OUTAGE_PAUSE_SECONDS = 1.0
"""Between two tries while the database or Redis does not answer."""
REDIS_TIMEOUT_SECONDS = 1.0
"""A request that starts a run waits no longer than this for a Redis that is gone."""


class JsonSerializer:
    """The body of a signed message. Unpickling would let whoever knows the key run any code."""

    def dumps(self, package: Any) -> bytes:
        return json.dumps(package, default=_to_json, separators=(",", ":")).encode()

    def loads(self, data: bytes) -> Any:
        try:
            return json.loads(data, object_hook=_from_json)
        except ValueError as error:
            # The one error upon which django-q2 drops a message instead of stumbling over it.
            raise BadSignature(f"The message is no JSON: {error}") from error


def _to_json(value: Any) -> Any:
    if isinstance(value, datetime.datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, Stat):
        return value.__getstate__()
    if isinstance(value, UUID | Promise):
        return str(value)
    raise TypeError(f"A message cannot hold {type(value).__name__} {value!r}: only JSON and times.")


def _from_json(value: dict[str, Any]) -> Any:
    if value.keys() == {"$time"}:
        return datetime.datetime.fromisoformat(value["$time"])
    return value


# `SignedPackage` looks the name up at each call. Whoever sends or takes hints imports this module.
signing.PickleSerializer = JsonSerializer


class HintBroker(Broker):  # type: ignore[misc]
    """A queue that asks before it takes a hint, and outlives an outage of what it is kept in."""

    outages: tuple[type[Exception], ...] = ()
    """What is raised while the store of the queue does not answer."""
    may_take: Callable[[], bool] | None = None
    """Whether a worker is free; without it every hint is taken at once."""
    on_take: Callable[[], None] | None = None
    _is_out = False

    def dequeue(self) -> list[tuple[None, str | bytes]] | None:
        """At most one hint; waits a moment if there is none. Nothing to acknowledge later."""
        if self.may_take is not None and not self.may_take():
            time.sleep(Conf.POLL)
            return None
        try:
            payload = self._take()
            self._is_out = False
        except self.outages as error:
            if not self._is_out:
                logger.warning("The queue does not answer; trying until it does: %s", error)
            self._is_out = True
            self._reset()
            time.sleep(OUTAGE_PAUSE_SECONDS)
            return None
        if payload is None:
            return None
        crash_points.passing("hint_taken")
        if self.on_take is not None:
            self.on_take()
        return [(None, payload)]

    def set_stat(self, key: str, value: str, timeout: int) -> None:
        """Nothing: the Worker table says which workers live."""

    def _take(self) -> str | bytes | None:
        raise NotImplementedError

    def _reset(self) -> None:
        """Forget a connection that failed."""


class DatabaseBroker(HintBroker):
    """Hints in a table of the site's own database."""

    outages = (DatabaseError, InterfaceError)

    def enqueue(self, task: str) -> int:
        row = OrmQ.objects.using(Conf.ORM).create(
            key=self.list_key, payload=task, lock=timezone.now()
        )
        return int(row.pk)

    def _take(self) -> str | None:
        # Raw, because a worker asks this all day: 10 instead of 200 microseconds.
        with connections[Conf.ORM].cursor() as cursor:
            cursor.execute(
                'SELECT id, payload FROM django_q_ormq WHERE "key" = %s ORDER BY id LIMIT 1',
                [self.list_key],
            )
            row = cursor.fetchone()
        if row is None:
            time.sleep(Conf.POLL)
            return None
        taken, _ = OrmQ.objects.using(Conf.ORM).filter(pk=row[0]).delete()
        return row[1] if taken else None

    def _reset(self) -> None:
        connections[Conf.ORM].close()

    def queue_size(self) -> int:
        return int(OrmQ.objects.using(Conf.ORM).filter(key=self.list_key).count())

    def lock_size(self) -> int:
        return 0

    def purge_queue(self) -> int:
        return int(OrmQ.objects.using(Conf.ORM).filter(key=self.list_key).delete()[0])

    def ping(self) -> bool:
        return True

    def info(self) -> str:
        return "database"


class RedisBroker(HintBroker):
    """Hints in a list of a Redis server."""

    def __init__(self, list_key: str | None = None) -> None:
        import redis  # an optional dependency

        self.outages = (redis.RedisError,)
        super().__init__(f"stepsite:{list_key or Conf.CLUSTER_NAME}:hints")
        # The wait in `_take` is no silence of the server, so it takes another client.
        self._waiting = _redis_client(silence_seconds=2 * REDIS_TIMEOUT_SECONDS)

    @staticmethod
    def get_connection(list_key: str | None = None) -> Any:
        return _redis_client(silence_seconds=REDIS_TIMEOUT_SECONDS)

    def enqueue(self, task: str) -> int:
        return int(self.connection.rpush(self.list_key, task))

    def _take(self) -> bytes | None:
        found = self._waiting.blpop([self.list_key], timeout=REDIS_TIMEOUT_SECONDS)
        return found[1] if found else None

    def queue_size(self) -> int:
        return int(self.connection.llen(self.list_key))

    def lock_size(self) -> int:
        return 0

    def purge_queue(self) -> int:
        return int(self.connection.delete(self.list_key))

    def ping(self) -> bool:
        try:
            return bool(self.connection.ping())
        except self.outages:
            return False

    def info(self) -> str:
        return "Redis"


def _redis_client(*, silence_seconds: float) -> Any:
    from redis import Redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    return Redis.from_url(
        Conf.REDIS,
        socket_connect_timeout=REDIS_TIMEOUT_SECONDS,
        socket_timeout=silence_seconds,
        retry=Retry(NoBackoff(), 0),
    )


@cache
def broker() -> DatabaseBroker | RedisBroker:
    """The queue of this installation; one object, and so one connection, per process."""
    return RedisBroker() if settings.REDIS_URL else DatabaseBroker()
