from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from executions.engine.output import MARK, TAIL_LIMIT, TAKE_LIMIT, Masker, StepOutput

TEXT = st.text(st.characters(codec="utf-8", exclude_characters="•\N{REPLACEMENT CHARACTER}"))
HIDDEN = st.text(st.sampled_from("ABCDEFG"), min_size=4, max_size=40)
"""Secrets whose letters are nowhere else in the outputs of these tests."""
MIDDLE = "… from here on only the end is kept:"
ELSE = st.text(st.sampled_from("xyz é\n"), max_size=30)


def cut(data: bytes, cuts: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(min(point, len(data)) for point in cuts), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


@st.composite
def pieces_with_secrets(draw: st.DrawFn, secrets: Sequence[str]) -> list[bytes]:
    parts = draw(st.lists(st.one_of(st.sampled_from(secrets), ELSE), max_size=20))
    data = "".join(parts).encode()
    return cut(data, draw(st.lists(st.integers(0, max(1, len(data))), max_size=12)))


@st.composite
def leaks(draw: st.DrawFn) -> tuple[list[str], list[bytes], list[bytes]]:
    """Secrets, and two outputs in pieces in which they stand."""
    secrets = draw(st.lists(HIDDEN, min_size=1, max_size=4))
    return secrets, draw(pieces_with_secrets(secrets)), draw(pieces_with_secrets(secrets))


def everything(output: StepOutput) -> bytes:
    return b"".join(iter(output.take, None))


def stored_of(output: StepOutput, pieces: Sequence[bytes]) -> bytes:
    stored = b""
    for piece in pieces:
        output.write(piece)
        stored += output.take() or b""
    output.close()
    return stored + (output.take() or b"")


@given(leaks(), st.integers(0, 300), st.integers(1, 60))
def test_no_cut_leaves_a_piece_of_a_secret(
    leak: tuple[list[str], list[bytes], list[bytes]], limit: int, line_limit: int
) -> None:
    """Secrets are gone before anything is cut, so not one letter of theirs is ever stored."""
    secrets, pieces, _ = leak
    output = StepOutput(limit=limit, line_limit=line_limit, mask=Masker(secrets))
    stored = stored_of(output, pieces).decode()
    assert not set("".join(secrets)) & set(stored)
    assert output.size == len(stored.encode())


@given(leaks(), st.booleans())
def test_outputs_that_share_their_secrets_do_not_disturb_each_other(
    leak: tuple[list[str], list[bytes], list[bytes]], close_first: bool
) -> None:
    """Steps that run side by side are stored as each of them alone."""
    secrets, first, second = leak
    mask = Masker(secrets)
    outputs = [StepOutput(mask=mask), StepOutput(mask=mask)]
    for number in range(max(len(first), len(second))):
        for output, pieces in zip(outputs, (first, second), strict=True):
            output.write(b"".join(pieces[number : number + 1]))
    if close_first:
        outputs[0].close()
    outputs[1].close()
    outputs[0].close()
    for output, pieces in zip(outputs, (first, second), strict=True):
        assert (output.take() or b"") == stored_of(StepOutput(mask=Masker(secrets)), pieces)


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
    assert len(stored) <= limit + len(f"\n{MIDDLE} 1,234 bytes cut …\n".encode())
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
    head, _, rest = stored.partition(f"{MIDDLE} ")
    missing, _, tail = rest.partition(" bytes cut …\n")
    head = head if len(head) == limit // 2 else head.removesuffix("\n")
    assert text.startswith(head)
    assert text.endswith(tail)
    assert int(missing.replace(",", "")) == len(text) - len(head) - len(tail) == output.cut_bytes


def test_the_head_can_be_taken_while_the_step_runs_and_the_tail_after_it() -> None:
    """Who reads meanwhile, or after the worker died, sees that there was more."""
    output = StepOutput(limit=20)
    output.write("0123456789abcdefghij")
    assert output.take() == b"0123456789"
    output.write("klmnopqrst")
    assert output.take() == f"\n{MIDDLE}".encode()
    output.write("uvwxyz")
    assert output.take() is None
    output.close()
    assert output.take() == b" 16 bytes cut \xe2\x80\xa6\nqrstuvwxyz"


def test_most_of_what_is_kept_can_be_taken_at_once() -> None:
    """Only memory holds the tail until the step ends, so it is small."""
    output = StepOutput()
    for _ in range(20):
        output.write((b"x" * 1023 + b"\n") * 1024)
    assert len(everything(output)) > 9_000_000
    output.close()
    assert len(everything(output)) < TAIL_LIMIT + 100


def test_it_is_handed_out_in_pieces() -> None:
    """Whoever stores them never needs much memory for one."""
    output = StepOutput()
    output.write(b"\xff\n" * 2_000_000)
    output.close()
    pieces = list(iter(output.take, None))
    assert max(map(len, pieces)) <= TAKE_LIMIT
    assert b"".join(pieces).decode() == "\N{REPLACEMENT CHARACTER}\n" * 2_000_000


def test_a_long_line_is_seen_to_be_cut_before_it_ends() -> None:
    output = StepOutput(line_limit=4)
    output.write("abcdefgh")
    assert (output.take() or b"").decode() == "abcd …"
    output.write("ij\nk")
    assert (output.take() or b"").decode() == " 6 bytes of this line cut …\nk"


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


def test_a_secret_that_is_too_short_is_told() -> None:
    """It stays readable, and whoever reads the output knows."""
    output = StepOutput()
    output.hide("PIN", "123")
    output.hide("KEY", "1234")
    output.write("123 1234")
    output.close()
    assert output.take() == b"The secret PIN is too short to be masked.\n123 " + MARK
