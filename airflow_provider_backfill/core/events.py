"""
Define the events of a run. Each event is one line of the log.

The log is authoritative: :mod:`.replay` derives the state of a run from its events. This module is pure.
"""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from .model import Instant, Model
from .run_state import ChunkStatus, ContentSums, Run, Staged


class _Event(Model):
    at: Instant
    by: str
    """The author: ``host:pid:start:nonce`` of a worker, or the user of a command."""


class RunStarted(_Event):
    """The execution of the plan started, or continued after a pause that did not require a resume."""

    type: Literal["RunStarted"] = "RunStarted"


class RunPaused(_Event):
    """
    The run was paused and can continue later.

    If *until_resumed* is set, a person paused the run. Workers then release their chunks, and only a resume continues
    the run.
    """

    type: Literal["RunPaused"] = "RunPaused"
    reason: str
    until_resumed: bool = False


class RunCancelled(_Event):
    """The user cancelled the run; no chunk may be claimed until a resume."""

    type: Literal["RunCancelled"] = "RunCancelled"
    reason: str = ""


class RunUndoStarted(_Event):
    """
    The user began to restore the replaced rows, which may be in the target in part from now on.

    No chunk may be claimed, and the run cannot be resumed, until :class:`RunUndone` follows.
    """

    type: Literal["RunUndoStarted"] = "RunUndoStarted"


class RunUndone(_Event):
    """The replaced rows are back in the target; no chunk may be claimed until a resume."""

    type: Literal["RunUndone"] = "RunUndone"


class RunResumed(_Event):
    """The user resumed a paused, failed, cancelled or undone run: failed chunks are pending again."""

    type: Literal["RunResumed"] = "RunResumed"


class RunReplayed(_Event):
    """
    The user asked to execute ended chunks again, with a new budget of attempts.

    If *clear_window* is set, each attempt first deletes the chunk's window from the target.
    """

    type: Literal["RunReplayed"] = "RunReplayed"
    statuses: tuple[ChunkStatus, ...]
    clear_window: bool = False
    chunk_ids: tuple[str, ...] | None = None
    """The ids that limit the replay to some of the chunks with *statuses*; None means all chunks with *statuses*."""


class RunWaived(_Event):
    """
    The plan is not required: ``check`` lists the plan without counting it.

    The waiver ends at *until*, or earlier if the execution of the plan starts or resumes. If *until* is None, only the
    start or resume ends the waiver.
    """

    type: Literal["RunWaived"] = "RunWaived"
    reason: str
    until: Instant | None = None
    superseded_by: str = ""
    """The id of the plan that replaces this plan; empty if there is none."""


class RunThrottled(_Event):
    """
    A worker waits because of *reason*, and continues automatically when the reason no longer holds.

    Examples of reasons are a busy server, a server that does not answer, and a time outside the allowed hours.
    """

    type: Literal["RunThrottled"] = "RunThrottled"
    reason: str


class ParallelismSet(_Event):
    """The user set the maximum of parallel chunks over all workers, on each shard; 0 means no such limit."""

    type: Literal["ParallelismSet"] = "ParallelismSet"
    parallel: Annotated[int, Field(ge=0)]


class WorkerHeartbeat(_Event):
    """A worker is alive: its claims are valid for *lease_seconds* after this event."""

    type: Literal["WorkerHeartbeat"] = "WorkerHeartbeat"
    lease_seconds: float


class ChunkEvent(_Event):
    """The base of the events of a chunk's attempt."""

    chunk_id: str
    attempt: int


class ChunkStarted(ChunkEvent):
    """
    A worker claimed a chunk; the event is on disk before the query exists.

    *takes_over* is set if the claim replaces the claim of a dead worker, whose query is proven dead too.
    *on_behalf_of* is the user or Airflow task that started the worker. *shard* is the number of the shard that the
    worker fills; 0 if the target is one table.
    """

    type: Literal["ChunkStarted"] = "ChunkStarted"
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    query_id: str
    lease_seconds: float
    takes_over: bool = False
    on_behalf_of: str = ""
    shard: int = 0


class ChunkVerified(ChunkEvent):
    """
    The attempt's rows are staged and verified; from now on, only rows with the same content are published.

    *staged* describes the staging table if this event is the seal of the table. On replicas, and if the database of
    staging tables cannot rename tables, the event is the seal. Otherwise, a rename is the seal, and *staged* is None.

    *reach* is the range ``[first, last)`` of the rows' times in the target, if the plan needs these times and some lie
    outside the chunk's window; otherwise, *reach* is None. For example, the time of a date is the start of the day,
    which may precede the window.
    """

    type: Literal["ChunkVerified"] = "ChunkVerified"
    content: ContentSums
    staged: Staged | None = None
    reach: tuple[Instant, Instant] | None = None


class ChunkDone(ChunkEvent):
    """
    The chunk's rows are in the target.

    *read_rows* and *read_bytes* (uncompressed) are the server's counts for the statements; None if the server reports
    no reads, as for an embedded engine.
    """

    type: Literal["ChunkDone"] = "ChunkDone"
    content: ContentSums
    seconds: float
    read_rows: int | None = None
    read_bytes: int | None = None


class ChunkFailed(ChunkEvent):
    """
    The attempt failed. After a *final* failure, only a person starts another attempt.

    *unwritten* is set if this attempt wrote nothing to the target. *refused* is set if the target does not take the
    rows, because the chunk's window has rows of another writer, or because the target was altered. *unpublished* is
    set, together with *refused*, if it is known that no rows of earlier attempts were published.
    """

    type: Literal["ChunkFailed"] = "ChunkFailed"
    code: int | None = None
    name: str = ""
    message: str
    final: bool
    unwritten: bool = False
    refused: bool = False
    unpublished: bool = False


class ChunkReleased(ChunkEvent):
    """
    The chunk was released and is pending again; the attempt does not count towards the budget of attempts.

    A worker releases its chunk, for example after a pause, a cancellation or a kill. ``cancel`` releases the chunks of
    dead workers, and the recovery of a damaged log releases lost attempts.

    *unwritten* is set if the attempt wrote nothing to the target. *refused* is set if the worker released the chunk
    because a different run is active on the chunk's window.
    """

    type: Literal["ChunkReleased"] = "ChunkReleased"
    reason: str
    unwritten: bool = False
    refused: bool = False


class ChunkPart(Model):
    """
    One part of a split chunk.

    Attributes:
        key_range: The condition on the source's sorting key that the part's rows meet; empty if there is none.
        shard: The number of the shard that the chunk fills; 0 if the target is one table.
    """

    id: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    key_range: str = ""
    shard: int = 0


class ChunkSplit(ChunkEvent):
    """The chunk was too large, and its parts replace it."""

    type: Literal["ChunkSplit"] = "ChunkSplit"
    parts: tuple[ChunkPart, ...]
    message: str


class RunRestored(_Event):
    """
    The first event of a repaired log: the run as recovered.

    Attributes:
        uncertain: Ids of the chunks whose events may be lost.
    """

    type: Literal["RunRestored"] = "RunRestored"
    reason: str
    run: Run
    uncertain: tuple[str, ...] = ()


Event = Annotated[
    RunStarted
    | RunPaused
    | RunCancelled
    | RunUndoStarted
    | RunUndone
    | RunResumed
    | RunReplayed
    | RunWaived
    | RunRestored
    | RunThrottled
    | ParallelismSet
    | WorkerHeartbeat
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
    """Return the cached adapter that reads and writes the lines of the log; an adapter is slow to build."""
    return TypeAdapter(Event)
