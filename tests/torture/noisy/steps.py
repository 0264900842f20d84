"""The Python steps of the torture tests."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from steps.registry import step

from .emit import pieces
from .tell import tellings


def log(ctx: Any) -> None:
    """Log a case, a piece at a time."""
    for piece in pieces(ctx.params["case"], ctx.params["bytes"]):
        ctx.check_cancelled()
        ctx.log(piece.decode(errors="surrogateescape"))


def _told(ctx: Any) -> list[str]:
    secrets = [ctx.secret(name) for name in ctx.params["secrets"]]
    for secret in secrets:
        for told in tellings(os.fsencode(secret)):
            ctx.log(told.decode(errors="surrogateescape"))
        print("printed", secret.encode(errors="replace").decode(), flush=True)
        logging.getLogger(__name__).warning("logged %r", secret)
    return secrets


def tell(ctx: Any) -> Any:
    """Log secrets in every way, and return them."""
    return {"told": _told(ctx), "nested": [{"again": ctx.secret(ctx.params["secrets"][0])}]}


def fail(ctx: Any) -> None:
    """Fail with secrets in the message."""
    secrets = _told(ctx)
    raise ValueError("x" * 300 + "".join(secrets), secrets)


def pass_on(ctx: Any) -> None:
    """Hand secrets to a command, which fails with one of them as its last line."""
    secrets = [ctx.secret(name) for name in ctx.params["secrets"]]
    environment = {f"TOLD_{number}": secret for number, secret in enumerate(secrets)}
    ctx.run(["sh", "-c", 'set -x; env; : "$TOLD_0"; echo "$TOLD_1"; exit 3'], env=environment)


def bystander(ctx: Any) -> None:
    """Look at the environment that a command of another step gets, until a file says enough."""
    enough = Path(ctx.context["folder"]) / "enough"
    look = 'until [ -e "$1" ]; do env; sleep 0.05; done'
    ctx.run(["sh", "-c", look, "bystander", str(enough)])


for isolation in ("thread", "process"):
    for function in (log, tell, fail, pass_on, bystander):
        step(f"{function.__name__} {isolation}", timeout=600, isolation=isolation)(function)
