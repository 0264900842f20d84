"""The kinds of steps: what the target of each may be.

A target says what to run. Its shape depends on the kind; docs/steps.md lists them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .values import MISSING, choice_problem, flag_problem, shown, storable_problem

Path = tuple[str | int, ...]

ARGUMENT_BYTES = 128 * 1024 - 1
"""What Linux takes as one argument."""
ARGUMENTS = 1000
ISOLATIONS = ("thread", "process")
"""Where the function of a Python step runs; the first is the default."""
HTTP_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+\Z")
_COMMAND = re.compile(r"[A-Za-z0-9_-]+\Z")


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with one place in a target."""

    path: Path
    """Keys and indexes from the target down, such as `("argv", 2)`."""
    value: Any
    message: str
    """Completes "it …": `must be text`."""

    @property
    def field(self) -> str:
        """The path as people write it, such as `argv[2]`."""
        return "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in self.path
        ).lstrip(".")

    def __str__(self) -> str:
        return f"{self.field or 'target'} is {shown(self.value)}; it {self.message}"


Found = list[tuple[Path, Any, str]]
"""Problems inside a value: the path from it down, the value there, the message."""
FieldCheck = Callable[[Any], Found]


@dataclass(frozen=True, slots=True)
class Field:
    """One key of a target. The check of a required key says what is allowed also of None."""

    check: FieldCheck
    required: bool = False


@dataclass(frozen=True, kw_only=True, slots=True)
class Kind:
    """A kind of step. Its executor, registered under the same name, does the running."""

    name: str
    label: str
    fields: Mapping[str, Field] = field(default_factory=dict)
    runs_code: bool = True
    """Whether defining such a step is running code on the workers (see permissions.py)."""

    def validate_target(self, target: Any) -> list[Problem]:
        """Everything that is wrong with `target`; an empty list if nothing is."""
        if not isinstance(target, Mapping):
            return [Problem((), target, "must be an object: names with values")]
        problems = [
            Problem((key,), target[key], f"is unknown here; {self._allowed()}")
            for key in target
            if key not in self.fields
        ]
        for key, rule in self.fields.items():
            if key in target:
                problems += [
                    Problem((key, *path), *rest) for path, *rest in rule.check(target[key])
                ]
            elif rule.required:
                message = rule.check(None)[0][2]
                problems.append(Problem((key,), MISSING, message))
        return problems

    def _allowed(self) -> str:
        keys = ", ".join(self.fields)
        return f"{self.name} steps know {keys}" if keys else f"{self.name} steps have no target"


def _here(value: Any, message: str | None) -> Found:
    return [((), value, message)] if message else []


def _text(value: Any) -> Found:
    if not isinstance(value, str):
        return _here(value, "must be text (put it in quotes)")
    return _here(value, storable_problem(value))


def _argument(value: Any) -> Found:
    if found := _text(value):
        return found
    too_long = len(value.encode()) > ARGUMENT_BYTES
    return _here(value, f"must have at most {ARGUMENT_BYTES} bytes" if too_long else None)


def _filled(value: Any) -> Found:
    return _argument(value) or _here(value, None if value.strip() else "must not be empty")


def _each(values: Any, check: FieldCheck, *, most: int = ARGUMENTS) -> Found:
    if not isinstance(values, list | tuple) or len(values) > most:
        return _here(values, f"must be a list of at most {most} values")
    return [
        ((index, *path), value, message)
        for index, item in enumerate(values)
        for path, value, message in check(item)
    ]


def _arguments(value: Any) -> Found:
    return _each(value, _argument)


def _argv(value: Any) -> Found:
    if not isinstance(value, list | tuple) or not value:
        return _here(value, "must be a list: the program and its arguments")
    first = [((0, *path), item, message) for path, item, message in _filled(value[0])]
    return first or _arguments(value)


def _exit_code(value: Any) -> Found:
    fits = isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255
    return _here(value, None if fits else "must be a whole number from 0 to 255")


def _exit_codes(value: Any) -> Found:
    if isinstance(value, list | tuple) and not value:
        return _here(value, "must name at least one exit code")
    return _each(value, _exit_code, most=256)


def _variable(value: Any) -> Found:
    fits = isinstance(value, str) and _VARIABLE.match(value)
    return _here(value, None if fits else "must be a variable name: letters, digits, underscores")


def _variables(value: Any) -> Found:
    return _each(value, _variable)


def _texts_by(key_check: FieldCheck, value_check: FieldCheck) -> FieldCheck:
    def check(value: Any) -> Found:
        if not isinstance(value, Mapping):
            return _here(value, "must be an object: names with values")
        found: Found = []
        for key, item in value.items():
            inside = key_check(key) or value_check(item)
            found += [((str(key), *path), bad, message) for path, bad, message in inside]
        return found

    return check


def _header_name(value: Any) -> Found:
    fits = isinstance(value, str) and _HEADER.match(value)
    return _here(value, None if fits else "must be the name of an HTTP header")


def _header_value(value: Any) -> Found:
    if found := _text(value):
        return found
    fits = value.isascii() and (value.isprintable() or value.replace("\t", "").isprintable())
    return _here(value, None if fits else "must be one line of ASCII text")


def _url(value: Any) -> Found:
    message = "must be a URL that begins with http:// or https:// and names a host"
    if not isinstance(value, str) or not value.isprintable() or " " in value:
        return _here(value, message)
    try:
        parts = urlsplit(value)
        fits = parts.scheme in ("http", "https") and bool(parts.hostname)
        fits = fits and parts.port != 0
    except ValueError:
        fits = False
    return _here(value, None if fits else message)


def _isolation(value: Any) -> Found:
    return _here(value, choice_problem(value, ISOLATIONS))


def _method(value: Any) -> Found:
    fits = isinstance(value, str) and value in HTTP_METHODS
    return _here(value, None if fits else f"must be one of: {', '.join(HTTP_METHODS)}")


def _flag(value: Any) -> Found:
    return _here(value, flag_problem(value))


def _command(value: Any) -> Found:
    fits = isinstance(value, str) and _COMMAND.match(value) and not value.startswith("-")
    return _here(value, None if fits else "must be the name of a management command")


PYTHON = Kind(
    name="python",
    label="Python function",
    runs_code=False,
    fields={"isolation": Field(_isolation)},
)
COMMAND = Kind(
    name="command",
    label="Command",
    fields={
        "argv": Field(_argv, required=True),
        "cwd": Field(_filled),
        "exit_codes": Field(_exit_codes),
        "env": Field(_texts_by(_variable, _argument)),
        "secret_env": Field(_variables),
    },
)
HTTP = Kind(
    name="http",
    label="HTTP request",
    runs_code=False,
    fields={
        "url": Field(_url, required=True),
        "method": Field(_method),
        "headers": Field(_texts_by(_header_name, _header_value)),
        "body": Field(_text),
        "allow_private": Field(_flag),
    },
)
MANAGEMENT = Kind(
    name="management",
    label="Management command",
    fields={"command": Field(_command, required=True), "args": Field(_arguments)},
)

KINDS: dict[str, Kind] = {kind.name: kind for kind in (PYTHON, COMMAND, HTTP, MANAGEMENT)}
"""By name; a project adds its own with `register_kind`."""


def register_kind(kind: Kind) -> Kind:
    """Make `kind` known. Call it in an app's `ready()`; the name must be free."""
    known = KINDS.get(kind.name)
    if known is not None and known != kind:
        raise ValueError(
            f"The kind {kind.name!r} is taken by {known.label!r}; choose another name."
        )
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,19}", kind.name):
        raise ValueError(
            f"{kind.name!r} cannot name a kind: use 1 to 20 letters a-z, digits and underscores."
        )
    KINDS[kind.name] = kind
    return kind
