"""Rules that the whole tree keeps. Each failure names the place."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TypeGuard

import pytest
from packaging.version import Version

ROOT = Path(__file__).parent.parent.parent
PACKAGES = ("stepsite", "steps", "executions")


def sources(*folders: str) -> Iterator[Path]:
    for folder in folders:
        yield from sorted((ROOT / folder).rglob("*.py"))


def place(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT)}:{line}"


def test_imports_point_one_way() -> None:
    """The contracts of pyproject.toml hold."""
    linter = Path(sys.executable).with_name("lint-imports")  # in-process it would alter logging
    result = subprocess.run([linter], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout


IN_MEMORY = ("self", "viewer", "watch")
"""What has a status or a sequence and is no row."""


def is_name(node: ast.expr, *names: str) -> bool:
    return isinstance(node, ast.Name) and node.id in names


def is_write(node: ast.AST) -> TypeGuard[ast.Call]:
    return (
        isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr in ("update", "create", "bulk_update")
    )


def test_status_is_assigned_in_transitions_alone() -> None:
    """No code outside executions/transitions gives a row a status, a sequence or an epoch."""
    written = {"status", "sequence", "epoch", "cancel_requested_at"}
    found = []
    for path in sources("executions", "steps"):
        parts = path.relative_to(ROOT).parts
        if parts[:2] in (("executions", "transitions"), ("executions", "engine")):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            names: list[str | None] = []
            if isinstance(node, ast.Assign):
                attributes = [item for item in node.targets if isinstance(item, ast.Attribute)]
                names = [item.attr for item in attributes if not is_name(item.value, *IN_MEMORY)]
            elif is_write(node):
                names = [keyword.arg for keyword in node.keywords]
            if written.intersection(names):
                found.append(place(path, node.lineno))
    assert not found


MAY_SLEEP = {
    "calls.py",
    "cluster_host.py",
    "count.py",
    "emit.py",
    "outage.py",
    "processes.py",
    "proxy.py",
    "step_functions.py",
    "tell.py",
    "waiting.py",
}
"""The loops that poll a condition until a deadline, and what tests start: programs and steps."""


def test_tests_do_not_sleep() -> None:
    """A test waits for a condition with a deadline, never for a time.

    The bodies of steps and programs that a test runs are functions and texts inside it.
    """
    found = []
    for path in sources("tests"):
        if path.name in MAY_SLEEP or is_play(path):
            continue
        for test in ast.parse(path.read_text()).body:
            found += [place(path, node.lineno) for node in own_nodes(test) if is_sleep(node)]
    assert not found


def is_play(path: Path) -> bool:
    """Whether it measures, or plays a fault that comes at a time of its own."""
    return "benchmarks" in path.parts or (
        "chaos" in path.parts and not path.name.startswith("test_")
    )


def own_nodes(test: ast.stmt) -> Iterator[ast.AST]:
    """The nodes of a function without those of functions defined in it."""
    waiting: list[ast.AST] = list(ast.iter_child_nodes(test))
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            waiting += ast.iter_child_nodes(node)


def is_sleep(node: ast.AST) -> bool:
    called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
    return called in ("time.sleep", "asyncio.sleep") or called.endswith(".wait_for_timeout")


TEMPLATES = [*(ROOT / "templates").rglob("*.html"), *(ROOT / "steps").rglob("*.html")]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_keep_the_content_security_policy(path: Path) -> None:
    """No inline script, style, handler or `javascript:`; nothing is marked as safe."""
    forbidden = {
        "inline script": r"<script(?![^>]*\bsrc=)(?![^>]*application/json)",
        "style element": r"<style\b",
        "style attribute": r"\sstyle=",
        "event handler": r"\son[a-z]+=",
        "javascript address": r"javascript:",
        "safe filter": r"\|\s*safe\b|autoescape off",
    }
    text = path.read_text()
    found = [what for what, pattern in forbidden.items() if re.search(pattern, text, re.I)]
    assert not found


def test_pages_load_nothing_from_elsewhere() -> None:
    """No script, style, font or picture comes from another host."""
    loads = re.compile(r"""(?:src|href)=["']https?://|@import\s+["']?https?:|url\(["']?https?:""")
    files = [*TEMPLATES, *(ROOT / "static").rglob("*.css"), *(ROOT / "static").rglob("*.js")]
    assert not [str(path.relative_to(ROOT)) for path in files if loads.search(path.read_text())]


def test_scripts_write_text_never_markup() -> None:
    """What a step prints reaches the page as text."""
    forbidden = re.compile(r"\b(innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval)\b")
    found = [
        place(path, number)
        for path in (ROOT / "static").rglob("*.js")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if forbidden.search(line)
    ]
    assert not found


def test_commands_are_never_shell_strings() -> None:
    """Processes are started from lists of arguments."""
    found = []
    for path in sources(*PACKAGES):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call):
                for keyword in node.keywords:
                    is_true = getattr(keyword.value, "value", None) is True
                    if keyword.arg == "shell" and is_true:
                        found.append(place(path, node.lineno))
    assert not found


FLOORS = {
    # Below: unbounded websocket messages (CVE-2026-44545), header smuggling (CVE-2026-44546).
    "daphne": "4.2.2",
    "channels": "4.3.2",
    "Django": "5.2.17",
    "twisted": "24.7",
    "autobahn": "20.12.3",
}


@pytest.mark.parametrize(("package", "least"), FLOORS.items())
def test_packages_are_above_their_security_floor(package: str, least: str) -> None:
    """An older version has a known hole that matters here."""
    assert Version(version(package)) >= Version(least)
