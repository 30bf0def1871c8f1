"""
A load balancer in front of the replicas: each request goes to another one, as chance will have it.

Tests strike here, too: they see the SQL of each request before a node gets it, and again when it has answered and
the client does not know yet.
"""

from __future__ import annotations

import contextlib
import random
import re
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType

from tests.cluster.nodes import QUERY_HOST, Node

_CONNECTION = re.compile(rb"\r\nConnection:[^\r]*", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\nContent-Length: *(\d+)", re.IGNORECASE)
_NO_SESSION = re.compile(rb"\r\nX-ClickHouse-Exception-Code: *372\r", re.IGNORECASE)
_END_OF_HEAD = b"\r\n\r\n"
_NOBODY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def _ignore(_: str) -> None:
    """Nothing happens."""


class Balancer:
    """
    Gives each request to a random node that takes connections. Usable as a context manager.

    Attributes:
        url: What ``--clickhouse-url`` takes.
        before: Gets the SQL of each request before a node does.
        after: Gets it again when the node has answered, and before the client gets that answer. Not when the node does
            not know the session of the request, since such a node has not read the SQL.
        requests: How many requests each node got.
    """

    def __init__(self, nodes: Sequence[Node], seed: int = 0) -> None:
        self._nodes, self._random = nodes, random.Random(seed)  # noqa: S311 - repeatable on purpose
        self._listener = socket.create_server((QUERY_HOST, 0), backlog=128)
        self.url = f"http://default@{QUERY_HOST}:{self._listener.getsockname()[1]}"
        self.before: Callable[[str], None] = _ignore
        self.after: Callable[[str], None] = _ignore
        self.requests = [0 for _ in nodes]

    def __enter__(self) -> Balancer:
        threading.Thread(target=self._accept, name="balancer", daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # A close alone does not wake the thread that waits in accept().
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Relay one request; the node closes the connection after it, so that the next one is dealt anew."""
        with client, contextlib.suppress(OSError), _ended(client):
            head, body = _receive(client)
            sql = body.decode(errors="replace")
            self.before(sql)
            node = self._connect()
            if node is None:
                client.sendall(_NOBODY)
                return
            with node:
                node.sendall(_CONNECTION.sub(b"", head) + b"\r\nConnection: close" + _END_OF_HEAD + body)
                # A client that goes away must be seen by the node.
                threading.Thread(target=_wait_for_end, args=(client, node), daemon=True).start()
                answer = b"".join(iter(lambda: node.recv(65536), b""))
            if not _NO_SESSION.search(answer.partition(_END_OF_HEAD)[0] + b"\r"):
                self.after(sql)
            client.sendall(answer)

    def _connect(self) -> socket.socket | None:
        """A connection to a node, chosen by chance among those that take one."""
        for index in self._random.sample(range(len(self._nodes)), len(self._nodes)):
            with contextlib.suppress(OSError):
                connection = socket.create_connection((QUERY_HOST, self._nodes[index].http_port), 2)
                connection.settimeout(None)
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.requests[index] += 1
                return connection
        return None


@contextlib.contextmanager
def _ended(client: socket.socket) -> Iterator[None]:
    """
    Tell a client in the end that no more comes, also when its node has died.

    A close alone does not: another thread waits for the client to go away, and keeps the connection open.
    """
    try:
        yield
    finally:
        client.shutdown(socket.SHUT_RDWR)


def _receive(client: socket.socket) -> tuple[bytes, bytes]:
    """Head and body of a request, which must say how long it is."""
    received = b""
    while _END_OF_HEAD not in received:
        received += _some(client)
    head, _, body = received.partition(_END_OF_HEAD)
    length = _LENGTH.search(head)
    while length is not None and len(body) < int(length[1]):
        body += _some(client)
    return head, body


def _some(source: socket.socket) -> bytes:
    data = source.recv(65536)
    if not data:
        raise ConnectionResetError("the client is gone")
    return data


def _wait_for_end(client: socket.socket, node: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while client.recv(65536):
            pass
    with contextlib.suppress(OSError):
        node.shutdown(socket.SHUT_RDWR)
