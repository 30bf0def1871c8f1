"""
Estimate the pace of a run and the time left, for terminal, log, page and API.

This module is pure: the caller passes every moment, in seconds of one clock.
"""

from collections import deque
from collections.abc import Sequence
from itertools import pairwise
from math import fsum, sqrt
from typing import NamedTuple

# The recent past is the last third of the run, within these bounds in seconds, and has at least this number of chunks.
_LEAST_SECONDS, _MOST_SECONDS = 30.0, 600.0
_LEAST_COMPLETIONS = 12
# The maximum number of points in memory: the beginning and the last completions.
_KEPT = 4096
# The run is cut into at most 12 parts of about 4 chunks or more. A trend or a step needs at least 4 parts.
_PARTS_MOST, _PART_CHUNKS, _PARTS_LEAST = 12, 4, 4
# A trend has half of its possible weight at this multiple of its standard error. A step must exceed this multiple.
_SURE = 6.0
# The smallest standard error that is assumed for a part's pace, as a fraction of the pace.
_EXACT = 0.001
# The weight of the new pace after a step. The pace of the whole run has the rest, since the old pace may return.
_NEW_PACE = 0.7
# The most by which a trend changes the pace of the coming chunks, as a factor of the pace of the last third of the run.
_TREND_AT_MOST = 1.7


class Pace(NamedTuple):
    """Amounts per second in the recent past: chunks, rows written, rows and uncompressed bytes read."""

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
    A meter of a run's pace and time left, from completions that are added in time order.

    The pace covers the recent past: the last third of the run, between 30 seconds and 10 minutes, and at least twelve
    chunks. Over a shorter period, the pace would jump with every uneven chunk.

    The time left follows from the whole run, since quiet nights and weekends come again. Two patterns change the
    estimate: a clear trend of the chunks' durations along the window (as for a growing table), and one clear step from
    the old pace to a new pace.

    Args:
        began: The moment when the run began or continued, in seconds.
    """

    def __init__(self, began: float) -> None:
        self._began = began
        self._points: deque[_Point] = deque([_Point(began, 0, 0, 0, 0)], maxlen=_KEPT)

    def begin(self, at: float) -> None:
        """
        Start to measure again, because a worker began at *at*: earlier completions no longer count.

        After the first completion, a start within 30 seconds of the last completion or restart changes nothing, since
        each task of a DAG run starts a worker.
        """
        last = self._points[-1]
        if at - last.at < _LEAST_SECONDS and last.chunks:
            return
        self._began = at
        self._points.clear()
        self._points.append(last._replace(at=at))

    def add(self, at: float, chunks: int = 1, rows: int = 0, read_rows: int = 0, read_bytes: int = 0) -> None:
        """Add the work completed at *at*; without a completed chunk, change nothing."""
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
        """Return the pace of the recent past; None if no completion counts yet."""
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
        """Return the seconds until *chunks_left* more chunks are done; None if no completion counts yet."""
        first, last = self._points[0], self._points[-1]
        done = last.chunks - first.chunks
        if not done:
            return None
        whole = (now - first.at) / done
        parts = _parts(list(self._points))
        each = _expect(parts, whole, last.chunks + chunks_left / 2) if len(parts) >= _PARTS_LEAST else whole
        # Subtract the time since the last completion, up to the usual time between two completions.
        return max(chunks_left * each - min(now - last.at, each), 0.0)


class _Part(NamedTuple):
    middle: float
    """The chunk in the middle of the part, counted from the start."""
    each: float
    """Average seconds between completions in the part."""


class _Step(NamedTuple):
    misfit: float
    sure: float
    at: int
    after: float


def _parts(points: Sequence[_Point]) -> list[_Part]:
    """
    Return the completions so far, cut into parts of about equal size.

    Each cut precedes the longest wait nearby. Workers that start together end together; a cut between their
    completions would give the whole wait to one part.
    """
    last = len(points) - 1
    count = min(_PARTS_MOST, (points[-1].chunks - points[0].chunks) // _PART_CHUNKS, last - 1)
    reach = last // max(count, 1)
    marks = [points[0]]
    for index in range(1, count + 1):
        near = round(index * last / count)
        around = range(max(near - reach, 1), min(near + reach + 1, last))
        at = max((points[at + 1].at - points[at].at, -abs(at - near), at) for at in around)[2]
        if points[at].chunks > marks[-1].chunks:
            marks.append(points[at])
    return [
        _Part((one.chunks + two.chunks) / 2, (two.at - one.at) / (two.chunks - one.chunks))
        for one, two in pairwise(marks)
    ]


def _expect(parts: Sequence[_Part], whole: float, ahead: float) -> float:
    """
    Return the expected seconds between completions for the coming chunks.

    Args:
        whole: The seconds between completions in the whole run so far.
        ahead: The chunk in the middle of the coming chunks, counted from the start.
    """
    paces = [part.each for part in parts]
    middle, mean = (fsum(side) / len(parts) for side in zip(*parts, strict=True))
    spread = fsum((part.middle - middle) ** 2 for part in parts)
    slope = fsum((part.middle - middle) * (part.each - mean) for part in parts) / spread
    misfit = fsum((part.each - mean - slope * (part.middle - middle)) ** 2 for part in parts)
    step = _find_step(paces)
    if step is not None and step.sure > _SURE and step.misfit < misfit:
        others = (_find_step(paces[: step.at], 2), _find_step(paces[step.at :], 2))
        # After several changes, one more change is likely, so the pace of the whole run counts.
        steady = all(other is None or other.sure < _SURE for other in others)
        return _NEW_PACE * step.after + (1 - _NEW_PACE) * whole if steady else whole
    sure = abs(slope) / _error(misfit, mean, len(parts)) * sqrt(spread)
    share = sure**2 / (sure**2 + _SURE**2)
    each = whole + share * (mean + slope * (ahead - middle) - whole)
    recent = paces[-max(len(paces) // 3, 1) :]
    late = fsum(recent) / len(recent)
    return min(max(each, late / _TREND_AT_MOST), late * _TREND_AT_MOST)


def _find_step(paces: Sequence[float], least: int = 1) -> _Step | None:
    """Return the best cut of *paces* into two levels of at least *least* paces each; None for fewer than 4 paces."""
    best: _Step | None = None
    for at in range(least, len(paces) - least + 1) if len(paces) >= _PARTS_LEAST else ():
        before, after = fsum(paces[:at]) / at, fsum(paces[at:]) / (len(paces) - at)
        misfit = fsum((each - before) ** 2 for each in paces[:at]) + fsum((each - after) ** 2 for each in paces[at:])
        if best is None or misfit < best.misfit:
            error = _error(misfit, before, len(paces)) * sqrt(1 / at + 1 / (len(paces) - at))
            best = _Step(misfit, abs(after - before) / error, at, after)
    return best


def _error(misfit: float, level: float, count: int) -> float:
    """
    Return the standard error of one pace, in seconds; never zero.

    Args:
        misfit: Sum of the squared residuals of a fit with two parameters.
        level: The typical pace, in seconds between completions.
        count: Number of paces, at least 3.
    """
    return max(sqrt(misfit / (count - 2)), _EXACT * level, 1e-9)
