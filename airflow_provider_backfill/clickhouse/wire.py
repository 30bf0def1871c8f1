"""
Send statements over plain HTTP, for a small part of the processor time that the client library needs per request.

A chunk needs five statements, and the library spends most of its time on the texts around an answer. A :class:`Wire`
sends a statement and returns the whole answer as bytes. Addresses with TLS or a proxy, changing tokens, sessions of the
library, query parameters and answers with types stay with the library.
"""

import re
import select
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from io import BufferedReader
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlencode, urlsplit
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

# The name of an error, which a text may quote from an inner error first.
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{1,80})\)")
# Parameters of a request that are no settings of a query.
_TRANSPORT = frozenset({"query_id", "session_id", "session_timeout", "session_check", "wait_end_of_query"})
# The longest line of an answer's head, in bytes.
_LINE = 1 << 20
# The age, in seconds, after which an idle connection is not used again, so that a changed address is noticed.
_AGE_SECONDS = 600.0


class Refusal(Exception):  # noqa: N818 - an answer of the server, which the client turns into its own error
    """The server's refusal of a statement, with the number and the name of ClickHouse's error."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code, self.name = code, next(reversed(_NAME.findall(text)), "")


class Unanswered(ConnectionError):  # noqa: N818 - a kind of ConnectionError
    """The server closed a connection before the first byte of its answer."""


class Answer(NamedTuple):
    """The body of an answer, and its headers by their names in lower case."""

    body: bytes
    headers: Mapping[str, str]


class Wire:
    """
    Connections to one server for the statements of one client. Threads may share them.

    Args:
        client: The client whose address, user, database, settings and timeouts apply.
    """

    def __init__(self, client: Any) -> None:
        parts = urlsplit(client.url)
        self._client = client
        self._place = (parts.hostname or "", parts.port or 80)
        self._path, self._host = parts.path or "/", parts.netloc
        self._idle: list[_Connection] = []
        writable = {name for name, setting in client.server_settings.items() if not int(setting.readonly)}
        self._sent = writable | _TRANSPORT

    def takes(self, settings: Mapping[str, Any]) -> bool:
        """Return whether the server knows all *settings*, and this user may change them."""
        return self._sent.issuperset(settings)

    def send(self, statement: str, settings: Mapping[str, Any], *, again: bool) -> Answer:
        """
        Send a statement with settings that :meth:`takes` accepts, and return the whole answer.

        Args:
            again: Whether the statement may be sent a second time if an old connection gives no answer, because the
                statement changes nothing.

        Raises:
            Refusal: The server refused the statement.
            OSError: The server could not be reached, or its answer is incomplete. The statement may have been executed.
        """
        parameters = {**self._client.params, **settings}
        if self._client.database:
            parameters["database"] = self._client.database
        data = statement.encode()
        fixed = "".join(f"{name}: {value}\r\n" for name, value in self._client.headers.items())
        head = f"POST {self._path}?{urlencode(parameters)} HTTP/1.1\r\nHost: {self._host}\r\n{fixed}"
        request = f"{head}Content-Length: {len(data)}\r\n\r\n".encode("latin-1") + data
        connection = self._kept()
        try:
            if connection is not None:
                with suppress(*((Unanswered,) if again else ())):
                    return self._over(connection, request)
            return self._over(_Connection(self._place, self._client), request)
        except ValueError as error:
            raise ConnectionError(f"the answer is not HTTP: {error}") from error

    def _kept(self) -> "_Connection | None":
        """Return an open connection that is not in use; None if there is none."""
        while self._idle:
            with suppress(IndexError):
                connection = self._idle.pop()
                if connection.is_usable():
                    return connection
                connection.close()
        return None

    def _over(self, connection: "_Connection", request: bytes) -> Answer:
        try:
            status, answer = connection.ask(request)
        except BaseException:
            connection.close()
            raise
        if answer.headers.get("connection", "").lower() == "close":
            connection.close()
        else:
            self._idle.append(connection)
        code = answer.headers.get("x-clickhouse-exception-code", "")
        if status == 200 and not code:
            return answer
        text = answer.body.decode(errors="backslashreplace")
        if not code.isdecimal():
            raise ConnectionError(f"HTTP status {status}: {text[:1000]}")
        raise Refusal(text, int(code))

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()


class _Connection:
    """One connection, for one request at a time."""

    def __init__(self, place: tuple[str, int], client: Any) -> None:
        timeout = client.timeout
        self._socket = socket.create_connection(place, timeout.connect_timeout)
        for option in client.http.connection_pool_kw.get("socket_options") or ():
            self._socket.setsockopt(*option)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.settimeout(timeout.read_timeout)
        self._reader = self._socket.makefile("rb")
        self._until = time.monotonic() + _AGE_SECONDS

    def is_usable(self) -> bool:
        """Return whether the server has not closed the connection; a connection without a request gets no data."""
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return not poll.poll(0) and time.monotonic() < self._until

    def close(self) -> None:
        with suppress(OSError):
            self._reader.close()
            self._socket.close()

    def ask(self, request: bytes) -> tuple[int, Answer]:
        """Send a request, and return the status and the whole answer."""
        reader = self._reader
        try:
            self._socket.sendall(request)
            first = reader.readline(_LINE)
        except (BrokenPipeError, ConnectionResetError) as error:
            raise Unanswered(*error.args) from error
        if not first:
            raise Unanswered("the server closed the connection before its answer")
        if not first.startswith(b"HTTP/1."):
            raise ConnectionError("the answer is not HTTP")
        status = int(first[9:12])
        headers: dict[str, str] = {}
        while (line := _line(reader)) != b"\r\n":
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, Answer(_body(reader, headers), headers)


def _line(reader: BufferedReader) -> bytes:
    line = reader.readline(_LINE)
    if not line.endswith(b"\n"):
        raise ConnectionError("the server closed the connection within its answer")
    return line


def _exactly(reader: BufferedReader, size: int) -> bytes:
    data = reader.read(size)
    if len(data) < size:
        raise ConnectionError("the server closed the connection within its answer")
    return data


def _body(reader: BufferedReader, headers: dict[str, str]) -> bytes:
    if headers.get("transfer-encoding", "").lower() == "chunked":
        parts = []
        while size := int(_line(reader).partition(b";")[0], 16):
            parts.append(_exactly(reader, size + 2)[:-2])
        while _line(reader) != b"\r\n":
            pass
        return b"".join(parts)
    if "content-length" in headers:
        return _exactly(reader, int(headers["content-length"]))
    headers["connection"] = "close"
    return reader.read()


_WIRES: "WeakKeyDictionary[Client, Wire | None]" = WeakKeyDictionary()


def wire_of(client: "Client") -> Wire | None:
    """Return the connections for a client, always the same; None if its statements need the library."""
    if client not in _WIRES:
        _WIRES[client] = Wire(client) if _is_plain(client) else None
    return _WIRES[client]


def _is_plain(client: "Client") -> bool:
    """Return whether a client sends its statements over HTTP without TLS, proxy, token provider or session."""
    from urllib3 import PoolManager

    if not str(getattr(client, "url", "")).startswith("http://"):
        return False
    library: Any = client
    return (
        type(library.http) is PoolManager
        and library.server_host_name is None
        and getattr(library, "_token_provider", None) is None
        and "session_id" not in library.params
    )
