"""A browser's end of a live view: acknowledges what comes and connects again when it is closed."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

from tests.acceptance.client import Client

PAUSE_SECONDS = 0.3


class Watcher:
    """Looks at one run. `frames` holds when each came, by `time.monotonic`, and its type."""

    def __init__(self, client: Client, run_id: int) -> None:
        self._client = client
        self._run_id = run_id
        self._held = 0
        self._ended = threading.Event()
        self.frames: list[tuple[float, str]] = []
        self.closed: list[str] = []
        self.gaps = 0

    @contextmanager
    def watching(self) -> Iterator[None]:
        thread = threading.Thread(target=self._watch, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._ended.set()
            thread.join(60)

    def changes_after(self, moment: float) -> list[float]:
        return [at for at, kind in self.frames if kind == "changes" and at > moment]

    def _watch(self) -> None:
        while not self._ended.is_set():
            try:
                with self._connect() as socket:
                    self._read(socket)
            except (OSError, WebSocketException) as error:
                self.closed.append(str(error))
            self._ended.wait(PAUSE_SECONDS)

    def _connect(self) -> ClientConnection:
        url = self._client.url
        cookies = "; ".join(f"{each['name']}={each['value']}" for each in self._client.cookies)
        return connect(
            f"{url.replace('http', 'ws', 1)}ws/runs/{self._run_id}/?after={self._held}",
            origin=url.rstrip("/"),  # type: ignore[arg-type]
            additional_headers={"Cookie": cookies},
            open_timeout=10,
            close_timeout=1,
        )

    def _read(self, socket: ClientConnection) -> None:
        while not self._ended.is_set():
            try:
                frame: dict[str, Any] = json.loads(socket.recv(timeout=1))
            except TimeoutError:
                continue
            self.frames.append((time.monotonic(), frame["type"]))
            if frame["type"] == "changes":
                self.gaps += frame["from"] > self._held
                self._held = frame["to"]
                socket.send(json.dumps({"ack": self._held}))
