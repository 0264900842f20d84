"""A command that counts aloud: `count.py PAUSE WIDTH`, a line of that width after each pause.

Into `counted`, in the folder that the run's context names, it writes the number and the time of
each line that is out.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import count
from pathlib import Path


def main(pause: float, width: int) -> None:
    folder = Path(json.loads(Path(os.environ["STEPSITE_CONTEXT"]).read_text())["folder"])
    (folder / "worker").write_text(str(os.getppid()))
    with (folder / "counted").open("a", buffering=1) as ledger:
        for number in count(1):
            os.write(1, f"{number}".ljust(width, ".").encode() + b"\n")
            ledger.write(f"{number} {time.monotonic()}\n")
            time.sleep(pause)


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
