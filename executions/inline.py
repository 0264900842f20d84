"""Runs steps in the process of the caller: no queue, no worker, the same engine and record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.db import transaction

from steps.selection import select_steps

from . import queries, transitions, worker
from .actions import Actor, make_plan
from .engine.plan import FailurePolicy, RunOptions
from .identity import process_identity

NAME = "inline"
DEFAULT_OPTIONS = RunOptions(failure_policy=FailurePolicy.CONTINUE)


def execute_steps(
    names: Sequence[str],
    context: Mapping[str, Any] | None = None,
    options: RunOptions = DEFAULT_OPTIONS,
    *,
    actor: Actor | None = None,
) -> dict[str, Any]:
    """Run the named steps to their end and return their results.

    The rules sort them into lanes; by default every step gets its turn, whatever fails. Returns
    `{"total", "successful", "failed", "skipped", "cancelled", "critical": {…}, "parallel": {…}}`
    as `GET /api/runs/ID/results` does. Raises `steps.selection.SelectionError` for unknown names.
    """
    context = dict(context or {})
    selection = select_steps(names, context)
    plan = make_plan(NAME, selection, context, options)
    # Durable: in a transaction of the caller's the writer's own connection would not see the run.
    with transaction.atomic(durable=True):
        # Claimed in the transaction that makes it, so no worker ever sees it waiting.
        run = transitions.create_run(
            plan,
            batch=None,
            ruleset_id=selection.ruleset.pk,
            step_ids={entry.step_name: entry.step_id for entry in selection.entries},
            triggered_by=(actor or Actor("python")).name,
        )
        lease = transitions.claim_run(run.pk, process_identity())
    if lease is None:
        raise RuntimeError(f"run {run.pk} was taken by another process")
    worker.carry_out(lease)
    return dict(queries.results(run.pk))
