"""Fields of the models that Django has no like of."""

from __future__ import annotations

from typing import Any

from django.db import models


class ObjectField(models.JSONField):
    """A JSON object. Nothing counts as "no value": `[]` must be refused, not passed over."""

    empty_values: list[Any] = []

    def formfield(self, **kwargs: Any) -> Any:
        # Django would send the value to the browser a second time, only because its default is
        # a function; a context can be large.
        return super().formfield(**{"show_hidden_initial": False, **kwargs})
