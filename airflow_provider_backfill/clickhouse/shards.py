"""Find the shards of a cluster and the tables on these shards, and connect to each shard."""

import random
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar
from urllib.parse import urlsplit

from ..core.facts import SpreadFacts, TableFacts
from ..core.masking import mask_secrets
from ..core.sql import expressions, literal, table_condition
from ..core.tables import TableName
from ..errors import Advice, Flag, RequestError, ServerError, ServerUnreachableError, StatementRefusedError
from .address import parse_address
from .client import ClickHouse

_T = TypeVar("_T")

_TEXT = r"'((?:[^'\\]|\\.)*)'"
_MACRO = re.compile(r"\{(\w+)\}")
_DISTRIBUTED = re.compile(rf"^Distributed\({_TEXT}, {_TEXT}, {_TEXT}")
# The seconds for which a replica that did not answer is tried last.
_AVOID_SECONDS = 10.0


class Spread(NamedTuple):
    """The cluster of a Distributed table, and the local table on the cluster's shards."""

    cluster: str
    local: TableName


def spread_of(server: ClickHouse, engine: str) -> Spread | None:
    """Return the cluster and local table in the engine clause of a Distributed table; None for any other clause."""
    match = _DISTRIBUTED.match(engine)
    if match is None:
        return None
    cluster, database, name = (re.sub(r"\\(.)", r"\1", text) for text in match.groups())
    # The engine clause has the cluster's name as the user typed it, such as '{cluster}'.
    if "{" in cluster:
        macros = dict(server.rows("SELECT macro, substitution FROM system.macros"))
        cluster = _MACRO.sub(lambda macro: macros.get(macro[1], macro[0]), cluster)
    return Spread(cluster, TableName(database, name))


def _distributed_over(server: ClickHouse, local: TableName) -> Iterator[tuple[TableName, str, Spread]]:
    """Yield this server's Distributed tables over a local table, each with its engine clause and its spread."""
    rows = server.rows(
        "SELECT database, name, engine_full FROM system.tables WHERE engine = 'Distributed' ORDER BY database, name"
    )
    for database, name, engine in rows:
        spread = spread_of(server, engine)
        if spread is not None and spread.local == local:
            yield TableName(database, name), engine, spread


def sharding_key(engine: str) -> str:
    """Return the sharding key in the engine clause of a Distributed table; empty if there is none."""
    clause = expressions(engine)[0]
    arguments = expressions(clause[clause.index("(") + 1 : clause.rindex(")")])
    return arguments[3] if len(arguments) > 3 else ""


def spread_tables(server: ClickHouse, spread: Spread) -> dict[TableName, str]:
    """Return this server's Distributed tables over a local table of a cluster, with their sharding keys."""
    found = _distributed_over(server, spread.local)
    return {name: sharding_key(engine) for name, engine, over in found if over == spread}


def spreads_over(server: ClickHouse, table: TableName, sources: Iterable[TableName]) -> tuple[SpreadFacts, ...]:
    """
    Return those of this server's Distributed tables over the local *table* whose clusters have other shards.

    Omit tables whose cluster does not include this server. Return an empty tuple if one of the *sources* is
    Distributed, because the rows of all shards then come to this shard.
    """
    over, found = list(_distributed_over(server, table)), []
    names = " OR ".join(table_condition(source, "name") for source in sources) or "0"
    if over and server.numbers(f"SELECT count() FROM system.tables WHERE engine = 'Distributed' AND ({names})") != (0,):
        return ()
    for name, _, spread in over:
        numbers, own = shard_weights(server, spread.cluster), shard_of(server, spread.cluster)
        if own and (others := tuple(number for number in numbers if number not in own)):
            found.append(SpreadFacts(name, spread.cluster, min(own), others))
    return tuple(found)


def shard_weights(server: ClickHouse, cluster: str) -> dict[int, int]:
    """
    Return the weight of each shard, by shard number; empty if this server does not know the cluster.

    An INSERT into a Distributed table sends a shard rows in proportion to the shard's weight.
    """
    rows = server.rows(
        "SELECT shard_num, any(shard_weight) FROM system.clusters"
        f" WHERE cluster = {literal(cluster)} GROUP BY shard_num ORDER BY shard_num"
    )
    return {int(number): int(weight) for number, weight in rows}


def shards_with(server: ClickHouse, cluster: str, table: TableName) -> int:
    """
    Return the number of shards of *cluster* that have *table*.

    The number is 1 if this server is not part of the cluster, or the cluster has one shard. If the server refuses the
    query on the shards, all shards of the cluster count.

    Raises:
        ServerError: This server could not be reached, or refused the query on ``system.clusters``.
    """
    about = f"SELECT max(is_local), uniqExact(shard_num) FROM system.clusters WHERE cluster = {literal(cluster)}"
    member, shards = server.numbers(about)
    if not member or shards < 2:
        return 1
    try:
        (found,) = server.numbers(
            f"SELECT uniqExact(shardNum()) FROM cluster({literal(cluster)}, system.tables)"
            f" WHERE database = {literal(table.database)} AND name = {literal(table.table)}"
        )
    except StatementRefusedError:
        return shards
    return found


def shard_urls(server: ClickHouse, cluster: str, given: Mapping[int, Sequence[str]]) -> dict[int, tuple[str, ...]]:
    """
    Return the HTTP addresses of the replicas of each shard, by shard number.

    The addresses have the hosts that this server knows for the cluster, and the scheme and HTTP port by which this
    server was reached.

    Args:
        given: Addresses to use instead, by shard number.

    Raises:
        RequestError: This server does not know the cluster, or *given* names an unknown shard.
    """
    rows = server.rows(
        f"SELECT shard_num, host_name, is_local FROM system.clusters WHERE cluster = {literal(cluster)}"
        " ORDER BY shard_num, replica_num"
    )
    if not rows:
        known = [name for (name,) in server.rows("SELECT DISTINCT cluster FROM system.clusters ORDER BY cluster")]
        raise RequestError(
            f"{server.address} knows no cluster {cluster}; it knows {', '.join(known) or 'none'}.",
            remedy=Advice("name one that its system.clusters has: {}", Flag("--cluster")),
        )
    here = urlsplit(server.address)
    found: dict[int, dict[str, None]] = {}
    for number, host, is_local in rows:
        # Other hosts cannot reach a server as localhost, so use the address by which this server was reached.
        own = is_local and (host == "localhost" or host.startswith("127."))
        place = f"[{host}]" if ":" in host else host
        url = server.address if own else f"{here.scheme}://{place}:{here.port}"
        found.setdefault(int(number), {})[url] = None
    if unknown := sorted(given.keys() - found.keys()):
        raise RequestError(
            f"The cluster {cluster} has no shard {unknown[0]}; it has {', '.join(map(str, found))}.",
            remedy=Advice("correct the number of {}", Flag("--shard-url")),
        )
    return {number: tuple(given.get(number, urls)) for number, urls in found.items()}


def read_shard_urls(texts: Iterable[str]) -> dict[int, tuple[str, ...]]:
    """
    Return the addresses in texts such as ``2=http://host:8123``, by shard number.

    Several texts with one number give the addresses of the shard's replicas.

    Raises:
        RequestError: A number is invalid, or an address has more than scheme, host and port.
        ConfigError: An address is not a valid server address.
    """
    found: dict[int, tuple[str, ...]] = {}
    for text in texts:
        left, _, right = text.partition("=")
        number, url = _shard_url(left.strip(), right)
        found[number] = (*found.get(number, ()), url)
    return found


def _shard_url(number: str, url: str) -> tuple[int, str]:
    """
    Return the number of a shard and its address, which consists of scheme, host and port.

    Raises:
        RequestError: *number* is invalid, or *url* has more than scheme, host and port.
        ConfigError: *url* is not a valid server address.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,5}", number):
        raise RequestError(
            f"--shard-url has {mask_secrets(number[:200])[:40]!r} where the number of a shard belongs.",
            remedy=Advice("write {}", Flag("--shard-url", "2=http://host:8123")),
        )
    place = parse_address(url)
    if place.user or place.password is not None or place.database or place.path or place.parameters:
        raise RequestError(
            f"The address of shard {number} has more than scheme, host and port: user, password, database and options "
            "are those of --clickhouse-url.",
            remedy=Advice("write {}", Flag("--shard-url", f"{number}={place.scheme}://{place.host}:{place.port}")),
        )
    return int(number), place.location


def shard_of(server: ClickHouse, cluster: str) -> set[int]:
    """Return the numbers of the shards of *cluster* to which this server belongs, according to this server."""
    rows = server.rows(
        f"SELECT DISTINCT shard_num FROM system.clusters WHERE cluster = {literal(cluster)} AND is_local"
    )
    return {int(number) for (number,) in rows}


def table_identity(server: ClickHouse, table: TableFacts) -> str:
    """
    Return the identity of a table, which all replicas of the table share.

    The identity is the name of Keeper and the table's path there. For a table without replicas, the identity is the
    UUIDs of the server and the table.
    """
    if table.replicas is not None:
        return f"{table.replicas.keeper}:{table.replicas.path}"
    own = "SELECT concat(toString(serverUUID()), '/', toString(uuid)) FROM system.tables WHERE "
    return str(server.value(own + table_condition(table.storage, "name")))


class AnyReplica(ClickHouse):
    """
    A connection to any replica of a shard, as through a load balancer. Threads may share the connection.

    If a replica does not answer, the statement fails and may be tried again. For 10 seconds, statements then go to the
    other replicas first. The connection to a replica is opened on first use.
    """

    def __init__(self, initiator: ClickHouse, name: str, urls: Sequence[str]) -> None:
        self._initiator, self._urls = initiator, tuple(urls)
        self._open: dict[str, ClickHouse] = {}
        self._silent: dict[str, float] = {}
        self._lock = threading.Lock()
        # The initiator's settings apply to all servers of a cluster.
        self._settings, self._cluster = initiator._settings, None
        self._present: ClickHouse | None = None
        self.address, self.embedded = f"{name} ({', '.join(urls)})", False

    def reached(self) -> ClickHouse:
        """
        Return a connection to a replica that has just answered.

        Raises:
            ServerUnreachableError: No replica answers; the message has the reason for each replica.
            StatementRefusedError: A replica answers, but refuses the user or the statement.
        """
        reasons = []
        now = time.monotonic()
        order = random.sample(self._urls, len(self._urls))
        for url in sorted(order, key=lambda each: self._silent.get(each, -_AVOID_SECONDS) + _AVOID_SECONDS > now):
            try:
                with self._lock:
                    server = self._open.get(url) or self._open.setdefault(url, self._initiator.at(url))
                server.command("SELECT 1")
            except ServerUnreachableError as error:
                self._silent[url] = time.monotonic()
                reasons.append(error.message)
                continue
            self._silent.pop(url, None)
            return server
        raise ServerUnreachableError(
            f"No replica of {self.address} could be reached: {' '.join(reasons)}",
            remedy=Advice(
                "its chunks wait for it; where it is to be reached by another address, plan with {}",
                Flag("--shard-url"),
            ),
        )

    def _ask(self, call: Callable[[], _T]) -> _T:
        present = self._present = self._present or self.reached()
        self._client = present._client
        try:
            return super()._ask(call)
        except ServerUnreachableError:
            self._silent[present.address], self._present = time.monotonic(), None
            raise

    def close(self) -> None:
        """Close the connections to all replicas."""
        for server in self._open.values():
            server.close()


def why_unreachable(server: ClickHouse) -> str:
    """
    Return why no replica of *server* answers now.

    Return an empty text if a replica answers, even with a refusal, or if *server* is not an :class:`AnyReplica`.
    """
    try:
        server.reached()
    except ServerUnreachableError as error:
        return error.message
    except ServerError:
        # A refusal is an answer, too; later statements on this server report the refusal.
        return ""
    return ""
