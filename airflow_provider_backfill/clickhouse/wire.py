"""
Send statements over plain HTTP, for a small part of the processor time that the client library needs per request.

A chunk needs five statements, and the library spends most of its time on the texts around an answer. A :class:`Wire`
sends a statement with Python's own HTTP client, and returns the whole answer as bytes. Addresses with TLS or a proxy,
changing tokens, sessions of the library, query parameters and answers with types stay with the library.
"""

import http.client
import re
import select
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote_plus, urlsplit
from weakref import WeakKeyDictionary

from .server_errors import is_changeable

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

# The name of an error in parentheses. The last match in a text counts, because the text may first quote inner errors.
_NAME = re.compile(r"\(([A-Z][A-Z0-9_]{1,80})\)")
# The request parameters that are not query settings.
_TRANSPORT = frozenset({"query_id", "session_id", "session_timeout", "session_check", "wait_end_of_query"})
# The age, in seconds, after which an idle connection is not used again, so that a changed address is noticed.
_AGE_SECONDS = 600.0
_HTTP_1_1 = 11


@lru_cache(1000)
def _quoted(text: str) -> str:
    """Return *text* encoded for a URL, from a cache, because most names and values recur in each request."""
    return quote_plus(text)


class Refusal(Exception):  # noqa: N818 - an answer of the server, which the client turns into its own error
    """The server's refusal of a statement, with the number and (empty if unknown) the name of ClickHouse's error."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(text)
        self.code, self.name = code, next(reversed(_NAME.findall(text)), "")


class Answer(NamedTuple):
    """The body of an answer, and its headers by their names in lower case."""

    body: bytes
    headers: Mapping[str, str]


class Wire:
    """
    Connections to one server for the statements of one client. Threads may share a wire.

    Args:
        client: The client whose address, user, database, settings and timeouts apply.
    """

    def __init__(self, client: Any) -> None:
        self._client = client
        self._path = urlsplit(client.url).path or "/"
        self._idle: list[_Connection] = []
        writable = {name for name, setting in client.server_settings.items() if is_changeable(setting)}
        self._sent = writable | _TRANSPORT

    def takes(self, settings: Mapping[str, Any]) -> bool:
        """Return whether each of *settings* is a request parameter, or a known setting that this user may change."""
        return self._sent.issuperset(settings)

    def send(self, statement: str, settings: Mapping[str, Any], *, again: bool) -> Answer:
        """
        Send a statement with settings that :meth:`takes` accepts, and return the whole answer.

        Args:
            again: Whether the statement may be sent a second time if an old connection fails, because the statement
                changes nothing.

        Raises:
            Refusal: The server refused the statement.
            OSError: The server could not be reached, or its answer is incomplete. The statement may have been executed.
        """
        parameters = {**self._client.params, **settings}
        if self._client.database:
            parameters["database"] = self._client.database
        query = "&".join(f"{_quoted(name)}={_quoted(str(value))}" for name, value in parameters.items())
        path, data = f"{self._path}?{query}", statement.encode()
        kept = self._kept()
        if kept is not None:
            with suppress(*((ConnectionError,) if again else ())):
                return self._over(kept, path, data)
        return self._over(_Connection(self._client), path, data)

    def _kept(self) -> "_Connection | None":
        """
        Remove a usable connection from the idle connections, and return the connection; None if there is none.

        Close idle connections that are not usable.
        """
        while self._idle:
            with suppress(IndexError):
                connection = self._idle.pop()
                if connection.is_usable():
                    return connection
                connection.close()
        return None

    def _over(self, connection: "_Connection", path: str, data: bytes) -> Answer:
        try:
            connection.request("POST", path, data, self._client.headers)
            response = connection.getresponse()
            answer = Answer(response.read(), {name.lower(): value for name, value in response.getheaders()})
            # A complete head says that the body is chunked, or has a Content-Length or Connection field. A head without
            # any of these was cut off.
            sized = response.chunked or not {"content-length", "connection"}.isdisjoint(answer.headers)
            if not sized and response.version == _HTTP_1_1:
                raise ConnectionError("the server closed the connection within its answer")
        except BaseException as error:
            connection.close()
            if isinstance(error, http.client.HTTPException) and not isinstance(error, OSError):
                raise ConnectionError(f"the answer is incomplete or no HTTP: {error!r}") from error
            raise
        if response.will_close:
            connection.close()
        else:
            self._idle.append(connection)
        code = answer.headers.get("x-clickhouse-exception-code", "")
        if response.status == 200 and not code:
            return answer
        text = answer.body.decode(errors="backslashreplace")
        if not code.isdecimal():
            raise ConnectionError(f"HTTP status {response.status}: {text[:1000]}")
        raise Refusal(text, int(code))

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            with suppress(IndexError):
                self._idle.pop().close()


class _Connection(http.client.HTTPConnection):
    """One connection, for one request at a time."""

    def __init__(self, client: Any) -> None:
        parts = urlsplit(client.url)
        super().__init__(parts.hostname or "", parts.port or 80, timeout=client.timeout.connect_timeout)
        self._options = client.http.connection_pool_kw.get("socket_options") or ()
        self._read_timeout = client.timeout.read_timeout
        self._until = time.monotonic() + _AGE_SECONDS

    def connect(self) -> None:
        """Connect with the client's time limits and socket options."""
        super().connect()
        for option in self._options:
            self.sock.setsockopt(*option)
        self.sock.settimeout(self._read_timeout)

    def is_usable(self) -> bool:
        """
        Return whether an idle connection is less than 10 minutes old and still open.

        The connection counts as closed if its socket can be read, because a server sends no data on an idle connection.
        """
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0) and time.monotonic() < self._until


_WIRES: "WeakKeyDictionary[Client, Wire | None]" = WeakKeyDictionary()


def wire_of(client: "Client") -> Wire | None:
    """Return the client's one :class:`Wire`; None if the client's statements need the library."""
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
