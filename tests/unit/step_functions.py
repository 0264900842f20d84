"""Functions of Python steps that tests run in a thread and in a process of their own."""

from __future__ import annotations

import asyncio
import contextvars
import ctypes
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from executions.engine.cancellation import StepCancelled
from executions.engine.context import StepContext
from executions.engine.errors import CommandFailed, CommandTimedOut

BEGUN = 0.5
"""The progress that a step reports when it is up."""
RESULTS: Mapping[str, Any] = {
    "nothing": None,
    "mapping": {"rows": (1, 2), "deep": {"a": [None, True, 1.5]}},
    "text": "text",
    "no JSON": object(),
    "no number": float("nan"),
    "set": {1, 2},
    "large": "x" * 70_000,
    "huge": "x" * 5_000_000,
    "characters": "a\0b \\u0000 \ud800 ü",
    "digits": 10**300,
    "deep": [],
}
for _ in range(5_000):
    RESULTS["deep"][:] = [list(RESULTS["deep"])]
ERRORS: Mapping[str, BaseException] = {
    "exit code": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "generator": GeneratorExit(),
    "memory": MemoryError(),
    "cancelled": asyncio.CancelledError(),
    "stopped": StepCancelled("by itself"),
    "colours": ValueError("two\nlines \x1b[31mred\x1b[0m \u202e"),
    "long": ValueError("x" * 5000),
}
_variable = contextvars.ContextVar("variable", default="clean")


def resolve(name: str) -> Callable[..., Any]:
    try:
        function: Callable[..., Any] = globals()[name]
    except KeyError:
        raise LookupError(f"no step is called {name}") from None
    return function


# --- What every step may do -----------------------------------------------------------------------


def returns(ctx: StepContext) -> Any:
    return RESULTS[ctx.params["what"]]


def raises(ctx: StepContext) -> None:
    raise ERRORS[ctx.params["what"]]


def exits(ctx: StepContext) -> None:
    sys.exit()


def looks_up(ctx: StepContext) -> None:
    ctx.log("before")
    _vat_rate({})


def _vat_rate(table: Mapping[str, int]) -> int:
    return table["vat_rate"]


def generates(ctx: StepContext) -> Any:
    yield 1


def takes_nothing() -> None:
    pass


def describes_itself(ctx: StepContext) -> Any:
    context = ctx.context
    return {
        "name": ctx.name,
        "attempt": ctx.attempt,
        "key": ctx.key,
        "context": [context["workflow_id"], context["dependencies"], len(context["large"])],
        "params": ctx.params,
    }


def tries_to_change(ctx: StepContext) -> list[str]:
    refused = []
    for change in (
        lambda: ctx.context.update(a=1),  # type: ignore[attr-defined]
        lambda: ctx.params["depth"].clear(),
        lambda: ctx.params["depth"]["levels"].append(3),
    ):
        try:
            change()
        except Exception as error:
            refused.append(type(error).__name__)
    return [*refused, type(ctx.context).__name__, type(ctx.params["depth"]["levels"]).__name__]


def logs(ctx: StepContext) -> None:
    ctx.log("three", 3, None)
    ctx.log("ü \ud800", b"bytes")
    ctx.log("x" * 200_000)
    ctx.log("last")


def waits_at_the_gate(ctx: StepContext) -> None:
    ctx.log("waiting")
    while not Path(ctx.params["gate"]).exists():
        ctx.sleep(0.01)
    ctx.log("open")


def reports_progress(ctx: StepContext) -> None:
    for done in (0, 1, 2, 9, -1, float("nan")):
        ctx.progress(done, 4)


def shows_its_secret(ctx: StepContext) -> Any:
    token = ctx.secret("TOKEN")
    ctx.log(f"token {token}, reversed {token[::-1]}")
    ctx.log(token[:5], end := token[5:])
    ctx.run(["echo", token])
    assert end
    return {"token": token, "length": len(token)}


def fails_with_its_secret(ctx: StepContext) -> None:
    raise ValueError(ctx.secret("TOKEN"))


def wants_another_secret(ctx: StepContext) -> None:
    try:
        ctx.secret("OTHER")
    except KeyError as error:
        ctx.log("missing", error.args[0])
    ctx.secret("OTHER")


def asks_from_threads(ctx: StepContext) -> list[str]:
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(ctx.secret("TOKEN")[:2])) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def sets_a_variable(ctx: StepContext) -> str:
    before = _variable.get()
    _variable.set("dirty")
    return before


def sleeps(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    ctx.sleep(60)


def checks(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    while True:
        ctx.check_cancelled()
        time.sleep(0.01)


async def awaits(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    await asyncio.sleep(60)


def tells_why(ctx: StepContext) -> None:
    try:
        sleeps(ctx)
    except StepCancelled as error:
        ctx.log(error)
        raise


def succeeds_all_the_same(ctx: StepContext) -> str:
    try:
        sleeps(ctx)
    except StepCancelled:
        ctx.log("cleaning up")
    return "done"


def breaks_when_stopped(ctx: StepContext) -> None:
    try:
        sleeps(ctx)
    except StepCancelled:
        raise ConnectionError("gone") from None


async def returns_later(ctx: StepContext) -> int:
    await asyncio.sleep(0)
    return 5


async def raises_later(ctx: StepContext) -> None:
    await asyncio.sleep(0)
    raise KeyError("x")


def runs_commands(ctx: StepContext) -> Any:
    script = "echo out; echo err >&2; echo $EXTRA; exit 3"
    done = ctx.run(["sh", "-c", script], check=False, env={"EXTRA": "x"})
    try:
        ctx.run(["sh", "-c", "echo no such table; exit 2"])
    except CommandFailed as error:
        return [done.exit_code, done.stdout, str(error), error.exit_code]


def runs_a_long_command(ctx: StepContext) -> None:
    ctx.run(["sh", "-c", "trap '' TERM; setsid sleep 60 & echo up; sleep 60; sleep 60"])


def times_out_a_command(ctx: StepContext) -> Any:
    try:
        ctx.run(["sh", "-c", "trap '' TERM; echo up; sleep 60 & sleep 60"], timeout=0.1)
    except CommandTimedOut as error:
        return str(error)


# --- What only a process survives -----------------------------------------------------------------


def prints(ctx: StepContext) -> None:
    print("printed", end=" ")
    ctx.log("logged")
    print("to stderr", file=sys.stderr)
    os.system("echo from a shell")
    ctx.log("last")


def tells_its_surroundings(ctx: StepContext) -> Any:
    token = ctx.secret("TOKEN")
    environment = Path("/proc/self/environ").read_bytes() + Path("/proc/self/cmdline").read_bytes()
    return {
        "variables": sorted(os.environ),
        "leak": token.encode() in environment,
        "directory": str(Path.cwd()),
        "main": threading.current_thread() is threading.main_thread(),
        "stdin": sys.stdin.read(),
    }


def ends_the_process(ctx: StepContext) -> None:
    print("about to end", flush=True)
    os._exit(ctx.params["code"])


def segfaults(ctx: StepContext) -> None:
    ctypes.string_at(0)


def kills_itself(ctx: StepContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def is_sent_sigterm(ctx: StepContext) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    ctx.sleep(60)


def blocks_signals(ctx: StepContext) -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, set(signal.Signals))
    ctx.progress(BEGUN)
    while True:
        time.sleep(1)


def ignores_signals(ctx: StepContext) -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    ctx.progress(BEGUN)
    while True:
        time.sleep(1)


def loops_in_c(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    re.match(r"(a+)+$", "a" * 60 + "b")


def swallows_everything(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    while True:
        try:
            ctx.sleep(60)
        except BaseException:
            time.sleep(0.01)


def spreads(ctx: StepContext) -> None:
    """Grandchildren that ignore SIGTERM, leave the session, and lose their parents."""
    script = "trap '' TERM; (setsid sh -c 'trap \"\" TERM; sleep 61' &); setsid sleep 62 & sleep 63"
    subprocess.Popen(["sh", "-c", script], stdout=subprocess.DEVNULL)
    if os.fork() == 0:
        os.setsid()
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if os.fork() == 0:
            time.sleep(60)
        time.sleep(60)
    ctx.log("spread")
    ctx.progress(BEGUN)
    ctx.sleep(60)


def leaves_something(ctx: StepContext) -> str:
    subprocess.Popen(["setsid", "sleep", "60"])
    return "done"


def leaves_a_thread(ctx: StepContext) -> str:
    threading.Thread(target=time.sleep, args=(3600,)).start()
    return "done"


def returns_twice(ctx: StepContext) -> str:
    if os.fork() == 0:
        return "fork"
    os.wait()
    return "step"


def ends_a_process_of_its_own(ctx: StepContext) -> int | None:
    import multiprocessing

    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    process.terminate()
    process.join(20)
    return process.exitcode


def measures_its_context(ctx: StepContext) -> int:
    return len(ctx.context["text"])


def dies_after_returning(ctx: StepContext) -> str:
    import atexit

    atexit.register(ctypes.string_at, 0)
    return "done"


def writes_to_the_channel(ctx: StepContext) -> str:
    ctx.progress(BEGUN)
    with socket.socket(fileno=os.dup(int(sys.argv[-1]))) as channel:
        channel.sendall(NONSENSE[ctx.params["what"]])
    return "done"


NONSENSE: Mapping[str, bytes] = {
    "half a line": b"garbage",
    "a line": b"garbage\n",
    "binary": bytes(range(256)) * 40,
    "no object": b'[]\n3\n"ended"\nnull\n',
    "wrong types": b'{"progress": "x"}\n{"progress": NaN}\n{"progress": 1e999}\n{"progress": -1}\n'
    b'{"ended": 5}\n{"ended": {"reason": 1}}\n{"secret": 7}\n{"secret": {}}\n',
    "another reason": b'{"ended": {"reason": "%s", "message": "", "result": ""}}\n' % (b"x" * 999),
    "deep": b"[" * 100_000 + b"\n",
    "endless": b"x" * 9_000_000,
}


def closes_everything(ctx: StepContext) -> None:
    os.closerange(3, 256)


def closes_its_output(ctx: StepContext) -> str:
    os.close(1)
    os.close(2)
    ctx.log("still heard")
    return "done"


def talks_for_ever(ctx: StepContext) -> None:
    done = 0
    while True:
        done += 1
        ctx.progress(done % 1000, 1000)


def prints_for_ever(ctx: StepContext) -> None:
    ctx.progress(BEGUN)
    while True:
        print("x" * 1000)


def has_a_huge_message(ctx: StepContext) -> None:
    raise ValueError("x" * 9_000_000)
