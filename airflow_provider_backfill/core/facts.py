"""
Everything that is asked of a server, as values.

Pure: filled by the clickhouse package, judged by the planner and the rules.
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
        in_key: Whether the table's sorting key or partition key is made of it.
        default: The expression of a DEFAULT or MATERIALIZED column; empty without one.
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
"""How the engine clause of a replicated table begins: path in Keeper, name of the replica."""


class Replicas(NamedTuple):
    """
    A table's replication, as the connected server sees it.

    Attributes:
        keeper: The name of its Keeper; ``default`` as a rule.
        path: Its path there.
        replica: The name of the replica on the server that was asked.
        active: The names of the replicas that are alive.
        total: How many replicas there are.
        cluster: The cluster that reaches all of them; empty when there is none, or one replica only.
        by_database: Whether its database makes every table on all replicas.
        beside: What the paths of tables begin with that are made beside it. Macros such as ``{shard}`` stay: the
            cluster may have other shards, whose servers are not to join this one's tables.
        name: The text that gives each replica of such a table its name.
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
        """Whether a table in the same database can be created on all replicas."""
        return self.by_database or bool(self.cluster) or self.total == 1

    def arguments(self, table: str) -> str:
        """Return path and replica name of a table beside this one; empty where the database assigns them."""
        return "" if self.by_database else f"'{self.beside}_{table}', {self.name}"

    def engine(self, engine: str, table: str) -> str:
        """Return the table's engine clause *engine* for a table beside it, with its own path in Keeper."""

        def replace(match: re.Match[str]) -> str:
            arguments = self.arguments(table)
            return match[1] + arguments + (match[4] or "" if arguments else "")

        return REPLICATED_ENGINE.sub(replace, engine)


@dataclass(frozen=True, slots=True)
class TableFacts:
    """
    The facts about a table.

    Attributes:
        storage: The table that holds the rows: the inner table of a materialized view without
            ``TO``, else the table itself.
        engine_full: The storage's whole engine clause, keys and settings included.
        rows: Rows in the table, None when the server does not know.
        views: The materialized views that fire when rows are inserted into it.
        replicas: How the storage is replicated; None when it is not.
        allowances: Settings of a MergeTree that let a table like the storage be made, where the server would refuse
            what it has from an older version or another configuration.
        staging_database: Where staging tables are made; empty for the storage's own database.
        database_engine: The engine of the database where staging tables are made.
        definition: The statement that makes the storage, as the server shows it.
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
    definition: str = ""

    @property
    def beside(self) -> str:
        """The database of staging tables; the announcement of a run is in the storage's own database."""
        return self.staging_database or self.storage.database

    @property
    def databases(self) -> tuple[str, ...]:
        """The databases where tables of a backfill of it may be."""
        return tuple(dict.fromkeys((self.storage.database, self.beside)))

    @property
    def renames(self) -> bool:
        """Whether staging tables can be renamed."""
        return self.database_engine != "Memory"

    @property
    def old_syntax(self) -> bool:
        """Whether it was made as ``MergeTree(date, key, 8192)``, of which no copy can have settings."""
        return self.engine.endswith("MergeTree") and not _SORTED.search(self.engine_full)

    def column(self, name: str) -> Column | None:
        """Return the column called *name*, or None."""
        return next((column for column in self.columns if column.name == name), None)


@dataclass(frozen=True, slots=True)
class ViewFacts:
    """A materialized view that writes to the target; *sources* are the tables whose inserts fire it."""

    name: TableName
    select: str
    sources: tuple[TableName, ...]
    refreshable: bool


@dataclass(frozen=True, slots=True)
class SelectFacts:
    """
    The server's description of a SELECT.

    Attributes:
        columns: Its result columns.
        unstable: Functions in it that give another result each time, such as ``now``.
    """

    columns: tuple[Column, ...]
    unstable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class QuerySource:
    """
    A table, view or other thing that a query tree names.

    Attributes:
        tree: Its own SELECT where it is a view that is looked into.
        opaque: Whether it cannot be looked into, though the filtered table may lie behind it.
        holds_target: Whether its rows are the target's.
    """

    name: TableName
    engine: str
    tree: Node | None = None
    opaque: bool = False
    holds_target: bool = False


class TimeColumn(NamedTuple):
    """A filtered table's time column, its type, and how it stores an instant."""

    name: str
    type: str
    kind: TimeKind


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """
    How the server would read the source for a SELECT under a time filter.

    Attributes:
        reads: How often the plan reads the source.
        filtered: How many of these reads carry the filter.
        pruned: Whether the filter is used by an index (partition, min-max or primary key) on each read.
        row_wise: Whether each result row comes from one source row by itself.
        tables: The tables whose parts are read, wherever the SELECT names something else, as ``database.table``.
        tree: The SELECT as the server understands it.
        sources: What that tree names, by the name it shows.
        times: The time column of each filtered table.
    """

    reads: int
    filtered: int
    pruned: bool
    row_wise: bool
    tables: frozenset[str] = frozenset()
    tree: Node = field(default_factory=lambda: Node("QUERY", 0))
    sources: Mapping[str, QuerySource] = field(default_factory=dict)
    times: Mapping[TableName, TimeColumn] = field(default_factory=dict)


class PartsFacts(NamedTuple):
    """
    The parts of a table, and where its server begins to slow down and to refuse inserts.

    Attributes:
        partition: Id of the partition with the most parts.
        parts: Active parts in it.
        delay: From so many on, inserts are slowed down.
        throw: From so many on, inserts are refused.
        total: Active parts in the whole table.
        total_limit: From so many on, inserts are refused.
        largest: Bytes of the largest partition.
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
    """An unfinished mutation; *error* is the error of its last failed try, or empty."""

    table: TableName
    id: str
    command: str
    parts_to_do: int
    error: str


class ReplicaFacts(NamedTuple):
    """
    One replica of a table, on whichever server of the cluster it is.

    Attributes:
        delay: Seconds, as ClickHouse reckons them.
        queue: Entries of its queue that bring or take parts; merges are not among them.
        waits: For how many seconds the oldest entry of the queue has waited.
        behind: Entries of Keeper's log that it has not taken into its queue yet.
        dead: The replicas of the table that have no session with Keeper, as this one sees them.
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


class QueueFacts(NamedTuple):
    """Files of a Distributed table that its shards have not got yet."""

    table: TableName
    files: int
    blocked: bool
    error: str


class SpreadFacts(NamedTuple):
    """A Distributed table over a target: its cluster, the shard of the server that was asked, and the other shards."""

    table: TableName
    cluster: str
    here: int
    others: tuple[int, ...]


class DiskFacts(NamedTuple):
    """A disk of the target's storage policy; *free* leaves out what is reserved or must stay free. In bytes."""

    name: str
    free: int


class StagingFacts(NamedTuple):
    """
    A table of ours that is no backup.

    Attributes:
        rows: None when not known.
        age: Seconds since its last change; None where Keeper alone remembers it.
        cluster: Where to drop it; empty for the server that was asked.
        lost: Its path in Keeper, and the replicas that are left there, where no table has it any more.
    """

    table: TableName
    plan_id: str
    rows: int | None
    age: int | None
    cluster: str = ""
    lost: tuple[str, tuple[str, ...]] = ("", ())


class QueryFacts(NamedTuple):
    """A running query of the product, on another server of *cluster* when given; *seconds* is its age."""

    query_id: str
    plan_id: str
    chunk_id: str
    attempt: int
    user: str
    seconds: float
    cluster: str = ""


class ConstrainedSetting(NamedTuple):
    """A setting that we send and that this user may not set so."""

    name: str
    wanted: str
    value: str
    reason: str


class MissingGrant(NamedTuple):
    """A right that the user lacks: ``SELECT`` on ``db.table``, ``db.*``."""

    right: str
    on: str


class TtlFacts(NamedTuple):
    """A TTL of the target that deletes rows, or empties a *column*; those of the window before *until* are past it."""

    expression: str
    until: datetime | None
    column: str = ""


class PolicyFacts(NamedTuple):
    """A row policy that hides rows of *table* from this user, with the condition as the server shows it."""

    table: TableName
    condition: str


class EpochFacts(NamedTuple):
    """An integer time column: a value in it, its declared unit, and the unit that makes the value a recent date."""

    table: TableName
    column: str
    value: int
    declared: str
    fitting: str


class Nondeterminism(NamedTuple):
    """Why a statement may return different rows when it runs again."""

    statement: str
    functions: tuple[str, ...]
    unordered: str
    """``LIMIT BY`` or the like that no sort stands under; empty when there is none."""


class CutoverFacts(NamedTuple):
    """
    The part of a plan's window that also receives live rows.

    Attributes:
        now: The server's time.
        rows: How many rows the target holds in the window.
        first: The first instant of these; None without rows or time column.
        fed_by: The views that write to the target whenever rows come into their source.
    """

    now: datetime
    rows: int
    first: datetime | None
    fed_by: tuple[TableName, ...]


class Misalignment(NamedTuple):
    """Why the plan's chunk bounds do not fit the tables as they are now, and what to pass instead."""

    message: str
    proposal: Command | None


class StatementScan(NamedTuple):
    """The server's reads of a statement's source; *error* when the server now refuses the statement."""

    statement: str
    source: TableName
    facts: ScanFacts | None
    error: str


@dataclass(frozen=True, slots=True)
class Estimate:
    """
    Rows that the source holds per chunk of a plan.

    Attributes:
        chunks: Chunks of the plan.
        looked_at: Chunks that were looked at; fewer than *chunks* for a sample.
        filled: How many of these hold rows; smallest, median and largest are among them.
        exact: Counted rather than estimated from the index.
        bytes_per_row: What the source's rows take on disk; None when that is not known.
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
        """About how many there are in the whole window."""
        return round(self.median * self.filled * self.chunks / max(self.looked_at, 1))


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """
    The facts of a server, for one plan or for one target.

    Attributes:
        address: Where it is.
        version: Its version, such as ``(26, 7, 2, 1)``.
        user: Who asks.
        target: The target's name; None where nothing was looked at.
        storage: The table that holds the target's rows; None when there is no such target.
        engine: That table's engine.
        views_fired: Views that an INSERT into the target fires.
        view_targets: The tables that those of them write to which hold no rows themselves.
        views_refreshed: Refreshable views that write to the target on their schedule.
        known_plans: Ids of all plans in this state folder.
        partitions_per_chunk: Partitions that the rows of one chunk fall into; None when not known.
        partitions_limit: ``max_partitions_per_insert_block`` of this user.
        drop_limit: ``max_partition_size_to_drop`` of the server in bytes, 0 for none; None when not known.
        drop_limit_tied: Whether this user may not lift that limit for a query.
        token_window: ``non_replicated_deduplication_window`` of the target; None when it does not apply.
        proposed_hours: A chunk size that suits the estimate and fits the tables; None when none was found.
        unseen: What could not be looked at, and why, one sentence each.
        balanced: Whether different servers were met behind the address.
        target_replicas: How the target is replicated; None when it is not.
        quorum: How many replicas each of the user's inserts into the target must reach; 0 for no such demand.
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
