"""Who may define what. Defining a command is running code on the workers."""

from __future__ import annotations

from django.contrib.auth.models import AbstractBaseUser, AnonymousUser

from .conf import conf
from .kinds import KINDS, Kind

DEFINE_COMMAND = "steps.define_command_step"

AnyUser = AbstractBaseUser | AnonymousUser


def may_define(user: AnyUser, kind: str) -> bool:
    """Whether `user` may create or change steps of this kind, beside the usual permissions.

    Kinds that run code are for superusers, or, if the setting COMMANDS_BY_PERMISSION is true, for
    users with the permission `steps.define_command_step`. So is a kind that nobody registered.
    """
    known = KINDS.get(kind)
    if known is not None and not known.runs_code:
        return True
    if not getattr(user, "is_active", False):
        return False
    if getattr(user, "is_superuser", False):
        return True
    return conf.commands_by_permission and bool(_has_permission(user))


def _has_permission(user: AnyUser) -> bool:
    has_perm = getattr(user, "has_perm", None)
    return bool(has_perm and has_perm(DEFINE_COMMAND))


def definable_kinds(user: AnyUser) -> list[Kind]:
    return [kind for kind in KINDS.values() if may_define(user, kind.name)]
