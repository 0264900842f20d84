"""The registry of step functions: no database."""

from __future__ import annotations

from typing import Any

import pytest

from steps import registry as registry_module
from steps.registry import RegisteredStep, Registry, StepDefinitionError, UnknownStep, step


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """An empty registry that `@step` fills for the time of a test."""
    empty = Registry()
    monkeypatch.setattr(registry_module, "registry", empty)
    return empty


def work(ctx: Any) -> None:
    """Does the work.

    And more of it.
    """


def other_work(ctx: Any) -> None:
    pass


def test_step_registers_and_returns_the_function(registry: Registry) -> None:
    """The decorator leaves the function as it is and keeps what it was told."""
    decorated = step("RebuildIndexStep", category="search", timeout=30, retry_safe=True)(work)
    assert decorated is work
    assert registry.get("RebuildIndexStep") is work
    assert "RebuildIndexStep" in registry
    (known,) = registry
    assert (known.category, known.timeout, known.retry_safe) == ("search", 30, True)
    assert (known.attempts, known.backoff, known.protected, known.parameters) == (3, 1, False, {})
    assert known.module == __name__


def test_description_defaults_to_the_first_line_of_the_docstring(registry: Registry) -> None:
    """A docstring describes a step that has no description."""
    step("A")(work)
    step("B", description="Something else.")(work)
    assert [known.description for known in registry] == ["Does the work.", "Something else."]


def test_async_functions_register(registry: Registry) -> None:
    """An `async def` is a step function like any other."""

    @step("A")
    async def wait(ctx: Any) -> None: ...

    assert registry.get("A") is wait


def test_unknown_step_names_the_step(registry: Registry) -> None:
    """Asking for a step that nobody registered says which."""
    with pytest.raises(UnknownStep, match='"NoSuchStep"') as caught:
        registry.get("NoSuchStep")
    assert caught.value.name == "NoSuchStep"


def test_a_second_function_of_the_same_name_is_refused(registry: Registry) -> None:
    """The error names both places, and the first function stays."""
    step("A")(work)
    with pytest.raises(StepDefinitionError) as caught:
        step("A")(other_work)
    message = str(caught.value)
    assert f"{__name__}, line {work.__code__.co_firstlineno} (work)" in message
    assert f"{__name__}, line {other_work.__code__.co_firstlineno} (other_work)" in message
    assert registry.get("A") is work


def test_registering_the_same_place_again_replaces(registry: Registry) -> None:
    """A module that is loaded again may register its functions again."""
    step("A", timeout=1)(work)
    step("A", timeout=2)(work)
    (known,) = registry
    assert known.timeout == 2


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\u0007b"}, "U\\+0007"),
        ({"name": "a\ud800"}, "U\\+D800"),
        ({"name": "x" * 201}, "at most 200"),
        ({"name": 7}, "must be text"),
        ({"timeout": 0}, "timeout is 0"),
        ({"timeout": -1}, "timeout is -1"),
        ({"timeout": float("nan")}, "timeout is NaN"),
        ({"timeout": "30"}, 'timeout is "30"'),
        ({"grace": -0.5}, "grace is -0.5"),
        ({"attempts": 0}, "attempts is 0"),
        ({"attempts": True}, "attempts is true"),
        ({"backoff": -1}, "backoff is -1"),
        ({"retry_safe": 1}, "retry_safe is 1"),
        ({"isolation": "fork"}, 'isolation is "fork"; it must be one of: thread, process'),
        ({"isolation": None}, "isolation is null"),
        ({"parameters": [1]}, "parameters is \\[1\\]"),
        ({"parameters": {"a": object()}}, "not a JSON type"),
        ({"category": "a\nb"}, "U\\+000A"),
    ],
)
def test_bad_arguments_are_refused(
    registry: Registry, arguments: dict[str, Any], complaint: str
) -> None:
    """A decorator with a bad argument fails at once, says which, and registers nothing."""
    with pytest.raises(StepDefinitionError, match=complaint):
        step(**{"name": "A", **arguments})(work)
    assert len(registry) == 0


def test_all_problems_are_told_at_once() -> None:
    """Two bad arguments give two problems."""
    bad = RegisteredStep(name="A", function=work, timeout=-1, attempts=0)
    assert len(bad.problems()) == 2
