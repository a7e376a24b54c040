"""A TCP proxy that misbehaves when told to: a slow network, a black hole, a server that answers 503."""

from __future__ import annotations

import asyncio
import threading
from typing import Self

from tests.support.servers import free_port

_REFUSAL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class Proxy:
    """A context. Stands before a port of this machine; behaves otherwise as soon as it is told to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self.delay = 0.0  #: seconds, each way
        self.hole = False  #: bytes go in and nothing comes out; nobody is told
        self.refuse = False  #: every request is answered 503
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self._ready.set()
        self._loop.run_forever()
        server.close()
        tasks = asyncio.all_tasks(self._loop)
        for task in tasks:
            task.cancel()
        self._loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        self._loop.close()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            back, forth = await asyncio.open_connection("127.0.0.1", self.target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(
                self._pump(reader, forth, writer, request=True),
                self._pump(back, writer, writer, request=False),
            )
        except OSError:
            pass
        finally:
            writer.close()
            forth.close()

    async def _pump(
        self,
        source: asyncio.StreamReader,
        sink: asyncio.StreamWriter,
        client: asyncio.StreamWriter,
        *,
        request: bool,
    ) -> None:
        """Move bytes one way. A delay holds each step back without holding up those behind it."""
        steps: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()

        async def read() -> None:
            while step := await source.read(1 << 16):
                if request and self.refuse:
                    client.write(_REFUSAL)
                    await client.drain()
                    raise ConnectionResetError
                await steps.put((self._loop.time() + self.delay, step))
            await steps.put((0.0, b""))

        async def write() -> None:
            while True:
                due, step = await steps.get()
                await asyncio.sleep(max(0.0, due - self._loop.time()))
                while self.hole:  # noqa: ASYNC110  # set from another thread
                    await asyncio.sleep(0.05)  # set from another thread
                if not step:
                    sink.close()
                    return
                sink.write(step)
                await sink.drain()

        await asyncio.gather(read(), write())
