"""The queue does not answer when a run is started. No processes: one hint."""

from __future__ import annotations

from datetime import timedelta

import pytest

from executions import dispatch, transitions
from executions.broker import broker
from executions.engine.status import RunStatus
from tests.factories import make_run


@pytest.mark.django_db(transaction=True)
def test_a_hint_that_was_not_sent_need_not_grow_old(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rescue repeats it at its next sweep instead of after ten seconds."""
    run = make_run(status=RunStatus.QUEUED)
    transitions.mark_hinted(run.pk, age=timedelta(0))
    outage = broker().outages[0]

    def gone(task: str) -> int:
        raise outage("gone")

    assert transitions.overdue_hints(timedelta(seconds=10)) == []
    with monkeypatch.context() as away:
        away.setattr(broker(), "enqueue", gone)
        dispatch.hint(run.pk)
    assert transitions.overdue_hints(timedelta(seconds=10)) == [run.pk]
    transitions.mark_hinted(run.pk, age=timedelta(seconds=10))
    dispatch.hint(run.pk)
    assert transitions.overdue_hints(timedelta(seconds=10)) == []
    assert not dispatch.queue_is_empty()
