"""
Build the SQL texts that several modules need: names, bounds, filters, staging tables, INSERTs and checksums.

A user's SELECT is wrapped and never edited; the setting ``additional_table_filters`` applies the time filter at the
scan. Names of tables and columns are quoted, and bounds are exact UTC instants. This module is pure.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import pairwise

from ..errors import Advice, Flag, RequestError
from .facts import Column, Replicas
from .instants import render_instant, to_ms
from .names import parse_table, quote, time_value
from .parameters import parameter_settings
from .plan import Chunk, FilteredTable, Plan, Statement, WriteMode
from .request import TableFilter
from .tables import TableName, TimeKind

# Characters that separate or nest expressions; string literals and quoted names match as a whole.
_SEPARATOR = re.compile(r"'(?:[^'\\]|\\.)*(?:'|\Z)|`(?:[^`\\]|\\.)*(?:`|\Z)|[()\[\],]", re.DOTALL)


def _content(names: Iterable[str]) -> str:
    """Return SQL for the count and the checksum of rows over the columns *names*."""
    return f"count(), sum({row_hash(names)})"


def row_hash(names: Iterable[str]) -> str:
    """Return SQL for the hash of the columns *names*. The tuple is needed, because the hash of a bare NULL is NULL."""
    return f"cityHash64(tuple({_list(names)}))"


def parse_filter(text: str) -> TableFilter:
    """
    Return the table and the time column in ``database.table=column``; the column is None for ``database.table``.

    Raises:
        RequestError: The text does not begin with a table's name, or has no column after ``=``.
    """
    table, equals, column = text.partition("=")
    if equals and not column.strip():
        raise RequestError(
            f"The filter-table {text!r} names no column.", hint="write --filter-table database.table=column"
        )
    return TableFilter(parse_table(table, "filter-table"), column.strip().strip("`") or None)


def quote_table(name: TableName) -> str:
    """Return a table's name as SQL: database and table, both in backticks."""
    return f"{quote(name.database)}.{quote(name.table)}"


def literal(text: str) -> str:
    """Return *text* as an SQL string literal, quoted and escaped."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def time_literal(kind: TimeKind, moment: datetime) -> str:
    """
    Return SQL for an instant as a constant to compare with a column of *kind*, exact in whole milliseconds.

    Epochs in seconds are rounded up: for whole units, ``x >= 1.5`` and ``x < 1.5`` are ``x >= 2`` and ``x < 2``.

    Raises:
        RequestError: The column stores dates, and the instant is not 00:00 UTC.
    """
    utc = moment.astimezone(UTC)
    if kind.is_date:
        if utc.time().replace(tzinfo=None).isoformat() != "00:00:00":
            raise RequestError(
                f"The time column holds dates, and {render_instant(utc)} is not a day's start.",
                remedy=Advice(
                    "give {} and {} as dates, and {}", Flag("--from"), Flag("--to"), Flag("--chunk-by", "day")
                ),
            )
        return f"to{kind.capitalize()}('{utc:%Y-%m-%d}')"
    if kind.per_second:
        return str(-(-to_ms(utc) * kind.per_second // 1000))
    return f"toDateTime64('{utc:%Y-%m-%d %H:%M:%S}.{utc.microsecond // 1000:03d}', 3, 'UTC')"


def milliseconds(value: str, kind: TimeKind) -> str:
    """Return SQL that converts *value*, an instant stored as *kind*, to whole milliseconds since 1970."""
    if kind is TimeKind.EPOCH_S:
        return f"toInt64({value}) * 1000"
    if kind.per_second:
        # Do not multiply by 1000 before a division: the product could overflow for nanoseconds.
        return f"intDiv(toInt64({value}), {kind.per_second // 1000})"
    return f"toUnixTimestamp64Milli(toDateTime64({value}, 3, 'UTC'))"


def instant_sql(milliseconds: str, kind: TimeKind) -> str:
    """
    Return SQL that converts *milliseconds*, SQL for milliseconds since 1970, to an instant.

    For an epoch, the result is a number in the unit of *kind*; seconds are rounded down. For all other kinds, also for
    dates, the result is a DateTime64(3).
    """
    if kind is TimeKind.EPOCH_S:
        return f"floor({milliseconds} / 1000)"
    if kind.per_second:
        return f"{milliseconds} * {kind.per_second // 1000}"
    return f"fromUnixTimestamp64Milli({milliseconds}, 'UTC')"


def time_filter(column: str, kind: TimeKind, start: datetime, end: datetime) -> str:
    """
    Return the condition that a row's time in *column* lies in ``[start, end)``.

    Raises:
        RequestError: The column stores dates, and a bound is not 00:00 UTC.
    """
    name = time_value(column)
    return f"{name} >= {time_literal(kind, start)} AND {name} < {time_literal(kind, end)}"


def instants(bounds: Sequence[int]) -> str:
    """Return a SELECT of the bounds (in milliseconds) as ``ms``; the text is short if the distances are equal."""
    step = _constant_step(bounds)
    if step:
        return (
            f"SELECT least(toInt64({bounds[0]} + number * {step}), toInt64({bounds[-1]})) AS ms"
            f" FROM numbers({len(bounds)})"
        )
    return f"SELECT arrayJoin({_array(bounds)}) AS ms"


def bound_before(ms: str, bounds: Sequence[int]) -> str:
    """Return SQL for the last bound at or before *ms*; *ms* is SQL for an instant of the window, in milliseconds."""
    step = _constant_step(bounds)
    if step:
        return f"toInt64({bounds[0]} + intDiv({ms} - {bounds[0]}, {step}) * {step})"
    return f"roundDown({ms}, {_array(bounds[:-1])})"


def _constant_step(bounds: Sequence[int]) -> int:
    """Return the distance of neighbouring *bounds* if all distances are equal (the last may be shorter); else 0."""
    if len(bounds) < 2:
        return 0
    step = bounds[1] - bounds[0]
    regular = all(after - before == step for before, after in pairwise(bounds[:-1]))
    return step if regular and bounds[-1] - bounds[-2] <= step else 0


def _array(bounds: Sequence[int]) -> str:
    steps = ", ".join(str(after - before) for before, after in pairwise(bounds))
    return f"arrayCumSum([toInt64({bounds[0]}), {steps}])" if steps else f"[toInt64({bounds[0]})]"


def table_tuples(tables: Iterable[TableName]) -> str:
    """Return tables as a list of (database, table) tuples, for an IN condition."""
    return ", ".join(f"({literal(table.database)}, {literal(table.table)})" for table in tables)


def table_condition(table: TableName, column: str = "table") -> str:
    """Return the condition that a row of a system table is about *table*; *column* is its column with table names."""
    return f"database = {literal(table.database)} AND {column} = {literal(table.table)}"


def filter_setting(
    filters: Iterable[FilteredTable], slices: Sequence[tuple[datetime, datetime]], key_range: str = ""
) -> dict[str, str]:
    """Return the setting that limits every scan of the filtered tables to *slices* and, if given, to *key_range*."""
    conditions = (f"{literal(str(one.table))}: {literal(slices_condition(one, slices, key_range))}" for one in filters)
    return {"additional_table_filters": f"{{{', '.join(conditions)}}}"}


def slices_condition(table: FilteredTable, slices: Sequence[tuple[datetime, datetime]], key_range: str = "") -> str:
    """Return the condition that a row of a filtered table lies in one of *slices* and, if given, in *key_range*."""
    parts = [time_filter(table.column, table.kind, start, end) for start, end in slices]
    condition = parts[0] if len(parts) == 1 else " OR ".join(f"({part})" for part in parts)
    if not key_range:
        return condition
    return f"{condition if len(parts) == 1 else f'({condition})'} AND ({key_range})"


def chunk_filter(plan: Plan, statement: Statement, chunk: Chunk) -> dict[str, str]:
    """Return the statement's own settings, and the settings or query parameters that limit its rows to *chunk*."""
    return slices_settings(plan, statement, [(chunk.start, chunk.end)], chunk.key_range)


def slices_settings(
    plan: Plan, statement: Statement, slices: Sequence[tuple[datetime, datetime]], key_range: str = ""
) -> dict[str, str]:
    """
    Return the statement's own settings, and the settings or query parameters that limit the statement to *slices*.

    A statement with parameters gets the start of the first slice and the end of the last slice, so its slices must be
    adjacent; *key_range* has no effect.
    """
    if statement.parameters:
        return {**statement.settings, **parameter_settings(statement.parameters, slices[0][0], slices[-1][1])}
    return {**statement.settings, **filter_setting(plan.filters(statement), slices, key_range)}


def query_id(plan_id: str, chunk_id: str, attempt: int) -> str:
    """Return the id of the INSERT of one attempt."""
    return f"backfill-{plan_id}-{chunk_id}-{attempt}"


def staging_table(plan: Plan, storage: TableName, chunk_id: str, attempt: int) -> TableName:
    """Return the private table of one attempt, in the target's database or in the plan's staging database."""
    return TableName(plan.staging_database or storage.database, f"backfill_{plan.plan_id}_{chunk_id}_{attempt}")


def replicated_staging_table(plan: Plan, storage: TableName, chunk_id: str, attempt: int, nonce: str) -> TableName:
    """
    Return a staging table on replicas, which serves one attempt at a time.

    In write mode ``replace``, the name tells the chunk, and the table serves no other chunk. *nonce* is random text in
    the name. So the table's path in Keeper differs from the paths of other attempts, other state folders and leftovers.
    """
    of = f"{chunk_id}_{attempt}" if plan.write_mode is WriteMode.REPLACE else "staged"
    return TableName(plan.staging_database or storage.database, f"backfill_{plan.plan_id}_{of}_{nonce}")


def sealed_table(plan: Plan, storage: TableName, chunk_id: str) -> TableName:
    """
    Return the table that holds the one publishable result of a chunk.

    Different state folders may have plans with the same id. A plan's nonce, if any, distinguishes the names. So a
    worker that wakes up late publishes no table of another folder.
    """
    name = f"backfill_{plan.plan_id}_{chunk_id}_sealed" + (f"_{plan.nonce}" if plan.nonce else "")
    return TableName(plan.staging_database or storage.database, name)


def assignments(settings: Mapping[str, int | str]) -> str:
    """Return settings as the text ``a = 1, b = 2``; values are not quoted."""
    return ", ".join(f"{name} = {value}" for name, value in settings.items())


def create_like(
    table: TableName,
    storage: TableName,
    engine: str,
    comment: str,
    *,
    settings: Mapping[str, int | str] | None = None,
    again: bool = False,
    replicas: Replicas | None = None,
    cluster: str = "",
    another: bool = False,
) -> str:
    """
    Return the CREATE statement of a table that can exchange partitions with *storage*.

    Args:
        engine: The complete engine clause of the storage or, with *another*, of the copy, as
            ``system.tables.engine_full`` has it.
        settings: Settings of the copy; these override settings of the storage.
        again: Whether the table may exist already.
        replicas: The replication of the storage; the copy is replicated under a separate path in Keeper. None if the
            copy is not replicated.
        cluster: The cluster for the CREATE; empty for the connected server.
        another: Whether *engine* differs from the storage's engine.
    """
    apart = engine if replicas is None else replicas.engine(engine, table.table)
    if settings:
        given = assignments(settings)
        apart += f", {given}" if " SETTINGS " in apart else f" SETTINGS {given}"
    clause = f" ENGINE = {apart}" if apart != engine or another else ""
    name = (
        ("IF NOT EXISTS " if again else "") + quote_table(table) + (f" ON CLUSTER {quote(cluster)}" if cluster else "")
    )
    return f"CREATE TABLE {name} AS {quote_table(storage)}{clause} COMMENT {literal(comment)}"


def backup_table(plan: Plan, storage: TableName) -> TableName:
    """
    Return the backup table for rows that ``replace`` overwrites; the backup outlives the run.

    The plan's nonce, if any, is in the name. So a plan that is made again keeps the backup of the earlier run.
    """
    name = f"backfill_backup_{plan.plan_id}" + (f"_{plan.nonce}" if plan.nonce else "")
    return TableName(storage.database, name)


def copy_select(source: TableName, columns: Sequence[Column]) -> str:
    """Return the SELECT that copies *columns* of a table."""
    return f"SELECT {_list(column.name for column in columns)} FROM {quote_table(source)}"


def expressions(text: str) -> list[str]:
    """Return the expressions of a key, in order: ``a`` and ``f(b, c)`` for ``a, f(b, c)`` and for ``(a, f(b, c))``."""
    elements, depth, start, outer = [], 0, 0, len(text)
    for match in _SEPARATOR.finditer(text):
        word = match.group()
        depth += (word in "([") - (word in ")]")
        if not depth and word == ")":
            outer = min(outer, match.end())
        if word == "," and not depth:
            elements.append(text[start : match.start()].strip())
            start = match.end()
    if not elements and text.startswith("(") and outer == len(text):
        return expressions(text[1:-1])
    return [*elements, last] if (last := text[start:].strip()) else elements


def first_parentheses(text: str) -> str:
    """Return a text's first part in parentheses, including the parentheses; empty if there is no such part."""
    depth, start = 0, 0
    for match in _SEPARATOR.finditer(text):
        word = match.group()
        if word == "(" and not depth:
            start = match.start()
        depth += (word in "([") - (word in ")]")
        if word == ")" and not depth:
            return text[start : match.end()]
    return ""


def in_parentheses(expression: str) -> str:
    """Return an expression in parentheses; an expression that is in parentheses already stays unchanged."""
    depth = 0
    for match in _SEPARATOR.finditer(expression):
        depth += (match.group() in "([") - (match.group() in ")]")
        if not depth and match.group() == ")":
            return expression if expression.startswith("(") and match.end() == len(expression) else f"({expression})"
    return f"({expression})"


def time_select(expression: str, rows: str) -> str:
    """
    Return a SELECT of a time expression over *rows*, SQL for a table or table function.

    The SELECT also uses the expression as a filter, so a server refuses an expression that cannot filter rows.
    """
    return f"SELECT {expression} AS time FROM {rows} WHERE isNotNull({expression})"


def slot_select(key: str, table: TableName) -> str:
    """Return a SELECT of a sharding key, as ``slot``, over the rows of a table."""
    return f"SELECT {key} AS slot FROM {quote_table(table)}"


def reads_of(tables: Iterable[TableName]) -> str:
    """Return a SELECT that reads each of the tables, for EXPLAIN."""
    return " UNION ALL ".join(f"SELECT 1 FROM {quote_table(table)}" for table in tables)


def insert_select(table: TableName, statement: Statement) -> str:
    """Return the INSERT of a statement's rows, with columns matched by name."""
    columns = _list(statement.columns)
    return f"INSERT INTO {quote_table(table)} ({columns}) SELECT {columns} FROM (\n{statement.query}\n)"


def pasteable(text: str, given: Mapping[str, str]) -> tuple[str, str]:
    """
    Return a statement and its settings in a form that a person can paste into a client.

    Args:
        given: The settings and query parameters; names of query parameters begin with ``param_``.

    Returns:
        The statement, preceded by a ``SET`` for each query parameter, and the SETTINGS clause (empty without settings).
    """
    bound = [f"SET {name} = {literal(value)};\n" for name, value in given.items() if name.startswith("param_")]
    rest = [
        f"{name} = {value if name == 'additional_table_filters' or value.isdigit() else literal(value)}"
        for name, value in given.items()
        if not name.startswith("param_")
    ]
    return "".join(bound) + text, f"SETTINGS {', '.join(rest)}" if rest else ""


def any_row_sql(plan: Plan, statement: Statement, chunk: Chunk) -> str:
    """
    Return a SELECT that gives one row if a filtered table of a statement has a row of the chunk, otherwise no row.

    Rows of the chunk lie in its window and in its key range.
    """
    rows = [
        f"FROM {quote_table(one.table)} WHERE {slices_condition(one, [(chunk.start, chunk.end)], chunk.key_range)}"
        for one in plan.filters(statement)
    ]
    if plan.dealing is not None:
        # Use a count, because a reached LIMIT closes the connections to other shards, and these shards log an error.
        counts = " UNION ALL ".join(f"SELECT count() AS found {each}" for each in rows)
        return f"SELECT 1 FROM ({counts}) HAVING sum(found) > 0"
    return f"SELECT 1 FROM ({' UNION ALL '.join(f'SELECT 1 {each} LIMIT 1' for each in rows)}) LIMIT 1"


def source_checksum_sql(statement: Statement, columns: Sequence[Column], summed: Sequence[str]) -> str:
    """Return SQL for the content sums over *summed* of a statement's rows, after conversion to the target's types."""
    target = {column.name: column for column in columns}
    values = ", ".join(
        f"{converted_value(target[name], null=name in statement.defaulted)} AS {quote(f'as {name}')}"
        if name in statement.converted
        else quote(name)
        for name in summed
    )
    names = [f"as {name}" if name in statement.converted else name for name in summed]
    return f"SELECT {_content(names)} FROM (SELECT {values} FROM (\n{statement.query}\n))"


def converted_value(column: Column, *, null: bool) -> str:
    """
    Return SQL that converts the value under the column's name to the column's type, as an INSERT does.

    With *null*, a NULL becomes the column's default.
    """
    name = quote(column.name)
    if not null:
        return f"CAST({name} AS {column.type})"
    default = f"({column.default})" if column.default else f"defaultValueOfTypeName({literal(column.type)})"
    return f"if({name} IS NULL, CAST({default} AS {column.type}), CAST(assumeNotNull({name}) AS {column.type}))"


def table_checksum_sql(table: TableName, summed: Sequence[str], condition: str = "") -> str:
    """Return SQL for the content sums over *summed* of the rows that meet *condition*; empty stands for all rows."""
    where = f" WHERE {condition}" if condition else ""
    return f"SELECT {_content(summed)} FROM (SELECT {_list(summed)} FROM {quote_table(table)}{where})"


def parts_sql(table: TableName, one: str = "", three: str = "", last: str = "") -> str:
    """
    Return SQL for a table's active parts: partition id, rows, hash of the uncompressed data, and hash of all files.

    Args:
        one: SQL of a subquery with one number, which is added to each result row; empty to add nothing.
        three: SQL of a subquery with three numbers, which are added to each result row; empty to add nothing.
        last: SQL of a subquery with one value, which is added at the end of each result row; empty to add nothing.
    """
    first = f"WITH ({three}) AS found " if three else ""
    also = (f", ({one})" if one else "") + (", found.1, found.2, found.3" if three else "")
    also += f", ({last})" if last else ""
    return (
        f"{first}SELECT partition_id, rows, uncompressed_hash_of_compressed_files, hash_of_all_files{also}"
        f" FROM system.parts WHERE active AND {table_condition(table)}"
    )


def definition_sql(table: TableName) -> str:
    """Return SQL for a hash of a table's definition."""
    return f"SELECT cityHash64(create_table_query) FROM system.tables WHERE {table_condition(table, 'name')}"


def _list(names: Iterable[str]) -> str:
    return ", ".join(quote(name) for name in names)
