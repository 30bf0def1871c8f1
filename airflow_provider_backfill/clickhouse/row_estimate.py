"""How many rows the source of a plan holds per chunk: counted where that is cheap, else from the index."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from statistics import median_low

from ..core.facts import Estimate, TableName, TimeKind
from ..core.instants import MS_PER_HOUR, to_ms
from ..core.plan import Statement
from ..core.sql import parse_table, quote, quote_table, table_condition, time_filter
from ..core.window import iter_window
from ..errors import ServerError
from .client import ClickHouse

_COUNT_UP_TO_ROWS = 50_000_000
_COUNT_SECONDS = 5
_SAMPLES = 48
_PER_SECOND = {TimeKind.EPOCH_S: 1, TimeKind.EPOCH_MS: 1_000, TimeKind.EPOCH_US: 1_000_000}


def estimate_rows(
    server: ClickHouse,
    statements: Sequence[Statement],
    column: str,
    start: datetime,
    end: datetime,
    chunk_hours: float,
    chunks: int,
) -> Estimate | None:
    """
    Rows of the sources in each chunk of ``[start, end)``, before the SELECT's own filters.

    Up to 50 million rows in the window they are counted, by the time column alone; beyond that,
    the index says how many rows it would read for up to 48 chunks across the window.

    Returns:
        None when neither can be had: a source that is no MergeTree and takes too long to count.
    """
    found = []
    for statement in statements:
        source = parse_table(statement.source, "source")
        one = _one(server, statement, source, column, start, end, chunk_hours, chunks)
        if one is None:
            return None
        found.append(one)
    first = found[0]
    sizes = [each.bytes_per_row for each in found]
    known = [size for size in sizes if size is not None]
    return Estimate(
        chunks=chunks,
        looked_at=min(each.looked_at for each in found),
        filled=max(each.filled for each in found),
        smallest=sum(each.smallest for each in found),
        median=sum(each.median for each in found),
        largest=sum(each.largest for each in found),
        exact=all(each.exact for each in found),
        bytes_per_row=first.bytes_per_row if len(found) == 1 else max(known, default=None),
    )


def _one(
    server: ClickHouse,
    statement: Statement,
    source: TableName,
    column: str,
    start: datetime,
    end: datetime,
    chunk_hours: float,
    chunks: int,
) -> Estimate | None:
    where = time_filter(column, statement.time_kind, *_whole_days(statement.time_kind, start, end))
    in_window = _from_index(server, source, where)
    size = _bytes_per_row(server, source)
    if in_window is None or in_window <= _COUNT_UP_TO_ROWS:
        counted = _count(server, statement, source, column, where, start, chunk_hours, chunks)
        if counted is not None:
            smallest, median, largest, filled = counted
            return Estimate(chunks, chunks, filled, smallest, median, largest, exact=True, bytes_per_row=size)
    if in_window is None:
        return None
    rows = []
    for first, last in _spread(start, end, chunk_hours, chunks):
        answer = _from_index(
            server,
            source,
            time_filter(column, statement.time_kind, *_whole_days(statement.time_kind, first, last)),
        )
        rows.append(answer or 0)
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


def _whole_days(kind: TimeKind, start: datetime, end: datetime) -> tuple[datetime, datetime]:
    """The bounds as a Date column can be compared with them: an estimate may take in a whole day."""
    if kind not in (TimeKind.DATE, TimeKind.DATE32):
        return start, end
    day = timedelta(days=1)
    midnight = end.replace(hour=0, minute=0, second=0, microsecond=0)
    return start.replace(hour=0, minute=0, second=0, microsecond=0), midnight if midnight == end else midnight + day


def _spread(start: datetime, end: datetime, hours: float, chunks: int) -> Iterator[tuple[datetime, datetime]]:
    """Up to so many chunks, evenly over the window, the first and the last among them."""
    take = min(chunks, _SAMPLES)
    wanted = {round(number * (chunks - 1) / max(take - 1, 1)) for number in range(take)}
    for index, bounds in enumerate(iter_window(start, end, hours)):
        if index in wanted:
            yield bounds


def _from_index(server: ClickHouse, source: TableName, where: str) -> int | None:
    """Rows that the index would let the server read; None for a source that has none."""
    try:
        found = server.rows(
            f"SELECT sum(rows), count() FROM (EXPLAIN ESTIMATE SELECT * FROM {quote_table(source)} WHERE {where})"
        )
    except ServerError as error:
        if error.code is None:
            raise
        return None
    rows, tables = found[0]
    # No table in the answer may mean that nothing lies in the window, or that the source is no MergeTree.
    return int(rows) if tables or _is_merge_tree(server, source) else None


def _is_merge_tree(server: ClickHouse, source: TableName) -> bool:
    found = server.rows(
        f"SELECT endsWith(engine, 'MergeTree') FROM system.tables WHERE {table_condition(source, 'name')}"
    )
    return bool(found and found[0][0])


def _bytes_per_row(server: ClickHouse, source: TableName) -> float | None:
    found = server.rows(f"SELECT total_bytes, total_rows FROM system.tables WHERE {table_condition(source, 'name')}")
    if not found or not found[0][0] or not found[0][1]:
        return None
    return int(found[0][0]) / int(found[0][1])


def _count(
    server: ClickHouse,
    statement: Statement,
    source: TableName,
    column: str,
    where: str,
    start: datetime,
    chunk_hours: float,
    chunks: int,
) -> tuple[int, int, int, int] | None:
    """Smallest, median and largest number of rows of the chunks that hold any, and how many do."""
    per_second = _PER_SECOND.get(statement.time_kind)
    name = quote(column)
    ms = f"{name} * 1000 / {per_second}" if per_second else f"toUnixTimestamp64Milli(toDateTime64({name}, 3, 'UTC'))"
    index = f"least(floor(({ms} - {to_ms(start)}) / {chunk_hours * MS_PER_HOUR!r}), {chunks - 1})"
    try:
        found = server.rows(
            "SELECT min(rows), quantileExactLow(0.5)(rows), max(rows), count() FROM"
            f" (SELECT {index} AS chunk, count() AS rows FROM {quote_table(source)} WHERE {where} GROUP BY chunk)",
            {"max_execution_time": _COUNT_SECONDS},
        )
    except ServerError as error:
        if error.code is None:
            raise
        return None
    smallest, median, largest, filled = (int(value) for value in found[0])
    return smallest, median, largest, filled
