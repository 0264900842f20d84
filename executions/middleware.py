"""Nobody sees anything without signing in, unless a view says otherwise.

And what people and programs are told while the database is away.
"""

from __future__ import annotations

import asyncio
import logging
import sys
from collections.abc import Awaitable, Callable
from typing import Any, cast

from asgiref.sync import iscoroutinefunction
from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, HttpResponseBase
from django.template import loader
from django.utils.decorators import sync_and_async_middleware
from django.views.csrf import csrf_failure as csrf_failure_page
from django.views.defaults import server_error as server_error_page

from .answers import is_api, refused, uncached

logger = logging.getLogger(__name__)

ANSWER_SECONDS = 25.0
"""For the head of an answer. Longer than a wait for SQLite's lock, whose end is certain."""
RETRY_AFTER_SECONDS = 5

GetResponse = Callable[[HttpRequest], HttpResponseBase]
GetResponseLater = Callable[[HttpRequest], Awaitable[HttpResponseBase]]


class SignInRequiredMiddleware(LoginRequiredMiddleware):
    """Sends people to the sign-in page; programs get a 401 in JSON."""

    def handle_no_permission(  # type: ignore[override]  # stubs want redirects
        self, request: HttpRequest, view_func: Callable[..., Any]
    ) -> HttpResponse:
        if is_api(request):
            return _sign_in_first()
        return super().handle_no_permission(request, view_func)


def csrf_failure(request: HttpRequest, reason: str = "") -> HttpResponse:
    """The CSRF_FAILURE_VIEW: Django's page, or JSON for programs."""
    if not is_api(request):
        return csrf_failure_page(request, reason=reason)
    # This check comes before the one for signing in, which is the likelier reason.
    if not request.user.is_authenticated:
        return _sign_in_first()
    return refused(403, f"{reason} Send the value of the cookie csrftoken as X-CSRFToken.")


def _sign_in_first() -> HttpResponse:
    return refused(401, "Sign in first.")


@sync_and_async_middleware
def answer_in_time(get_response: GetResponse | GetResponseLater) -> Any:
    """Ends requests that hang in a query which the database does not answer.

    The thread cannot be ended: it goes on when the database does. Nothing of that kind exists
    without a server's event loop, so there the requests just wait.
    """
    if not iscoroutinefunction(get_response):
        return get_response
    later = cast(GetResponseLater, get_response)

    async def middleware(request: HttpRequest) -> HttpResponseBase:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                return await later(request)
        except TimeoutError:
            logger.warning("%s %s: no answer in time", request.method, request.path)
            return _database_away(request, is_over=request.method in ("GET", "HEAD"))

    return middleware


def server_error(request: HttpRequest) -> HttpResponse:
    """The handler500: Django's page, or a 503 if all that failed is the database."""
    error = sys.exc_info()[1]
    if not isinstance(error, OperationalError | InterfaceError):
        return server_error_page(request)
    reason = str(error).strip().splitlines()[:1]
    logger.warning("%s %s: the database is away: %s", request.method, request.path, *reason)
    response = _database_away(request)
    # Django would add the trace, which shows no more than that line.
    response._has_been_logged = True  # type: ignore[attr-defined]
    return response


def _database_away(request: HttpRequest, *, is_over: bool = True) -> HttpResponse:
    """`is_over`: nothing of the request can still come to effect."""
    if is_api(request) and not is_over:
        # Without Retry-After: a program that obeys it might do the same twice.
        return refused(503, "No answer in time. It may still be done: look before you ask again.")
    if is_api(request):
        response = refused(503, "The database is busy or away. Try again in a moment.")
    else:
        # Without the request: who is signed in is a question to the database.
        response = uncached(HttpResponse(loader.render_to_string("503.html"), status=503))
    response["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return response
