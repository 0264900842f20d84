"""What people may do here, and the groups that a new installation starts with."""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.contrib.auth.management import create_permissions
from django.contrib.auth.models import Group, Permission
from django.db import router, transaction
from django.db.models import Q

VIEW_RUN = "executions.view_run"
"""See anything at all."""
TRIGGER_RUN = "executions.trigger_run"
CANCEL_RUN = "executions.cancel_run"

_VIEW = (
    VIEW_RUN,
    "executions.view_steprun",
    "steps.view_batch",
    "steps.view_batchstep",
    "steps.view_classificationrule",
    "steps.view_ruleset",
    "steps.view_step",
)
_EDIT_RULES = tuple(
    f"steps.{verb}_classificationrule" for verb in ("add", "change", "delete", "view")
)

GROUPS: dict[str, tuple[str, ...]] = {
    "viewers": _VIEW,
    "operators": (*_VIEW, TRIGGER_RUN, CANCEL_RUN),
    "rule editors": (*_VIEW, *_EDIT_RULES),
}


def make_groups(*, using: str = "default", **kwargs: Any) -> None:
    """Make the groups that do not exist. One that exists belongs to the team: it stays as it is.

    Receives `post_migrate`, so it runs often and before every table need exist.
    """
    if not router.allow_migrate_model(using, Group):
        return
    missing = set(GROUPS) - set(Group.objects.using(using).values_list("name", flat=True))
    if not missing:
        return
    for label in ("steps", "executions"):
        create_permissions(apps.get_app_config(label), verbosity=0, using=using)
    for name in sorted(missing):
        _make_group(name, using)


def _make_group(name: str, using: str) -> None:
    wanted = set(GROUPS[name])
    permissions = list(Permission.objects.using(using).filter(_any_of(wanted)))
    if len(permissions) < len(wanted):  # a table is still to come, and this signal with it
        return
    with transaction.atomic(using=using):
        group, created = Group.objects.using(using).get_or_create(name=name)
        if created:
            group.permissions.set(permissions)


def _any_of(names: set[str]) -> Q:
    condition = Q()
    for name in names:
        label, codename = name.split(".")
        condition |= Q(content_type__app_label=label, codename=codename)
    return condition
