"""
Define the plan: the immutable description of a backfill, and its chunks.

A :class:`Plan` contains everything that decides which rows are written. This module is pure.
"""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from itertools import chain, starmap
from typing import Literal, NamedTuple

from pydantic import Field

from .chunking import Chunking, decode_bounds, parse_chunking, slices_between
from .ids import chunk_id, idempotency_token, iter_chunks, plan_id
from .instants import from_ms, to_ms
from .model import Instant, Model, Number, OptionalTable, Table
from .names import show_table
from .shares import Dealing, share_of
from .tables import TABLE_FUNCTION, TableName, TimeKind
from .window import Slice, Window


class WriteMode(StrEnum):
    """The way in which a chunk's rows reach the target; the documentation explains the guarantees."""

    STAGE = "stage"
    REPLACE = "replace"
    INSERT = "insert"


class ModeReason(StrEnum):
    """The reason for a plan's write mode."""

    ASKED = "asked"
    """The user asked for the mode."""
    ENGINE = "engine"
    """The mode follows from the target's engine."""


class Chunk(NamedTuple):
    """
    A half-open slice ``[start, end)`` of a plan's window, in UTC.

    Attributes:
        key_range: The condition on the sorting key that selects the chunk's rows; see :mod:`.key_ranges`. Empty if the
            chunk has all rows of its slice.
        shard: The number of the shard that the chunk fills; 0 if the target is one table.
    """

    id: str
    start: datetime
    end: datetime
    key_range: str = ""
    shard: int = 0


class Parameter(Model):
    """
    A query parameter of a SELECT. Its value is a bound of the chunk, or the chunk's start in a format.

    Attributes:
        kind: How a bound stores an instant; None for a parameter with a format.
        format: The strftime format of the chunk's start; empty for a bound.
        scale: Decimal digits of the seconds of a ``DateTime64`` bound; otherwise 0.
    """

    name: str
    kind: TimeKind | None = None
    format: str = ""
    scale: int = 0


class FilteredTable(Model):
    """A table of a SELECT, with the time column on which the window filters every read of the table."""

    table: Table
    column: str
    kind: TimeKind


class Statement(Model):
    """
    One SELECT whose rows go into the target.

    Attributes:
        name: The name of the view or source table, or ``--select``.
        select: The unchanged text of the SELECT.
        source: The table that the time filter applies to; None if query parameters place the window.
        time_kind: How the time column of *source* stores an instant. Without *source*: a date if a bound is a date,
            otherwise a DateTime64.
        columns: The target's columns that the SELECT fills, in the order of the target.
        row_wise: Whether each result row depends on one source row only: no aggregation, join, limit, window function.
        reads: How often the SELECT reads *source*; the time filter applies to each read.
        converted: The columns whose type in the SELECT differs from the type in the target.
        defaulted: The converted columns whose NULLs become the target's default.
        parameters: The query parameters by which the user places the window. A statement with parameters has no
            *source* and no time filter.
        function_type: The type of the time column if *source* is a table function (``_table_function.s3``); otherwise
            empty.
        time_column: The time column of *source*; empty for the plan's time column.
        also_filtered: Further tables with a time filter, each by its own time column.
        settings: The user's ClickHouse settings for reading and filling.
        exact: By column, SQL for the value that an INSERT stores, for converted columns whose values decide a row's
            shard; otherwise empty.
        share: The condition that selects a shard's rows, see :meth:`Plan.on_shard`; empty for all rows. Never stored.
    """

    name: str
    select: str
    source: OptionalTable
    time_kind: TimeKind
    columns: tuple[str, ...]
    row_wise: bool = False
    reads: int = 1
    converted: tuple[str, ...] = ()
    defaulted: tuple[str, ...] = ()
    parameters: tuple[Parameter, ...] = ()
    function_type: str = ""
    time_column: str = ""
    also_filtered: tuple[FilteredTable, ...] = ()
    settings: dict[str, str] = Field(default_factory=dict)
    exact: dict[str, str] = Field(default_factory=dict)
    share: str = Field(default="", exclude=True)

    @property
    def query(self) -> str:
        """The SELECT as sent: the unchanged text or, with *share*, a SELECT of the shard's rows from that text."""
        return share_of(self.select, self.columns, self.exact, self.share) if self.share else self.select

    @property
    def table(self) -> TableName | None:
        """The table with the time filter; None without *source*, and for a table function, which is not a table."""
        return None if self.source is None or self.source.database == TABLE_FUNCTION else self.source

    @property
    def source_text(self) -> str:
        """The source as a person writes it; empty if there is none."""
        return "" if self.source is None else show_table(self.source)

    @property
    def copies_table(self) -> bool:
        """Whether the statement copies its source column by column."""
        return self.source is not None and self.name == str(self.source)


class Proof(StrEnum):
    """The kind of evidence that the chunks of a plan add up."""

    ONE_CHUNK = "one chunk"
    BY_RULE = "by rule"
    BY_TRIAL = "by trial"
    BY_WORD = "by word"
    NOT_SHOWN = "not shown"


class RowProof(StrEnum):
    """The evidence for a chunk's staged rows before they are published."""

    # The parts contain as many rows as the server counted while writing them.
    WRITTEN = "written"
    # The source is read again and content sums are compared, if :attr:`Plan.sums_tell` holds.
    CONTENT = "content"


class AddsUp(Model):
    """
    The evidence that the chunks of a plan add up to the result of its SELECTs over the whole window.

    Attributes:
        steps: One sentence for each step that combines several rows.
        reads: The tables that are read, each with the verdict on the read.
        accepted: The user's reason to accept groups that chunks cut; empty if there is none.
        set_aside: The objections that the reason in *accepted* overrules.
        trial: The comparison that the trial made, or why there was no trial.
        trial_declined: Whether the user declined the trial.
    """

    proof: Proof
    steps: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    accepted: str = ""
    set_aside: tuple[str, ...] = ()
    trial: str = ""
    trial_declined: bool = False


class TimeLabel(Model):
    """An expression of a SELECT over *column*, the time column by which chunks are cut."""

    expression: str
    column: str
    type: str
    kind: TimeKind


class TargetTime(Model):
    """
    The column that gives the time of the target's rows: the source's time, or a value computed from the source's time.

    Attributes:
        label: How the column's values are computed from the time by which chunks are cut, if a value may lie outside
            its row's chunk; otherwise None. Days of another zone and hours named by their end are examples.
    """

    column: str
    kind: TimeKind
    label: TimeLabel | None = None


class Shard(Model):
    """
    One shard of a plan's target.

    Attributes:
        number: The number of the shard in the cluster, starting at 1.
        table: The identity of the target on the shard: its path in Keeper, or its server and UUID.
        urls: The HTTP interfaces of the shard's replicas, without user and password.
        existing_rows: Rows in the window on this shard at planning; None if unknown.
        weight: The shard's number of slots, if slots divide the rows among shards.
    """

    number: int
    table: str
    urls: tuple[str, ...]
    existing_rows: int | None = None
    weight: int = 1


class Plan(Model):
    """
    An immutable description of a backfill: the statements, and the chunks to bind to them.

    Attributes:
        mode_reason: The reason for the write mode: the user's request, or the target's engine.
        engine: The target's engine.
        existing_rows: Rows of the target in the window at planning; None if unknown.
        source_rows: Estimated rows of the sources in the window, before the SELECT's own filters; None if unknown.
        allow_existing_rows: Whether the user accepts rows of other writers in the window.
        verify_caveat: The reason why a difference that ``verify`` finds may be harmless; empty if there is no reason.
        signs_tell: Whether merges never change the sum of a key's signs; a difference of two sums is then an error.
        not_compared: Columns of the target with several correct values; ``verify`` does not compare them.
        nonce: Random text that distinguishes plans with the same id in different state folders.
        target_time: The target's own time column; None if there is none.
        summed_columns: The columns of the content sums in the log; empty for all filled columns.
        keep_outside: Whether rows outside the window survive in partitions that the window covers in part.
        backup: Whether a backup table keeps the rows that ``replace`` overwrites.
        row_proof: The evidence for staged rows before their publication; ``content`` in plans of older versions.
        staging_database: The database for staging tables; empty for the target's database.
        environment: The address of the server at planning.
        connection: The part of the connection at planning that decides what the SELECTs mean; empty for copies.
        target_identity: :attr:`.TableFacts.identity` of the target at planning; empty on a cluster.
        compatibility_token: The hash of :func:`.drift.compatibility_token`; empty in plans of older versions.
        created_by: The user or the Airflow task that made the plan.
        whole_tables: The tables that, as declared by the user, every chunk reads whole.
        adds_up: The evidence that the chunks add up; None in plans of older versions.
        chunk_hours: Length of a chunk in hours; None if chunks are not cut by hours.
        chunk_count: Number of time slices; see :attr:`total_chunks`.
        chunk_length: The chunking, as :attr:`.Chunking.text`; empty in plans of older versions, which are cut by hours.
        bounds: Bounds computed from data, by :func:`.encode_bounds`; empty if they follow from window and length.
        parts: The key ranges of chunks whose windows cannot be cut further, by the index of the time slice from 0.
        one_shard: Whether the user wants the rows of all shards in the target's one table.
        cluster: The cluster whose shards each hold a part of the target; empty if the target is one table.
        shard_table: The table that is filled on each shard.
        known_as: All names of the target on a cluster: the shard table and the Distributed tables over it.
        shards: The shards at planning. Every chunk is executed on each shard separately.
        dealing: The division of rows among the shards if all shards read the same source; None if each shard has its
            own source.
        shard: The shard to which :meth:`on_shard` limits this view of the plan; 0 for the whole plan. Never stored.

    The chunks are not stored: :meth:`chunks` derives them. So the file of a plan with many chunks is small.
    """

    format: Literal[2] = 2
    plan_id: str
    target: Table
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    chunk_hours: Number | None
    chunk_length: str = ""
    bounds: str = ""
    parts: dict[int, tuple[str, ...]] = Field(default_factory=dict)
    time_column: str
    chunk_count: int
    statements: tuple[Statement, ...]
    write_mode: WriteMode
    mode_reason: ModeReason
    engine: str
    use_tokens: bool
    min_chunk_minutes: Number
    existing_rows: int | None = None
    source_rows: int | None = None
    allow_existing_rows: bool = False
    verify_caveat: str = ""
    signs_tell: bool = False
    not_compared: tuple[str, ...] = ()
    nonce: str = ""
    target_time: TargetTime | None = None
    summed_columns: tuple[str, ...] = ()
    keep_outside: bool = False
    backup: bool = False
    row_proof: RowProof = RowProof.CONTENT
    staging_database: str = ""
    environment: str
    connection: str = ""
    target_identity: str = ""
    compatibility_token: str = ""
    reason: str = ""
    owner: str = ""
    created_by: str = ""
    whole_tables: tuple[Table, ...] = ()
    adds_up: AddsUp | None = None
    one_shard: bool = False
    cluster: str = ""
    shard_table: Table | None = None
    known_as: tuple[Table, ...] = ()
    shards: tuple[Shard, ...] = ()
    dealing: Dealing | None = None
    shard: int = Field(default=0, exclude=True)
    created_at: Instant

    def computed_id(self) -> str:
        """Return the id computed from target, window, chunking and time column; :attr:`plan_id` is the stored id."""
        length = self.chunk_length or self.chunking.text
        return plan_id(show_table(self.target), self.start, self.end, length, self.time_column)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the plan's chunks in time order, before any split; on a cluster, one chunk per slice and shard."""
        yield from starmap(Chunk, iter_chunks(self.plan_id, self.slices(), self._numbers(self.shard)))

    def _numbers(self, only: int = 0) -> tuple[int, ...]:
        """Return ``(only,)`` if *only* is not 0, else the numbers of all shards; ``(0,)`` if there are no shards."""
        return (only,) if only else tuple(shard.number for shard in self.shards) or (0,)

    def on_shard(self, number: int) -> "Plan":
        """
        Return a view of the plan with the table of one shard as the target, and with the chunks of that shard only.

        The log is the log of the whole plan, and :attr:`total_chunks` counts the chunks of all shards.
        """
        shard = next(shard for shard in self.shards if shard.number == number)
        statements = self.statements
        if self.dealing is not None:
            share = self.dealing.share({one.number: one.weight for one in self.shards}, number)
            statements = tuple(statement.model_copy(update={"share": share}) for statement in statements)
        return self.model_copy(
            update={
                "statements": statements,
                "target": self.shard_table or self.target,
                "existing_rows": shard.existing_rows,
                # Statements ON CLUSTER reach every shard, so each shard needs a nonce of its own.
                "nonce": f"{self.nonce}{number:x}",
                "shard": number,
            }
        )

    def is_called(self, name: TableName) -> bool:
        """Return whether *name* is a name of the target; on a cluster, the target may have several names."""
        return name == self.target or name in self.known_as

    def has_target_of(self, other: "Plan") -> bool:
        """Return whether another plan fills the same table, under any of the table's names."""
        return not {self.target, *self.known_as}.isdisjoint({other.target, *other.known_as})

    def slices(self) -> Iterator[Slice]:
        """Yield the plan's slices of time in order; chunks on several shards share a slice."""
        if not self.bounds:
            return self.chunking.slices(self.start, self.end)
        first = to_ms(self.start)
        return slices_between(chain([first], decode_bounds(self.bounds, first)))

    def planned_parts(self) -> dict[str, tuple[Chunk, ...]]:
        """Return the planned parts of chunks that are too large, by the id of the chunk that the parts replace."""
        bounds = self.bounds_ms() if self.parts else []
        found = {}
        for place, ranges in self.parts.items():
            window = from_ms(bounds[place]), from_ms(bounds[place + 1])
            for shard in self._numbers():
                parts = (Chunk("", *window, each, shard) for each in ranges)
                whole = chunk_id(self.plan_id, *window, shard=shard)
                found[whole] = tuple(part._replace(id=chunk_id(self.plan_id, *part[1:])) for part in parts)
        return found

    @property
    def total_chunks(self) -> int:
        """The number of chunks on all shards; a chunk with planned parts counts as its parts."""
        return (self.chunk_count + sum(len(ranges) - 1 for ranges in self.parts.values())) * len(self._numbers())

    def bounds_ms(self) -> list[int]:
        """Return all chunk bounds in milliseconds since 1970, including both ends of the window."""
        first = to_ms(self.start)
        if self.bounds:
            return [first, *decode_bounds(self.bounds, first)]
        return [first, *self.chunking.ends_ms(self.start, self.end)]

    @property
    def window(self) -> Window:
        """The window that the plan fills."""
        return Window(self.start, self.end)

    @property
    def chunking(self) -> Chunking:
        """The rule by which the window is cut."""
        return parse_chunking(self.chunk_length) if self.chunk_length else Chunking(hours=self.chunk_hours)

    def filters(self, statement: Statement) -> tuple[FilteredTable, ...]:
        """
        Return the tables to which the window applies in a statement, with their time columns.

        A statement with query parameters has no such tables.
        """
        if statement.source is None:
            return ()
        column = statement.time_column or self.time_column
        first = FilteredTable(table=statement.source, column=column, kind=statement.time_kind)
        return (first, *statement.also_filtered)

    @property
    def adds_rows(self) -> bool:
        """Whether the plan adds rows to the window (a fill) rather than replacing its rows (a rebuild)."""
        return self.write_mode is not WriteMode.REPLACE

    @property
    def keeps_time(self) -> bool:
        """
        Whether the target's time column has the name of the source's time column; False without a target time column.

        A column of time buckets usually has its own name.
        """
        return self.target_time is not None and self.target_time.column == self.time_column

    @property
    def sums_tell(self) -> bool:
        """Whether reading the source again gives the content sums of the written rows."""
        same = len({self.summed(statement) for statement in self.statements}) == 1
        return same and all(statement.row_wise for statement in self.statements)

    @property
    def asks_source_again(self) -> bool:
        """Whether each chunk's staged rows are compared with a second reading of the source."""
        return self.row_proof is RowProof.CONTENT and self.sums_tell

    def summed(self, statement: Statement) -> tuple[str, ...]:
        """Return the columns of a statement's content sums."""
        return self.summed_columns or statement.columns

    def token(self, chunk: Chunk) -> str:
        """Return the chunk's deduplication token; empty if the plan uses none."""
        return idempotency_token(self.plan_id, *chunk[1:]) if self.use_tokens else ""
