"""A command that tells its secrets in every way: `tell.py NAME...`."""

from __future__ import annotations

import base64
import html
import json
import os
import shlex
import sys
import time
from collections.abc import Iterator
from urllib.parse import quote, quote_plus


def tellings(secret: bytes) -> Iterator[bytes]:
    """All that is promised to be recognised."""
    text = secret.decode(errors="surrogateescape")
    shown = (repr(text), ascii(text), json.dumps(text), html.escape(text), shlex.quote(text))
    shown += (json.dumps(text, ensure_ascii=False), repr(secret), quote(secret), quote_plus(secret))
    yield secret
    yield b"beside" + secret + b"beside"
    for each in shown:
        yield each.encode(errors="surrogateescape")
    for before in range(3):
        yield base64.b64encode(b"?" * before + secret)
        yield base64.urlsafe_b64encode(b"?" * before + secret)
    yield base64.encodebytes(secret)
    yield secret.hex().encode()


def main(names: list[str]) -> None:
    for name in names:
        for told in tellings(os.environb[name.encode()]):
            size = max(1, len(told) // 5)
            for at in range(0, len(told), size):
                os.write(1, told[at : at + size])
                time.sleep(0.001)  # so that the pieces are read one by one
            os.write(1, b"\n")
    os.write(2, b"told all\n" + os.environb[names[0].encode()] + b"\n")
    sys.exit(3)


if __name__ == "__main__":
    main(sys.argv[1:])
