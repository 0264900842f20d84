"""Children that die, that never get ready, that do not end."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from executions import supervisor
from executions.supervisor import Child, Supervisor
from tests.processes import until

READY = "import os, sys, time; os.write(int(sys.argv[-1]), b'.'); "
DIE = "open(__import__('os').environ['HERE'] + '/starts', 'a').write('x'); raise SystemExit(7)"
STAY = READY + "time.sleep(600)"

StartSupervisor = Callable[..., Supervisor]


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def make_supervisor(
    said: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[StartSupervisor]:
    """Makes a supervisor of children with the given programs, named child0, child1, …"""
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.01)
    before = {number: signal.getsignal(number) for number in (1, 2, 15)}
    children: list[Child] = []

    def make(*programs: str, stop_seconds: float = 30) -> Supervisor:
        for number, program in enumerate(programs):
            child = Child(
                f"child{number}",
                [sys.executable, "-c", program],
                environment={**os.environ, "HERE": str(tmp_path)},
                stop_seconds=stop_seconds,
            )
            children.append(child)
        return Supervisor(children, said.append)

    yield make
    for child in children:
        child.kill_group()
    for number, handler in before.items():
        signal.signal(number, handler)


def test_children_that_are_ready_are_awaited(make_supervisor: StartSupervisor) -> None:
    site = make_supervisor(STAY, STAY)
    assert site.start()
    signal.raise_signal(signal.SIGTERM)
    assert site.run() == 0


def test_a_child_that_ends_at_its_start_is_named(
    make_supervisor: StartSupervisor, said: list[str]
) -> None:
    site = make_supervisor(STAY, "raise SystemExit(7)")
    assert not site.start()
    assert said == ["The child1 process ended at its start with exit code 7."]
    assert site.stop() == 1


def test_a_child_whose_service_is_away_is_not_given_up(
    make_supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch, said: list[str]
) -> None:
    """However often it ends with that code; it starts again until the service is back."""
    monkeypatch.setattr(supervisor, "AWAY_PAUSE_SECONDS", 0.01)
    site = make_supervisor(f"raise SystemExit({supervisor.AWAY_CODE})")

    def ask_to_stop_later(text: str) -> None:
        said.append(text)
        if len(said) == supervisor.DEATHS + 2:
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(site, "_say", ask_to_stop_later)
    assert site.run() == 0


def test_a_child_that_keeps_dying_is_given_up(
    make_supervisor: StartSupervisor, said: list[str], tmp_path: Path
) -> None:
    """After five deaths, with the reason and exit code 1; the other child ends too."""
    assert make_supervisor(STAY, DIE).run() == 1
    assert (tmp_path / "starts").read_text() == "xxxxx"
    assert said[-1] == (
        "Giving up: the child1 process ended 5 times within 60 s, the last time with exit code 7."
    )


def test_the_pauses_before_another_start_grow(
    make_supervisor: StartSupervisor, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "FIRST_PAUSE_SECONDS", 0.1)
    monkeypatch.setattr(supervisor, "LONGEST_PAUSE_SECONDS", 0.3)
    make_supervisor(DIE).run()
    pauses = [line.rpartition(" ")[0][-3:] for line in said[:-1]]
    assert pauses == ["0.1", "0.2", "0.3", "0.3"]


def test_deaths_long_ago_are_forgotten(
    make_supervisor: StartSupervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A child that dies now and then is started again for ever."""
    monkeypatch.setattr(supervisor, "DEATHS_WITHIN_SECONDS", 0.0)
    site = make_supervisor(DIE)

    def ask_to_stop_later(text: str) -> None:
        if len((tmp_path / "starts").read_text()) > 2 * supervisor.DEATHS:
            signal.raise_signal(signal.SIGTERM)

    site._say = ask_to_stop_later
    assert site.run() == 0


def test_a_child_that_does_not_end_is_killed(
    make_supervisor: StartSupervisor, said: list[str]
) -> None:
    site = make_supervisor(
        "import signal; signal.signal(15, signal.SIG_IGN); " + STAY, stop_seconds=0.2
    )
    assert site.start()
    signal.raise_signal(signal.SIGINT)
    assert site.run() == 1
    assert said == ["The child0 process does not end and is killed."]


def test_a_second_signal_is_passed_on(make_supervisor: StartSupervisor, tmp_path: Path) -> None:
    """A child can take it for "at once"."""
    count = (
        "import signal; seen = []; "
        "signal.signal(15, lambda *_: (seen.append(1), open(os.environ['HERE'] + '/asked', 'w')));"
        "os.write(int(sys.argv[-1]), b'.')\n"
        "while len(seen) < 2: time.sleep(0.01)"
    )
    site = make_supervisor("import os, sys, time; " + count)
    assert site.start()
    signal.raise_signal(signal.SIGINT)
    child = site._children[0]
    original = child.terminate

    def terminate() -> None:
        original()
        until((tmp_path / "asked").exists, "the first signal to arrive")
        if site._asked < 2:
            signal.raise_signal(signal.SIGINT)

    child.terminate = terminate  # type: ignore[method-assign]
    assert site.run() == 0


def test_children_learn_of_the_death_of_the_supervisor(make_supervisor: StartSupervisor) -> None:
    """The pipe that their environment names ends with the process that holds its other end."""
    wait = READY + "sys.exit(len(os.read(int(os.environ['STEPSITE_LIFELINE']), 1)))"
    site = make_supervisor(wait)
    assert site.start()
    os.close(site._held_fd)
    child = site._children[0]
    until(lambda: not child.is_alive, "the end of the child")
    assert child.exit == "exit code 0"
