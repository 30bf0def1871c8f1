"""
Collect the facts for a plan: tables, window, reads of the statements, existing rows.

The functions connect the catalog, which asks the server, with the planner, which decides.
"""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ..clickhouse import catalog, query_plan
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up, is_replicated_on
from ..clickhouse.shards import spread_of
from ..core.column_types import time_kind
from ..core.facts import CutoverFacts, ScanFacts, TableFacts, TimeColumn
from ..core.instants import MS_PER_DAY, from_ms
from ..core.names import is_expression, quote
from ..core.parameters import parameter_settings
from ..core.plan import FilteredTable, Plan, Statement, TargetTime
from ..core.planner import check_scan, find_time_column
from ..core.request import PlanRequest
from ..core.sql import quote_table, time_filter, time_select
from ..core.tables import TABLE_FUNCTION, TableName
from ..core.window import whole_days
from ..errors import Advice, Flag, RequestError, Sql, StatementRefusedError
from ..options import Options

_STAGING_ENGINES = ("Atomic", "Ordinary", "Memory", "Shared")


def target_facts(server: ClickHouse, name: TableName, staging_database: str = "") -> TableFacts:
    """
    Return facts about an existing table.

    Args:
        staging_database: The database for staging tables; empty for the table's own database.

    Raises:
        RequestError: The table or *staging_database* does not exist, or *staging_database* cannot hold staging tables.
    """
    facts = catalog.table_facts(server, name)
    if facts is None:
        raise RequestError(
            f"There is no table {name} on {server.address}.",
            hint="check the name (database.table), the server, and that the user may see the table",
        )
    return _staged_in(server, facts, staging_database) if staging_database not in ("", facts.beside) else facts


def _staged_in(server: ClickHouse, target: TableFacts, database: str) -> TableFacts:
    engine = catalog.database_engine(server, database)
    if engine is None:
        raise RequestError(
            f"There is no database {database} on {server.address} for the staging tables of {target.name}.",
            remedy=Advice(
                "run {}, or omit {}",
                Sql(f"CREATE DATABASE {quote(database)}"),
                Flag("--staging-database", database),
            ),
        )
    apart = target.database_engine == "Replicated" or engine == "Replicated"
    if apart or engine not in _STAGING_ENGINES:
        why = (
            "a Replicated database has replicas of its own"
            if apart
            else "tables that give their partitions away cannot be made in it"
        )
        raise RequestError(
            f"Staging tables of {target.name} ({target.database_engine} database) cannot be made in {database} "
            f"({engine} database): {why}.",
            remedy=Advice(
                "name a database of one of the engines {}, or omit {}",
                ", ".join(_STAGING_ENGINES),
                Flag("--staging-database", database),
            )
            if not apart
            else Advice("omit {}", Flag("--staging-database", database)),
        )
    return replace(target, staging_database=database, database_engine=engine)


def replicated_tables(
    server: ClickHouse, statements: Sequence[Statement], target: TableFacts
) -> tuple[tuple[TableName, str], ...]:
    """
    Return the replicated tables among the target and all tables that the statements read, since replicas may lag.

    Returns:
        Pairs of a table and the cluster whose replicas are read. The cluster is empty for a table that this server
        reads locally.
    """
    sources = [name for statement in statements if (name := statement.table) is not None]
    tables, spread = {target.storage, *sources}, []
    for statement in statements:
        # The tables that a SELECT reads do not depend on the chunk's bounds, so any bounds will do.
        bounds = parameter_settings(statement.parameters, from_ms(0), from_ms(MS_PER_DAY))
        tables |= {*query_plan.tables_read(server, statement.select, bounds)}
    engines = catalog.engines(server, tables)
    for name in sources:
        over = spread_of(server, engines.get(name, ""))
        if over is not None and is_replicated_on(server, over.cluster, over.local):
            spread.append((over.local, over.cluster))
    # A server may lag behind on these tables.
    behind = [table for table, engine in engines.items() if engine.startswith(("Replicated", "Shared"))]
    return (*((table, "") for table in behind), *dict.fromkeys(spread))


def connection_of(server: ClickHouse, statements: Sequence[Statement]) -> str:
    """
    Return the part of the connection that decides what SELECTs mean: the time zone, and the database where needed.

    The time zone decides which day or hour a time is in. The database is needed if a user's SELECT names tables or
    dictionaries without a database. The result is empty if all statements are copies of tables.
    """
    from ..clickhouse import query_tree

    if all(statement.copies_table for statement in statements):
        return ""
    zone, database = server.row("SELECT timezone(), currentDatabase()")
    for statement in statements:
        if statement.name == "--select":
            bounds = parameter_settings(statement.parameters, from_ms(0), from_ms(MS_PER_DAY))
            try:
                query_tree.query_tree(server, statement.select, {**statement.settings, **bounds, "database": "system"})
            except StatementRefusedError:
                return f"time zone {zone} and the database {database}"
    return f"time zone {zone}"


def type_of(table: TableFacts, column: str) -> str:
    """Return the type of a column; empty if the column does not exist."""
    found = table.column(column)
    return found.type if found is not None else ""


def _time_type(server: ClickHouse, one: FilteredTable) -> str:
    if is_expression(one.column):
        return catalog.select_facts(server, time_select(one.column, quote_table(one.table))).columns[0].type
    return type_of(target_facts(server, one.table), one.column)


def find_window(
    server: ClickHouse, options: Options, request: PlanRequest, statement: Statement, column: str
) -> tuple[datetime, datetime]:
    """
    Return the requested window ``[start, end)``. If the policy allows, take missing bounds from the source.

    A missing start becomes the earliest time in the source. A missing end becomes the latest time plus one millisecond,
    or plus one day if *column* stores dates.

    Raises:
        RequestError: A bound is missing and cannot be taken from the source: the policy requires both bounds, the
            statement has no source, or the source is empty.
    """
    if request.start is not None and request.end is not None:
        return request.start, request.end
    if options.policy.require_explicit_window or statement.source is None:
        what, name = ("start", "--from") if request.start is None else ("end", "--to")
        raise RequestError(
            f"The window has no {what}.",
            remedy=Advice(
                "pass {}, or set policy.requireExplicitWindow to false to take it from the source",
                Flag(name, "2025-01-31"),
            ),
        )
    first, last = catalog.time_span(server, statement.source, column, statement.time_kind)
    whole = timedelta(days=1) if statement.time_kind.is_date else timedelta(milliseconds=1)
    return request.start or first, request.end or last + whole


def check_scans(server: ClickHouse, target: TableFacts, plan: Plan, start: datetime, end: datetime) -> list[ScanFacts]:
    """
    Return, for each statement, how the server would read the filtered tables between two instants.

    The reads of a statement with query parameters are not checked, since it has no filtered tables. If *plan* is one
    shard's view of the plan, the source may be empty, because the reads are checked on the other shards.

    Raises:
        RequestError: A statement reads the target, does not read its source, or reads a filtered table without the time
            filter; or all filtered tables of a statement are empty, and *plan* is not one shard's view.
        ServerError: The server does not accept a statement.
    """
    scans = []
    for statement in plan.statements:
        if statement.parameters:
            values = {**statement.settings, **parameter_settings(statement.parameters, start, end)}
            scans.append(query_plan.unfiltered_scan(server, statement.query, values))
            continue
        filters = plan.filters(statement)
        scan = query_plan.scan_facts(server, statement.query, filters, start, end, statement.settings)
        if (
            not scan.reads
            and statement.table is not None
            and all(target_facts(server, one.table).rows == 0 for one in filters)
        ):
            if plan.shard:
                scans.append(scan)
                continue
            raise RequestError(
                f"{statement.source} is empty, so there is nothing to backfill, and how it would be read cannot be "
                "seen.",
                hint="plan when it has rows, or name another source",
            )
        check_scan(target, statement, scan, filters[0].column)
        scans.append(scan)
    return scans


def read_queries(server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts]) -> list[ScanFacts]:
    """Return the scans with the facts for adding up: each SELECT's query tree, its sources and its time columns."""
    # Imported here, so that a run does not load the rules for query trees, which only planning reads.
    from ..clickhouse import query_tree

    found = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        values = parameter_settings(statement.parameters, plan.start, plan.end)
        # Settings may change the tree: the strictness of joins, for example.
        tree = query_tree.query_tree(server, statement.select, {**statement.settings, **values})
        times = {}
        for one in plan.filters(statement):
            kind = statement.function_type
            if one.table.database != TABLE_FUNCTION:
                kind = _time_type(server, one)
            times[one.table] = TimeColumn(one.column, kind, one.kind)
        sources = query_tree.sources(server, tree, times.keys(), target)
        found.append(replace(scan, tree=tree, sources=sources, times=times))
    return found


def target_time(target: TableFacts, column: str, unit: str) -> TargetTime | None:
    """
    Return the target's own time column; None if there is none, or if the choice is ambiguous.

    Prefer the column with the name *column*, the source's time column; an integer there counts time in *unit*.
    Otherwise, take the only time column, or the first in the sorting key or else in the partition key.
    """
    own = target.column(column)
    kind = time_kind(own.type, unit) if own is not None else None
    if kind is not None:
        return TargetTime(column=column, kind=kind)
    try:
        name, kind = find_time_column(target, None, "")
    except RequestError:
        return None
    return TargetTime(column=name, kind=kind)


def summed_columns(target: TableFacts, statements: Sequence[Statement], time: TargetTime | None) -> tuple[str, ...]:
    """
    Return the columns of the content sums: the target's key columns and its time column.

    The sums of these columns reveal lost and duplicated rows at a fraction of the cost of all columns. If the target
    has no sorting key, or a statement does not fill one of these columns, the sums cover all columns that the
    statements fill. The result is then empty. If every statement fills an EPHEMERAL column, the result instead lists
    the other columns that every statement fills.
    """
    stored = tuple(c.name for c in target.columns if c.default_kind != "EPHEMERAL")
    common = set.intersection(*(set(statement.columns) for statement in statements))
    # An INSERT fills ephemeral columns, but queries cannot read them. So list the stored columns by name.
    whole = () if common.issubset(stored) else tuple(name for name in stored if name in common)
    if not target.sorting_key:
        return whole
    names = tuple(c.name for c in target.columns if c.in_key or (time is not None and c.name == time.column))
    return names if common.issuperset(names) else whole


def existing_rows(server: ClickHouse, target: TableFacts, plan: Plan) -> int | None:
    """
    Return the number of rows that the target has in the plan's window; a replicated target catches up first.

    The window applies to ``plan.target_time``, and is extended to whole days if that column stores dates. Without a
    time column, all rows of the target count.
    """
    if target.replicas is not None:
        catch_up(server, target.storage)
    elif target.rows == 0:
        return 0
    time = plan.target_time
    if time is None:
        return catalog.count_rows(server, target.storage)
    return catalog.count_rows(server, target.storage, _in_window(time, plan))


def cutover(server: ClickHouse, target: TableFacts, plan: Plan) -> CutoverFacts:
    """
    Return facts that show whether live rows reach the window.

    The facts are the server's time, the number and the earliest time of the target's rows in the window, and the views
    that write to the target on each insert into their source. Without a target time column, all rows of the target
    count, and the earliest time is None. The earliest time is also None if the window has no rows.
    """
    rows, first, time = 0, None, plan.target_time
    if time is None:
        rows = existing_rows(server, target, plan) or 0
    elif target.rows != 0 or target.replicas is not None:
        rows, first = catalog.first_instant(server, target.storage, time.column, time.kind, _in_window(time, plan))
    views = [view.name for view in catalog.feeding_views(server, target.name) if not view.refreshable]
    return CutoverFacts(catalog.server_time(server), rows, first, tuple(views))


def _in_window(time: TargetTime, plan: Plan) -> str:
    start, end = plan.start, plan.end
    if time.kind.is_date:
        start, end = whole_days(start, end)
    return time_filter(time.column, time.kind, start, end)
