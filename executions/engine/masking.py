"""Secrets are made unreadable in whatever a step writes, before anything else looks at it."""

from __future__ import annotations

import base64
import html
import json
import threading
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any
from urllib.parse import quote, quote_plus

import re2

MARK = "•••".encode()
"""What stands where a secret stood."""
SHORTEST_SECRET = 4
"""Bytes. Shorter ones stay readable: masking them would eat ordinary text and hide little."""
SHORTEST_LINE = 8
"""Bytes from which a single line of a secret of several lines is masked by itself."""
_PREFIX = SHORTEST_SECRET
_EXPRESSION_MEMORY = 256 * 1024 * 1024


def to_bytes(text: str) -> bytes:
    """UTF-8; lone surrogates become U+FFFD."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def _encoded(secret: str) -> bytes:
    """The bytes that a process would write, also for a variable that is not valid UTF-8."""
    try:
        return secret.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return to_bytes(secret)


def _base64_forms(secret: bytes) -> Iterator[bytes]:
    """How base64 shows it: alone, and inside other data at each of the three alignments.

    Inside other data the outermost characters also depend on the neighbours, so they are left out.
    """
    for altchars in (b"+/", b"-_"):
        alone = base64.b64encode(secret, altchars)
        yield alone
        yield alone.rstrip(b"=")
        for before in range(3):
            encoded = base64.b64encode(b"\0" * before + secret, altchars)
            first = (before * 8 + 5) // 6
            last = (before + len(secret)) * 8 // 6
            yield encoded[first:last]


def _quoted_forms(secret: bytes) -> Iterator[bytes]:
    for quoted in (
        quote(secret, safe=""),
        quote(secret, safe="/"),
        quote(secret, safe="!'()*"),
        quote_plus(secret),
    ):
        yield quoted.encode()
        yield "".join(
            f"%{part[:2].lower()}{part[2:]}" if number else part
            for number, part in enumerate(quoted.split("%"))
        ).encode()


def _escaped_forms(text: str) -> Iterator[bytes]:
    for ensure_ascii in (True, False):
        escaped = json.dumps(text, ensure_ascii=ensure_ascii)[1:-1]
        yield to_bytes(escaped)
        yield to_bytes(escaped.replace("/", "\\/"))
    yield to_bytes(repr(text)[1:-1])  # a traceback shows values so
    yield to_bytes(html.escape(text))


def _forms(secret: bytes) -> set[bytes]:
    """Every spelling under which a secret is recognised."""
    forms: set[bytes] = set()
    for value in {secret, secret.strip()}:
        if len(value) < SHORTEST_SECRET:
            continue
        forms |= {value, value.hex().encode(), value.hex().upper().encode()}
        forms.update(_base64_forms(value))
        forms.update(_quoted_forms(value))
        with suppress(UnicodeDecodeError):
            forms.update(_escaped_forms(value.decode()))
    lines = [line.strip() for line in secret.splitlines()]
    forms.update(line for line in lines if len(line) >= SHORTEST_LINE)
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


class _Expression:
    """All forms as one expression. RE2 costs the same for one form as for a hundred."""

    def __init__(self, forms: Iterable[bytes]) -> None:
        self.forms = tuple(forms)
        self.longest = max(map(len, self.forms))
        self._any = self._alternatives(self.forms)
        self._by_prefix: dict[bytes, list[bytes]] = {}
        for form in self.forms:
            self._by_prefix.setdefault(form[:_PREFIX], []).append(form)
        self._prefix = self._alternatives(self._by_prefix)
        self._starts = {form[:size] for form in self.forms for size in range(1, _PREFIX)}

    @staticmethod
    def _alternatives(literals: Iterable[bytes]) -> Any:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.longest_match = True
        options.log_errors = False
        options.max_mem = _EXPRESSION_MEMORY
        return re2.compile(b"|".join(map(re2.escape, literals)), options)

    def spans(self, data: bytes) -> list[tuple[int, int]]:
        """Where forms stand in `data`; those that overlap are one span."""
        spans: list[tuple[int, int]] = []
        match = self._any.search(data)
        while match is not None:
            start, end = match.span()
            if spans and start < spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            else:
                spans.append((start, end))
            match = self._any.search(data, start + 1)
        return spans

    def undecided_from(self, data: bytes) -> int:
        """The first position from which the rest of `data` may be the beginning of a form."""
        size = len(data)
        match = self._prefix.search(data, max(0, size - self.longest + 1))
        while match is not None:
            start: int = match.start()
            rest = data[start:]
            if any(
                len(form) > len(rest) and form.startswith(rest)
                for form in self._by_prefix[rest[:_PREFIX]]
            ):
                return start
            match = self._prefix.search(data, start + 1)
        for start in range(max(0, size - _PREFIX + 1), size):
            if data[start:] in self._starts:
                return start
        return size


class Masker:
    """Knows the secrets of a step and masks them in bytes and text.

    A secret is recognised as it is, in base64 (standard and URL alphabet, at any alignment), in
    hex, URL-quoted, escaped as in JSON, HTML or a Python literal, and line by line. Secrets under
    4 bytes are not masked. Any thread may add secrets and mask.
    """

    def __init__(self, secrets: Iterable[str | bytes] = ()) -> None:
        self._lock = threading.Lock()
        self._forms: set[bytes] = set()
        self.expression: _Expression | None = None
        self.add(*secrets)

    def add(self, *secrets: str | bytes) -> None:
        """Mask these too, from now on."""
        forms: set[bytes] = set()
        for secret in secrets:
            value = _encoded(secret) if isinstance(secret, str) else secret
            if len(value) >= SHORTEST_SECRET:
                forms |= _forms(value)
        with self._lock:
            if not forms <= self._forms:
                self._forms |= forms
                self.expression = _Expression(self._forms)

    def mask(self, data: bytes) -> bytes:
        """`data` as a whole, masked."""
        if self.expression is None:
            return data
        stream = MaskedStream(self)
        return stream.feed(data) + stream.finish()

    def mask_text(self, text: str) -> str:
        """`text` as a whole, masked."""
        if self.expression is None:
            return text
        return self.mask(to_bytes(text)).decode(errors="replace")


class MaskedStream:
    """Masks bytes that arrive in pieces: how they are cut makes no difference to the result.

    What may be the beginning of a secret is held back until the next piece decides.
    """

    __slots__ = ("_covered", "_held", "_masker")

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""
        self._covered = 0
        """How many of the held bytes belong to a secret whose mark has been handed out."""

    def feed(self, piece: bytes) -> bytes:
        """Take the next piece; what is decided by now, masked."""
        expression = self._masker.expression
        if expression is None:
            return piece
        data = self._held + piece if self._held else piece
        return self._release(expression, data, expression.undecided_from(data))

    def finish(self) -> bytes:
        """No more comes: what was held back, masked."""
        if not self._held or self._masker.expression is None:
            return b""
        return self._release(self._masker.expression, self._held, len(self._held))

    def _release(self, expression: _Expression, data: bytes, until: int) -> bytes:
        """Mask and hand out `data[:until]`, hold back the rest."""
        spans = expression.spans(data)
        if not spans and not self._covered:
            self._held = data[until:]
            return data[:until]
        parts: list[bytes] = []
        position = min(self._covered, until)
        covered_until = self._covered
        for start, end in spans:
            if start >= until:
                break
            if start >= covered_until:
                parts += (data[position:start], MARK)
            covered_until = max(covered_until, end)
            position = min(covered_until, until)
        parts.append(data[position:until])
        self._held = data[until:]
        self._covered = max(0, covered_until - until)
        return b"".join(parts)
