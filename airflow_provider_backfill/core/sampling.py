"""
Choose slices for a trial that reveal chunks which do not add up.

Neighbours share keys that their common bound cuts. Chunks a day, a week and a month apart share the hour of the day,
the day of the week, and the day of the month. Pure.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

Slice = tuple[datetime, datetime]

_APART = (timedelta(days=1), timedelta(days=7), timedelta(days=30))


def pick_slices(
    chunks: Sequence[Slice], rows: Mapping[int, int], budget: int, *, whole_days: bool = False, together: bool = False
) -> list[Slice]:
    """
    Choose slices of about *budget* rows in time order, each in a different chunk.

    The bound between the two neighbours is a real chunk bound. From a chunk with more rows than its share, take only
    the part that ends at its end bound (for the second neighbour: begins at its start bound).

    Args:
        rows: Source rows by chunk number; chunks without rows may be missing.
        whole_days: Whether to cut chunks at midnights only, as a date column requires.
        together: Whether to take the two neighbours only, because the slices must be adjacent.

    Returns:
        At least two slices; none if all rows lie in one chunk.
    """
    filled = [number for number in range(len(chunks)) if rows.get(number, 0) > 0]
    pairs = [number for number in filled if rows.get(number + 1, 0) > 0]
    if not pairs and (together or len(filled) < 2):
        return []
    # The number of rows in both neighbours measures the keys in common. Prefer pairs within the budget.
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
