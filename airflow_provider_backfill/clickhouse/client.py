"""
A ClickHouse to talk to: over HTTP, or embedded in this process.

One :class:`ClickHouse` is shared by the threads of a worker. Every statement that the server
refuses becomes a :class:`StatementRefusedError` with ClickHouse's name of the error, and every
connection that fails a :class:`ServerUnreachableError`.
No password is kept outside the client, and none is in an error.
"""

import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import parse_qs, unquote, urlsplit

from ..core.retry import ERROR_NAMES
from ..core.sql import literal
from ..errors import Advice, ConfigError, Flag, ServerError, ServerUnreachableError, StatementRefusedError

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

_T = TypeVar("_T")

_NOISE = re.compile(
    r"^Received ClickHouse exception, code: \d+, server response: |^Code: \d+\. DB::Exception: "
    r"|\s*\(version [\d.]+(?: \([^)]*\))?\)|\s*\(for url [^)]*\)|\s*\([A-Z][A-Z0-9_]+\)\s*$",
)

_SETTINGS = {
    # Headers while a statement runs: the server notices a lost client, and the read timeout is not hit.
    "send_progress_in_http_headers": 1,
    "http_headers_progress_interval_ms": 10_000,
}
# Column statistics are read from every part for each query, and change nothing in statements as plain as ours.
LONG_TEXT = {"max_query_size": 2**27}
"""Settings of a statement that lists the bounds of a plan: those of 100,000 chunks are a megabyte of text."""
_WHERE_KNOWN = {"use_statistics": 0}


class Reading(NamedTuple):
    """What a statement read: rows, and uncompressed bytes; both 0 where the server did not say."""

    rows: int = 0
    bytes: int = 0


class ClickHouse:
    """
    One ClickHouse and the rights of one user on it.

    Attributes:
        address: Where it is, for people and for the plan's environment; holds no secret.
        embedded: Whether it runs in this process (chdb): one statement at a time, no other workers.
    """

    def __init__(self, client: "Client", address: str) -> None:
        self._client = client
        self.address = address
        self.embedded = client.__class__.__name__ == "ChdbClient"
        self._settings = {} if self.embedded else dict(_SETTINGS)
        self._cluster: str | None = None
        self._settings |= {name: value for name, value in _WHERE_KNOWN.items() if name in client.server_settings}

    def rows(self, sql: str, settings: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """
        The rows a SELECT answers with.

        Raises:
            ServerError: The server refused it or could not be reached.
        """
        return self._ask(
            lambda: [tuple(row) for row in self._client.query(sql, settings=self._with(settings)).result_rows]
        )

    def numbers(self, sql: str, settings: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """
        The integers of the one row that a SELECT answers with; none when there is no row.

        As text, which for so little takes half the time of :meth:`rows`.

        Raises:
            ServerError: The server refused it or could not be reached.
        """
        answer = self._ask(lambda: self._client.command(sql, settings=self._with(settings)))
        if isinstance(answer, int):
            return (answer,)
        return tuple(map(int, answer)) if isinstance(answer, list) else ()

    def command(self, sql: str, settings: Mapping[str, Any] | None = None) -> Reading:
        """
        Run a statement that answers with no rows, and wait for its end.

        Returns:
            What the statement read, as the server counted.

        Raises:
            ServerError: The server refused it or could not be reached.
        """
        answer = self._ask(lambda: self._client.command(sql, settings=self._with(settings)))
        summary = getattr(answer, "summary", None) or {}
        return Reading(int(summary.get("read_rows", 0)), int(summary.get("read_bytes", 0)))

    @property
    def cluster(self) -> str:
        """
        The widest cluster of several servers that this one belongs to; empty when there is none.

        Raises:
            ServerError: The server could not be reached.
        """
        if self._cluster is None:
            found = self.rows(
                "SELECT cluster FROM system.clusters GROUP BY cluster"
                " HAVING max(is_local) AND uniqExact(host_address, port) > 1 ORDER BY count() DESC, cluster LIMIT 1"
            )
            self._cluster = str(found[0][0]) if found else ""
        return self._cluster

    @property
    def cluster_processes(self) -> str:
        """What to read instead of ``system.processes`` to see those of all servers of the :attr:`cluster`."""
        return f"clusterAllReplicas({literal(self.cluster)}, system.processes)"

    def _with(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        given = {**self._settings, **(settings or {})}
        if self.embedded:
            # It has no use for the id of a query: nobody can see or kill one.
            given.pop("query_id", None)
        return given

    def _ask(self, call: Callable[[], _T]) -> _T:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            return call()
        except ClickHouseError as error:
            raise _server_error(error, self.address) from error
        except OSError as error:
            raise ServerUnreachableError(f"The connection to {self.address} failed: {error}.") from error

    def close(self) -> None:
        """Close the connections; an embedded engine frees its path for other processes."""
        with suppress(Exception):
            self._client.close()


def connect(url: str, password: str | None = None, *, connections: int = 8) -> ClickHouse:
    """
    Open the ClickHouse at *url*: ``http[s]://user@host:port/database`` or ``chdb:///path``.

    Args:
        url: May carry the password and, as its query, settings of the client library.
        password: Used when the URL has none.
        connections: How many statements may run at once.

    Raises:
        ConfigError: The URL is no such address, or the embedded engine is not installed.
        ServerError: Nobody answers there, or the user is refused.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError

    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError:
        port = -1
    if parts.scheme == "chdb" and parts.path:
        address = f"chdb://{parts.path}"
        kwargs: dict[str, Any] = {"interface": "chdb", "path": parts.path}
    elif parts.scheme in ("http", "https") and parts.hostname and port != -1:
        from clickhouse_connect.driver.httputil import get_pool_manager

        secure = parts.scheme == "https"
        port = port or (8443 if secure else 8123)
        address = f"{parts.scheme}://{parts.hostname}:{port}"
        kwargs = {
            "interface": parts.scheme,
            "host": parts.hostname,
            "port": port,
            "username": unquote(parts.username or "default"),
            "password": unquote(parts.password) if parts.password is not None else password or "",
            "database": unquote(parts.path.strip("/")) or "__default__",
            # A session would refuse a second statement while the first runs, such as a KILL QUERY.
            "autogenerate_session_id": False,
            "pool_mgr": get_pool_manager(maxsize=connections, verify=secure),
            **{name: values[-1] for name, values in parse_qs(parts.query).items()},
        }
    else:
        raise ConfigError(
            f"{_redacted(url)!r} is not the address of a ClickHouse.",
            remedy=Advice(
                "write {}, or chdb:///path for the embedded engine",
                Flag("--clickhouse-url", "http://user@host:8123/database"),
            ),
        )
    try:
        return ClickHouse(clickhouse_connect.get_client(**kwargs), address)
    except ImportError as error:
        raise _no_engine(error) from None
    except TypeError as error:
        # Of what a user can give, only a name in the query of the URL becomes the name of an argument.
        raise ConfigError(
            f"The address {address} has a setting that the client does not know: {error}.",
            hint="settings of a query belong into the SELECT, or into the user's profile on the server",
        ) from error
    except ClickHouseError as error:
        raise _server_error(error, address) from error


def from_client(open_client: "Callable[[], Client]", name: str) -> ClickHouse:
    """
    A :class:`ClickHouse` around a client that somebody else opens, such as Airflow's ClickHouse hook.

    Args:
        name: Names the ClickHouse in an error, as long as its address is not known.

    Raises:
        ConfigError: The embedded engine is not installed.
        ServerError: Nobody answers there, or the user is refused.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        client = open_client()
    except ImportError as error:
        raise _no_engine(error) from None
    except ClickHouseError as error:
        raise _server_error(error, name) from error
    url = getattr(client, "url", None)
    if url is None:
        return ClickHouse(client, f"chdb://{getattr(client, 'path', '')}")
    parts = urlsplit(str(url))
    return ClickHouse(client, f"{parts.scheme}://{parts.hostname}:{parts.port}")


def _no_engine(error: ImportError) -> ConfigError:
    return ConfigError(
        f"The embedded engine is not installed: {error}.",
        hint="pip install 'airflow-provider-backfill[embedded]'",
    )


def _redacted(url: str) -> str:
    return re.sub(r"(//[^/:@]*):[^@]*@", r"\1:…@", url)


def _server_error(error: Exception, address: str) -> ServerError:
    code: int | None = getattr(error, "code", None)
    text = str(error).strip()
    if code is None:
        cause = error.__cause__ or error.__context__
        detail = f": {cause}" if cause is not None else ""
        return ServerUnreachableError(
            f"ClickHouse at {address} could not be reached ({text}{detail}).",
            remedy=Advice(
                "check that it runs and that {}, CLICKHOUSE_URL or the Airflow connection points to it",
                Flag("--clickhouse-url"),
            ),
        )
    name = getattr(error, "name", None) or ERROR_NAMES.get(code, "")
    while (shorter := _NOISE.sub("", text)) != text:
        text = shorter.strip()
    message = f"ClickHouse refused the statement: {text} ({code} {name})"
    return StatementRefusedError(message, code=code, name=name, reason=text)
