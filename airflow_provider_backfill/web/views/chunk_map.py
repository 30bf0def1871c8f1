"""
Keep a run's chunks in time order as arrays, from which the page draws its map.

Deriving a plan's chunks costs a hash per chunk. So each process does this one time, in slices. Later, only the chunks
of new events are updated.
"""

import itertools
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from ...commands.session import Payload
from ...core.instants import from_ms, to_ms
from ...core.plan import Chunk, Plan
from ...core.replay import expand
from ...core.run_state import ChunkStatus, Run

_HOUR = 3_600_000
_DAY = 24 * _HOUR
# Readable lengths of an aggregated cell, in milliseconds. If all are too short, the last length is doubled.
_NICE = [
    *(minutes * 60_000 for minutes in (1, 5, 15, 30)),
    *(hours * _HOUR for hours in (1, 2, 3, 4, 6, 8, 12)),
    *(days * _DAY for days in (1, 2, 7, 14, 28)),
]
# The milliseconds from 1970-01-01 to the first Monday. Weeks begin on Monday.
_MONDAY = 4 * _DAY
_STATUSES = (ChunkStatus.PENDING, ChunkStatus.RUNNING, ChunkStatus.DONE, ChunkStatus.FAILED)
_CODE = {status: code for code, status in enumerate(_STATUSES)}
_DONE = _CODE[ChunkStatus.DONE]


class ChunkIndex:
    """
    A run's planned chunks in time order, as arrays.

    A split chunk has the status of its parts: failed if one failed, otherwise running if one runs, otherwise pending
    until all are done. The same applies to a slice with chunks on several shards.
    """

    def __init__(self, plan: Plan) -> None:
        self._names: list[str] = []
        # The chunks of further shards, by the position of the first shard's chunk.
        self._further: dict[int, list[str]] = {}
        self.bounds = array("q", [to_ms(plan.start)])
        self._left: Iterator[Chunk] | None = plan.chunks()
        self._place: dict[str, int] = {}
        self._parts: dict[str, tuple[int, int, int]] = {}

    def __len__(self) -> int:
        return len(self._names)

    def build(self, run: Run, seconds: float) -> bool:
        """Derive the plan's chunks for at most *seconds*; return whether all chunks and *run* are included."""
        if self._left is None:
            return True
        deadline = time.monotonic() + seconds
        for chunk in self._left:
            if self._names and to_ms(chunk.end) == self.bounds[-1]:
                self._place[chunk.id] = len(self._names) - 1
                self._further.setdefault(len(self._names) - 1, []).append(chunk.id)
                continue
            self._place[chunk.id] = len(self._names)
            self._names.append(chunk.id)
            self.bounds.append(to_ms(chunk.end))
            if not len(self._names) % 500 and time.monotonic() > deadline:
                return False
        self._left = None
        self.fill(run)
        return True

    def fill(self, run: Run) -> None:
        """Fill all arrays from *run*, for the first time or after a change that affects many chunks."""
        size = len(self._names)
        self._status = bytearray(size)
        self._split = bytearray(size)
        self._rows, self._seconds = array("q", bytes(8 * size)), array("d", bytes(8 * size))
        for name in list(run.splits):
            if name in self._place:
                self._note_parts(run, name)
        for name in (*run.done, *run.chunks, *run.splits):
            if (place := self._place.get(name)) is not None:
                self._set(run, place)

    def _note_parts(self, run: Run, name: str) -> None:
        place = self._find(name)
        if place is None:
            return
        for part in run.splits.get(name, ()):
            self._parts[part.id] = (place, to_ms(part.start), to_ms(part.end))
            self._note_parts(run, part.id)

    def _find(self, name: str) -> int | None:
        if (place := self._place.get(name)) is not None:
            return place
        part = self._parts.get(name)
        return part[0] if part else None

    def window(self, name: str) -> tuple[int, int] | None:
        """Return the window of a chunk or part, in milliseconds since 1970; None for an unknown id."""
        if (place := self._place.get(name)) is not None:
            return self.bounds[place], self.bounds[place + 1]
        part = self._parts.get(name)
        return part[1:] if part else None

    def follow(self, run: Run, events: Iterable[Payload]) -> None:
        """Update the chunks of *events* from *run*, which must include these events."""
        changed = set()
        for event in events:
            if event["type"] in ("RunReplayed", "RunResumed", "RunRestored"):
                self.fill(run)
                return
            name = event.get("chunkId")
            if name is None:
                continue
            if event["type"] == "ChunkSplit":
                self._note_parts(run, name)
            if (place := self._find(name)) is not None:
                changed.add(place)
        for place in changed:
            self._set(run, place)

    def _set(self, run: Run, place: int) -> None:
        name = self._names[place]
        further = place in self._further
        if not further and (done := run.done.get(name)) is not None:
            self._status[place], self._rows[place], self._seconds[place] = _DONE, done[1], done[3]
            return
        if not further and name not in run.splits:
            self._status[place] = _CODE[run.state(name).status]
            self._rows[place], self._seconds[place] = 0, 0.0
            return
        states = [run.state(part.id) for part in self._leaves(run, place)]
        found = {state.status for state in states}
        order = (ChunkStatus.FAILED, ChunkStatus.RUNNING, ChunkStatus.PENDING)
        self._status[place] = _CODE[next((status for status in order if status in found), ChunkStatus.DONE)]
        self._split[place] = 1
        self._rows[place] = sum(state.content.rows for state in states if state.content)
        self._seconds[place] = sum(state.seconds or 0.0 for state in states)

    def chunk(self, name: str) -> Chunk | None:
        """Return the chunk or part with the id *name*; None for an unknown id."""
        window = self.window(name)
        return Chunk(name, from_ms(window[0]), from_ms(window[1])) if window else None

    def above(self, run: Run, name: str) -> str:
        """Return the id of the chunk that has *name* as a part; empty for a whole chunk."""
        return next((whole for whole, parts in run.splits.items() if any(part.id == name for part in parts)), "")

    def map(self, run: Run, start: int | None, end: int | None, cells: int) -> Payload:
        """
        Return the map of the chunks that meet ``[start, end)``, in at most *cells* cells, or 2 if *cells* is 1.

        Times are in milliseconds since 1970; a bound that is None sets no limit. If no chunk meets the window, the map
        has all chunks.

        A cell is ``[from, to, chunks, done, running, failed, rows, seconds, split]``. If ``cellLength`` is 0,
        each cell is one chunk. Such a cell also has the chunk's id and a list of parts (``[id, from, to, status, rows,
        seconds]``). The list is empty for a chunk that is not split.
        """
        first = max(0, bisect_right(self.bounds, start) - 1) if start is not None else 0
        last = min(len(self), bisect_left(self.bounds, end)) if end is not None else len(self)
        if first >= last:
            first, last = 0, len(self)
        edges, length = self._edges(first, last, max(cells, 1))
        found: list[list[Any]] = []
        for low, high in itertools.pairwise(edges):
            status = self._status[low:high]
            cell: list[Any] = [
                self.bounds[low],
                self.bounds[high],
                high - low,
                *(status.count(_CODE[which]) for which in _STATUSES if which is not ChunkStatus.PENDING),
                sum(self._rows[low:high]),
                round(sum(self._seconds[low:high]), 3),
                self._split[low:high].count(1),
            ]
            # People expect done before running.
            cell[3], cell[4] = cell[4], cell[3]
            if length == 0:
                cell.append(self._names[low])
                cell.append([self._part(run, part) for part in self._leaves(run, low)] if self._split[low] else [])
            found.append(cell)
        return {
            "from": self.bounds[first],
            "to": self.bounds[last],
            "whole": last - first == len(self),
            "cellLength": length,
            "chunks": last - first,
            "cells": found,
        }

    def _edges(self, first: int, last: int, cells: int) -> tuple[Sequence[int], int]:
        """
        Return the positions where the cells begin, followed by *last*, and the length of a cell.

        The length is in milliseconds; 0 if each cell is one chunk.
        """
        if last - first <= cells:
            return range(first, last + 1), 0
        start, end = self.bounds[first], self.bounds[last]
        # Round up. The window may cut the first and the last cell, so reserve one cell.
        wanted = -((start - end) // max(1, cells - 1))
        length = next((nice for nice in _NICE if nice >= wanted), _NICE[-1])
        while length < wanted:
            length *= 2
        shift = _MONDAY if length % (7 * _DAY) == 0 else 0
        edges, edge = [first], (start - shift) // length * length + shift + length
        while edge < end:
            place = bisect_left(self.bounds, edge, edges[-1], last)
            if edges[-1] < place < last:
                edges.append(place)
            edge += length
        return [*edges, last], length

    def _leaves(self, run: Run, place: int) -> Iterator[Chunk]:
        window = from_ms(self.bounds[place]), from_ms(self.bounds[place + 1])
        for name in (self._names[place], *self._further.get(place, ())):
            yield from expand(run, Chunk(name, *window))

    def _part(self, run: Run, part: Chunk) -> list[Any]:
        state = run.state(part.id)
        rows = state.content.rows if state.content else 0
        return [part.id, to_ms(part.start), to_ms(part.end), state.status, rows, state.seconds or 0]
