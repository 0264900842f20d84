"""Reads JSON that people wrote; keeps what a plain reader would hide, or refuse in its own words.

`values.json_problem` then says what is wrong with it, beside the field that holds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import Any

LONGEST_NUMBER = 400
"""Digits of a whole number; Python itself refuses to read some thousands, databases far fewer."""
TOO_LARGE = 10**LONGEST_NUMBER
"""Stands for every whole number with more digits."""


class RepeatedKey(dict[str, Any]):
    """An object in which the same key stands twice, so that one value would be lost silently."""

    key: str
    """The first such key."""


def read_json(text: str | bytes, *, parse_constant: Callable[[str], Any] | None = None) -> Any:
    """As `json.loads`; raises `ValueError` and `RecursionError` for what is no JSON at all."""
    return json.loads(
        text, parse_int=_whole_number, parse_constant=parse_constant, object_pairs_hook=_object
    )


class JSONDecoder(json.JSONDecoder):
    """`read_json` for whoever takes a class, as Django's form fields do."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"parse_int": _whole_number, "object_pairs_hook": _object, **options})


def _whole_number(text: str) -> int:
    return int(text) if len(text.lstrip("-")) <= LONGEST_NUMBER else TOO_LARGE


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    repeated = RepeatedKey(found)
    repeated.key = _first_repeated(key for key, _ in pairs)
    return repeated


def _first_repeated(keys: Iterable[str]) -> str:
    seen: set[str] = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    raise ValueError("no key is repeated")
