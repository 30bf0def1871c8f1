"""
Replay the events of a run: the transition table, the judge of each event, and the choice of the next chunks.

Writers (under the lock) and readers agree because both call :func:`apply_event`: a writer before appending an event, a
reader after reading it. This module is pure: it uses no clock and no disk.
"""

from collections.abc import Iterator
from copy import deepcopy

from ..errors import TransitionError
from .events import (
    ChunkDone,
    ChunkFailed,
    ChunkReleased,
    ChunkSplit,
    ChunkStarted,
    ChunkVerified,
    Event,
    ParallelismSet,
    RunCancelled,
    RunPaused,
    RunReplayed,
    RunRestored,
    RunResumed,
    RunStarted,
    RunThrottled,
    RunUndone,
    RunUndoStarted,
    RunWaived,
    WorkerHeartbeat,
)
from .plan import Chunk, Plan
from .run_state import ChunkState, ChunkStatus, Run, RunStatus, Waiver, WorkerLease
from .window import Slice

_MAY_FIND: dict[type, frozenset[ChunkStatus]] = {
    # pending -> running: a worker claims the chunk.
    # running -> running: a worker takes over a claim whose worker and query are proven dead.
    ChunkStarted: frozenset({ChunkStatus.PENDING, ChunkStatus.RUNNING}),
    # running -> running: the attempt's rows are staged; the claim remains.
    ChunkVerified: frozenset({ChunkStatus.RUNNING}),
    # running -> done: the rows are in the target and verified.
    ChunkDone: frozenset({ChunkStatus.RUNNING}),
    # running -> failed permanently, or pending if another attempt follows.
    ChunkFailed: frozenset({ChunkStatus.RUNNING}),
    # running -> pending: the worker, ``cancel`` or the recovery of a damaged log released the chunk.
    ChunkReleased: frozenset({ChunkStatus.RUNNING}),
    # running -> replaced by its parts, which are pending.
    ChunkSplit: frozenset({ChunkStatus.RUNNING}),
    # done or failed -> pending: the user replays the chunk. A running chunk belongs to its worker.
    RunReplayed: frozenset({ChunkStatus.DONE, ChunkStatus.FAILED}),
}
"""By event type: the statuses that a chunk may have when its event arrives; for a replay, the statuses to reset."""


def new_run(plan: Plan) -> Run:
    """Return the state of a plan's run before the first event; planned parts replace the chunks that are too large."""
    return Run(plan_id=plan.plan_id, total=plan.total_chunks, splits=plan.planned_parts())


def apply_event(run: Run, event: Event) -> None:
    """
    Judge *event* against *run*, and apply it if it is allowed.

    Raises:
        TransitionError: The run's state does not allow the event; *run* is unchanged.
    """
    judge_event(run, event)
    match event:
        case RunStarted():
            _begin(run, event)
            run.started, run.paused, run.waiver = True, False, None
        case RunPaused():
            run.paused, run.throttled_by = True, ""
            run.pause_holds = run.pause_holds or event.until_resumed
        case RunCancelled():
            run.cancelled, run.throttled_by = True, ""
        case RunUndoStarted():
            run.cancelled, run.undoing, run.throttled_by = True, True, ""
        case RunUndone():
            run.cancelled, run.undone, run.undoing, run.throttled_by = True, True, False, ""
            _reset(run, (ChunkStatus.DONE,))
        case RunResumed():
            _begin(run, event)
            run.started, run.paused, run.cancelled, run.undone, run.waiver = True, False, False, False, None
            run.pause_holds = False
            _reset(run, (ChunkStatus.FAILED,))
        case RunReplayed():
            run.paused = False
            if event.clear_window and event.chunk_ids is None and ChunkStatus.DONE in event.statuses:
                run.cleared_at = event.at
            _reset(run, event.statuses, event.clear_window, event.chunk_ids)
        case RunWaived():
            run.waiver = Waiver(event.by, event.reason, event.until, event.superseded_by)
        case RunRestored():
            restored = deepcopy(event.run)
            for name in run.__slots__:
                setattr(run, name, getattr(restored, name))
        case RunThrottled():
            run.throttled_by = "" if run.cancelled else event.reason
        case ParallelismSet():
            run.parallel = event.parallel
        case WorkerHeartbeat():
            if worker := run.workers.get(event.by):
                worker.seen_at, worker.lease_seconds = event.at, event.lease_seconds
        case ChunkStarted():
            _start(run, event)
        case ChunkVerified():
            state = run.chunks[event.chunk_id]
            state.verified[event.attempt], state.staged = event.content, event.staged
            if event.reach is not None:
                run.reach[event.chunk_id] = event.reach
        case ChunkDone() | ChunkFailed() | ChunkReleased() | ChunkSplit():
            _end(run, event)
    # Clocks of several hosts differ, so a later event may have an earlier time.
    run.updated_at = max(run.updated_at or event.at, event.at)


def _begin(run: Run, event: RunStarted | RunResumed) -> None:
    if run.started_at is None:
        run.started_at, run.started_by = event.at, event.by


def judge_event(run: Run, event: Event) -> None:
    """
    Check that an event may follow the current state of the run.

    Raises:
        TransitionError: The run's state does not allow the event.
    """
    reason = ""
    match event:
        case RunStarted() if run.cancelled:
            reason = "it is cancelled"
        case RunStarted() if run.pause_holds:
            reason = "it is paused until a user resumes it"
        case RunPaused() if not run.started:
            reason = "it was never started"
        case RunPaused() if event.until_resumed and run.status in (RunStatus.CANCELLED, RunStatus.COMPLETED):
            reason = f"it is {run.status} already"
        case RunCancelled() if run.status in (RunStatus.CANCELLED, RunStatus.COMPLETED, RunStatus.UNDONE):
            reason = f"it is {run.status} already"
        case RunResumed() | RunReplayed() if run.undoing:
            # The chunks stay done: the undo needs to know them, and another attempt would overwrite the backup.
            reason = "its undo has begun and is not finished"
        case RunReplayed() if not _MAY_FIND[RunReplayed].issuperset(event.statuses):
            reason = f"only chunks that have ended can be replayed, not {', '.join(event.statuses)}"
        case RunWaived() if run.status is RunStatus.COMPLETED:
            reason = "it is completed, so there is nothing to waive"
        case RunRestored() if run.updated_at is not None or event.run.plan_id != run.plan_id:
            reason = "a run is restored at its very beginning, and from its own state"
        case ChunkStarted():
            reason = _why_not_start(run, event)
        case ChunkVerified() | ChunkDone() | ChunkFailed() | ChunkReleased() | ChunkSplit():
            reason = _why_not_end(run, event)
        case _:
            pass
    if reason:
        raise TransitionError(f"Plan {run.plan_id}: {reason}.")


def _why_not_start(run: Run, event: ChunkStarted) -> str:
    chunk, state = event.chunk_id, run.state(event.chunk_id)
    if run.cancelled:
        return "it is cancelled"
    if run.pause_holds:
        return "it is paused until a user resumes it"
    if chunk in run.splits:
        return f"chunk {chunk} was split into parts"
    if event.attempt != state.attempt + 1:
        return f"chunk {chunk} is at attempt {state.attempt}, so {event.attempt} is not the next"
    if state.status not in _MAY_FIND[ChunkStarted]:
        return f"chunk {chunk} is {state.status}"
    if state.status is ChunkStatus.RUNNING and not event.takes_over:
        return f"chunk {chunk} is claimed by {state.owner}"
    if state.status is ChunkStatus.PENDING and event.takes_over:
        return f"chunk {chunk} is not claimed, so there is nothing to take over"
    return ""


def _why_not_end(run: Run, event: ChunkVerified | ChunkDone | ChunkFailed | ChunkReleased | ChunkSplit) -> str:
    chunk, state = event.chunk_id, run.state(event.chunk_id)
    if state.status not in _MAY_FIND[type(event)] or event.attempt != state.attempt:
        return (
            f"attempt {event.attempt} of chunk {chunk} is not the running one ({state.status}, attempt {state.attempt})"
        )
    if isinstance(event, ChunkVerified) and state.verified.get(event.attempt, event.content) != event.content:
        return f"attempt {event.attempt} of chunk {chunk} was verified with other rows"
    if isinstance(event, ChunkVerified) and state.staged not in (None, event.staged) and not state.clear:
        return f"chunk {chunk} has staged its rows in {state.staged.table}, and those are published"
    if isinstance(event, ChunkSplit):
        ids = {part.id for part in event.parts}
        if len(ids) < 2 or len(ids) < len(event.parts):
            return f"chunk {chunk} would be split into {len(event.parts)} parts that are not several different ones"
        if known := ids & (run.chunks.keys() | run.done.keys() | run.splits.keys()):
            return f"chunk {chunk} would be split into {min(known)}, which is a chunk already"
    return ""


def _start(run: Run, event: ChunkStarted) -> None:
    state = run.state(event.chunk_id)
    _unclaim(run, state.owner)
    state.touched = state.touched or event.takes_over
    _move(run, event.chunk_id, state, ChunkStatus.RUNNING)
    state.attempt = event.attempt
    # The loss of a worker says nothing about the chunk, so a takeover does not count as a try.
    state.tries += not event.takes_over
    state.owner, state.query_id, state.started_at = event.by, event.query_id, event.at
    run.started, run.paused, run.throttled_by = True, False, ""
    run.attempts += 1
    claims = run.workers[event.by].claims + 1 if event.by in run.workers else 1
    run.workers[event.by] = WorkerLease(event.at, event.lease_seconds, claims, event.shard)


def _unclaim(run: Run, owner: str) -> None:
    if worker := run.workers.get(owner):
        worker.claims -= 1
        if not worker.claims:
            del run.workers[owner]


def _end(run: Run, event: ChunkDone | ChunkFailed | ChunkReleased | ChunkSplit) -> None:
    state = run.chunks[event.chunk_id]
    _unclaim(run, state.owner)
    state.owner = state.query_id = ""
    match event:
        case ChunkDone():
            _move(run, event.chunk_id, state, ChunkStatus.DONE)
            del run.chunks[event.chunk_id]
            run.done[event.chunk_id] = (event.attempt, *event.content, event.seconds)
            run.rows += event.content.rows
            run.read_rows += event.read_rows or 0
            run.read_bytes += event.read_bytes or 0
            run.seconds += event.seconds
        case ChunkFailed():
            _move(run, event.chunk_id, state, ChunkStatus.FAILED if event.final else ChunkStatus.PENDING)
            state.error = run.last_error = event.message
            _leave(state, event)
        case ChunkReleased():
            _move(run, event.chunk_id, state, ChunkStatus.PENDING)
            state.tries -= 1
            _leave(state, event)
        case ChunkSplit():
            _move(run, event.chunk_id, state, ChunkStatus.PENDING)
            del run.chunks[event.chunk_id]
            run.splits[event.chunk_id] = tuple(Chunk(p.id, p.start, p.end, p.key_range, p.shard) for p in event.parts)
            run.total += len(event.parts) - 1
            run.last_error = event.message


def _leave(state: ChunkState, event: ChunkFailed | ChunkReleased) -> None:
    known = isinstance(event, ChunkFailed) and event.unpublished
    state.touched = (state.touched and not known) or not event.unwritten
    if event.refused and not state.touched:
        # The target has no row of the chunk, and does not take the staged rows. Forget them, so that the next attempt
        # stages new rows.
        state.verified, state.staged = {}, None


def _move(run: Run, chunk_id: str, state: ChunkState, status: ChunkStatus) -> None:
    for old, step in ((state.status, -1), (status, 1)):
        if old is not ChunkStatus.PENDING:
            run.counts[old] = run.counts.get(old, 0) + step
    state.status = status
    run.chunks[chunk_id] = state


def _reset(
    run: Run, statuses: tuple[ChunkStatus, ...], clear: bool = False, only: tuple[str, ...] | None = None
) -> None:
    """
    Make chunks with one of *statuses* pending again, with a new budget of attempts.

    Args:
        clear: Whether each attempt of a reset chunk first deletes the chunk's window from the target. If an
            earlier reset has set this for a chunk, False does not change it.
        only: The ids of the chunks that may be reset; None for all chunks.
    """
    if only is not None:
        again = [chunk_id for chunk_id in only if run.state(chunk_id).status in statuses]
    else:
        again = [chunk_id for chunk_id, state in run.chunks.items() if state.status in statuses]
        if ChunkStatus.DONE in statuses:
            again += run.done
    for chunk_id in again:
        state = run.state(chunk_id)
        if state.content is not None:
            run.rows -= state.content.rows
            run.seconds -= state.seconds or 0.0
            state.content = state.seconds = None
            del run.done[chunk_id]
        state.tries = 0
        state.clear = state.clear or clear
        _move(run, chunk_id, state, ChunkStatus.PENDING)


def expand(run: Run, chunk: Chunk) -> Iterator[Chunk]:
    """Yield *chunk* if it was not split; otherwise its parts at any depth that were not split, in time order."""
    parts = run.splits.get(chunk.id)
    if parts is None:
        yield chunk
    else:
        for part in parts:
            yield from expand(run, part)


def filled_slices(run: Run, chunk: Chunk) -> Iterator[Slice]:
    """
    Yield the windows within *chunk* whose rows are all in the target, in time order.

    A window that was cut by key is yielded only if all parts of the window are done.
    """
    parts = run.splits.get(chunk.id)
    if parts is not None and parts[0].key_range == chunk.key_range:
        for part in parts:
            yield from filled_slices(run, part)
    elif all(run.state(leaf.id).status is ChunkStatus.DONE for leaf in expand(run, chunk)):
        yield chunk.start, chunk.end


def select_chunks(plan: Plan, run: Run, *statuses: ChunkStatus) -> Iterator[Chunk]:
    """
    Yield the chunks of *plan* with one of *statuses* (all chunks if none is given), in time order.

    The parts of a split chunk replace the chunk. The iteration ends at the latest after as many chunks as the whole run
    had in these statuses when the iteration began.
    """
    left = sum(run.count(status) for status in statuses) if statuses else run.total
    for planned in plan.chunks() if left else ():
        for chunk in expand(run, planned):
            if not statuses or run.state(chunk.id).status in statuses:
                yield chunk
                left -= 1
        if not left:
            return
