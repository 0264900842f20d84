"""Which pages may open a socket. A browser sends cookies with a socket that any page opens."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from io import BytesIO
from typing import Any
from urllib.parse import SplitResult, urlsplit

from channels.security.websocket import WebsocketDenier
from django.conf import settings
from django.core.exceptions import DisallowedHost
from django.core.handlers.asgi import ASGIRequest

Application = Callable[[Any, Any, Any], Awaitable[Any]]

_DEFAULT_PORTS = {"http": 80, "https": 443}


class SameOrigin:
    """ASGI middleware that rejects the handshake of a socket that a foreign page opens."""

    def __init__(self, application: Application) -> None:
        self.application = application

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        chosen: Application = self.application if is_own_page(scope) else WebsocketDenier()
        await chosen(scope, receive, send)


def is_own_page(scope: Mapping[str, Any]) -> bool:
    """Whether the page that opens this socket is the site's own, or one that is trusted.

    Scheme, host and port of `Origin` must be those of the request, as Django's own CSRF check
    wants it for forms, or be listed in CSRF_TRUSTED_ORIGINS. No origin is a foreign one.
    """
    request = _handshake(scope)
    origin = _origin(request.META.get("HTTP_ORIGIN", ""))
    try:
        host = request.get_host()
    except DisallowedHost:
        return False
    if origin is None:
        return False
    return origin == _origin(f"{request.scheme}://{host}") or _is_trusted(origin)


def _handshake(scope: Mapping[str, Any]) -> ASGIRequest:
    """The handshake as a request, so that proxies and allowed hosts are judged as for pages."""
    scheme = "https" if scope.get("scheme") == "wss" else "http"
    return ASGIRequest({**scope, "method": "GET", "scheme": scheme}, BytesIO())


Origin = tuple[str, str, int]


def _origin(text: str) -> Origin | None:
    """Scheme, host and port; None if the text is no origin of a web page, such as `null`."""
    try:
        parts = urlsplit(text)
        port = parts.port or _DEFAULT_PORTS[parts.scheme]
    except (ValueError, KeyError):
        return None
    if not parts.hostname or _is_more_than_an_origin(parts):
        return None
    return parts.scheme, parts.hostname, port


def _is_more_than_an_origin(parts: SplitResult) -> bool:
    return bool(parts.path or parts.query or parts.fragment or parts.username is not None)


def _is_trusted(origin: Origin) -> bool:
    return any(_covers(text, origin) for text in settings.CSRF_TRUSTED_ORIGINS)


def _covers(text: str, origin: Origin) -> bool:
    """Whether an entry of CSRF_TRUSTED_ORIGINS, maybe such as `https://*.example.org`, does."""
    trusted = _origin(text.replace("://*.", "://", 1))
    if trusted is None or "://*." not in text:
        return trusted == origin
    same_site = (trusted[0], trusted[2]) == (origin[0], origin[2])
    return same_site and origin[1].endswith(f".{trusted[1]}")
