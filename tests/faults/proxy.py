"""A TCP proxy that tests put before a server, to make the way to it slow, silent or shut."""

from __future__ import annotations

import asyncio
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from typing import Any

CHUNK_BYTES = 64 * 1024
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
"""SO_LINGER: closing sends a RST instead of a FIN."""


class Proxy:
    """Carries connections to `target` (host, port) until told otherwise. `port` is its own.

    Its loop runs in a thread; every method may be called from any other one.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self._target = target
        self._delay = 0.0
        self._server: asyncio.Server | None = None
        self._pairs: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._flows = asyncio.Event()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)
        self._thread.start()
        self.port = 0
        self._do(self._listen())
        self._flows.set()

    @property
    def connections(self) -> int:
        """How many are carried now."""
        return len(self._pairs)

    def delay(self, seconds: float) -> None:
        """Hold back whatever goes either way for so long: a round trip takes twice that."""
        self._delay = seconds

    @contextmanager
    def stalled(self) -> Iterator[None]:
        """Connections are accepted and stay open, but nothing goes through inside the block."""
        self._do(self._set_flow(False))
        try:
            yield
        finally:
            self._do(self._set_flow(True))

    @contextmanager
    def shut(self) -> Iterator[None]:
        """What is open is reset and new connections are refused inside the block."""
        self._do(self._stop_listening())
        self.reset()
        try:
            yield
        finally:
            self._do(self._listen())

    def reset(self) -> None:
        """Break what is open, as a server does that was killed."""
        self._do(self._reset())

    def close(self) -> None:
        self._do(self._stop_listening())
        self.reset()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    # ---- in the loop -----------------------------------------------------------------------

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(10)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._take, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()

    async def _set_flow(self, flows: bool) -> None:
        (self._flows.set if flows else self._flows.clear)()

    async def _reset(self) -> None:
        for writer in self._writers:
            endpoint = writer.get_extra_info("socket")
            if endpoint is not None:
                with suppress(OSError):
                    endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            writer.transport.abort()
        pairs = list(self._pairs)
        for pair in pairs:
            pair.cancel()
        await asyncio.gather(*pairs, return_exceptions=True)

    async def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._pairs.add(task)
        self._writers.add(writer)
        out: asyncio.StreamWriter | None = None
        try:
            await self._flows.wait()
            answers, out = await asyncio.open_connection(*self._target)
            self._writers.add(out)
            # Either end closes both, as a middleman without half-open connections does.
            there = asyncio.create_task(self._carry(reader, out))
            back = asyncio.create_task(self._carry(answers, writer))
            try:
                await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                await asyncio.gather(there, back, return_exceptions=True)
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            for each in filter(None, (writer, out)):
                self._writers.discard(each)
                each.close()
            self._pairs.discard(task)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One direction. Several chunks may be under way at a time, each as late as the others."""
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        delivery = asyncio.create_task(self._deliver(under_way, writer))
        try:
            while data := await reader.read(CHUNK_BYTES):
                under_way.put_nowait((self._loop.time() + self._delay, data))
            under_way.put_nowait((self._loop.time() + self._delay, b""))
            await delivery
        except OSError:
            pass
        finally:
            delivery.cancel()

    async def _deliver(
        self, under_way: asyncio.Queue[tuple[float, bytes]], writer: asyncio.StreamWriter
    ) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(max(0.0, due - self._loop.time()))
            await self._flows.wait()
            if not data:
                return
            with suppress(OSError):
                writer.write(data)
                await writer.drain()
