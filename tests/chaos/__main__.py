"""`make chaos`: hurts real sites in every way that is known here, and looks what became of them."""

from __future__ import annotations

import argparse
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.benchmarks.tables import machine, say

from . import latencies
from .report import Report
from .scenarios import Case, Trial, all_cases
from .set_ups import SET_UPS, why_not
from .stage import Stages


def main() -> int:
    parser = argparse.ArgumentParser(prog="tests.chaos", description=__doc__)
    parser.add_argument("--seed", type=int, help="of the random rounds; default: another each time")
    parser.add_argument("--rounds", type=int, default=200, help="of random kills (%(default)s)")
    parser.add_argument("--set-up", choices=[*SET_UPS, "both"], default="both")
    parser.add_argument(
        "--only", nargs="+", default=[], metavar="LABEL", help="cases whose labels start with one"
    )
    parser.add_argument("--list", action="store_true", help="print the labels of all cases")
    parser.add_argument("--cancels", type=int, default=50, help="samples (%(default)s)")
    given = parser.parse_args()
    seed = random.randrange(10**6) if given.seed is None else given.seed
    say(f"Seed: {seed}")
    kinds = list(SET_UPS) if given.set_up == "both" else [given.set_up]
    if given.list:
        for kind in kinds:
            for case in all_cases(kind, seed=seed, rounds=given.rounds):
                say(f"{kind}: {case.label}")
        return 0
    machine()
    folder = Path(tempfile.mkdtemp(prefix="stepsite-chaos-"))
    clean = [_hurt(kind, seed, given, folder) for kind in kinds]
    if all(clean):
        shutil.rmtree(folder, ignore_errors=True)
    return 0 if all(clean) else 1


def _hurt(kind: str, seed: int, given: argparse.Namespace, folder: Path) -> bool:
    if reason := why_not(kind):
        say(f"\n{kind}: not tried, {reason}")
        return True
    stages, report = Stages(folder), Report()
    try:
        for case in all_cases(kind, seed=seed, rounds=given.rounds):
            if _is_wanted(case.label, given.only):
                report.add(_play(case, stages, kind, seed, given.rounds))
        report.print(f"{kind}, seed {seed}")
        if not given.only or "cancels" in given.only:
            latencies.measure(stages, kind, given.cancels)
    except KeyboardInterrupt:
        report.print(f"{kind}, seed {seed}, cut short")
        raise
    finally:
        stages.close()
    return report.is_clean


def _is_wanted(label: str, only: Sequence[str]) -> bool:
    """“random 1” is not “random 12”."""
    return not only or any(
        label == start or label.startswith((f"{start} ", f"{start}:", f"{start},"))
        for start in only
    )


def _play(case: Case, stages: Stages, kind: str, seed: int, rounds: int) -> Trial:
    since = time.monotonic()
    trial = case.play(stages)
    took = time.monotonic() - since
    outcome = trial.skipped or ("WRONG" if trial.findings else "fine")
    recovered = " ".join(f"{seconds:.2f}" for seconds in trial.seconds)
    print(
        f"{kind}: {case.label}: {outcome}, {took:.1f} s ({recovered})", file=sys.stderr, flush=True
    )
    if trial.findings:
        for finding in trial.findings:
            say(f"  {finding}")
        say(f"  data: {trial.data}")
        say(
            f'  again: make chaos ARGS="--seed {seed} --rounds {rounds} --set-up {kind} '
            f"--only '{case.label}'\""
        )
    return trial


if __name__ == "__main__":
    sys.exit(main())
