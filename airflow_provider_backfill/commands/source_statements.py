"""Find the statements that fill a target: from its views, a source table, or a SELECT."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..clickhouse import catalog, query_sources, query_tree
from ..clickhouse.client import ClickHouse
from ..clickhouse.holding import KEEPS_NOTHING
from ..core.facts import Column, QuerySource, SelectFacts, TableFacts
from ..core.names import show_table
from ..core.parameters import compared_zones, parameter_settings, read_parameters
from ..core.plan import FilteredTable, Parameter, Statement, WriteMode
from ..core.planner import converted_columns, defaulted_columns, find_time_column, insert_columns
from ..core.query_settings import check_settings
from ..core.query_tree import Node
from ..core.request import PlanRequest, TableFilter
from ..core.select_text import read_select
from ..core.sql import copy_select, in_parentheses, quote_table, time_select
from ..core.tables import TABLE_FUNCTION, TimeKind
from ..errors import Advice, Flag, RequestError, StatementRefusedError
from .plan_inputs import target_facts, type_of

# The engines of tables in other databases. ClickHouse sends these databases the conditions of a SELECT, with times as
# text.
_SENT_TEXT = ("MySQL", "PostgreSQL", "ODBC", "JDBC")


def find_statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    """
    Find the statements that fill the target.

    Returns:
        The statements, whose reads are not yet checked by the query plan; and the time column of the first statement.

    Raises:
        RequestError: ClickHouse refuses a setting or a SELECT; a source does not exist, is the target itself or keeps
            no rows; no view or a refreshable view writes to the target; the columns do not fit the target; the window
            does not fit the SELECT; no time column can be chosen; or the request has a unit, and no time is an integer.
    """
    if request.settings:
        try:
            server.rows("SELECT 1", request.settings)
        except StatementRefusedError as error:
            raise RequestError(
                f"ClickHouse refuses a setting of --setting or defaults.settings: {error.message}",
                hint="correct its name or value",
            ) from error
    statements, column = _statements(server, target, request)
    _check_unit(request.time_unit, statements, column)
    given = dict(request.settings)
    return [statement.model_copy(update={"settings": given}) for statement in statements], column


def _check_unit(unit: str, statements: Sequence[Statement], column: str) -> None:
    """Refuse a unit of integer times if no time is an integer, because the user may mean another column."""
    kinds = [statement.time_kind for statement in statements]
    kinds += [one.kind for statement in statements for one in statement.also_filtered]
    kinds += [one.kind for statement in statements for one in statement.parameters if one.kind is not None]
    if unit and not any(kind.unit for kind in kinds):
        raise RequestError(
            f"The time {column} of {statements[0].name} is no integer, so it has no unit.",
            remedy=Advice("omit {}, or name an integer column by {}", Flag("--time-unit", unit), Flag("--time-column")),
        )


def _statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    if request.source is not None:
        source = target_facts(server, request.source)
        if source.name in (target.name, target.storage):
            raise RequestError(
                f"{source.name} is the target itself; inserting a table into itself doubles its rows.",
                remedy=Advice("pass another {}, or omit it to replay the views that feed the target", Flag("--source")),
            )
        _check_kept(server, "--source", QuerySource(source.name, source.engine), target)
        named, timed = _with_expression(server, source, request.time_column)
        column, kind = find_time_column(timed, named, request.time_unit)
        # A computed column is copied if the target stores one of its name. An EPHEMERAL column cannot be read.
        stored = {c.name for c in target.columns if c.insertable}
        given = [c for c in source.columns if c.default_kind != "EPHEMERAL" and (c.insertable or c.name in stored)]
        types = {c.name: c.type for c in target.columns}
        pairs = {(c.type, types[c.name]) for c in given if c.name in types and c.type != types[c.name]}
        names = insert_columns(str(source.name), given, target, catalog.supertypes(server, sorted(pairs)))
        select = copy_select(source.name, [c for c in target.columns if c.name in names])
        if not source.engine.endswith("MergeTree"):
            for one in query_tree.sources(server, query_tree.query_tree(server, select), (), target).values():
                _check_kept(server, "--source", one, target)
        return [
            Statement(
                name=str(source.name),
                select=select,
                source=source.name,
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
    # Store the time column only if it differs from the plan's, which is the column of the first statement.
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
    tree = query_tree.query_tree(server, select, request.settings)
    sources = query_tree.sources(server, tree, (), target)
    for one in sources.values():
        _check_kept(server, what, one, target)
    (first, function_type), *further = _filtered_tables(server, select, tree, sources, request, what, replayed=replayed)
    name = first.table
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
    """
    Return the statement of a SELECT that limits its rows by query parameters, so that no table gets a filter.

    Raises:
        RequestError: The window has no start or no end, the request names a table to filter, a source does not keep its
            rows, a time of another database is compared with a value of a different time zone, a column does not fit
            the target, or ClickHouse does not accept the SELECT.
    """
    if request.start is None or request.end is None:
        raise RequestError(
            f"{what} places the window itself, so no missing bound of it can be read from a source.",
            remedy=Advice("pass {} and {}", Flag("--from"), Flag("--to")),
        )
    if request.filter_tables:
        raise RequestError(
            f"{what} places the window itself by {{{parameters[0].name}}}, so no filter is added to a table.",
            remedy=Advice("omit {}, or the parameters out of the SELECT", Flag("--filter-table")),
        )
    values = {**request.settings, **parameter_settings(parameters, request.start, request.end)}
    facts = _select_facts(server, select, what, values)
    tree = query_tree.query_tree(server, select, values)
    sources = query_tree.sources(server, tree, (), target)
    for one in sources.values():
        _check_kept(server, what, one, target)
    _check_zones(server, what, [tree, *(one.tree for one in sources.values() if one.tree)], sources, request)
    dates = any(one.kind in (TimeKind.DATE, TimeKind.DATE32) for one in parameters)
    converted = converted_columns(facts.columns, target)
    defaulted = defaulted_columns(facts.columns, target)
    return Statement(
        name=what,
        select=select,
        source=None,
        time_kind=TimeKind.DATE if dates else TimeKind.DATETIME64,
        columns=insert_columns(what, facts.columns, target, None),
        row_wise=not facts.unstable and _constant_defaults(server, target, defaulted),
        converted=converted,
        defaulted=defaulted,
        parameters=parameters,
    )


def _check_zones(
    server: ClickHouse, what: str, trees: Sequence[Node], sources: Mapping[str, QuerySource], request: PlanRequest
) -> None:
    """
    Refuse a SELECT that compares a time of another database with a value of a different time zone.

    ClickHouse sends the value as text in the value's zone, and reads the column's values in the column's zone. So the
    database omits rows at an end of the window.
    """
    names = {node.name for tree in trees for node in tree.walk() if node.kind == "TABLE_FUNCTION"}
    names |= {one.engine for one in sources.values()}
    database = next((name for name in _SENT_TEXT if names & {name, name.lower()}), None)
    if database is None or request.start is None or request.end is None:
        return
    for place, one in ((tree, each) for tree in trees for each in compared_zones(tree)):
        read = next((node for node in place.walk() if node.kind == "TABLE" and str(node.id) == one.source), None)
        if read is not None and read.name in sources and sources[read.name].engine.endswith("MergeTree"):
            continue
        if catalog.clocks_differ(server, one.zones, request.start, request.end, request.settings):
            raise RequestError(
                f"{what} compares {one.column} of {database}, which is {one.column_type}, with a {one.value_type}. "
                f"ClickHouse sends {database} the value as text in the value's time zone, so rows at an end of the "
                "window would be lost.",
                remedy=Advice(
                    f"give the value the type of the column, as in {{chunk_from:{one.column_type}}}; "
                    "it is the same instant"
                ),
            )


def _constant_defaults(server: ClickHouse, target: TableFacts, names: Sequence[str]) -> bool:
    """
    Return whether the default of each column in *names* is a constant; True if none has a default.

    A NULL then becomes the same value at each reading, so a second reading can be compared with the written rows.
    """
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
    """
    Return the tables and table functions that the window applies to.

    Args:
        replayed: Whether the SELECT is that of a view, which is replayed together with the target's other views.

    Returns:
        Pairs of a table or table function and the type of its time column. The type is empty for a table.

    Raises:
        RequestError: The SELECT reads no table, no table fits the window, several fit and the request chooses none, or
            the request names an unknown table or column.
    """
    known = {source.name for source in sources.values()}
    functions = query_sources.table_functions(server, select, request.settings)
    if request.filter_tables:
        # Views that are replayed together need not read the same tables.
        wanted = [one for one in request.filter_tables if one.table in known] if replayed else []
        found = []
        for one in wanted or request.filter_tables:
            behind = None if one.table in known else query_sources.function_behind(functions, one.table)
            found.append(_filtered_table(server, behind or target_facts(server, one.table), one.column, request))
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
            fitting.append(_filtered_table(server, facts, None, request))
        except RequestError as error:
            problem = problem or error
    if len(fitting) == 1:
        return fitting
    if problem is not None and not fitting:
        raise problem
    if not fitting:
        raise RequestError(
            f"{what} reads only tables that {Flag('--whole-table')} names, so the window applies to none.",
            remedy=Advice("omit {} for the table that the window applies to", Flag("--whole-table")),
        )
    names = ", ".join(f"{table.table} ({table.column})" for table, _ in fitting)
    each = [Flag("--filter-table", f"{show_table(table.table)}={table.column}") for table, _ in fitting]
    raise RequestError(
        f"{what} reads several tables that the window could apply to: {names}.",
        remedy=Advice(
            f"to limit each, as the branches of a UNION need it, pass {' '.join('{}' for _ in each)}; where the others "
            "are only looked up by a join, name the one that the window applies to: {}",
            *each,
            Flag("--filter-table", show_table(fitting[0][0].table)),
        ),
    )


def _filtered_table(
    server: ClickHouse, facts: TableFacts, column: str | None, request: PlanRequest
) -> tuple[FilteredTable, str]:
    named = column or request.time_column
    if column is None and len(request.filter_tables) > 1 and named is not None and facts.column(named) is None:
        # --time-column names a column of another filtered table, so detect this table's own time column.
        named = None
    named, timed = _with_expression(server, facts, named)
    name, kind = find_time_column(timed, named, request.time_unit)
    function_type = type_of(timed, name) if facts.name.database == TABLE_FUNCTION else ""
    return FilteredTable(table=facts.name, column=name, kind=kind), function_type


def _with_expression(server: ClickHouse, table: TableFacts, named: str | None) -> tuple[str | None, TableFacts]:
    """
    Resolve the requested time column, which may be an expression over the table's columns.

    Returns:
        The column's name, and the table. For an expression, the name is the expression in parentheses, and the table
        has the expression as a further column. If *named* is None, a column or an unknown plain name, *named* and
        *table* are returned unchanged.

    Raises:
        RequestError: ClickHouse does not filter by the expression, or the expression's value changes between readings.
    """
    if named is None or table.column(named) is not None:
        return named, table
    expression = in_parentheses(named)
    rows = table.engine_full if table.name.database == TABLE_FUNCTION else quote_table(table.name)
    try:
        facts = catalog.select_facts(server, time_select(expression, rows))
    except StatementRefusedError as error:
        if named.isidentifier():
            # The column with this plain name does not exist; the search for the time column reports the error.
            return named, table
        raise RequestError(
            f"{named} is no column of {table.name}, and no expression that ClickHouse filters it by: {error.message}",
            remedy=Advice(
                "pass {} with a column or an expression over columns of one row, such as toDateTime(…)",
                Flag("--time-column"),
            ),
        ) from error
    if facts.unstable:
        raise RequestError(
            f"{named} gives another time whenever it is asked ({', '.join(facts.unstable)}), so no chunk has its rows.",
            remedy=Advice("pass {} with an expression over columns alone", Flag("--time-column")),
        )
    column = Column(expression, facts.columns[0].type)
    return expression, replace(table, columns=(*table.columns, column))


def _check_kept(server: ClickHouse, what: str, source: QuerySource, target: TableFacts) -> None:
    """Refuse a source with an engine that keeps no rows; the remedy names tables with the same columns, if any."""
    if source.engine not in KEEPS_NOTHING:
        return
    own = {target.name, target.storage}
    like = [str(name) for name in catalog.tables_like(server, source.name, own)]
    where = f"{', '.join(like)} {'has' if len(like) == 1 else 'have'} its columns: " if like else ""
    read = like[0] if like else "the table that does"
    other = Advice(f"{where}pass {{}} with the same SELECT over {read}", Flag("--select"))
    itself = Advice(
        f"{{}}, or fill {source.name} itself, which its views see: {{}} {{}} {{}} {{}}",
        other,
        Flag("--target", show_table(source.name)),
        Flag("--source", read),
        Flag("--write-mode", WriteMode.INSERT),
        Flag("--accept-at-least-once"),
    )
    raise RequestError(
        f"{what} reads {source.name}, a {source.engine} table, which keeps no rows that could be read again.",
        # Only for a Null table, suggest to fill the source itself. A row inserted into a queue would be a new message.
        remedy=itself if source.engine == "Null" and source.name not in own else other,
    )
