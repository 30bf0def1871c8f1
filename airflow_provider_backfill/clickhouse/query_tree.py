"""
A SELECT as the server understands it, and what the names in it stand for.

Views are looked into, so that each read of each table is seen. Nothing here decides: that is the planner's work.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from itertools import pairwise

from ..core.facts import QuerySource, TableFacts
from ..core.query_tree import Node, parse_tree
from ..core.sql import literal
from ..core.tables import TableName
from ..errors import RequestError, StatementRefusedError
from .catalog import view_targets
from .client import ClickHouse

# The analyzer has to be on to be asked, whatever the user's profile says.
_SETTINGS = {"allow_experimental_analyzer": 1}
_PASSED_ON = frozenset({"Distributed", "Buffer", "Alias"})
_LITERAL = re.compile(r"'((?:[^'\\]|\\.){0,400})'")


def query_tree(server: ClickHouse, select: str, parameters: Mapping[str, str] | None = None) -> Node:
    """
    Return the server's own tree of a SELECT, before it is rewritten to run faster.

    Args:
        parameters: Values of its query parameters.

    Raises:
        ServerError: The server does not accept the SELECT.
        RequestError: This version shows its trees in another way.
    """
    question = f"SELECT toValidUTF8(explain) FROM (EXPLAIN QUERY TREE passes = 1\n{select}\n)"
    answer = server.rows(question, {**_SETTINGS, **(parameters or {})})
    try:
        return parse_tree(line for (line,) in answer)
    except ValueError as error:
        raise RequestError(
            f"This version of ClickHouse shows how it understands a SELECT in a way that is not known: {error}.",
            hint="report it with the version and the SELECT",
        ) from error


def sources(
    server: ClickHouse, tree: Node, filtered: Collection[TableName], target: TableFacts
) -> dict[str, QuerySource]:
    """Return the tables in a query tree and behind its views, by their name in the tree."""
    known: dict[str, QuerySource] = {}
    todo = set(_table_names(tree))
    while todo:
        names = ", ".join(map(literal, sorted(todo)))
        found = server.rows(
            "SELECT concat(database, '.', name), database, name, engine, engine_full, as_select FROM system.tables"
            f" WHERE concat(database, '.', name) IN ({names})"
        )
        todo = set()
        written = view_targets(server, [TableName(row[1], row[2]) for row in found if row[3] == "MaterializedView"])
        own = {target.name, target.storage}
        for shown, database, table, engine, engine_full, as_select in found:
            name = TableName(database, table)
            behind = _LITERAL.findall(engine_full)
            holds = (
                name in own
                or written.get(name) in own
                or (engine in _PASSED_ON and any(TableName(*pair) in own for pair in pairwise(behind)))
            )
            inner, opaque = None, False
            if engine == "View" and name not in filtered:
                try:
                    inner = query_tree(server, as_select)
                    todo |= set(_table_names(inner))
                except StatementRefusedError:
                    # A parametrised view: its SELECT alone is not complete.
                    opaque = True
            known[shown] = QuerySource(name, engine, inner, opaque, holds)
        todo -= known.keys()
    return known


def _table_names(tree: Node) -> Iterator[str]:
    return (node.name for node in tree.walk() if node.kind == "TABLE")
