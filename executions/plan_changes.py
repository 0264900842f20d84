"""What differs between the plan that somebody saw and the plan as it is now."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from .engine.plan import Plan, PlannedStep

STAYS = "stays in "
LANE_NAMES = {"critical": "the critical lane", "pool": "the pool"}


@dataclass(frozen=True, slots=True)
class SeenStep:
    """As much of a planned step as the page showed."""

    name: str
    lane: str
    timeout_seconds: float
    because: str


@dataclass(frozen=True, slots=True)
class Change:
    """One difference; `text` continues a sentence that begins with `name`."""

    name: str
    text: str


def remember(plan: Plan) -> str:
    """The steps of a plan as the text that `recall` reads; it travels through the form."""
    steps = [[s.name, s.lane.value, s.timeout_seconds, s.because] for s in plan.steps]
    return json.dumps(steps, separators=(",", ":"))


def recall(text: str) -> list[SeenStep] | None:
    """What `remember` wrote; None if it is not that, since it comes from a browser."""
    try:
        rows = json.loads(text)
        return [_seen(row) for row in rows]
    except (ValueError, TypeError, RecursionError):
        return None


def _seen(row: Any) -> SeenStep:
    name, lane, timeout, because = row
    if lane not in LANE_NAMES:
        raise ValueError(lane)
    return SeenStep(str(name), lane, float(timeout), str(because))


def changes(seen: Sequence[SeenStep], plan: Plan) -> list[Change]:
    """The differences between what was seen and `plan`, in the order of the plan.

    Mere reasons come last: a new rule at the top renumbers those below it, and so all reasons.
    """
    before = {step.name: step for step in seen}
    now = {step.name for step in plan.steps}
    found = [
        Change(step.name, text)
        for step in plan.steps
        if (text := _change(before.get(step.name), step))
    ]
    found += [Change(step.name, "is not in it any more") for step in seen if step.name not in now]
    kept_before = [step.name for step in seen if step.name in now]
    kept_now = [step.name for step in plan.steps if step.name in before]
    if kept_before != kept_now:
        first = next(a for a, b in zip(kept_now, kept_before, strict=True) if a != b)
        found.append(Change(first, "and others come in another order"))
    return sorted(found, key=lambda change: change.text.startswith(STAYS))


def _change(before: SeenStep | None, now: PlannedStep) -> str:
    if before is None:
        return f"is new, in {LANE_NAMES[now.lane]}: {now.because}"
    if before.lane != now.lane:
        return f"moves to {LANE_NAMES[now.lane]}: {now.because}"
    if before.timeout_seconds != now.timeout_seconds:
        return f"has a timeout of {now.timeout_seconds:g} s instead of {before.timeout_seconds:g} s"
    if before.because != now.because:
        return f"{STAYS}{LANE_NAMES[now.lane]} for another reason: {now.because}"
    return ""
