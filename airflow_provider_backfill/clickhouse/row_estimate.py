"""Estimate the source rows per chunk of a plan: count the rows if a count is cheap, otherwise use the index."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from statistics import median_low

from ..core.facts import Estimate
from ..core.instants import from_ms
from ..core.names import time_value
from ..core.plan import FilteredTable
from ..core.sql import bound_before, milliseconds, quote_table, table_condition, time_filter
from ..core.tables import TableName, TimeKind
from ..errors import StatementRefusedError
from .client import LONG_TEXT, ClickHouse
from .source_rows import rows_by_index

_COUNT_UP_TO_ROWS = 50_000_000
_COUNT_SECONDS = 5
_SAMPLES = 48


def estimate_rows(server: ClickHouse, tables: Sequence[FilteredTable], bounds: Sequence[int]) -> Estimate | None:
    """
    Estimate the row counts of the chunks between *bounds* (in milliseconds), before the SELECT's own filters.

    The rows of a table are counted if the index estimates at most 50 million rows in the window, or gives no estimate.
    Otherwise, or if the count is refused or takes over 5 seconds, the index estimates up to 48 chunks of the window.

    Returns:
        The estimate, in which the row counts of several tables are added up. None without tables, or if the index gives
        no estimate for a table and its rows cannot be counted in time.
    """
    found = []
    if not tables:
        return None
    for table in tables:
        one = _one(server, table, bounds)
        if one is None:
            return None
        found.append(one)
    first = found[0]
    sizes = [each.bytes_per_row for each in found]
    known = [size for size in sizes if size is not None]
    return Estimate(
        chunks=len(bounds) - 1,
        looked_at=min(each.looked_at for each in found),
        filled=max(each.filled for each in found),
        smallest=sum(each.smallest for each in found),
        median=sum(each.median for each in found),
        largest=sum(each.largest for each in found),
        exact=all(each.exact for each in found),
        bytes_per_row=first.bytes_per_row if len(found) == 1 else max(known, default=None),
    )


def _one(server: ClickHouse, table: FilteredTable, bounds: Sequence[int]) -> Estimate | None:
    chunks, source = len(bounds) - 1, table.table
    where = _where(table, bounds[0], bounds[-1])
    in_window = rows_by_index(server, source, where)
    size = bytes_per_row(server, source)
    if in_window is None or in_window <= _COUNT_UP_TO_ROWS:
        counted = _count(server, table, source, where, bounds)
        if counted is not None:
            smallest, median, largest, filled = counted
            return Estimate(chunks, chunks, filled, smallest, median, largest, exact=True, bytes_per_row=size)
    if in_window is None:
        return None
    rows = [rows_by_index(server, source, _where(table, start, end)) or 0 for start, end in _spread(bounds)]
    filled_rows = [count for count in rows if count]
    if not filled_rows:
        return Estimate(chunks, len(rows), 0, 0, 0, 0, exact=False, bytes_per_row=size)
    return Estimate(
        chunks,
        len(rows),
        len(filled_rows),
        min(filled_rows),
        median_low(filled_rows),
        max(filled_rows),
        exact=False,
        bytes_per_row=size,
    )


def _where(table: FilteredTable, start: int, end: int) -> str:
    """Return the condition that a row lies in ``[start, end)``, extended to whole days for a date column."""
    kind = table.kind
    return time_filter(table.column, kind, *_whole_days(kind, from_ms(start), from_ms(end)))


def _whole_days(kind: TimeKind, start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """Return the bounds, extended to whole days for a date column."""
    if not kind.is_date:
        return start, end
    day = timedelta(days=1)
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return start.replace(hour=0, minute=0, second=0, microsecond=0), midnight if midnight == end else midnight + day


def _spread(bounds: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Return start and end (in milliseconds) of up to 48 chunks across the window, including the first and the last."""
    chunks = len(bounds) - 1
    take = min(chunks, _SAMPLES)
    places = {round(number * (chunks - 1) / max(take - 1, 1)) for number in range(take)}
    return ((bounds[place], bounds[place + 1]) for place in sorted(places))


def bytes_per_row(server: ClickHouse, source: TableName) -> float | None:
    """Return the average number of bytes of a source row on disk; None if unknown, or if there are no rows."""
    found = server.rows(f"SELECT total_bytes, total_rows FROM system.tables WHERE {table_condition(source, 'name')}")
    if not found or not found[0][0] or not found[0][1]:
        return None
    return int(found[0][0]) / int(found[0][1])


def _count(
    server: ClickHouse, table: FilteredTable, source: TableName, where: str, bounds: Sequence[int]
) -> tuple[int, int, int, int] | None:
    """
    Return the smallest, median and largest row count of the non-empty chunks, and the number of these chunks.

    Return None if the server refuses the count, for example because the count takes over 5 seconds.
    """
    first = f"greatest({milliseconds(time_value(table.column), table.kind)}, toInt64({bounds[0]}))"
    place = bound_before(f"least({first}, toInt64({bounds[-1] - 1}))", bounds)
    try:
        row = server.row(
            "SELECT min(rows), quantileExactLow(0.5)(rows), max(rows), count() FROM"
            f" (SELECT {place} AS chunk, count() AS rows FROM {quote_table(source)} WHERE {where} GROUP BY chunk)",
            {"max_execution_time": _COUNT_SECONDS, **LONG_TEXT},
        )
    except StatementRefusedError:
        return None
    smallest, median, largest, filled = (int(value) for value in row)
    return smallest, median, largest, filled
