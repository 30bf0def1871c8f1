"""
Find how many rows a source has between time bounds, and the average size of a row.

Up to 500 million rows are counted, by the time column alone. For more rows, the index gives an estimate, exact to one
granule per part. If the index gives no estimate, for example because it does not contain the time column, the rows are
counted. A count may take up to a minute.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..core.instants import from_ms
from ..core.names import time_value
from ..core.sql import bound_before, literal, milliseconds, quote_table, table_condition, time_filter
from ..core.tables import TableName, TimeKind
from ..errors import StatementRefusedError
from .client import LONG_TEXT, ClickHouse

# The maximum number of rows in a window that are counted even if an index can estimate them. A count reads only the
# time column; for this number of rows, it takes a second or two.
_COUNT_UP_TO_ROWS = 500_000_000
_COUNT_SECONDS = 60


class RowCounts(NamedTuple):
    """
    The number of source rows in each slice.

    Attributes:
        rows: Row counts by the start of the slice in milliseconds, without empty slices.
        exact: Whether ClickHouse counted the rows; False for an estimate from the index.
    """

    rows: Mapping[int, int]
    exact: bool


def rows_between(
    server: ClickHouse, source: TableName, column: str, kind: TimeKind, bounds: Sequence[int]
) -> RowCounts | None:
    """
    Return the number of source rows between consecutive *bounds* (in milliseconds), without empty slices.

    Returns:
        The counts; None if the rows must be counted, and the count takes more than a minute.

    Raises:
        ServerError: ClickHouse refused the query on the source, or could not be reached.
    """
    where = time_filter(column, kind, from_ms(bounds[0]), from_ms(bounds[-1]))
    place = bound_before(milliseconds(time_value(column), kind), bounds)
    in_window = rows_by_index(server, source, where)
    if in_window is not None and in_window > _COUNT_UP_TO_ROWS:
        try:
            found = server.rows(
                f"SELECT {place} AS place, sum(rows_in_granule) FROM mergeTreeIndex({literal(source.database)},"
                f" {literal(source.table)}) WHERE {where} GROUP BY place",
                LONG_TEXT,
            )
            return RowCounts({int(start): int(rows) for start, rows in found if rows}, exact=False)
        except StatementRefusedError:
            # For example, the index does not contain the time column. Count the rows instead.
            pass
    try:
        found = server.rows(
            f"SELECT {place} AS place, count() FROM {quote_table(source)} WHERE {where} GROUP BY place",
            {"max_execution_time": _COUNT_SECONDS, **LONG_TEXT},
        )
    except StatementRefusedError as error:
        if error.name != "TIMEOUT_EXCEEDED":
            raise
        return None
    return RowCounts({int(start): int(rows) for start, rows in found}, exact=True)


def rows_by_index(server: ClickHouse, source: TableName, where: str) -> int | None:
    """
    Return the number of rows that the server would read, with the index, to find the rows that meet *where*.

    Return None if the server refuses the estimate. Return None also if the estimate is empty and the source's engine is
    outside the MergeTree family.
    """
    try:
        rows, tables = server.row(
            f"SELECT sum(rows), count() FROM (EXPLAIN ESTIMATE SELECT * FROM {quote_table(source)} WHERE {where})"
        )
    except StatementRefusedError:
        return None
    # An answer without tables means an empty window, or a source with an engine outside the MergeTree family.
    return int(rows) if tables or _is_merge_tree(server, source) else None


def _is_merge_tree(server: ClickHouse, source: TableName) -> bool:
    found = server.rows(
        f"SELECT endsWith(engine, 'MergeTree') FROM system.tables WHERE {table_condition(source, 'name')}"
    )
    return bool(found and found[0][0])


def uncompressed_bytes_per_row(server: ClickHouse, source: TableName) -> float | None:
    """Return the average uncompressed bytes of a source row over all columns; None if no part has a known size."""
    size, rows = server.row(
        f"SELECT sum(data_uncompressed_bytes), sum(rows) FROM system.parts WHERE active AND {table_condition(source)}"
    )
    return int(size) / int(rows) if rows and size else None
