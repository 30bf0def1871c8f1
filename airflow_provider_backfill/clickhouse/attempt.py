"""The shared context of an attempt's parts: facts, tables, and the fence."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import NamedTuple

from ..core.facts import Replicas, TableFacts
from ..core.leftovers import LeftoverKind, read_name
from ..core.names import quote
from ..core.plan import Chunk, Plan
from ..core.run_state import ContentSums, Staged
from ..core.sql import literal, query_id, quote_table
from ..core.tables import TableName
from ..core.window import Slice
from ..errors import Advice, ServerError, Sql, StatementRefusedError
from .client import ClickHouse
from .cluster import drop_for_good, names_elsewhere

STAGING_SETTINGS = {
    # The staging table must hold the very rows of the SELECT: no deduplication, no collapsing, no queue.
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "async_insert": 0,
    "max_partitions_per_insert_block": 0,
    # A distributed read must not skip unreachable shards.
    "skip_unavailable_shards": 0,
}
# Of a table in which rows stay as they were inserted.
STAGING_TABLE: Mapping[str, int | str] = {
    # Part UUIDs distinguish parts that contain identical rows.
    "assign_part_uuids": 1,
    # No merge may collapse rows before they are verified, or rename parts while they are moved;
    # so there are many of them for a while.
    "max_bytes_to_merge_at_max_space_in_pool": 1,
    "max_bytes_to_merge_at_min_space_in_pool": 1,
    "parts_to_delay_insert": 100_000,
    "parts_to_throw_insert": 100_000,
    # Nor may the TTL of a column empty it.
    "max_number_of_merges_with_ttl_in_pool": 0,
}
# Each costs milliseconds, and a statement a round trip; not all in one, for a plan may leave thousands.
_DROPPED_AT_ONCE = 50
# How long a query on another server may take to end before the attempt gives up, to be tried again later.
_ELSEWHERE_SECONDS = 60.0


class Step(StrEnum):
    """A finished step of an attempt; the last two may occur for each partition."""

    CLAIM = "claim"
    STAGING = "staging"
    STAGED = "staged"
    VERIFIED = "verified"
    BACKED_UP = "backed up"
    KEPT_OUTSIDE = "kept outside"
    CLEARED = "cleared"
    SEALED = "sealed"
    INSERTED = "inserted"
    RECORDED = "recorded"
    MOVED = "moved"
    REPLACED = "replaced"


class Neighbour(NamedTuple):
    """
    Another chunk of the plan that has written to the target, or may have.

    Attributes:
        reach: Where its rows lie in the target's time; None when in its window.
        rows: As many as it wrote, before any merge; None when that is not known.
    """

    chunk: Chunk
    reach: Slice | None
    rows: int | None


class Attempt(NamedTuple):
    """
    The context of one attempt.

    Attributes:
        fenced: Called before anything is published; raises when another run may publish to the same window. It calls
            what it is given when the worker may have been asleep since the last time, or since the attempt began: then
            another run may have published to the window, and be gone.
        owned: Called before anything of others is killed, dropped or deleted; raises when the claim is lost.
        verified: Called with what was staged, on replicas with its parts, and with where its rows lie when not in the
            chunk's window, before any of it is published; raises when the claim is lost.
        step: Called with each step when it is done; may raise to end the attempt.
        neighbours: Gives the plan's other chunks that have written, or may have written, to the target.
        rivals: Gives the ids of other plans that have filled the chunk's window, as far as they are known.
        reach: Gives where its staged rows lie, as *verified* was told; None when in the chunk's window.
        earlier: What earlier attempts of the chunk staged, by attempt.
        staged: The last of it, where the target is replicated.
        touched: Whether an earlier attempt may have written to the target.
        clear: Whether to delete the chunk's window from the target first.
        insert_threads: How many threads may write what a statement gives; ClickHouse writes with one by itself.
        sparse: Whether the source is likely to have no rows in the window, which is then asked first.
        read: Called with the rows and bytes that each filling statement read.
        replicated: The tables that are read, and the target, where they are replicated; each with the cluster whose
            replicas are read, which is empty for a table that the server reads by itself.
    """

    plan: Plan
    target: TableFacts
    chunk: Chunk
    number: int
    owned: Callable[[], None]
    fenced: Callable[[Callable[[], None]], None]
    verified: Callable[[ContentSums, Staged | None, Slice | None], None]
    step: Callable[[Step], None]
    neighbours: Callable[[], Sequence[Neighbour]]
    rivals: Callable[[], Sequence[str]]
    reach: Callable[[], Slice | None]
    earlier: dict[int, ContentSums]
    staged: Staged | None
    touched: bool
    clear: bool
    insert_threads: int = 1
    sparse: bool = False
    read: Callable[[int, int], None] = lambda *_: None
    replicated: tuple[tuple[TableName, str], ...] = ()

    @property
    def query_id(self) -> str:
        """The id of its insert; those of its other statements begin with it, so that a cancel finds them."""
        return query_id(self.plan.plan_id, self.chunk.id, self.number)


def kill_queries(server: ClickHouse, plan_id: str, chunk_id: str = "") -> int:
    """
    Kill every query of a plan (or of one of its chunks), on all servers of the cluster, and wait until they are gone.

    Returns:
        How many queries were found.

    Raises:
        ServerError: ClickHouse could not be reached, or a query continues on another server.
    """
    if server.embedded:
        return 0
    mine = f"startsWith(query_id, {literal(f'backfill-{plan_id}-' + (f'{chunk_id}-' if chunk_id else ''))})"
    found = 0
    # An INSERT in its commit may survive one KILL; a second KILL waits for its end.
    for _ in range(50):
        # A separate question: the client answers a KILL with a summary, whether or not a query matched.
        alive = server.rows(f"SELECT query_id FROM system.processes WHERE {mine}")
        if not alive:
            break
        found = max(found, len(alive))
        server.command(f"KILL QUERY WHERE {mine} SYNC")
    return max(found, _kill_elsewhere(server, mine))


def _kill_elsewhere(server: ClickHouse, mine: str) -> int:
    """Kill an attempt's queries on other servers of the cluster; this server has none left."""
    found, until = 0, time.monotonic() + _ELSEWHERE_SECONDS
    while alive := _elsewhere(server, mine):
        if not found:
            # Wants Keeper and the right CLUSTER; where it has neither, the end of the queries is waited for.
            with suppress(ServerError):
                server.command(f"KILL QUERY ON CLUSTER {quote(server.cluster)} WHERE {mine} ASYNC")
        found = max(found, len(alive))
        if time.monotonic() > until:
            raise ServerError(
                f"{len(alive)} queries of earlier attempts go on on other servers: "
                + ", ".join(f"{query} on {host}" for query, host in alive[:3]),
                remedy=Advice("there, run: {}", Sql(f"KILL QUERY WHERE {mine} SYNC")),
            )
        time.sleep(0.2)
    return found


def _elsewhere(server: ClickHouse, mine: str) -> list[tuple[str, str]]:
    """Id and host of the queries that meet *mine* on the servers of the cluster that can be reached and looked at."""
    try:
        if not server.cluster:
            return []
        found = server.rows(
            f"SELECT DISTINCT query_id, hostName() FROM {server.cluster_processes} WHERE {mine}",
            {"skip_unavailable_shards": 1},
        )
    except StatementRefusedError:
        # Without the right REMOTE, or that of the cluster's own user, only this server can be asked; doctor says so.
        return []
    return [(query, host) for query, host in found]


def leftover_tables(server: ClickHouse, plan_id: str, target: TableFacts) -> list[TableName]:
    """Return the names of a plan's tables beside its target, on any replica, except the backup."""
    prefix, databases = f"backfill_{plan_id}_", ", ".join(map(literal, target.databases))
    rows = server.rows(
        f"SELECT database, name FROM system.tables WHERE database IN ({databases})"
        f" AND startsWith(name, {literal(prefix)})"
    )
    tables = {TableName(*row) for row in rows}
    if target.replicas is not None:
        names = names_elsewhere(server, target.replicas, target.databases, prefix)
        tables |= {place_of(name, target) for name in names}
    return sorted(tables)


def place_of(name: str, target: TableFacts) -> TableName:
    """Return the product's table called *name*: a fence is in its target's database, others in the staging one."""
    leftover = read_name(name)
    is_fence = leftover is not None and leftover.kind is LeftoverKind.FENCE
    return TableName(target.storage.database if is_fence else target.beside, name)


def batches(tables: Sequence[TableName]) -> Iterator[Sequence[TableName]]:
    """Yield *tables* in groups of as many as one statement drops."""
    for start in range(0, len(tables), _DROPPED_AT_ONCE):
        yield tables[start : start + _DROPPED_AT_ONCE]


def drop_tables(server: ClickHouse, tables: Sequence[TableName], replicas: Replicas | None = None) -> None:
    """Drop tables, if they exist, on all *replicas*, with their entries in Keeper."""
    for batch in batches(tables):
        if replicas is not None:
            drop_for_good(server, replicas, batch)
            continue
        names = ", ".join(map(quote_table, batch))
        server.command(f"DROP TABLE IF EXISTS {names} SYNC", {"max_table_size_to_drop": 0})


def drop_part(server: ClickHouse, table: TableName, name: str) -> None:
    """Drop a part that may be gone already."""
    try:
        server.command(
            f"ALTER TABLE {quote_table(table)} DROP PART {literal(name)}", {"max_partition_size_to_drop": "0"}
        )
    except StatementRefusedError as error:
        # An attempt that is over, but not dead, has just moved it.
        if error.name != "NO_SUCH_DATA_PART":
            raise


def drop_leftovers(server: ClickHouse, plan_id: str, target: TableFacts) -> None:
    """Drop every table of a plan but its backup; only when nothing can need them any more."""
    drop_tables(server, leftover_tables(server, plan_id, target), target.replicas)
