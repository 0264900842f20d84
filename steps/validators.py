"""The checks of `values.py` as validators of model fields."""

from __future__ import annotations

from typing import Any

from django.core.exceptions import ValidationError

from . import values


def _refuse(problem: str | None) -> None:
    if problem:
        # Form fields have a message of their own for the code "invalid".
        raise ValidationError(sentence(problem), code="not_allowed")


def sentence(problem: str) -> str:
    """`must be text` as `Must be text.`"""
    return f"{problem[:1].upper()}{problem[1:]}."


# Functions of their own, because migrations name them.
def validate_name(value: Any) -> None:
    _refuse(values.name_problem(value))


def validate_category(value: Any) -> None:
    _refuse(values.category_problem(value))


def validate_slug(value: Any) -> None:
    _refuse(values.slug_problem(value))


def validate_text(value: Any) -> None:
    _refuse(values.text_problem(value))


def validate_seconds(value: Any) -> None:
    _refuse(values.seconds_problem(value))


def validate_span(value: Any) -> None:
    _refuse(values.span_problem(value))


def validate_attempts(value: Any) -> None:
    _refuse(values.attempts_problem(value))


def validate_pool_width(value: Any) -> None:
    _refuse(values.pool_width_problem(value))


def validate_active_runs(value: Any) -> None:
    _refuse(values.active_runs_problem(value))


def validate_object(value: Any) -> None:
    _refuse(values.object_problem(value))


def validate_context(value: Any) -> None:
    _refuse(values.context_problem(value))


def validate_json(value: Any) -> None:
    _refuse(values.json_problem(value))
