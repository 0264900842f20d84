"""What this machine allows: the least that any engine with the same promises must pay.

`bare` keeps nothing. `raw_loop` keeps what stepsite keeps, with nothing around it: sqlite3, WAL,
synchronous=FULL, a step begins only after its START is committed, the end of a step and the START
of the next one in its slot are one record, whatever waits is committed together, and every write
is of fresh values (SQLite skips the write of a page that does not change). The write-ahead log has
its full size beforehand, as it has on a site that runs: commits to a growing file take longer.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

Body = Callable[[], object]


def bare(bodies: Sequence[Body], width: int) -> float:
    """Seconds that a ThreadPoolExecutor takes for the bodies."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(width) as pool:
        for future in [pool.submit(body) for body in bodies]:
            future.result()
    return time.perf_counter() - begun


def raw_loop(bodies: Sequence[Body], width: int, directory: Path, critical: int = 0) -> float:
    """Seconds for the bodies: the first `critical` one by one, the rest `width` at a time."""
    path = directory / "raw.sqlite3"
    path.unlink(missing_ok=True)
    records: SimpleQueue[tuple[int | None, int | None, threading.Event] | None] = SimpleQueue()
    writer = threading.Thread(target=_write, args=(path, len(bodies), records))
    ready = threading.Event()
    records.put((None, None, ready))
    writer.start()
    ready.wait()
    begun = time.perf_counter()
    _lane(bodies, iter(range(critical)), 1, records)
    _lane(bodies, iter(range(critical, len(bodies))), width, records)
    seconds = time.perf_counter() - begun
    records.put(None)
    writer.join()
    _check(path, len(bodies))
    return seconds


def _lane(bodies: Sequence[Body], numbers: object, width: int, records: SimpleQueue) -> None:
    lock = threading.Lock()

    def following() -> int | None:
        with lock:
            return next(numbers, None)

    def slot() -> None:
        done: int | None = None
        while True:
            number = following()
            if number is None and done is None:
                return
            committed = threading.Event()
            records.put((done, number, committed))
            committed.wait()
            if number is None:
                return
            bodies[number]()
            done = number

    threads = [threading.Thread(target=slot) for _ in range(width)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def _write(path: Path, number: int, records: SimpleQueue) -> None:
    database = sqlite3.connect(path, isolation_level=None)
    database.execute("PRAGMA journal_mode=WAL")
    database.execute("PRAGMA synchronous=FULL")
    database.execute(
        "CREATE TABLE step (id INTEGER PRIMARY KEY, status TEXT, started REAL, finished REAL)"
    )
    _grow_log(database)
    database.execute("BEGIN")
    database.executemany("INSERT INTO step VALUES (?, 'pending', NULL, NULL)", _rows(number))
    database.execute("COMMIT")
    while (record := records.get()) is not None:
        group = [record]
        try:
            while (more := records.get_nowait()) is not None:
                group.append(more)
        except Empty:
            more = record
        now = time.time()
        database.execute("BEGIN IMMEDIATE")
        database.executemany(
            "UPDATE step SET status = 'succeeded', finished = ? WHERE id = ?",
            [(now, done) for done, _, _ in group if done is not None],
        )
        database.executemany(
            "UPDATE step SET status = 'running', started = ? WHERE id = ?",
            [(now, begin) for _, begin, _ in group if begin is not None],
        )
        database.execute("COMMIT")
        for _, _, committed in group:
            committed.set()
        if more is None:
            break
    database.close()


def _grow_log(database: sqlite3.Connection) -> None:
    """Write more at once than the log holds before SQLite begins it anew."""
    database.execute("CREATE TABLE ballast (data BLOB)")
    database.execute("INSERT INTO ballast VALUES (zeroblob(5000000))")


def _rows(number: int) -> list[tuple[int]]:
    return [(item,) for item in range(number)]


def _check(path: Path, number: int) -> None:
    database = sqlite3.connect(path)
    (done,) = database.execute(
        "SELECT count(*) FROM step WHERE status = 'succeeded' AND started IS NOT NULL"
    ).fetchone()
    database.close()
    assert done == number, f"{done} of {number} rows say succeeded"
