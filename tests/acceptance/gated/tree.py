"""A command with children, one of which outlives SIGTERM: `tree.py NAME`.

Each child ends when the gate `NAME leaf N` opens, the command itself at the gate NAME.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.acceptance.gated.gate import wait_at

LEAVES = 3


def main(name: str, leaf: str = "") -> None:
    gates = Path(json.loads(Path(os.environ["STEPSITE_CONTEXT"]).read_text())["gates"])
    if leaf:
        if leaf == "1":
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print("leaf", leaf, flush=True)
        wait_at(gates, f"{name} leaf {leaf}")
        return
    program = [sys.executable, "-m", "tests.acceptance.gated.tree", name]
    leaves = [subprocess.Popen([*program, str(number)]) for number in range(1, LEAVES + 1)]
    wait_at(gates, name)
    for each in leaves:
        each.wait()


if __name__ == "__main__":
    main(*sys.argv[1:])
