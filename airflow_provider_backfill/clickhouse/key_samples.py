"""Sample a source's sorting keys and count rows per key range, to split a window that time cannot split further."""

from collections.abc import Sequence

from ..core.key_ranges import KeyColumn
from ..core.sql import expressions, quote_table, table_condition
from ..core.tables import TableName
from .client import LONG_TEXT, ClickHouse

# The maximum time, in seconds, for each query that reads the source's rows.
_SAMPLE_SECONDS = 60


def key_columns(server: ClickHouse, source: TableName) -> tuple[KeyColumn, ...]:
    """Return the elements of the source's sorting key, in order, with their types; empty if there is no key."""
    found = server.rows(f"SELECT sorting_key FROM system.tables WHERE {table_condition(source, 'name')}")
    elements = expressions(str(found[0][0])) if found else []
    if not elements:
        return ()
    types = server.rows(f"DESCRIBE (SELECT {', '.join(f'({each})' for each in elements)} FROM {quote_table(source)})")
    return tuple(KeyColumn(each, str(row[1])) for each, row in zip(elements, types, strict=True))


def sample_keys(
    server: ClickHouse, source: TableName, columns: Sequence[KeyColumn], where: str, rows: int
) -> list[tuple[str, ...]]:
    """
    Return the keys of a sample of at most *rows* rows that meet *where*, as texts, in key order.

    Raises:
        ServerError: ClickHouse refused the query, for example after a minute, or could not be reached.
    """
    names = [f"k{number}" for number in range(1, len(columns) + 1)]
    values = ", ".join(f"({column.expression}) AS {name}" for column, name in zip(columns, names, strict=True))
    texts = ", ".join(KeyColumn(f"key.{number}", column.type).as_text for number, column in enumerate(columns, 1))
    found = server.rows(
        f"SELECT [{texts}] FROM (SELECT arrayJoin(arraySort(groupArraySample({rows}, 1)"
        f"(tuple({', '.join(names)})))) AS key FROM (SELECT {values} FROM {quote_table(source)} WHERE {where}))",
        {"max_execution_time": _SAMPLE_SECONDS},
    )
    return [tuple(one.read(str(text)) for one, text in zip(columns, keys, strict=True)) for (keys,) in found]


def rows_by_condition(server: ClickHouse, source: TableName, where: str, conditions: Sequence[str]) -> tuple[int, ...]:
    """
    Return, for each of *conditions*, the number of rows that meet both *where* and the condition.

    Raises:
        ServerError: ClickHouse refused the query, for example after a minute, or could not be reached.
    """
    counts = ", ".join(f"countIf({condition})" for condition in conditions)
    return server.numbers(
        f"SELECT {counts} FROM {quote_table(source)} WHERE {where}",
        {"max_execution_time": _SAMPLE_SECONDS, **LONG_TEXT},
    )
