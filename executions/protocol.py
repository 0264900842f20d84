"""What travels to a viewer, over HTTP and over sockets: columns, frames, close codes.

Steps travel as rows of values, named once by `columns`: 10,000 objects with 27 keys each would
cost three times the bytes. docs/api.md describes the same shapes for people.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, Literal, NotRequired, TypedDict

VERSION = 1

MUTABLE_COLUMNS = (
    "id",
    "sequence",
    "status",
    "attempt",
    "slot",
    "retry_at",
    "started_at",
    "finished_at",
    "abandoned_at",
    "cancel_requested_at",
    "cancel_requested_by",
    "cancel_note",
    "reason",
    "message",
    "exit_code",
    "receipt",
    "progress",
    "log_size",
)
"""What can change while a run runs; the order of every row in `changes`."""

FROZEN_COLUMNS = (
    "position",
    "name",
    "step_name",
    "kind",
    "category",
    "lane",
    "rule_position",
    "because",
    "protected",
    "timeout_seconds",
)
"""What the plan froze when the run was made."""

STORED_COLUMNS = (*MUTABLE_COLUMNS, *FROZEN_COLUMNS)
SNAPSHOT_COLUMNS = (*STORED_COLUMNS, "usual_seconds")

SEQUENCE_COLUMN = MUTABLE_COLUMNS.index("sequence")

Row = list[Any]


class Close(IntEnum):
    """Why the server closed a socket. Before the handshake is accepted the answer is HTTP 403."""

    BAD_MESSAGE = 4400
    """The client sent something else than `{"ack": n}`."""
    SIGNED_OUT = 4401
    """The session ended, or the account was switched off."""
    NO_ACCESS = 4403
    """The right to look at runs was withdrawn."""
    GONE = 4404
    """The run was deleted."""
    STUCK = 4408
    """A frame was not acknowledged in time."""


class BatchRef(TypedDict):
    slug: str
    name: str


class WorkerRef(TypedDict):
    host: str
    pid: int


class RunObject(TypedDict):
    """A run without its steps. Times are ISO 8601 in UTC, or null."""

    id: int
    batch: BatchRef
    status: str
    reason: str
    sequence: int
    total: int
    counts: dict[str, int]
    """Steps in each status."""
    pool_width: int
    pool_start: str
    failure_policy: str
    cancel_requested_at: str | None
    cancel_requested_by: str
    cancel_note: str
    cancel_mode: str
    triggered_by: str
    queued_at: str | None
    started_at: str | None
    finished_at: str | None
    worker: WorkerRef | None
    """The process that runs or ran it; null while it waits."""
    waiting: str
    """Why it is still queued; empty if it is not, or if a worker is about to take it."""


class Workers(TypedDict):
    alive: int
    slots: int
    """Runs that the living workers execute at once."""
    busy: int
    """Runs that are running."""


class Snapshot(TypedDict):
    v: int
    to: int
    now: str
    run: RunObject
    columns: list[str]
    steps: list[Row]


# `from` is a keyword, so this one cannot be a class.
Changes = TypedDict(
    "Changes",
    {
        "v": int,
        "from": int,
        "to": int,
        "now": str,
        "run": RunObject,
        "columns": list[str],
        "steps": list[Row],
    },
)


class Resync(TypedDict):
    """What the client holds cannot be mended by changes: it should fetch a snapshot."""

    v: int
    resync: Literal[True]


class Beat(TypedDict):
    """The connection lives and the database answers."""

    type: Literal["beat"]
    now: str
    to: int
    waiting: NotRequired[str]
    """As in the run; only for runs in the queue, whose reason to wait changes by itself."""


class Table(TypedDict):
    """The runs of the dashboard, whole."""

    now: str
    runs: list[RunObject]
    left_out: int
    """Active runs beyond those listed."""
    workers: Workers


def iso(moment: datetime | None) -> str | None:
    """`2026-01-31T12:00:00.000000Z`, or None."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(timespec="microseconds")[:-6] + "Z"


def encode(value: Mapping[str, Any]) -> str:
    """Compact JSON. NaN and infinities, which are none, become null."""
    try:
        return json.dumps(value, separators=(",", ":"), allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), separators=(",", ":"), allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if value - value == 0 else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return value


# ---- frames -------------------------------------------------------------------------------------

RESYNC_FRAME = '{"type":"resync"}'


def changes_frames(changes: Changes, starts: Iterable[int], *, row_limit: int) -> dict[int, str]:
    """One frame for each of `starts`, the sequences that viewers hold; none for the latest.

    `changes` reach back to the smallest of them and are ordered by sequence. A viewer that holds
    more than the run ever had, or lacks more than `row_limit` rows, is told to resync.
    """
    sequences = [row[SEQUENCE_COLUMN] for row in changes["steps"]]
    frames: dict[int, str] = {}
    for start in set(starts) - {changes["to"]}:
        first = bisect_right(sequences, start)
        if start > changes["to"] or len(sequences) - first > row_limit:
            frames[start] = RESYNC_FRAME
        else:
            rows = changes["steps"][first:]
            frames[start] = encode({"type": "changes", **changes, "from": start, "steps": rows})
    return frames


def beat_frame(now: str, to: int, waiting: str | None = None) -> str:
    frame: Beat = {"type": "beat", "now": now, "to": to}
    if waiting is not None:
        frame["waiting"] = waiting
    return encode(frame)


def table_frame(table: Table, number: int) -> str:
    return encode({"type": "runs", "n": number, **table})


# ---- what clients may send ----------------------------------------------------------------------

MESSAGE_LIMIT = 4096
"""Bytes of a message from a client."""


def read_ack(text: str | None) -> int | None:
    """The number in `{"ack": n}`; None if the message is anything else."""
    if text is None or len(text.encode("utf-8", "surrogatepass")) > MESSAGE_LIMIT:
        return None
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(message, dict) or set(message) != {"ack"}:
        return None
    number = message["ack"]
    if type(number) is not int or not 0 <= number < 2**63:
        return None
    return number
