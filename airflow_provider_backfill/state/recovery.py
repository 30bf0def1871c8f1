"""
Recover a run from a damaged log, and name the chunks whose events may be lost.

The rules are cautious. A chunk counts as done only if a readable line or the checkpoint says so. All chunks
that a lost line may concern are named, so that a person checks these chunks before they are written again.
"""

from copy import deepcopy
from dataclasses import dataclass, field

from pydantic import ValidationError

from ..core.events import ChunkDone, ChunkReleased, ChunkStarted, ChunkVerified, Event, event_adapter
from ..core.plan import Plan
from ..core.replay import apply_event, new_run, select_chunks
from ..core.run_state import ChunkState, ChunkStatus, Run
from ..errors import TransitionError


@dataclass(slots=True)
class RecoveredRun:
    """
    A run, recovered as far as a damaged log allows.

    Attributes:
        read: Number of lines that the run is recovered from.
        damaged: Numbers of the unreadable lines after the checkpoint.
        lost: Number of lines that the checkpoint contains and the log lacks.
        uncertain: Ids of chunks that may be done although no readable line says so.
    """

    run: Run
    read: int = 0
    damaged: list[int] = field(default_factory=list)
    lost: int = 0
    uncertain: tuple[str, ...] = ()


def recover_run(plan: Plan, log: bytes, checkpoint: Run | None, last: bytes, seen: int) -> RecoveredRun:
    """
    Return the run as far as a damaged log allows, and the chunks whose state is uncertain.

    Args:
        log: The log's bytes; an incomplete last line is ignored.
        checkpoint: The replay from before the damage, up to the line *last* with number *seen*; None if there is none.
    """
    lines = log[: log.rfind(b"\n") + 1].splitlines(keepends=True)
    found = RecoveredRun(new_run(plan))
    whole = True
    if checkpoint is not None:
        found.run = deepcopy(checkpoint)
        found.lost = max(seen - len(lines), 0)
        found.read = seen - found.lost
        begin = lines.index(last) + 1 if last in lines else min(seen, len(lines))
        # Damage to lines that the checkpoint contains loses nothing, as long as the lines keep their positions.
        whole = last in lines or (not found.lost and _event(lines[seen - 1]) is None)
    else:
        # The first line is the header, unless the header was lost.
        begin = 1 if lines and _event(lines[0]) is None else 0
        found.read = begin
    misfits: set[str] = set()
    for number, line in enumerate(lines[begin:], begin + 1):
        event = _event(line)
        if event is None:
            found.damaged.append(number)
            continue
        found.read += 1
        try:
            apply_event(found.run, event)
        except TransitionError:
            if isinstance(event, ChunkStarted | ChunkVerified | ChunkDone):
                _believe(found.run, event)
            misfits.add(getattr(event, "chunk_id", ""))
    if not whole or len(found.damaged) > 1 or (misfits and not found.damaged):
        # Several lines may be lost. Lost lines may have claimed and ended any chunk.
        states = (ChunkStatus.PENDING, ChunkStatus.RUNNING, ChunkStatus.FAILED)
        found.uncertain = tuple(chunk.id for chunk in select_chunks(plan, found.run, *states))
    elif found.damaged:
        # One lost line leaves a trace: a chunk that looks claimed, or a chunk with later events that the run refuses.
        running = {chunk.id for chunk in select_chunks(plan, found.run, ChunkStatus.RUNNING)}
        found.uncertain = tuple(sorted((running | misfits) - found.run.done.keys() - {""}))
    return found


def _event(line: bytes) -> Event | None:
    try:
        return event_adapter().validate_json(line)
    except ValidationError:
        return None


def _believe(run: Run, event: ChunkStarted | ChunkVerified | ChunkDone) -> None:
    """
    Apply an event that the run refuses because earlier events were lost, as if its attempt had been claimed.

    The claim must have existed, because the writer judged the event before writing it. Ignore an event of a split
    chunk, of an older attempt or of a done attempt, and a claim for an attempt that was claimed already.
    """
    chunk_id, state = event.chunk_id, run.state(event.chunk_id)
    if chunk_id in run.splits or event.attempt < state.attempt + isinstance(event, ChunkStarted):
        return
    if state.status is ChunkStatus.DONE and event.attempt == state.attempt:
        return
    cancelled, run.cancelled = run.cancelled, False
    if state.status is ChunkStatus.RUNNING:
        released = ChunkReleased(at=event.at, by=event.by, chunk_id=chunk_id, attempt=state.attempt, reason="lost")
        apply_event(run, released)
    elif state.status is not ChunkStatus.PENDING:
        run.counts[state.status] -= 1
        if done := run.done.pop(chunk_id, None):
            run.rows, run.seconds = run.rows - done[1], run.seconds - done[3]
    # Of the earlier attempts, only the verified rows and the staged table affect this attempt.
    run.chunks[chunk_id] = ChunkState(attempt=event.attempt - 1, verified=dict(state.verified), staged=state.staged)
    if isinstance(event, ChunkStarted):
        apply_event(run, event.model_copy(update={"takes_over": False}))
    else:
        # Reconstruct the claim that must have existed; its bounds have no effect here.
        claim = ChunkStarted(
            at=event.at,
            by=event.by,
            chunk_id=chunk_id,
            attempt=event.attempt,
            start=event.at,
            end=event.at,
            query_id="",
            lease_seconds=0.0,
        )
        apply_event(run, claim)
        apply_event(run, event)
    run.cancelled = cancelled
