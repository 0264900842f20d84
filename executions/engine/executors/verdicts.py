"""What executors say about the end of a step, in the same words whatever its kind."""

from __future__ import annotations

import re
from typing import Any

from executions.engine.cancellation import CancelReason
from executions.engine.outcomes import MESSAGE_LIMIT, Outcome
from executions.engine.plan import PlannedStep
from executions.engine.status import StepStatus

from .call import Call

_STOPPED = {
    CancelReason.STEP_CANCELLED: (StepStatus.CANCELLED, "step_cancelled", "cancelled"),
    CancelReason.RUN_CANCELLED: (StepStatus.CANCELLED, "run_cancelled", "cancelled with its run"),
    CancelReason.TIMEOUT: (StepStatus.TIMED_OUT, "timeout", "not finished after {seconds:g} s"),
    CancelReason.SHUTDOWN: (
        StepStatus.INTERRUPTED,
        "worker_stopped",
        "interrupted because the worker stopped",
    ),
    CancelReason.FENCED: (
        StepStatus.INTERRUPTED,
        "worker_stopped",
        "interrupted because the worker lost the run",
    ),
}
# Escape sequences of terminals, then every other control character.
_CONTROL = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e]")
# What Python makes of file names that are no UTF-8. No database takes it.
_LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")


def sentence(call: Call, text: str) -> str:
    """`text` as a message: masked, on one line, without control characters, not too long."""
    if not text:
        return text
    masked = _LONE_SURROGATE.sub("\ufffd", call.output.masker.mask_text(text))
    clean = " ".join(_CONTROL.sub(" ", masked).split())
    return clean if len(clean) <= MESSAGE_LIMIT else clean[: MESSAGE_LIMIT - 2] + " …"


def succeeded(call: Call, message: str = "", **facts: Any) -> Outcome:
    return Outcome(status=StepStatus.SUCCEEDED, message=sentence(call, message), **facts)


def failed(call: Call, reason: str, message: str, **facts: Any) -> Outcome:
    """FAILED, unless the step had been asked to stop: then that is why it ended."""
    if call.token.is_cancelled:
        return stopped(call, message, **facts)
    return Outcome(
        status=StepStatus.FAILED, reason=reason, message=sentence(call, message), **facts
    )


def stopped(call: Call, detail: str = "", *, proven: bool = True, **facts: Any) -> Outcome:
    """It ended because it was asked to, or before it began.

    A cancel whose effect is not `proven`, here or in its receipt, makes the step INTERRUPTED.
    """
    status, reason, message = _STOPPED[call.token.reason or CancelReason.SHUTDOWN]
    proven = proven and (facts.get("receipt") or {}).get("proven_empty", True)
    if not proven and status is StepStatus.CANCELLED:
        status = StepStatus.INTERRUPTED
    text = message.format(seconds=call.step.timeout_seconds) + (f"; {detail}" if detail else "")
    return Outcome(status=status, reason=reason, message=sentence(call, text), **facts)


def unbegun(call: Call) -> Outcome:
    """The request to stop came before anything of the step ran."""
    return stopped(call, "nothing of it had begun")


def protected(step: PlannedStep) -> str:
    """The forecast for a protected step."""
    return f"Protected: it goes on, only its timeout of {step.timeout_seconds:g} s ends it."


def clauses(*parts: str) -> str:
    """Those that say something, as one sentence."""
    return "; ".join(filter(None, parts))


def count(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun if number == 1 else plural}"
