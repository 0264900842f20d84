"""A cluster whose runs are stubs: `python -m tests.integration.cluster_host SLOTS`.

Reads lines from standard input: `hint N` sends one. Writes lines to standard output: `ready`,
`begin N PID`, `end N PID`. What a run does goes by its number:

to 99     nothing; 50 also writes `ignored HEX`, the signals that its commands ignore
from 100  goes on until there is a file `release-N` or the cluster is stopping
from 200  goes on whatever the cluster does
from 300  leaves a thread behind and asks for its process to be recycled
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from types import ModuleType

import django


def say(*words: object) -> None:
    os.write(1, (" ".join(map(str, words)) + "\n").encode())


def execute(run_id: int) -> None:
    from django.conf import settings

    from executions import cluster

    say("begin", run_id, os.getpid())
    if run_id == 50:
        status = subprocess.check_output(["grep", "SigIgn", "/proc/self/status"], text=True)
        say("ignored", status.split()[1])
    elif run_id >= 300:
        threading.Thread(target=time.sleep, args=[600]).start()
        cluster.recycle_after_this_run()
    elif run_id >= 100:
        release = settings.DATA_DIR / f"release-{run_id}"
        while not release.exists() and not (cluster.stopping() and run_id < 200):
            time.sleep(0.01)
    say("end", run_id, os.getpid())


def follow_orders() -> None:
    from django.db import connection

    from executions import dispatch

    for line in sys.stdin:
        verb, number = line.split()
        assert verb == "hint"
        dispatch.hint(int(number))
        connection.close()


def make_tables() -> None:
    from django.db import connection
    from django_q.models import OrmQ, Task

    if OrmQ._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(OrmQ)
            editor.create_model(Task)


def main(slots: int, constants: dict[str, float]) -> int:
    django.setup()
    stub = ModuleType("executions.worker")
    stub.execute = execute  # type: ignore[attr-defined]
    sys.modules["executions.worker"] = stub

    from executions import cluster
    from executions.conf import Settings

    for name, value in constants.items():
        setattr(Settings if name == "DRAIN_SECONDS" else cluster, name, value)

    def begin() -> None:
        threading.Thread(target=follow_orders, daemon=True).start()
        say("ready")

    make_tables()
    return cluster.run(slots, once_forked=begin)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), json.loads(sys.argv[2])))
