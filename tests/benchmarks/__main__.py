"""Everything that `make bench` measures: what the engine costs, then how long people wait."""

from __future__ import annotations

import argparse

from . import engine, latencies
from .tables import machine


def main() -> None:
    parser = argparse.ArgumentParser(prog="tests.benchmarks", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="fewer samples, and no 10,000 steps in the engine"
    )
    given = parser.parse_args()
    machine()
    engine.measure(rounds=1 if given.quick else engine.ROUNDS, quick=given.quick)
    latencies.measure(quick=given.quick)


if __name__ == "__main__":
    main()
