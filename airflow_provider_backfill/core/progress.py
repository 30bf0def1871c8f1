"""
The pace of a run and the time left: one estimator for terminal, log, page and API.

Pure: every moment is passed in, in seconds of one clock.
"""

from collections import deque
from itertools import pairwise
from math import fsum, sqrt
from typing import NamedTuple

# The recent past that counts: a third of the run so far, within these bounds, and at least so many completions.
_LEAST_SECONDS, _MOST_SECONDS = 30.0, 600.0
_LEAST_COMPLETIONS = 12
_KEPT = 4096
# A trend is looked for over so many parts of the run, of at least so many chunks, and believed when it is so many times
# its own error; it makes a chunk to come at most so much slower or faster than those of late.
_TREND_PARTS, _TREND_LEAST, _TREND_SURE, _TREND_AT_MOST = 12, 6, 5.0, 2.0


class Pace(NamedTuple):
    """What was done per second recently: chunks, rows written, rows and uncompressed bytes read."""

    chunks: float
    rows: float
    read_rows: float
    read_bytes: float


class _Point(NamedTuple):
    at: float
    chunks: int
    rows: int
    read_rows: int
    read_bytes: int


class ProgressMeter:
    """
    Measures a run's pace over the last minutes, from completions that are added in time order.

    The recent past is a third of the run so far, between 30 seconds and 10 minutes, and at least
    twelve completions. A shorter one jumps with every uneven chunk; the whole run would take
    long to notice that the pace has changed. Where chunks clearly get longer or shorter along the
    window, as those of a table that has grown do, the time left follows that trend.

    Args:
        began: When the run began or continued.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._points: deque[_Point] = deque([_Point(began, 0, 0, 0, 0)], maxlen=_KEPT)

    def begin(self, at: float) -> None:
        """
        Note that a worker began at *at*; after a gap, what was done before says nothing about the pace.

        Each task of a DAG run begins by itself, so a start right behind a completion changes nothing.
        """
        last = self._points[-1]
        if at - last.at < _LEAST_SECONDS and last.chunks:
            return
        self._began = at
        self._points.clear()
        self._points.append(last._replace(at=at))

    def add(self, at: float, chunks: int = 1, rows: int = 0, read_rows: int = 0, read_bytes: int = 0) -> None:
        """Add what was completed at *at*; nothing when no chunk was."""
        if chunks <= 0:
            return
        last = self._points[-1]
        at = max(at, last.at)
        self._points.append(
            _Point(
                at,
                last.chunks + chunks,
                last.rows + rows,
                last.read_rows + read_rows,
                last.read_bytes + read_bytes,
            )
        )

    def pace(self, now: float) -> Pace | None:
        """Return the pace of the recent past; None until a chunk is done."""
        last = self._points[-1]
        horizon = min(max((now - self._began) / 3, _LEAST_SECONDS), _MOST_SECONDS)
        since = self._points[0]
        for point in reversed(self._points):
            since = point
            if point.at <= now - horizon and last.chunks - point.chunks >= _LEAST_COMPLETIONS:
                break
        elapsed = max(now - since.at, 0.001)
        if last.chunks == since.chunks:
            return None
        return Pace(
            (last.chunks - since.chunks) / elapsed,
            (last.rows - since.rows) / elapsed,
            (last.read_rows - since.read_rows) / elapsed,
            (last.read_bytes - since.read_bytes) / elapsed,
        )

    def seconds_left(self, now: float, chunks_left: int) -> float | None:
        """Return the seconds until *chunks_left* more chunks are done at that pace; None until one is done."""
        pace = self.pace(now)
        if pace is None or not pace.chunks:
            return None
        recent = 1 / pace.chunks
        # Chunks that grow along the window will take longer than those of late did, but nobody knows how they go on.
        each = self._trend(chunks_left / 2) or recent
        return chunks_left * min(max(each, recent / _TREND_AT_MOST), recent * _TREND_AT_MOST)

    def _trend(self, ahead: float) -> float | None:
        """Return the seconds to a completion so many chunks *ahead*; None where the run so far has no trend."""
        points = list(self._points)
        count = min(_TREND_PARTS, (points[-1].chunks - points[0].chunks) // _TREND_LEAST)
        if count < _TREND_PARTS // 3:
            return None
        marks = [points[round(index * (len(points) - 1) / count)] for index in range(count + 1)]
        parts = [
            ((first.chunks + last.chunks) / 2, (last.at - first.at) / (last.chunks - first.chunks))
            for first, last in pairwise(marks)
            if last.chunks > first.chunks
        ]
        if len(parts) < _TREND_PARTS // 3:
            return None
        middle, mean = (fsum(side) / len(parts) for side in zip(*parts, strict=True))
        spread = fsum((at - middle) ** 2 for at, _ in parts)
        slope = fsum((at - middle) * (each - mean) for at, each in parts) / spread
        noise = fsum((each - mean - slope * (at - middle)) ** 2 for at, each in parts)
        if abs(slope) <= _TREND_SURE * sqrt(noise / (len(parts) - 2) / spread):
            return None
        return mean + slope * (points[-1].chunks + ahead - middle)
