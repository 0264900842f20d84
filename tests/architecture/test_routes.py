"""Every route, enumerated: who may reach it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from django.test import Client
from django.urls import URLPattern, URLResolver, get_resolver

from executions.routing import urlpatterns
from tests.factories import make_batch, make_run, make_user

PUBLIC = {"sign-in/", "favicon.ico"}
"""Paths that answer without an account."""


def routes(resolver: Any = None, prefix: str = "") -> Iterator[str]:
    """Every path of the site but the admin's, with its parameters filled in."""
    for item in (resolver or get_resolver()).url_patterns:
        path = prefix + str(item.pattern)
        if path.startswith("admin/"):
            continue
        if isinstance(item, URLResolver):
            yield from routes(item, path)
        elif isinstance(item, URLPattern):
            yield path


def filled(path: str, run: Any) -> str:
    step_run = run.step_runs.first()
    for name, value in {
        "<int:pk>": step_run.pk if path.startswith(("step-runs", "api/step-runs")) else run.pk,
        "<int:run_id>": run.pk,
        "<int:step_run_id>": step_run.pk,
        "<slug:slug>": "nightly",
        "<path:path>": "nowhere",
    }.items():
        path = path.replace(name, str(value))
    return "/" + path.replace("^", "").replace("$", "")


@pytest.mark.django_db
@pytest.mark.parametrize("path", sorted(set(routes()) - PUBLIC))
@pytest.mark.parametrize("method", ["get", "post"])
def test_anonymous_people_reach_nothing(client: Client, path: str, method: str) -> None:
    """Pages ask to sign in, the API answers 401; nothing of the site is shown."""
    make_batch()
    address = filled(path, make_run())
    response = getattr(client, method)(address)
    if path.startswith("api/"):
        assert response.status_code == 401
    else:
        assert response.status_code == 302
        assert response["Location"].startswith("/sign-in/")


@pytest.mark.django_db
@pytest.mark.parametrize("path", sorted(set(routes()) - PUBLIC - {"sign-out/"}))
def test_an_account_without_rights_reaches_nothing(client: Client, path: str) -> None:
    """To be signed in is not enough: seeing runs is a permission."""
    make_batch()
    address = filled(path, make_run())
    client.force_login(make_user("nobody"))
    assert client.get(address).status_code in (403, 404, 405)


CHANGES = [
    ("api/runs", {"batch": "nightly"}),
    ("api/runs/<int:run_id>/cancel", {}),
    ("api/step-runs/<int:step_run_id>/cancel", {}),
    ("api/runs/cancel", {}),
    ("api/cancel-all", {}),
    ("batches/<slug:slug>/", {"action": "start"}),
    ("runs/cancel/", {}),
    ("runs/<int:pk>/cancel/", {}),
    ("step-runs/<int:pk>/cancel/", {}),
]


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "data"), CHANGES)
def test_viewers_change_nothing(client: Client, path: str, data: dict[str, str]) -> None:
    """Triggering and cancelling are permissions of their own, on pages and in the API."""
    make_batch()
    run = make_run()
    client.force_login(make_user("vera", "executions.view_run"))
    kind = {"content_type": "application/json"} if path.startswith("api/") else {}
    assert client.post(filled(path, run), data, **kind).status_code == 403


@pytest.mark.django_db
@pytest.mark.parametrize(("path", "data"), CHANGES)
def test_changes_need_the_csrf_token(path: str, data: dict[str, str]) -> None:
    """A page of somebody else cannot make a browser change anything."""
    make_batch()
    run = make_run()
    client = Client(enforce_csrf_checks=True)
    client.force_login(
        make_user("olga", "executions.view_run", "executions.trigger_run", "executions.cancel_run")
    )
    kind = {"content_type": "application/json"} if path.startswith("api/") else {}
    assert client.post(filled(path, run), data, **kind).status_code == 403


def test_every_socket_is_known() -> None:
    """A new socket needs its own refusals in test_sockets.py before it is listed here."""
    known = {"ws/runs/", "ws/runs/<int:run_id>/", ""}
    assert {str(item.pattern) for item in urlpatterns} == known
