"""Sockets. They only tell: whoever wants something done sends a POST.

Before a handshake is accepted the user is known and has the right; while the socket is open both
are read from the database again and again.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine, Mapping
from importlib import import_module
from typing import Any
from urllib.parse import parse_qs

from channels.db import database_sync_to_async
from channels.exceptions import DenyConnection
from channels.generic.websocket import AsyncWebsocketConsumer
from django.conf import settings
from django.contrib import auth
from django.contrib.auth.models import AbstractBaseUser
from django.db import DatabaseError, InterfaceError
from django.utils.crypto import constant_time_compare

from .models import Run
from .permissions import VIEW_RUN
from .protocol import Close, read_ack
from .relay import Relay, current_relay
from .watches import Viewer

logger = logging.getLogger(__name__)

RECHECK_SECONDS = 30.0


class LiveConsumer(AsyncWebsocketConsumer):
    """A socket that tells a signed-in viewer what the relay has for it."""

    _relay: Relay
    _viewer: Viewer | None = None
    _tasks: tuple[asyncio.Task[None], ...] = ()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # also if the server cancels it without a word
            self._leave()

    async def dispatch(self, message: Mapping[str, Any]) -> None:
        # The base class would first hop through the one thread that all sockets share, to close
        # old connections; an acknowledgement must not wait for somebody's slow handshake.
        await getattr(self, message["type"].replace(".", "_"))(message)

    async def connect(self) -> None:
        try:
            reason = await database_sync_to_async(self._refusal)()
        except (DatabaseError, InterfaceError) as error:
            logger.warning("A live view cannot be opened: %s", str(error).partition("\n")[0])
            raise DenyConnection from error
        if reason is not None:
            raise DenyConnection
        await self.accept()
        self._relay = current_relay()
        self._viewer = self._join(self._relay)
        self._tasks = (self._begin(self._pump(self._viewer)), self._begin(self._recheck()))

    async def receive(self, text_data: str | None = None, bytes_data: bytes | None = None) -> None:
        number = read_ack(text_data)
        if self._viewer is None:
            return
        if number is None:
            await self._end(Close.BAD_MESSAGE)
        else:
            self._viewer.acknowledge(number)

    # ---- what the two sockets differ in

    def _join(self, relay: Relay) -> Viewer:
        raise NotImplementedError

    def _refusal(self) -> Close | None:
        """Why this socket may not be open, by the database as it is now."""
        user = _signed_in_user(self.scope["cookies"].get(settings.SESSION_COOKIE_NAME, ""))
        if user is None:
            return Close.SIGNED_OUT
        return None if _may_view(user) else Close.NO_ACCESS

    # ---- while it is open

    async def _pump(self, viewer: Viewer) -> None:
        while True:
            item = await viewer.outbox.get()
            if isinstance(item, Close):
                await self._end(item)
                return
            await self.send(text_data=item)

    async def _recheck(self) -> None:
        while True:
            await asyncio.sleep(RECHECK_SECONDS)
            try:
                reason = await database_sync_to_async(self._refusal)()
            except Exception as error:
                # Nothing is told while the database is away, so nothing is told wrongly.
                logger.warning("The rights of a viewer could not be read: %s", error)
                continue
            if reason is not None:
                await self._end(reason)
                return

    async def _end(self, code: Close) -> None:
        self._leave()
        await self.close(int(code))

    def _leave(self) -> None:
        if self._viewer is not None:
            self._relay.leave(self._viewer)
            self._viewer = None
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()

    def _begin(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(work)
        task.add_done_callback(_report)
        return task


class RunConsumer(LiveConsumer):
    """What changes in one run: `/ws/runs/ID/?after=N`."""

    def _join(self, relay: Relay) -> Viewer:
        return relay.watch_run(self._run_id, self._after or 0)

    def _refusal(self) -> Close | None:
        if reason := super()._refusal():
            return reason
        exists = self._after is not None and Run.objects.filter(pk=self._run_id).exists()
        return None if exists else Close.GONE

    @property
    def _run_id(self) -> int:
        run_id: int = self.scope["url_route"]["kwargs"]["run_id"]
        return run_id

    @property
    def _after(self) -> int | None:
        """The sequence that the client holds; None if it says something else."""
        query = parse_qs(self.scope["query_string"].decode("latin-1"), keep_blank_values=True)
        text = query.get("after", ["0"])[-1]
        is_number = text.isascii() and text.isdigit() and len(text) < 19
        return int(text) if is_number else None


class TableConsumer(LiveConsumer):
    """The table of active runs: `/ws/runs/`."""

    def _join(self, relay: Relay) -> Viewer:
        return relay.watch_table()


def _signed_in_user(session_key: str) -> AbstractBaseUser | None:
    """Whose session this is; None if it ended or the account is off. Never changes the session."""
    if not session_key:
        return None
    session = import_module(settings.SESSION_ENGINE).SessionStore(session_key)
    backend = session.get(auth.BACKEND_SESSION_KEY)
    if backend not in settings.AUTHENTICATION_BACKENDS:
        return None
    user: Any = auth.load_backend(backend).get_user(session[auth.SESSION_KEY])
    if user is None or not user.is_active:
        return None
    # A new password ends the sessions made under the old one.
    proof = session.get(auth.HASH_SESSION_KEY, "")
    hashes = (user.get_session_auth_hash(), *user.get_session_auth_fallback_hash())
    return user if any(constant_time_compare(proof, known) for known in hashes) else None


def _may_view(user: Any) -> bool:
    return bool(user.has_perm(VIEW_RUN))


def _report(task: asyncio.Task[None]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        logger.error("A live view ended with an error", exc_info=error)
