"""A YAML file as plain JSON values that remember their lines."""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError
from ruamel.yaml.reader import ReaderError
from ruamel.yaml.scalarbool import ScalarBoolean
from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

from .values import JSON_DEPTH, shown

Path = tuple[str | int, ...]

FILE_BYTES = 10 * 1024 * 1024
# Aliases can make a small file unfold to any size.
VALUES = 500_000


@dataclass(frozen=True, slots=True)
class FileProblem:
    """What is wrong with one value of a file."""

    line: int | None
    """From 1; None if it is about the file as a whole."""
    field: str
    """Such as `batches[0].entries[3].timeout_seconds`; empty for the file as a whole."""
    value: Any
    message: str
    """A clause that says what is allowed."""

    def __str__(self) -> str:
        place = "" if self.line is None else f"line {self.line}: "
        return f"{place}{self._subject()}{self.message}"

    def _subject(self) -> str:
        return f"{self.field} is {shown(self.value)}; " if self.field else ""


class DefinitionError(ValueError):
    """A file that cannot be loaded, with all its problems in the order of their lines."""

    def __init__(self, problems: Iterable[FileProblem]) -> None:
        self.problems = sorted(problems, key=lambda problem: problem.line or 0)
        super().__init__("\n".join(str(problem) for problem in self.problems))


class Document:
    """The values of a file (`data`) and where each stands."""

    def __init__(self, text: str | bytes) -> None:
        """Raises `DefinitionError` for what is no YAML, or no JSON in YAML."""
        self._lines: dict[Path, int] = {}
        self._values = 0
        root = _parse(_decode(text))
        self._lines[()] = 1
        try:
            self.data = self._plain(root, ())
        except RecursionError:
            raise _refusal(None, "the file is nested too deeply.") from None

    def line(self, path: Path) -> int:
        """The line of the value at `path`, or of what holds it if there is none."""
        while path not in self._lines:
            path = path[:-1]
        return self._lines[path]

    def problem(self, path: Path, value: Any, message: str) -> FileProblem:
        return FileProblem(self.line(path), written(path), value, message)

    def _plain(self, node: Any, path: Path) -> Any:
        self._values += 1
        if self._values > VALUES:
            raise _refusal(None, f"the file unfolds to more than {VALUES} values.")
        if len(path) > 2 * JSON_DEPTH:
            raise _refusal(self.line(path), "the file is nested too deeply here.")
        if isinstance(node, Mapping):
            return self._plain_mapping(node, path)
        if isinstance(node, list):
            return self._plain_list(node, path)
        return self._plain_scalar(node, path)

    def _plain_mapping(self, node: Any, path: Path) -> dict[str, Any]:
        plain = {}
        for key, value in node.items():
            inside = (*path, str(key))
            # A key that was merged in with "<<" has no line here.
            self._lines[inside] = _line_of(node, key) or self.line(path)
            if not isinstance(key, str):
                allowed = "the name itself must be text (put it in quotes)."
                raise DefinitionError([self.problem(inside, str(key), allowed)])
            plain[str(key)] = self._plain(value, inside)
        return plain

    def _plain_list(self, node: Any, path: Path) -> list[Any]:
        plain = []
        for index, value in enumerate(node):
            inside = (*path, index)
            self._lines[inside] = _line_of(node, index) or self.line(path)
            plain.append(self._plain(value, inside))
        return plain

    def _plain_scalar(self, node: Any, path: Path) -> Any:
        if node is None or isinstance(node, bool):
            return node
        if isinstance(node, ScalarBoolean):
            return bool(node)
        if isinstance(node, str):
            return str(node)
        if isinstance(node, int):
            return int(node)
        if isinstance(node, float):
            number = float(node)
            if math.isfinite(number):
                return number
        allowed = "it must be text, a number, true, false or null (put text in quotes)."
        raise DefinitionError([self.problem(path, str(node), allowed)])


def written(path: Path) -> str:
    """A path as people write it: `batches[0].slug`."""
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
    return "".join(parts).lstrip(".")


def _decode(text: str | bytes) -> str:
    if len(text) > FILE_BYTES:
        raise _refusal(None, f"the file has more than {FILE_BYTES} bytes.")
    if isinstance(text, str):
        return text
    try:
        return text.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = text.count(b"\n", 0, error.start) + 1
        raise _refusal(line, "the file is not UTF-8 here.") from None


def _parse(text: str) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            root = YAML(typ="rt", pure=True).load(text)
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = None if mark is None else mark.line + 1
        raise _refusal(line, f"this is no YAML: {error.problem or error.context}.") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise _refusal(line, f"U+{error.character:04X} is not allowed in YAML.") from None
    # The parser has more ways to give up on bad input than it documents.
    except Exception as error:
        raise _refusal(None, f"this is no YAML: {type(error).__name__}: {error}.") from None
    return root


def _line_of(node: Any, key: Any) -> int | None:
    """Where the key stands, or the item of a list."""
    places = node.lc
    find = places.key if isinstance(node, Mapping) else places.item
    try:
        return int(find(key)[0]) + 1
    except (KeyError, TypeError):
        return None


def _refusal(line: int | None, message: str) -> DefinitionError:
    return DefinitionError([FileProblem(line, "", None, message)])


def to_yaml(data: Any) -> str:
    """JSON values as YAML that `Document` reads back as the same values."""
    writer = YAML(typ="rt", pure=True)
    # Equal lists that happen to be one object would otherwise become an alias.
    writer.representer.ignore_aliases = lambda *_: True
    writer.width = 10_000
    stream = io.StringIO()
    writer.dump(_readable(data), stream)
    return stream.getvalue()


def _readable(value: Any) -> Any:
    """`value` with text in a form that is pleasant to read, where that form can hold it."""
    if isinstance(value, dict):
        return {_escaped(key): _readable(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_readable(item) for item in value]
    if isinstance(value, str):
        fits = "\n" in value and _fits_block(value)
        return LiteralScalarString(value) if fits else _escaped(value)
    return value


def _escaped(text: str) -> str:
    # Left to itself the writer loses some line breaks that are not "\n".
    return text if text.isprintable() else DoubleQuotedScalarString(text)


def _fits_block(text: str) -> bool:
    lines = text.split("\n")
    begins_well = lines[0] != "" and not lines[0].startswith(" ")
    return begins_well and all(line.isprintable() and line == line.rstrip() for line in lines)
