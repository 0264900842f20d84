"""Claims, changes, cancels and rescues in the database."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from django.db import IntegrityError, connection, transaction

from executions import queries, transitions
from executions.engine.outcomes import Outcome
from executions.engine.plan import Lane, Plan, PlannedStep, RunOptions
from executions.engine.ports import End, Finish, HandBack, Start, Sweep
from executions.engine.status import RunStatus, StepStatus
from executions.models import CancelMode, Run, RunInput
from executions.transitions import (
    FencedError,
    Group,
    Lease,
    LogPiece,
    StaleTransitionError,
)
from steps.models import Batch, RuleSet

pytestmark = pytest.mark.django_db(transaction=True)

DEADLINE = 20.0
SUCCEEDED = Outcome(status=StepStatus.SUCCEEDED)
FAILED = Outcome(status=StepStatus.FAILED, reason="exception", message="it broke")
HOLDER = "host|boot|namespace|1|2"


def make_run(
    *names: str, batch: Batch | None = None, lane: Lane = Lane.POOL, **fields: object
) -> Run:
    ruleset = RuleSet.current()
    plan = Plan(
        batch=batch.slug if batch else "test",
        ruleset=ruleset.hash,
        options=RunOptions(),
        steps=tuple(
            PlannedStep(
                position=position, name=name, step_name=name, kind="python", lane=lane, **fields
            )
            for position, name in enumerate(names)
        ),
    )
    return transitions.create_run(
        plan, batch=batch, ruleset_id=ruleset.pk, step_ids={}, triggered_by="ada"
    )


def claim(run: Run) -> tuple[Lease, list[int]]:
    lease = transitions.claim_run(run.pk, HOLDER)
    assert lease is not None
    return lease, ids_of(run)


def ids_of(run: Run) -> list[int]:
    return list(run.step_runs.order_by("position").values_list("pk", flat=True))


def statuses(run: Run) -> dict[str, str]:
    return dict(run.step_runs.values_list("name", "status"))


def check_counters(run: Run) -> None:
    """The counters of the Run row are what its step runs say."""
    run.refresh_from_db()
    for status in StepStatus:
        assert getattr(run, status.value) == run.step_runs.filter(status=status).count()


def test_a_run_is_claimed_once() -> None:
    """The second claim finds nothing, and epoch and sequence have risen by one."""
    run = make_run("a")
    lease, _ = claim(run)
    assert (lease.epoch, lease.sequence) == (1, 2)
    assert transitions.claim_run(run.pk, HOLDER) is None
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert run.started_at is not None


def test_a_step_from_start_to_end() -> None:
    """START, output and end of a step and of its run are on record, with the counters."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    recorded = transitions.record(lease, Group(starts=[Start(0, 1, 1), Start(1, 1, 2)]), ids)
    assert len(recorded.started) == 2
    check_counters(run)
    logs = [LogPiece(ids[0], 0, b"hello "), LogPiece(ids[0], 6, b"world")]
    done = Outcome(status=StepStatus.SUCCEEDED, result={"rows": 3})
    transitions.record(lease, Group(finishes=[Finish(0, 1, done)], logs=logs), ids)
    transitions.record(lease, Group(finishes=[Finish(1, 1, FAILED)]), ids)
    transitions.record(lease, Group(end=End(RunStatus.PARTIALLY_SUCCEEDED)), ids)
    check_counters(run)
    assert statuses(run) == {"a": "succeeded", "b": "failed"}
    step_run = run.step_runs.get(name="a")
    assert (step_run.log_size, step_run.result, step_run.slot) == (11, {"rows": 3}, 1)
    assert run.status == RunStatus.PARTIALLY_SUCCEEDED
    assert run.finished_at is not None


def test_the_last_progress_before_the_end_is_kept() -> None:
    """Told in the same moment as the end, it comes first."""
    run = make_run("a")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    group = Group(finishes=[Finish(0, 1, FAILED)], progress={ids[0]: 0.5})
    transitions.record(lease, group, ids)
    assert run.step_runs.get().progress == 0.5


def test_every_change_raises_the_sequence_and_stamps_its_rows() -> None:
    """What changed after N are exactly the rows that were touched after N."""
    run = make_run("a", "b", "c")
    lease, ids = claim(run)
    before = lease.sequence
    transitions.record(lease, Group(starts=[Start(1, 1, 1)]), ids)
    assert lease.sequence == before + 1
    changed = queries.changes_after(run.pk, before)
    assert [row[0] for row in changed["steps"]] == [ids[1]]
    assert changed["to"] == lease.sequence


def test_a_fenced_worker_writes_nothing() -> None:
    """After a rescue the old lease raises and the record stays as it is."""
    run = make_run("a", retry_safe=True, attempts=2)
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    run.refresh_from_db()
    assert transitions.rescue_run(run.pk, epoch=run.epoch, beat=run.beat, proven=True)
    with pytest.raises(FencedError):
        transitions.record(lease, Group(finishes=[Finish(0, 1, SUCCEEDED)]), ids)
    with pytest.raises(FencedError):
        transitions.beat(lease)
    assert statuses(run) == {"a": "pending"}


def test_a_change_from_a_wrong_status_is_refused_whole() -> None:
    """One row that is not where it should be, and nothing of the group is written."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    finishes = [Finish(1, 1, SUCCEEDED)]
    with pytest.raises(StaleTransitionError):
        transitions.record(lease, Group(starts=[Start(0, 1, 1)], finishes=finishes), ids)
    check_counters(run)
    assert statuses(run) == {"a": "pending", "b": "pending"}
    assert run.sequence == lease.sequence


def test_no_start_after_a_cancel_request() -> None:
    """A request that the worker has not seen yet keeps its next START out of the record."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    asked = transitions.request_cancel_step(ids[0], by="ada", note="")
    assert asked == transitions.CANCELLING
    starts = [Start(0, 1, 1), Start(1, 1, 2)]
    recorded = transitions.record(lease, Group(starts=starts), ids)
    assert recorded.refused == (starts[0],)
    assert recorded.started == (starts[1],)
    assert lease.cancels.step_ids == {ids[0]}
    check_counters(run)


def test_a_known_request_still_refuses_a_later_start() -> None:
    """The facts stay with the lease after they were read."""
    run = make_run("a")
    lease, ids = claim(run)
    transitions.request_cancel_step(ids[0], by="ada", note="")
    assert transitions.look(lease)
    recorded = transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    assert recorded.refused
    check_counters(run)


def test_cancel_of_a_running_run_is_a_fact() -> None:
    """Who, when and why of the first request stay; the mode only rises."""
    run = make_run("a")
    claim(run)
    drain = transitions.request_cancel_run(run.pk, by="ada", note="late", mode=CancelMode.DRAIN)
    stop = transitions.request_cancel_run(run.pk, by="bob", note="now", mode=CancelMode.STOP)
    again = transitions.request_cancel_run(run.pk, by="eve", note="", mode=CancelMode.DRAIN)
    assert (drain, stop, again) == (transitions.CANCELLING,) * 3
    run.refresh_from_db()
    assert run.status == RunStatus.RUNNING
    assert (run.cancel_requested_by, run.cancel_note, run.cancel_mode) == ("ada", "late", "stop")


def test_cancel_of_a_queued_run_ends_it() -> None:
    """Nobody holds it, so it is CANCELLED at once with its steps."""
    run = make_run("a", "b")
    result = transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP)
    assert result == transitions.CANCELLED
    check_counters(run)
    assert run.status == RunStatus.CANCELLED
    assert set(statuses(run).values()) == {"cancelled"}
    assert transitions.claim_run(run.pk, HOLDER) is None


def test_cancel_after_the_end_changes_nothing() -> None:
    """A final run and a final step stay as they are."""
    run = make_run("a")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    finish = Group(finishes=[Finish(0, 1, SUCCEEDED)], end=End(RunStatus.SUCCEEDED))
    transitions.record(lease, finish, ids)
    run.refresh_from_db()
    run_result = transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP)
    step_result = transitions.request_cancel_step(ids[0], by="ada", note="")
    assert (run_result, step_result) == (transitions.ALREADY_FINAL,) * 2
    sequence = run.sequence
    run.refresh_from_db()
    assert run.sequence == sequence


def test_cancelling_every_step_of_a_queued_run_ends_it() -> None:
    """A run with nothing left to do does not wait for a worker."""
    run = make_run("a", "b")
    for pk in ids_of(run):
        assert transitions.request_cancel_step(pk, by="ada", note="") == transitions.CANCELLED
    check_counters(run)
    assert run.status == RunStatus.CANCELLED


def test_sweep_and_end_in_one_group() -> None:
    """Skipped steps carry the reason, and the run can end with them."""
    run = make_run("a", "b", "c")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, None)]), ids)
    sweep = Sweep((1, 2), StepStatus.SKIPPED, "critical_missed", "“a” failed")
    group = Group(finishes=[Finish(0, 1, FAILED)], sweeps=[sweep], end=End(RunStatus.FAILED))
    transitions.record(lease, group, ids)
    check_counters(run)
    assert statuses(run) == {"a": "failed", "b": "skipped", "c": "skipped"}


def test_a_run_cannot_end_with_steps_that_have_not() -> None:
    """The database itself refuses it."""
    run = make_run("a")
    lease, ids = claim(run)
    with pytest.raises(IntegrityError):
        transitions.record(lease, Group(end=End(RunStatus.SUCCEEDED)), ids)


def test_a_further_attempt_keeps_the_earlier_one() -> None:
    """The step is pending again; what happened before is in a row of its own."""
    run = make_run("a", retry_safe=True, attempts=3)
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    transitions.record(lease, Group(finishes=[Finish(0, 1, FAILED, retry_in=2.0)]), ids)
    check_counters(run)
    step_run = run.step_runs.get()
    assert step_run.status == StepStatus.PENDING
    assert step_run.retry_at is not None
    earlier = step_run.earlier_attempts.get()
    assert (earlier.number, earlier.status, earlier.message) == (1, "failed", "it broke")
    transitions.record(lease, Group(starts=[Start(0, 2, 1)]), ids)
    step_run.refresh_from_db()
    assert (step_run.attempt, step_run.message, step_run.retry_at) == (2, "", None)


def test_a_hand_back_queues_the_run_under_a_new_epoch() -> None:
    """The old lease is fenced and another worker can claim the run."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    transitions.record(lease, Group(end=HandBack()), ids)
    with pytest.raises(FencedError):
        transitions.beat(lease)
    again, _ = claim(run)
    assert again.epoch == lease.epoch + 2


def test_a_cancel_that_meets_the_hand_back_ends_the_run() -> None:
    """Nobody holds a queued run, so nobody would meet the request."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP)
    transitions.record(lease, Group(finishes=[Finish(0, 1, SUCCEEDED)], end=HandBack()), ids)
    check_counters(run)
    assert run.status == RunStatus.CANCELLED
    assert statuses(run) == {"a": "succeeded", "b": "cancelled"}


def test_rescue_is_honest_about_what_ran() -> None:
    """Retry-safe steps are pending again, the others interrupted, pending ones untouched."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    run.refresh_from_db()
    assert transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=True)
    check_counters(run)
    assert run.status == RunStatus.QUEUED
    assert statuses(run) == {"a": "interrupted", "b": "pending"}
    assert run.step_runs.get(name="a").reason == transitions.WORKER_DIED


def test_rescue_of_a_run_whose_beat_went_on_does_nothing() -> None:
    """The holder lives: it wrote since the beat was read."""
    run = make_run("a")
    lease, _ = claim(run)
    run.refresh_from_db()
    transitions.beat(lease)
    assert not transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=True)


def test_every_group_is_a_sign_of_life() -> None:
    """Whoever writes lives, whether or not a beat was due."""
    run = make_run("a")
    lease, ids = claim(run)
    run.refresh_from_db()
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    assert not transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=False)


def test_rescue_ends_a_run_whose_cancel_was_requested() -> None:
    """Nothing of it is started again."""
    run = make_run("a", "b", retry_safe=True, attempts=3)
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP)
    run.refresh_from_db()
    assert transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=True)
    check_counters(run)
    assert run.status == RunStatus.CANCELLED
    assert statuses(run) == {"a": "interrupted", "b": "cancelled"}


def test_a_cancel_that_neither_ended_nor_prevented_a_step_changes_no_verdict() -> None:
    """The holder died between the last step and the end of the run, after a useless request."""
    run = make_run("a")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    transitions.record(lease, Group(finishes=[Finish(0, 1, SUCCEEDED)]), ids)
    transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP)
    run.refresh_from_db()
    assert transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=True)
    run.refresh_from_db()
    assert run.status == RunStatus.SUCCEEDED


def test_a_plan_of_another_version_does_not_hinder_the_rescue() -> None:
    """Nothing is known to be safe to repeat, so what ran is interrupted."""
    run = make_run("a", retry_safe=True, attempts=3)
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    RunInput.objects.filter(run=run).update(plan={"steps": "unreadable"})
    run.refresh_from_db()
    assert transitions.rescue_run(run.pk, epoch=1, beat=run.beat, proven=True)
    assert statuses(run) == {"a": "interrupted"}


def test_a_run_whose_workers_keep_dying_is_given_up() -> None:
    """Three claims without a START, and it has failed for that reason."""
    run = make_run("a")
    for _ in range(3):
        claim(run)
        run.refresh_from_db()
        assert transitions.rescue_run(run.pk, epoch=run.epoch, beat=run.beat, proven=True)
    assert transitions.claim_run(run.pk, HOLDER) is None
    check_counters(run)
    assert (run.status, run.reason) == (RunStatus.FAILED, "worker_keeps_dying")


def test_only_a_start_that_is_committed_counts_against_giving_up() -> None:
    """One that a cancel request kept from happening brought the run no further."""
    run = make_run("a", "b")
    for _ in range(2):
        lease, ids = claim(run)
        transitions.request_cancel_step(ids[0], by="ada", note="")
        assert transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids).refused
        run.refresh_from_db()
        assert transitions.rescue_run(run.pk, epoch=run.epoch, beat=run.beat, proven=True)
    run.refresh_from_db()
    assert run.barren_claims == 2
    lease, ids = claim(run)
    assert transitions.record(lease, Group(starts=[Start(1, 1, 1)]), ids).started
    run.refresh_from_db()
    assert run.barren_claims == 0


def test_a_protected_step_that_runs_takes_no_request() -> None:
    """Decided where the run is locked: it may have started since anybody looked."""
    run = make_run("a", "b", protected=True)
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    results = [transitions.request_cancel_step(pk, by="ada", note="") for pk in ids]
    assert results == [transitions.PROTECTED, transitions.CANCELLING]
    asked = dict(run.step_runs.values_list("name", "cancel_requested_by"))
    assert asked == {"a": "", "b": "ada"}


def test_runs_of_a_batch_wait_for_each_other_in_order() -> None:
    """With `max_active_runs` 1 the second waits for the first, and the third for the second."""
    batch = Batch.objects.create(slug="nightly", name="Nightly", max_active_runs=1)
    first, second, third = (make_run("a", batch=batch) for _ in range(3))
    assert transitions.claim_run(second.pk, HOLDER) is None
    lease, ids = claim(first)
    assert transitions.claim_run(second.pk, HOLDER) is None
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    end = Group(finishes=[Finish(0, 1, SUCCEEDED)], end=End(RunStatus.SUCCEEDED))
    transitions.record(lease, end, ids)
    assert transitions.claim_run(third.pk, HOLDER) is None
    assert transitions.claim_run(second.pk, HOLDER) is not None


# ---- races, with real connections ---------------------------------------------------------------


def at_once(*calls: Callable[[], object]) -> list[object]:
    """What each call returned or raised when all were let go at the same moment."""
    gate = threading.Barrier(len(calls))
    results: list[object] = [None] * len(calls)

    def work(number: int) -> None:
        try:
            gate.wait(DEADLINE)
            results[number] = calls[number]()
        except Exception as error:
            results[number] = error
        finally:
            connection.close()

    threads = [threading.Thread(target=work, args=(number,)) for number in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(DEADLINE)
        assert not thread.is_alive()
    return results


@pytest.mark.parametrize("number", range(5))
def test_of_many_claims_one_wins(number: int) -> None:
    """However many workers hear of a run, one gets it."""
    run = make_run("a")
    leases = at_once(*[lambda: transitions.claim_run(run.pk, HOLDER)] * 6)
    assert sum(isinstance(lease, Lease) for lease in leases) == 1
    assert sum(lease is None for lease in leases) == 5


@pytest.mark.parametrize("number", range(5))
def test_a_cancel_against_a_claim(number: int) -> None:
    """Either the run never starts, or its holder finds the request."""
    batch = Batch.objects.create(slug="nightly", name="Nightly", max_active_runs=1)
    run = make_run("a", "b", batch=batch)
    lease, result = at_once(
        lambda: transitions.claim_run(run.pk, HOLDER),
        lambda: transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP),
    )
    run.refresh_from_db()
    if result == transitions.CANCELLED:
        assert lease is None
        assert run.status == RunStatus.CANCELLED
    else:
        assert result == transitions.CANCELLING
        assert isinstance(lease, Lease)
        recorded = transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids_of(run))
        assert recorded.refused
    check_counters(run)


@pytest.mark.parametrize("number", range(5))
def test_a_cancel_against_a_start(number: int) -> None:
    """Whichever commits first: no START bears a later sequence than the request."""
    run = make_run("a")
    lease, ids = claim(run)
    recorded, result = at_once(
        lambda: transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids),
        lambda: transitions.request_cancel_step(ids[0], by="ada", note=""),
    )
    assert result == transitions.CANCELLING
    step_run = run.step_runs.get()
    started = recorded.started != ()
    assert (step_run.status == StepStatus.RUNNING) == started
    assert step_run.cancel_requested_at is not None
    assert transitions.look(lease) == started
    check_counters(run)


@pytest.mark.parametrize("number", range(5))
def test_a_cancel_against_a_rescue(number: int) -> None:
    """The run ends cancelled, or is cancelled out of the queue."""
    run = make_run("a", "b")
    claim(run)
    run.refresh_from_db()
    beat = run.beat
    at_once(
        lambda: transitions.rescue_run(run.pk, epoch=1, beat=beat, proven=True),
        lambda: transitions.request_cancel_run(run.pk, by="ada", note="", mode=CancelMode.STOP),
    )
    check_counters(run)
    assert run.status == RunStatus.CANCELLED


@pytest.mark.skipif(connection.vendor == "sqlite", reason="it locks all rows at once")
def test_a_rescuer_does_not_wait_for_a_row_that_is_locked() -> None:
    """A worker that stands still in a transaction must not keep others from their rescue."""
    run = make_run("a")
    claim(run)
    run.refresh_from_db()
    facts = {"epoch": run.epoch, "beat": run.beat, "proven": False, "waits": False}
    locked, done = threading.Event(), threading.Event()

    def hold() -> None:
        with transaction.atomic():
            Run.objects.select_for_update().get(pk=run.pk)
            locked.set()
            assert done.wait(DEADLINE)

    def rescue() -> bool:
        assert locked.wait(DEADLINE)
        try:
            return transitions.rescue_run(run.pk, **facts)
        finally:
            done.set()

    assert at_once(hold, rescue) == [None, False]
    assert transitions.rescue_run(run.pk, **facts)


@pytest.mark.parametrize("number", range(5))
def test_a_finish_against_a_rescue(number: int) -> None:
    """Exactly one of the two decides what became of the step."""
    run = make_run("a", "b")
    lease, ids = claim(run)
    transitions.record(lease, Group(starts=[Start(0, 1, 1)]), ids)
    run.refresh_from_db()
    beat = run.beat
    recorded, rescued = at_once(
        lambda: transitions.record(lease, Group(finishes=[Finish(0, 1, SUCCEEDED)]), ids),
        lambda: transitions.rescue_run(run.pk, epoch=1, beat=beat, proven=True),
    )
    check_counters(run)
    assert isinstance(recorded, FencedError) == rescued, "a write is a beat, and a beat forbids it"
    assert statuses(run)["a"] == ("interrupted" if rescued else "succeeded")


@pytest.mark.postgres
def test_runs_of_a_batch_are_claimed_one_at_a_time_under_load() -> None:
    """The limit of a batch holds however many workers claim at the same moment."""
    batch = Batch.objects.create(slug="nightly", name="Nightly", max_active_runs=2)
    runs = [make_run("a", batch=batch) for _ in range(6)]
    leases = at_once(
        *[lambda pk=run.pk: transitions.claim_run(pk, HOLDER) for run in runs]  # type: ignore[misc]
    )
    assert sum(isinstance(lease, Lease) for lease in leases) <= 2
    assert Run.objects.running().count() <= 2
