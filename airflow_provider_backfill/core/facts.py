"""
What was seen of a server, its tables and a source's rows, as plain values for the rules to judge.

Everything has a default that means "nothing of it was seen", so a rule never guesses: what
could not be looked at stands in :attr:`ServerFacts.unseen`.
Pure: standard library only.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .model import ScanFacts, TableName


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
    """A mutation that is not done; *error* is what its last try failed with, empty when none has."""

    table: TableName
    id: str
    command: str
    parts_to_do: int
    error: str


class ReplicaFacts(NamedTuple):
    """The replica of a table on this server; *delay* in seconds, *behind* in entries of the log not yet taken."""

    table: TableName
    readonly: bool
    expired: bool
    delay: int
    queue: int
    behind: int
    active: int
    total: int
    error: str


class QueueFacts(NamedTuple):
    """Files of a Distributed table that its shards have not got yet."""

    table: TableName
    files: int
    blocked: bool
    error: str


class DiskFacts(NamedTuple):
    """A disk of the target's storage policy; *free* leaves out what is reserved or must stay free. In bytes."""

    name: str
    free: int
    total: int


class StagingFacts(NamedTuple):
    """A staging or sealed table of ours; *age* in seconds since its last change, *rows* None when not known."""

    table: TableName
    plan_id: str
    rows: int | None
    age: int


class QueryFacts(NamedTuple):
    """A query of ours that runs now, on another server of *cluster* when that is given; *seconds* since it began."""

    query_id: str
    plan_id: str
    chunk_id: str
    attempt: int
    user: str
    seconds: float
    cluster: str = ""


class SettingFacts(NamedTuple):
    """A setting that we send and that this user may not set so."""

    name: str
    wanted: str
    value: str
    reason: str


class GrantFacts(NamedTuple):
    """A right that the user lacks: ``SELECT`` on ``db.table``, ``db.*``."""

    right: str
    on: str


class TtlFacts(NamedTuple):
    """A TTL of the target that deletes rows; those of the window before *until* are past it now."""

    expression: str
    until: datetime | None


class PolicyFacts(NamedTuple):
    """A row policy that hides rows of *table* from this user, with the condition as the server shows it."""

    table: TableName
    condition: str


class EpochFacts(NamedTuple):
    """An integer time column: a value it holds, the unit it was declared in, and the unit that gives a date of now."""

    table: TableName
    column: str
    value: int
    declared: str
    fitting: str


class SelectTraits(NamedTuple):
    """What makes a statement give other rows when it is asked again."""

    statement: str
    functions: tuple[str, ...]
    unordered: str
    """``LIMIT BY`` or the like that no sort stands under; empty when there is none."""


class SeamFacts(NamedTuple):
    """
    Where a plan's window meets rows that come in by themselves.

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


class Misfit(NamedTuple):
    """Why the plan's chunk bounds do not fit the tables as they are now, and what to pass instead."""

    message: str
    proposal: str


class Scan(NamedTuple):
    """How the server reads the source of a statement; *error* when it does not accept the statement any more."""

    statement: str
    source: str
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


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """
    What a look at a server gave, for one plan or for one target.

    Attributes:
        address: Where it is.
        version: Its version, such as ``(26, 7, 2, 1)``.
        user: Who asks.
        target: The target's name, as the plan has it.
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
    """

    address: str = ""
    version: tuple[int, ...] = ()
    user: str = ""
    embedded: bool = False
    target: str = ""
    storage: TableName | None = None
    engine: str = ""
    views_fired: tuple[TableName, ...] = ()
    view_targets: Mapping[TableName, TableName] = field(default_factory=dict)
    views_refreshed: tuple[TableName, ...] = ()
    scans: tuple[Scan, ...] = ()
    traits: tuple[SelectTraits, ...] = ()
    missing_sources: tuple[str, ...] = ()
    misfit: Misfit | None = None
    seam: SeamFacts | None = None
    epochs: tuple[EpochFacts, ...] = ()
    policies: tuple[PolicyFacts, ...] = ()
    ttls: tuple[TtlFacts, ...] = ()
    parts: tuple[PartsFacts, ...] = ()
    mutations: tuple[MutationFacts, ...] = ()
    replicas: tuple[ReplicaFacts, ...] = ()
    queues: tuple[QueueFacts, ...] = ()
    disks: tuple[DiskFacts, ...] = ()
    grants: tuple[GrantFacts, ...] = ()
    settings: tuple[SettingFacts, ...] = ()
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
