"""
From what a user asked for to checked statements, by asking the server.

Glue between inspection (which only asks) and the planner (which only decides).
"""

from dataclasses import replace
from datetime import datetime, timedelta

from .clickhouse import inspect
from .clickhouse.client import Server
from .core.model import Plan, Statement, TableFacts, TableName, TimeKind
from .core.planner import PlanRequest, check_scan, find_time_column, insert_columns
from .core.statements import copy_select, parse_table, time_filter, time_kind
from .errors import RequestError, ServerError
from .options import Options


def target_facts(server: Server, name: TableName) -> TableFacts:
    """
    Facts about a table that must be there.

    Raises:
        RequestError: There is none of that name.
    """
    facts = inspect.table_facts(server, name)
    if facts is None:
        raise RequestError(
            f"There is no table {name} on {server.address}.",
            hint="check the name (database.table), the server, and that the user may see the table",
        )
    return facts


def find_statements(server: Server, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    """The statements that fill the target, not yet held against the query plan, and the time column."""
    if request.source is not None:
        source = target_facts(server, request.source)
        if source.name in (target.name, target.storage):
            raise RequestError(
                f"{source.name} is the target itself; inserting a table into itself doubles its rows.",
                hint="pass another --source, or leave it away to replay the views that feed the target",
            )
        column, kind = find_time_column(source, request.time_column, request.time_unit)
        given = [c for c in source.columns if c.insertable]
        types = {c.name: c.type for c in target.columns}
        pairs = {(c.type, types[c.name]) for c in given if c.name in types and c.type != types[c.name]}
        names = insert_columns(str(source.name), given, target, inspect.supertypes(server, sorted(pairs)))
        select = copy_select(source.name, [c for c in target.columns if c.name in names])
        return [
            Statement(name=str(source.name), select=select, source=str(source.name), time_kind=kind, columns=names)
        ], column
    if request.select is not None:
        return _select_statement(server, target, request, request.select, "--select")
    return _view_statements(server, target, request)


def _view_statements(server: Server, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    views = inspect.feeding_views(server, target.name)
    if not views:
        raise RequestError(
            f"No materialized view writes to {target.name}, so there is nothing to fill it from.",
            hint="name where the rows come from: --source database.table, or --select 'SELECT …'",
        )
    statements: list[Statement] = []
    column = request.time_column
    for view in views:
        if view.refreshable:
            raise RequestError(
                f"{view.name} is a refreshable view: it replaces the target's rows on its own schedule, "
                "and would replace the backfilled ones.",
                hint=f"run SYSTEM REFRESH VIEW {view.name}, or backfill a table that it does not write to",
            )
        wanted = request.filter_table or (view.sources[0] if len(view.sources) == 1 else None)
        found, column = _select_statement(
            server, target, replace(request, filter_table=wanted, time_column=column), view.select, str(view.name)
        )
        statements += found
    return statements, column or ""


def _select_statement(
    server: Server, target: TableFacts, request: PlanRequest, text: str, what: str
) -> tuple[list[Statement], str]:
    select = text.strip().rstrip(";").rstrip()
    try:
        facts = inspect.select_facts(server, select, inspect.current_database(server))
    except ServerError as error:
        if error.code is None:
            raise
        raise RequestError(
            f"{what} is not a SELECT that ClickHouse accepts: {error.message}", hint="correct the SELECT"
        ) from error
    source, column, kind = _filtered_table(server, facts.tables, request, what)
    if source.name in (target.name, target.storage):
        raise RequestError(
            f"{what} reads {source.name}, which is the target itself; inserting a table into itself doubles its rows.",
            hint="read from the table the rows come from, or backfill into a new table and exchange the two",
        )
    names = insert_columns(what, facts.columns, target, None)
    statement = Statement(
        name=what, select=select, source=str(source.name), time_kind=kind, columns=names, row_wise=not facts.unstable
    )
    return [statement], column


def _filtered_table(
    server: Server, tables: tuple[TableName, ...], request: PlanRequest, what: str
) -> tuple[TableFacts, str, TimeKind]:
    """The one table of a SELECT that the window applies to, with its time column."""
    if request.filter_table is not None:
        facts = target_facts(server, request.filter_table)
        return facts, *find_time_column(facts, request.time_column, request.time_unit)
    if not tables:
        raise RequestError(
            f"{what} reads no table, so a window cannot apply to it.", hint="pass a --select over a table"
        )
    fitting: list[tuple[TableFacts, str, TimeKind]] = []
    problem: RequestError | None = None
    for name in tables:
        facts = target_facts(server, name)
        try:
            fitting.append((facts, *find_time_column(facts, request.time_column, request.time_unit)))
        except RequestError as error:
            problem = problem or error
    if len(fitting) == 1:
        return fitting[0]
    if problem is not None and not fitting:
        raise problem
    names = ", ".join(f"{facts.name} ({column})" for facts, column, _ in fitting)
    raise RequestError(
        f"{what} reads several tables that the window could apply to: {names}.",
        hint="choose one with --filter-table database.table",
    )


def find_window(
    server: Server, options: Options, request: PlanRequest, statement: Statement, column: str
) -> tuple[datetime, datetime]:
    """
    The window ``[start, end)`` that was asked for; where the policy allows, missing bounds come from the source.

    Raises:
        RequestError: A bound is missing and the policy wants both, or the source is empty.
    """
    if request.start is not None and request.end is not None:
        return request.start, request.end
    if options.policy.require_explicit_window:
        missing = "--from" if request.start is None else "--to"
        raise RequestError(
            f"{missing} is missing.",
            hint=f"pass {missing} 2025-01-31, or set policy.requireExplicitWindow to false to take it from the source",
        )
    first, last = inspect.time_span(server, parse_table(statement.source, "source"), column, statement.time_kind)
    whole = timedelta(days=1) if statement.time_kind in (TimeKind.DATE, TimeKind.DATE32) else timedelta(milliseconds=1)
    return request.start or first, request.end or last + whole


def check_scans(
    server: Server, statements: list[Statement], column: str, start: datetime, end: datetime
) -> tuple[Statement, ...]:
    """The statements once the server has shown that the time filter reaches every read of their source."""
    checked = []
    for statement in statements:
        source = parse_table(statement.source, "source")
        scan = inspect.scan_facts(server, statement.select, source, column, statement.time_kind, start, end)
        check_scan(statement, scan, column)
        stable = statement.row_wise or statement.name == statement.source
        checked.append(statement.model_copy(update={"row_wise": scan.row_wise and stable}))
    return tuple(checked)


def own_time_kind(target: TableFacts, column: str) -> TimeKind | None:
    """How the target's own column of that name stores an instant; None when it has none."""
    own = target.column(column)
    return time_kind(own.type) if own is not None else None


def existing_rows(server: Server, target: TableFacts, made: Plan) -> int | None:
    """
    Rows the target holds in the window.

    By its column of the same name, else by its own time column (a bucket's start lies in the
    window when the bucket does), else all of them: without a time none can be ruled out.
    """
    if target.rows == 0:
        return 0
    column, kind = made.time_column, made.target_time_kind
    if kind is None:
        try:
            column, kind = find_time_column(target, None, "")
        except RequestError:
            return inspect.count_rows(server, target.storage)
    start, end = made.start, made.end
    if kind in (TimeKind.DATE, TimeKind.DATE32):
        start = start.replace(hour=0, minute=0, second=0, microsecond=0)
        end = (end + timedelta(days=1, microseconds=-1)).replace(hour=0, minute=0, second=0, microsecond=0)
    return inspect.count_rows(server, target.storage, time_filter(column, kind, start, end))
