"""What a secret may look like, and that none of it is left."""

from __future__ import annotations

import base64
import html
import io
import json
import logging
import shlex
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise
from urllib.parse import quote, quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.engine.masking import MARK, MaskedStream, Masker, mask_writes

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="•\N{REPLACEMENT CHARACTER}"))
SECRETS = st.one_of(
    st.text(st.sampled_from("ab"), min_size=4, max_size=8),
    st.text(st.sampled_from("'\" \n\t\\/%&<>+é𝄞$`#~!*"), min_size=4, max_size=40),
    st.text(st.characters(codec="utf-8", exclude_characters="•"), min_size=4, max_size=40),
    st.binary(min_size=4, max_size=200),
)
CANARIES = [
    "s3cr3t/v4lue!",
    'it\'s "quoted" & <tagged>',
    "100%25 of+it",
    "line one of it\nline two\nx",
    "pässwörd 𝄞 ключ",
    "back\\slash\tand\ttab",
    "$(rm -rf ~) `id` !! #",
    "k" * 7 + "Z",
    "0123456789abcdef" * 256,
    b"\xff\xfe\x01binary\xe2\x82(tail",
]


def as_bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def disguises(secret: bytes) -> list[bytes]:
    """Forms under which a secret must never be seen."""
    forms = [
        secret,
        secret.hex().encode(),
        secret.hex().upper().encode(),
        base64.b64encode(secret),
        base64.urlsafe_b64encode(secret),
        base64.urlsafe_b64encode(secret).rstrip(b"="),
        base64.encodebytes(secret).rstrip(),
        quote(secret, safe="").encode(),
        quote(secret).encode(),
        quote_plus(secret).encode(),
        repr(secret)[2:-1].encode(),
    ]
    with suppress(UnicodeDecodeError):
        text = secret.decode()
        forms += [
            json.dumps(text)[1:-1].encode(),
            json.dumps(text, ensure_ascii=False)[1:-1].encode(),
            repr(text)[1:-1].encode(),
            ascii(text)[1:-1].encode(),
            html.escape(text).encode(),
            shlex.quote(text).encode(),
        ]
    return forms


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(point, len(data)) for point in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def masked(pieces: list[bytes], masker: Masker) -> bytes:
    stream = MaskedStream(masker)
    return b"".join([*map(stream.feed, pieces), stream.finish()])


@st.composite
def leaks(draw: st.DrawFn) -> tuple[list[str | bytes], list[bytes]]:
    """Secrets, and an output in pieces in which they stand."""
    secrets = draw(st.lists(SECRETS, min_size=1, max_size=3))
    hidden = [form for secret in secrets for form in disguises(as_bytes(secret))]
    part = st.one_of(st.sampled_from(hidden), st.binary(max_size=12), TEXT.map(str.encode))
    data = b"".join(draw(st.lists(part, max_size=12)))
    return secrets, cut(data, draw(st.lists(st.integers(0, max(1, len(data))), max_size=12)))


@given(leaks())
def test_no_secret_is_seen_however_the_output_is_split(
    leak: tuple[list[str | bytes], list[bytes]],
) -> None:
    """No form of a secret is left, and the split makes no difference."""
    secrets, pieces = leak
    seen = masked(pieces, Masker(secrets))
    assert seen == Masker(secrets).mask(b"".join(pieces))
    for secret in secrets:
        for form in disguises(as_bytes(secret)):
            if MARK not in form:
                assert form not in seen


@given(TEXT, st.lists(st.integers(0, 100), max_size=6))
def test_everything_else_stays(text: str, cuts: list[int]) -> None:
    """Every byte that belongs to no secret is handed out once, in order."""
    data = text.encode()
    assert masked(cut(data, cuts), Masker(["no-such-secret"])) == data


@given(st.binary(min_size=4, max_size=60), st.binary(max_size=8), st.binary(max_size=8))
def test_base64_of_text_around_a_secret_hides_it(
    secret: bytes, before: bytes, after: bytes
) -> None:
    """At every alignment at most the outermost character on each side stays."""
    encoded = base64.b64encode(before + secret + after)
    seen = Masker([secret]).mask(encoded)
    assert MARK in seen
    kept = len(seen.replace(MARK, b""))
    assert kept <= len(base64.b64encode(before)) + len(base64.b64encode(after)) + 4


@pytest.mark.parametrize("secret", CANARIES, ids=range(len(CANARIES)))
def test_every_disguise_of_a_canary_is_hidden_whole(secret: str | bytes) -> None:
    """Nothing but the mark is left of it."""
    masker = Masker([secret])
    for form in disguises(as_bytes(secret)):
        seen = masker.mask(b"<" + form + b">")
        assert seen.replace(b"'", b"") == b"<" + MARK + b">"


@pytest.mark.parametrize("secret", [each for each in CANARIES if isinstance(each, str)])
@pytest.mark.parametrize(
    "script", ['set -x; : "$S"', "printf '%q\\n' \"$S\"", "declare -p S", 'printf %s "$S" | base64']
)
def test_what_a_shell_makes_of_a_secret_is_hidden(script: str, secret: str) -> None:
    """Traced, quoted, declared or encoded."""
    for locale in ("C.UTF-8", "C"):
        said = subprocess.run(
            ["bash", "-c", script],
            env={"S": secret, "LC_ALL": locale, "PATH": "/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=30,
            check=True,
        ).stdout
        seen = Masker([secret]).mask(said)
        words = said.replace(MARK, b"")
        assert MARK in seen, said
        assert len(seen.replace(MARK, b"")) <= len(b"declare -x S=$'' \n"), (words, seen)


@pytest.mark.parametrize(
    "say",
    [
        str,
        repr,
        ascii,
        lambda text: json.dumps({"key": text}),
        lambda text: repr([text, "'\""]),
        lambda text: json.dumps(text, ensure_ascii=False),
    ],
)
def test_a_secret_that_is_no_text_is_hidden_when_it_is_written_as_text(
    say: Callable[[str], str],
) -> None:
    """A variable of the environment may hold bytes that are no UTF-8."""
    secret = b"\xff\xfe\x01-not-text-\xe2\x82("
    text = secret.decode(errors="surrogateescape")
    assert "not-text" not in Masker([text]).mask_text(say(text))
    as_it_was = say(text).encode(errors="surrogateescape")
    assert b"not-text" not in Masker([text]).mask(as_it_was)
    assert "not-text" not in Masker([text]).mask_text(say(secret.decode(errors="replace")))


def test_forms_of_other_programs_are_hidden() -> None:
    """JSON and HTML may be escaped in more than one way."""
    masker = Masker(['<it\'s> "é" a/b'])
    for written in (
        r"\u003cit's\u003e \"é\" a/b",
        r"\u003Cit's\u003E \"\u00E9\" a/b",
        r"<it's> \"\u00e9\" a\/b",
        "&lt;it&#39;s&gt; &quot;é&quot; a/b",
        "&lt;it&#39;s&gt; &#34;é&#34; a/b",
        '&lt;it\'s&gt; "é" a/b',
    ):
        assert masker.mask_text(written) == MARK.decode()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("the key is s3cr3t/v4lue!", "the key is •••"),
        ("url?key=s3cr3t%2Fv4lue%21&x", "url?key=•••&x"),
        ("url?key=s3cr3t%2fv4lue%21&x", "url?key=•••&x"),
        ('{"key": "s3cr3t\\/v4lue!"}', '{"key": "•••"}'),
        ("s3cr3t/v4lu", "s3cr3t/v4lu"),
        ("s3cr3t/s3cr3t/v4lue!v4lue!", "s3cr3t/•••v4lue!"),
        ("s3cr3t/v4lue!s3cr3t/v4lue!", "•••"),
    ],
)
def test_forms_of_a_secret_are_masked(written: str, expected: str) -> None:
    """A secret is recognised in the midst of other text; a part of it is not."""
    assert Masker(["s3cr3t/v4lue!"]).mask_text(written) == expected


def test_overlapping_secrets_are_masked_together() -> None:
    """Where two secrets overlap, nothing of either is left."""
    assert Masker(["abcdef", "defghi"]).mask(b"-abcdefghi-") == b"-" + MARK + b"-"


def test_a_secret_that_begins_another_is_masked_too() -> None:
    masker = Masker(["token", "token-of-another-step"])
    assert masker.mask_text("token token-of-another-step token-of") == "••• ••• •••-of"


def test_lines_of_a_secret_are_masked() -> None:
    """A key of several lines is masked also where its lines are indented."""
    masker = Masker(["-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----\n"])
    assert "MIIEvQ" not in masker.mask_text("  | MIIEvQIBADANBg\r\n")


def test_secrets_shorter_than_four_bytes_stay() -> None:
    """A secret such as "7" does not eat the output."""
    assert Masker(["7", "abc", ""]).mask(b"7 abc") == b"7 abc"


def hard_cases() -> Iterator[tuple[list[str], bytes, bytes]]:
    """Secrets, an output that often comes near them, and what is left of it."""
    yield ["0" * 8], b"0" * 500_000, MARK
    yield ["x" * 4096], b"x" * 300_000, MARK
    yield ["x" * 4095 + "y"], b"x" * 100_000, b"x" * 100_000
    many = [f"{number:04}{chr(97 + number % 26) * 4092}" for number in range(20)]
    yield many, b"ordinary text, a line of it\n" * 20_000, b"ordinary text, a line of it\n" * 20_000


@pytest.mark.parametrize(("secrets", "data", "left"), list(hard_cases()), ids=range(4))
@pytest.mark.parametrize("size", [1000, 65536])
def test_the_work_grows_with_the_output_alone(
    secrets: list[str], data: bytes, left: bytes, size: int
) -> None:
    """Also for secrets of one letter and outputs full of it: else this would take hours."""
    started = time.monotonic()
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    assert masked(pieces, Masker(secrets)) == left
    assert time.monotonic() - started < 60


def test_what_a_stream_is_written_is_masked() -> None:
    """By `print` and by handlers of logs that already hold the stream."""
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    mask_writes(stream, Masker(["the-secret"]))
    print("printed the-secret", file=stream)
    handler.handle(logging.makeLogRecord({"msg": "logged %r", "args": ("the-secret",)}))
    assert stream.getvalue() == "printed •••\nlogged '•••'\n"
