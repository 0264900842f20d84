"""Imports the `steps` module of every installed app, so that its `@step`s register."""

from __future__ import annotations

import logging
import sys
from importlib import import_module

from django.apps import apps
from django.utils.module_loading import module_has_submodule

from .registry import Registry, registry

logger = logging.getLogger(__name__)


def discover(into: Registry = registry) -> None:
    """Import them all. One that fails is noted in `into.failures` and leaves nothing behind."""
    for app in apps.get_app_configs():
        if app.module is not None and module_has_submodule(app.module, "steps"):
            _import(f"{app.name}.steps", into)


def _import(module: str, into: Registry) -> None:
    into.failures.pop(module, None)
    try:
        import_module(module)
    # SystemExit: a script that was never meant to be imported must not end the site.
    except (Exception, SystemExit) as error:
        into.failures[module] = f"{type(error).__name__}: {error}"
        logger.exception("Could not import %s; its steps are missing.", module)
        _forget_unfinished(into)


def _forget_unfinished(into: Registry) -> None:
    """Drop what a module registered before it failed: it is gone from `sys.modules`."""
    for step in list(into):
        if step.module not in sys.modules:
            into.forget(step.name)
