"""Nobody sees anything without signing in, unless a view says otherwise."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.contrib.auth.middleware import LoginRequiredMiddleware
from django.http import HttpRequest, HttpResponse
from django.views.csrf import csrf_failure as csrf_failure_page

from .answers import is_api, refused


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
