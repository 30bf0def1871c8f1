"""What the user asked for, parsed: what a plan is made from. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .chunking import Chunking
from .plan import RowProof, WriteMode
from .tables import TableName


class TableFilter(NamedTuple):
    """A table that the window is to apply to; *column* is None when its time column is to be found."""

    table: TableName
    column: str | None = None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """
    What the user asked for, parsed: the window ``[start, end)`` in UTC and where the rows come from.

    Attributes:
        source: Copy this table, matched by column names.
        select: Or insert the rows of this SELECT; with neither, the views that feed the target are replayed.
        formats: By the name of a parameter of *select*, the format of strftime that makes it the chunk's start.
        filter_tables: The tables of *select* that the window applies to, when others could be meant.
        whole_tables: The tables of *select* that every chunk is to read whole.
        settings: ClickHouse settings for the statements that read the source and fill.
        time_unit: ``s``, ``ms``, ``us`` or ``ns`` when the time column is an integer epoch.
        accept_partial_groups: Why parts of groups that chunks cut are fine; empty when they are not.
        row_proof: What staged rows are compared with before they are published.
        trial: Try on a few chunks whether they add up.
        chunking: How the window is cut.
        one_shard: Fill this server's local table with the rows of all shards, although other shards have that table.
        reason: Why the backfill is made, for people.
        owner: Who answers for it, for people.
        staging_database: Where staging tables are made; empty for the target's database.
        cluster: The cluster on whose shards the target is a local table; empty for one server, or what a Distributed
            target says.
        shard_urls: By the number of a shard, the HTTP interfaces of its replicas, where the cluster's names do not do.
        auto_chunks: Let the target's partitions (in ``replace``) or the source's rows decide; *chunking* comes first.
    """

    target: TableName
    start: datetime | None
    end: datetime | None
    chunking: Chunking
    auto_chunks: bool = False
    time_column: str | None = None
    time_unit: str = ""
    source: TableName | None = None
    select: str | None = None
    formats: tuple[tuple[str, str], ...] = ()
    filter_tables: tuple[TableFilter, ...] = ()
    whole_tables: tuple[TableName, ...] = ()
    settings: Mapping[str, str] = field(default_factory=dict)
    write_mode: WriteMode | None = None
    accept_at_least_once: bool = False
    keep_outside: bool = False
    backup: bool = False
    row_proof: RowProof = RowProof.WRITTEN
    allow_existing_rows: bool = False
    accept_partial_groups: str = ""
    trial: bool = True
    force_large_window: bool = False
    force: bool = False
    one_shard: bool = False
    staging_database: str = ""
    cluster: str = ""
    shard_urls: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    reason: str = ""
    owner: str = ""
