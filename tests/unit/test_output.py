from __future__ import annotations

import base64
import json
import threading
from contextlib import suppress
from itertools import pairwise
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.engine.output import MARK, Masker, StepOutput

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="•\N{REPLACEMENT CHARACTER}"))
SECRETS = st.one_of(
    st.text(st.sampled_from("ab"), min_size=4, max_size=8),
    st.text(st.characters(codec="utf-8", exclude_characters="•"), min_size=4, max_size=40),
    st.binary(min_size=4, max_size=40),
)


def as_bytes(secret: str | bytes) -> bytes:
    return secret.encode() if isinstance(secret, str) else secret


def disguises(secret: bytes) -> list[bytes]:
    """Forms under which a secret must never be seen."""
    forms = [secret, base64.b64encode(secret), quote(secret, safe="").encode()]
    with suppress(UnicodeDecodeError):
        forms.append(json.dumps(secret.decode())[1:-1].encode())
    return forms


def cut(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(min(point, len(data)) for point in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@st.composite
def leaks(draw: st.DrawFn) -> tuple[list[str | bytes], bytes, list[bytes]]:
    """Secrets, an output in which they stand, and that output in pieces."""
    secrets = draw(st.lists(SECRETS, min_size=1, max_size=3))
    hidden = [form for secret in secrets for form in disguises(as_bytes(secret))]
    part = st.one_of(st.sampled_from(hidden), st.binary(max_size=12), TEXT.map(str.encode))
    data = b"".join(draw(st.lists(part, max_size=12)))
    cuts = draw(st.lists(st.integers(0, max(1, len(data))), max_size=12))
    return secrets, data, cut(data, cuts)


@given(leaks())
def test_no_secret_is_seen_however_the_output_is_split(
    leak: tuple[list[str | bytes], bytes, list[bytes]],
) -> None:
    """No form of a secret is in the stored output, and the split makes no difference."""
    secrets, data, pieces = leak
    output = StepOutput(mask=Masker(secrets))
    whole = StepOutput(mask=Masker(secrets))
    whole.write(data)
    for piece in pieces:
        output.write(piece)
    output.close()
    whole.close()
    stored = output.take() or b""
    assert stored == (whole.take() or b"")
    for secret in secrets:
        for form in disguises(as_bytes(secret)):
            if b"\0" not in form and MARK not in form:
                assert form not in stored


@given(st.binary(min_size=4, max_size=60), st.binary(max_size=8), st.binary(max_size=8))
def test_base64_of_text_around_a_secret_hides_it(
    secret: bytes, before: bytes, after: bytes
) -> None:
    """At every alignment at most the outermost character on each side stays."""
    encoded = base64.b64encode(before + secret + after)
    masked = Masker([secret]).mask(encoded)
    assert MARK in masked
    kept = len(masked.replace(MARK, b""))
    assert kept <= len(base64.b64encode(before)) + len(base64.b64encode(after)) + 4


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("the key is s3cr3t/v4lue!", "the key is •••"),
        ("url?key=s3cr3t%2Fv4lue%21&x", "url?key=•••&x"),
        ("url?key=s3cr3t%2fv4lue%21&x", "url?key=•••&x"),
        ('{"key": "s3cr3t\\/v4lue!"}', '{"key": "•••"}'),
        (b"s3cr3t/v4lue!".hex(), "•••"),
        ("s3cr3t/v4lu", "s3cr3t/v4lu"),
        ("s3cr3t/s3cr3t/v4lue!v4lue!", "s3cr3t/•••v4lue!"),
    ],
)
def test_forms_of_a_secret_are_masked(written: str, expected: str) -> None:
    """A secret is recognised raw, URL-quoted, JSON-escaped and in hex; a part of it is not."""
    assert Masker(["s3cr3t/v4lue!"]).mask_text(written) == expected


def test_overlapping_secrets_are_masked_together() -> None:
    """Where two secrets overlap, nothing of either is left."""
    assert Masker(["abcdef", "defghi"]).mask(b"-abcdefghi-") == b"-" + MARK + b"-"


def test_lines_of_a_secret_are_masked() -> None:
    """A key of several lines is masked also where its lines are indented."""
    masker = Masker(["-----BEGIN-----\nMIIEvQIBADANBg\n-----END-----\n"])
    assert "MIIEvQ" not in masker.mask_text("  | MIIEvQIBADANBg\r\n")


def test_secrets_shorter_than_four_bytes_stay() -> None:
    """A secret such as "7" does not eat the output."""
    assert Masker(["7", "abc", ""]).mask(b"7 abc") == b"7 abc"


def test_a_secret_that_is_registered_late_is_masked_from_then_on() -> None:
    """Bytes that are held back already are looked at again with the new secret."""
    output = StepOutput(mask=Masker(["first-secret"]))
    output.write("first-")
    output.masker.add("t-second")
    output.write("second!")
    output.close()
    assert output.take() == b"firs" + MARK + b"!"


def test_only_what_may_become_a_secret_is_held_back() -> None:
    """Ordinary text is stored at once, also without a newline."""
    output = StepOutput(mask=Masker(["password"]))
    output.write("50 % pass")
    assert output.take() == b"50 % "
    output.write("ed")
    assert output.take() == b"passed"


@given(st.lists(st.binary(max_size=50)), st.integers(0, 200), st.integers(1, 40))
def test_output_is_valid_bounded_and_in_order(
    pieces: list[bytes], limit: int, line_limit: int
) -> None:
    """Whatever is written, what is stored is UTF-8 without NUL and not much above the limit."""
    output = StepOutput(limit=limit, line_limit=line_limit)
    stored = b""
    for piece in pieces:
        output.write(piece)
        stored += output.take() or b""
    output.close()
    stored += output.take() or b""
    assert "\0" not in stored.decode()
    assert len(stored) <= limit + len("\n… 1,234 bytes cut …\n".encode())
    assert output.size == len(stored)


@given(TEXT.filter(lambda text: "\0" not in text), st.lists(st.integers(0, 100), max_size=6))
def test_ordinary_output_is_stored_as_it_is(text: str, cuts: list[int]) -> None:
    """Below every limit nothing changes, also if characters are split."""
    output = StepOutput()
    for piece in cut(text.encode(), cuts):
        output.write(piece)
    output.close()
    assert (output.take() or b"").decode() == text


@given(st.lists(st.integers(0, 60), max_size=30), st.integers(0, 300), st.integers(2, 120))
def test_the_middle_of_much_output_is_left_out(lengths: list[int], seed: int, limit: int) -> None:
    """The beginning and the end are kept; the mark counts what is missing between them."""
    text = "".join(chr(97 + (seed + n) % 26) * n + "\n" for n in lengths)
    output = StepOutput(limit=limit)
    output.write(text)
    output.close()
    stored = (output.take() or b"").decode()
    if len(text) <= limit:
        assert stored == text
        return
    head, _, rest = stored.partition("… ")
    missing, _, tail = rest.partition(" bytes cut …\n")
    head = head if len(head) == limit // 2 else head.removesuffix("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(missing.replace(",", "")) == len(text) - len(head) - len(tail) == output.cut_bytes


def test_the_head_can_be_taken_while_the_step_runs_and_the_tail_after_it() -> None:
    """The first half of the limit streams, the last half comes at the end."""
    output = StepOutput(limit=20)
    output.write("0123456789abcdefghij")
    assert output.take() == b"0123456789"
    output.write("klmnopqrst")
    assert output.take() is None
    output.close()
    assert output.take() == "\n… 10 bytes cut …\nklmnopqrst".encode()


@pytest.mark.parametrize("size", [1, 3, 7, 1000])
def test_long_lines_are_cut_and_marked(size: int) -> None:
    """Of a long line the beginning stays, with a mark; lines at the limit are whole."""
    output = StepOutput(line_limit=10)
    data = b"0123456789\n" + b"x" * 25 + b"\nshort\n" + "äöüäöüäöü".encode() + b"\nend"
    for start in range(0, len(data), size):
        output.write(data[start : start + size])
    output.close()
    assert (output.take() or b"").decode() == (
        "0123456789\n"
        "xxxxxxxxxx … 15 bytes of this line cut …\n"
        "short\n"
        "äöüäö … 8 bytes of this line cut …\n"
        "end"
    )


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        (b"a\0b", "a\N{REPLACEMENT CHARACTER}b"),
        (b"\xff\xfe", "\N{REPLACEMENT CHARACTER}" * 2),
        ("lone \ud800 surrogate", "lone \N{REPLACEMENT CHARACTER} surrogate"),
        ("\x1b[31mred\x1b[0m", "\x1b[31mred\x1b[0m"),
    ],
)
def test_strange_output_becomes_text(written: str | bytes, stored: str) -> None:
    """NUL, invalid bytes and lone surrogates become U+FFFD; what pages show is not decided here."""
    output = StepOutput()
    output.write(written)
    output.close()
    assert (output.take() or b"").decode() == stored


def test_it_tells_once_that_there_is_something_to_take() -> None:
    """`on_dirty` comes with the first write after a take, and not if nothing can be taken."""
    calls: list[int] = []
    output = StepOutput(mask=Masker(["secret"]), on_dirty=lambda: calls.append(1))
    output.write("")
    output.write("secr")
    assert calls == []
    output.write("et\n")
    output.write("more\n")
    assert len(calls) == 1
    output.take()
    output.write("again\n")
    assert len(calls) == 2
    output.take()
    output.close()
    assert len(calls) == 2
    output.write("after the end\n")
    assert output.take() is None


def test_threads_may_write_at_once() -> None:
    """Lines of several threads come whole."""
    output = StepOutput(mask=Masker(["a secret"]))

    def write(number: int) -> None:
        for _ in range(500):
            output.write(f"thread {number} writes a secret\n")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    output.close()
    lines = (output.take() or b"").decode().splitlines()
    assert sorted(set(lines)) == [f"thread {number} writes •••" for number in range(4)]
    assert len(lines) == 2000


def test_a_step_that_writes_nothing_makes_no_buffers() -> None:
    """An output that is not used has nothing to take."""
    output = StepOutput()
    output.close()
    assert output.take() is None
    assert output.size == 0
