"""
The words of the product as types: plan, chunk, event, run, finding.

A :class:`Plan` is immutable and says everything that decides which rows are written. A
:class:`Run` is never edited: it is what :mod:`.run` derives from a plan's events.
Python names are snake_case; in JSON the keys are camelCase.
Pure: standard library, pydantic and errors only.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, TypeAdapter
from pydantic.alias_generators import to_camel

from ..errors import RequestError
from .identity import from_ms, idempotency_token, iter_chunks, parse_instant, render_instant, to_ms

FORMAT = 1
"""The number that every state file carries; a higher one was written by a newer version."""


def _instant(value: object) -> object:
    """An instant as it comes back from a file, so that what is kept in memory equals what is on disk."""
    if isinstance(value, str):
        try:
            # As we write it; ten times as fast, and a log has two in every line.
            if len(value) == 24 and value.endswith("Z"):
                return datetime.fromisoformat(value)
            return parse_instant(value)
        except RequestError as error:
            # What pydantic reports with its place; here it is a file's text, not a user's.
            raise ValueError(error.message) from None
    return from_ms(to_ms(value)) if isinstance(value, datetime) else value


Instant = Annotated[datetime, BeforeValidator(_instant), PlainSerializer(render_instant, return_type=str)]
"""An aware UTC datetime in whole milliseconds, in JSON as ``2025-01-01T00:00:00.000Z``."""


def whole(value: float) -> float:
    """A number as JSON has it: 6 rather than 6.0."""
    return int(value) if value.is_integer() else value


Number = Annotated[float, PlainSerializer(whole)]
"""A float, in JSON without the fraction it does not have."""


class Model(BaseModel):
    """A frozen value with camelCase keys in JSON; unknown keys are refused. Built when it is first used."""

    model_config = ConfigDict(
        alias_generator=to_camel, populate_by_name=True, frozen=True, extra="forbid", defer_build=True
    )


class RunStatus(StrEnum):
    """Where a plan stands as a whole."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ChunkStatus(StrEnum):
    """Where one chunk stands."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    SKIPPED = "skipped"


class WriteMode(StrEnum):
    """How a chunk's rows reach the target; see the docs for what each guarantees."""

    STAGE = "stage"
    REPLACE = "replace"
    INSERT = "insert"


class TimeKind(StrEnum):
    """How a time column stores an instant; decides how bounds are written."""

    DATE = "date"
    DATE32 = "date32"
    DATETIME = "datetime"
    DATETIME64 = "datetime64"
    EPOCH_S = "epoch-s"
    EPOCH_MS = "epoch-ms"
    EPOCH_US = "epoch-us"


class TableName(NamedTuple):
    """A table's name in its two parts, as the server stores them: without quotes."""

    database: str
    table: str

    def __str__(self) -> str:
        return f"{self.database}.{self.table}"


class Column(NamedTuple):
    """
    A column as the server describes it.

    Attributes:
        default_kind: Empty, DEFAULT, MATERIALIZED, ALIAS or EPHEMERAL.
        in_key: Whether the table's sorting key or partition key is made of it.
    """

    name: str
    type: str
    default_kind: str = ""
    in_key: bool = False

    @property
    def insertable(self) -> bool:
        """Whether an INSERT may name the column."""
        return self.default_kind not in ("MATERIALIZED", "ALIAS")


@dataclass(frozen=True, slots=True)
class TableFacts:
    """
    What inspection found about a table.

    Attributes:
        storage: The table that holds the rows: the inner table of a materialized view without
            ``TO``, else the table itself.
        engine_full: The storage's whole engine clause, keys and settings included.
        rows: Rows in the table, None when the server does not know.
        views: The materialized views that fire when rows are inserted into it.
        replica: Names the server among those that replicate the table, when tables made beside it
            (staging, sealed) are on that server only; else empty.
    """

    name: TableName
    storage: TableName
    engine: str
    columns: tuple[Column, ...]
    partition_key: str
    sorting_key: str
    engine_full: str
    create_query: str
    rows: int | None
    views: tuple[TableName, ...] = ()
    replica: str = ""

    def column(self, name: str) -> Column | None:
        """The column called *name*, or None."""
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
    What the server says about a SELECT.

    Attributes:
        columns: Its result columns.
        tables: The tables it names, in order of appearance.
        unstable: Functions in it that give another result each time, such as ``now``.
    """

    columns: tuple[Column, ...]
    tables: tuple[TableName, ...]
    unstable: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GroupFacts:
    """
    A step of a query plan that looks at several rows of the source together.

    Attributes:
        what: ``GROUP BY``, ``DISTINCT``, ``LIMIT BY``, ``LIMIT`` or ``a window function``.
        keys: The expressions that keep rows apart, as SQL over the source's columns.
        additive: Whether it only counts and sums, so that results of parts can be added up.
    """

    what: str
    keys: tuple[str, ...]
    additive: bool = False


@dataclass(frozen=True, slots=True)
class ScanFacts:
    """
    How the server would read the source for a SELECT under a time filter.

    Attributes:
        reads: How often the plan reads the source.
        filtered: How many of these reads carry the filter.
        pruned: Whether the filter is used by an index (partition, min-max or primary key) on each read.
        row_wise: Whether each result row comes from one source row by itself.
        groups: The steps above these reads that look at several rows together.
    """

    reads: int
    filtered: int
    pruned: bool
    row_wise: bool
    groups: tuple[GroupFacts, ...] = ()


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

    format: Literal[1] = 1
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


class _Event(Model):
    at: Instant
    by: str
    """Who wrote it: ``host:pid:nonce`` of a worker, or the user for a command."""


class RunStarted(_Event):
    """Somebody began to execute the plan, or went on after a pause."""

    type: Literal["RunStarted"] = "RunStarted"


class RunPaused(_Event):
    """The runner stopped on purpose and can go on later."""

    type: Literal["RunPaused"] = "RunPaused"
    reason: str


class RunCancelled(_Event):
    """The user stopped the run; no chunk may be claimed until it is resumed."""

    type: Literal["RunCancelled"] = "RunCancelled"
    reason: str = ""


class RunResumed(_Event):
    """The user takes a paused, failed or cancelled run up again: failed chunks are pending again."""

    type: Literal["RunResumed"] = "RunResumed"


class RunReplayed(_Event):
    """The user wants chunks executed again that had ended, with a fresh budget of attempts."""

    type: Literal["RunReplayed"] = "RunReplayed"
    statuses: tuple[ChunkStatus, ...]
    clear_window: bool = False
    chunk_ids: tuple[str, ...] | None = None
    """Only these chunks of the *statuses*; None for all."""


class RunWaived(_Event):
    """
    The plan need not be finished: ``check`` shows it and does not count it.

    Ends by itself at *until*, and when somebody runs or resumes the plan.
    """

    type: Literal["RunWaived"] = "RunWaived"
    reason: str
    until: Instant | None = None
    superseded_by: str = ""
    """The plan that does this one's work; empty when there is none."""


class RunHeld(_Event):
    """A worker waits before its next chunk until the server has room; it goes on by itself."""

    type: Literal["RunHeld"] = "RunHeld"
    reason: str


class RunPaced(_Event):
    """The user turns how many chunks of the plan run at once, over all workers; 0 leaves it to each worker."""

    type: Literal["RunPaced"] = "RunPaced"
    parallel: Annotated[int, Field(ge=0)]


class WorkerSeen(_Event):
    """A worker is alive and keeps its claims for *lease_seconds* more."""

    type: Literal["WorkerSeen"] = "WorkerSeen"
    lease_seconds: float


class ChunkEvent(_Event):
    """What happened to an attempt of a chunk."""

    chunk_id: str
    attempt: int


class ChunkStarted(ChunkEvent):
    """
    A worker claims a chunk; on disk before its query exists.

    *takes_over* is set when the claim replaces one whose worker and query are proven dead;
    *on_behalf_of* is who gave the worker its command: a user, or an Airflow task.
    """

    type: Literal["ChunkStarted"] = "ChunkStarted"
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    query_id: str
    lease_seconds: float
    takes_over: bool = False
    on_behalf_of: str = ""


class Content(NamedTuple):
    """What rows amount to: how many, and ``sum(cityHash64(tuple(…)))`` modulo 2**64 over the plan's summed columns."""

    rows: int
    checksum: int


class ChunkVerified(ChunkEvent):
    """
    The attempt's rows are staged and verified; from here on only this result or an equal one is published.

    *replica* is :attr:`TableFacts.replica` of the server that holds them.
    """

    type: Literal["ChunkVerified"] = "ChunkVerified"
    content: Content
    replica: str = ""


class ChunkDone(ChunkEvent):
    """The chunk's rows are in the target."""

    type: Literal["ChunkDone"] = "ChunkDone"
    content: Content
    seconds: float


class ChunkFailed(ChunkEvent):
    """The attempt failed; *final* when no further attempt will be made by itself."""

    type: Literal["ChunkFailed"] = "ChunkFailed"
    code: int | None = None
    name: str = ""
    message: str
    final: bool


class ChunkReleased(ChunkEvent):
    """The worker gave the chunk back unharmed (pause, cancel, kill); the attempt does not count."""

    type: Literal["ChunkReleased"] = "ChunkReleased"
    reason: str


class ChunkPart(Model):
    """One part of a split chunk."""

    id: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")


class ChunkSplit(ChunkEvent):
    """The chunk was too heavy; its parts take its place."""

    type: Literal["ChunkSplit"] = "ChunkSplit"
    parts: tuple[ChunkPart, ...]
    message: str


_CAMEL = ConfigDict(alias_generator=to_camel)


Done = tuple[int, int, int, float]
"""A done chunk in short: attempt, rows, checksum, seconds. A run keeps 100,000 of them."""


@dataclass(slots=True)
class ChunkState:
    """
    What the log says about one chunk.

    Attributes:
        attempt: Number of the last attempt; counts from 1 and never falls, so a query id is never reused.
        tries: Attempts that count against the budget since the chunk was last reset.
        owner: The worker that holds the claim; empty unless the chunk is running, as is *query_id*.
        verified: What each attempt staged, by attempt; kept until the chunk is done, because
            a later attempt may have to publish what an earlier one staged.
        replica: Where that is, as :attr:`TableFacts.replica` names it.
        content: What the target got from this chunk; None until it is done.
        seconds: How long the successful attempt took; None until it is done.
        clear: Whether the chunk's window is to be deleted from the target before it is filled again.
        error: The last error's text; empty when there was none.
    """

    __pydantic_config__ = _CAMEL

    status: ChunkStatus = ChunkStatus.PENDING
    attempt: int = 0
    tries: int = 0
    owner: str = ""
    query_id: str = ""
    started_at: Instant | None = None
    verified: dict[int, Content] = field(default_factory=dict)
    replica: str = ""
    content: Content | None = None
    seconds: float | None = None
    error: str = ""
    clear: bool = False


@dataclass(slots=True)
class Worker:
    """A worker that holds *claims* chunks, when it was last heard of, and how long its claims hold after that."""

    __pydantic_config__ = _CAMEL

    seen_at: Instant
    lease_seconds: float
    claims: int = 1


@dataclass(frozen=True, slots=True)
class Waiver:
    """Why a plan need not be finished, who said so, and until when (for good, when None)."""

    __pydantic_config__ = _CAMEL

    by: str
    reason: str
    until: Instant | None = None
    superseded_by: str = ""

    def holds(self, moment: datetime) -> bool:
        """Whether it counts at *moment*; the end is exclusive."""
        return self.until is None or moment < self.until


@dataclass(slots=True)
class Run:
    """
    The execution of a plan as its events tell it; see :mod:`.run` for how it is derived.

    Attributes:
        total: Chunks in the run; splits add to the plan's count.
        chunks: State of every chunk that is neither untouched nor done, by chunk id.
        done: The done chunks in short, by chunk id.
        splits: Parts of every chunk that was split, by the id of the chunk they replace.
        workers: The workers that hold a claim now, by name.
        seconds: Sum of the done chunks' seconds.
        held: Why a worker waits before its next chunk; empty when none is known to wait.
        parallel: How many chunks may run at once, over all workers; 0 when that is left to each worker.
    """

    __pydantic_config__ = _CAMEL

    plan_id: str
    total: int
    chunks: dict[str, ChunkState] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    splits: dict[str, tuple[Chunk, ...]] = field(default_factory=dict)
    workers: dict[str, Worker] = field(default_factory=dict)
    counts: dict[ChunkStatus, int] = field(default_factory=dict)
    started: bool = False
    paused: bool = False
    cancelled: bool = False
    waiver: Waiver | None = None
    held: str = ""
    parallel: int = 0
    attempts: int = 0
    rows: int = 0
    seconds: float = 0.0
    last_error: str = ""
    updated_at: Instant | None = None

    def state(self, chunk_id: str) -> ChunkState:
        """What is known about a chunk; an untouched chunk is pending."""
        if done := self.done.get(chunk_id):
            attempt, rows, checksum, seconds = done
            return ChunkState(ChunkStatus.DONE, attempt, content=Content(rows, checksum), seconds=seconds)
        return self.chunks.get(chunk_id) or ChunkState()

    def count(self, status: ChunkStatus) -> int:
        """How many chunks stand at *status*."""
        if status is ChunkStatus.PENDING:
            return self.total - sum(self.counts.values())
        return self.counts.get(status, 0)

    @property
    def cancelling(self) -> bool:
        """Whether the run is cancelled and chunks of it are still claimed, so that queries may still be alive."""
        return self.cancelled and self.count(ChunkStatus.RUNNING) > 0

    @property
    def status(self) -> RunStatus:
        """Where the run stands; the order of the questions is the rule."""
        if self.cancelled:
            return RunStatus.CANCELLED
        if not self.started:
            return RunStatus.PLANNED
        if self.count(ChunkStatus.DONE) + self.count(ChunkStatus.SKIPPED) == self.total:
            return RunStatus.COMPLETED
        if self.paused:
            return RunStatus.PAUSED
        if self.count(ChunkStatus.FAILED) and not self.count(ChunkStatus.PENDING) + self.count(ChunkStatus.RUNNING):
            return RunStatus.FAILED
        return RunStatus.RUNNING


class RunRestored(_Event):
    """
    The first event of a log that was damaged: the run as it could be made out.

    Attributes:
        uncertain: Ids of chunks whose events may be among what was lost.
    """

    type: Literal["RunRestored"] = "RunRestored"
    reason: str
    run: Run
    uncertain: tuple[str, ...] = ()


Event = Annotated[
    RunStarted
    | RunPaused
    | RunCancelled
    | RunResumed
    | RunReplayed
    | RunWaived
    | RunRestored
    | RunHeld
    | RunPaced
    | WorkerSeen
    | ChunkStarted
    | ChunkVerified
    | ChunkDone
    | ChunkFailed
    | ChunkReleased
    | ChunkSplit,
    Field(discriminator="type"),
]


@cache
def event_adapter() -> TypeAdapter[Event]:
    """Reads and writes one line of an event log; made when first used, since it costs a good part of a start."""
    return TypeAdapter(Event)


class Severity(StrEnum):
    """How much a finding matters: an error makes ``check`` fail."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Finding(NamedTuple):
    """Something a person should know about a plan, with the next thing to type."""

    code: str
    severity: Severity
    plan_id: str
    message: str
    hint: str = ""
