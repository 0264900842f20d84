"""Runs, workers and the audit trail in the admin: to be read, never written.

Pages and API change runs; here a form would bypass the rules of the lifecycle.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django.apps import apps
from django.contrib import admin
from django.db import models
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

from .models import AuditEntry, Run, Worker

if TYPE_CHECKING:
    ModelAdmin = admin.ModelAdmin[Any]
else:
    ModelAdmin = admin.ModelAdmin


class ReadOnlyAdmin(ModelAdmin):
    """Lists and shows; adds, changes and deletes nothing."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: models.Model | None = None) -> bool:
        return False


@admin.register(Run)
class RunAdmin(ReadOnlyAdmin):
    list_display = ("id", "batch_slug", "status", "total", "triggered_by", "queued_at", "page")
    list_filter = ("status", "batch_slug")
    search_fields = ("batch_slug", "batch_name", "triggered_by")
    date_hierarchy = "queued_at"

    @admin.display(description="run page")
    def page(self, run: Run) -> SafeString:
        return format_html('<a href="{}">open</a>', run.get_absolute_url())


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnlyAdmin):
    list_display = ("at", "actor_name", "action", "subject", "run")
    list_filter = ("action",)
    search_fields = ("actor_name", "subject")
    date_hierarchy = "at"
    list_select_related = ("run",)


@admin.register(Worker)
class WorkerAdmin(ReadOnlyAdmin):
    list_display = ("id", "host", "slots", "kill_level", "started_at", "seen_at", "stopped_at")


# django-q2's own pages would let any staff member with the right permission schedule any function.
for model in apps.get_app_config("django_q").get_models():
    if admin.site.is_registered(model):
        admin.site.unregister(model)
