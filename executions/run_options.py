"""What can be chosen for a run, checked once for pages, API and command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NoReturn

from steps import values
from steps.json_text import read_json

from .engine.plan import FailurePolicy, PoolStart, RunOptions

OPTIONS: Mapping[str, tuple[values.Check, Callable[[Any], Any]]] = {
    "pool_width": (values.pool_width_problem, int),
    "failure_policy": (lambda v: values.choice_problem(v, tuple(FailurePolicy)), FailurePolicy),
    "pool_start": (lambda v: values.choice_problem(v, tuple(PoolStart)), PoolStart),
    # As a float, as everywhere else: 20 and 20.0 would give two hashes of one plan.
    "default_timeout_seconds": (values.optional_seconds_problem, float),
}
"""By name: what is wrong with a value, and the value as `RunOptions` holds it."""


class ContextError(ValueError):
    """A text that is no context; says what is wrong, and where."""


def option_problems(given: Mapping[str, Any]) -> dict[str, str]:
    """What is wrong with options, a phrase such as `must be …` by name; empty: nothing."""
    known = ", ".join(OPTIONS)
    problems = {name: f"is not known here, only: {known}" for name in given if name not in OPTIONS}
    for name, (check, _) in OPTIONS.items():
        if name in given and (problem := check(given[name])):
            problems[name] = problem
    return problems


def chosen_options(given: Mapping[str, Any], defaults: RunOptions) -> RunOptions:
    """`defaults`, overridden by options without problems."""
    chosen = {name: OPTIONS[name][1](value) for name, value in given.items() if value is not None}
    return replace(defaults, **chosen)


def read_context(text: str) -> dict[str, Any]:
    """The JSON object in `text`. Raises `ContextError`."""
    try:
        context = read_json(text, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise ContextError(f"This is not JSON: {error.msg.lower()} ({place}).") from None
    except (ValueError, RecursionError) as error:
        raise ContextError(f"This is not JSON: {error}.") from None
    if problem := values.context_problem(context):
        raise ContextError(f"The context {problem}.")
    result: dict[str, Any] = context
    return result


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def option_from_text(text: str) -> Any:
    """A value as it was typed: `8` and `null` are JSON, `continue` is text."""
    try:
        return json.loads(text)
    except ValueError:
        return text
