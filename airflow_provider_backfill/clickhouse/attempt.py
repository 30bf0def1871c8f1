"""
Define the context of an attempt, and functions that end the queries and drop the tables of a plan.

All steps of an attempt share the context: facts, tables and callbacks.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from ..core.facts import Replicas, TableFacts
from ..core.leftovers import LeftoverKind, read_name
from ..core.names import quote
from ..core.plan import Chunk, Plan, WriteMode
from ..core.run_state import ContentSums, Staged
from ..core.sql import literal, query_id, quote_table
from ..core.tables import TableName
from ..core.window import Slice
from ..errors import Advice, ServerError, Sql, StatementRefusedError, VerificationError
from .client import ClickHouse
from .cluster import drop_for_good, names_elsewhere

# Settings of the INSERTs into a staging table.
STAGING_SETTINGS = {
    # The staging table must contain exactly the rows of the SELECT. So no INSERT deduplicates or collapses rows, or
    # puts rows in a queue. For the number of partitions, 0 means no limit.
    "insert_deduplicate": 0,
    "optimize_on_insert": 0,
    "async_insert": 0,
    "max_partitions_per_insert_block": 0,
}
# MergeTree settings of a staging table. Its rows and parts must stay as they were inserted.
STAGING_TABLE: Mapping[str, int | str] = {
    # Part UUIDs distinguish parts that contain identical rows.
    "assign_part_uuids": 1,
    # No merge may collapse rows before their verification, or rename parts during a move. Unmerged parts accumulate,
    # so the limits for INSERTs are high.
    "max_bytes_to_merge_at_max_space_in_pool": 1,
    "max_bytes_to_merge_at_min_space_in_pool": 1,
    "parts_to_delay_insert": 100_000,
    "parts_to_throw_insert": 100_000,
    # No merge may apply the TTL of a column. Column TTLs stay in the copy of the target's definition.
    "max_number_of_merges_with_ttl_in_pool": 0,
}
# The maximum number of tables per DROP statement. A plan may leave thousands of tables, and each statement costs a
# round trip.
_DROPPED_AT_ONCE = 50
# The maximum wait, in seconds, for the end of a plan's queries, on this server and then on other servers.
_PATIENCE_SECONDS = 60.0


class StillRunningError(ServerError):
    """Queries of a plan run on, although they were killed."""


class OutdatedError(VerificationError):
    """
    The target was altered after a chunk had been staged, and does not take the rows.

    Attributes:
        unpublished: Whether it is known that nothing of an earlier attempt's staged rows was published.
    """

    unpublished = False

    def __init__(self, attempt: "Attempt") -> None:
        super().__init__(
            f"{attempt.plan.target} was altered after chunk {attempt.chunk.id} had been staged, so it is staged again."
        )


class Step(StrEnum):
    """A finished step of an attempt; ``MOVED`` and ``REPLACED`` occur once for each partition."""

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
    Another chunk of the plan, whose rows are or may be in the target.

    Attributes:
        reach: The target times at which the chunk's rows may lie; None for the chunk's window.
        rows: The number of rows written, before any merge; None if unknown.
    """

    chunk: Chunk
    reach: Slice | None
    rows: int | None


class Attempt(NamedTuple):
    """
    The context of one attempt.

    Attributes:
        fenced: Called before each publication, with a check as argument. Raises if another run may publish to an
            overlapping window. If half of the lease has passed since the last call, *fenced* also calls *owned*
            and the check, because another run may have published and ended meanwhile.
        owned: Called before actions that could harm a later attempt, such as kills and drops; raises if the claim is
            lost.
        verified: Called after staging and before publication. Its arguments are the content sums of the staged rows;
            the staged table, on replicas with its parts (None if a rename is the seal); and the target times of the
            rows (None as for :attr:`.Proof.reach`). Raises if the claim is lost.
        step: Called after each step; may raise to end the attempt.
        neighbours: Returns the plan's other chunks that have, or may have, written to the target.
        rivals: Returns the ids of other known plans that have filled a part of the chunk's window.
        reach: Returns the target times that were last passed to *verified* for the chunk; None also before the first
            verification.
        earlier: The content sums of the rows that earlier attempts verified, by the number of the attempt.
        staged: The last verified staging table in the log; on replicas, with the table's parts. None if no attempt has
            verified a table, or if a rename is the seal.
        touched: Whether an earlier attempt may have written to the target.
        clear: Whether to delete the chunk's window from the target first.
        threads: The settings for the numbers of threads that fill a staging table.
        sparse: Whether the source probably has no rows for the chunk. If so, and if :attr:`.Plan.sums_tell` is True,
            the attempt looks for a row before it stages.
        read: Called after the INSERT of each statement with the numbers of rows and bytes that were read.
        own: The staging table that this attempt fills on replicas; None elsewhere, where its name tells the attempt.
        going: The hashes of the parts of done chunks, which are being dropped from *own*; None if *own* does not exist.
        definition: The hash of the target's definition before *own* was created; empty if *own* does not exist.
        replicated: The replicated tables among target and sources. Each comes with the cluster whose replicas are read;
            the cluster is empty if the server reads the table locally.
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
    threads: Mapping[str, int] = MappingProxyType({})
    sparse: bool = False
    read: Callable[[int, int], None] = lambda *_: None
    own: TableName | None = None
    going: frozenset[str] | None = None
    definition: str = ""
    replicated: tuple[tuple[TableName, str], ...] = ()

    @property
    def catches_up_later(self) -> bool:
        """
        Whether this attempt stages without waiting for a replicated target to catch up.

        If the target's rows in the window are counted, the attempt waits right before the count.
        """
        stages = self.plan.write_mode is WriteMode.STAGE and self.target.replicas is not None
        return stages and self.number == 1 and not self.clear

    @property
    def query_id(self) -> str:
        """The id of the first INSERT. The attempt's other query ids begin with this id, so a cancel finds them all."""
        return query_id(self.plan.plan_id, self.chunk.id, self.number)


def kill_queries(server: ClickHouse, plan_id: str, chunk_id: str = "") -> int:
    """
    Kill the queries of a plan (with *chunk_id*, of one chunk) on all servers of the cluster, and wait for their end.

    Servers of the cluster that cannot be reached are left out. If a server refuses the question about its queries, all
    servers except this server are left out.

    Returns:
        The largest number of queries that a single search found, on this server or on the cluster. The number is 0 for
        an embedded engine.

    Raises:
        StillRunningError: A query still runs after 60 s, on this server or on another one.
        ServerError: This server refused a statement or could not be reached.
    """
    if server.embedded:
        return 0
    mine = f"startsWith(query_id, {literal(f'backfill-{plan_id}-' + (f'{chunk_id}-' if chunk_id else ''))})"
    found, until = 0, time.monotonic() + _PATIENCE_SECONDS
    # Ask separately: the client answers a KILL with a summary, whether or not a query matched.
    while alive := server.rows(f"SELECT query_id FROM system.processes WHERE {mine}"):
        if time.monotonic() > until:
            raise StillRunningError(
                f"Queries of plan {plan_id} are still running on {server.address} ({len(alive)}): "
                + ", ".join(str(query) for (query,) in alive[:3]),
                remedy=Advice(
                    "an INSERT that is committing cannot be killed; wait for its end and repeat the command, or there, "
                    "run: {}",
                    Sql(f"KILL QUERY WHERE {mine} SYNC"),
                ),
            )
        if found:
            # An INSERT that is committing may survive one KILL; a second KILL waits for the end of the INSERT.
            time.sleep(0.05)
        found = max(found, len(alive))
        server.command(f"KILL QUERY WHERE {mine} SYNC")
    return max(found, _kill_elsewhere(server, mine))


def _kill_elsewhere(server: ClickHouse, mine: str) -> int:
    """
    Kill the queries that meet the condition *mine* on the other servers of the cluster, and wait for their end.

    Call this function only after the local queries have ended.

    Returns:
        The largest number of queries that a single search found; 0 if no query was found.

    Raises:
        StillRunningError: A query is still running after :data:`_PATIENCE_SECONDS`.
        ServerError: This server could not be reached.
    """
    found, until = 0, time.monotonic() + _PATIENCE_SECONDS
    while alive := _elsewhere(server, mine):
        if not found:
            # The statement needs Keeper and the right CLUSTER; without these, wait for the end of the queries.
            with suppress(ServerError):
                server.command(f"KILL QUERY ON CLUSTER {quote(server.cluster)} WHERE {mine} ASYNC")
        found = max(found, len(alive))
        if time.monotonic() > until:
            raise StillRunningError(
                f"Queries of earlier attempts are still running on other servers ({len(alive)}): "
                + ", ".join(f"{query} on {host}" for query, host in alive[:3]),
                remedy=Advice("there, run: {}", Sql(f"KILL QUERY WHERE {mine} SYNC")),
            )
        time.sleep(0.2)
    return found


def _elsewhere(server: ClickHouse, mine: str) -> list[tuple[str, str]]:
    """
    Return the id and the host of each query that meets the condition *mine* on a reachable server of the cluster.

    The result is empty if this server has no cluster, or if a server refuses the question.
    """
    try:
        if not server.cluster:
            return []
        found = server.rows(
            f"SELECT DISTINCT query_id, hostName() FROM {server.cluster_processes} WHERE {mine}",
            {"skip_unavailable_shards": 1},
        )
    except StatementRefusedError:
        # This user may lack the right REMOTE, or the user in the cluster's definition may lack rights. Then only this
        # server can be asked; doctor reports the missing rights.
        return []
    return [(query, host) for query, host in found]


def leftover_tables(server: ClickHouse, plan_id: str, target: TableFacts) -> list[TableName]:
    """
    Return a plan's staging tables, sealed tables and fences for *target*, sorted.

    On replicas, include tables that exist only on other replicas or in Keeper.
    """
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
    """Return the table called *name*: fences are in the target's database, other tables in the staging database."""
    leftover = read_name(name)
    is_fence = leftover is not None and leftover.kind is LeftoverKind.FENCE
    return TableName(target.storage.database if is_fence else target.beside, name)


def batches(tables: Sequence[TableName]) -> Iterator[Sequence[TableName]]:
    """Yield *tables* in groups of at most 50, for one DROP statement each."""
    for start in range(0, len(tables), _DROPPED_AT_ONCE):
        yield tables[start : start + _DROPPED_AT_ONCE]


def drop_tables(
    server: ClickHouse, tables: Sequence[TableName], replicas: Replicas | None = None, *, wait: bool = True
) -> None:
    """
    Drop tables, if they exist, on this server.

    With *replicas*, drop the tables on all replicas, and remove the entries of dead replicas from Keeper.

    Args:
        wait: Whether to wait until the tables' files are removed. Otherwise, ClickHouse removes the files later, by
            default after eight minutes; the names are free immediately. With *replicas*, the statement always waits.
    """
    for batch in batches(tables):
        if replicas is not None:
            drop_for_good(server, replicas, batch)
            continue
        names = ", ".join(map(quote_table, batch))
        server.command(f"DROP TABLE IF EXISTS {names}{' SYNC' if wait else ''}", {"max_table_size_to_drop": 0})


def drop_part(server: ClickHouse, table: TableName, name: str) -> None:
    """Drop a part; ignore a part that no longer exists."""
    try:
        server.command(
            f"ALTER TABLE {quote_table(table)} DROP PART {literal(name)}", {"max_partition_size_to_drop": "0"}
        )
    except StatementRefusedError as error:
        # The part was just moved by an attempt that has lost its claim, or was merged, or was dropped by another chunk.
        if error.name != "NO_SUCH_DATA_PART":
            raise


def drop_leftovers(server: ClickHouse, plan_id: str, target: TableFacts) -> None:
    """
    Drop a plan's staging tables, sealed tables and fences, but not its backup.

    Call this function only when no attempt needs these tables any more.
    """
    drop_tables(server, leftover_tables(server, plan_id, target), target.replicas)
