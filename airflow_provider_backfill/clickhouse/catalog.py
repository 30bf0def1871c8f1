"""
Ask a server about tables, views and SELECTs; return plain facts.

The functions change nothing on the server and decide nothing; the planner decides.
"""

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ..core.facts import Column, SelectFacts, TableFacts, ViewFacts
from ..core.instants import from_ms, to_ms
from ..core.names import parse_table, quote, time_value
from ..core.sql import literal, milliseconds, quote_table, table_condition, table_tuples
from ..core.tables import TableName, TimeKind
from ..errors import Advice, Flag, RequestError, StatementRefusedError
from .client import ClickHouse
from .cluster import find_replicas

_AST_FUNCTION = re.compile(r"^\s*Function (\w+)")
_VIEW_TARGET = re.compile(
    r"^CREATE MATERIALIZED VIEW .*? TO ((?:`(?:[^`\\]|\\.)+`|[\w$]+)\.(?:`(?:[^`\\]|\\.)+`|[\w$]+))[ (]", re.DOTALL
)
_HOUR = timedelta(hours=1)
# MergeTree settings, each with the value that permits certain table definitions. By default, a server may refuse these
# definitions.
_ALLOWANCES: Mapping[str, int | str] = {
    "allow_nullable_key": 1,
    "allow_suspicious_indices": 1,
    "allow_floating_point_partition_key": 1,
    "allow_dimensions_outside_sorting_key": 1,
    "allow_summing_columns_in_partition_or_order_key": 1,
    "allow_coalescing_columns_in_partition_or_order_key": 1,
    "allow_experimental_reverse_key": 1,
    "allow_minmax_index_for_json": 1,
    "compatibility_allow_sampling_expression_not_in_primary_key": 1,
    "deduplicate_merge_projection_mode": "'rebuild'",
}
# Functions whose result depends on the order of the rows: they return one of several values, or an array of values.
_CHANCE = re.compile(r"any|anylast|any_value|first_value|last_value|grouparray\w*|groupuniqarray\w*", re.IGNORECASE)


def table_facts(server: ClickHouse, name: TableName) -> TableFacts | None:
    """
    Return facts about a table; None if the table does not exist or the user may not see it.

    For a materialized view with its own storage, only name, columns and fired views are those of the view. The other
    facts, and the marks of key columns, are those of the storage, if the user may see the storage.
    """
    found = server.rows(
        "SELECT engine, engine_full, toString(uuid), partition_key, sorting_key, create_table_query, total_rows,"
        " arrayZip(dependencies_database, dependencies_table),"
        f" (SELECT engine FROM system.databases WHERE name = {literal(name.database)})"
        f" FROM system.tables WHERE {table_condition(name, 'name')}"
    )
    if not found:
        return None
    engine, engine_full, uuid, partition_key, sorting_key, create_query, rows, views, database = found[0]
    columns = server.rows(
        "SELECT name, type, default_kind, is_in_partition_key OR is_in_sorting_key,"
        " if(default_kind IN ('DEFAULT', 'MATERIALIZED'), default_expression, '') FROM system.columns"
        f" WHERE {table_condition(name)} ORDER BY position"
    )
    facts = TableFacts(
        name=name,
        storage=name,
        engine=engine,
        columns=tuple(Column(name, kind, how, bool(in_key), default) for name, kind, how, in_key, default in columns),
        partition_key=partition_key,
        sorting_key=sorting_key,
        engine_full=engine_full,
        rows=rows,
        views=tuple(sorted(TableName(*view) for view in views)),
        replicas=find_replicas(server, name) if engine.startswith("Replicated") else None,
        allowances=_allowances(server) if engine.endswith("MergeTree") else {},
        database_engine=database or "",
        definition=create_query,
        uuid=uuid if uuid.strip("0-") else "",
    )
    if facts.old_syntax:
        facts = replace(facts, allowances={})
    if facts.database_engine == "Replicated":
        apart, others = _apart(server, facts)
        facts = replace(facts, apart=apart, alters_others=others)
    if engine != "MaterializedView" or _view_target(create_query) is not None:
        return facts
    # A materialized view without TO keeps its rows in a hidden table.
    hidden = f".inner_id.{uuid}" if uuid.strip("0-") else f".inner.{name.table}"
    inner = table_facts(server, TableName(name.database, hidden))
    if inner is None:
        return facts
    keys = {column.name for column in inner.columns if column.in_key}
    marked = tuple(column._replace(in_key=column.name in keys) for column in facts.columns)
    return replace(inner, name=name, columns=marked, views=facts.views)


def _apart(server: ClickHouse, table: TableFacts) -> tuple[str, bool]:
    """
    Return :attr:`TableFacts.apart` and :attr:`TableFacts.alters_others` of a table in a Replicated database.

    *alters_others* is True if the database has several shards. For a table whose engine is neither Replicated nor
    Shared, *alters_others* is also True if the database has several servers.

    The cluster of the database has the database's name. Without an answer from Keeper, the server does not know the
    cluster, and *alters_others* is True.
    """
    server_id, shards, servers = server.row(
        "SELECT toString(serverUUID()), uniqExact(database_shard_name), count() FROM system.clusters"
        f" WHERE cluster = {literal(table.storage.database)} AND database_shard_name != ''"
    )
    if table.replicas is not None:
        return table.replicas.path, shards != 1
    if table.engine.startswith("Shared"):
        return "", shards != 1
    return str(server_id), servers != 1


def _allowances(server: ClickHouse) -> dict[str, int | str]:
    """Return those of :data:`_ALLOWANCES` that are off on this server; empty if the user may not read the settings."""
    try:
        strict = server.rows(
            "SELECT name FROM system.merge_tree_settings"
            f" WHERE value IN ('0', 'throw') AND name IN ({', '.join(map(literal, _ALLOWANCES))})"
        )
    except StatementRefusedError as error:
        if error.name != "ACCESS_DENIED":
            raise
        return {}
    return {setting: _ALLOWANCES[setting] for (setting,) in strict}


def version_numbers(version: str) -> tuple[int, ...]:
    """Return the numbers in the answer of ``version()``, such as ``26.7.2.1``."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def engines(server: ClickHouse, tables: Iterable[TableName]) -> dict[TableName, str]:
    """Return the engine clauses of those of *tables* that exist, by table and in the order of the names."""
    names = table_tuples(tables)
    rows = server.rows(
        f"SELECT database, name, engine_full FROM system.tables WHERE (database, name) IN ({names}) ORDER BY ALL"
    )
    return {TableName(database, table): engine for database, table, engine in rows}


def feeding_views(server: ClickHouse, target: TableName) -> list[ViewFacts]:
    """Return the materialized views that write to *target*, including *target* if it is a view with its own storage."""
    found = server.rows(
        "SELECT database, name, as_select, create_table_query FROM system.tables WHERE engine = 'MaterializedView'"
        " ORDER BY database, name"
    )
    views = []
    for database, table, select, create_query in found:
        name = TableName(database, table)
        if _view_target(create_query) == target or (name == target and _view_target(create_query) is None):
            sources = server.rows(
                "SELECT database, name FROM system.tables WHERE has(arrayZip(dependencies_database,"
                f" dependencies_table), ({literal(database)}, {literal(table)})) ORDER BY database, name"
            )
            refreshable = re.search(r"^CREATE MATERIALIZED VIEW \S+ .*?\bREFRESH (?:EVERY|AFTER)\b", create_query)
            views.append(ViewFacts(name, select, tuple(TableName(*source) for source in sources), bool(refreshable)))
    return views


def foreign_definers(server: ClickHouse, views: Iterable[str]) -> dict[str, str]:
    """
    Return the definer of each of *views* that has SQL SECURITY DEFINER, by ``database.view``.

    Views whose definer is this user are left out.
    """
    names = ", ".join(map(literal, views))
    if not names:
        return {}
    pattern = literal(r"DEFINER = (`[^`]+`|\S+) SQL SECURITY DEFINER")
    found = server.rows(
        f"SELECT concat(database, '.', name), trim(BOTH '`' FROM extract(create_table_query, {pattern})) AS definer"
        f" FROM system.tables WHERE engine = 'MaterializedView' AND concat(database, '.', name) IN ({names})"
        " AND definer NOT IN ('', currentUser())"
    )
    return {str(view): str(definer) for view, definer in found}


def view_targets(server: ClickHouse, views: Iterable[TableName]) -> dict[TableName, TableName]:
    """Return the targets of materialized *views*, by view. Views with their own storage are left out."""
    names = ", ".join(f"({literal(view.database)}, {literal(view.table)})" for view in views)
    if not names:
        return {}
    found = server.rows(
        f"SELECT database, name, create_table_query FROM system.tables WHERE (database, name) IN ({names})"
    )
    targets = {TableName(database, table): _view_target(create_query) for database, table, create_query in found}
    return {view: target for view, target in targets.items() if target is not None}


def _view_target(create_query: str) -> TableName | None:
    match = _VIEW_TARGET.match(create_query.split(" AS SELECT ")[0].split(" AS WITH ")[0] + " ")
    return parse_table(match.group(1), "view") if match else None


def select_facts(server: ClickHouse, select: str, settings: Mapping[str, str] | None = None) -> SelectFacts:
    """
    Return the columns of a SELECT, and the names of its functions whose results may change between executions.

    Args:
        settings: Settings for the SELECT, and the values of its query parameters.

    Raises:
        ServerError: The server refused the SELECT or could not be reached.
    """
    columns = server.rows(f"DESCRIBE TABLE (\n{select}\n)", settings)
    tree = [line for (line,) in server.rows(f"SELECT explain FROM (EXPLAIN AST\n{select}\n)", settings)]
    functions = [match.group(1) for line in tree if (match := _AST_FUNCTION.match(line))]
    # Import here, so that a run does not load the rules of adding up. A run does not call this function.
    from ..core.adding_up.lineage import UNSTABLE

    return SelectFacts(
        columns=tuple(Column(column[0], column[1]) for column in columns),
        unstable=tuple(
            dict.fromkeys(name for name in functions if UNSTABLE.fullmatch(name) or _CHANCE.fullmatch(name))
        ),
    )


def database_engine(server: ClickHouse, name: str) -> str | None:
    """Return the engine of a database; None if the database does not exist."""
    found = server.rows(f"SELECT engine FROM system.databases WHERE name = {literal(name)}")
    return str(found[0][0]) if found else None


def are_constant(server: ClickHouse, expressions: Sequence[str]) -> bool:
    """Return whether *expressions* need no column and never change their values; False if the server refuses them."""
    select = "SELECT " + ", ".join(f"({expression})" for expression in expressions)
    try:
        return not select_facts(server, select).unstable
    except StatementRefusedError:
        return False


def tables_like(server: ClickHouse, name: TableName, without: Collection[TableName]) -> list[TableName]:
    """
    Return up to 3 MergeTree tables that have all columns of table *name*, with the same names and types.

    Tables in the database of *name* come first. The private tables of plans are left out.

    Args:
        without: Tables to leave out.
    """
    left_out = table_tuples(sorted(without))
    found = server.rows(
        "SELECT database, table FROM system.columns WHERE (name, type) IN"
        f" (SELECT name, type FROM system.columns WHERE {table_condition(name)})"
        " AND (database, table) IN (SELECT database, name FROM system.tables WHERE engine LIKE '%MergeTree')"
        f" AND (database, table) NOT IN ({left_out}) AND NOT match(table, '^backfill_([0-9a-f]{{16}}|trial)_')"
        " GROUP BY database, table"
        f" HAVING count() = (SELECT count() FROM system.columns WHERE {table_condition(name)})"
        f" ORDER BY database != {literal(name.database)}, database, table LIMIT 3"
    )
    return [TableName(*row) for row in found]


def supertypes(server: ClickHouse, pairs: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Return the smallest common type of each pair of types, by pair; empty text if that type is a Variant."""
    found: dict[tuple[str, str], str] = {}
    for pair in pairs:
        values = ", ".join(f"defaultValueOfTypeName({literal(name)})" for name in pair)
        inner = str(server.value(f"SELECT toTypeName([{values}])")).removeprefix("Array(").removesuffix(")")
        found[pair] = "" if inner.startswith("Variant(") else inner
    return found


def count_rows(server: ClickHouse, table: TableName, condition: str = "") -> int:
    """Return the number of rows of *table* that meet *condition*; without a condition, of all rows."""
    where = f" WHERE {condition}" if condition else ""
    return int(server.value(f"SELECT count() FROM {quote_table(table)}{where}"))


def time_span(server: ClickHouse, table: TableName, column: str, kind: TimeKind) -> tuple[datetime, datetime]:
    """
    Return the first and the last instant in *column*, rounded down to whole milliseconds.

    Raises:
        RequestError: The table has no rows.
    """
    low_ms, high_ms = (milliseconds(f"{extreme}({time_value(column)})", kind) for extreme in ("min", "max"))
    count, low, high = server.row(f"SELECT count(), {low_ms}, {high_ms} FROM {quote_table(table)}")
    if not count:
        raise RequestError(
            f"{table} is empty, so the window is unknown.",
            remedy=Advice("pass {} and {}", Flag("--from"), Flag("--to")),
        )
    return from_ms(float(low)), from_ms(float(high))


def sample_times(server: ClickHouse, table: TableName, column: str) -> tuple[str, str] | None:
    """
    Return the smallest and the largest of up to 10,000 values of the time column (or expression), as texts.

    Return None if the table has no rows, or if the server refuses the query or takes over 5 seconds.
    """
    some = f"SELECT {time_value(column)} AS value FROM {quote_table(table)} LIMIT 10000"
    try:
        count, low, high = server.row(
            f"SELECT count(), toString(min(value)), toString(max(value)) FROM ({some})", {"max_execution_time": 5}
        )
    except StatementRefusedError:
        return None
    return (str(low), str(high)) if count else None


def first_instant(
    server: ClickHouse, table: TableName, column: str, kind: TimeKind, condition: str
) -> tuple[int, datetime | None]:
    """
    Return the number of rows that meet *condition*, and the earliest instant of these rows in *column*.

    The instant is None if no row meets *condition*.
    """
    count, low = server.row(
        f"SELECT count(), {milliseconds(f'min({quote(column)})', kind)} FROM {quote_table(table)} WHERE {condition}"
    )
    return int(count), from_ms(float(low)) if count else None


def clocks_differ(
    server: ClickHouse, zones: tuple[str, str], start: datetime, end: datetime, settings: Mapping[str, str]
) -> bool:
    """
    Return whether two time zones show different times at *start* or a whole number of hours later, up to *end*.

    Args:
        zones: The names of the zones; an empty text means the default zone under *settings*.
        settings: Settings for the query, such as ``session_timezone``.
    """
    one, other = (f"toString(toDateTime64(at, 0{f', {literal(zone)}' if zone else ''}))" for zone in zones)
    hours = f"SELECT toInt64({to_ms(start) // 1000} + number * 3600) AS at FROM numbers({(end - start) // _HOUR + 1})"
    return server.numbers(f"SELECT countIf({one} != {other}) FROM ({hours})", settings) != (0,)


def server_time(server: ClickHouse) -> datetime:
    """Return the current time by the server's clock, in whole milliseconds."""
    return from_ms(float(server.value("SELECT toUnixTimestamp64Milli(now64(3))")))
