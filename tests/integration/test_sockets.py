"""Sockets from the handshake to the close: who may open one, what it says, when it ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from channels.testing import WebsocketCommunicator
from django.conf import settings as django_settings
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client

from executions import consumers, queries, relay, watches
from executions.consumers import LiveConsumer
from executions.models import Run
from executions.permissions import VIEW_RUN
from executions.protocol import Close
from executions.routing import sockets, urlpatterns
from tests.factories import end_run, end_steps, make_run, make_user, start_steps
from tests.waiting import DEADLINE, in_database, until

pytestmark = pytest.mark.django_db(transaction=True)

HOST = "testserver"
ORIGIN = f"http://{HOST}"


def sign_in(name: str = "vera", *permissions: str) -> tuple[User, str]:
    """A new user and the key of a session of theirs."""
    user = make_user(name, *permissions)
    client = Client()
    client.force_login(user)
    return user, client.cookies[django_settings.SESSION_COOKIE_NAME].value


def communicator(
    path: str, session: str = "", *, origin: str | None = ORIGIN, host: str = HOST, **extra: str
) -> WebsocketCommunicator:
    headers = [(b"host", host.encode())]
    if origin is not None:
        headers.append((b"origin", origin.encode()))
    if session:
        headers.append((b"cookie", f"sessionid={session}".encode()))
    headers += [(name.replace("_", "-").encode(), value.encode()) for name, value in extra.items()]
    return WebsocketCommunicator(sockets, path, headers)


async def is_accepted(socket: WebsocketCommunicator) -> bool:
    accepted, _ = await socket.connect(timeout=DEADLINE)
    await socket.disconnect(timeout=DEADLINE)
    return bool(accepted)


@asynccontextmanager
async def opened(path: str, session: str) -> AsyncIterator[WebsocketCommunicator]:
    socket = communicator(path, session)
    accepted, _ = await socket.connect(timeout=DEADLINE)
    assert accepted
    try:
        yield socket
    finally:
        await socket.disconnect(timeout=DEADLINE)


async def receive(socket: WebsocketCommunicator) -> Any:
    """The next frame that is no beat, or the close code."""
    async with asyncio.timeout(DEADLINE):
        while True:
            # receive_output() would end the application on its time-out.
            while await socket.receive_nothing(timeout=0.01):
                pass
            message = await socket.receive_output(timeout=DEADLINE)
            if message["type"] == "websocket.close":
                return message["code"]
            frame = json.loads(message["text"])
            if frame["type"] != "beat":
                return frame


async def acknowledge(socket: WebsocketCommunicator, frame: Any) -> None:
    await socket.send_json_to({"ack": frame["to"]})


# ---- the handshake ------------------------------------------------------------------------------


async def test_a_viewer_may_watch() -> None:
    """With the right to see runs, from the site's own pages."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    assert await is_accepted(communicator(f"/ws/runs/{run.pk}/?after=1", session))
    assert await is_accepted(communicator("/ws/runs/", session))


@pytest.mark.parametrize("pattern", urlpatterns, ids=str)
async def test_anonymous_sockets_are_refused_everywhere(pattern: Any) -> None:
    """Every address that is routed, so that a new one cannot forget it."""
    run = await in_database(make_run)
    path = "/" + str(pattern.pattern).replace("<int:run_id>", str(run.pk))
    assert not await is_accepted(communicator(path))
    assert not await is_accepted(communicator(path, "a" * 32))


def test_every_consumer_checks_before_it_accepts() -> None:
    """Whatever is routed either refuses always or is a LiveConsumer with its check."""
    classes = [pattern.callback.consumer_class for pattern in urlpatterns]
    assert classes[-1].__name__ == "WebsocketDenier"
    assert all(issubclass(item, LiveConsumer) for item in classes[:-1])
    assert all(item.connect is LiveConsumer.connect for item in classes[:-1])


async def test_without_the_right_a_socket_is_refused() -> None:
    """Also for somebody who is signed in."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in)
    assert not await is_accepted(communicator(f"/ws/runs/{run.pk}/", session))
    assert not await is_accepted(communicator("/ws/runs/", session))


@pytest.mark.parametrize(
    "path",
    [
        "/ws/runs/{unknown}/",
        "/ws/runs/99999999999999999999999/",
        "/ws/runs/{run}/?after=x",
        "/ws/runs/{run}/?after=-1",
        "/ws/runs/{run}/?after=",
        "/ws/runs/{run}/?after=99999999999999999999",
        "/ws/",
        "/",
    ],
)
async def test_what_does_not_exist_is_refused(path: str) -> None:
    """Without a traceback."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    path = path.format(run=run.pk, unknown=run.pk + 1)
    assert not await is_accepted(communicator(path, session))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (None, HOST),
        ("null", HOST),
        ("", HOST),
        ("http://evil.example", HOST),
        ("http://testserver:8000", HOST),
        ("https://testserver", HOST),
        ("ftp://testserver", HOST),
        ("http://sub.testserver", HOST),
        ("http://testserver.evil.example", HOST),
        ("http://testserver@evil.example", HOST),
        ("http://vera@testserver", HOST),
        ("http://testserver/page", HOST),
        ("http://testserver:99999999", HOST),
        ("http://[", HOST),
        ("http://evil.example", "evil.example"),
        (ORIGIN, "evil.example"),
        (ORIGIN, "testserver, evil.example"),
        ("http://testserver:8000", "testserver:8001"),
    ],
)
async def test_foreign_origins_are_refused(origin: str | None, host: str) -> None:
    """A browser would send the session's cookie along, so the page itself is asked for."""
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    assert not await is_accepted(communicator("/ws/runs/", session, origin=origin, host=host))


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        (ORIGIN, HOST),
        (ORIGIN, "testserver:80"),
        ("http://TestServer", HOST),
        ("http://testserver:8000", "testserver:8000"),
        ("https://front.example", HOST),
        ("https://a.wild.example:8443", HOST),
    ],
)
async def test_own_and_trusted_origins_are_accepted(origin: str, host: str, settings: Any) -> None:
    """The request's own, or one of CSRF_TRUSTED_ORIGINS."""
    settings.CSRF_TRUSTED_ORIGINS = ["https://front.example", "https://*.wild.example:8443"]
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    assert await is_accepted(communicator("/ws/runs/", session, origin=origin, host=host))


async def test_behind_a_proxy_the_scheme_is_the_browsers(settings: Any) -> None:
    """Only where the settings say that the proxy's header can be believed."""
    _, session = await in_database(sign_in, "vera", VIEW_RUN)

    def from_proxy() -> WebsocketCommunicator:
        return communicator(
            "/ws/runs/", session, origin="https://testserver", x_forwarded_proto="https"
        )

    assert not await is_accepted(from_proxy())
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    assert await is_accepted(from_proxy())


# ---- what it says -------------------------------------------------------------------------------


async def test_a_run_is_told_to_its_end() -> None:
    """Each change once, from where the client stands."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/?after={run.sequence}", session) as socket:
        to = await in_database(start_steps, run, [0])
        frame = await receive(socket)
        assert (frame["type"], frame["from"], frame["to"]) == ("changes", run.sequence, to)
        await acknowledge(socket, frame)
        await in_database(end_run, run)
        frame = await receive(socket)
        assert frame["run"]["status"] == "succeeded"


async def test_a_reconnect_loses_and_doubles_nothing() -> None:
    """The last `to` is where the next socket goes on, also after changes in between."""
    run = await in_database(make_run, 8)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    snapshot = await in_database(queries.snapshot, run.pk)
    columns = snapshot["columns"]
    steps = {row[0]: dict(zip(columns, row, strict=True)) for row in snapshot["steps"]}
    held, told = snapshot["to"], []
    for position in range(8):
        await in_database(start_steps, run, [position])
        await in_database(end_steps, run, [(position + 3) % 8] if position > 4 else [])
        async with opened(f"/ws/runs/{run.pk}/?after={held}", session) as socket:
            frame = await receive(socket)
            assert frame["from"] == held
            for row in frame["steps"]:
                steps[row[0]] |= dict(zip(frame["columns"], row, strict=True))
                told.append((row[0], row[1]))
            held = frame["to"]
    assert len(told) == len(set(told))
    fresh = await in_database(queries.snapshot, run.pk)
    assert [list(step.values()) for step in steps.values()] == fresh["steps"]
    assert held == fresh["to"]


async def test_the_dashboard_is_told_of_new_runs() -> None:
    """The table comes at once, and again when it changed."""
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened("/ws/runs/", session) as socket:
        first = await receive(socket)
        assert (first["type"], first["n"], first["runs"]) == ("runs", 1, [])
        await socket.send_json_to({"ack": first["n"]})
        run = await in_database(make_run)
        second = await receive(socket)
        assert [item["id"] for item in second["runs"]] == [run.pk]


# ---- how it ends --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "message",
    [
        {"text_data": "hello"},
        {"text_data": '{"cancel": 1}'},
        {"text_data": '{"ack": -1}'},
        {"text_data": '{"ack": 1, "x": 2}'},
        {"text_data": '{"ack": 1}' + " " * 5000},
        {"bytes_data": b'{"ack": 1}'},
    ],
)
async def test_anything_but_an_acknowledgement_closes(message: dict[str, Any]) -> None:
    """Sockets are read-only."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/", session) as socket:
        await socket.send_to(**message)
        while not isinstance(code := await receive(socket), int):
            pass
        assert code == Close.BAD_MESSAGE


def sign_out(user: User, session: str) -> None:
    Session.objects.filter(session_key=session).delete()


def switch_off(user: User, session: str) -> None:
    User.objects.filter(pk=user.pk).update(is_active=False)


def change_password(user: User, session: str) -> None:
    user.set_password("another")
    user.save()


def withdraw(user: User, session: str) -> None:
    user.user_permissions.clear()


@pytest.mark.parametrize(
    ("deed", "code"),
    [
        (sign_out, Close.SIGNED_OUT),
        (switch_off, Close.SIGNED_OUT),
        (change_password, Close.SIGNED_OUT),
        (withdraw, Close.NO_ACCESS),
    ],
)
async def test_an_open_socket_does_not_outlive_its_rights(
    deed: Callable[[User, str], None], code: Close, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are read again from the database while it is open."""
    monkeypatch.setattr(consumers, "RECHECK_SECONDS", 0.02)
    run = await in_database(make_run)
    user, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/?after={run.sequence}", session) as socket:
        await in_database(start_steps, run, [0])
        assert (await receive(socket))["type"] == "changes"
        await in_database(deed, user, session)
        assert await receive(socket) == code


async def test_an_unreadable_right_closes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A short outage must not sign everybody out."""
    monkeypatch.setattr(consumers, "RECHECK_SECONDS", 0.01)
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    failures = 0

    def failing(user: User) -> bool:
        nonlocal failures
        failures += 1
        raise OSError("no database")

    async with opened(f"/ws/runs/{run.pk}/?after={run.sequence}", session) as socket:
        monkeypatch.setattr(consumers, "_may_view", failing)
        await until(lambda: failures >= 3)
        await in_database(start_steps, run, [0])
        assert (await receive(socket))["type"] == "changes"


async def test_a_stuck_socket_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """With its own code, so that the page reconnects."""
    monkeypatch.setattr(watches, "ACKNOWLEDGE_SECONDS", 0.05)
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/?after=0", session) as socket:
        assert (await receive(socket))["type"] == "changes"
        assert await receive(socket) == Close.STUCK


async def test_a_deleted_run_closes() -> None:
    """The page then learns from the API that there is no such run."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/?after={run.sequence}", session) as socket:
        await in_database(Run.objects.all().delete)
        assert await receive(socket) == Close.GONE


async def test_sockets_leave_nothing_behind() -> None:
    """After the last one closed, the relay rests and no task is left."""
    run = await in_database(make_run)
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    async with opened(f"/ws/runs/{run.pk}/", session), opened("/ws/runs/", session) as table:
        await receive(table)
        assert relay.current_relay().is_polling
    await until(lambda: not relay.current_relay().is_polling)
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_socket_that_the_server_cancels_leaves_nothing_behind() -> None:
    """Servers do that when they stop or lose patience."""
    _, session = await in_database(sign_in, "vera", VIEW_RUN)
    socket = communicator("/ws/runs/", session)
    await socket.connect(timeout=DEADLINE)
    await receive(socket)
    socket.stop()
    await until(lambda: not relay.current_relay().is_polling)
    await until(lambda: len(asyncio.all_tasks()) == 1)


async def test_a_socket_does_not_touch_its_session() -> None:
    """Watching a run must not keep somebody signed in."""
    _, session = await in_database(sign_in, "vera", VIEW_RUN)

    def stored() -> Any:
        return Session.objects.values_list("expire_date", "session_data").get(session_key=session)

    before = await in_database(stored)
    async with opened("/ws/runs/", session) as socket:
        await receive(socket)
    assert await in_database(stored) == before
