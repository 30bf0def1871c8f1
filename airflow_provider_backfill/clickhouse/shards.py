"""The shards of a cluster: what a Distributed table is spread over, where the shards are, and how to reach each."""

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
# For this time, a replica that did not answer is tried last.
_AVOID_SECONDS = 10.0


class Spread(NamedTuple):
    """The cluster of a Distributed table, and the local table on its shards."""

    cluster: str
    local: TableName


def spread_of(server: ClickHouse, table: TableFacts) -> Spread | None:
    """Return what a Distributed table is spread over; None for any other table."""
    return _spread(server, table.engine_full)


def _spread(server: ClickHouse, engine: str) -> Spread | None:
    match = _DISTRIBUTED.match(engine)
    if match is None:
        return None
    cluster, database, name = (re.sub(r"\\(.)", r"\1", text) for text in match.groups())
    # The clause has the name as it was typed, such as '{cluster}'.
    if "{" in cluster:
        macros = dict(server.rows("SELECT macro, substitution FROM system.macros"))
        cluster = _MACRO.sub(lambda macro: macros.get(macro[1], macro[0]), cluster)
    return Spread(cluster, TableName(database, name))


def _distributed_over(server: ClickHouse, local: TableName) -> Iterator[tuple[TableName, str, Spread]]:
    """Yield the Distributed tables of this server over a local table, each with its engine and cluster."""
    rows = server.rows(
        "SELECT database, name, engine_full FROM system.tables WHERE engine = 'Distributed' ORDER BY database, name"
    )
    for database, name, engine in rows:
        spread = _spread(server, engine)
        if spread is not None and spread.local == local:
            yield TableName(database, name), engine, spread


def sharding_key(engine: str) -> str:
    """Return the sharding key in the engine clause of a Distributed table; empty where it has none."""
    clause = expressions(engine)[0]
    arguments = expressions(clause[clause.index("(") + 1 : clause.rindex(")")])
    return arguments[3] if len(arguments) > 3 else ""


def spread_tables(server: ClickHouse, spread: Spread) -> dict[TableName, str]:
    """Return the Distributed tables that this server has over a local table of a cluster, with their sharding keys."""
    found = _distributed_over(server, spread.local)
    return {name: sharding_key(engine) for name, engine, over in found if over == spread}


def spreads_over(server: ClickHouse, table: TableName, sources: Iterable[TableName]) -> tuple[SpreadFacts, ...]:
    """
    Return the Distributed tables over a local table that other shards have, too, as far as this server knows them.

    None where one of the *sources* is Distributed: the rows of all shards come to this one.
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
    """Return how many slots each shard of a cluster has: an INSERT through a Distributed table chooses among them."""
    rows = server.rows(
        "SELECT shard_num, any(shard_weight) FROM system.clusters"
        f" WHERE cluster = {literal(cluster)} GROUP BY shard_num ORDER BY shard_num"
    )
    return {int(number): int(weight) for number, weight in rows}


def shards_with(server: ClickHouse, cluster: str, table: TableName) -> int:
    """
    Count the shards of *cluster* that have *table*, where this server is one of them; 1 where it is none.

    Where the shards cannot be asked, all of the cluster's are counted.

    Raises:
        ServerUnreachableError: This server could not be reached.
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
    Return the HTTP interfaces of a cluster's shards: the hosts that this server knows, with its own HTTP port.

    Args:
        given: Interfaces to use in place of these, by the number of the shard.

    Raises:
        RequestError: This server knows no such cluster, or *given* names a shard that it does not have.
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
        # What a server calls itself is of no use to others.
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
    Read ``2=http://host:8123``: by the number of a shard, where its replicas are.

    Raises:
        RequestError: The number is none, or an address has a user, a password or a database.
        ConfigError: An address is none of a server.
    """
    found: dict[int, tuple[str, ...]] = {}
    for text in texts:
        left, _, right = text.partition("=")
        number, url = _shard_url(left.strip(), right)
        found[number] = (*found.get(number, ()), url)
    return found


def _shard_url(number: str, url: str) -> tuple[int, str]:
    """
    Read the number of a shard and where it is; only the place of *url* is kept.

    Raises:
        RequestError: *number* is none, or *url* has a user, a password or a database.
        ConfigError: *url* is no address of a server.
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
    """Return the shards of a cluster that a server takes itself for; none where it does not know itself."""
    rows = server.rows(
        f"SELECT DISTINCT shard_num FROM system.clusters WHERE cluster = {literal(cluster)} AND is_local"
    )
    return {int(number) for (number,) in rows}


def table_identity(server: ClickHouse, table: TableFacts) -> str:
    """Return what a table is, whichever of its replicas is asked: its path in Keeper, or its server and UUID."""
    if table.replicas is not None:
        return f"{table.replicas.keeper}:{table.replicas.path}"
    own = "SELECT concat(toString(serverUUID()), '/', toString(uuid)) FROM system.tables WHERE "
    return str(server.value(own + table_condition(table.storage, "name")))


class AnyReplica(ClickHouse):
    """
    A shard: any of its replicas, as a load balancer in front of them would choose; for threads.

    A replica that does not answer fails the statement, which may be tried again, and the others are asked from then on.
    Nothing is opened before it is needed.
    """

    def __init__(self, initiator: ClickHouse, name: str, urls: Sequence[str]) -> None:
        self._initiator, self._urls = initiator, tuple(urls)
        self._open: dict[str, ClickHouse] = {}
        self._silent: dict[str, float] = {}
        self._lock = threading.Lock()
        # These values are the same for all servers of a cluster.
        self._settings, self._cluster = initiator._settings, None
        self._present: ClickHouse | None = None
        self.address, self.embedded = f"{name} ({', '.join(urls)})", False

    def reached(self) -> ClickHouse:
        """
        Return the connection to one of the replicas, which has just answered.

        Raises:
            ServerUnreachableError: None of them does; says why each.
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
    """Return why a server cannot be reached now; empty when it can."""
    try:
        server.reached()
    except ServerUnreachableError as error:
        return error.message
    except ServerError:
        # The server answers, even if it refuses; the statements that run there report the refusal.
        return ""
    return ""
