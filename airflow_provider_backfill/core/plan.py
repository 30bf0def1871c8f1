"""
A plan: the immutable description of a backfill, and its chunks.

A :class:`Plan` says everything that decides which rows are written. Pure.
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
    """How a chunk's rows reach the target; see the docs for what each guarantees."""

    STAGE = "stage"
    REPLACE = "replace"
    INSERT = "insert"


class ModeReason(StrEnum):
    """Why a plan has its write mode."""

    ASKED = "asked"
    """The user has asked for it."""
    ENGINE = "engine"
    """It is what the target's engine takes."""


class Chunk(NamedTuple):
    """
    A half-open slice ``[start, end)`` of a plan's window, in UTC.

    Attributes:
        key_range: The condition on the sorting key that selects the chunk's rows, where several chunks share one
            slice; see :mod:`.key_ranges`. Empty where one chunk has the whole slice.
        shard: The number of the shard that the chunk fills; 0 where the target is one table.
    """

    id: str
    start: datetime
    end: datetime
    key_range: str = ""
    shard: int = 0


class Parameter(Model):
    """
    A query parameter of a SELECT that follows the chunk.

    Attributes:
        kind: How a bound is written; None for a parameter with a format.
        format: The format of strftime for the chunk's start; empty for a bound.
        scale: Decimal digits of a bound's seconds.
    """

    name: str
    kind: TimeKind | None = None
    format: str = ""
    scale: int = 0


class FilteredTable(Model):
    """A table that the window applies to wherever a SELECT reads it, by its own time column."""

    table: Table
    column: str
    kind: TimeKind


class Statement(Model):
    """
    One SELECT whose rows go into the target.

    Attributes:
        name: The view it was stored in, the source table, or ``select``.
        select: The SELECT, its text as the user or the server stored it.
        source: The table that the time filter applies to.
        time_kind: How that table's time column stores an instant.
        columns: The target's columns it fills, in the order of the SELECT.
        row_wise: Each result row comes from one source row by itself (no aggregation, join,
            limit or window), so running the SELECT again costs little more than a scan.
        reads: How often the SELECT reads *source*; the time filter applies to each read.
        converted: The columns whose type in the SELECT is another than in the target.
        defaulted: Those of them whose NULLs become the target's default.
        parameters: The query parameters by which the user has placed the window; there is no *source* then, and
            no time filter applies.
        function_type: Where *source* is a table function (``_table_function.s3``), the type of its time column.
        time_column: That column of *source*; empty when it is the plan's.
        also_filtered: Further tables that the time filter applies to, each by its own time column.
        settings: ClickHouse settings that the user gives for reading and filling.
        exact: Where rows are dealt out to shards, by column: SQL for the value that an INSERT makes of it, if that is
            another one.
        share: The condition that a row is one of a shard's, see :meth:`Plan.on_shard`; never stored.
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
        """The SELECT that is sent: the user's text, or a shard's share of its rows."""
        return share_of(self.select, self.columns, self.exact, self.share) if self.share else self.select

    @property
    def table(self) -> TableName | None:
        """The table that the time filter applies to; None for a table function, which cannot be asked by itself."""
        return None if self.source is None or self.source.database == TABLE_FUNCTION else self.source

    @property
    def source_text(self) -> str:
        """The source as a person writes it; empty where there is none."""
        return "" if self.source is None else show_table(self.source)

    @property
    def copies_table(self) -> bool:
        """Whether the statement copies its source, column by column."""
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

    # As many rows are in its parts as the server counted on their way there.
    WRITTEN = "written"
    # Where each row comes from one row of the source, the source is read again and content sums are compared.
    CONTENT = "content"


class AddsUp(Model):
    """
    Why the chunks of a plan add up to the result of its SELECTs over the whole window.

    Attributes:
        steps: What was seen of each step that looks at several rows, one sentence each.
        reads: Each table that is read, and how that read was judged.
        accepted: The reason that the user gave for groups that chunks cut; empty when there are none.
        set_aside: What was said against the plan, and set aside by that reason.
        trial: What the trial compared, or why there was none.
        trial_declined: Whether the user wanted none.
    """

    proof: Proof
    steps: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()
    accepted: str = ""
    set_aside: tuple[str, ...] = ()
    trial: str = ""
    trial_declined: bool = False


class TimeLabel(Model):
    """A SELECT's expression over the time column by which chunks are cut."""

    expression: str
    column: str
    type: str
    kind: TimeKind


class TargetTime(Model):
    """
    The column that places the target's rows in time: the source's, or a bucket of it.

    Attributes:
        label: How its values follow from the time that chunks are cut by, where they may lie outside of the
            chunk: days of another zone, hours that are called by their end.
    """

    column: str
    kind: TimeKind
    label: TimeLabel | None = None


class Shard(Model):
    """
    One shard of a plan's target.

    Attributes:
        number: Its number in the cluster, from 1 on.
        table: What the target is there, whoever is asked: its path in Keeper, or its server and UUID.
        urls: The HTTP interfaces of its replicas; no user, no password.
        existing_rows: Rows that the target held there in the window when it was planned; None when that is not known.
        weight: How many of the cluster's slots it has, where rows are dealt out by slots.
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
        mode_reason: Why it has its write mode: ``asked``, or ``engine`` for what the target's engine takes.
        engine: The target's engine.
        existing_rows: Rows the target held in the window when it was planned; None when that is not known.
        source_rows: About how many rows of the sources lie in the window, before the SELECT's own filters; None
            when that is not known.
        allow_existing_rows: Whether the user wants the plan's rows beside those that others have put into the window.
        verify_caveat: Why a difference that ``verify`` finds may be none; empty when it is one.
        signs_tell: Whether the signs of a key's rows add up to the same whatever was merged; a difference is one then.
        not_compared: Columns of the target of which several values are right, so that none is compared.
        nonce: Tells this plan from one with the same id in another state folder.
        target_time: The target's own time column; None without one.
        summed_columns: The columns that the content sums in the log are made of; none means all that are filled.
        keep_outside: Whether rows outside the window survive in partitions that it covers only in part.
        backup: Whether what ``replace`` overwrites is kept in a table of its own.
        row_proof: What staged rows are compared with before they are published; ``content`` in plans of older versions.
        staging_database: Where staging tables are made; empty for the target's database.
        environment: Address and database of the server it was planned on.
        compatibility_token: A hash of what affects the data besides; empty in plans of older versions.
        created_by: Who planned it: a user, or an Airflow task.
        whole_tables: The tables that every chunk is to read whole, as the user has said.
        adds_up: Why the chunks add up; None in plans of older versions.
        chunk_hours: Length of a chunk, None where it is no number of hours.
        chunk_count: How many slices of time there are; see :attr:`total_chunks`.
        chunk_length: How the window is cut, as :attr:`.Chunking.text`; empty in plans of older versions,
            which are cut by hours.
        bounds: The bounds that were computed from data, as :func:`.encode_bounds` writes them; empty where
            they follow from window and length.
        parts: The key ranges that the rows of a chunk are cut into, by the chunk's place from 0 on, where
            its window cannot be cut any further.
        cluster: The cluster whose shards each have a part of the target; empty where the target is one table.
        shard_table: The table on each shard that is filled.
        known_as: Every name that the target has on a cluster: that table, and the Distributed tables over it.
        shards: The shards that were there when it was planned. Every chunk is done on each of them by itself.
        dealing: How rows are dealt out to the shards, where all of them read the same source; None where each shard
            fills itself from a source of its own.
        shard: The only shard that this view of the plan is about, see :meth:`on_shard`; never stored.

    The chunks are not stored: :meth:`chunks` derives them, so the file of a plan with 100,000 chunks
    of six hours is as small as that of one with ten.
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
    compatibility_token: str = ""
    reason: str = ""
    owner: str = ""
    created_by: str = ""
    whole_tables: tuple[Table, ...] = ()
    adds_up: AddsUp | None = None
    cluster: str = ""
    shard_table: Table | None = None
    known_as: tuple[Table, ...] = ()
    shards: tuple[Shard, ...] = ()
    dealing: Dealing | None = None
    shard: int = Field(default=0, exclude=True)
    created_at: Instant

    def computed_id(self) -> str:
        """Return the identity that the plan's own fields give; another than :attr:`plan_id` when they were changed."""
        length = self.chunk_length or self.chunking.text
        return plan_id(show_table(self.target), self.start, self.end, length, self.time_column)

    def chunks(self) -> Iterator[Chunk]:
        """Yield the plan's chunks in time order; where there are shards, one for each of them."""
        yield from starmap(Chunk, iter_chunks(self.plan_id, self.slices(), self._numbers(self.shard)))

    def _numbers(self, only: int = 0) -> tuple[int, ...]:
        """Return the numbers of the shards, or of the *only* one; 0 alone where the target is one table."""
        return (only,) if only else tuple(shard.number for shard in self.shards) or (0,)

    def on_shard(self, number: int) -> "Plan":
        """
        Return the plan as one of its shards sees it: an ordinary table there, and that shard's chunks alone.

        Its log is the whole plan's, and :attr:`total_chunks` counts all chunks.
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
                # What keeps others out of a shard is not to be taken for that of another, which DDL of a cluster meets.
                "nonce": f"{self.nonce}{number:x}",
                "shard": number,
            }
        )

    def is_called(self, name: TableName) -> bool:
        """Whether the target has this name; on a cluster it may have several."""
        return name == self.target or name in self.known_as

    def has_target_of(self, other: "Plan") -> bool:
        """Whether another plan fills the same table, by whichever name."""
        return not {self.target, *self.known_as}.isdisjoint({other.target, *other.known_as})

    def slices(self) -> Iterator[Slice]:
        """Yield the windows of the plan's chunks in time order."""
        if not self.bounds:
            return self.chunking.slices(self.start, self.end)
        first = to_ms(self.start)
        return slices_between(chain([first], decode_bounds(self.bounds, first)))

    def planned_parts(self) -> dict[str, tuple[Chunk, ...]]:
        """Return the parts that take the place of chunks which are too heavy for their time, by the chunk's id."""
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
        """How many chunks there are to do, on all shards; parts count in place of the chunk they are of."""
        return (self.chunk_count + sum(len(ranges) - 1 for ranges in self.parts.values())) * len(self._numbers())

    def bounds_ms(self) -> list[int]:
        """All chunk bounds in milliseconds since 1970, both ends of the window among them."""
        first = to_ms(self.start)
        if self.bounds:
            return [first, *decode_bounds(self.bounds, first)]
        return [first, *(to_ms(end) for _, end in self.slices())]

    @property
    def window(self) -> Window:
        """The window that it fills."""
        return Window(self.start, self.end)

    @property
    def chunking(self) -> Chunking:
        """How the window is cut."""
        return parse_chunking(self.chunk_length) if self.chunk_length else Chunking(hours=self.chunk_hours)

    def filters(self, statement: Statement) -> tuple[FilteredTable, ...]:
        """
        Return the tables that the window applies to in a statement, with their time columns.

        None where it has bounds.
        """
        if statement.source is None:
            return ()
        column = statement.time_column or self.time_column
        first = FilteredTable(table=statement.source, column=column, kind=statement.time_kind)
        return (first, *statement.also_filtered)

    @property
    def adds_rows(self) -> bool:
        """Whether its rows are added to what the window holds (a fill), rather than put in their place."""
        return self.write_mode is not WriteMode.REPLACE

    @property
    def keeps_time(self) -> bool:
        """
        Whether the target's time column has the name of the source's time column.

        A column of time buckets usually has a different name.
        """
        return self.target_time is not None and self.target_time.column == self.time_column

    @property
    def sums_tell(self) -> bool:
        """Whether a second reading of the statements gives the content sums of the written rows."""
        same = len({self.summed(statement) for statement in self.statements}) == 1
        return same and all(statement.row_wise for statement in self.statements)

    @property
    def asks_source_again(self) -> bool:
        """Whether each chunk's staged rows are compared with a second reading of its statements."""
        return self.row_proof is RowProof.CONTENT and self.sums_tell

    def summed(self, statement: Statement) -> tuple[str, ...]:
        """Return the columns that a statement's content sums are made of."""
        return self.summed_columns or statement.columns

    def token(self, chunk: Chunk) -> str:
        """Return the chunk's deduplication token, or an empty text when the plan uses none."""
        return idempotency_token(self.plan_id, *chunk[1:]) if self.use_tokens else ""
