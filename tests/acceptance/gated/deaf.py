"""A command that goes on after SIGTERM, until a gate opens: `deaf.py NAME`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.acceptance.gated.gate import wait_at


def main(name: str) -> None:
    asked = False

    def note(signum: int, frame: object) -> None:
        nonlocal asked
        asked = True
        print("asked to stop", flush=True)

    signal.signal(signal.SIGTERM, note)
    print("process", os.getpid(), flush=True)
    gates = json.loads(Path(os.environ["STEPSITE_CONTEXT"]).read_text())["gates"]
    wait_at(Path(gates), name)
    if asked:
        sys.exit("ended by the request")


if __name__ == "__main__":
    main(sys.argv[1])
