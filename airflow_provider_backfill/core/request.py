"""Define the parsed request of a user, from which a plan is made. This module is pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from .chunking import Chunking
from .plan import RowProof, WriteMode
from .tables import TableName


class TableFilter(NamedTuple):
    """A table that the window applies to; *column* is None if the time column is to be detected."""

    table: TableName
    column: str | None = None


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """
    The parsed request of a user: the window ``[start, end)`` in UTC and the origin of the rows.

    Attributes:
        start: The start of the window; None to take the first time in the source.
        end: The end of the window, excluded; None to end the window after the last time in the source.
        time_column: The column of the source that the window applies to; None if the column is to be detected.
        source: The table to copy; its columns are matched with the target's columns by name.
        select: The SELECT whose rows are inserted. Without *source* and *select*, the views that feed the target are
            replayed.
        formats: The strftime formats of the chunk's start, by the name of a parameter of *select*.
        filter_tables: The tables of *select* that the window applies to; needed if the choice is ambiguous.
        whole_tables: The tables of *select* that every chunk reads whole.
        settings: ClickHouse settings for the statements that read the source and fill the target.
        time_unit: The unit of integer times: ``s``, ``ms``, ``us`` or ``ns``; empty if the user gives no unit.
        accept_partial_groups: The reason to accept groups that chunks cut; empty to refuse such groups.
        row_proof: The evidence that staged rows need before their publication.
        trial: Whether to compare a few chunks with their union before the plan is stored.
        chunking: The rule by which the window is cut.
        one_shard: Whether to fill only this server's local table with the rows of all shards, although other shards
            have that table too.
        reason: The reason for the backfill, for people.
        owner: The person or team responsible, for people.
        staging_database: The database for staging tables; empty for the target's database.
        cluster: The cluster on whose shards the target is a local table; empty for one server, or for the cluster of a
            Distributed target.
        shard_urls: The HTTP interfaces of replicas by shard number, if the names in ``system.clusters`` cannot be
            reached.
        auto_chunks: Whether to replace *chunking* by a rule that suits the data: the target's partitions in mode
            ``replace``, otherwise a length that the number of source rows decides.
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
