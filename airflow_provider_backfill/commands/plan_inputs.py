"""
From what a user asked for to checked statements, by asking the server.

Glue between inspection (which only asks) and the planner (which only decides).
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta

from ..clickhouse import catalog, diagnostics, query_plan, query_sources, query_tree
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up, insert_quorum, is_replicated_on
from ..clickhouse.shards import shards_with, spread_of
from ..core.column_types import time_kind
from ..core.facts import (
    TABLE_FUNCTION,
    CutoverFacts,
    QuerySource,
    ScanFacts,
    SelectFacts,
    TableFacts,
    TableName,
    TimeColumn,
    TimeKind,
)
from ..core.instants import MS_PER_DAY, from_ms
from ..core.parameters import parameter_settings, read_parameters
from ..core.plan import FilteredTable, Parameter, Plan, PlanRequest, Statement, TableFilter, TargetTime, WriteMode
from ..core.planner import check_scan, converted_columns, defaulted_columns, find_time_column, insert_columns
from ..core.query_settings import check_settings
from ..core.query_tree import Node
from ..core.select_text import read_select
from ..core.sql import copy_select, parse_table, quote, show_table, time_filter
from ..core.window import whole_days
from ..errors import Advice, Flag, RequestError, StatementRefusedError
from ..options import Options

# Rows pass through these and are not kept, or are gone once they are read.
_KEEPS_NOTHING = frozenset({"Null", "Kafka", "RabbitMQ", "NATS", "S3Queue", "AzureQueue", "FileLog"})


def target_facts(server: ClickHouse, name: TableName) -> TableFacts:
    """
    Facts about a table that must be there.

    Raises:
        RequestError: There is none of that name.
    """
    facts = catalog.table_facts(server, name)
    if facts is None:
        raise RequestError(
            f"There is no table {name} on {server.address}.",
            hint="check the name (database.table), the server, and that the user may see the table",
        )
    return facts


def check_quorum(server: ClickHouse, target: TableFacts) -> None:
    """
    Hold the replicas that are alive against those that the user's inserts must reach.

    Raises:
        RequestError: They are too few, so every chunk would fail.
    """
    replicas = target.replicas
    if replicas is None:
        return
    quorum = insert_quorum(server, replicas.total)
    if quorum > len(replicas.active):
        raise RequestError(
            f"Inserts of this user must reach {quorum} replicas of {target.name} (insert_quorum), and "
            f"{len(replicas.active)} of {replicas.total} are alive: {', '.join(replicas.active)}.",
            hint="bring the others back, or use a user whose profile asks for fewer",
        )
    if quorum > 1 and not replicas.reaches_all:
        raise RequestError(
            f"Inserts of this user must reach {quorum} replicas of {target.name} (insert_quorum), and no cluster that "
            "the user may ask has all of them, so a staging table would be on one.",
            hint="define such a cluster in remote_servers, and GRANT REMOTE, CLUSTER ON *.* to the user",
        )


def replicated_tables(
    server: ClickHouse, statements: Sequence[Statement], target: TableFacts
) -> tuple[tuple[TableName, str], ...]:
    """
    The tables that the statements read, and the target, as far as they are replicated: a replica may be behind.

    Each with the cluster whose replicas are read; empty for a table that this server reads by itself.
    """
    tables, spread = {target.storage}, []
    for statement in statements:
        if statement.has_table:
            name = parse_table(statement.source, "source")
            tables.add(name)
            source = catalog.table_facts(server, name)
            over = spread_of(source) if source is not None else None
            if over is not None and is_replicated_on(server, over.cluster, over.local):
                spread.append((over.local, over.cluster))
        # Which tables it reads does not depend on the bounds.
        bounds = parameter_settings(statement.parameters, from_ms(0), from_ms(MS_PER_DAY))
        tables |= {*query_plan.tables_read(server, statement.select, bounds)}
    return (*((table, "") for table in catalog.replicated(server, tables)), *dict.fromkeys(spread))


def find_statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    """The statements that fill the target, not yet held against the query plan, and the time column."""
    check_settings(request.settings, "--setting or defaults.settings")
    if request.settings:
        try:
            server.rows("SELECT 1", request.settings)
        except StatementRefusedError as error:
            raise RequestError(
                f"ClickHouse refuses a setting of --setting or defaults.settings: {error.message}",
                hint="correct its name or value",
            ) from error
    statements, column = _statements(server, target, request)
    given = dict(request.settings)
    return [statement.model_copy(update={"settings": given}) for statement in statements], column


def _statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    if request.source is not None:
        source = target_facts(server, request.source)
        if source.name in (target.name, target.storage):
            raise RequestError(
                f"{source.name} is the target itself; inserting a table into itself doubles its rows.",
                remedy=Advice(
                    "pass another {}, or leave it away to replay the views that feed the target", Flag("--source")
                ),
            )
        _check_kept(server, "--source", QuerySource(source.name, source.engine))
        column, kind = find_time_column(source, request.time_column, request.time_unit)
        given = [c for c in source.columns if c.insertable]
        types = {c.name: c.type for c in target.columns}
        pairs = {(c.type, types[c.name]) for c in given if c.name in types and c.type != types[c.name]}
        names = insert_columns(str(source.name), given, target, catalog.supertypes(server, sorted(pairs)))
        select = copy_select(source.name, [c for c in target.columns if c.name in names])
        return [
            Statement(
                name=str(source.name),
                select=select,
                source=show_table(source.name),
                time_kind=kind,
                columns=names,
                row_wise=_constant_defaults(server, target, defaulted_columns(given, target)),
                converted=converted_columns(given, target),
                defaulted=defaulted_columns(given, target),
            )
        ], column
    if request.select is not None:
        statement = _select_statement(server, target, request, request.select, "--select")
        return [statement.model_copy(update={"time_column": ""})], statement.time_column
    return _view_statements(server, target, request)


def _view_statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    views = catalog.feeding_views(server, target.name)
    if not views:
        raise RequestError(
            f"No materialized view writes to {target.name}, so there is nothing to fill it from.",
            remedy=Advice(
                "name where the rows come from: {}, or {}",
                Flag("--source", "database.table"),
                Flag("--select", "SELECT …"),
            ),
        )
    statements: list[Statement] = []
    for view in views:
        if view.refreshable:
            raise RequestError(
                f"{view.name} is a refreshable view: it replaces the target's rows on its own schedule, "
                "and would replace the backfilled ones.",
                hint=f"run SYSTEM REFRESH VIEW {view.name}, or backfill a table that it does not write to",
            )
        wanted = request.filter_tables or tuple(TableFilter(view.sources[0]) for _ in view.sources[:1])
        one = _select_statement(
            server, target, replace(request, filter_tables=wanted), view.select, str(view.name), replayed=True
        )
        statements.append(one)
    # Named only where it is another than the plan's, which is the first one's.
    column = statements[0].time_column
    named = [one if one.time_column != column else one.model_copy(update={"time_column": ""}) for one in statements]
    return named, column


def _select_statement(
    server: ClickHouse, target: TableFacts, request: PlanRequest, text: str, what: str, *, replayed: bool = False
) -> Statement:
    read = read_select(text, what)
    check_settings(read.settings, what)
    select = read.select
    parameters = read_parameters(read.placeholders, dict(request.formats), request.time_unit, what)
    if parameters:
        statement = _placed_by_user(server, target, request, select, parameters, what)
        return statement.model_copy(update={"time_column": request.time_column or parameters[0].name})
    facts = _select_facts(server, select, what, request.settings)
    tree = query_tree.query_tree(server, select)
    sources = query_tree.sources(server, tree, (), target)
    for one in sources.values():
        _check_kept(server, what, one)
    (first, function_type), *further = _filtered_tables(server, select, tree, sources, request, what, replayed=replayed)
    name = TableName(*parse_table(first.table, "source"))
    if name in (target.name, target.storage):
        raise RequestError(
            f"{what} reads {name}, which is the target itself; inserting a table into itself doubles its rows.",
            hint="read from the table the rows come from, or backfill into a new table and exchange the two",
        )
    return Statement(
        name=what,
        select=select,
        source=first.table,
        time_kind=first.kind,
        time_column=first.column,
        function_type=function_type,
        also_filtered=tuple(table for table, _ in further),
        columns=insert_columns(what, facts.columns, target, None),
        row_wise=not facts.unstable and _constant_defaults(server, target, defaulted_columns(facts.columns, target)),
        converted=converted_columns(facts.columns, target),
        defaulted=defaulted_columns(facts.columns, target),
    )


def _select_facts(server: ClickHouse, select: str, what: str, settings: Mapping[str, str]) -> SelectFacts:
    try:
        return catalog.select_facts(server, select, settings)
    except StatementRefusedError as error:
        raise RequestError(
            f"{what} is not a SELECT that ClickHouse accepts: {error.message}", hint="correct the SELECT"
        ) from error


def _placed_by_user(
    server: ClickHouse,
    target: TableFacts,
    request: PlanRequest,
    select: str,
    parameters: tuple[Parameter, ...],
    what: str,
) -> Statement:
    """The statement of a SELECT that takes the chunk's bounds as query parameters, so that no filter is added."""
    if request.start is None or request.end is None:
        raise RequestError(
            f"{what} places the window itself, so no missing bound of it can be read from a source.",
            remedy=Advice("pass {} and {}", Flag("--from"), Flag("--to")),
        )
    if request.filter_tables:
        raise RequestError(
            f"{what} places the window itself by {{{parameters[0].name}}}, so no filter is added to a table.",
            remedy=Advice("leave {} away, or the parameters out of the SELECT", Flag("--filter-table")),
        )
    values = {**request.settings, **parameter_settings(parameters, request.start, request.end)}
    facts = _select_facts(server, select, what, values)
    dates = any(one.kind in (TimeKind.DATE, TimeKind.DATE32) for one in parameters)
    converted = converted_columns(facts.columns, target)
    defaulted = defaulted_columns(facts.columns, target)
    return Statement(
        name=what,
        select=select,
        source="",
        time_kind=TimeKind.DATE if dates else TimeKind.DATETIME64,
        columns=insert_columns(what, facts.columns, target, None),
        row_wise=not facts.unstable and _constant_defaults(server, target, defaulted),
        converted=converted,
        defaulted=defaulted,
        parameters=parameters,
    )


def _type_of(table: TableFacts, column: str) -> str:
    found = table.column(column)
    return found.type if found is not None else ""


def _constant_defaults(server: ClickHouse, target: TableFacts, names: Sequence[str]) -> bool:
    """Whether what a NULL becomes in these columns is the same for every row, so that it can be asked again."""
    defaults = [column.default for column in target.columns if column.name in names and column.default]
    return not defaults or catalog.are_constant(server, defaults)


def _filtered_tables(
    server: ClickHouse,
    select: str,
    tree: Node,
    sources: Mapping[str, QuerySource],
    request: PlanRequest,
    what: str,
    *,
    replayed: bool,
) -> list[tuple[FilteredTable, str]]:
    """The tables and table functions that the window applies to, with the type of a function's time column."""
    known = {source.name for source in sources.values()}
    functions = query_sources.table_functions(server, select)
    if request.filter_tables:
        # Views that are replayed together need not read all of them.
        wanted = [one for one in request.filter_tables if one.table in known] if replayed else []
        found = []
        for one in wanted or request.filter_tables:
            behind = None if one.table in known else query_sources.function_behind(functions, one.table)
            found.append(_filtered_table(behind or target_facts(server, one.table), one.column, request))
        return found
    shown = dict.fromkeys(node.name for node in tree.walk() if node.kind == "TABLE")
    tables = [sources[name].name for name in shown if name in sources and sources[name].name.database != "system"]
    if not tables and not functions:
        raise RequestError(
            f"{what} reads no table, so a window cannot apply to it.",
            remedy=Advice(
                "pass a {} over a table, or place the window yourself by {{chunk_from:DateTime64(3)}} and "
                "{{chunk_to:DateTime64(3)}}",
                Flag("--select"),
            ),
        )
    fitting: list[tuple[FilteredTable, str]] = []
    problem: RequestError | None = None
    for facts in (*(target_facts(server, name) for name in tables if name not in request.whole_tables), *functions):
        if not facts.columns:
            problem = RequestError(
                f"{what} reads {facts.name}, a parametrised view, which has no columns of its own.",
                remedy=Advice("pass {} with the table behind the view", Flag("--filter-table")),
            )
            continue
        try:
            fitting.append(_filtered_table(facts, None, request))
        except RequestError as error:
            problem = problem or error
    if len(fitting) == 1:
        return fitting
    if problem is not None and not fitting:
        raise problem
    if not fitting:
        raise RequestError(
            f"{what} reads only tables that {Flag('--whole-table')} names, so the window applies to none.",
            remedy=Advice("leave {} away for the table that the window applies to", Flag("--whole-table")),
        )
    names = ", ".join(f"{table.table} ({table.column})" for table, _ in fitting)
    each = [Flag("--filter-table", f"{table.table}={table.column}") for table, _ in fitting]
    raise RequestError(
        f"{what} reads several tables that the window could apply to: {names}.",
        remedy=Advice(
            f"to limit each, as the branches of a UNION need it, pass {' '.join('{}' for _ in each)}; where the others "
            "are only looked up by a join, name the one that the window applies to: {}",
            *each,
            Flag("--filter-table", fitting[0][0].table),
        ),
    )


def _filtered_table(facts: TableFacts, column: str | None, request: PlanRequest) -> tuple[FilteredTable, str]:
    named = column or request.time_column
    if column is None and len(request.filter_tables) > 1 and named is not None and facts.column(named) is None:
        # What --time-column names is another table's.
        named = None
    name, kind = find_time_column(facts, named, request.time_unit)
    function_type = _type_of(facts, name) if facts.name.database == TABLE_FUNCTION else ""
    return FilteredTable(table=show_table(facts.name), column=name, kind=kind), function_type


def _check_kept(server: ClickHouse, what: str, source: QuerySource) -> None:
    """Refuse a table that rows only pass through, before anything is read from it."""
    if source.engine not in _KEEPS_NOTHING:
        return
    like = [str(name) for name in catalog.tables_like(server, source.name)]
    where = f"{', '.join(like)} {'has' if len(like) == 1 else 'have'} its columns: " if like else ""
    read = like[0] if like else "the table that does"
    raise RequestError(
        f"{what} reads {source.name}, a {source.engine} table, which keeps no rows that could be read again.",
        remedy=Advice(
            f"{where}pass {{}} with the same SELECT over {read}, or fill {source.name} "
            "itself, which its views see: {} {}",
            Flag("--select"),
            Flag("--target", show_table(source.name)),
            Flag("--source", read),
        ),
    )


def find_window(
    server: ClickHouse, options: Options, request: PlanRequest, statement: Statement, column: str
) -> tuple[datetime, datetime]:
    """
    The window ``[start, end)`` that was asked for; where the policy allows, missing bounds come from the source.

    Raises:
        RequestError: A bound is missing and the policy wants both, or the source is empty.
    """
    if request.start is not None and request.end is not None:
        return request.start, request.end
    if options.policy.require_explicit_window:
        what, name = ("start", "--from") if request.start is None else ("end", "--to")
        raise RequestError(
            f"The window has no {what}.",
            remedy=Advice(
                "pass {}, or set policy.requireExplicitWindow to false to take it from the source",
                Flag(name, "2025-01-31"),
            ),
        )
    first, last = catalog.time_span(server, parse_table(statement.source, "source"), column, statement.time_kind)
    whole = timedelta(days=1) if statement.time_kind.is_date else timedelta(milliseconds=1)
    return request.start or first, request.end or last + whole


def check_scans(server: ClickHouse, target: TableFacts, plan: Plan, start: datetime, end: datetime) -> list[ScanFacts]:
    """
    How the server would read the filtered tables for each statement between two instants.

    Raises:
        RequestError: The time filter does not reach every read of a filtered table, or the target is read.
    """
    scans = []
    for statement in plan.statements:
        if statement.parameters:
            values = {**statement.settings, **parameter_settings(statement.parameters, start, end)}
            scans.append(query_plan.unfiltered_scan(server, statement.select, values))
            continue
        filters = plan.filters(statement)
        scan = query_plan.scan_facts(server, statement.select, filters, start, end, statement.settings)
        if (
            not scan.reads
            and statement.has_table
            and all(target_facts(server, _name(one)).rows == 0 for one in filters)
        ):
            raise RequestError(
                f"{statement.source} is empty, so there is nothing to backfill, and how it would be read cannot be "
                "seen.",
                hint="plan when it has rows, or name another source",
            )
        check_scan(target, statement, scan, filters[0].column)
        scans.append(scan)
    return scans


def read_queries(server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts]) -> list[ScanFacts]:
    """The scans with what the rules for adding up look at: each SELECT's tree, its tables, and their time columns."""
    found = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        if statement.parameters:
            # The SELECT limits itself, which the rules do not follow.
            found.append(scan)
            continue
        tree = query_tree.query_tree(server, statement.select)
        times = {}
        for one in plan.filters(statement):
            kind = statement.function_type
            if _name(one).database != TABLE_FUNCTION:
                kind = _type_of(target_facts(server, _name(one)), one.column)
            times[_name(one)] = TimeColumn(one.column, kind, one.kind)
        sources = query_tree.sources(server, tree, times.keys(), target)
        found.append(replace(scan, tree=tree, sources=sources, times=times))
    return found


def _name(table: FilteredTable) -> TableName:
    return parse_table(table.table, "source")


def target_time(target: TableFacts, column: str, unit: str) -> TargetTime | None:
    """
    The target's own time column: of the same name as the source's, else the one its keys lead to.

    An integer epoch of the source's name has the source's *unit*.
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
    The columns that tell the target's rows apart: those of its keys, and its time.

    A lost or a doubled row shows in them, and they cost a fraction of all columns to read. All that
    are stored (which none means as well) when the target has no sorting key, or a statement does
    not fill one of them.
    """
    stored = tuple(c.name for c in target.columns if c.default_kind != "EPHEMERAL")
    common = set.intersection(*(set(statement.columns) for statement in statements))
    # An ephemeral column is filled, and nowhere to be read.
    whole = () if common.issubset(stored) else tuple(name for name in stored if name in common)
    if not target.sorting_key:
        return whole
    names = tuple(c.name for c in target.columns if c.in_key or (time is not None and c.name == time.column))
    return names if common.issuperset(names) else whole


def existing_rows(server: ClickHouse, target: TableFacts, plan: Plan) -> int | None:
    """
    Rows the target holds in the window.

    By its column of the same name, else by its own time column (a bucket's start lies in the
    window when the bucket does), else all of them: without a time none can be ruled out.
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
    """Where the window meets rows that come in by themselves."""
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


def check_database(server: ClickHouse, target: TableFacts, mode: WriteMode) -> None:
    """
    Refuse to stage beside a target whose database cannot rename a table, which is how a staged chunk is sealed.

    Raises:
        RequestError: Its engine is Memory.
    """
    engine = catalog.database_engine(server, target.storage.database)
    if engine == "Memory" and mode is not WriteMode.INSERT:
        raise RequestError(
            f"The database {target.storage.database} has the engine {engine}, which cannot rename tables, so no "
            f"chunk can be staged beside {target.name}.",
            remedy=Advice(
                "move the table into an Atomic database, or pass {} {}",
                Flag("--write-mode", WriteMode.INSERT),
                Flag("--accept-at-least-once"),
            ),
        )


def check_grants(server: ClickHouse, target: TableFacts, mode: WriteMode) -> None:
    """
    Hold the user's rights against what a write mode needs; those on the sources show when they are read.

    Raises:
        RequestError: Some are missing; the hint has the statements that grant them.
    """
    try:
        missing = diagnostics.missing_grants(server, target, mode, ())
    except StatementRefusedError:
        # A version without CHECK GRANT: doctor says that it could not look, and the run meets what is missing.
        return
    if not missing:
        return
    user = str(server.value("SELECT currentUser()"))
    by_place: dict[str, list[str]] = {}
    for grant in missing:
        by_place.setdefault(grant.on, []).append(grant.right)
    lacks = ", ".join(f"{' and '.join(rights)} on {on}" for on, rights in by_place.items())
    grants = "; ".join(f"GRANT {', '.join(rights)} ON {on} TO {quote(user)}" for on, rights in by_place.items())
    raise RequestError(
        f"{user} lacks rights that write mode {mode} needs: {lacks}.",
        hint=f"as a user who may grant: {grants}",
    )


def check_shards(server: ClickHouse, target: TableFacts, statements: Sequence[Statement], request: PlanRequest) -> None:
    """
    Refuse to put the rows of all shards into the local table of one of them.

    Raises:
        RequestError: A source is Distributed over a cluster in which several shards have the target.
    """
    if request.one_shard or target.engine == "Distributed":
        return
    for statement in (one for one in statements if one.has_table):
        source = target_facts(server, parse_table(statement.source, "source"))
        spread = spread_of(source)
        if spread is None:
            continue
        shards = shards_with(server, spread.cluster, target.storage)
        if shards > 1:
            raise RequestError(
                f"{source.name} is Distributed over the cluster {spread.cluster}, and {target.name} is a local table "
                f"on {shards} of its shards: the rows of all shards would land on this one.",
                remedy=Advice(
                    "on each shard plan with {} or the shard's own source, or pass {} if all rows belong here",
                    Flag("--source", str(spread.local)),
                    Flag("--one-shard"),
                ),
            )
