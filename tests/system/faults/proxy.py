"""
A wire between runners and server that can be cut, slowed down, or made to swallow answers.

It runs in a thread of its own. A change of mode acts on what is under way, not only on what
comes next.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from typing import Literal

Mode = Literal["pass", "cut", "refuse", "delay", "swallow", "behead"]


class Proxy:
    """
    Forwards every TCP connection on :attr:`port` to *target_port* of 127.0.0.1.

    Modes: ``pass``; ``cut`` resets what is open and passes what comes; ``refuse`` resets both;
    ``delay`` holds answers back for a while; ``swallow`` reads answers and passes nothing on;
    ``behead`` resets a connection at the moment its answer arrives, so the work was done.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self.port = 0
        self._mode: Mode = "pass"
        self._delay = 0.0
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="proxy", daemon=True)
        self._thread.start()
        self._ready.wait()

    def set(self, mode: Mode, delay: float = 0.0) -> None:
        """Behave like *mode* from now on; *delay* in seconds for ``delay``."""
        self._mode, self._delay = mode, delay
        if mode in ("cut", "refuse"):
            self._loop.call_soon_threadsafe(self._reset_all)

    def close(self) -> None:
        """Stop forwarding; open connections are reset."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0))
        self.port = server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        self._reset_all()
        server.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _reset_all(self) -> None:
        for writer in list(self._writers):
            _reset(writer)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "refuse":
            _reset(writer)
            return
        try:
            upstream_reader, upstream = await asyncio.open_connection("127.0.0.1", self.target_port)
        except OSError:
            # The server is down: to the client that is a reset, as behind a load balancer.
            _reset(writer)
            return
        ours = {writer, upstream}
        self._writers |= ours
        try:
            await asyncio.gather(
                self._pump(reader, upstream, answers=False), self._pump(upstream_reader, writer, answers=True)
            )
        except OSError:
            pass
        finally:
            self._writers -= ours
            for one in ours:
                _reset(one)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        while data := await reader.read(65536):
            if answers and self._mode == "delay":
                await asyncio.sleep(self._delay)
            if answers and self._mode == "swallow":
                continue
            if answers and self._mode == "behead":
                raise ConnectionResetError
            writer.write(data)
            await writer.drain()
        # The end of one direction ends both: HTTP needs no half-open connections.
        raise ConnectionResetError


def _reset(writer: asyncio.StreamWriter) -> None:
    wire = writer.get_extra_info("socket")
    if wire is not None:
        with contextlib.suppress(OSError):
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
