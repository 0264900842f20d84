"""A command that writes a lot: `emit.py CASE BYTES [BYTES_PER_SECOND]`; 0 bytes: without end.

Notes the process that started it in a file named after the case, in the folder that the run's
context names.
"""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

PIECE = 64 * 1024


def _repeated(text: str) -> Callable[[int], bytes]:
    data = text.encode("utf-8", "surrogateescape")
    return lambda _: data * (PIECE // len(data))


CASES: dict[str, Callable[[int], bytes]] = {
    "lines": lambda number: b"".join(b"line %d.%d\n" % (number, each) for each in range(4000)),
    "one_line": _repeated("x"),
    "binary": lambda number: random.Random(number).randbytes(PIECE),
    "nul": _repeated("\0\0\0\n"),
    "invalid": _repeated("\udcff \udcc3 \udce2\udc82 \udced\udca0\udc80 invalid\n"),
    "ansi": _repeated("\x1b[2J\x1b[9;9H\x1b[31mred\x1b[0m\x1b]0;title\x07\x1b(B text\b\b\x07\r\n"),
    "bidi": _repeated("\u202eright to left\u2066 override \u200f\n"),
    "markup": _repeated("<script>alert(1)</script><img src=x onerror=alert(1)>\n"),
}
"""What each case writes, piece by piece."""


def pieces(case: str, size: int) -> Iterator[bytes]:
    """At least `size` bytes, for ever if it is 0, with a first and a last line."""
    yield f"{case} begins\n".encode()
    written = 0
    for number in count():
        piece = CASES[case](number)
        yield piece
        written += len(piece)
        if size and written >= size:
            break
    yield f"\n{case} ends\n".encode()


def main(case: str, size: int, rate: int = 0) -> None:
    folder = Path(json.loads(Path(os.environ["STEPSITE_CONTEXT"]).read_text())["folder"])
    note = {"pid": os.getpid(), "worker": os.getppid()}
    draft = folder / f".{os.getpid()}"
    draft.write_text(json.dumps(note))
    draft.replace(folder / f"{case}-{os.getpid()}")
    started, written = time.monotonic(), 0
    for piece in pieces(case, size):
        rest = memoryview(piece)
        while rest:
            rest = rest[os.write(1, rest) :]
        written += len(piece)
        if rate:
            time.sleep(max(0.0, started + written / rate - time.monotonic()))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
