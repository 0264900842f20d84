"""The plan: the immutable input of a run. Which steps, in which lane, in which order, and why."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import Any


class Lane(StrEnum):
    """Where a step runs."""

    CRITICAL = "critical"
    """One at a time, in the order of the plan."""
    POOL = "pool"
    """Side by side, at most `pool_width` at once."""


class FailurePolicy(StrEnum):
    """What a miss in the critical lane prevents."""

    CONTINUE = "continue"
    """Nothing: every step gets its turn."""
    STOP_CRITICAL = "stop_critical"
    """The rest of the critical lane; the pool still runs."""
    STOP_RUN = "stop_run"
    """Everything that has not started."""


class PoolStart(StrEnum):
    """When the pool starts."""

    AFTER_CRITICAL = "after_critical"
    BESIDE_CRITICAL = "beside_critical"


@dataclass(frozen=True, kw_only=True, slots=True)
class RunOptions:
    """What can be chosen when a run is triggered."""

    pool_width: int = 4
    failure_policy: FailurePolicy = FailurePolicy.STOP_CRITICAL
    pool_start: PoolStart = PoolStart.AFTER_CRITICAL
    default_timeout_seconds: float | None = None
    """For steps and entries without a timeout of their own; None: the batch decides."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PlannedStep:
    """One entry of a batch, with everything that its execution needs, frozen."""

    position: int
    """From 0; also the order within a lane."""
    name: str
    """The entry's name, unique in the plan."""
    step_name: str
    """The definition's name: what the rules read and what the registry of functions knows."""
    kind: str
    category: str = ""
    target: Mapping[str, Any] = field(default_factory=dict)
    """What to run; its shape depends on the kind (docs/steps.md)."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    timeout_seconds: float = 30.0
    """Per attempt."""
    grace_seconds: float = 5.0
    """Between asking a step to stop and making it."""
    retry_safe: bool = False
    attempts: int = 1
    """At most; 1 unless the step is retry-safe."""
    backoff_seconds: float = 1.0
    """Before the second attempt; doubled for each one after it."""
    protected: bool = False
    """While it runs, only its timeout ends it."""
    lane: Lane
    rule_position: int | None = None
    """Position of the deciding rule in the rule set; None: no rule matched."""
    because: str = ""
    """One sentence: why this lane."""

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> PlannedStep:
        """A step as it stands in `Plan.to_json`."""
        return cls(**{**data, "lane": Lane(data["lane"])})


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """What a run will do. Two plans with the same hash do the same."""

    batch: str
    ruleset: str
    options: RunOptions
    steps: tuple[PlannedStep, ...]
    context: Mapping[str, Any] = field(default_factory=dict)

    @property
    def critical(self) -> list[PlannedStep]:
        return [step for step in self.steps if step.lane is Lane.CRITICAL]

    @property
    def pool(self) -> list[PlannedStep]:
        return [step for step in self.steps if step.lane is Lane.POOL]

    def to_json(self) -> dict[str, Any]:
        """A JSON object from which `from_json` makes an equal plan."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        options = data["options"]
        return cls(
            batch=data["batch"],
            ruleset=data["ruleset"],
            context=data["context"],
            options=RunOptions(
                pool_width=options["pool_width"],
                failure_policy=FailurePolicy(options["failure_policy"]),
                pool_start=PoolStart(options["pool_start"]),
                default_timeout_seconds=options["default_timeout_seconds"],
            ),
            steps=tuple(PlannedStep.from_json(step) for step in data["steps"]),
        )

    @property
    def hash(self) -> str:
        """SHA-256 of the canonical JSON, in hex."""
        canonical = json.dumps(self.to_json(), sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()
