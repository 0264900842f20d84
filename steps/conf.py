"""Settings that the steps app reads: keys of `settings.STEPSITE`, read when asked for."""

from __future__ import annotations

from typing import Any

from django.conf import settings


class Conf:
    """Each attribute is a setting in lower case, with its default here."""

    @property
    def commands_by_permission(self) -> bool:
        """False: only superusers define steps that run code. True: also `define_command_step`."""
        return bool(self._get("COMMANDS_BY_PERMISSION", False))

    def _get(self, key: str, default: Any) -> Any:
        return getattr(settings, "STEPSITE", {}).get(key, default)


conf = Conf()
