"""
The events of a run: one line of the log each.

The log is the truth; :mod:`.replay` folds the events into a run. Pure.
"""

from functools import cache
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter

from .model import Instant, Model
from .run_state import ChunkStatus, ContentSums, Run, Staged


class _Event(Model):
    at: Instant
    by: str
    """Who wrote it: ``host:pid:nonce`` of a worker, or the user for a command."""


class RunStarted(_Event):
    """Somebody began to execute the plan, or went on after a pause."""

    type: Literal["RunStarted"] = "RunStarted"


class RunPaused(_Event):
    """
    The runner stopped on purpose and can go on later.

    With *until_resumed* a person paused the run: workers give their chunks back, and only a resume goes on.
    """

    type: Literal["RunPaused"] = "RunPaused"
    reason: str
    until_resumed: bool = False


class RunCancelled(_Event):
    """The user stopped the run; no chunk may be claimed until it is resumed."""

    type: Literal["RunCancelled"] = "RunCancelled"
    reason: str = ""


class RunUndone(_Event):
    """What the run had replaced is back in the target; no chunk may be claimed until it is resumed."""

    type: Literal["RunUndone"] = "RunUndone"


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


class RunThrottled(_Event):
    """A worker waits before its next chunk until the server has room; it goes on by itself."""

    type: Literal["RunThrottled"] = "RunThrottled"
    reason: str


class ParallelismSet(_Event):
    """The user turns how many chunks of the plan run at once, over all workers; 0 leaves it to each worker."""

    type: Literal["ParallelismSet"] = "ParallelismSet"
    parallel: Annotated[int, Field(ge=0)]


class WorkerHeartbeat(_Event):
    """A worker is alive and keeps its claims for *lease_seconds* more."""

    type: Literal["WorkerHeartbeat"] = "WorkerHeartbeat"
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


class ChunkVerified(ChunkEvent):
    """
    The attempt's rows are staged and verified; from here on only this result or an equal one is published.

    *staged* names them where the target is replicated, or its database renames no table: what is in the log is sealed.
    *reach* is ``[first, last)`` of their time in the target when some lie outside the chunk's window, such as at
    the start of their day.
    """

    type: Literal["ChunkVerified"] = "ChunkVerified"
    content: ContentSums
    staged: Staged | None = None
    reach: tuple[Instant, Instant] | None = None


class ChunkDone(ChunkEvent):
    """
    The chunk's rows are in the target.

    *read_rows* and *read_bytes* are what its statements read, uncompressed, as the server counted
    while they ran; None where it did not say, as an embedded engine does not.
    """

    type: Literal["ChunkDone"] = "ChunkDone"
    content: ContentSums
    seconds: float
    read_rows: int | None = None
    read_bytes: int | None = None


class ChunkFailed(ChunkEvent):
    """
    The attempt failed; *final* when no further attempt will be made by itself.

    *refused* when it has written nothing to the target, because rows of others are there.
    """

    type: Literal["ChunkFailed"] = "ChunkFailed"
    code: int | None = None
    name: str = ""
    message: str
    final: bool
    refused: bool = False


class ChunkReleased(ChunkEvent):
    """The worker gave the chunk back unharmed (pause, cancel, kill); the attempt does not count."""

    type: Literal["ChunkReleased"] = "ChunkReleased"
    reason: str


class ChunkPart(Model):
    """
    One part of a split chunk.

    Attributes:
        key_range: The condition on the source's sorting key that its rows meet, where time does not tell parts apart.
    """

    id: str
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    key_range: str = ""


class ChunkSplit(ChunkEvent):
    """The chunk was too heavy; its parts take its place."""

    type: Literal["ChunkSplit"] = "ChunkSplit"
    parts: tuple[ChunkPart, ...]
    message: str


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
    """Reads and writes one line of an event log; made when first used, since it costs a good part of a start."""
    return TypeAdapter(Event)
