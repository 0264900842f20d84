"""What can go wrong while a step runs, as its author sees it. Outcomes of steps are values."""

from __future__ import annotations


class EngineError(Exception):
    """Root of the engine's errors."""


class CannotStart(EngineError):  # noqa: N818  (it reads as the sentence it begins)
    """The step could not be started. The message is the sentence that people read."""


class CommandFailed(EngineError):  # noqa: N818
    """A command that a step ran with `ctx.run` exited with another code than 0."""

    def __init__(self, program: str, exit_code: int, last_line: str = "") -> None:
        detail = f": {last_line}" if last_line else ""
        super().__init__(f"{program}: exit code {exit_code}{detail}")
        self.exit_code = exit_code


class CommandTimedOut(EngineError):  # noqa: N818
    """A command that a step ran with `ctx.run(..., timeout=…)` took too long and was ended."""

    def __init__(self, program: str, seconds: float) -> None:
        super().__init__(f"{program}: not finished after {seconds:g} s")
        self.seconds = seconds


class AddressRefused(EngineError):  # noqa: N818
    """An `http` step asked for an address inside a network that it may not reach."""

    def __init__(self, host: str, address: str) -> None:
        super().__init__(
            f"{host} is {address}, which is no public address; allow it with allow_private in the "
            "step's target or with the host in http_allowed_hosts"
        )
        self.host = host
        self.address = address
