"""Secrets are made unreadable in whatever a step writes, before anything else looks at it."""

from __future__ import annotations

import base64
import html
import json
import re
import threading
from collections.abc import Collection, Iterable, Iterator
from typing import Any, TextIO
from urllib.parse import quote, quote_plus

import re2

MARK = "•••".encode()
"""What stands where a secret stood."""
SHORTEST_SECRET = 4
"""Bytes. Shorter ones stay readable: masking them would eat ordinary text and hide little."""
SHORTEST_LINE = 8
"""Bytes from which a single line of a secret of several lines is masked by itself."""
_NOTHING = -1
_EXPRESSION_MEMORY = 64 * 1024 * 1024
"""Bytes that RE2 may use. It does not use a tenth of it for 200 secrets."""
_BEGINNING = 16
"""Bytes of a form that are looked for; the rest is compared where they are found."""
_BASE64_LINES = (64, 76)
"""Characters after which programs that write base64 break the line."""
_SHELL_SPECIAL = re.compile(r"""[\s'"\\|&;()<>!{}*\[\]?^$`,]|^[#~]""")
_SHELL_EXPANDED = re.compile(r"""["\\$`]""")
_SHELL_ESCAPES = {
    **{code: f"\\{code:03o}" for code in (*range(32), 127)},
    **{
        ord(char): f"\\{name}"
        for char, name in zip("\a\b\x1b\f\n\r\t\v\\'", "abEfnrtv\\'", strict=True)
    },
}
"""As bash writes them in `$'...'`."""
_SHELL_BYTES = {**_SHELL_ESCAPES, **{code: f"\\{code:03o}" for code in range(128, 256)}}
_HTML_QUOTES = (("&#x27;", "&quot;"), ("&#39;", "&quot;"), ("&#39;", "&#34;"), ("&apos;", "&quot;"))


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


def is_long_enough(secret: str) -> bool:
    """Whether it is masked at all."""
    return len(_encoded(secret)) >= SHORTEST_SECRET


def _base64_forms(secret: bytes) -> Iterator[bytes]:
    """How base64 shows it: alone, and inside other data at each of the three alignments.

    Inside other data the outermost characters also depend on the neighbours, so they are left out.
    """
    for altchars in (b"+/", b"-_"):
        alone = base64.b64encode(secret, altchars)
        at_start = alone[: len(secret) * 8 // 6]
        for form in (alone, alone.rstrip(b"="), at_start):
            yield form
            for width in _BASE64_LINES:
                yield b"\n".join(form[at : at + width] for at in range(0, len(form), width))
        for before in (1, 2):
            encoded = base64.b64encode(b"\0" * before + secret, altchars)
            first = (before * 8 + 5) // 6
            last = (before + len(secret)) * 8 // 6
            yield encoded[first:last]


def _quoted_forms(secret: bytes) -> Iterator[bytes]:
    for quoted in (
        quote(secret, safe=""),
        quote(secret, safe="/"),
        quote(secret, safe="!'()*"),
        quote(secret, safe=";,/?:@&=+$!'()*#"),
        quote_plus(secret),
    ):
        yield quoted.encode()
        yield "".join(
            f"%{part[:2].lower()}{part[2:]}" if number else part
            for number, part in enumerate(quoted.split("%"))
        ).encode()


def _escaped_forms(text: str) -> Iterator[str]:
    for ensure_ascii in (True, False):
        escaped = json.dumps(text, ensure_ascii=ensure_ascii)[1:-1]
        yield escaped
        yield escaped.replace("/", "\\/")
        safe = escaped
        for char in "<>&":
            safe = safe.replace(char, f"\\u{ord(char):04x}")
        yield safe
        yield re.sub(r"\\u[0-9a-f]{4}", lambda match: "\\u" + match[0][2:].upper(), safe)
    for literal in (repr, ascii):
        yield literal(text)[1:-1]  # a traceback shows values so
        yield literal(text + "'\"")[1:-4]  # beside other text that holds both quotes
    outside_quotes = html.escape(text, quote=False)
    yield outside_quotes
    for single, double in _HTML_QUOTES:
        yield outside_quotes.replace("'", single).replace('"', double)


def _shell_forms(text: str) -> Iterator[str]:
    """As shells show it when they trace what they do, and as scripts quote it for them."""
    yield _SHELL_EXPANDED.sub(r"\\\g<0>", text)
    yield text.replace("'", "'\\''")
    yield text.replace("'", "'\"'\"'")
    yield _SHELL_SPECIAL.sub(r"\\\g<0>", text)
    yield text.translate(_SHELL_ESCAPES)
    yield to_bytes(text).decode("latin-1").translate(_SHELL_BYTES)


def _texts(secret: bytes) -> set[str]:
    """What programs that work with text take it for. More than one if it is no valid UTF-8."""
    return {secret.decode(errors="surrogateescape"), secret.decode(errors="replace")}


def _forms(secret: bytes) -> set[bytes]:
    """Every spelling under which a secret is recognised."""
    forms: set[bytes] = set()
    for value in {secret, secret.strip()}:
        if len(value) < SHORTEST_SECRET:
            continue
        forms |= {value, value.hex().encode(), value.hex().upper().encode()}
        forms.add(value.replace(b"\n", b"\r\n"))
        forms.add(repr(value)[2:-1].encode())
        forms.update(_base64_forms(value))
        forms.update(_quoted_forms(value))
        for text in _texts(value):
            for form in (text, *_escaped_forms(text), *_shell_forms(text)):
                forms |= {to_bytes(form), _encoded(form)}
    lines = [line.strip() for line in secret.splitlines()]
    forms.update(line for line in lines if len(line) >= SHORTEST_LINE)
    return {form for form in forms if len(form) >= SHORTEST_SECRET}


class _Expression:
    """Finds forms by how they begin.

    RE2 costs the same for one beginning as for a hundred. Whole forms would make it slow and
    large: it keeps a state for every byte of each.
    """

    def __init__(self, forms: Collection[bytes]) -> None:
        self._longest = max(map(len, forms))
        self._forms: dict[bytes, list[bytes]] = {}
        """By the longest beginning that stands at a place: what may stand there, longest first."""
        for form in sorted(forms, key=len, reverse=True):
            self._forms.setdefault(form[:_BEGINNING], []).append(form)
        for beginning, found in self._forms.items():
            shorter = (beginning[:size] for size in range(len(beginning) - 1, 0, -1))
            found += [form for form in shorter if form in forms]
        self._beginning = self._alternatives(self._forms)
        self._starts = {form[:size] for form in self._forms for size in range(1, _BEGINNING)}

    @staticmethod
    def _alternatives(literals: Iterable[bytes]) -> Any:
        options = re2.Options()
        options.encoding = re2.Options.Encoding.LATIN1
        options.longest_match = True
        options.log_errors = False
        options.max_mem = _EXPRESSION_MEMORY
        # Sorted, because RE2 makes one of beginnings that neighbours share.
        return re2.compile(b"|".join(map(re2.escape, sorted(literals))), options)

    def spans(self, data: bytes, until: int) -> list[tuple[int, int]]:
        """Where forms stand that begin before `until`; those that touch are one span."""
        spans: list[tuple[int, int]] = []
        match = self._beginning.search(data)
        while match is not None and match.start() < until:
            start = match.start()
            end = self._end_of_forms(data, start, match.group())
            if end and spans and start <= spans[-1][1]:
                spans[-1] = (spans[-1][0], max(end, spans[-1][1]))
            elif end:
                spans.append((start, end))
            # What begins earlier than that ends inside the last span.
            covered = spans[-1][1] - self._longest if spans else 0
            match = self._beginning.search(data, max(start, covered) + 1)
        return spans

    def _end_of_forms(self, data: bytes, start: int, beginning: bytes) -> int:
        """The end of the longest form at `start`, and of its repetitions; 0 if there is none."""
        for form in self._forms[beginning]:
            if data.startswith(form, start):
                end = start + len(form)
                while data.startswith(form, end):
                    end += len(form)
                return end
        return 0

    @staticmethod
    def _may_begin(data: bytes, start: int, forms: Iterable[bytes]) -> bool:
        """Whether what `data` holds from `start` on is the beginning of one, and not all of it."""
        size = len(data) - start
        longer = [form for form in forms if len(form) > size]
        return bool(longer) and any(form.startswith(data[start:]) for form in longer)

    def undecided_from(self, data: bytes) -> int:
        """The first position from which the rest of `data` may be the beginning of a form."""
        size = len(data)
        match = self._beginning.search(data, max(0, size - self._longest + 1))
        while match is not None:
            start: int = match.start()
            if self._may_begin(data, start, self._forms[match.group()]):
                return start
            match = self._beginning.search(data, start + 1)
        for start in range(max(0, size - _BEGINNING + 1), size):
            if data[start:] in self._starts:
                return start
        return size


class Masker:
    """Knows the secrets of a step and masks them in bytes and text.

    A secret is recognised as it is, in base64 (standard and URL alphabet, at any alignment), in
    hex, URL-quoted, escaped as in JSON, HTML, a shell or a Python literal, and line by line.
    Secrets under 4 bytes are not masked. Any thread may add secrets and mask.
    """

    def __init__(self, secrets: Iterable[str | bytes] = ()) -> None:
        self._lock = threading.Lock()
        self._secrets: frozenset[bytes] = frozenset()
        self._forms: frozenset[bytes] = frozenset()
        self._expression: _Expression | None = None
        self._is_outdated = False
        self.add(*secrets)

    def add(self, *secrets: str | bytes) -> None:
        """Mask these too, from now on."""
        values = {_encoded(item) if isinstance(item, str) else item for item in secrets}
        new = {value for value in values if len(value) >= SHORTEST_SECRET} - self._secrets
        forms = frozenset[bytes]().union(*map(_forms, new))
        with self._lock:
            self._secrets |= new
            if not forms <= self._forms:
                self._forms |= forms
                self._is_outdated = True

    @property
    def expression(self) -> _Expression | None:
        """Finds all forms; None if there are none. Made when it is needed: secrets come in bulk."""
        if self._is_outdated:
            with self._lock:
                if self._is_outdated:
                    self._expression = _Expression(self._forms)
                    self._is_outdated = False
        return self._expression

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


def mask_writes(stream: TextIO, masker: Masker) -> None:
    """Mask what is written to `stream` from now on, each write by itself."""
    write = stream.write

    def masked_write(text: str) -> int:
        write(masker.mask_text(text))
        return len(text)

    stream.write = masked_write  # type: ignore[method-assign]  # handlers of logs hold the stream


class MaskedStream:
    """Masks bytes that arrive in pieces: how they are cut makes no difference to the result.

    What may be the beginning of a secret is held back until the next piece decides.
    """

    __slots__ = ("_covered", "_held", "_masker")

    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._held = b""
        self._covered = _NOTHING
        """How many of the held bytes belong to a secret whose mark was handed out last."""

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
        spans = expression.spans(data, until)
        self._held = data[until:]
        if not spans and self._covered == _NOTHING:
            return data[:until]
        parts: list[bytes] = []
        covered_until = self._covered
        position = min(max(0, covered_until), until)
        for start, end in spans:
            if start > covered_until:
                parts += (data[position:start], MARK)
            covered_until = max(covered_until, end)
            position = min(covered_until, until)
        parts.append(data[position:until])
        self._covered = max(_NOTHING, covered_until - until)
        return b"".join(parts)
