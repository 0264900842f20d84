"""Twenty secrets such as people have, and worse ones."""

from __future__ import annotations

import os

PREFIX = "STEPSITE_SECRET_"


def _text(data: bytes) -> str:
    """As the environment of a process holds it."""
    return os.fsdecode(data)


CANARIES = {
    "SHORTEST": "qZ7-",
    "EIGHT": "Kx9_vQ2w",
    "TOKEN": "ghp_canaryA8sD7fG6hJ5kL4",
    "TOKEN_AND_MORE": "ghp_canaryA8sD7fG6hJ5kL4-and-the-rest-of-it",
    "PASSWORD": "p@ss:w0rd/of?the#canary&co",
    "SINGLE": "it's-the-canary's-own",
    "DOUBLE": 'say "canary" twice "now"',
    "PERCENT": "100%25canary%%of%20it",
    "BACKSLASH": "back\\slash\\canary\\n",
    "SPACES": "  canary with spaces around  ",
    "TAB": "canary\twith\ttabs",
    "UNICODE": "ключ-канарейки-鍵-𝄞-é",
    "MARKUP": "<canary>&amp;'\"</canary>",
    "SHELL": "$(canary) `id` ! ~ # * ;",
    "KEY": "-----BEGIN CANARY-----\nMIIEvQIBADANBgkqhkiG9w0B\nAASCBKcwggSjAgEA\n-----END-----\n",
    "LINES": "first line of the canary\nx1\nlast line of the canary",
    "JSON": '{"type": "canary", "key": "a\\nb", "n": [1, 2]}',
    "BINARY": _text(b"\xff\xfe\x01canary\x7f\x80\xe2\x82(bytes"),
    "LONG": "".join(chr(33 + (7 * n + n // 94) % 94) for n in range(4096)),
    "LONGER": "Canary0123456789" * 256,
}
