"""The list of crash points is all that the code passes, and a crash happens where it was asked."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from executions.engine import crash_points

from .scenarios import WEB_POINTS, crash_point_cases

ROOT = Path(__file__).parent.parent.parent
PASS_THREE = """
from executions.engine.crash_points import passing
for number in range(4):
    passing("end_written", number != 1)
print("alive")
"""


def passed() -> Counter[str]:
    """The names that the code passes, each a literal."""
    found: Counter[str] = Counter()
    for path in (ROOT / "executions").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func) == "crash_points.passing":
                assert isinstance(node.args[0], ast.Constant), f"{path}:{node.lineno}"
                found[node.args[0].value] += 1
    return found


def run(order: str, note: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "STEPSITE_CRASH": order}
    if note is not None:
        environment["STEPSITE_CRASH_NOTE"] = str(note)
    return subprocess.run(
        [sys.executable, "-c", PASS_THREE],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_the_code_passes_every_point_once_and_no_other() -> None:
    assert passed() == Counter(crash_points.NAMES)


@pytest.mark.parametrize("kind", ["embedded", "grown"])
def test_every_point_is_among_the_scenarios(kind: str) -> None:
    """Twice where a process can pass it twice, and in the web where that passes it."""
    labels = {case.label for case in crash_point_cases(kind)}
    for name in crash_points.NAMES:
        programs = ["web"] if name in WEB_POINTS else ["worker"]
        assert all(f"crash {program} {name}:1" in labels for program in programs)


def test_the_process_dies_at_the_passing_that_was_asked_for() -> None:
    """What does not happen is no passing."""
    assert run("end_written:3").returncode == -signal.SIGKILL
    assert run("end_written:4").stdout == "alive\n"
    assert run("end_committed:1").stdout == "alive\n"


def test_one_crash_is_enough(tmp_path: Path) -> None:
    note = tmp_path / "note"
    assert run("end_written:1", note).returncode == -signal.SIGKILL
    assert note.exists()
    assert run("end_written:1", note).stdout == "alive\n"


def test_a_point_that_does_not_exist_is_told() -> None:
    done = run("end_writen:1")
    assert done.returncode == 1
    assert "NAME of" in done.stderr
