"""The program that runs isolated steps in these tests: `isolated_step`, without Django."""

from __future__ import annotations

import sys

from executions.engine import child
from tests.unit import step_functions

if __name__ == "__main__":
    child.main(int(sys.argv[-1]), resolve=step_functions.resolve, connection_cleanup=lambda: None)
