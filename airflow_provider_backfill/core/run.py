"""
The run as a replay of its events: the transition table, the one judge, and which chunks are next.

Writers (under the lock) and readers agree because both call :func:`apply_event`: a writer
applies an event before it appends it, a reader applies what was appended.
Pure: no clock, no disk.
"""

from collections.abc import Iterator

from ..errors import TransitionError
from .model import (
    Chunk,
    ChunkDone,
    ChunkFailed,
    ChunkReleased,
    ChunkSplit,
    ChunkStarted,
    ChunkState,
    ChunkStatus,
    ChunkVerified,
    Event,
    Plan,
    Run,
    RunCancelled,
    RunPaused,
    RunReplayed,
    RunResumed,
    RunStarted,
    RunStatus,
    Worker,
    WorkerSeen,
)

_NEXT = {
    # pending -> running: a worker claims the chunk.
    ChunkStatus.PENDING: {ChunkStatus.RUNNING},
    # running -> done: the rows are in the target and verified.
    # running -> failed: the attempt failed for good.
    # running -> pending: the attempt failed and will be retried, or the worker gave the chunk back.
    # running -> running: a later attempt takes over a claim whose worker and query are proven dead.
    ChunkStatus.RUNNING: {ChunkStatus.DONE, ChunkStatus.FAILED, ChunkStatus.PENDING, ChunkStatus.RUNNING},
    # done -> pending: the user replays it.
    ChunkStatus.DONE: {ChunkStatus.PENDING},
    # failed -> pending: the user resumes or replays.
    ChunkStatus.FAILED: {ChunkStatus.PENDING},
    # skipped -> pending: the user wants it after all.
    ChunkStatus.SKIPPED: {ChunkStatus.PENDING},
}


def new_run(plan: Plan) -> Run:
    """The run of a plan nobody has started."""
    return Run(plan_id=plan.plan_id, total=plan.chunk_count)


def apply_event(run: Run, event: Event) -> None:
    """
    Judge *event* against *run* and, if it is allowed, fold it in.

    Raises:
        TransitionError: The run's present state does not allow the event; *run* is unchanged.
    """
    match event:
        case RunStarted():
            _refuse(run.cancelled, run, "it is cancelled")
            run.started, run.paused = True, False
        case RunPaused():
            _refuse(not run.started, run, "it was never started")
            run.paused = True
        case RunCancelled():
            _refuse(run.status in (RunStatus.CANCELLED, RunStatus.COMPLETED), run, f"it is {run.status} already")
            run.cancelled = True
        case RunResumed():
            run.started, run.paused, run.cancelled = True, False, False
            _reset(run, (ChunkStatus.FAILED,))
        case RunReplayed():
            run.paused = False
            _reset(run, event.statuses, event.clear_window)
        case WorkerSeen():
            if worker := run.workers.get(event.by):
                worker.seen_at, worker.lease_seconds = event.at, event.lease_seconds
        case ChunkStarted():
            _start(run, event)
        case ChunkVerified():
            _running(run, event).verified[event.attempt] = event.content
        case ChunkDone() | ChunkFailed() | ChunkReleased() | ChunkSplit():
            _end(run, event)
    run.updated_at = event.at


def _start(run: Run, event: ChunkStarted) -> None:
    state = run.state(event.chunk_id)
    _refuse(run.cancelled, run, "it is cancelled")
    _refuse(event.chunk_id in run.splits, run, f"chunk {event.chunk_id} was split into parts")
    _refuse(
        event.attempt != state.attempt + 1,
        run,
        f"chunk {event.chunk_id} is at attempt {state.attempt}, so {event.attempt} is not the next",
    )
    _refuse(
        state.status is ChunkStatus.RUNNING and not event.takes_over,
        run,
        f"chunk {event.chunk_id} is claimed by {state.owner}",
    )
    _unclaim(run, state.owner)
    _move(run, event.chunk_id, state, ChunkStatus.RUNNING)
    state.attempt = event.attempt
    # A worker that was lost says nothing about the chunk, so taking over costs no try.
    state.tries += not event.takes_over
    state.owner, state.query_id, state.started_at = event.by, event.query_id, event.at
    run.started, run.paused = True, False
    run.attempts += 1
    claims = run.workers[event.by].claims + 1 if event.by in run.workers else 1
    run.workers[event.by] = Worker(event.at, event.lease_seconds, claims)


def _unclaim(run: Run, owner: str) -> None:
    if worker := run.workers.get(owner):
        worker.claims -= 1
        if not worker.claims:
            del run.workers[owner]


def _running(run: Run, event: ChunkVerified | ChunkDone | ChunkFailed | ChunkReleased | ChunkSplit) -> ChunkState:
    """The state of the chunk whose running attempt the event is about."""
    state = run.state(event.chunk_id)
    _refuse(
        state.status is not ChunkStatus.RUNNING or event.attempt != state.attempt,
        run,
        f"attempt {event.attempt} of chunk {event.chunk_id} is not the running one "
        f"({state.status}, attempt {state.attempt})",
    )
    return state


def _end(run: Run, event: ChunkDone | ChunkFailed | ChunkReleased | ChunkSplit) -> None:
    state = _running(run, event)
    match event:
        case ChunkDone():
            _move(run, event.chunk_id, state, ChunkStatus.DONE)
            state.content, state.seconds = event.content, event.seconds
            state.error, state.clear = "", False
            state.verified.clear()
            run.rows += event.content.rows
            run.seconds += event.seconds
        case ChunkFailed():
            _move(run, event.chunk_id, state, ChunkStatus.FAILED if event.final else ChunkStatus.PENDING)
            state.error = run.last_error = event.message
        case ChunkReleased():
            _move(run, event.chunk_id, state, ChunkStatus.PENDING)
            state.tries -= 1
        case ChunkSplit():
            _move(run, event.chunk_id, state, ChunkStatus.PENDING)
            del run.chunks[event.chunk_id]
            run.splits[event.chunk_id] = tuple(Chunk(part.id, part.start, part.end) for part in event.parts)
            run.total += len(event.parts) - 1
            run.last_error = event.message
    _unclaim(run, state.owner)
    state.owner = ""


def _move(run: Run, chunk_id: str, state: ChunkState, status: ChunkStatus) -> None:
    _refuse(status not in _NEXT[state.status], run, f"chunk {chunk_id} cannot go from {state.status} to {status}")
    for old, step in ((state.status, -1), (status, 1)):
        if old is not ChunkStatus.PENDING:
            run.counts[old] = run.counts.get(old, 0) + step
    state.status = status
    run.chunks[chunk_id] = state


def _reset(run: Run, statuses: tuple[ChunkStatus, ...], clear: bool = False) -> None:
    """Make ended chunks pending again, with a fresh budget of attempts."""
    for chunk_id, state in run.chunks.items():
        if state.status not in statuses:
            continue
        if state.content is not None:
            run.rows -= state.content.rows
            run.seconds -= state.seconds or 0.0
            state.content = state.seconds = None
        state.tries = 0
        state.clear = state.clear or clear
        _move(run, chunk_id, state, ChunkStatus.PENDING)


def _refuse(refused: bool, run: Run, reason: str) -> None:
    if refused:
        raise TransitionError(f"Plan {run.plan_id}: {reason}.")


def expand(run: Run, chunk: Chunk) -> Iterator[Chunk]:
    """Yield *chunk*, or the parts that took its place, in time order."""
    parts = run.splits.get(chunk.id)
    if parts is None:
        yield chunk
    else:
        for part in parts:
            yield from expand(run, part)


def select_chunks(plan: Plan, run: Run, *statuses: ChunkStatus) -> Iterator[Chunk]:
    """Yield the chunks of the run that stand at one of *statuses* (all, when none is given), in time order."""
    for planned in plan.chunks():
        for chunk in expand(run, planned):
            if not statuses or run.state(chunk.id).status in statuses:
                yield chunk
