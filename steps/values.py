"""What a value in a definition may be.

Each `…_problem` function takes a value from anywhere (YAML, a form, a decorator) and returns None,
or a phrase that completes "it …", such as `must be a whole number from 1 to 256`.
"""

from __future__ import annotations

import json
import math
import string
import unicodedata
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from .json_text import LONGEST_NUMBER, TOO_LARGE, RepeatedKey

Check = Callable[[Any], str | None]


class _Missing:
    """Stands for a value that should be there and is not."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()

NAME_LENGTH = 200
CATEGORY_LENGTH = 100
TEXT_LENGTH = 10_000
CONTEXT_BYTES = 1024 * 1024
"""Of a run's context, as compact JSON in UTF-8."""
JSON_DEPTH = 100
LONGEST_SECONDS = 30 * 24 * 3600.0
POOL_WIDTHS = (1, 256)
ATTEMPTS = (1, 100)
ACTIVE_RUNS = (1, 1000)

# Scripts such as Persian and many emoji cannot be written without these two.
_JOINERS = "\u200c\u200d"
_UNPRINTABLE = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
_SLUG_CHARACTERS = frozenset(string.ascii_letters + string.digits + "-_")


def unprintable(text: str) -> str | None:
    """The first character of `text` that cannot be shown, as `U+001B`; None if all can."""
    if text.isprintable():
        return None
    for character in text:
        if unicodedata.category(character) in _UNPRINTABLE and character not in _JOINERS:
            return f"U+{ord(character):04X}"
    return None


def name_problem(value: Any, limit: int = NAME_LENGTH) -> str | None:
    """For names that people read. Markup is fine: whoever shows a name escapes it."""
    if not isinstance(value, str):
        return "must be text (put it in quotes)"
    if not value.strip():
        return "must not be empty"
    if len(value) > limit:
        return f"must have at most {limit} characters, not {len(value)}"
    if bad := unprintable(value):
        return f"must have printable characters only, and {bad} is not"
    if value != value.strip():
        return "must not begin or end with a space"
    return None


def category_problem(value: Any) -> str | None:
    return None if value == "" else name_problem(value, CATEGORY_LENGTH)


def optional_name_problem(value: Any) -> str | None:
    return None if value == "" else name_problem(value)


def slug_problem(value: Any) -> str | None:
    allowed = "must be 1 to 200 letters (a-z, A-Z), digits, hyphens and underscores"
    if not isinstance(value, str) or not 1 <= len(value) <= NAME_LENGTH:
        return allowed
    return None if set(value) <= _SLUG_CHARACTERS else allowed


def text_problem(value: Any, limit: int = TEXT_LENGTH) -> str | None:
    """For text of several lines."""
    if not isinstance(value, str):
        return "must be text (put it in quotes)"
    if len(value) > limit:
        return f"must have at most {limit} characters, not {len(value)}"
    return storable_problem(value)


def storable_problem(text: str) -> str | None:
    """Two things that PostgreSQL cannot store, and SQLite should not."""
    if "\0" in text:
        return "must not contain the NUL character"
    try:
        text.encode()
    except UnicodeEncodeError:
        return "must not contain half of a surrogate pair"
    return None


def flag_problem(value: Any) -> str | None:
    return None if isinstance(value, bool) else "must be true or false"


def whole_number_problem(value: Any, least: int, most: int) -> str | None:
    if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most:
        return None
    return f"must be a whole number from {least} to {most}"


def seconds_problem(value: Any, *, zero: bool = False) -> str | None:
    """For a duration: above 0, or also 0 itself if `zero`."""
    if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        high_enough = value >= 0 if zero else value > 0
        if high_enough and value <= LONGEST_SECONDS:
            return None
    least = "from 0" if zero else "above 0,"
    return f"must be a number of seconds {least} up to {LONGEST_SECONDS:.0f} (30 days)"


def optional_seconds_problem(value: Any) -> str | None:
    return None if value is None else seconds_problem(value)


def choice_problem(value: Any, choices: tuple[str, ...]) -> str | None:
    if isinstance(value, str) and value in choices:
        return None
    return f"must be one of: {', '.join(choices)}"


def json_problem(value: Any) -> str | None:
    """For a JSON value that every database can store and every program can read."""
    # A stack of its own: the values come from outside and may be nested without end.
    waiting: list[tuple[Any, int]] = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if depth > JSON_DEPTH:
            return f"must not be nested deeper than {JSON_DEPTH} levels"
        if isinstance(item, RepeatedKey):
            return f"must not hold the key {shown(item.key)} twice"
        if isinstance(item, Mapping):
            if not all(isinstance(key, str) for key in item):
                return "must have text as keys of objects (put them in quotes)"
            waiting.extend((key, depth) for key in item)
            waiting.extend((child, depth + 1) for child in item.values())
        elif isinstance(item, list | tuple):
            waiting.extend((child, depth + 1) for child in item)
        elif problem := _scalar_problem(item):
            return problem
    return None


def _scalar_problem(value: Any) -> str | None:
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return storable_problem(value)
    if isinstance(value, int):
        fits = abs(value) < TOO_LARGE
        return None if fits else f"must have numbers of at most {LONGEST_NUMBER} digits"
    if isinstance(value, float):
        return None if math.isfinite(value) else "must have finite numbers only"
    return f"must be JSON, and {type(value).__name__} is not a JSON type (put it in quotes)"


def object_problem(value: Any) -> str | None:
    """For a JSON object."""
    if not isinstance(value, Mapping):
        return "must be an object: names with values"
    return json_problem(value)


def context_problem(value: Any) -> str | None:
    """For the context of a run: a JSON object of at most 1 MiB."""
    if problem := object_problem(value):
        return problem
    size = len(json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode())
    if size > CONTEXT_BYTES:
        return f"must have at most {CONTEXT_BYTES} bytes as JSON, not {size}"
    return None


pool_width_problem: Check = partial(whole_number_problem, least=POOL_WIDTHS[0], most=POOL_WIDTHS[1])
attempts_problem: Check = partial(whole_number_problem, least=ATTEMPTS[0], most=ATTEMPTS[1])
active_runs_problem: Check = partial(
    whole_number_problem, least=ACTIVE_RUNS[0], most=ACTIVE_RUNS[1]
)
span_problem: Check = partial(seconds_problem, zero=True)
"""For a duration that may be 0."""


def pretty(value: Any, indent: int | None = 2) -> str:
    """A JSON value as text for a page."""
    text = json.dumps(value, ensure_ascii=False, indent=indent)
    return text if storable_problem(text) is None else json.dumps(value, indent=indent)


def shown(value: Any, limit: int = 80) -> str:
    """`value` for an error message: as JSON if it is that, cut to `limit` characters."""
    try:
        text = json.dumps(value, ensure_ascii=False)
    except (TypeError, ValueError, RecursionError):
        text = str(value)
    # A terminal or a log may be unable to take half of a surrogate pair.
    text = text.encode(errors="backslashreplace").decode()
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
