"""Targets of the kinds of steps, and the checks of values: no database."""

from __future__ import annotations

from typing import Any

import pytest

from steps import values
from steps.kinds import KINDS, Field, Kind, Problem, register_kind


def complaints(kind: str, target: Any) -> list[tuple[str, str]]:
    return [(problem.field, problem.message) for problem in KINDS[kind].validate_target(target)]


@pytest.mark.parametrize(
    ("kind", "target"),
    [
        ("python", {}),
        ("python", {"isolation": "thread"}),
        ("python", {"isolation": "process"}),
        ("command", {"argv": ["true"]}),
        (
            "command",
            {
                "argv": ["grep", "", "{what}", "ünï"],
                "cwd": "/tmp",
                "exit_codes": [0, 1, 255],
                "env": {"LANG": "C", "EMPTY": ""},
                "secret_env": ["TOKEN"],
            },
        ),
        ("http", {"url": "https://example.org/path?x=1"}),
        (
            "http",
            {
                "url": "http://[::1]:8000/",
                "method": "POST",
                "headers": {"Accept": "text/plain", "X-A": ""},
                "body": "two\nlines",
                "allow_private": True,
            },
        ),
        ("management", {"command": "clearsessions"}),
        ("management", {"command": "check", "args": ["--deploy"]}),
    ],
)
def test_good_targets_have_no_problem(kind: str, target: Any) -> None:
    """What docs/steps.md shows is accepted."""
    assert complaints(kind, target) == []


@pytest.mark.parametrize(
    ("kind", "target", "field", "message"),
    [
        ("python", {"argv": []}, "argv", "know isolation"),
        ("python", {"isolation": "fork"}, "isolation", "thread, process"),
        ("python", [], "", "object"),
        ("command", {}, "argv", "the program and its arguments"),
        ("command", {"argv": []}, "argv", "the program and its arguments"),
        ("command", {"argv": "ls -l"}, "argv", "list"),
        ("command", {"argv": [""]}, "argv[0]", "empty"),
        ("command", {"argv": ["ls", 3]}, "argv[1]", "text"),
        ("command", {"argv": ["ls", "a\0b"]}, "argv[1]", "NUL"),
        ("command", {"argv": ["ls", "\ud800"]}, "argv[1]", "surrogate"),
        ("command", {"argv": ["ls", "x" * 200_000]}, "argv[1]", "bytes"),
        ("command", {"argv": ["ls"], "exit_codes": []}, "exit_codes", "at least one"),
        ("command", {"argv": ["ls"], "exit_codes": [256]}, "exit_codes[0]", "0 to 255"),
        ("command", {"argv": ["ls"], "exit_codes": [True]}, "exit_codes[0]", "0 to 255"),
        ("command", {"argv": ["ls"], "env": {"A=B": "x"}}, "env.A=B", "variable name"),
        ("command", {"argv": ["ls"], "env": {"A": 1}}, "env.A", "text"),
        ("command", {"argv": ["ls"], "secret_env": ["a b"]}, "secret_env[0]", "variable name"),
        ("command", {"argv": ["ls"], "cwd": " "}, "cwd", "empty"),
        ("command", {"argv": ["ls"], "shell": True}, "shell", "know argv"),
        ("http", {"url": "ftp://x"}, "url", "http://"),
        ("http", {"url": "https://"}, "url", "host"),
        ("http", {"url": "http://a b"}, "url", "URL"),
        ("http", {"url": "http://x:99999/"}, "url", "URL"),
        ("http", {"url": "http://[::1"}, "url", "URL"),
        ("http", {"url": "http://x/\r\nHost: y"}, "url", "URL"),
        ("http", {"url": "http://x", "method": "get"}, "method", "GET"),
        ("http", {"url": "http://x", "headers": {"A b": "x"}}, "headers.A b", "name of an HTTP"),
        ("http", {"url": "http://x", "headers": {"A": "x\r\nB: y"}}, "headers.A", "one line"),
        ("http", {"url": "http://x", "allow_private": "yes"}, "allow_private", "true or false"),
        ("management", {"command": "--version"}, "command", "management command"),
        ("management", {"command": "a b"}, "command", "management command"),
        ("management", {}, "command", "management command"),
        ("management", {"command": "check", "args": "x"}, "args", "list"),
    ],
)
def test_bad_targets_name_place_and_what_is_allowed(
    kind: str, target: Any, field: str, message: str
) -> None:
    """Each problem says where it is and what would be right."""
    found = complaints(kind, target)
    assert [place for place, _ in found] == [field]
    assert message in found[0][1]


def test_all_problems_are_found_at_once() -> None:
    """A target with three faults gives three problems."""
    assert len(complaints("command", {"argv": ["a", 1, 2], "cwd": 3})) == 3


def test_only_commands_run_code() -> None:
    """Defining commands is what the permission rule is about."""
    assert {kind.name for kind in KINDS.values() if kind.runs_code} == {"command", "management"}


def test_a_project_can_add_a_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """A registered kind validates its own target; its name must be free and plain."""
    monkeypatch.setattr("steps.kinds.KINDS", dict(KINDS))

    def words(value: Any) -> list[Any]:
        return [] if isinstance(value, str) else [((), value, "must be words")]

    speak = Kind(name="speak", label="Speech", fields={"text": Field(words, required=True)})
    assert register_kind(speak) is speak
    assert register_kind(speak) is speak
    assert speak.validate_target({"text": "hello"}) == []
    assert speak.validate_target({}) == [Problem(("text",), values.MISSING, "must be words")]
    assert speak.runs_code
    with pytest.raises(ValueError, match="taken"):
        register_kind(Kind(name="command", label="Mine"))
    with pytest.raises(ValueError, match="cannot name a kind"):
        register_kind(Kind(name="Bad name", label="x"))


@pytest.mark.parametrize(
    "name",
    [
        "a",
        "RebuildIndexStep",
        "<script>alert(1)</script>",
        "日本 語",
        "क्\u200dष",
        "👩\u200d🚀",
    ],
)
def test_good_names(name: str) -> None:
    """Markup is text, and every script is welcome."""
    assert values.name_problem(name) is None


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("  ", "empty"),
        (" a", "space"),
        ("a\n", "U+000A"),
        ("a\u0000b", "U+0000"),
        ("a\u001b[31m", "U+001B"),
        ("a\u202eb", "U+202E"),
        ("a\u2028b", "U+2028"),
        ("a\ud800", "U+D800"),
        ("x" * 201, "at most 200"),
        (None, "text"),
        (True, "text"),
    ],
)
def test_bad_names(name: Any, reason: str) -> None:
    """Control characters, invisible directions and halves of pairs are refused in words."""
    problem = values.name_problem(name)
    assert problem is not None
    assert reason in problem


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ([], "object"),
        ("{}", "object"),
        (None, "object"),
        ({"a": float("nan")}, "finite"),
        ({"a": float("inf")}, "finite"),
        ({"a": "x\0"}, "NUL"),
        ({"a\0": 1}, "NUL"),
        ({"a": ["\udfff"]}, "surrogate"),
        ({1: 2}, "keys"),
        ({"a": {1, 2}}, "set is not a JSON type"),
        ({"a": 10**500}, "digits"),
        ({"a": nested(100_000)}, "nested"),
        ({"a": "x" * 1024 * 1024}, "at most 1048576 bytes"),
    ],
)
def test_bad_contexts(value: Any, reason: str) -> None:
    """What a database cannot store, or is too large, is refused before it gets there."""
    problem = values.context_problem(value)
    assert problem is not None
    assert reason in problem


def test_the_largest_context_fits() -> None:
    """Exactly one MiB of JSON is allowed, and its size counts bytes."""
    room = values.CONTEXT_BYTES - len('{"a":""}')
    assert values.context_problem({"a": "x" * room}) is None
    assert values.context_problem({"a": "x" * (room + 1)}) is not None
    assert values.context_problem({"a": "é" * (room // 2 + 1)}) is not None


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        (0.001, True),
        (30, True),
        (values.LONGEST_SECONDS, True),
        (0, False),
        (-5, False),
        (float("inf"), False),
        (float("nan"), False),
        (True, False),
        ("30", False),
        (None, False),
        (values.LONGEST_SECONDS + 1, False),
    ],
)
def test_seconds(value: Any, fits: bool) -> None:
    """Durations are finite numbers above 0, up to 30 days."""
    assert (values.seconds_problem(value) is None) is fits


def test_shown_values_are_short_and_safe() -> None:
    """Error messages show values as JSON, cut, and printable anywhere."""
    assert values.shown("a\nb") == '"a\\nb"'
    assert values.shown("\ud800") == '"\\ud800"'
    assert values.shown(values.MISSING) == "missing"
    assert len(values.shown("x" * 1000)) == 80
    assert values.shown({1, 2}) == "{1, 2}"
