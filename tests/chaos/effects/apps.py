"""Lets a test shorten how long a silent holder is believed to live: `CHAOS_SILENCE=SECONDS`."""

from __future__ import annotations

import os

from django.apps import AppConfig


class EffectsConfig(AppConfig):
    name = "tests.chaos.effects"

    def ready(self) -> None:
        if silence := os.environ.get("CHAOS_SILENCE"):
            from executions import rescue, worker

            rescue.SILENCE_SECONDS = float(silence)
            # As with the real values: a holder fences itself well before others take its run.
            worker.SELF_FENCE_SECONDS = 0.75 * float(silence)
            worker.BEAT_SECONDS = 0.1 * float(silence)
