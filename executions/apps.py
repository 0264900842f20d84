"""Start-up: after a migration, makes the groups that a new installation begins with."""

from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class ExecutionsConfig(AppConfig):
    name = "executions"
    verbose_name = "Executions"

    def ready(self) -> None:
        from .permissions import make_groups

        post_migrate.connect(make_groups, sender=self, dispatch_uid="executions.make_groups")
