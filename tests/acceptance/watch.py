"""Notices whatever a browser complains about while a test drives it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Request, Response, WebError

# A browser drops requests when the page that made them goes, or takes them back.
DROPPED = "net::ERR_ABORTED"


class Watch:
    """Console errors, refused content, failed requests, dialogs and errors of scripts."""

    def __init__(self) -> None:
        self._complaints: list[str] = []
        self._provoked: list[re.Pattern[str]] = []

    def follow(self, context: BrowserContext) -> None:
        context.on("console", self._console)
        context.on("weberror", self._threw)
        context.on("requestfailed", self._failed)
        context.on("response", self._answered)
        context.on("dialog", self._dialog)

    def provoke(self, *patterns: str) -> None:
        """Complaints that match one of these are what the test is about."""
        self._provoked += [re.compile(pattern) for pattern in patterns]

    @contextmanager
    def broken_line(self) -> Iterator[None]:
        """Whatever is said of requests that reach nobody; the rest still counts."""
        before = len(self._complaints)
        yield
        new = self._complaints[before:]
        self._complaints[before:] = [each for each in new if not re.search(UNREACHED, each)]

    @property
    def complaints(self) -> list[str]:
        return [
            complaint
            for complaint in self._complaints
            if not any(pattern.search(complaint) for pattern in self._provoked)
        ]

    def _note(self, complaint: str) -> None:
        self._complaints.append(complaint)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):
            self._note(f"console {message.type}: {message.text} ({message.location['url']})")

    def _threw(self, error: WebError) -> None:
        self._note(f"script: {error.error.message} {error.error.stack}")

    def _failed(self, request: Request) -> None:
        if request.failure != DROPPED:
            self._note(f"request: {request.method} {request.url} {request.failure}")

    def _answered(self, response: Response) -> None:
        if response.status >= 400:
            request = response.request
            self._note(f"answer: {request.method} {response.url} {response.status}")

    def _dialog(self, dialog: Dialog) -> None:
        self._note(f"dialog: {dialog.message}")
        dialog.dismiss()


UNREACHED = re.compile(
    r"net::ERR_(CONNECTION_\w+|INTERNET_DISCONNECTED|EMPTY_RESPONSE|NETWORK_\w+|SOCKET_\w+)"
    r"|WebSocket connection to \S+ failed"
)
"""What Chromium says when nobody answers."""
