"""
Hold the state of a run and of its chunks.

Only :mod:`.replay` changes a :class:`Run`, by the events of its plan. This module is pure.
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
    """The state of a run, derived from the states of its chunks and the commands of users."""

    PLANNED = "planned"
    RUNNING = "running"
    PAUSED = "paused"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    UNDONE = "undone"

    @property
    def is_cancelled(self) -> bool:
        """Whether the run is cancelled or undone, so that no chunk may be claimed before a resume."""
        return self in (RunStatus.CANCELLED, RunStatus.UNDONE)


class ChunkStatus(StrEnum):
    """The state of one chunk; a failed chunk gets another attempt only after a resume or a replay."""

    PENDING = "pending"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class ContentSums(NamedTuple):
    """
    Count and checksum of rows.

    Attributes:
        rows: The number of rows.
        checksum: ``sum(cityHash64(tuple(…)))`` modulo 2**64 over the plan's summed columns. For plans with
            :attr:`.RowProof.WRITTEN`, the log instead has the sum of the server's hashes of the parts. 0 if the rows
            were not summed.
    """

    rows: int
    checksum: int

    @property
    def is_summed(self) -> bool:
        """
        Whether the rows were read and summed.

        If a direct INSERT has ended, but the source could not be read afterwards, *rows* is the server's count of
        written rows. That count may include the rows of views on the target.
        """
        return not self.rows or self.checksum != 0


class Staged(NamedTuple):
    """
    The sealed staging table of a verified attempt; on replicas, exactly *parts* are published.

    Attributes:
        table: The staging table's name, without the name of the database.
        parts: Partition id and ``hash_of_all_files`` of each part, by which Keeper recognises published parts.
    """

    table: str
    parts: tuple[tuple[str, str], ...]


_CAMEL = ConfigDict(alias_generator=to_camel)


Done = tuple[int, int, int, float]
"""A done chunk in compact form: attempt, rows, checksum, seconds. A run may keep 100,000 of these."""


@dataclass(slots=True)
class ChunkState:
    """
    The state of one chunk, from the log.

    Attributes:
        attempt: Number of the last attempt, from 1; 0 without attempts. The number never falls, so no query id is
            reused.
        tries: Attempts that count against the budget since the chunk was last reset.
        owner: The worker that holds the claim. Like *query_id*, empty unless the chunk is running.
        verified: The staged rows' sums by attempt. The sums are kept until the chunk is done or its staged rows are
            given up, because a later attempt may publish the rows of an earlier attempt.
        staged: The last verified staging table, if the log seals the table because no rename does: on replicas, and
            where tables cannot be renamed. Otherwise None.
        content: The rows that the target received from this chunk; None until the chunk is done.
        seconds: Duration of the successful attempt; None until the chunk is done.
        clear: Whether each attempt first deletes the chunk's window from the target.
        error: The text of the last error; empty without an error.
        touched: Whether an ended attempt may have written to the target.
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
    The lease of a worker that holds claims of chunks.

    Attributes:
        seen_at: The time of the worker's last claim or heartbeat.
        lease_seconds: The length of the lease after *seen_at*.
        claims: The number of claims that the worker holds now.
        shard: The shard that the worker fills; 0 if the target is one table.
    """

    __pydantic_config__ = _CAMEL

    seen_at: Instant
    lease_seconds: float
    claims: int = 1
    shard: int = 0


@dataclass(frozen=True, slots=True)
class Waiver:
    """
    A user's decision that a plan need not be finished.

    Attributes:
        by: The user who waived the plan.
        reason: The reason, for people.
        until: The end of the waiver, excluded; None for no end.
        superseded_by: The id of the plan that replaces this plan; empty if there is none.
    """

    __pydantic_config__ = _CAMEL

    by: str
    reason: str
    until: Instant | None = None
    superseded_by: str = ""

    def holds(self, moment: datetime) -> bool:
        """Return whether the waiver holds at *moment*; the end is exclusive."""
        return self.until is None or moment < self.until


@dataclass(slots=True)
class Run:
    """
    The execution of a plan, derived from its events by :mod:`.replay`.

    Attributes:
        total: Number of chunks; a split chunk counts as its parts.
        chunks: The states of the chunks that have events and are neither done nor split, by chunk id.
        done: The done chunks in compact form, by chunk id.
        splits: The parts of each split chunk, by the id of the split chunk.
        workers: The leases of workers with claims, by the worker's name.
        counts: The number of chunks by status, except pending chunks.
        read_rows: Rows read by the statements of all successful attempts, including attempts of chunks that were reset
            later. Like *read_bytes*, 0 if the server does not report reads.
        seconds: Total duration of the done chunks.
        started_at: Time of the first start or resume; None before.
        started_by: The user or task of the first start or resume.
        pause_holds: Whether a person paused the run, so that only a resume continues the run.
        reach: The range ``[first, last)`` of the target times of a chunk's rows, by chunk id. Only chunks with target
            times outside their window have a range.
        cleared_at: Time of the last replay that clears the windows of all done chunks; None if there was none.
        undone: Whether the replaced rows were restored.
        undoing: Whether an undo has begun and is not finished, so that the replaced rows may be restored in part.
        throttled_by: The reason why a worker waits before its next chunk; empty if no worker waits.
        parallel: The maximum of parallel chunks over all workers, on each shard; 0 leaves the number to each worker.
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
    undoing: bool = False
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
        """
        Return the state of a chunk; a chunk without events is pending.

        For a done chunk and for a chunk without events, the returned object is new and not part of the run.
        """
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
        """The number of chunks by status, and ``total``. The key ``skipped``, which other tools read, is always 0."""
        return {"total": self.total, **{status.value: self.count(status) for status in ChunkStatus}, "skipped": 0}

    @property
    def cancelling(self) -> bool:
        """Whether the run is cancelled while chunks are claimed. The queries of these chunks may still run."""
        return self.cancelled and self.count(ChunkStatus.RUNNING) > 0

    @property
    def status(self) -> RunStatus:
        """
        The run's status.

        If several statuses apply, the order of precedence is undone, cancelled, planned, completed, paused, failed. A
        run is failed if a chunk has failed and no chunk is pending or running. If none of these statuses applies, the
        run is running.
        """
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
