"""The read side: what it answers, and that its cost does not grow with what it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import timedelta
from typing import Any

import pytest
from django.db.models import F
from django.utils import timezone

from executions import protocol, queries
from executions.engine.plan import Lane, Plan, PlannedStep, RunOptions
from executions.engine.status import RunStatus, StepStatus
from executions.models import Run, StepRun
from tests.factories import (
    change_steps,
    end_run,
    end_steps,
    make_batch,
    make_run,
    make_step,
    make_worker,
    start_steps,
    write_log,
)

pytestmark = pytest.mark.django_db

QueryCount = Callable[[int], AbstractContextManager[Any]]


def as_dicts(answer: Any) -> list[dict[str, Any]]:
    return [dict(zip(answer["columns"], row, strict=True)) for row in answer["steps"]]


# ---- snapshot and changes -----------------------------------------------------------------------


def test_a_snapshot_holds_every_step_in_order() -> None:
    """All columns, times in UTC with a Z, and the sequence it leads to."""
    run = make_run(["succeeded", "running", "pending"], critical=1, triggered_by="ada")
    snapshot = queries.snapshot(run.pk)
    assert snapshot["columns"] == list(protocol.SNAPSHOT_COLUMNS)
    assert snapshot["to"] == run.sequence
    steps = as_dicts(snapshot)
    assert [step["position"] for step in steps] == [0, 1, 2]
    assert [step["status"] for step in steps] == ["succeeded", "running", "pending"]
    assert [step["lane"] for step in steps] == ["critical", "pool", "pool"]
    assert steps[0]["finished_at"].endswith("Z")
    assert steps[2]["started_at"] is None
    assert snapshot["run"]["counts"] == {
        **dict.fromkeys(map(str, StepStatus), 0),
        "succeeded": 1,
        "running": 1,
        "pending": 1,
    }
    assert snapshot["run"]["triggered_by"] == "ada"
    json.dumps(snapshot)


def test_changes_hold_what_changed_and_nothing_else() -> None:
    """Rows above the sequence asked for, with the mutable columns, in the order of change."""
    run = make_run(5)
    after = Run.objects.get().sequence
    start_steps(run, [3])
    to = end_steps(run, [3, 1])
    changes = queries.changes_after(run.pk, after)
    assert "resync" not in changes
    assert (changes["from"], changes["to"]) == (after, to)
    assert changes["columns"] == list(protocol.MUTABLE_COLUMNS)
    ids = list(run.step_runs.order_by("position").values_list("pk", flat=True))
    assert {step["id"]: step["status"] for step in as_dicts(changes)} == {
        ids[1]: "succeeded",
        ids[3]: "succeeded",
    }
    assert queries.changes_after(run.pk, to)["steps"] == []  # type: ignore[typeddict-item]


def test_changes_and_a_snapshot_agree() -> None:
    """What an old snapshot and the changes since say together is what a new snapshot says."""
    run = make_run(4)
    old = queries.snapshot(run.pk)
    start_steps(run, [0, 2])
    change_steps(run, [2], progress=0.5, log_size=10)
    end_steps(run, [0], "failed")
    changes = queries.changes_after(run.pk, old["to"])
    assert "resync" not in changes
    steps = {step["id"]: step for step in as_dicts(old)}
    for step in as_dicts(changes):
        steps[step["id"]] |= step
    assert list(steps.values()) == as_dicts(queries.snapshot(run.pk))


def test_the_future_of_a_run_means_resync() -> None:
    """Whoever holds more than there ever was needs a snapshot."""
    run = make_run()
    assert queries.changes_after(run.pk, run.sequence + 1) == {"v": 1, "resync": True}


def test_a_run_that_does_not_exist() -> None:
    """Every reading of one run says so in the same way."""
    for read in (queries.snapshot, queries.results):
        with pytest.raises(Run.DoesNotExist):
            read(2**70)
    with pytest.raises(Run.DoesNotExist):
        queries.changes_after(1, 0)


@pytest.mark.django_db(transaction=True)
def test_the_run_is_read_before_its_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """A change between the two readings comes again with the next changes instead of being lost."""
    run = make_run(2)
    after = run.sequence
    original = queries.run_object

    def change_meanwhile(row: Run) -> Any:
        start_steps(run, [1])
        return original(row)

    monkeypatch.setattr(queries, "run_object", change_meanwhile)
    changes = queries.changes_after(run.pk, after)
    monkeypatch.undo()
    again = queries.changes_after(run.pk, changes["to"])  # type: ignore[typeddict-item]
    assert [step["status"] for step in as_dicts(again)] == ["running"]


def test_the_cost_does_not_grow_with_the_steps(django_assert_num_queries: QueryCount) -> None:
    """A number of queries that depends on nothing."""
    step = make_step()
    for size in (1, 40):
        run = make_run(["succeeded"] * size, steps=[step] * size)
        with django_assert_num_queries(4):
            queries.snapshot(run.pk)
        with django_assert_num_queries(2):
            queries.changes_after(run.pk, 0)
        with django_assert_num_queries(2):
            queries.results(run.pk)


# ---- usual durations ----------------------------------------------------------------------------


def finish_in(run: Run, *seconds: float) -> None:
    """Give the steps of a run these durations, by position."""
    for position, duration in enumerate(seconds):
        run.step_runs.filter(position=position).update(
            finished_at=F("started_at") + timedelta(seconds=duration)
        )


def usual_of(run: Run) -> list[float | None]:
    return [step["usual_seconds"] for step in as_dicts(queries.snapshot(run.pk))]


def test_the_usual_duration_is_the_median_of_past_runs() -> None:
    """Of succeeded step runs of the same step, in whatever run and place."""
    tidy, other = make_step("TidyStep"), make_step("OtherStep")
    for duration in (1.0, 2.0, 30.0):
        finish_in(make_run(["succeeded", "failed"], steps=[tidy, tidy]), duration, 500.0)
    run = make_run(2, steps=[other, tidy])
    usual = usual_of(run)
    assert usual[0] is None
    assert usual[1] == pytest.approx(2.0, abs=0.001)


def test_two_past_runs_are_no_usual_duration() -> None:
    """Fewer than three say nothing."""
    tidy = make_step()
    for _ in range(2):
        make_run(["succeeded"], steps=[tidy])
    assert usual_of(make_run(1, steps=[tidy])) == [None]


def test_only_the_latest_twenty_count() -> None:
    """A step that became quick is expected to be quick."""
    tidy = make_step()
    finish_in(make_run(["succeeded"] * 25, steps=[tidy] * 25), *[90.0] * 25)
    finish_in(make_run(["succeeded"] * 20, steps=[tidy] * 20), *[1.0] * 20)
    assert usual_of(make_run(1, steps=[tidy])) == [pytest.approx(1.0, abs=0.001)]


# ---- waiting ------------------------------------------------------------------------------------


def waiting_of(run: Run) -> str:
    return queries.run_object(Run.objects.get(pk=run.pk))["waiting"]


def test_a_queued_run_says_why_it_waits() -> None:
    """No worker; then a busy one; then one that is about to take it."""
    run = make_run(status=RunStatus.QUEUED)
    assert waiting_of(run) == "no worker is running"
    make_worker(slots=1)
    other = make_run(status=RunStatus.RUNNING)
    assert waiting_of(run) == "workers busy 1/1"
    end_run(other)
    assert waiting_of(run) == ""


def test_a_run_waits_for_another_of_its_batch() -> None:
    """The limit of the batch is named, with the runs that fill it."""
    make_worker(slots=9)
    batch = make_batch(max_active_runs=1)
    first = make_run(batch=batch)
    second = make_run(batch=batch, status=RunStatus.QUEUED)
    assert waiting_of(second) == f"run {first.pk} of this batch is still running (limit 1)"
    batch.max_active_runs = 2
    batch.save()
    assert waiting_of(second) == ""
    also = make_run(batch=batch)
    third = make_run(batch=batch, status=RunStatus.QUEUED)
    sentence = f"runs {first.pk} and {also.pk} of this batch are still running (limit 2)"
    assert waiting_of(third) == sentence


def test_runs_of_a_batch_wait_in_their_order() -> None:
    """A later one says which comes first."""
    batch = make_batch()
    first = make_run(batch=batch, status=RunStatus.QUEUED)
    second = make_run(batch=batch, status=RunStatus.QUEUED)
    assert waiting_of(second) == f"run {first.pk} of this batch comes first (limit 1)"


def test_a_run_that_is_not_queued_waits_for_nothing(
    django_assert_num_queries: QueryCount,
) -> None:
    """And costs no query to say so."""
    run = Run.objects.get(pk=make_run().pk)
    with django_assert_num_queries(0):
        assert queries.run_object(run)["waiting"] == ""


def test_workers_that_were_not_seen_or_stopped_do_not_count() -> None:
    """Only the living can take a run."""
    make_worker(slots=2)
    make_worker(slots=4, seen_at=timezone.now() - timedelta(minutes=1))
    make_worker(slots=8, stopped_at=timezone.now())
    make_run()
    assert queries.workers() == {"alive": 1, "slots": 2, "busy": 1}


# ---- tables -------------------------------------------------------------------------------------


def ids_of(table: Any) -> list[int]:
    return [run["id"] for run in table["runs"]]


def test_the_table_lists_active_and_just_ended_runs() -> None:
    """Running first, then the queue in its order, then what ended within the last minute."""
    ended = make_run(["succeeded"], status=RunStatus.SUCCEEDED)
    make_run(["failed"], status=RunStatus.FAILED, finished_at=timezone.now() - timedelta(minutes=2))
    queued = [make_run(status=RunStatus.QUEUED) for _ in range(2)]
    running = make_run()
    table = queries.active_runs()
    assert ids_of(table) == [running.pk, queued[0].pk, queued[1].pk, ended.pk]
    assert table["left_out"] == 0
    assert table["workers"] == {"alive": 0, "slots": 0, "busy": 1}


def test_a_run_that_ends_meanwhile_is_listed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """As ended, though it was still running when the active ones were read."""
    run = make_run()
    original = timezone.now

    def end_meanwhile() -> Any:
        monkeypatch.undo()
        end_run(run)
        return original()

    monkeypatch.setattr(queries.timezone, "now", end_meanwhile)
    table = queries.active_runs()
    assert [(item["id"], item["status"]) for item in table["runs"]] == [(run.pk, "succeeded")]


def test_a_long_queue_is_cut_and_says_so(
    monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: QueryCount
) -> None:
    """The table stays small, and its cost the same."""
    monkeypatch.setattr(queries, "TABLE_LIMIT", 3)
    batch = make_batch()
    for _ in range(5):
        make_run(status=RunStatus.QUEUED, batch=batch)
    with django_assert_num_queries(8):
        table = queries.active_runs()
    assert len(table["runs"]) == 3
    assert table["left_out"] == 2


def test_pages_of_runs() -> None:
    """The latest first, by batch, by status, and on from an id."""
    batch = make_batch("weekly")
    runs = [make_run(), make_run(["failed"], status=RunStatus.FAILED), make_run(batch=batch)]
    first, second, third = (run.pk for run in runs)
    assert ids_of(queries.runs_page()) == [third, second, first]
    assert ids_of(queries.runs_page(batch="weekly")) == [third]
    assert ids_of(queries.runs_page(status="failed")) == [second]
    assert ids_of(queries.runs_page(before=third)) == [second, first]
    assert ids_of(queries.runs_page(only_active=True)) == [third, first]


def test_warnings_before_a_start() -> None:
    """A run that would wait or fail says so beforehand."""
    batch = make_batch()
    running = make_run(batch=batch)
    make_step("LostStep", kind="python", missing=True)
    step = PlannedStep(position=0, name="lost", step_name="LostStep", kind="python", lane=Lane.POOL)
    plan = Plan(batch="nightly", ruleset="", options=RunOptions(), steps=(step,))
    assert queries.plan_warnings(batch, plan) == [
        f"This run will wait: run {running.pk} of this batch is still running (limit 1).",
        "This run will wait: no worker is running.",
        "“lost” will fail: the function of its step is missing.",
    ]
    end_run(running)
    make_worker()
    assert (
        queries.plan_warnings(batch, Plan(batch="", ruleset="", options=RunOptions(), steps=()))
        == []
    )


# ---- output -------------------------------------------------------------------------------------

TEXT = "grüße €uro 🐍 ende\n" * 3


@pytest.fixture
def step_run() -> StepRun:
    run = make_run(["running"])
    return run.step_runs.get()


@pytest.mark.parametrize("piece", [1, 3, 7, 1000])
@pytest.mark.parametrize("limit", [4, 5, 16, 10_000])
def test_output_read_piece_by_piece_is_the_whole(step_run: StepRun, piece: int, limit: int) -> None:
    """However it was stored and however it is read, every piece decodes and nothing is missing."""
    data = TEXT.encode()
    write_log(step_run, *(data[at : at + piece] for at in range(0, len(data), piece)))
    text, offset = "", 0
    while offset < len(data):
        part = queries.read_log(step_run.pk, offset, limit)
        assert part.offset == offset
        assert 0 < len(part.data) <= limit
        text += part.data.decode()
        offset = part.next_offset
    assert text == TEXT
    assert part.size == len(data)


@pytest.mark.parametrize("limit", range(4, 30))
def test_the_tail_begins_with_a_whole_character(step_run: StepRun, limit: int) -> None:
    """The last bytes, without half a character in front."""
    write_log(step_run, TEXT.encode())
    tail = queries.read_log(step_run.pk, limit=limit, tail=True)
    assert TEXT.endswith(tail.data.decode())
    assert tail.next_offset == tail.size
    assert limit - 3 <= len(tail.data) <= limit


def test_half_a_character_waits_for_its_other_half(step_run: StepRun) -> None:
    """While the step runs; once it has ended there is no other half."""
    write_log(step_run, b"ok \xe2\x82")
    assert queries.read_log(step_run.pk).data == b"ok "
    assert queries.read_log(step_run.pk, 3).data == b""
    StepRun.objects.filter(pk=step_run.pk).update(
        status=StepStatus.FAILED, finished_at=timezone.now()
    )
    part = queries.read_log(step_run.pk, 3)
    assert (part.data, part.is_final) == (b"\xe2\x82", True)


def test_binary_output_is_read_to_its_end(step_run: StepRun) -> None:
    """Bytes that are no text at all neither stop the reading nor get lost silently."""
    write_log(step_run, bytes(range(256)) * 4)
    StepRun.objects.filter(pk=step_run.pk).update(
        status=StepStatus.FAILED, finished_at=timezone.now()
    )
    offset, reads = 0, 0
    while offset < 1024:
        part = queries.read_log(step_run.pk, offset, 4)
        assert part.next_offset > offset
        offset, reads = part.next_offset, reads + 1
    assert reads <= 1024
    assert queries.whole_log(step_run.pk) == bytes(range(256)) * 4


def test_reading_beyond_the_output_is_empty(step_run: StepRun) -> None:
    """Also for a step that wrote nothing, and for a step that does not exist."""
    assert queries.read_log(step_run.pk, 5).data == b""
    write_log(step_run, b"abc")
    part = queries.read_log(step_run.pk, 99)
    assert (part.offset, part.data, part.size) == (3, b"", 3)
    with pytest.raises(StepRun.DoesNotExist):
        queries.read_log(2**70)


def test_output_costs_three_queries(
    step_run: StepRun, django_assert_num_queries: QueryCount
) -> None:
    """And reads only the chunks that it needs."""
    write_log(step_run, *[b"x" * 100] * 50)
    with django_assert_num_queries(3) as captured:
        assert len(queries.read_log(step_run.pk, 2050, 100).data) == 100
    assert "offset" in captured.captured_queries[-1]["sql"]


# ---- results ------------------------------------------------------------------------------------


def test_results_have_the_shape_of_the_note() -> None:
    """By outcome, and again by lane."""
    run = make_run(
        ["succeeded", "timed_out", "skipped", "succeeded", "cancelled", "interrupted", "running"],
        critical=3,
    )
    run.step_runs.filter(position=1).update(message="30 s are over", reason="timeout")
    run.step_runs.filter(position=0).update(result={"rows": 3})
    results = queries.results(run.pk)
    names = {
        key: [item["step"] for item in results[key]]  # type: ignore[literal-required]
        for key in ("successful", "failed", "skipped", "cancelled")
    }
    assert names == {
        "successful": ["entry 0", "entry 3"],
        "failed": ["entry 1", "entry 5"],
        "skipped": ["entry 2"],
        "cancelled": ["entry 4"],
    }
    assert (results["total"], results["unfinished"]) == (7, 1)
    assert (results["critical"]["total"], results["parallel"]["total"]) == (3, 4)
    first = results["critical"]["successful"][0]
    assert first["duration_seconds"] == pytest.approx(1.0, abs=0.01)
    assert (first["success"], first["error"], first["result"]) == (True, None, {"rows": 3})
    assert first["execution_mode"] == "sequential"
    assert results["parallel"]["successful"][0]["execution_mode"] == "parallel"
    failed = results["critical"]["failed"][0]
    assert (failed["success"], failed["error"]) == (False, "30 s are over")
    assert results["skipped"][0]["duration_seconds"] is None
    json.dumps(results)
