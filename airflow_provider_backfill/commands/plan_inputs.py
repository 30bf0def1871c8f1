"""
From what a user asked for to checked statements, by asking the server.

Glue between inspection (which only asks) and the planner (which only decides).
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from ..clickhouse import catalog, diagnostics, query_plan, query_sources
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up, insert_quorum
from ..clickhouse.shards import shards_with, spread_of
from ..clickhouse.time_buckets import TimeBuckets
from ..core.chunking import Chunking, Unit
from ..core.column_types import time_kind
from ..core.facts import TABLE_FUNCTION, CutoverFacts, ScanFacts, SelectFacts, TableFacts, TableName, TimeKind
from ..core.instants import MS_PER_DAY, from_ms, render_instant, to_ms
from ..core.parameters import check_parameters, parameter_settings, read_parameters
from ..core.plan import Parameter, Plan, PlanRequest, Statement, TargetTime, WriteMode
from ..core.planner import (
    check_groups,
    check_scan,
    converted_columns,
    defaulted_columns,
    find_time_column,
    insert_columns,
)
from ..core.remedy import pass_flags, short_instant
from ..core.select_text import read_select
from ..core.sql import copy_select, expressions, parse_table, quote, show_table, time_filter
from ..core.window import whole_days
from ..errors import Advice, Flag, MisalignedError, RequestError, StatementRefusedError
from ..options import Options

# Chunk sizes that people use, to propose one that fits.
_CHUNK_HOURS = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24)


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


def replicated_tables(server: ClickHouse, statements: Sequence[Statement], target: TableFacts) -> tuple[TableName, ...]:
    """The tables that the statements read, and the target, as far as they are replicated: a replica may be behind."""
    tables = {target.storage}
    for statement in statements:
        if statement.has_table:
            tables.add(parse_table(statement.source, "source"))
        # Which tables it reads does not depend on the bounds.
        bounds = parameter_settings(statement.parameters, from_ms(0), from_ms(MS_PER_DAY))
        tables |= {*query_plan.tables_read(server, statement.select, bounds)}
    return catalog.replicated(server, tables)


def find_statements(server: ClickHouse, target: TableFacts, request: PlanRequest) -> tuple[list[Statement], str]:
    """The statements that fill the target, not yet held against the query plan, and the time column."""
    if request.source is not None:
        source = target_facts(server, request.source)
        if source.name in (target.name, target.storage):
            raise RequestError(
                f"{source.name} is the target itself; inserting a table into itself doubles its rows.",
                remedy=Advice(
                    "pass another {}, or leave it away to replay the views that feed the target", Flag("--source")
                ),
            )
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
        return _select_statement(server, target, request, request.select, "--select")
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
    server: ClickHouse, target: TableFacts, request: PlanRequest, text: str, what: str
) -> tuple[list[Statement], str]:
    read = read_select(text, what)
    select = read.select
    parameters = read_parameters(read.placeholders, dict(request.formats), request.time_unit, what)
    if parameters:
        statement = _placed_by_user(server, target, request, select, parameters, what)
        return [statement], request.time_column or parameters[0].name
    facts = _select_facts(server, select, what, {})
    source, column, kind = _filtered_table(server, facts.tables, request, what, select)
    if source.name in (target.name, target.storage):
        raise RequestError(
            f"{what} reads {source.name}, which is the target itself; inserting a table into itself doubles its rows.",
            hint="read from the table the rows come from, or backfill into a new table and exchange the two",
        )
    names = insert_columns(what, facts.columns, target, None)
    statement = Statement(
        name=what,
        select=select,
        source=show_table(source.name),
        time_kind=kind,
        columns=names,
        function_type=_type_of(source, column) if source.name.database == TABLE_FUNCTION else "",
        row_wise=not facts.unstable and _constant_defaults(server, target, defaulted_columns(facts.columns, target)),
        converted=converted_columns(facts.columns, target),
        defaulted=defaulted_columns(facts.columns, target),
    )
    return [statement], column


def _select_facts(server: ClickHouse, select: str, what: str, settings: Mapping[str, str]) -> SelectFacts:
    try:
        return catalog.select_facts(server, select, catalog.current_database(server), settings)
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
    if request.filter_table is not None:
        raise RequestError(
            f"{what} places the window itself by {{{parameters[0].name}}}, so no filter is added to a table.",
            remedy=Advice("leave {} away, or the parameters out of the SELECT", Flag("--filter-table")),
        )
    facts = _select_facts(server, select, what, parameter_settings(parameters, request.start, request.end))
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


def _filtered_table(
    server: ClickHouse, tables: tuple[TableName, ...], request: PlanRequest, what: str, select: str
) -> tuple[TableFacts, str, TimeKind]:
    """The one table or table function of a SELECT that the window applies to, with its time column."""
    if request.filter_table is not None and request.filter_table in tables:
        facts = target_facts(server, request.filter_table)
        return facts, *find_time_column(facts, request.time_column, request.time_unit)
    functions = query_sources.table_functions(server, select)
    if request.filter_table is not None:
        facts = query_sources.function_behind(functions, request.filter_table) or target_facts(
            server, request.filter_table
        )
        return facts, *find_time_column(facts, request.time_column, request.time_unit)
    if not tables and not functions:
        raise RequestError(
            f"{what} reads no table, so a window cannot apply to it.",
            remedy=Advice(
                "pass a {} over a table, or place the window yourself by {{chunk_from:DateTime64(3)}} and "
                "{{chunk_to:DateTime64(3)}}",
                Flag("--select"),
            ),
        )
    fitting: list[tuple[TableFacts, str, TimeKind]] = []
    problem: RequestError | None = None
    for facts in (*(target_facts(server, name) for name in tables), *functions):
        name = facts.name
        if not facts.columns:
            problem = RequestError(
                f"{what} reads {name}, a parametrised view, which has no columns of its own.",
                remedy=Advice("pass {} with the table behind the view", Flag("--filter-table")),
            )
            continue
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
        remedy=Advice("choose one with {}", Flag("--filter-table", "database.table")),
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


def check_scans(
    server: ClickHouse, statements: Sequence[Statement], column: str, start: datetime, end: datetime
) -> list[ScanFacts]:
    """
    How the server would read the source for each statement.

    Raises:
        RequestError: The time filter does not reach every read of the source.
    """
    scans = []
    for statement in statements:
        if statement.parameters:
            values = parameter_settings(statement.parameters, start, end)
            scans.append(query_plan.unfiltered_scan(server, statement.select, values))
            continue
        source = parse_table(statement.source, "source")
        scan = query_plan.scan_facts(server, statement.select, source, column, statement.time_kind, start, end)
        if not scan.reads and statement.has_table and target_facts(server, source).rows == 0:
            raise RequestError(
                f"{source} is empty, so there is nothing to backfill, and how it would be read cannot be seen.",
                hint="plan when it has rows, or name another source",
            )
        check_scan(statement, scan, column)
        scans.append(scan)
    return scans


def check_bounds(
    server: ClickHouse,
    target: TableFacts,
    plan: Plan,
    scans: Sequence[ScanFacts],
    bounds: Sequence[int] | None = None,
) -> None:
    """
    Hold chunk bounds against the buckets of a plan's SELECTs and, to replace, against partitions.

    Args:
        bounds: In milliseconds; those of the plan when None.

    Raises:
        RequestError: A chunk would cut a bucket or a partition in two; the hint says what fits.
    """
    bounds = plan.bounds_ms() if bounds is None else bounds
    for statement, scan in zip(plan.statements, scans, strict=True):
        check_parameters(statement.parameters, bounds, statement.name)
        if not scan.groups:
            continue
        buckets = time_buckets(server, plan, statement, scan)
        misfits = {key: bucket.first_misfit(bounds) for key, bucket in buckets.items()}
        check_groups(statement, target, scan.groups, misfits, partial(_proposal, plan, buckets))
    if plan.write_mode is WriteMode.REPLACE:
        _check_partitions(server, target, plan, bounds)


def time_buckets(server: ClickHouse, plan: Plan, statement: Statement, scan: ScanFacts) -> dict[str, TimeBuckets]:
    """The buckets of time that keep rows of a statement apart, by the key that makes them."""
    kind = statement.function_type
    if statement.has_table:
        kind = _type_of(target_facts(server, parse_table(statement.source, "source")), plan.time_column)
    return {
        key: bucket
        for group in scan.groups
        for key in group.keys
        if kind and (bucket := TimeBuckets(server, key, plan.time_column, kind, statement.time_kind)).usable()
    }


def _check_partitions(server: ClickHouse, target: TableFacts, plan: Plan, bounds: Sequence[int]) -> None:
    bucket = partition_bucket(server, target, plan)
    # Only the ends of the window may lie inside a partition: the chunks there keep what is outside.
    held = bounds[1:-1] if plan.keep_outside else bounds
    cut = bucket.first_misfit(held) if held else None
    if cut is not None:
        proposal = _partition_proposal(plan, bucket)
        fitting = pass_flags(proposal)
        outside = Advice("{}, or {} to keep the rows outside the window", fitting, Flag("--keep-outside"))
        raise MisalignedError(
            f"The chunk bound {render_instant(cut)} lies inside a partition of {target.name} "
            f"({target.partition_key}), and only whole partitions can be replaced.",
            proposal=proposal,
            remedy=fitting if plan.keep_outside else outside,
        )


def partition_bucket(server: ClickHouse, target: TableFacts, plan: Plan) -> TimeBuckets:
    """The buckets of time that the target's partitions are."""
    time = plan.target_time
    own = target.column(time.column) if time else None
    if time is None or own is None:
        raise RequestError(
            f"{target.name} has no time column, so it cannot be told which partitions a window covers.",
            remedy=Advice("leave {} away", Flag("--write-mode", WriteMode.REPLACE)),
        )
    # One element of a key like (toYYYYMM(ts), region) is enough: chunks that differ in it share no partition.
    elements = [target.partition_key, *expressions(target.partition_key)]
    buckets = [TimeBuckets(server, element, time.column, own.type, time.kind) for element in elements if element]
    bucket = next((bucket for bucket in buckets if bucket.usable()), None)
    if bucket is None:
        raise RequestError(
            f"The partition key of {target.name} ({target.partition_key or 'none'}) does not follow from its time "
            f"column {time.column}, so a window covers no whole partitions.",
            remedy=Advice("leave {} away", Flag("--write-mode", WriteMode.REPLACE)),
        )
    return bucket


def _proposal(plan: Plan, buckets: Mapping[str, TimeBuckets], key: str) -> tuple[Flag, ...]:
    """Flags that put every chunk bound on an edge of the bucket."""
    window, chunking = _fitting(plan, buckets[key])
    return window + chunking.flags


def _partition_proposal(plan: Plan, bucket: TimeBuckets) -> tuple[Flag, ...]:
    """Flags that put every chunk bound on the edge of a partition."""
    window, chunking = _fitting(plan, bucket)
    # Beyond hours and days, the table itself knows best.
    short = chunking.hours is not None and chunking.hours <= _CHUNK_HOURS[-1]
    return window + (chunking if short else Chunking(unit=Unit.PARTITION)).flags


def _fitting(plan: Plan, bucket: TimeBuckets) -> tuple[tuple[Flag, ...], Chunking]:
    """Flags of the nearest window, and the shortest usual length, that put every chunk bound on an edge."""
    start, end = bucket.around(plan.start)[0] or plan.start, bucket.around(plan.end)[1] or plan.end
    own = (start, end) == (plan.start, plan.end)
    window = () if own else (Flag("--from", short_instant(start)), Flag("--to", short_instant(end)))
    for chunking in _usual_lengths(plan, bucket.zones):
        bounds = [to_ms(start), *(to_ms(until) for _, until in chunking.slices(start, end))]
        # A single chunk tells nothing about the length: that of the window says what it is.
        if len(bounds) > 2 and bucket.first_misfit(bounds) is None:
            return window, chunking
    return window, Chunking(hours=(end - start) / timedelta(hours=1))


def _usual_lengths(plan: Plan, zones: Sequence[str]) -> Iterator[Chunking]:
    """Lengths that people use, from the plan's own on: hours, then the calendar of UTC and of *zones*."""
    least = plan.chunking.nominal_hours
    for hours in sorted({*_CHUNK_HOURS, *([plan.chunk_hours] if plan.chunk_hours else [])}):
        if least <= hours:
            yield Chunking(hours=hours)
    for unit, months, hours in ((Unit.DAY, 1, 25), (Unit.WEEK, 1, 169), (Unit.MONTH, 1, 745), (Unit.MONTH, 12, 8785)):
        if least <= hours:
            yield from (Chunking(unit=unit, months=months, zone=zone) for zone in ("UTC", *zones))


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
