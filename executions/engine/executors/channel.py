"""How a worker and the process of an isolated step talk: JSON objects, one a line, on a socket.

From the worker: the call; then `{"cancel": reason}`, and for each secret that was asked for
`{"secret": value}` or `{"missing": what the KeyError says}`. From the step: `{"secret": name}`,
`{"progress": fraction}`, and at last `{"ended": …}`. Output does not pass here: it is what the
process writes.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Any

STEP_LIMIT = 4 * 1024 * 1024
"""Bytes. A longer line of a step's is no message: its own code can write here what it likes."""
_READ_SIZE = 64 * 1024

Message = dict[str, Any]


def _nothing() -> None:
    pass


class Channel:
    """One end. Any thread may send; one thread receives."""

    def __init__(self, end: socket.socket, *, limit: float = STEP_LIMIT) -> None:
        """`limit`: bytes of a message that is received."""
        self._socket = end
        self._limit = limit
        self._sending = threading.Lock()

    def send(self, message: Mapping[str, Any]) -> None:
        """Send, however long the other side takes to read; raises `OSError` if it is gone."""
        with self._sending:
            self._socket.sendall(_line(message))

    def send_at_once(self, message: Mapping[str, Any]) -> None:
        """Send, or do not if that would have to wait. For small messages that may be lost."""
        if self._sending.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._socket.send(_line(message), socket.MSG_DONTWAIT)
            finally:
                self._sending.release()

    def messages(self, pause: Callable[[], object] = _nothing) -> Iterator[Message]:
        """What comes from the other side, until it is gone. `pause` is called after each read."""
        line = bytearray()
        while data := self._read():
            *whole, rest = data.split(b"\n")
            for end in whole:
                line += end
                if (message := self._message(line)) is not None:
                    yield message
                line.clear()
            line += rest
            if len(line) > self._limit:
                # Its end will look like a message of its own, and be none.
                line.clear()
            pause()

    def hang_up(self) -> None:
        """Let every call that waits on this end return; what was received can still be read."""
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with self._sending:
            self._socket.close()

    def _message(self, line: bytearray) -> Message | None:
        try:
            value = json.loads(line) if len(line) <= self._limit else None
        except (ValueError, RecursionError):
            return None
        return value if isinstance(value, dict) else None

    def _read(self) -> bytes:
        try:
            return self._socket.recv(_READ_SIZE)
        except OSError:
            return b""


def _line(message: Mapping[str, Any]) -> bytes:
    # The step's own code may have left half a line on the socket.
    return b"\n" + json.dumps(message).encode() + b"\n"
