"""How the API answers: JSON that nobody caches, and errors that name their field."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

from django.http import HttpRequest, HttpResponse

from .protocol import encode


class FieldError(TypedDict):
    field: str
    """Such as `options.pool_width`; empty if it is about no field."""
    message: str
    """A sentence."""


class Refusal(Exception):  # noqa: N818  (an answer, not an accident)
    """The request cannot be met; every reason at once."""

    def __init__(self, status: int, *errors: FieldError) -> None:
        super().__init__(status, errors)
        self.status = status
        self.errors = errors


def is_api(request: HttpRequest) -> bool:
    """Whether a program asks, which wants JSON instead of a page."""
    return request.path_info.startswith("/api/")


def answer(value: Mapping[str, Any], status: int = 200) -> HttpResponse:
    return uncached(HttpResponse(encode(value), status=status, content_type="application/json"))


def refusal(status: int, *errors: FieldError) -> HttpResponse:
    return answer({"errors": list(errors)}, status)


def refused(status: int, message: str, field: str = "") -> HttpResponse:
    return refusal(status, {"field": field, "message": message})


def uncached(response: HttpResponse) -> HttpResponse:
    response["Cache-Control"] = "no-store"
    return response
