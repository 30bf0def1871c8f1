"""
Connect to a ClickHouse server over HTTP, or open an embedded engine in this process.

The threads of a worker share one :class:`ClickHouse`. A refused statement raises :class:`StatementRefusedError` with
ClickHouse's name of the error; a failed connection raises :class:`ServerUnreachableError`. Passwords are kept inside
the client and never appear in errors.
"""

import json
import logging
import re
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ..core.sql import literal
from ..errors import ConfigError, ServerError
from .address import Address, parse_address
from .server_errors import is_changeable, refuse_constrained, server_error
from .wire import Answer, Refusal, wire_of

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

# Without configured logging, Python would print the client's log of an error that is also raised.
logging.getLogger("clickhouse_connect").addHandler(logging.NullHandler())

_T = TypeVar("_T")
_NEEDED = object()

_PARAMETER = "param_"
_SETTINGS = {
    # Send headers while a statement runs, so that the server notices a lost client and the client does not time out.
    "send_progress_in_http_headers": 1,
    "http_headers_progress_interval_ms": 10_000,
}
LONG_TEXT = {"max_query_size": 2**27}
"""Settings that permit a statement of up to 128 MiB. The bounds of 100,000 chunks take 1 MB in a statement."""
# Settings that are sent if the server knows them and the user may change them. A server would read column statistics
# from every part for each query, and the product's statements are too simple to profit.
_WHERE_KNOWN = {"use_statistics": 0}
# The names of settings that permit table definitions. The target may have a definition that this server refuses by
# default, although another session or an older version could create it.
_ALLOWS = re.compile(
    r"allow_suspicious_\w+|allow_experimental_\w+_(?:types?|index)|allow_experimental_(?:codecs|statistics?|unique_key)"
    r"|allow_deprecated_syntax_for_merge_tree|allow_create_index_without_type|allow_statistics|enable_\w+_(?:types?|index)"
)
# The values of settings that prevent partial and old answers: a limit in the user's profile ends a statement with an
# error, as does a shard that cannot be reached, and a LIMIT, an OFFSET or a query cache does not apply.
_WHOLE_ANSWERS = {
    **{
        f"{limit}_overflow_mode": "throw"
        for limit in ("read", "group_by", "sort", "result", "timeout", "set", "join", "transfer", "distinct")
    },
    **{f"{limit}_overflow_mode_leaf": "throw" for limit in ("read", "timeout")},
    "limit": 0,
    "offset": 0,
    "use_query_cache": 0,
    "skip_unavailable_shards": 0,
}


class Counts(NamedTuple):
    """
    The server's counters of a statement.

    Attributes:
        read_rows: Rows read; 0 if the server does not report them.
        read_bytes: Uncompressed bytes read; 0 if the server does not report them.
        written_rows: Rows written; None if the server does not report them.
    """

    read_rows: int = 0
    read_bytes: int = 0
    written_rows: int | None = None


class ClickHouse:
    """
    A connection to one ClickHouse with the rights of one user.

    Attributes:
        address: The address for people and for the plan's environment, without secrets.
        embedded: Whether the engine runs in this process (chdb). It then executes one statement at a time, and serves
            no other workers.
    """

    def __init__(self, client: "Client", address: str, elsewhere: "Callable[[Address], Client] | None" = None) -> None:
        self._client, self._elsewhere = client, elsewhere
        self.address = address
        self.embedded = client.__class__.__name__ == "ChdbClient"
        self._settings = {} if self.embedded else dict(_SETTINGS)
        self._cluster: str | None = None
        known = client.server_settings
        self._settings |= {name: value for name, value in _WHERE_KNOWN.items() if is_changeable(known.get(name))}

    def _whole_answers(self) -> dict[str, Any]:
        """Return the settings that this user's statements need against partial and old answers; empty if none."""
        # Send only needed settings: each one lengthens the URL, and the client spends most of its time on the URL.
        return {name: whole for name, whole in _WHOLE_ANSWERS.items() if self.setting(name) not in (None, str(whole))}

    def setting(self, name: str) -> str | None:
        """Return a setting's value in this user's statements, as text; None if the server does not know the setting."""
        setting = self._client.server_settings.get(name)
        return setting and str(self._client.get_client_setting(name) or setting.value)

    def reached(self) -> "ClickHouse":
        """
        Return this connection.

        A subclass for several replicas returns a connection to a replica that has just answered.
        """
        return self

    def at(self, url: str) -> "ClickHouse":
        """
        Connect to another server, ``http[s]://host:port``, as the same user in the same database.

        Raises:
            ConfigError: *url* is not such an address, or this connection cannot open others: the engine is embedded, or
                :func:`from_client` was called without *elsewhere*.
            ServerError: The server does not answer, or refuses the user.
        """
        from clickhouse_connect.driver.exceptions import ClickHouseError

        place = parse_address(url)
        if self._elsewhere is None or place.path:
            raise ConfigError(f"{self.address} is in this process, and has no servers beside it.")
        try:
            return ClickHouse(self._elsewhere(place), place.location, self._elsewhere)
        except (ClickHouseError, OSError) as error:
            failure = server_error(error, place.location)
        raise failure

    @property
    def insert_threads(self) -> int:
        """
        The number of threads that the server has for the INSERT of one statement: its ``max_threads``.

        The number is 1 if ClickHouse Cloud, the user's profile or the connection sets the number of insert threads, or
        if the server does not know the settings. Callers send no setting for 1.
        """
        given = self._client.get_client_setting("max_insert_threads")
        ours = self._client.server_settings.get("max_insert_threads")
        if given is not None or ours is None or ours.value not in ("0", "1"):
            return 1
        return int(re.sub(r"\D", "", self.setting("max_threads") or "") or 1)

    @property
    def free_threads(self) -> int:
        """
        The number of threads that the server chooses for one statement, by its cores.

        The number is 0 if a profile or the connection sets ``max_threads``, or if this user may not change it.
        """
        ours = self._client.server_settings.get("max_threads")
        if ours is None or int(ours.readonly) or self._client.get_client_setting("max_threads") is not None:
            return 0
        # The server shows a value that it chose itself as auto(16).
        chosen = re.fullmatch(r"'?auto\((\d+)\)'?", str(ours.value))
        return int(chosen[1]) if chosen else 0

    def rows(self, sql: str, settings: Mapping[str, Any] | None = None) -> list[tuple[Any, ...]]:
        """
        Return the rows of a SELECT's answer.

        Raises:
            ServerError: The server refused the SELECT or could not be reached.
        """
        return self._ask(
            lambda: [tuple(row) for row in self._client.query(sql, **self._arguments(settings)).result_rows]
        )

    def row(self, sql: str, settings: Mapping[str, Any] | None = None) -> tuple[Any, ...]:
        """
        Return the single row of a SELECT's answer.

        Raises:
            ServerError: The server refused the SELECT or could not be reached, or the answer has no row, for example
                because an aggregation was interrupted.
        """
        rows = self.rows(sql, settings)
        if not rows:
            raise ServerError(f"ClickHouse at {self.address} gave no answer to: {' '.join(sql.split())[:200]}")
        return rows[0]

    def value(self, sql: str, settings: Mapping[str, Any] | None = None, *, default: Any = _NEEDED) -> Any:
        """
        Return the first value of the first row of a SELECT's answer.

        Args:
            default: The value to return for an answer without rows.

        Raises:
            ServerError: The server refused the SELECT or could not be reached, or the answer has no row and *default*
                is missing.
        """
        if default is _NEEDED:
            return self.row(sql, settings)[0]
        rows = self.rows(sql, settings)
        return rows[0][0] if rows else default

    def numbers(self, sql: str, settings: Mapping[str, Any] | None = None) -> tuple[int, ...]:
        """
        Return the integers of the single row of a SELECT's answer.

        The result is empty if the answer has no row, several rows, or a value that is not an integer. The answer is
        read as text, which for a few numbers takes a fraction of the time of :meth:`rows`.

        Raises:
            ServerError: The server refused the SELECT or could not be reached.
        """
        answer = self._ask(lambda: self._texts(sql, settings))
        if len(answer) != 1 or not all(value.removeprefix("-").isdecimal() for value in answer[0]):
            return ()
        return tuple(map(int, answer[0]))

    def texts(self, sql: str, settings: Mapping[str, Any] | None = None) -> list[list[str]]:
        """
        Return the rows of a SELECT's answer as texts.

        The call takes a fraction of the time of :meth:`rows`. No value may contain a tab, a new line or a backslash.

        Raises:
            ServerError: The server refused the SELECT or could not be reached.
        """
        return self._ask(lambda: self._texts(sql, settings))

    def _texts(self, sql: str, settings: Mapping[str, Any] | None) -> list[list[str]]:
        answer = self._over_wire(sql, settings, again=True)
        if answer is not None:
            body = answer.body
        else:
            body = self._client.raw_query(sql, fmt="TabSeparated", **self._arguments(settings))
        return [line.split("\t") for line in body.decode().split("\n")[:-1]]

    def _over_wire(self, sql: str, settings: Mapping[str, Any] | None, *, again: bool) -> Answer | None:
        """Send a statement without the client library, and return the answer; None if the library has to send it."""
        wire, given = wire_of(self._client), self._with(settings)
        return wire.send(sql, given, again=again) if wire is not None and wire.takes(given) else None

    def command(self, sql: str, settings: Mapping[str, Any] | None = None) -> Counts:
        """
        Run a statement, discard any rows that it returns, and wait for its end.

        Returns:
            The server's counts of rows and bytes read and rows written. The counts may be missing for a statement that
            returns rows.

        Raises:
            ServerError: The server refused the statement or could not be reached.
        """
        summary = self._ask(lambda: self._summary(sql, settings))
        written = summary.get("written_rows")
        return Counts(
            int(summary.get("read_rows", 0)),
            int(summary.get("read_bytes", 0)),
            None if written is None else int(written),
        )

    def _summary(self, sql: str, settings: Mapping[str, Any] | None) -> Mapping[str, Any]:
        answer = self._over_wire(sql, settings, again=False)
        if answer is None:
            found = self._client.command(sql, **self._arguments(settings))
            return getattr(found, "summary", None) or {}
        # If a statement returns rows, the summary does not count the statement's own writes.
        return {} if answer.body else json.loads(answer.headers.get("x-clickhouse-summary", "{}"))

    @cached_property
    def permissive(self) -> dict[str, int]:
        """The settings that this user needs, and may set, to create a copy of any existing table."""
        return {
            name: 1
            for name, setting in self._client.server_settings.items()
            if setting.value == "0" and is_changeable(setting) and _ALLOWS.fullmatch(name)
        }

    @property
    def cluster(self) -> str:
        """
        The widest cluster of several servers that contains this server; empty if there is none.

        Raises:
            ServerError: The server refused the query or could not be reached.
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
        """SQL for ``system.processes`` of all servers of the :attr:`cluster`, which must not be empty."""
        return f"clusterAllReplicas({literal(self.cluster)}, system.processes)"

    def _with(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        asked = {**self._whole_answers(), **(settings or {})}
        refuse_constrained(self._client, asked)
        given = {**self._settings, **asked}
        if self.embedded:
            # Omit the query id for the embedded engine, since nobody can see or kill its queries.
            given.pop("query_id", None)
        return given

    def _arguments(self, settings: Mapping[str, Any] | None) -> dict[str, Any]:
        """
        Return the keyword arguments *settings* and *parameters* for the client.

        Settings called ``param_name`` become entries ``name`` of *parameters*, which is None without such a setting.
        """
        given = self._with(settings)
        found = [name for name in given if name.startswith(_PARAMETER)]
        parameters = {name.removeprefix(_PARAMETER): given.pop(name) for name in found}
        return {"settings": given, "parameters": parameters or None}

    def _ask(self, call: Callable[[], _T]) -> _T:
        from clickhouse_connect.driver.exceptions import ClickHouseError

        try:
            return call()
        except (ClickHouseError, Refusal, OSError) as error:
            failure = server_error(error, self.address)
        # Raise outside the handler, so that the chain of errors omits the original error. A log of the chain would show
        # the text that the original error quotes.
        raise failure

    def close(self) -> None:
        """Close the connections and ignore errors; an embedded engine releases its path for other processes."""
        if (wire := wire_of(self._client)) is not None:
            wire.close()
        with suppress(Exception):
            self._client.close()


def connect(url: str, password: str | None = None, *, connections: int = 8) -> ClickHouse:
    """
    Open the ClickHouse at *url*: ``http[s]://user@host:port/database`` or ``chdb:///path``.

    Args:
        url: An address for :func:`.parse_address`; it may contain the password.
        password: The password for a URL without one.
        connections: The number of connections that stay open. More statements in parallel open further connections.

    Raises:
        ConfigError: The URL is invalid, or the embedded engine is not installed.
        ServerError: The server does not answer or refuses the user, or the embedded engine cannot be opened.
    """
    import clickhouse_connect
    from clickhouse_connect.driver.exceptions import ClickHouseError
    from clickhouse_connect.driver.httputil import get_pool_manager

    address = parse_address(url)

    def open_at(place: Address) -> "Client":
        tls = {"verify": place.scheme == "https", **address.tls_options}
        return clickhouse_connect.get_client(
            interface=place.scheme,
            host=place.host,
            port=place.port,
            username=address.user or "default",
            password=password or "" if address.password is None else address.password,
            database=address.database or "__default__",
            # While one statement runs, a session would refuse a second statement, such as a KILL QUERY.
            autogenerate_session_id=False,
            pool_mgr=get_pool_manager(maxsize=connections, **tls),
            **address.client_options,
        )

    try:
        if address.path:
            return ClickHouse(clickhouse_connect.get_client(interface="chdb", path=address.path), address.location)
        return ClickHouse(open_at(address), address.location, open_at)
    except ImportError as error:
        raise _no_engine(error) from None
    except (ClickHouseError, OSError) as error:
        failure = server_error(error, address.location)
    raise failure


def from_client(
    open_client: "Callable[[], Client]", name: str, elsewhere: "Callable[[Address], Client] | None" = None
) -> ClickHouse:
    """
    Return a :class:`ClickHouse` around a client from the caller.

    Args:
        open_client: Opens the client, for example with Airflow's ClickHouse hook.
        name: The name of the ClickHouse in errors while its address is unknown.
        elsewhere: Opens a client of the same user at another address, such as a shard's. With None, :meth:`.at` fails.

    Raises:
        ConfigError: The embedded engine is not installed.
        ServerError: The server does not answer, or refuses the user.
    """
    from clickhouse_connect.driver.exceptions import ClickHouseError

    try:
        client = open_client()
    except ImportError as error:
        raise _no_engine(error) from None
    except (ClickHouseError, OSError) as error:
        failure = server_error(error, name)
    else:
        return _wrapped(client, elsewhere)
    raise failure


def _wrapped(client: "Client", elsewhere: "Callable[[Address], Client] | None") -> ClickHouse:
    url = getattr(client, "url", None)
    if url is None:
        return ClickHouse(client, f"chdb://{getattr(client, 'path', '')}")
    parts = urlsplit(str(url))
    place = Address(parts.scheme, host=parts.hostname or "", port=parts.port or 0)
    return ClickHouse(client, place.location, elsewhere)


def _no_engine(error: ImportError) -> ConfigError:
    return ConfigError(
        f"The embedded engine is not installed: {error}.",
        hint="pip install 'airflow-provider-backfill[embedded]'",
    )
