"""
The state of a run and of its chunks, as the replay of the events gives them.

A :class:`Run` is never edited: :mod:`.replay` derives it from a plan's events. Pure.
"""

from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from pydantic import ConfigDict
from pydantic.alias_generators import to_camel

from .model import Instant
from .plan import Chunk


class RunStatus(StrEnum):
    """The state of a whole plan."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDONE = "undone"

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody may claim a chunk until the run is resumed."""
        return self in (RunStatus.CANCELLED, RunStatus.UNDONE)


class ChunkStatus(StrEnum):
    """The state of one chunk."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ContentSums(NamedTuple):
    """
    Count and checksum of rows.

    Attributes:
        rows: How many.
        checksum: ``sum(cityHash64(tuple(…)))`` modulo 2**64 over the plan's summed columns; in the log of a plan whose
            rows are proved by what was written, the sum of the server's own hashes of the parts that hold them.
    """

    rows: int
    checksum: int


class Staged(NamedTuple):
    """
    The sealed staging table of a verified attempt; on replicas, exactly these parts are published.

    Attributes:
        table: Its staging table, in the target's database.
        parts: Partition id and ``hash_of_all_files`` of each part, by which Keeper knows what was published.
    """

    table: str
    parts: tuple[tuple[str, str], ...]


_CAMEL = ConfigDict(alias_generator=to_camel)


Done = tuple[int, int, int, float]
"""A done chunk in short: attempt, rows, checksum, seconds. A run keeps 100,000 of them."""


@dataclass(slots=True)
class ChunkState:
    """
    The state of one chunk, from the log.

    Attributes:
        attempt: Number of the last attempt; counts from 1 and never falls, so a query id is never reused.
        tries: Attempts that count against the budget since the chunk was last reset.
        owner: The worker that holds the claim; empty unless the chunk is running, as is *query_id*.
        verified: What each attempt staged, by attempt; kept until the chunk is done, because
            a later attempt may have to publish what an earlier one staged.
        staged: What the last of them staged, where the log seals it (on replicas, and where no table can be renamed).
        content: What the target got from this chunk; None until it is done.
        seconds: How long the successful attempt took; None until it is done.
        clear: Whether the chunk's window is to be deleted from the target before it is filled again.
        error: The last error's text; empty when there was none.
        touched: Whether an attempt that is over may have written to the target.
    """

    __pydantic_config__ = _CAMEL

    status: ChunkStatus = ChunkStatus.PENDING
    attempt: int = 0
    tries: int = 0
    owner: str = ""
    query_id: str = ""
    started_at: Instant | None = None
    verified: dict[int, ContentSums] = field(default_factory=dict)
    staged: Staged | None = None
    content: ContentSums | None = None
    seconds: float | None = None
    error: str = ""
    clear: bool = False
    touched: bool = False


@dataclass(slots=True)
class WorkerLease:
    """
    A worker that holds *claims* chunks, when it was last heard of, and how long its claims hold after that.

    It works on one *shard*; 0 where the target is one table.
    """

    __pydantic_config__ = _CAMEL

    seen_at: Instant
    lease_seconds: float
    claims: int = 1
    shard: int = 0


@dataclass(frozen=True, slots=True)
class Waiver:
    """The waiver of a plan: reason, user, and end (permanent when None)."""

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
    The execution of a plan, derived from its events by :mod:`.replay`.

    Attributes:
        total: Chunks in the run; splits add to the plan's count.
        chunks: State of every chunk that is neither untouched nor done, by chunk id.
        done: The done chunks in short, by chunk id.
        splits: Parts of every chunk that was split, by the id of the chunk they replace.
        workers: The workers that hold a claim now, by name.
        read_rows: Rows that the statements of done chunks read; 0 where the server did not say, as are *read_bytes*.
        seconds: Sum of the done chunks' seconds.
        started_at: When the first worker began; None before.
        started_by: Who gave that worker its command.
        pause_holds: Whether a person paused the run, so that only a resume continues with it.
        reach: Where the rows of chunks lie in the target's time, for those with rows outside their window.
        cleared_at: When a replay was last told to clear the windows of all done chunks.
        undone: Whether what the run had replaced was brought back.
        throttled_by: Why a worker waits before its next chunk; empty when none is known to wait.
        parallel: How many chunks may run at once, over all workers; 0 when that is left to each worker.
    """

    __pydantic_config__ = _CAMEL

    plan_id: str
    total: int
    chunks: dict[str, ChunkState] = field(default_factory=dict)
    done: dict[str, Done] = field(default_factory=dict)
    splits: dict[str, tuple[Chunk, ...]] = field(default_factory=dict)
    workers: dict[str, WorkerLease] = field(default_factory=dict)
    counts: dict[ChunkStatus, int] = field(default_factory=dict)
    started: bool = False
    started_at: Instant | None = None
    started_by: str = ""
    pause_holds: bool = False
    paused: bool = False
    cancelled: bool = False
    undone: bool = False
    reach: dict[str, tuple[Instant, Instant]] = field(default_factory=dict)
    cleared_at: Instant | None = None
    waiver: Waiver | None = None
    throttled_by: str = ""
    parallel: int = 0
    attempts: int = 0
    rows: int = 0
    read_rows: int = 0
    read_bytes: int = 0
    seconds: float = 0.0
    last_error: str = ""
    updated_at: Instant | None = None

    def state(self, chunk_id: str) -> ChunkState:
        """Return the state of a chunk; an untouched chunk is pending."""
        if done := self.done.get(chunk_id):
            attempt, rows, checksum, seconds = done
            return ChunkState(ChunkStatus.DONE, attempt, content=ContentSums(rows, checksum), seconds=seconds)
        return self.chunks.get(chunk_id) or ChunkState()

    def count(self, status: ChunkStatus) -> int:
        """Return the number of chunks with *status*."""
        if status is ChunkStatus.PENDING:
            return self.total - sum(self.counts.values())
        return self.counts.get(status, 0)

    @property
    def chunk_counts(self) -> dict[str, int]:
        """Return the chunk counts and their total; ``skipped`` is always 0, but other tools read the key."""
        return {"total": self.total, **{status.value: self.count(status) for status in ChunkStatus}, "skipped": 0}

    @property
    def cancelling(self) -> bool:
        """Whether the run is cancelled and chunks of it are still claimed, so that queries may still be alive."""
        return self.cancelled and self.count(ChunkStatus.RUNNING) > 0

    @property
    def status(self) -> RunStatus:
        """Return the run's status; the first matching case wins."""
        if self.undone:
            return RunStatus.UNDONE
        if self.cancelled:
            return RunStatus.CANCELLED
        if not self.started:
            return RunStatus.PLANNED
        if self.count(ChunkStatus.DONE) == self.total:
            return RunStatus.COMPLETED
        if self.paused:
            return RunStatus.PAUSED
        if self.count(ChunkStatus.FAILED) and not self.count(ChunkStatus.PENDING) + self.count(ChunkStatus.RUNNING):
            return RunStatus.FAILED
        return RunStatus.RUNNING
