"""The settings of the site, but for waits that a test would only sit out."""

from __future__ import annotations

from stepsite.settings import *  # noqa: F403

STEPSITE = {"DRAIN_SECONDS": 1.0}
