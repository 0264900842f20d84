"""What a step writes: masked, valid UTF-8, bounded, ready to be stored piece by piece."""

from __future__ import annotations

import codecs
import threading
from collections import deque
from collections.abc import Callable

from .masking import MARK, MaskedStream, Masker, is_long_enough, to_bytes

__all__ = ["LIMIT", "LINE_LIMIT", "MARK", "Masker", "StepOutput"]

LIMIT = 10 * 1024 * 1024
"""Bytes of a step's output that are kept: its beginning, and of its end at most `TAIL_LIMIT`."""
TAIL_LIMIT = 1024 * 1024
"""Bytes. Only memory holds them until the step ends, and all that run at once have their own."""
LINE_LIMIT = 16 * 1024
"""Bytes of a line that are kept."""
TAKE_LIMIT = 256 * 1024
"""Bytes that are handed out at once: databases and their drivers copy more than once."""
BACKLOG_LIMIT = 1024 * 1024
"""Bytes that may wait to be taken before whoever writes is held up."""
HOLD_UP_SECONDS = 0.05
"""For each write, at most: a step whose output nobody can store must still notice a cancel."""
_LINE_CUT = " …".encode()
_MIDDLE_CUT = "… from here on only the end is kept:".encode()
_PIECE = 64 * 1024
"""Bytes that are worked on at once. What replaces an invalid byte has three."""
_REPLACEMENT = "\N{REPLACEMENT CHARACTER}".encode()


def _nothing() -> None:
    pass


def _boundary(data: bytes | bytearray, end: int) -> int:
    """The last position up to `end` that does not split a character of `data`."""
    while 0 < end < len(data) and data[end] & 0xC0 == 0x80:
        end -= 1
    return end


class StepOutput:
    """The output of one attempt, from bytes written to bytes stored.

    Any thread may write; the writer thread takes. In this order: secrets are masked, invalid bytes
    and NUL become U+FFFD, long lines are cut, and of more than `limit` bytes the middle is left
    out. The head can be taken as it comes, the tail after `close`. Each cut leaves a mark: it
    begins where the cut does, at once, and ends with a count of what is missing.

    `on_dirty` is called, by the thread that writes, when there is something to take after there
    was nothing.
    """

    __slots__ = (
        "_closed",
        "_cut",
        "_decoder",
        "_dirty",
        "_dropped",
        "_dropping",
        "_head_ends_line",
        "_head_room",
        "_is_cut",
        "_line",
        "_line_limit",
        "_lock",
        "_on_dirty",
        "_ready",
        "_room",
        "_stream",
        "_tail",
        "_tail_limit",
        "_waiting",
        "masker",
        "size",
    )

    def __init__(
        self,
        *,
        limit: int = LIMIT,
        line_limit: int = LINE_LIMIT,
        mask: Masker | None = None,
        on_dirty: Callable[[], None] = _nothing,
    ) -> None:
        self.masker = mask or Masker()
        """Where the step's secrets are registered."""
        self.size = 0
        """Bytes taken so far."""
        self._lock = threading.Lock()
        self._on_dirty = on_dirty
        self._dirty = self._closed = False
        self._stream: MaskedStream | None = None
        self._decoder: codecs.IncrementalDecoder | None = None
        self._line_limit = line_limit
        self._line = 0
        self._dropping = False
        self._dropped = 0
        self._tail_limit = min(limit - limit // 2, TAIL_LIMIT)
        self._head_room = limit - self._tail_limit
        self._head_ends_line = False
        self._ready: deque[bytearray] | None = None
        self._waiting = 0
        self._room: threading.Event | None = None
        self._tail: bytearray | None = None
        self._is_cut = False
        self._cut = 0

    def hide(self, name: str, secret: str) -> None:
        """Mask the secret `name` from now on; if it is too short for that, the output says so."""
        if is_long_enough(secret):
            self.masker.add(secret)
        else:
            self.write(f"The secret {name} is too short to be masked.\n")

    def write(self, data: bytes | str) -> None:
        """Add to the output. After `close` it is ignored: an abandoned step may still write.

        Takes up to `HOLD_UP_SECONDS` if the output comes faster than it is taken, so that what
        waits does not fill the memory.
        """
        raw = to_bytes(data) if isinstance(data, str) else data
        with self._lock:
            if self._closed:
                return
            for start in range(0, len(raw), _PIECE):
                self._accept(raw[start : start + _PIECE])
            notify = self._became_dirty()
            if self._waiting > BACKLOG_LIMIT and self._room is None:
                self._room = threading.Event()
            room = self._room
        if notify:
            self._on_dirty()
        if room is not None:
            room.wait(HOLD_UP_SECONDS)

    def take(self) -> bytes | None:
        """The next piece that can be stored, at most `TAKE_LIMIT`; None if there is nothing yet."""
        with self._lock:
            self._dirty = False
            if not self._ready:
                return None
            data = bytes(self._ready.popleft())
            self.size += len(data)
            self._waiting -= len(data)
            if self._room is not None and self._waiting <= BACKLOG_LIMIT:
                self._room.set()
                self._room = None
            return data

    def close(self) -> None:
        """No more comes: everything that was held back can be taken."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._finish()
            notify = self._became_dirty()
        if notify:
            self._on_dirty()

    @property
    def cut_bytes(self) -> int:
        """Bytes left out in the middle, so far."""
        return self._cut

    def _became_dirty(self) -> bool:
        if self._dirty or not self._ready:
            return False
        self._dirty = True
        return True

    def _accept(self, data: bytes) -> None:
        if self._stream is None and self.masker.expression is not None:
            self._stream = MaskedStream(self.masker)
        if self._stream is not None:
            data = self._stream.feed(data)
        self._keep(self._cut_lines(self._valid(data)))

    def _finish(self) -> None:
        held = self._stream.finish() if self._stream is not None else b""
        self._keep(self._cut_lines(self._valid(held, final=True)))
        if self._dropping:
            self._keep(self._end_of_line_mark())
        if self._tail is not None:
            self._release_tail(self._tail)
            self._tail = None

    def _valid(self, data: bytes, *, final: bool = False) -> bytes:
        """`data` as UTF-8 without NUL; a character may be split over two calls."""
        if self._decoder is None and not data.isascii():
            self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        if self._decoder is not None and not (data.isascii() and not self._decoder.getstate()[0]):
            data = self._decoder.decode(data, final).encode()
        return data.replace(b"\0", _REPLACEMENT) if b"\0" in data else data

    def _cut_lines(self, data: bytes) -> bytes:
        """`data` without what exceeds the limit of a line."""
        if self._line + len(data) <= self._line_limit and not self._dropping:
            self._line = self._unfinished(data, self._line)
            return data
        kept: list[bytes] = []
        position = 0
        while position < len(data):
            if self._dropping:
                position = self._drop(data, position, kept)
            else:
                position = self._pass_lines(data, position, kept)
        return b"".join(kept)

    @staticmethod
    def _unfinished(data: bytes, before: int) -> int:
        """Bytes since the last newline, `before` of them from earlier pieces."""
        newline = data.rfind(b"\n")
        return before + len(data) if newline < 0 else len(data) - newline - 1

    def _pass_lines(self, data: bytes, position: int, kept: list[bytes]) -> int:
        """Keep whole lines as far as one look for a newline reaches, or the start of a long one."""
        reach = position + self._line_limit - self._line
        if reach >= len(data):
            kept.append(data[position:])
            self._line = self._unfinished(kept[-1], self._line)
            return len(data)
        newline = data.rfind(b"\n", position, reach + 1)
        if newline >= 0:
            end = newline + 1
            self._line = 0
        else:
            end = max(position, _boundary(data, reach))
        kept.append(data[position:end])
        if newline < 0:
            self._dropping = True
            kept.append(_LINE_CUT)
        return end

    def _drop(self, data: bytes, position: int, kept: list[bytes]) -> int:
        newline = data.find(b"\n", position)
        end = len(data) if newline < 0 else newline
        self._dropped += end - position
        if newline >= 0:
            kept.append(self._end_of_line_mark())
        return end

    def _end_of_line_mark(self) -> bytes:
        mark = f" {self._dropped:,} bytes of this line cut …".encode()
        self._dropping, self._dropped, self._line = False, 0, 0
        return mark

    def _keep(self, data: bytes) -> None:
        """Into the head while there is room, then into the tail."""
        if not data:
            return
        if self._head_room:
            if len(data) <= self._head_room:
                self._release(data)
                self._head_room -= len(data)
                return
            end = _boundary(data, self._head_room)
            self._release(data[:end])
            self._head_ends_line = data[end - 1 : end] == b"\n"
            data = data[end:]
            self._head_room = 0
        if self._tail is None:
            self._tail = bytearray()
        self._tail += data
        excess = len(self._tail) - self._tail_limit
        if excess > 0 and not self._is_cut:
            self._begin_mark()
        if excess > _PIECE:
            del self._tail[:excess]
            self._cut += excess

    def _begin_mark(self) -> None:
        """Whoever reads while the step runs, or after its worker died, sees that there was more."""
        self._is_cut = True
        self._release(("" if self._head_ends_line else "\n").encode() + _MIDDLE_CUT)

    def _release_tail(self, tail: bytearray) -> None:
        if self._is_cut:
            start = self._tail_start(tail, max(0, len(tail) - self._tail_limit))
            del tail[:start]
            self._cut += start
            self._release(f" {self._cut:,} bytes cut …\n".encode())
        for start in range(0, len(tail), TAKE_LIMIT):
            self._release(tail[start : start + TAKE_LIMIT])

    def _release(self, data: bytes | bytearray) -> None:
        """Let `data`, at most `TAKE_LIMIT`, be taken."""
        if self._ready is None:
            self._ready = deque()
        self._waiting += len(data)
        if self._ready and len(self._ready[-1]) + len(data) <= TAKE_LIMIT:
            self._ready[-1] += data
        elif data:
            self._ready.append(bytearray(data))

    def _tail_start(self, tail: bytearray, start: int) -> int:
        """Where the tail can begin: after a newline if one is near, else with a whole character."""
        newline = tail.find(b"\n", start, start + self._line_limit)
        if newline >= 0:
            return newline + 1
        while start < len(tail) and tail[start] & 0xC0 == 0x80:
            start += 1
        return start
