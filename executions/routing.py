"""Addresses of the sockets."""

from __future__ import annotations

from typing import Any

from channels.routing import URLRouter
from channels.security.websocket import WebsocketDenier
from channels.sessions import CookieMiddleware
from django.urls import path, re_path

from .consumers import RunConsumer, TableConsumer
from .origins import SameOrigin

# Patterns of URLRouter lead to ASGI applications, which path() does not expect.
urlpatterns: list[Any] = [
    path("ws/runs/", TableConsumer.as_asgi()),  # type: ignore[arg-type]
    path("ws/runs/<int:run_id>/", RunConsumer.as_asgi()),  # type: ignore[arg-type]
    # Without this an unknown address would end in a traceback instead of a refusal.
    re_path("", WebsocketDenier.as_asgi()),  # type: ignore[arg-type]
]

sockets = SameOrigin(CookieMiddleware(URLRouter(urlpatterns)))
