"""Conclude an attempt: build its event for the log, and decide whether to retry, split or give up a failed chunk."""

from collections.abc import Sequence
from dataclasses import dataclass

from ..clickhouse.attempt import OutdatedError
from ..clickhouse.client import ClickHouse
from ..clickhouse.foreign_rows import ForeignRowsError
from ..core.events import ChunkDone, ChunkFailed, ChunkPart, ChunkReleased, ChunkSplit
from ..core.facts import TableFacts
from ..core.plan import Chunk, Plan
from ..core.retry import RetryDecision, classify_error
from ..core.run_state import ContentSums, Run
from ..errors import BackfillError, StatementRefusedError
from .lease import utc_now


@dataclass(frozen=True, slots=True)
class Outcomes:
    """
    A builder of the final events of one worker's attempts.

    Attributes:
        owner: The worker's name in the log.
        retries: The maximum number of attempts per chunk, including the first.
    """

    server: ClickHouse
    plan: Plan
    target: TableFacts
    owner: str
    retries: int

    def done(
        self, chunk: Chunk, number: int, content: ContentSums, seconds: float, reading: Sequence[int]
    ) -> ChunkDone:
        """
        Return the event of a successful attempt.

        Args:
            seconds: The duration of the attempt, in seconds.
            reading: The numbers of rows and bytes that the attempt read; 0 if the server does not report a number.
        """
        rows, size = reading
        return ChunkDone(
            at=utc_now(),
            by=self.owner,
            chunk_id=chunk.id,
            attempt=number,
            content=content,
            seconds=round(seconds, 3),
            read_rows=rows or None,
            read_bytes=size or None,
        )

    def released(
        self, chunk: Chunk, number: int, reason: str, *, unwritten: bool, refused: bool = False
    ) -> ChunkReleased:
        """
        Return the event of an attempt that releases its chunk.

        Args:
            unwritten: Whether the attempt wrote nothing to the target.
            refused: Whether the attempt ended because another run is at work on an overlapping window.
        """
        return ChunkReleased(
            at=utc_now(),
            by=self.owner,
            chunk_id=chunk.id,
            attempt=number,
            reason=reason,
            unwritten=unwritten,
            refused=refused,
        )

    def failed(
        self, run: Run, chunk: Chunk, number: int, error: BackfillError, *, unwritten: bool
    ) -> ChunkFailed | ChunkSplit:
        """
        Return the event of an attempt that failed with *error*: a split or a failure.

        A chunk that is too heavy is split if it can be cut, has no verified rows, and does not clear its window. The
        server is asked for the bounds of the parts. A failure is final if a retry is useless or no attempt is left.

        Args:
            unwritten: Whether the attempt wrote nothing to the target.
        """
        code, name = (error.code, error.name) if isinstance(error, StatementRefusedError) else (None, "")
        decision = classify_error(error)
        state = run.state(chunk.id)
        # Do not split a chunk with verified rows, because some of the rows may already be in the target. Do not split
        # a chunk that clears its window, because the clear covers the whole window.
        may_split = decision is RetryDecision.SPLIT and not (state.verified or state.clear)
        if may_split and (parts := self._parts(chunk)):
            return ChunkSplit(
                at=utc_now(), by=self.owner, chunk_id=chunk.id, attempt=number, parts=parts, message=error.message
            )
        unpublished = isinstance(error, ForeignRowsError | OutdatedError) and error.unpublished
        return ChunkFailed(
            at=utc_now(),
            by=self.owner,
            chunk_id=chunk.id,
            attempt=number,
            code=code,
            name=name,
            message=str(error),
            final=decision is RetryDecision.FINAL or state.tries >= self.retries,
            unwritten=unwritten,
            refused=isinstance(error, ForeignRowsError) or unpublished,
            unpublished=unpublished,
        )

    def _parts(self, chunk: Chunk) -> tuple[ChunkPart, ...]:
        # Imported here: only a chunk that is too large needs the rules of planning.
        from .chunk_bounds import parts_in_place

        return parts_in_place(self.server, self.target, self.plan, chunk)
