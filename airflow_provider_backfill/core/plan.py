"""
A plan: the request, the immutable description, and its chunks.

A :class:`Plan` says everything that decides which rows are written. Pure.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import Field

from .facts import TableName, TimeKind
from .ids import idempotency_token, iter_chunks
from .model import Instant, Model, Number


class WriteMode(StrEnum):
    """How a chunk's rows reach the target; see the docs for what each guarantees."""

    STAGE = "stage"
    REPLACE = "replace"
    INSERT = "insert"


class Chunk(NamedTuple):
    """A half-open slice ``[start, end)`` of a plan's window, in UTC."""

    id: str
    start: datetime
    end: datetime


class Statement(Model):
    """
    One SELECT whose rows go into the target.

    Attributes:
        name: The view it was stored in, the source table, or ``select``.
        select: The SELECT, its text as the user or the server stored it.
        source: The table that the time filter applies to, ``database.table``.
        time_kind: How that table's time column stores an instant.
        columns: The target's columns it fills, in the order of the SELECT.
        row_wise: Each result row comes from one source row by itself (no aggregation, join,
            limit or window), so running the SELECT again costs little more than a scan.
        reads: How often the SELECT reads *source*; the time filter applies to each read.
        converted: The columns whose type in the SELECT is another than in the target.
    """

    name: str
    select: str
    source: str
    time_kind: TimeKind
    columns: tuple[str, ...]
    row_wise: bool = False
    reads: int = 1
    converted: tuple[str, ...] = ()


class TargetTime(Model):
    """The column that places the target's rows in time: the source's, or a bucket of it."""

    column: str
    kind: TimeKind


class Plan(Model):
    """
    An immutable description of a backfill: the statements, and the chunks to bind to them.

    Attributes:
        existing_rows: Rows the target held in the window when it was planned; None when that is not known.
        target_time: The target's own time column; None without one.
        summed_columns: The columns that the content sums in the log are made of; none means all that are filled.
        keep_outside: Whether rows outside the window survive in partitions that it covers only in part.
        backup: Whether what ``replace`` overwrites is kept in a table of its own.
        environment: Address and database of the server it was planned on.
        compatibility_token: A hash of what affects the data besides; empty in plans of older versions.

    The chunks are not stored: :meth:`chunks` derives them from window and chunk size, so the
    file of a plan with 100,000 chunks is as small as that of one with ten.
    """

    format: Literal[2] = 2
    plan_id: str
    target: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    chunk_hours: Number
    time_column: str
    chunk_count: int
    statements: tuple[Statement, ...]
    write_mode: WriteMode
    mode_reason: str
    guarantee: str
    use_tokens: bool
    min_chunk_minutes: Number
    existing_rows: int | None = None
    target_time: TargetTime | None = None
    summed_columns: tuple[str, ...] = ()
    keep_outside: bool = False
    backup: bool = False
    environment: str
    compatibility_token: str = ""
    created_at: Instant

    def chunks(self) -> Iterator[Chunk]:
        """Yield the plan's chunks in time order."""
        yield from map(Chunk._make, iter_chunks(self.plan_id, self.start, self.end, self.chunk_hours))

    @property
    def keeps_time(self) -> bool:
        """Whether the target's time column is called as the source's; a bucket of it has another name as a rule."""
        return self.target_time is not None and self.target_time.column == self.time_column

    @property
    def asks_source_again(self) -> bool:
        """Whether a chunk's staged rows are held against what its statements give when asked once more."""
        same = len({self.summed(statement) for statement in self.statements}) == 1
        return same and all(statement.row_wise for statement in self.statements)

    def summed(self, statement: Statement) -> tuple[str, ...]:
        """The columns that a statement's content sums are made of."""
        return self.summed_columns or statement.columns

    def token(self, chunk: Chunk) -> str:
        """The chunk's deduplication token, or an empty text when the plan uses none."""
        return idempotency_token(self.plan_id, chunk.start, chunk.end) if self.use_tokens else ""


@dataclass(frozen=True, slots=True)
class PlanRequest:
    """
    What the user asked for, parsed: the window ``[start, end)`` in UTC and where the rows come from.

    Attributes:
        source: Copy this table, matched by column names.
        select: Or insert the rows of this SELECT; with neither, the views that feed the target are replayed.
        filter_table: The table of *select* that the window applies to, when several could be meant.
        time_unit: ``s``, ``ms`` or ``us`` when the time column is an integer epoch.
        auto_chunk_hours: Let the rows of the source decide how long a chunk is; *chunk_hours* is what is tried first.
    """

    target: TableName
    start: datetime | None
    end: datetime | None
    chunk_hours: float
    auto_chunk_hours: bool = False
    time_column: str | None = None
    time_unit: str = ""
    source: TableName | None = None
    select: str | None = None
    filter_table: TableName | None = None
    write_mode: WriteMode | None = None
    accept_at_least_once: bool = False
    keep_outside: bool = False
    backup: bool = False
    allow_existing_rows: bool = False
    force_large_window: bool = False
    force: bool = False
