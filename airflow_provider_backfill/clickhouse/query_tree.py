"""
Read the query tree of a SELECT, with the tables behind its names.

The SELECTs of views are read as well, so that each read of each table is found. The rules in ``core.adding_up`` judge
these reads.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress

from ..core.adding_up.placed import given_constants
from ..core.facts import QuerySource, TableFacts
from ..core.query_tree import Node, parse_tree
from ..core.select_text import find_call
from ..core.sql import expressions, first_parentheses, literal
from ..core.tables import TABLE_FUNCTION, TableName
from ..errors import RequestError, StatementRefusedError
from .catalog import view_targets
from .client import ClickHouse
from .holding import functions_with_rows_of, holds_rows_of, names_in_calls, tables_behind

# EXPLAIN QUERY TREE needs the analyzer, whatever the user's profile sets.
_SETTINGS = {"allow_experimental_analyzer": 1}
_HIDDEN = "'[HIDDEN]'"
_PLACEHOLDER = re.compile(r"\{\s*\w+\s*:")


def query_tree(server: ClickHouse, select: str, settings: Mapping[str, str] | None = None) -> Node:
    """
    Return the server's tree of a SELECT before optimisation.

    Args:
        settings: Settings for the SELECT, and the values of its query parameters.

    Raises:
        ServerError: The server does not accept the SELECT, or could not be reached.
        RequestError: This server version prints query trees in an unknown format.
    """
    question = f"SELECT toValidUTF8(explain) FROM (EXPLAIN QUERY TREE passes = 1\n{select}\n)"
    answer = server.rows(question, {**(settings or {}), **_SETTINGS})
    try:
        return parse_tree(line for (line,) in answer)
    except ValueError as error:
        raise RequestError(
            f"This version of ClickHouse shows how it understands a SELECT in a way that is not known: {error}.",
            hint="report it with the version and the SELECT",
        ) from error


def constants_by_chunk(
    server: ClickHouse, select: str, tree: Node, values: Sequence[Mapping[str, str]]
) -> dict[int, tuple[str, ...]]:
    """
    Return the constants of a SELECT that change with its query parameters.

    The result maps the id of a constant to a tuple of values: one value for each chunk whose SELECT the server accepts,
    in the order of *values*. If the chunks' trees differ in more than constants, only hidden constants are returned.

    A constant is hidden if the server hides arguments of a table function. For each chunk, the value of such a constant
    is a single text, which joins the values of the arguments that use query parameters.

    Args:
        tree: The query tree for the first element of *values*.
        values: The parameter values of several chunks. Chunks for which the server refuses the SELECT are omitted.

    Raises:
        ServerError: The server could not be reached, or refused to evaluate the arguments of a table function.
        RequestError: This server version prints query trees in an unknown format.
    """
    trees, seen = [tree], [values[0]]
    for each in values[1:]:
        # The file or table that a chunk names may not exist yet.
        with suppress(StatementRefusedError):
            trees.append(query_tree(server, select, each))
            seen.append(each)
    given = given_constants(trees)
    for node in tree.walk():
        # The server hides arguments next to a named collection.
        hidden = next((one.id for one in node.walk() if one.name == _HIDDEN), None)
        if node.kind == "TABLE_FUNCTION" and hidden is not None:
            texts = tuple(_arguments(server, select, node.name, each) for each in seen)
            given |= {hidden: texts} if len(set(texts)) > 1 else {}
    return given


def _arguments(server: ClickHouse, select: str, function: str, values: Mapping[str, str]) -> str:
    """
    Return, as one text, the values of those arguments of a table function that use query parameters.

    Return an empty text if no argument uses a parameter, or if the SELECT calls the function several times.
    """
    call = find_call(select, function) or ""
    if find_call(select[select.find(call) + len(call) :], function) is not None:
        # The SELECT calls the function several times, so it is unclear which call is meant.
        return ""
    texts = [
        re.sub(r"^\w+\s*=\s*", "", one) for one in expressions(first_parentheses(call)) if _PLACEHOLDER.search(one)
    ]
    return str(server.value(f"SELECT toString(tuple({', '.join(texts)}))", settings=values)) if texts else ""


def sources(
    server: ClickHouse, tree: Node, filtered: Collection[TableName], target: TableFacts
) -> dict[str, QuerySource]:
    """
    Return the sources that a query tree and the SELECTs of its views read, by the source's name in the tree.

    The result has tables, views and dictionaries. The table behind a Buffer is included. The tables behind a
    Distributed, Alias or Merge table are included if all of them have an engine in :data:`.holding.KEEPS_NOTHING`.
    Table functions that return the target's rows are included as ``name()``.

    Args:
        filtered: The tables with a time filter. If a view is among them, its SELECT is not read.
        target: The plan's target; the result says which sources return the target's rows.

    Raises:
        ServerError: The server refused a query on its system tables or could not be reached.
        RequestError: This server version prints query trees in an unknown format.
    """
    own = {target.name, target.storage}
    known = _functions(server, tree, own)
    todo = {*_table_names(tree), *names_in_calls(server, tree)}
    while todo:
        names = ", ".join(map(literal, sorted(todo)))
        found = server.rows(
            "SELECT concat(database, '.', name), database, name, engine,"
            " if(engine = 'Dictionary', create_table_query, engine_full), as_select FROM system.tables"
            f" WHERE concat(database, '.', name) IN ({names})"
        )
        todo = set()
        written = view_targets(server, [TableName(row[1], row[2]) for row in found if row[3] == "MaterializedView"])
        for shown, database, table, engine, definition, as_select in found:
            name = TableName(database, table)
            holds = name in own or written.get(name) in own or holds_rows_of(server, name, engine, definition, own)
            inner, opaque = None, False
            todo |= {*tables_behind(server, name, engine, definition)}
            if engine == "View" and name not in filtered:
                try:
                    inner = query_tree(server, as_select)
                    todo |= {*_table_names(inner), *names_in_calls(server, inner)}
                    known |= _functions(server, inner, own)
                except StatementRefusedError:
                    # For example, the SELECT of a parametrised view is incomplete without the parameters.
                    opaque = True
            known[shown] = QuerySource(name, engine, inner, opaque, holds)
        todo -= known.keys()
    return known


def _functions(server: ClickHouse, tree: Node, own: Collection[TableName]) -> dict[str, QuerySource]:
    """
    Return the table functions in *tree* that return rows of the tables *own*, by the function's name and ``()``.

    The parentheses distinguish such a name from the name of a table.
    """
    names = functions_with_rows_of(server, tree, own)
    return {f"{name}()": QuerySource(TableName(TABLE_FUNCTION, name), name, holds_target=True) for name in names}


def _table_names(tree: Node) -> Iterator[str]:
    return (node.name for node in tree.walk() if node.kind == "TABLE")
