"""The wrapped cluster: real processes, killed in every way, with stubs for runs."""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from django.core import signing as django_signing
from django.db import connection, transaction
from django.utils import timezone
from django_q import cluster as django_q_cluster
from django_q import conf as django_q_conf
from django_q import monitor, pusher, signals, signing, status, worker
from django_q.brokers import Broker
from django_q.models import OrmQ
from django_q.signing import BadSignature, SignedPackage
from django_q.status import Stat

from executions import broker, cluster, dispatch
from tests.processes import children, descendants, is_alive, nothing_left, until

ROOT = Path(__file__).parent.parent.parent
FIRST = [signal.SIGTERM, signal.SIGINT, signal.SIGHUP]


class Host:
    """A running `cluster_host`."""

    def __init__(self, data: Path, slots: int, constants: dict[str, float]) -> None:
        self.data = data
        self.lines: list[str] = []
        self.errors: list[str] = []
        self.process = subprocess.Popen(
            # Any warning, such as one about a fork beside threads, would be seen in the errors.
            [
                *(sys.executable, "-W", "default", "-m", "tests.integration.cluster_host"),
                *(str(slots), json.dumps(constants)),
            ],
            cwd=ROOT,
            env={
                **{k: v for k, v in os.environ.items() if k not in ("DATABASE_URL", "REDIS_URL")},
                "DJANGO_SETTINGS_MODULE": "stepsite.settings",
                "STEPSITE_DATA": str(data),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._readers = [
            threading.Thread(target=self._read, args=[pipe, lines], daemon=True)
            for pipe, lines in (
                (self.process.stdout, self.lines),
                (self.process.stderr, self.errors),
            )
        ]
        for reader in self._readers:
            reader.start()

    @staticmethod
    def _read(pipe: Any, lines: list[str]) -> None:
        with pipe:
            for line in pipe:
                lines.append(line.strip())

    def await_line(self, start: str) -> list[str]:
        """The words of the first line that starts so."""

        def found() -> str | None:
            assert self.process.poll() is None or any(
                line.startswith(start) for line in self.lines
            ), f"ended with {self.process.returncode}: {self.errors}"
            return next((line for line in self.lines if f"{line} ".startswith(f"{start} ")), None)

        return until(found, f"a line {start!r}").split()  # type: ignore[union-attr]

    def hint(self, run_id: int) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"hint {run_id}\n")
        self.process.stdin.flush()

    def execute(self, run_id: int) -> int:
        """Have a run executed to its end; the pid of the process that did it."""
        self.hint(run_id)
        return int(self.await_line(f"end {run_id}")[2])

    def begin(self, run_id: int) -> int:
        self.hint(run_id)
        return int(self.await_line(f"begin {run_id}")[2])

    def release(self, run_id: int) -> None:
        (self.data / f"release-{run_id}").touch()

    @property
    def sentinel(self) -> int:
        return children(self.process.pid)[0]

    def signal_group(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def await_end(self) -> int:
        """The exit code, when everything that was written has been read."""
        code = self.process.wait(timeout=30)
        for reader in self._readers:
            reader.join(30)
        return code

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        self.await_end()


StartHost = Callable[..., Host]


@pytest.fixture
def start_host(tmp_path: Path) -> Iterator[StartHost]:
    hosts: list[Host] = []

    def start(slots: int = 2, **constants: float) -> Host:
        host = Host(tmp_path, slots, constants)
        hosts.append(host)
        host.await_line("ready")
        until(lambda: len(descendants(host.process.pid)) == slots + 3, "all processes")
        return host

    with nothing_left(f"STEPSITE_DATA={tmp_path}"):
        try:
            yield start
        finally:
            for host in hosts:
                host.close()
        assert not [line for host in hosts for line in host.errors if "Warning" in line]


# ---- killed, and going on --------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_the_cluster_goes_on_when_an_idle_process_of_it_is_killed(
    start_host: StartHost, number: signal.Signals
) -> None:
    """Whichever process below the sentinel it is, and whoever of them waited at the queue."""
    host = start_host(slots=2)
    for run_id, pid in enumerate(children(host.sentinel), start=1):
        os.kill(pid, number)
        if number == signal.SIGKILL:
            until(lambda pid=pid: not is_alive(pid), "the death of the process")
        assert host.execute(run_id)
    until(lambda: len(children(host.sentinel)) == 4, "all processes to be there again")


def test_a_killed_busy_process_gives_its_slot_free(start_host: StartHost) -> None:
    """The only slot of a worker takes the next hint after a crash in a run."""
    host = start_host(slots=1)
    os.kill(host.begin(200), signal.SIGKILL)
    assert host.execute(1)


def test_hints_are_taken_in_the_order_in_which_they_were_sent(start_host: StartHost) -> None:
    host = start_host(slots=1)
    host.begin(100)
    for run_id in (3, 1, 2):
        host.hint(run_id)
    host.release(100)
    host.await_line("end 2")
    begun = [line.split()[1] for line in host.lines if line.startswith("begin")]
    assert begun == ["100", "3", "1", "2"]


def test_a_busy_worker_leaves_hints_to_an_idle_one(start_host: StartHost) -> None:
    """All short runs are executed by the second worker while the first one is busy."""
    busy, idle = start_host(slots=1), None
    busy.begin(100)
    idle = start_host(slots=1)
    for run_id in range(1, 6):
        busy.hint(run_id)
    for run_id in range(1, 6):
        idle.await_line(f"end {run_id}")


def test_a_process_is_recycled_whatever_its_run_left_behind(start_host: StartHost) -> None:
    """A thread that goes on does not keep the process, and the slot is there again."""
    host = start_host(slots=1)
    pid = host.execute(300)
    until(lambda: not is_alive(pid), "the end of the recycled process")
    assert host.execute(1) != pid


def test_commands_of_steps_ignore_no_signal(start_host: StartHost) -> None:
    """A SIGTERM, SIGINT or SIGHUP ends a command that does nothing about it."""
    host = start_host(slots=1)
    host.hint(50)
    mask = int(host.await_line("ignored")[1], 16)
    assert not [number.name for number in FIRST if mask >> (number - 1) & 1]


# ---- ending ----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", FIRST)
@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_signal_to_the_whole_group_ends_the_cluster_cleanly(
    start_host: StartHost, number: signal.Signals, busy: bool
) -> None:
    """A run under way learns of it and comes to its end first."""
    host = start_host(slots=2)
    if busy:
        host.begin(100)
    host.signal_group(number)
    assert host.await_end() == cluster.CLEAN
    assert busy == any(line.startswith("end 100") for line in host.lines)


def test_nothing_is_taken_up_after_the_signal(start_host: StartHost) -> None:
    host = start_host(slots=2)
    host.begin(200)
    host.process.terminate()
    until(lambda: len(children(host.sentinel)) < 4, "the first processes to end")
    host.hint(1)
    host.release(200)
    assert host.await_end() == cluster.CLEAN
    assert not any(line.startswith("begin 1 ") for line in host.lines)


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_nothing_outlives_a_killed_parent(start_host: StartHost, busy: bool) -> None:
    host = start_host(slots=2)
    if busy:
        host.begin(200)
    below = descendants(host.process.pid)
    host.process.kill()
    until(lambda: not any(map(is_alive, below)), "the end of all processes")


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
def test_a_killed_sentinel_ends_the_worker_with_a_code_of_its_own(
    start_host: StartHost, busy: bool
) -> None:
    host = start_host(slots=2)
    if busy:
        host.begin(200)
    below = descendants(host.process.pid)
    os.kill(host.sentinel, signal.SIGKILL)
    assert host.await_end() == cluster.BROKEN
    until(lambda: not any(map(is_alive, below)), "the end of all processes")


def test_a_second_signal_ends_a_stubborn_run_at_once(start_host: StartHost) -> None:
    host = start_host(slots=2, DRAIN_SECONDS=600)
    host.begin(200)
    host.process.terminate()
    until(lambda: len(children(host.sentinel)) < 4, "the first processes to end")
    host.process.terminate()
    assert host.await_end() == cluster.FORCED


def test_a_stubborn_run_is_ended_by_force_after_the_drain_time(start_host: StartHost) -> None:
    host = start_host(slots=2, DRAIN_SECONDS=0.2, FORCE_AFTER_DRAIN_SECONDS=0.2)
    host.begin(200)
    host.process.terminate()
    assert host.await_end() == cluster.FORCED


# ---- the board -------------------------------------------------------------------------------


def test_a_hint_that_was_lost_inside_is_not_waited_for_long() -> None:
    """A process can be killed with a hint in its hands; after a while the next one is taken."""
    board = cluster.Board(slots=1)
    board.on_take()
    assert not board.may_take()
    board.handed_at.value -= cluster.LOST_SECONDS
    assert board.may_take()


def test_no_hint_is_taken_while_every_slot_is_busy() -> None:
    board = cluster.Board(slots=2)
    assert board.may_take()
    for slot in (0, 1):
        board.slot = slot
        board.on_execute()
    assert not board.may_take()
    board.on_executed()
    assert board.may_take()


def test_outside_of_a_worker_nothing_is_stopping() -> None:
    assert cluster.stopping() is False


# ---- messages --------------------------------------------------------------------------------


def test_a_task_package_survives_as_json() -> None:
    """Everything that django-q2 puts in one; tuples become lists."""
    package = {
        "id": "a" * 32,
        "name": "ten-four",
        "func": "executions.tasks.execute_run",
        "args": (7,),
        "kwargs": {},
        "group": None,
        "ack_failure": True,
        "started": timezone.now(),
    }
    message = SignedPackage.dumps(package)
    assert json.loads(django_signing.b64_decode(message.split(":")[0].encode()))["args"] == [7]
    assert SignedPackage.loads(message) == {**package, "args": [7]}


def test_the_status_of_a_cluster_can_be_packed() -> None:
    """The sentinel does so in every round of its guard."""
    sentinel = django_q_cluster.Sentinel.__new__(django_q_cluster.Sentinel)
    sentinel.__dict__.update(
        pid=1,
        parent_pid=2,
        cluster_id="c",
        broker=broker.DatabaseBroker(),
        tob=timezone.now(),
        reincarnations=0,
        start_event=threading.Event(),
        stop_event=threading.Event(),
        result_queue=cluster.MessageQueue(),
        task_queue=cluster.MessageQueue(),
        monitor=None,
        pusher=None,
        pool=[],
    )
    unpacked = SignedPackage.loads(SignedPackage.dumps(Stat(sentinel), True))
    assert unpacked["sentinel"] == 1
    assert unpacked["tob"] == sentinel.tob


def test_a_message_cannot_hold_an_object() -> None:
    with pytest.raises(TypeError, match="cannot hold object"):
        SignedPackage.dumps({"args": [object()]})


def test_a_pickle_is_refused_even_with_the_right_signature(tmp_path: Path) -> None:
    """Whoever knows the key and reaches the queue still runs no code of theirs."""
    trap = tmp_path / "sprung"

    class Trap:
        def __reduce__(self) -> Any:
            return Path.touch, (trap,)

    class Pickling:
        def dumps(self, package: Any) -> bytes:
            return pickle.dumps(package)

    message = django_signing.dumps(
        Trap(), key=signing.Conf.SECRET_KEY, salt=signing.Conf.PREFIX, serializer=Pickling
    )
    with pytest.raises(BadSignature):
        SignedPackage.loads(message)
    assert not trap.exists()


@pytest.mark.django_db(transaction=True)
def test_a_hint_is_sent_when_the_transaction_is_committed() -> None:
    with transaction.atomic():
        dispatch.hint(7)
        assert dispatch.queue_is_empty()
    [(ack_id, message)] = broker.broker().dequeue()  # type: ignore[misc]
    assert ack_id is None
    package = SignedPackage.loads(message)
    assert (package["func"], package["args"]) == ("executions.tasks.execute_run", [7])
    assert dispatch.queue_is_empty()
    assert not OrmQ.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_a_hint_of_a_transaction_that_fails_is_not_sent() -> None:
    with transaction.atomic():
        dispatch.hint(7)
        transaction.set_rollback(True)
    assert dispatch.queue_is_empty()


def test_the_task_exists_under_the_name_that_hints_give() -> None:
    from executions import tasks

    assert list(inspect.signature(tasks.execute_run).parameters) == ["run_id"]


# ---- Redis -----------------------------------------------------------------------------------


@pytest.fixture
def use_redis(monkeypatch: pytest.MonkeyPatch, settings: Any) -> Iterator[Callable[[str], None]]:
    pytest.importorskip("redis")

    def use(url: str) -> None:
        settings.REDIS_URL = url
        monkeypatch.setattr(signing.Conf, "REDIS", url)
        monkeypatch.setattr(signing.Conf, "CLUSTER_NAME", f"test-{os.getpid()}")
        broker.broker.cache_clear()

    yield use
    broker.broker.cache_clear()


@pytest.mark.django_db(transaction=True)
def test_a_redis_that_is_gone_fails_no_request(
    use_redis: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """The hint is logged and left to rescue; nobody waits for it."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    use_redis(f"redis://127.0.0.1:{port}/0")
    dispatch.hint(7)
    assert "hint for run 7" in caplog.text
    assert not dispatch.queue_is_empty()
    assert broker.broker().ping() is False


@pytest.mark.django_db(transaction=True)
def test_a_redis_that_is_silent_costs_a_request_little(
    use_redis: Callable[[str], None], caplog: pytest.LogCaptureFixture
) -> None:
    """A server that accepts and never answers is given up within seconds."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        use_redis(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")

        def send() -> None:
            dispatch.hint(7)
            connection.close()

        thread = threading.Thread(target=send)
        thread.start()
        thread.join(10)
        assert not thread.is_alive()
    assert "hint for run 7" in caplog.text


@pytest.mark.redis
@pytest.mark.django_db(transaction=True)
def test_hints_pass_through_redis(use_redis: Callable[[str], None]) -> None:
    use_redis(os.environ.get("REDIS_URL") or "redis://127.0.0.1:6379/0")
    queue = broker.broker()
    if not queue.ping() and not os.environ.get("CI"):
        pytest.skip("no Redis answers")
    queue.purge_queue()
    for run_id in (3, 1):
        dispatch.hint(run_id)
    assert queue.queue_size() == 2
    taken = [queue.dequeue()[0][1] for _ in range(2)]  # type: ignore[index]
    assert [SignedPackage.loads(message)["args"] for message in taken] == [[3], [1]]
    assert dispatch.queue_is_empty()
    assert queue.dequeue() is None


# ---- what is touched in django-q2 is still there ---------------------------------------------


def test_the_cluster_takes_its_parts_by_the_names_that_are_replaced() -> None:
    start = inspect.getsource(django_q_cluster.Cluster.start)
    assert "get_mp_context().Process(" in start
    assert "target=Sentinel" in start
    assert "get_mp_context().Process(" in inspect.getsource(django_q_cluster.Sentinel.spawn_process)
    init = inspect.getsource(django_q_cluster.Sentinel.__init__)
    assert "Queue(maxsize=Conf.QUEUE_LIMIT)" in init
    assert "self.event_out = Event()" in init
    assert "self.stop_event = Event()" in start


def test_the_sentinel_has_the_methods_that_are_extended() -> None:
    plain = django_q_cluster.Sentinel
    assert "start" in inspect.signature(plain.__init__).parameters
    assert list(inspect.signature(plain.spawn_worker).parameters) == ["self"]
    assert list(inspect.signature(plain.reincarnate).parameters) == ["self", "process"]
    assert "self.pool.append(p)" in inspect.getsource(plain.spawn_process)
    assert "Stat(self).save()" in inspect.getsource(plain.guard)


def test_the_cluster_stops_by_its_event_and_its_handler() -> None:
    assert "self.stop_event.wait(" in inspect.getsource(django_q_cluster.Sentinel.guard)
    assert "self.sig_handler" in inspect.getsource(django_q_cluster.Cluster.__init__)
    assert list(inspect.signature(django_q_cluster.Cluster.sig_handler).parameters) == [
        "self",
        "signum",
        "frame",
    ]


def test_queues_events_and_timers_are_used_only_as_the_replacements_allow() -> None:
    """Every method that is called on them exists in what stands in for them."""
    source = "".join(map(inspect.getsource, (django_q_cluster, worker, pusher, monitor, status)))
    for pattern, stand_in in (
        (r"(?:task|result)_queue\.(\w+)", cluster.MessageQueue),
        (r"(?:event_out|stop_event|start_event|event)\.(\w+)\(", cluster.Flag),
        (r"timer\.(\w+)", cluster.Timer),
    ):
        used = set(re.findall(pattern, source))
        assert used, pattern
        assert not {name for name in used if not hasattr(stand_in, name)}


def test_a_worker_reads_what_is_set_for_it() -> None:
    source = inspect.getsource(worker)
    assert "iter(task_queue.get," in source
    assert "post_spawn.send(" in source
    assert "pre_execute.send(" in source
    assert "post_execute_in_worker.send(" in source
    assert "Conf.MAX_RSS" in source
    for name in ("post_spawn", "pre_execute", "post_execute_in_worker"):
        assert hasattr(signals, name)


def test_the_settings_that_are_changed_are_still_read() -> None:
    for name in ("WORKERS", "QUEUE_LIMIT", "MAX_RSS", "ORM", "POLL", "REDIS", "CLUSTER_NAME"):
        assert hasattr(django_q_conf.Conf, name), name


def test_messages_are_packed_by_the_serializer_that_is_replaced() -> None:
    assert inspect.getsource(SignedPackage).count("serializer=PickleSerializer") == 2
    assert signing.PickleSerializer is broker.JsonSerializer
    assert "SignedPackage.dumps(self" in inspect.getsource(Stat.save)


def test_a_broker_is_asked_for_what_ours_answer() -> None:
    theirs = {name for name, _ in inspect.getmembers(Broker, inspect.isfunction)}
    assert {"dequeue", "enqueue", "queue_size", "ping", "set_stat", "get_connection"} <= theirs
