"""The functions that `python` steps run, by name. Plain Python.

from steps.registry import step

@step("RebuildIndexStep", category="search", timeout=30)
def rebuild_index(ctx): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from . import values
from .kinds import ISOLATIONS

StepFunction = Callable[[Any], Any]
"""Takes the step context; may be `async def`."""
Function = TypeVar("Function", bound=StepFunction)


class UnknownStep(LookupError):  # noqa: N818  (reads as a sentence where it is caught)
    """No function is registered under this name."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"No function is registered for the step {values.shown(name)}. "
            f"Is the steps.py that defines it there, and does it import?"
        )
        self.name = name


class StepDefinitionError(ValueError):
    """A `@step(…)` that cannot be accepted; says which and what is allowed."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RegisteredStep:
    """A function and what its decorator says about it. Durations in seconds."""

    name: str
    function: StepFunction
    category: str = ""
    description: str = ""
    timeout: float | None = None
    grace: float | None = None
    """None: the default of steps."""
    retry_safe: bool = False
    attempts: int = 3
    backoff: float = 1.0
    protected: bool = False
    isolation: str = ISOLATIONS[0]
    """One of ISOLATIONS."""
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.function.__module__

    @property
    def place(self) -> str:
        """Where the function is, such as `shop.steps, line 12 (rebuild_index)`."""
        name = getattr(self.function, "__qualname__", repr(self.function))
        code = getattr(self.function, "__code__", None)
        line = f", line {code.co_firstlineno}" if code else ""
        return f"{self.module}{line} ({name})"

    def problems(self) -> list[str]:
        checks: dict[str, tuple[Any, values.Check]] = {
            "name": (self.name, values.name_problem),
            "category": (self.category, values.category_problem),
            "description": (self.description, values.text_problem),
            "timeout": (self.timeout, values.optional_seconds_problem),
            "grace": (0 if self.grace is None else self.grace, values.span_problem),
            "retry_safe": (self.retry_safe, values.flag_problem),
            "attempts": (self.attempts, values.attempts_problem),
            "backoff": (self.backoff, values.span_problem),
            "protected": (self.protected, values.flag_problem),
            "isolation": (self.isolation, _isolation_problem),
            "parameters": (self.parameters, values.object_problem),
        }
        return [
            f"{argument} is {values.shown(value)}; it {problem}"
            for argument, (value, check) in checks.items()
            if (problem := check(value))
        ]


class Registry:
    """Registered steps by name, and the modules that could not be imported."""

    def __init__(self) -> None:
        self._steps: dict[str, RegisteredStep] = {}
        self.failures: dict[str, str] = {}
        """What went wrong at the import of an app's steps, by the name of its module."""

    def get(self, name: str) -> StepFunction:
        """The function called `name`; raises `UnknownStep`."""
        try:
            return self._steps[name].function
        except KeyError:
            raise UnknownStep(name) from None

    def __contains__(self, name: object) -> bool:
        return name in self._steps

    def __iter__(self) -> Iterator[RegisteredStep]:
        return iter(self._steps.values())

    def __len__(self) -> int:
        return len(self._steps)

    def add(self, step: RegisteredStep) -> None:
        if problems := step.problems():
            raise StepDefinitionError(
                f"The step {values.shown(step.name)} in {step.place}: {'; '.join(problems)}."
            )
        known = self._steps.get(step.name)
        # The same place again is a module that was reloaded.
        if known is not None and known.place != step.place:
            raise StepDefinitionError(
                f"Two functions are registered as the step {values.shown(step.name)}: "
                f"{known.place} and {step.place}. Give one of them another name."
            )
        self._steps[step.name] = step

    def forget(self, name: str) -> None:
        self._steps.pop(name, None)


registry = Registry()
"""What `@step` fills and workers read."""


def step(
    name: str,
    *,
    category: str = "",
    description: str = "",
    timeout: float | None = None,
    grace: float | None = None,
    retry_safe: bool = False,
    attempts: int = 3,
    backoff: float = 1.0,
    protected: bool = False,
    isolation: str = ISOLATIONS[0],
    parameters: Mapping[str, Any] | None = None,
) -> Callable[[Function], Function]:
    """Register the decorated function as the step `name`; returns it unchanged.

    `timeout`, `grace` and `backoff` are seconds. `isolation`: `thread`, or `process` for one that
    can be killed. Without a description, the first line of the function's docstring is taken.
    Raises `StepDefinitionError`.
    """

    def register(function: Function) -> Function:
        registry.add(
            RegisteredStep(
                name=name,
                function=function,
                category=category,
                description=description or _summary(function),
                timeout=timeout,
                grace=grace,
                retry_safe=retry_safe,
                attempts=attempts,
                backoff=backoff,
                protected=protected,
                isolation=isolation,
                parameters={} if parameters is None else parameters,
            )
        )
        return function

    return register


def _isolation_problem(value: Any) -> str | None:
    return values.choice_problem(value, ISOLATIONS)


def _summary(function: StepFunction) -> str:
    lines = (function.__doc__ or "").strip().splitlines()
    return lines[0] if lines else ""
