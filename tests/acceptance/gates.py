"""The test's end of the gates that steps wait at."""

from __future__ import annotations

from pathlib import Path

from .gated.gate import EVERY_GATE


class Gates:
    """A folder whose files let steps go on."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self._folder = folder

    @property
    def context(self) -> dict[str, str]:
        """What a run must be triggered with to wait here."""
        return {"gates": str(self._folder)}

    def open(self, *names: str) -> None:
        for name in names:
            (self._folder / name).touch()

    def open_all(self) -> None:
        self.open(EVERY_GATE)
