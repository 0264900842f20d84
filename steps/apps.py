"""Start-up: finds the steps of all apps; after a migration, brings their rows in line."""

from __future__ import annotations

from typing import Any

from django.apps import AppConfig
from django.apps import apps as current_apps
from django.db.models.signals import post_migrate


class StepsConfig(AppConfig):
    name = "steps"
    verbose_name = "Steps and rules"

    def ready(self) -> None:
        from . import checks  # noqa: F401  (registers)
        from .discovery import discover

        discover()
        post_migrate.connect(_sync_after_migrate, sender=self)


def _sync_after_migrate(*, using: str, apps: Any = current_apps, **kwargs: Any) -> None:
    from .models import Step
    from .sync import sync_steps

    try:
        migrated = apps.get_model("steps", "Step")
    except LookupError:
        return
    # Not after a migration back to an earlier shape of the table.
    if {f.column for f in migrated._meta.fields} == {f.column for f in Step._meta.fields}:
        sync_steps(using=using)
