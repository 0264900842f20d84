"""System checks: what is wrong with the steps of this installation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.core import checks
from django.db import connections

from .models import Step
from .registry import registry
from .sync import clash_sentence, clashes


@checks.register()
def modules_import(**kwargs: Any) -> list[checks.CheckMessage]:
    """Every app's steps module imports."""
    return [
        checks.Warning(
            f"{module} could not be imported, so its steps are missing: {reason}",
            hint=f"Mend it and restart; `python -c 'import {module}'` shows where it fails.",
            id="steps.W001",
        )
        for module, reason in registry.failures.items()
    ]


@checks.register(checks.Tags.database)
def names_are_free(
    *, databases: Sequence[str] | None = None, **kwargs: Any
) -> list[checks.CheckMessage]:
    """No step from code has the name of a step of another kind."""
    return [
        checks.Warning(clash_sentence(name), id="steps.W002")
        for alias in databases or ()
        if Step._meta.db_table in connections[alias].introspection.table_names()
        for name in clashes(using=alias)
    ]
