"""
Show a run over the time of its window: a map of cells, the slowest chunks, and failing chunks.

This module is pure. A plan takes a second to derive 300,000 chunks, so the map keeps the chunks.
"""

import heapq
from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from .instants import render_instant
from .plan import Chunk, Plan
from .replay import expand
from .run_state import ChunkState, ChunkStatus, Done, Run


class CellKind(StrEnum):
    """
    The kind of a map cell.

    A cell of several chunks is failed if a chunk has failed, else running if a chunk is running. Otherwise, the cell is
    done if all chunks are done, pending if no chunk is done, and partly done in all other cases.
    """

    DONE = "done"
    PARTLY = "partly done"
    RUNNING = "running"
    FAILED = "failed"
    PENDING = "pending"


class MapRow(NamedTuple):
    """One line of a map: its start and its cells in time order."""

    start: datetime
    cells: list[CellKind]


class ProgressMap:
    """The map of one plan's chunks, for any number of states of the plan's run."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._planned = tuple(plan.chunks())

    def rows(self, run: Run, width: int, most: int) -> list[MapRow]:
        """
        Return a map of at most *most* lines of at most *width* cells.

        A cell is one chunk if all chunks fit, otherwise several consecutive chunks. If a day has a whole number of
        cells and the lines suffice, all lines begin at the same time of day (UTC).
        """
        total = len(self._planned)
        each = -(-total // (width * most))
        per_line = min(width, -(-total // each))
        # Only chunks of constant length fill each day with the same number of cells.
        hours = None if self._plan.bounds else self._plan.chunk_hours
        day = 24 / hours / each if hours else 0.5
        if day.is_integer() and day <= width and total > width * each:
            fitting = int(width // day * day)
            per_line = fitting if total <= fitting * each * most else per_line
        cells = [self._cell(run, self._planned[at : at + each]) for at in range(0, total, each)]
        return [
            MapRow(self._planned[at * each].start, cells[at : at + per_line]) for at in range(0, len(cells), per_line)
        ]

    @staticmethod
    def _cell(run: Run, planned: tuple[Chunk, ...]) -> CellKind:
        statuses = {run.state(chunk.id).status for whole in planned for chunk in expand(run, whole)}
        for status, kind in ((ChunkStatus.FAILED, CellKind.FAILED), (ChunkStatus.RUNNING, CellKind.RUNNING)):
            if status in statuses:
                return kind
        if ChunkStatus.DONE not in statuses:
            return CellKind.PENDING
        return CellKind.DONE if statuses == {ChunkStatus.DONE} else CellKind.PARTLY

    def slowest(self, run: Run, count: int) -> list[tuple[Chunk, Done]]:
        """Return up to *count* done chunks with the longest durations, slowest first, with their results."""
        found = heapq.nlargest(count, run.done.items(), key=lambda item: item[1][3])
        chunks = self._find(run, {chunk_id for chunk_id, _ in found})
        return [(chunks[chunk_id], done) for chunk_id, done in found if chunk_id in chunks]

    def failing(self, run: Run, count: int) -> list[tuple[Chunk, ChunkState]]:
        """
        Return up to *count* unfinished chunks that have an error, with their states.

        Permanently failed chunks come first, then chunks with further attempts, both in time order.
        """
        bad = {key: state for key, state in run.chunks.items() if state.error and key not in run.splits}
        order = sorted(self._find(run, set(bad)).values(), key=lambda chunk: _urgency(bad[chunk.id], chunk))
        return [(chunk, bad[chunk.id]) for chunk in order[:count]]

    def _find(self, run: Run, wanted: set[str]) -> dict[str, Chunk]:
        return {chunk.id: chunk for chunk in self._all(run) if chunk.id in wanted} if wanted else {}

    def _all(self, run: Run) -> Iterator[Chunk]:
        for planned in self._planned:
            if planned.id in run.splits:
                yield from expand(run, planned)
            else:
                yield planned


def _urgency(state: ChunkState, chunk: Chunk) -> tuple[bool, datetime]:
    return state.status is not ChunkStatus.FAILED, chunk.start


def highlights(atlas: ProgressMap, run: Run, count: int = 3) -> dict[str, list[dict[str, object]]]:
    """
    Return the slowest done chunks under ``slowest`` and the failing chunks under ``failing``, as JSON values.

    Each list has at most *count* chunks.
    """
    return {
        "slowest": [
            {**_place(chunk), "seconds": seconds, "rows": rows, "attempt": attempt}
            for chunk, (attempt, rows, _, seconds) in atlas.slowest(run, count)
        ],
        "failing": [
            {**_place(chunk), "status": state.status, "attempt": state.attempt, "error": state.error}
            for chunk, state in atlas.failing(run, count)
        ],
    }


def _place(chunk: Chunk) -> dict[str, object]:
    return {"chunkId": chunk.id, "from": render_instant(chunk.start), "to": render_instant(chunk.end)}
