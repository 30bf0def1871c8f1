"""
Choose the slices of a trial, which shows whether chunks add up.

The slices are chosen so that a key is likely to lie in several of them. A chunk bound cuts keys, which the two
neighbours then share. Chunks that are a day, a week or 30 days apart may share keys such as the hour of the day or the
day of the week. This module is pure.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

Slice = tuple[datetime, datetime]

_APART = (timedelta(days=1), timedelta(days=7), timedelta(days=30))


def pick_slices(
    chunks: Sequence[Slice], rows: Mapping[int, int], budget: int, *, whole_days: bool = False, together: bool = False
) -> list[Slice]:
    """
    Choose slices in time order, each in a different chunk, with about *budget* source rows together at most.

    The choice begins with two neighbours that have rows or, without such neighbours, with the first two chunks that
    have rows. Chunks with rows that are a day, a week and 30 days apart from the first follow, unless *together* is
    set. If the chosen chunks have more rows than *budget*, each is shortened by the same factor. Of the two chunks that
    are chosen first, the later chunk keeps its start, so that the slices of neighbours stay adjacent.
    Every other shortened slice keeps the end of its chunk.

    Args:
        rows: Source rows by chunk number from 0; chunks without rows may be missing.
        whole_days: Whether to cut chunks at midnights only, as a date column requires.
        together: Whether to take two neighbours only, because the slices must be adjacent.

    Returns:
        At least two slices; none if fewer than two chunks have rows, or with *together* if no neighbours have rows.
    """
    filled = [number for number in range(len(chunks)) if rows.get(number, 0) > 0]
    pairs = [number for number in filled if rows.get(number + 1, 0) > 0]
    if not pairs and (together or len(filled) < 2):
        return []
    # Prefer a pair within the budget. Then prefer the pair whose smaller chunk has most rows, because that pair
    # probably shares most keys.
    first = max(
        pairs or filled[:1],
        key=lambda number: (
            rows[number] + rows.get(number + 1, 0) <= budget,
            min(rows[number], rows.get(number + 1, 0)),
        ),
    )
    second = first + 1 if pairs else filled[1]
    chosen = [first, second]
    for apart in () if together else _APART:
        for moment in (chunks[first][0] + apart, chunks[first][0] - apart):
            number = next((one for one in filled if chunks[one][0] <= moment < chunks[one][1]), None)
            if number is not None and number not in chosen:
                chosen.append(number)
                break
    share = min(1.0, budget / sum(rows[number] for number in chosen))
    return sorted(_part(chunks[number], share, number == second, whole_days) for number in chosen)


def _part(chunk: Slice, share: float, from_start: bool, whole_days: bool) -> Slice:
    start, end = chunk
    if share >= 1:
        return chunk
    length = max((end - start) * share, timedelta(milliseconds=1))
    unit = timedelta(days=1) if whole_days else timedelta(milliseconds=1)
    length = max(length // unit * unit, unit)
    return (start, min(start + length, end)) if from_start else (max(end - length, start), end)
