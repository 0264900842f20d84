from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from executions.engine.executors.workspace import Workspaces, context_file
from tests.unit.calls import DEADLINE

OWNER = """
import sys
from pathlib import Path
from executions.engine.executors.workspace import Workspaces
print(Workspaces(Path(sys.argv[1])).take({"a": 1}), flush=True)
sys.stdin.readline()
"""


def owner(parent: Path) -> tuple[subprocess.Popen[str], str]:
    """A process with a directory, and where that is."""
    argv = [sys.executable, "-c", OWNER, str(parent)]
    made = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert made.stdout is not None
    return made, made.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate(timeout=DEADLINE)


def descriptors() -> int:
    """How many are open; 0 where the system does not tell."""
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def test_what_a_killed_worker_left_is_removed_by_the_next(tmp_path: Path) -> None:
    """Directory and context of a dead process go, those of a living one stay."""
    dead, left = owner(tmp_path)
    living, kept = owner(tmp_path)
    try:
        (Path(left) / "file").write_text("x")
        end(dead)
        assert Path(left).exists()
        workspaces = Workspaces(tmp_path)
        mine = workspaces.take({})
        assert not Path(left).exists()
        assert Path(context_file(kept)).exists()
        workspaces.give_back(mine, reusable=True)
        assert list(tmp_path.iterdir()) == [Path(kept)]
    finally:
        end(dead)
        end(living)


def test_what_is_none_of_its_business_stays(tmp_path: Path) -> None:
    """Files and links that are called as a directory of a step are left alone."""
    (tmp_path / "step-file").write_text("x")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "step-link").symlink_to(elsewhere)
    workspaces = Workspaces(tmp_path)
    workspaces.give_back(workspaces.take({}), reusable=True)
    assert elsewhere.exists()
    assert (tmp_path / "step-file").exists()


def test_locks_go_with_their_directories(tmp_path: Path) -> None:
    """No descriptor stays."""
    workspaces = Workspaces(tmp_path)
    before = descriptors()
    taken = [workspaces.take({}) for _ in range(5)]
    for directory in taken:
        workspaces.give_back(directory, reusable=True)
    assert (descriptors(), list(tmp_path.iterdir())) == (before, [])


def test_a_parent_that_vanished_is_made_again(tmp_path: Path) -> None:
    """Somebody tidied too much; the next step runs all the same."""
    workspaces = Workspaces(tmp_path / "work")
    workspaces.give_back(workspaces.take({}), reusable=False)
    (tmp_path / "work").rmdir()
    directory = workspaces.take({})
    assert Path(directory).is_dir()
    workspaces.give_back(directory, reusable=False)
