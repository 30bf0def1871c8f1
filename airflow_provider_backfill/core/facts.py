"""
Define facts about servers and tables, as values.

The ``clickhouse`` package collects the facts; the planner and the rules judge them. This module is pure.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from ..errors import Command
from .query_tree import Node
from .tables import TableName, TimeKind


class Column(NamedTuple):
    """
    A column as the server describes it.

    Attributes:
        default_kind: Empty, DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL.
        in_key: Whether the table's sorting key or partition key uses the column.
        default: The expression of a DEFAULT or MATERIALIZED column; otherwise empty.
    """

    name: str
    type: str
    default_kind: str = ""
    in_key: bool = False
    default: str = ""

    @property
    def insertable(self) -> bool:
        """Whether an INSERT may name the column."""
        return self.default_kind not in ("MATERIALIZED", "ALIAS")


_SORTED = re.compile(r"\b(?:ORDER BY|PRIMARY KEY)\b")
_TEXT = r"'(?:[^'\\]|\\.)*'"
REPLICATED_ENGINE = re.compile(rf"^(Replicated\w*MergeTree\()({_TEXT}), ({_TEXT})(, )?")
"""A pattern for the beginning of a replicated table's engine clause: engine, path in Keeper, name of the replica."""


class Replicas(NamedTuple):
    """
    A table's replication, as the connected server sees it.

    Attributes:
        keeper: The name of the table's Keeper; usually ``default``.
        path: The table's path in Keeper.
        replica: The name of the replica on the connected server.
        active: The names of the live replicas.
        total: The number of replicas.
        cluster: The smallest cluster that has all replicas, or all live replicas if no cluster has all. Empty if there
            is no such cluster, if there is only one replica, or if *by_database* is set.
        by_database: Whether the table's database creates every table on all replicas.
        beside: The prefix of the Keeper paths of the product's tables for this target; empty if *by_database* is set.
            If the macros in the table's engine clause lead to *path*, macros such as ``{shard}`` stay unexpanded, so
            that servers of other shards do not join these tables. Otherwise, the prefix is *path*.
        name: The replica name in the engine clauses of the product's tables, in quotes; empty if *by_database* is set.
    """

    keeper: str
    path: str
    replica: str
    active: tuple[str, ...]
    total: int
    cluster: str
    by_database: bool
    beside: str
    name: str

    @property
    def reaches_all(self) -> bool:
        """Whether a table in the same database can be created on all replicas, or at least on all live replicas."""
        return self.by_database or bool(self.cluster) or self.total == 1

    def arguments(self, table: str) -> str:
        """Return the engine's arguments, path and replica, for a product table; empty if the database assigns them."""
        return "" if self.by_database else f"'{self.beside}_{table}', {self.name}"

    def engine(self, engine: str, table: str) -> str:
        """
        Return the engine clause *engine* with the Keeper path and replica name of the product's table *table*.

        The clause has neither if the database assigns both. A clause of an unreplicated engine is returned unchanged.
        """

        def replace(match: re.Match[str]) -> str:
            arguments = self.arguments(table)
            return match[1] + arguments + (match[4] or "" if arguments else "")

        return REPLICATED_ENGINE.sub(replace, engine)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """
    The facts about a table.

    Attributes:
        storage: The table that holds the rows: the inner table of a materialized view without ``TO``, if the user may
            see the inner table; otherwise the table itself.
        engine_full: The complete engine clause of the storage, including keys and settings.
        rows: Rows in the storage; None if unknown.
        views: The materialized views that fire when rows are inserted into the table.
        replicas: The replication of the storage; None if the storage is not replicated.
        allowances: MergeTree settings for a copy of the storage. With them, the server accepts an old definition that
            it would refuse today.
        staging_database: The database for staging tables; empty for the storage's own database.
        database_engine: The engine of the database for staging tables.
        apart: In a Replicated database, an identity of the table's rows: the path in Keeper if the table is replicated,
            otherwise the server's id. Tables of the same name on servers with other rows have a different identity.
            Empty in other databases, and for tables of ClickHouse Cloud.
        alters_others: Whether a Replicated database also executes an ALTER of this table on servers that have other
            rows. True, too, if the connected server does not know the servers of the database.
        definition: The storage's CREATE statement, as the server shows it.
        uuid: The storage's UUID; empty if its database gives none.
    """

    name: TableName
    storage: TableName
    engine: str
    columns: tuple[Column, ...]
    partition_key: str
    sorting_key: str
    engine_full: str
    rows: int | None
    views: tuple[TableName, ...] = ()
    replicas: Replicas | None = None
    allowances: Mapping[str, int | str] = field(default_factory=dict)
    staging_database: str = ""
    database_engine: str = ""
    apart: str = ""
    alters_others: bool = False
    definition: str = ""
    uuid: str = ""

    @property
    def identity(self) -> str:
        """
        The identity of the storage, which the storage keeps when it gets another name; empty if there is none.

        All replicas share the identity: the name of Keeper and the table's path there. Otherwise, it is the UUID.
        """
        return self.uuid if self.replicas is None else f"{self.replicas.keeper}:{self.replicas.path}"

    @property
    def beside(self) -> str:
        """The database of staging tables. (Fence tables, which announce a run, are in the storage's own database.)"""
        return self.staging_database or self.storage.database

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases that may hold staging or fence tables for this table."""
        return tuple(dict.fromkeys((self.storage.database, self.beside)))

    @property
    def renames(self) -> bool:
        """Whether the database of staging tables can rename tables; if so, a rename can be the seal."""
        return self.database_engine != "Memory"

    @property
    def old_syntax(self) -> bool:
        """Whether the table uses the old syntax ``MergeTree(date, key, 8192)``; its copies cannot have settings."""
        return self.engine.endswith("MergeTree") and not _SORTED.search(self.engine_full)

    def column(self, name: str) -> Column | None:
        """Return the column called *name*; None if there is none."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class ViewFacts:
    """A materialized view that writes to the target; *sources* are the tables whose inserts fire the view."""

    name: TableName
    select: str
    sources: tuple[TableName, ...]
    refreshable: bool


@dataclass(frozen=True, slots=True)
class SelectFacts:
    """
    The server's description of a SELECT.

    Attributes:
        columns: The result columns of the SELECT.
        unstable: Functions of the SELECT whose result may change between executions, such as ``now`` and ``any``.
    """

    columns: tuple[Column, ...]
    unstable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuerySource:
    """
    A table, view or table function that a query tree names, or a table behind such a source.

    Attributes:
        tree: The query tree of a view's SELECT; None for other sources, and for views that are opaque or have a time
            filter.
        opaque: Whether the source is a view with an unknown SELECT; the SELECT may read a table with a time filter.
        holds_target: Whether the source may return rows of the target.
    """

    name: TableName
    engine: str
    tree: Node | None = None
    opaque: bool = False
    holds_target: bool = False


class TimeColumn(NamedTuple):
    """The time column of a filtered table; *kind* is the way in which the values of the column store an instant."""

    name: str
    type: str
    kind: TimeKind


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """
    The reads of the filtered tables in the server's plan for a SELECT under a time filter.

    A SELECT that limits itself by query parameters has no filtered tables. For such a SELECT, all reads of the query
    plan count as filtered, and none as pruned.

    Attributes:
        reads: How often the query plan reads the filtered tables.
        filtered: How many of these reads carry the filter; 0 if one of the filtered tables has no such read.
        pruned: Whether each read uses the filter in an index: the partition key, the primary key or a min-max index.
        row_wise: Whether each result row depends on one source row only.
        tables: The tables whose parts are read, as ``database.table``; the SELECT may name views or Distributed tables
            instead.
        tree: The query tree of the SELECT.
        sources: The sources in the query tree, by their name in the tree.
        times: The time column of each filtered table.
        unsent: The names, joined by ``and``, of other database systems to which ClickHouse does not send the filter,
            such as MySQL; empty if there are none.
    """

    reads: int
    filtered: int
    pruned: bool
    row_wise: bool
    tables: frozenset[str] = frozenset()
    tree: Node = field(default_factory=lambda: Node("QUERY", 0))
    sources: Mapping[str, QuerySource] = field(default_factory=dict)
    times: Mapping[TableName, TimeColumn] = field(default_factory=dict)
    unsent: str = ""


class PartsFacts(NamedTuple):
    """
    The parts of a table, and the numbers of parts at which the server slows down or refuses inserts.

    Attributes:
        partition: Id of the partition with the most parts.
        parts: Active parts in this partition.
        delay: ``parts_to_delay_insert``: the number of parts in a partition at which the server slows down inserts.
        throw: ``parts_to_throw_insert``: the number of parts in a partition at which the server refuses inserts.
        total: Active parts in the whole table.
        total_limit: ``max_parts_in_total``: the number of parts in the table at which the server refuses inserts.
        largest: Bytes on disk of the largest partition.
    """

    table: TableName
    partition: str
    parts: int
    delay: int
    throw: int
    total: int
    total_limit: int
    largest: int


class MutationFacts(NamedTuple):
    """An unfinished mutation; *error* is the first line of its last failure, or empty."""

    table: TableName
    id: str
    command: str
    parts_to_do: int
    error: str


class ReplicaFacts(NamedTuple):
    """
    One replica of a table, on any server of the cluster.

    Attributes:
        delay: ClickHouse's ``absolute_delay``, in seconds.
        queue: Number of entries in the replication queue, without merges and mutations.
        waits: Seconds that the oldest entry, including merges and mutations, has waited; 0 for an empty queue.
        behind: Number of entries in Keeper's log that the replica has not yet copied to its queue.
        dead: The names of the replicas without a session with Keeper, as this replica sees them.
    """

    table: TableName
    name: str
    readonly: bool
    expired: bool
    delay: int
    queue: int
    waits: int
    behind: int
    dead: tuple[str, ...]
    total: int
    error: str


class DatabaseReplicaFacts(NamedTuple):
    """
    A replica of a Replicated database that has not executed every statement of the database's queue.

    Attributes:
        behind: The number of statements that the replica has not executed.
        waits: Seconds since the first of them was queued.
    """

    database: str
    name: str
    behind: int
    waits: int


class QueueFacts(NamedTuple):
    """The files of a Distributed table that wait to be sent to the shards."""

    table: TableName
    files: int
    blocked: bool
    error: str


class SpreadFacts(NamedTuple):
    """
    A Distributed table over a target, on a cluster with other shards.

    Attributes:
        here: The number of the connected server's shard; the smallest number if the server is in several shards.
        others: The numbers of the shards without the connected server.
    """

    table: TableName
    cluster: str
    here: int
    others: tuple[int, ...]


class DiskFacts(NamedTuple):
    """A disk of the target's storage policy; *free* counts bytes that are neither used, nor reserved, nor kept free."""

    name: str
    free: int


class StagingFacts(NamedTuple):
    """
    A table of the product, other than a backup.

    Attributes:
        rows: Rows in the table; None if unknown.
        age: Seconds since the last change of the table's metadata; None if the table exists only in Keeper.
        cluster: The cluster on which the table is to be dropped; empty for the connected server.
        lost: For a table that exists only in Keeper, its path in Keeper and the names of its replicas; otherwise an
            empty text and an empty tuple.
    """

    table: TableName
    plan_id: str
    rows: int | None
    age: int | None
    cluster: str = ""
    lost: tuple[str, tuple[str, ...]] = ("", ())


class QueryFacts(NamedTuple):
    """
    A running query of the product.

    Attributes:
        seconds: Seconds since the query started.
        cluster: The cluster on which the query runs; empty for a query on the connected server.
    """

    query_id: str
    plan_id: str
    chunk_id: str
    attempt: int
    user: str
    seconds: float
    cluster: str = ""


class ConstrainedSetting(NamedTuple):
    """
    A setting that the product needs and this user may not change to the needed value.

    Attributes:
        wanted: The needed value; ``a text`` if the needed text differs between statements.
        value: The present value.
        reason: The end of a sentence about the setting, such as ``and may not be changed``.
    """

    name: str
    wanted: str
    value: str
    reason: str


class MissingGrant(NamedTuple):
    """
    A right that the user lacks.

    Attributes:
        right: The name of the right, such as ``SELECT``.
        on: The object of the right: ``db.table``, ``db.*``, ``*.*`` or a table engine.
    """

    right: str
    on: str


class TtlFacts(NamedTuple):
    """
    A TTL of the target that deletes or rolls up rows, or resets a column.

    Attributes:
        until: The instant before which rows in the plan's window have expired; None if no row in the window has
            expired. The instant is rounded up, by about 1/1000 of the window at most.
        column: The column that the TTL resets; empty for a TTL of rows.
    """

    expression: str
    until: datetime | None
    column: str = ""


class PolicyFacts(NamedTuple):
    """A row policy that hides rows of *table* from this user; *condition* is the policy's text from the query plan."""

    table: TableName
    condition: str


class EpochFacts(NamedTuple):
    """
    An integer time column whose declared unit seems wrong.

    Attributes:
        value: The largest value in a sample of the column.
        declared: The unit that the plan uses.
        fitting: The unit in which *value*, as a time since 1970, is between half and twice the current time.
    """

    table: TableName
    column: str
    value: int
    declared: str
    fitting: str


class Nondeterminism(NamedTuple):
    """The reasons why a statement may return different rows when the statement runs again."""

    statement: str
    functions: tuple[str, ...]
    unordered: str
    """The clause (such as ``LIMIT BY``) that picks rows without a sort; empty if there is none."""


class CutoverFacts(NamedTuple):
    """
    Facts that show whether a plan's window also receives live rows.

    Attributes:
        now: The server's time.
        rows: Number of the target's rows in the window; number of all rows if the target has no time column.
        first: The earliest time of these rows; None if there are no rows or no time column.
        fed_by: The views that write to the target on each insert into their source.
    """

    now: datetime
    rows: int
    first: datetime | None
    fed_by: tuple[TableName, ...]


class Misalignment(NamedTuple):
    """
    The reason why the plan's chunk bounds do not fit the current tables.

    Attributes:
        proposal: A command that plans fitting bounds; None if no such bounds are known.
    """

    message: str
    proposal: Command | None


class StatementScan(NamedTuple):
    """
    The reads of a statement's filtered tables in the server's query plan, or the server's refusal of the statement.

    Attributes:
        facts: The reads; None if the server refused the statement.
        error: The error with which the server refused the statement; otherwise empty.
    """

    statement: str
    source: TableName
    facts: ScanFacts | None
    error: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    The numbers of source rows in the chunks of a plan, counted or estimated.

    Attributes:
        chunks: Number of chunks of the plan.
        looked_at: Number of chunks whose rows were counted or estimated; fewer than *chunks* for a sample.
        filled: Number of these chunks that have rows.
        smallest: The smallest number of rows in a filled chunk. Like *median* and *largest*, 0 without filled chunks.
        exact: Whether all rows were counted, and none estimated from the index.
        bytes_per_row: Bytes on disk per source row; None if unknown.
    """

    chunks: int
    looked_at: int
    filled: int
    smallest: int
    median: int
    largest: int
    exact: bool
    bytes_per_row: float | None

    @property
    def rows(self) -> int:
        """The approximate number of rows in the whole window."""
        return round(self.median * self.filled * self.chunks / max(self.looked_at, 1))


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """
    The facts of a server, for one plan or for one target.

    Attributes:
        address: The address of the server.
        version: The server's version, such as ``(26, 7, 2, 1)``.
        user: The connected user.
        target: The target's name; None if no table was inspected.
        storage: The table that holds the target's rows; None if the target does not exist or was not inspected.
        engine: The engine of *storage*.
        views_fired: Views that an INSERT into the target fires.
        view_targets: The table to which a view writes, by view, for *views_fired* without an inner table.
        views_refreshed: Refreshable views that replace the target's rows on a schedule. Appending and disabled views
            are left out.
        known_plans: Ids of all plans in this state folder.
        partitions_per_chunk: Number of the target's partitions to which the plan's middle chunk writes, for the
            statement with the most partitions. A count that takes too long gives a lower bound. None if unknown or if
            the target has no partition key.
        partitions_limit: ``max_partitions_per_insert_block`` of this user; 0 if there is no limit, or if it is unknown.
        drop_limit: ``max_partition_size_to_drop`` of the server in bytes; 0 if there is no limit, None if unknown.
        drop_limit_tied: Whether this user may not lift *drop_limit* for a query.
        token_window: ``non_replicated_deduplication_window`` of the target; None if unknown, or if the target is not
            of the MergeTree family or is replicated.
        proposed_hours: A chunk length that suits the estimate and fits the tables; None if none was found.
        unseen: A text for each check that could not be made: the subject, a colon and the reason.
        balanced: Whether different servers answer at the address.
        target_replicas: The target's replication; None if the target is not replicated.
        quorum: The number of replicas that the user's ``insert_quorum`` requires for the target; 0 if there is none.
    """

    address: str = ""
    version: tuple[int, ...] = ()
    user: str = ""
    target: TableName | None = None
    storage: TableName | None = None
    engine: str = ""
    views_fired: tuple[TableName, ...] = ()
    view_targets: Mapping[TableName, TableName] = field(default_factory=dict)
    views_refreshed: tuple[TableName, ...] = ()
    scans: tuple[StatementScan, ...] = ()
    traits: tuple[Nondeterminism, ...] = ()
    missing_sources: tuple[TableName, ...] = ()
    misfit: Misalignment | None = None
    seam: CutoverFacts | None = None
    epochs: tuple[EpochFacts, ...] = ()
    policies: tuple[PolicyFacts, ...] = ()
    ttls: tuple[TtlFacts, ...] = ()
    parts: tuple[PartsFacts, ...] = ()
    mutations: tuple[MutationFacts, ...] = ()
    replicas: tuple[ReplicaFacts, ...] = ()
    balanced: bool = False
    target_replicas: Replicas | None = None
    quorum: int = 0
    database_replicas: tuple[DatabaseReplicaFacts, ...] = ()
    queues: tuple[QueueFacts, ...] = ()
    spreads: tuple[SpreadFacts, ...] = ()
    disks: tuple[DiskFacts, ...] = ()
    grants: tuple[MissingGrant, ...] = ()
    settings: tuple[ConstrainedSetting, ...] = ()
    staging: tuple[StagingFacts, ...] = ()
    queries: tuple[QueryFacts, ...] = ()
    known_plans: frozenset[str] = field(default=frozenset())
    partitions_per_chunk: int | None = None
    partitions_limit: int = 0
    drop_limit: int | None = None
    drop_limit_tied: bool = False
    token_window: int | None = None
    estimate: Estimate | None = None
    proposed_hours: float | None = None
    unseen: tuple[str, ...] = ()
