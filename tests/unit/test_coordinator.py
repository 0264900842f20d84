"""What starts, what stops, and when a run is over."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from executions.engine.coordinator import Before, Result
from executions.engine.executors import Call
from executions.engine.outcomes import Outcome, is_miss, run_status
from executions.engine.output import StepOutput
from executions.engine.plan import FailurePolicy, Lane, PoolStart
from executions.engine.ports import Change, Fenced, HandBack, ShutDown, Start
from executions.engine.status import FINAL_STEP_STATUSES, RunStatus, StepStatus

from .world import (
    DEADLINE,
    FAILED,
    SUCCEEDED,
    World,
    critical,
    make_plan,
    pooled,
    until_cancelled,
)


def fails(call: Call) -> Outcome:
    return FAILED


def test_critical_steps_run_one_at_a_time_in_order_and_then_the_pool() -> None:
    """The order of the critical lane is the order of the plan; the pool waits for its end."""
    world = World(make_plan(pooled("p1"), critical("c1"), critical("c2"), pooled("p2")))
    assert world.run() is Result.ENDED
    assert world.order[:2] == ["c1", "c2"]
    assert set(world.order[2:]) == {"p1", "p2"}
    assert world.most_at_once[Lane.CRITICAL] == 1
    assert world.ended is RunStatus.SUCCEEDED


def test_the_pool_is_as_wide_as_asked_and_no_wider() -> None:
    """All slots are used, and never more steps run than there are slots."""
    together = threading.Barrier(3)
    steps = [pooled(f"p{number}") for number in range(9)]
    bodies = {step.name: lambda call: (together.wait(DEADLINE), SUCCEEDED)[1] for step in steps}
    world = World(make_plan(*steps, width=3), bodies)
    world.run()
    assert world.most_at_once[Lane.POOL] == 3
    slots = {change.slot for change in world.log if isinstance(change, Start)}
    assert slots == {1, 2, 3}


def test_beside_critical_lets_the_pool_start_at_once() -> None:
    """With `beside_critical` a pool step runs while the first critical step still does."""
    plan = make_plan(critical("c"), pooled("p"), start=PoolStart.BESIDE_CRITICAL)
    meet = threading.Barrier(2)
    body = lambda call: (meet.wait(DEADLINE), SUCCEEDED)[1]  # noqa: E731
    world = World(plan, {"c": body, "p": body})
    world.run()
    assert world.ended is RunStatus.SUCCEEDED


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        (FailurePolicy.CONTINUE, {"c2": "succeeded", "p": "succeeded"}),
        (FailurePolicy.STOP_CRITICAL, {"c2": "skipped", "p": "succeeded"}),
        (FailurePolicy.STOP_RUN, {"c2": "skipped", "p": "skipped"}),
    ],
)
def test_failure_policy(policy: FailurePolicy, expected: dict[str, str]) -> None:
    """A critical miss prevents what the policy says, and the run FAILED."""
    plan = make_plan(critical("c1"), critical("c2"), pooled("p"), policy=policy)
    world = World(plan, {"c1": fails})
    world.run()
    assert world.by_name() == {"c1": "failed"} | expected
    assert world.ended is RunStatus.FAILED


def test_a_miss_in_the_pool_changes_nothing_for_the_others() -> None:
    """Errors are isolated: the others succeed and the run succeeded partially."""
    world = World(make_plan(critical("c"), pooled("bad"), pooled("good")), {"bad": fails})
    world.run()
    assert world.by_name() == {"c": "succeeded", "bad": "failed", "good": "succeeded"}
    assert world.ended is RunStatus.PARTIALLY_SUCCEEDED


def test_a_skipped_step_says_which_step_it_depended_on() -> None:
    """The reason of a skip names the step that missed."""
    world = World(make_plan(critical("c1"), critical("c2")), {"c1": fails})
    world.run()
    assert "“c1” failed" in world.outcome("c2").message
    assert world.outcome("c2").reason == "critical_missed"


def test_a_step_over_its_timeout_is_asked_to_stop() -> None:
    """A step that obeys its token ends TIMED_OUT; the others are not touched."""
    plan = make_plan(pooled("slow", timeout_seconds=0.02), pooled("quick"))
    world = World(plan, {"slow": until_cancelled})
    world.run()
    assert world.by_name() == {"slow": "timed_out", "quick": "succeeded"}


def stubborn(world: World) -> object:
    def body(call: Call) -> Outcome:
        world.late.wait(DEADLINE)
        return SUCCEEDED

    return body


def test_a_step_that_does_not_return_is_abandoned_and_keeps_its_slot() -> None:
    """Its timeout and grace over, it is TIMED_OUT and abandoned; the other slot does the rest."""
    plan = make_plan(pooled("stuck", timeout_seconds=0.02), *[pooled(f"p{n}") for n in range(4)])
    world = World(plan)
    world.bodies["stuck"] = stubborn(world)
    world.run()
    world.late.set()
    assert world.by_name()["stuck"] == "timed_out"
    assert world.outcome("stuck").abandoned
    assert world.coordinator.abandoned
    assert world.ended is RunStatus.PARTIALLY_SUCCEEDED


def test_with_every_slot_abandoned_the_rest_of_the_lane_is_skipped() -> None:
    """As many stubborn steps as slots: the run still ends, and says why."""
    stuck = [pooled(f"stuck{n}", timeout_seconds=0.02) for n in range(2)]
    world = World(make_plan(*stuck, pooled("never"), width=2))
    world.bodies |= {step.name: stubborn(world) for step in stuck}
    world.run()
    world.late.set()
    assert world.by_name()["never"] == "skipped"
    assert world.outcome("never").reason == "no_slot_left"


def test_the_late_result_of_an_abandoned_step_is_fenced_off() -> None:
    """It frees the slot and changes nothing else."""
    plan = make_plan(
        pooled("stuck", timeout_seconds=0.02, grace_seconds=0.02), pooled("next"), width=2
    )
    world = World(plan)
    world.bodies["stuck"] = stubborn(world)

    def until_stuck_is_abandoned(call: Call) -> Outcome:
        assert call.token.wait(DEADLINE)
        return SUCCEEDED

    world.bodies["next"] = until_stuck_is_abandoned
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("next")
    while not world.coordinator.abandoned:
        thread.join(0.005)
    world.late.set()
    world.request(steps=["next"])
    world.join(thread)
    assert world.by_name() == {"stuck": "timed_out", "next": "succeeded"}


def test_cancelling_the_run_stops_what_runs_and_what_waits() -> None:
    """Running steps end CANCELLED, pending ones never start, the run is CANCELLED."""
    world = World(make_plan(critical("c"), pooled("p")), {"c": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c")
    world.request(run="stop")
    world.join(thread)
    assert world.by_name() == {"c": "cancelled", "p": "cancelled"}
    assert world.order == ["c"]
    assert world.ended is RunStatus.CANCELLED


def test_drain_lets_running_steps_finish() -> None:
    """A drained run starts nothing new; what ran ends by itself."""
    plan = make_plan(critical("c1"), critical("c2"))
    world = World(plan)
    world.bodies["c1"] = stubborn(world)
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c1")
    world.request(run="drain")
    world.late.set()
    world.join(thread)
    assert world.by_name() == {"c1": "succeeded", "c2": "cancelled"}
    assert world.ended is RunStatus.CANCELLED


def test_a_drain_can_be_raised_to_a_stop() -> None:
    """The second, stronger request reaches the steps that the first one left running."""
    world = World(make_plan(critical("c")), {"c": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c")
    world.request(run="drain")
    world.request(run="stop")
    world.join(thread)
    assert world.by_name() == {"c": "cancelled"}


def test_a_protected_step_is_not_stopped_by_a_cancel() -> None:
    """While it runs only its timeout ends it; pending ones are cancelled as any other."""
    plan = make_plan(critical("kept", protected=True), critical("waits", protected=True))
    world = World(plan)
    world.bodies["kept"] = stubborn(world)
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("kept")
    world.request(run="stop", steps=["kept"])
    world.late.set()
    world.join(thread)
    assert world.by_name() == {"kept": "succeeded", "waits": "cancelled"}


def test_a_protected_step_whose_cancel_was_requested_is_not_tried_again() -> None:
    """The request does not stop it, but keeps its next attempt out of the journal."""
    step = critical("kept", protected=True, retry_safe=True, attempts=3, backoff_seconds=0.0)
    world = World(make_plan(step))
    world.bodies["kept"] = lambda call: (world.late.wait(DEADLINE), FAILED)[1]
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("kept")
    world.request(steps=["kept"])
    world.late.set()
    world.join(thread)
    assert world.order == ["kept"]
    assert world.by_name() == {"kept": "failed"}


def test_cancelling_one_step_leaves_the_others_alone() -> None:
    """A step of the pool that is cancelled singly is a miss of its own."""
    world = World(make_plan(pooled("a"), pooled("b"), width=1), {"a": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("a")
    world.request(steps=["a"])
    world.join(thread)
    assert world.by_name() == {"a": "cancelled", "b": "succeeded"}
    assert world.ended is RunStatus.PARTIALLY_SUCCEEDED


def test_a_pending_critical_step_that_is_cancelled_spares_those_before_it() -> None:
    """The policy applies from its place in the order on, not to what comes earlier."""
    plan = make_plan(critical("c1"), critical("c2"), critical("c3"), critical("c4"))
    world = World(plan)
    world.bodies["c1"] = stubborn(world)
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c1")
    world.request(steps=["c3"])
    world.late.set()
    world.join(thread)
    statuses = {"c1": "succeeded", "c2": "succeeded", "c3": "cancelled", "c4": "skipped"}
    assert world.by_name() == statuses


def test_a_retry_safe_step_is_tried_again() -> None:
    """It fails once, waits, and succeeds at its second attempt."""
    tries: list[int] = []

    def flaky(call: Call) -> Outcome:
        tries.append(call.attempt)
        return FAILED if call.attempt == 1 else SUCCEEDED

    step = pooled("flaky", retry_safe=True, attempts=3, backoff_seconds=0.01)
    world = World(make_plan(step), {"flaky": flaky})
    world.run()
    assert tries == [1, 2]
    assert world.ended is RunStatus.SUCCEEDED


def test_attempts_are_limited() -> None:
    """After its last attempt a retry-safe step has failed."""
    step = critical("bad", retry_safe=True, attempts=3, backoff_seconds=0.001)
    world = World(make_plan(step), {"bad": fails})
    world.run()
    assert world.order == ["bad"] * 3
    assert world.ended is RunStatus.FAILED


def test_back_off_holds_the_critical_lane() -> None:
    """The next critical step waits until the one before it is through with its attempts."""
    step = critical("flaky", retry_safe=True, attempts=2, backoff_seconds=0.05)
    world = World(make_plan(step, critical("next")), {"flaky": fails})
    world.bodies["flaky"] = lambda call: FAILED if call.attempt == 1 else SUCCEEDED
    world.run()
    assert world.order == ["flaky", "flaky", "next"]


def test_back_off_frees_a_slot_of_the_pool() -> None:
    """Another step uses the slot while the first one waits for its next attempt."""
    step = pooled("flaky", retry_safe=True, attempts=2, backoff_seconds=0.05)
    world = World(make_plan(step, pooled("other"), width=1))
    world.bodies["flaky"] = lambda call: FAILED if call.attempt == 1 else SUCCEEDED
    world.run()
    assert world.order == ["flaky", "other", "flaky"]


def test_a_cancel_in_back_off_ends_the_step() -> None:
    """No further attempt starts after the request."""
    step = critical("flaky", retry_safe=True, attempts=2, backoff_seconds=60.0)
    world = World(make_plan(step), {"flaky": fails})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("flaky")
    world.request(steps=["flaky"])
    world.join(thread)
    assert world.order == ["flaky"]
    assert world.statuses[0] in (StepStatus.CANCELLED, StepStatus.FAILED)


def test_an_interrupted_critical_step_of_unproven_death_ends_the_lane() -> None:
    """Two critical steps never run at once, whatever the policy says."""
    plan = make_plan(critical("lost"), critical("c2"), pooled("p"), policy=FailurePolicy.CONTINUE)
    before = [
        Before(StepStatus.INTERRUPTED, 1, "worker_lost", death_unproven=True),
        Before(),
        Before(),
    ]
    world = World(plan, before=before)
    world.run()
    assert world.by_name() == {"lost": "interrupted", "c2": "skipped", "p": "succeeded"}


def test_a_critical_step_whose_processes_may_live_on_ends_the_lane() -> None:
    """Whatever the policy says: the next critical step must not run beside what is left of it."""
    plan = make_plan(critical("c1"), critical("c2"), policy=FailurePolicy.CONTINUE)
    left = Outcome(status=StepStatus.TIMED_OUT, reason="timeout", receipt={"proven_empty": False})
    world = World(plan, {"c1": lambda call: left})
    world.run()
    assert world.by_name() == {"c1": "timed_out", "c2": "skipped"}
    assert world.outcome("c2").reason == "unproven_death"


def test_a_claimed_run_goes_on_where_it_was() -> None:
    """What is finished stays finished; only the rest is started."""
    plan = make_plan(critical("c1"), critical("c2"), pooled("p"))
    world = World(plan, before=[Before(StepStatus.SUCCEEDED, 1), Before(), Before()])
    world.run()
    assert world.order == ["c2", "p"]
    assert world.ended is RunStatus.SUCCEEDED


def test_shut_down_hands_the_run_back() -> None:
    """Nothing new starts; a running step is stopped after the drain; the rest stays pending."""
    plan = make_plan(critical("c1"), critical("c2"))
    world = World(plan, {"c1": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c1")
    world.coordinator.post(ShutDown(0.02))
    world.join(thread)
    assert world.by_name()["c1"] == "interrupted"
    # The miss of c1 skipped c2, so nothing was left to hand back.
    assert results == [Result.ENDED]


def test_shut_down_keeps_what_is_safe_to_try_again() -> None:
    """A retry-safe step goes back to pending and the run to the queue."""
    plan = make_plan(critical("c1", retry_safe=True, attempts=3), critical("c2"))
    world = World(plan, {"c1": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c1")
    world.coordinator.post(ShutDown(0.02))
    world.join(thread)
    assert world.by_name() == {"c1": "pending", "c2": "pending"}
    assert results == [Result.HANDED_BACK]
    assert isinstance(world.log[-1], HandBack)


def test_a_clock_that_was_put_back_does_not_prolong_a_back_off() -> None:
    """The record says when to try again by a wall clock, whose hours need not be true."""
    step = pooled("late", retry_safe=True, attempts=3, backoff_seconds=0.01)
    before = [Before(StepStatus.PENDING, attempt=1, retry_in=86_400.0)]
    world = World(make_plan(step), before=before)
    assert world.run() is Result.ENDED
    assert world.by_name() == {"late": "succeeded"}


def test_a_fenced_coordinator_stops_everything_and_writes_nothing() -> None:
    """After the fence no change reaches the journal."""
    world = World(make_plan(critical("c1"), critical("c2")), {"c1": until_cancelled})
    results: list[Result] = []
    thread = world.start(results)
    world.wait_for("c1")
    written = len(world.log)
    world.coordinator.post(Fenced())
    world.join(thread)
    assert results == [Result.FENCED]
    assert len(world.log) == written


def test_a_start_that_is_committed_after_the_drain_is_stopped_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A database that was stuck meanwhile does not keep the worker from stopping."""
    step = pooled("late", retry_safe=True, attempts=2)
    world = World(make_plan(step), {"late": until_cancelled})
    record = world.record

    def stuck(changes: list[Change]) -> None:
        monkeypatch.setattr(world, "record", record)
        world.coordinator.post(ShutDown(0.0))
        threading.Timer(0.1, record, [changes]).start()

    monkeypatch.setattr(world, "record", stuck)
    assert world.run() is Result.HANDED_BACK
    assert world.by_name() == {"late": "pending"}


def test_an_executor_that_raises_ends_its_step() -> None:
    """It promised not to; its step has failed all the same, and the slot goes on."""

    def broken(call: Call) -> Outcome:
        raise SystemExit("the library said so")

    world = World(make_plan(pooled("bad"), pooled("good"), width=1), {"bad": broken})
    world.run()
    assert world.by_name() == {"bad": "failed", "good": "succeeded"}
    assert world.outcome("bad").reason == "engine_error"
    assert "the library said so" in world.outcome("bad").message


def test_a_failing_engine_asks_what_runs_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody would hear of those steps any more."""
    world = World(make_plan(pooled("runs"), pooled("breaks")))
    stopped = threading.Event()
    world.bodies["runs"] = lambda call: (call.token.wait(DEADLINE), stopped.set(), SUCCEEDED)[2]
    output = world.output

    def no_place_for_the_second(position: int) -> StepOutput:
        if position:
            raise RuntimeError("can't start new thread")
        return output(position)

    monkeypatch.setattr(world, "output", no_place_for_the_second)
    with pytest.raises(RuntimeError):
        world.coordinator.run(world)
    assert stopped.wait(DEADLINE)


lanes = st.sampled_from([critical, pooled])
bodies = st.sampled_from([None, fails, until_cancelled])


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    shape=st.lists(st.tuples(lanes, bodies, st.booleans()), min_size=1, max_size=12),
    width=st.integers(1, 4),
    policy=st.sampled_from(FailurePolicy),
    start=st.sampled_from(PoolStart),
    cancels=st.lists(st.one_of(st.sampled_from(["stop", "drain"]), st.integers(0, 11)), max_size=4),
)
def test_every_run_reaches_an_honest_end(shape, width, policy, start, cancels) -> None:
    """Whatever fails, hangs or is cancelled: one final status each, order and width kept."""
    steps = [
        make(f"s{number}", timeout_seconds=0.03, retry_safe=retry, attempts=2, backoff_seconds=0.0)
        for number, (make, _, retry) in enumerate(shape)
    ]
    world = World(make_plan(*steps, width=width, policy=policy, start=start))
    world.bodies |= {f"s{number}": body for number, (_, body, _) in enumerate(shape) if body}
    results: list[Result] = []
    thread = world.start(results)
    for cancel in cancels:
        if isinstance(cancel, str):
            world.request(run=cancel)
        elif cancel < len(steps):
            world.request(steps=[f"s{cancel}"])
    world.join(thread)
    assert results == [Result.ENDED]
    assert set(world.statuses) <= FINAL_STEP_STATUSES
    assert world.most_at_once[Lane.CRITICAL] <= 1
    assert world.most_at_once[Lane.POOL] <= width
    criticals = [step.name for step in world.plan.critical]
    begun = list(dict.fromkeys(name for name in world.order if name in criticals))
    assert begun == sorted(begun, key=criticals.index)
    reasons = [outcome.reason if outcome else "" for outcome in world.outcomes]
    triples = zip((step.lane for step in world.plan.steps), world.statuses, reasons, strict=True)
    assert world.ended is run_status(triples)


@given(
    st.lists(
        st.tuples(st.sampled_from(Lane), st.sampled_from(sorted(FINAL_STEP_STATUSES)), st.just(""))
    )
)
def test_run_status_is_failed_exactly_if_a_critical_or_every_step_missed(results) -> None:
    """The verdict over a run follows from lanes and statuses alone."""
    status = run_status(results)
    missed = [lane for lane, was, reason in results if is_miss(was, reason)]
    succeeded = any(was is StepStatus.SUCCEEDED for _, was, _ in results)
    if not missed:
        assert status is RunStatus.SUCCEEDED
    elif Lane.CRITICAL in missed or not succeeded:
        assert status is RunStatus.FAILED
    else:
        assert status is RunStatus.PARTIALLY_SUCCEEDED
