"""
Find the tables whose rows a SELECT reads indirectly.

The SELECT may read through a Distributed, Buffer, Alias or Merge table, a dictionary, or a table function such as
``remote()``. A table behind these may be the target, or may keep no rows.
"""

import re
from collections.abc import Collection, Iterator
from itertools import pairwise

from ..core.query_tree import Node
from ..core.sql import literal, table_tuples
from ..core.tables import TableName
from ..errors import StatementRefusedError
from .client import ClickHouse

_LITERAL = re.compile(r"'((?:[^'\\]|\\.){0,400})'")
# Engines whose tables return the rows of another table. The engine's arguments name the other table.
_PASSED_ON = frozenset({"Distributed", "Buffer", "Alias"})
KEEPS_NOTHING = frozenset({"Null", "Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog"})
"""Engines of tables whose rows cannot be read again: they store no rows, or lose the rows that are read."""
_BY_TEXT = re.compile(r"dict[A-Z]\w*")
_FAR = frozenset({"remote", "remoteSecure", "cluster", "clusterAllReplicas"})
_HERE = frozenset({"", "localhost", "127.0.0.1"})


def holds_rows_of(
    server: ClickHouse, name: TableName, engine: str, definition: str, targets: Collection[TableName]
) -> bool:
    """
    Return whether a table may return rows of one of *targets*, judged by its engine and *definition*.

    Args:
        definition: The engine clause; for a dictionary, its CREATE statement.
    """
    if engine in _PASSED_ON:
        return any(one in targets for one in named_tables(definition))
    if engine == "Merge":
        return _merges(server, definition, name.database, targets)
    return engine == "Dictionary" and _loads(definition, name.database, targets)


def tables_behind(server: ClickHouse, name: TableName, engine: str, definition: str) -> Iterator[str]:
    """
    Yield, as ``database.table``, the tables behind a Buffer, Distributed, Alias or Merge table.

    For a Buffer, always yield the tables. For the other three engines, yield the tables only if all of them have an
    engine in :data:`KEEPS_NOTHING`. For any other engine, yield nothing.
    """
    if engine == "Buffer":
        yield from map(str, named_tables(definition))
        return
    if engine in _PASSED_ON:
        pairs = table_tuples(named_tables(definition))
        where = f"(database, name) IN ({pairs})" if pairs else "0"
    elif engine == "Merge":
        where = _merge_condition(definition, name.database, "database", "name")
    else:
        return
    found = server.rows(f"SELECT concat(database, '.', name), engine FROM system.tables WHERE {where}")
    if all(engine in KEEPS_NOTHING for _, engine in found):
        yield from (str(table) for table, _ in found)


def named_tables(definition: str) -> Iterator[TableName]:
    """Yield the tables that an engine clause may name: each pair of adjacent string literals, as database and table."""
    return (TableName(*pair) for pair in pairwise(_LITERAL.findall(definition)))


def names_in_calls(server: ClickHouse, tree: Node) -> Iterator[str]:
    """Yield the dictionaries that ``dictionary`` and functions such as ``dictGet`` name, as ``database.name``."""
    names = []
    for node in tree.walk():
        if (node.kind == "FUNCTION" and _BY_TEXT.fullmatch(node.name)) or _is_call(node, "dictionary"):
            names += _texts(node)[:1]
    plain = [name for name in names if "." not in name]
    database = str(server.value("SELECT currentDatabase()")) if plain else ""
    return (name if "." in name else f"{database}.{name}" for name in names)


def functions_with_rows_of(server: ClickHouse, tree: Node, targets: Collection[TableName]) -> Iterator[str]:
    """Yield the names of those table functions in a query tree that read one of *targets* on this server."""
    for node in tree.walk():
        if _is_call(node, "merge"):
            database = str(server.value("SELECT currentDatabase()")) if len(_texts(node)) == 1 else ""
            regexp = "REGEXP" if any(one.name == "REGEXP" for one in node.walk()) else ""
            if _merges(server, regexp + ", ".join(map(literal, _texts(node))), database, targets):
                yield node.name
        elif node.kind == "TABLE_FUNCTION" and node.name in _FAR and _reads_here(server, node, targets):
            yield node.name


def _is_call(node: Node, name: str) -> bool:
    return node.kind == "TABLE_FUNCTION" and node.name == name


def _texts(node: Node) -> list[str]:
    """Return the string constants among the arguments of a call."""
    found = (
        _LITERAL.fullmatch(one.name)
        for argument in node.list("ARGUMENTS")
        for one in argument.walk()
        if one.kind == "CONSTANT"
    )
    return [match[1] for match in found if match is not None]


def _merge_condition(definition: str, database: str, database_sql: str, table_sql: str) -> str:
    """
    Return the condition that ``Merge('database', 'regular expression')`` includes a table.

    Args:
        definition: The engine clause or the arguments.
        database: The database that applies if the arguments name no database.
        database_sql: The expression of the table's database.
        table_sql: The expression of the table's name.
    """
    *databases, tables = _LITERAL.findall(definition) or [""]
    of = f"'{databases[0]}'" if databases else literal(database)
    within = f"match({database_sql}, {of})" if "REGEXP" in definition else f"{database_sql} = {of}"
    return f"{within} AND match({table_sql}, '{tables}')"


def _merges(server: ClickHouse, definition: str, database: str, targets: Collection[TableName]) -> bool:
    """
    Return whether ``Merge('database', 'regular expression')`` includes one of *targets*.

    *database* applies if the arguments name no database.
    """
    names = ((literal(one.database), literal(one.table)) for one in sorted(targets))
    tests = (f"({_merge_condition(definition, database, *name)})" for name in names)
    return server.numbers(f"SELECT {' OR '.join(tests)}") == (1,)


def _loads(definition: str, database: str, targets: Collection[TableName]) -> bool:
    """
    Return whether a dictionary loads one of *targets* on this server.

    For a dictionary with a query, return whether the text of the query contains the name of a target.

    Args:
        definition: The CREATE statement of the dictionary.
        database: The database of the source table if *definition* names no database.
    """
    source = re.search(r"SOURCE\(CLICKHOUSE\((.*?)\)\)\s", definition + " ", re.DOTALL)
    if source is None:
        return False
    given = {match[1].upper(): match[2] for match in re.finditer(r"\b(\w{1,20}) '((?:[^'\\]|\\.){0,4000})'", source[1])}
    if given.get("HOST", "") not in _HERE:
        return False
    if "QUERY" in given:
        return any(str(one) in given["QUERY"] for one in targets)
    return TableName(given.get("DB", database), given.get("TABLE", "")) in targets


def _reads_here(server: ClickHouse, node: Node, targets: Collection[TableName]) -> bool:
    """
    Return whether ``remote('address', …)`` or ``cluster('name', …)`` reads one of *targets* on this server.

    Return False if the server refuses a test query with the same address or name.
    """
    where, *names = _texts(node)[:3] or [""]
    names += [one.rest.removeprefix("identifier: ") for one in node.walk() if one.kind == "IDENTIFIER"]
    named = {".".join(names[:2]), *names[-1:]}
    if not any(str(one) in named for one in targets):
        return False
    own = literal(str(server.value("SELECT serverUUID()")))
    question = f"SELECT count() FROM {node.name}({literal(where)}, system.one) WHERE toString(serverUUID()) = {own}"
    try:
        return server.numbers(question) != (0,)
    except StatementRefusedError:
        # The call may need a user and a password, so it counts as a call to a different server.
        return False
