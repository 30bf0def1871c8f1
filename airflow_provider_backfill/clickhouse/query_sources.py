"""Describe table functions in a SELECT (``s3``, ``remote``, ``file``, …) as sources with columns, like tables."""

import re
from collections.abc import Iterable, Mapping

from ..core.facts import Column, TableFacts
from ..core.select_text import find_call
from ..core.tables import TABLE_FUNCTION, TableName
from ..errors import StatementRefusedError
from .client import ClickHouse

_FUNCTION = re.compile(r"TABLE_FUNCTION id: \d+.*?table_function_name: (\w+)")
_TREE = {"allow_experimental_analyzer": 1}
# Table functions that do not count as sources. Their rows are generated, are part of the request, or come from another
# object that the call names.
_NO_SOURCE = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateRandom", "generateSeries", "generate_series", "values"}
    | {"null", "one", "primes", "view", "viewExplain", "viewIfPermitted", "input", "dictionary", "format", "loop"}
)


def table_functions(server: ClickHouse, select: str, settings: Mapping[str, str]) -> list[TableFacts]:
    """
    Return the table functions in a SELECT as tables that the server can filter by name.

    Omit a function that occurs several times, because a filter by name would apply to each call. Also omit functions
    that do not count as sources, such as ``numbers``, functions without a call in the text of the SELECT, and functions
    that the server cannot describe.

    Args:
        settings: The settings that the SELECT will run with.

    Raises:
        ServerError: The server could not be reached, or does not accept the SELECT.
    """
    question = f"SELECT explain FROM (EXPLAIN QUERY TREE passes = 1\n{select}\n)"
    tree = [line for (line,) in server.rows(question, {**settings, **_TREE})]
    names = [match.group(1) for line in tree if (match := _FUNCTION.search(line))]
    found = []
    for name in dict.fromkeys(names):
        call = find_call(select, name)
        if name in _NO_SOURCE or names.count(name) > 1 or call is None:
            continue
        try:
            columns = server.rows(f"DESCRIBE TABLE {call}", settings)
        except StatementRefusedError:
            # For example, the arguments depend on the rest of the SELECT.
            continue
        found.append(_facts(name, call, [Column(column[0], column[1]) for column in columns]))
    return found


def _facts(name: str, call: str, columns: Iterable[Column]) -> TableFacts:
    table = TableName(TABLE_FUNCTION, name)
    return TableFacts(
        name=table,
        storage=table,
        engine=name,
        columns=tuple(columns),
        partition_key="",
        sorting_key="",
        engine_full=call,
        rows=None,
    )


def function_behind(functions: Iterable[TableFacts], table: TableName) -> TableFacts | None:
    """
    Return the only function whose call contains the name of *table* and the name of the table's database.

    Return None if no call, or more than one call, contains both names.
    """
    named = [one for one in functions if table.database in one.engine_full and table.table in one.engine_full]
    return named[0] if len(named) == 1 else None
