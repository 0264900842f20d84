"""What people and programs are told while the database does not answer. No processes: views."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest
from django.db import DatabaseError, InterfaceError, OperationalError
from django.test import AsyncClient, Client

from executions import middleware
from stepsite import settings
from tests.waiting import until


@pytest.fixture
def caller() -> Client:
    return Client(raise_request_exception=False)


def break_database(monkeypatch: pytest.MonkeyPatch, error: DatabaseError | InterfaceError) -> None:
    def broken(*_: object, **__: object) -> Any:
        raise error

    # Where every request that names a session begins.
    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", broken)


@pytest.mark.parametrize("error", [OperationalError("locked"), InterfaceError("closed")])
def test_a_page_says_that_the_database_is_away(
    caller: Client, monkeypatch: pytest.MonkeyPatch, caplog: Any, error: DatabaseError
) -> None:
    break_database(monkeypatch, error)
    caller.cookies["sessionid"] = "somebody"
    response = caller.get("/runs/")
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert response["Cache-Control"] == "no-store"
    assert "The database does not answer" in response.text
    assert [record.exc_info for record in caplog.records] == [None], "one line, no trace"
    assert str(error) in caplog.text


def test_a_program_is_told_in_json(caller: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    break_database(monkeypatch, OperationalError("locked"))
    caller.cookies["sessionid"] = "somebody"
    response = caller.get("/api/runs")
    assert response.status_code == 503
    assert response["Retry-After"] == "5"
    assert json.loads(response.content)["errors"][0]["message"].startswith("The database is busy")


def test_other_errors_stay_errors(caller: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    break_database(monkeypatch, DatabaseError("no such column"))
    caller.cookies["sessionid"] = "somebody"
    assert caller.get("/runs/").status_code == 500


@pytest.mark.django_db
@pytest.mark.parametrize(("method", "retry_after"), [("get", "5"), ("post", None)])
async def test_a_query_without_an_answer_does_not_hold_its_request(
    method: str, retry_after: str | None, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """The thread waits on; who asked is told, and the event loop was free meanwhile."""
    goes_on = threading.Event()

    def hanging(*_: object, **__: object) -> Any:
        goes_on.wait(30)
        return {}

    monkeypatch.setattr("django.contrib.sessions.backends.db.SessionStore.load", hanging)
    monkeypatch.setattr(middleware, "ANSWER_SECONDS", 0.1)
    client = AsyncClient()
    client.cookies["sessionid"] = "somebody"
    asked = asyncio.create_task(getattr(client, method)("/api/runs"))
    # The test client ends a request with its thread, which a server does after the answer.
    await until(lambda: "no answer in time" in caplog.text)
    goes_on.set()
    answer = await asked
    assert answer.status_code == 503
    # What was to be done may be done after all; a program should not simply repeat it.
    assert answer.get("Retry-After") == retry_after


def test_no_connection_waits_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits for PostgreSQL on both sides; those of the address go before."""
    monkeypatch.setenv("DATABASE_URL", "postgres://host/name?connect_timeout=30&sslmode=require")
    options = settings._database()["OPTIONS"]
    assert int(options["connect_timeout"]) == 30
    assert options["sslmode"] == "require"
    assert options["tcp_user_timeout"] == 10_000
    assert "tcp_user_timeout=10000" in options["options"]
