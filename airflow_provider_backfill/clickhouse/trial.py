"""
Fill a few chunks separately and together into private tables like the target, and compare the merged contents.

Such a trial covers SELECTs that the rules of ``core.adding_up`` cannot prove, and checks the proofs of the rules. The
tables are dropped afterwards, even after a failure.
"""

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..core.adding_up.merging import without_replication
from ..core.adding_up.widths import simple_type
from ..core.column_types import unwrap_type
from ..core.facts import Column, TableFacts
from ..core.instants import from_ms
from ..core.names import quote, time_value
from ..core.plan import FilteredTable
from ..core.sampling import Slice
from ..core.sql import bound_before, create_like, milliseconds, quote_table, slices_condition
from ..core.tables import TableName
from .attempt import STAGING_TABLE, drop_tables
from .client import LONG_TEXT, ClickHouse
from .cluster import AT_ONCE, drop_everywhere, queue_statement

# The relative tolerances of sums, by float type. The order of addition changes the last digits of a sum.
_TOLERANCE = 1e-9
_TOLERANCES = (("Float64", _TOLERANCE), ("Float32", 1e-5), ("BFloat16", 0.05))
# The share of a column's largest absolute value that may remain as a difference where values cancel each other out.
_NOISE = 1e-13
_SHOWN = 3
# The names of added columns, which must differ from the names of the target's columns.
_AT, _SIDE, _DIFFERENCE = "_backfill_at", "_backfill_side", "_backfill_difference"
_FLOAT = re.compile(r"Float32|Float64|BFloat16")
_SIMPLE = re.compile(r"^SimpleAggregateFunction\(\w+, (.*)\)$", re.DOTALL)
_FLOATS = re.compile(r"(Array\()?(?:Nullable\()?(?:Float32|Float64|BFloat16)\)*")
_GIVES_ARRAY = re.compile(r"AggregateFunction\((?:\d+, )?(?:groupArray|groupUniqArray|topK|approx_top)", re.IGNORECASE)
_TEXT_ONLY = ("JSON", "Dynamic", "Variant", "Object", "QBit")
_REPLICATED = re.compile(r"^(?:Replicated|Shared)(\w*MergeTree)(\(((?:[^()']|'(?:[^'\\]|\\.)*'|\([^()]*\))*)\))?")
_INSERT = {"async_insert": 0, "deduplicate_insert_select": "disable", "max_partitions_per_insert_block": 0}


class Difference(NamedTuple):
    """
    A row of one side that the other side lacks.

    Attributes:
        given_by: The name of the side that has the row.
        row: The values as text, by column.
        at: The row's time in milliseconds; None if unknown.
    """

    given_by: str
    row: Mapping[str, str]
    at: int | None = None


class Trial(NamedTuple):
    """
    The result of a trial.

    Attributes:
        slices: The compared parts of the window.
        rows: The number of rows in the table filled by all slices together, counted without ``FINAL``.
        seconds: The duration of the trial.
        columns: The names of the columns that were compared.
        differences: The first rows that differ, up to six per side; empty if all agree.
        last: The latest time of a row, in milliseconds; None without rows or without a time.
    """

    slices: tuple[Slice, ...]
    rows: int
    seconds: float
    columns: tuple[str, ...]
    differences: tuple[Difference, ...]
    last: int | None = None


def make_trial(
    server: ClickHouse,
    target: TableFacts,
    plan_id: str,
    slices: Sequence[Slice],
    fill: Callable[[TableName, Sequence[Slice], Mapping[str, Any]], None],
    *,
    seconds: float,
    not_compared: Collection[str] = (),
    at: str = "",
) -> Trial:
    """
    Fill two tables like the target, one slice by slice and one by all slices together, and compare them.

    Args:
        fill: Inserts the statements' rows for given slices into a table, with given settings.
        seconds: The time limit of each statement that *fill* sends; at least 0.1 s. The comparison has no limit.
        not_compared: The names of columns that have several correct values.
        at: SQL for the time of a row in milliseconds; empty without a time.

    Raises:
        ServerError: ClickHouse refused a statement, for example because of the time limit.
    """
    began = time.monotonic()
    with private_tables(server, target, plan_id, ("parts", "whole")) as (parts, whole):
        settings = {**_INSERT, "max_execution_time": max(seconds, 0.1)}
        for one in slices:
            fill(parts, [one], settings)
        fill(whole, slices, settings)
        rows, last = server.rows(f"SELECT count(), {f'max({at})' if at else 'NULL'} FROM {quote_table(whole)}")[0]
        columns = [
            column
            for column in target.columns
            if column.name not in not_compared and column.default_kind not in ("ALIAS", "EPHEMERAL")
        ]
        differences = compare_merged(server, target, columns, parts, whole, ("the chunks", "the whole"))
    names = tuple(column.name for column in columns)
    latest = int(last) if rows and last is not None else None
    return Trial(tuple(slices), int(rows), time.monotonic() - began, names, tuple(differences), latest)


def rows_by_bound(server: ClickHouse, table: FilteredTable, bounds: Sequence[int], seconds: float) -> dict[int, int]:
    """
    Return the number of rows of a table between consecutive *bounds*, by the earlier bound in milliseconds.

    Slices without rows are omitted. After *seconds*, return the partial counts, which suffice to choose slices.
    """
    last = f"least({milliseconds(time_value(table.column), table.kind)}, toInt64({bounds[-1] - 1}))"
    place = bound_before(f"greatest({last}, toInt64({bounds[0]}))", bounds)
    where = slices_condition(table, [(from_ms(bounds[0]), from_ms(bounds[-1]))])
    found = server.rows(
        f"SELECT {place} AS place, count() FROM {quote_table(table.table)} WHERE {where} GROUP BY place",
        {"max_execution_time": max(seconds, 0.1), "timeout_overflow_mode": "break", **LONG_TEXT},
    )
    return {int(start): int(rows) for start, rows in found}


@contextmanager
def private_tables(
    server: ClickHouse, target: TableFacts, plan_id: str, sides: Sequence[str], *, merges: bool = True
) -> Iterator[tuple[TableName, ...]]:
    """
    Create empty private tables like the target, yield their names, and drop them at the end of the context.

    The tables are not replicated. A Replicated database also creates them on its other servers, where they stay empty.

    Args:
        sides: The ending of each table's name.
        merges: Whether the server may merge the parts of the tables.
    """
    settings = target.allowances if merges else {**STAGING_TABLE, **target.allowances}
    nonce = secrets.token_hex(4)
    database = target.beside
    tables = tuple(TableName(database, f"backfill_trial_{plan_id}_{nonce}_{side}") for side in sides)
    engine = _REPLICATED.sub(_on_one_server, target.engine_full)
    try:
        for table in tables:
            comment = f"airflow-provider-backfill: trial of plan {plan_id}"
            queue_statement(
                server,
                create_like(
                    *(table, target.storage, engine, comment),
                    settings=settings,
                    another=engine != target.engine_full,
                ),
                # A Replicated database creates the table on all of its servers, and would wait for dead servers.
                {**server.permissive, **(AT_ONCE if target.apart else {})},
            )
        yield tables
    finally:
        if target.apart and target.replicas is not None:
            drop_everywhere(server, target.replicas, tables)
        else:
            drop_tables(server, tables)


def _on_one_server(match: re.Match[str]) -> str:
    """Return the engine without the prefix ``Replicated`` or ``Shared``, the path in Keeper and the replica name."""
    rest = re.sub(r"^\s*'(?:[^'\\]|\\.)*'\s*,\s*'(?:[^'\\]|\\.)*'\s*,?", "", match[3] or "").strip()
    return f"{match[1]}({rest})" if rest else match[1]


def compare_merged(
    server: ClickHouse,
    target: TableFacts,
    columns: Sequence[Column],
    parts: TableName,
    whole: TableName,
    names: tuple[str, str],
    *,
    where: str = "",
    at: str = "",
) -> list[Difference]:
    """
    Return the first rows that differ between *parts* and *whole* after merging, up to six per table.

    Floats that differ only by rounding count as equal.

    Args:
        names: The names of *parts* and *whole* in the differences.
        where: The condition for rows to compare, empty for all rows. Other rows do not take part in merging.
        at: SQL for a row's time in milliseconds, which a difference then includes; empty to omit the time.
    """
    values = ", ".join(f"{_readable(column)} AS {quote(column.name)}" for column in columns)
    if at:
        values = ", ".join(filter(None, (values, f"{at} AS {_AT}")))
    merged = " FINAL" if without_replication(target) != "MergeTree" else ""
    chosen = f" PREWHERE {where}" if where else ""
    both = " UNION ALL ".join(
        f"SELECT {sign} AS {_SIDE}{', ' if values else ''}{values} FROM {quote_table(table)}{merged}{chosen}"
        for sign, table in ((1, whole), (-1, parts))
    )
    # A SimpleAggregateFunction is compared as its value.
    types = {row[0]: _SIMPLE.sub(r"\1", row[1]) for row in server.rows(f"DESCRIBE TABLE ({both})")}
    within = [name for name, kind in types.items() if _FLOAT.search(kind) and not _FLOATS.fullmatch(kind)]
    if within:
        # Compare fewer digits of floats within maps and tuples, because the order of addition changes the last digits.
        fewer = (f"CAST({quote(name)} AS {_fewer_digits(types[name])}) AS {quote(name)}" for name in within)
        both = f"SELECT * REPLACE ({', '.join(fewer)}) FROM ({both})"
    exact = [column.name for column in columns if not _FLOATS.fullmatch(types[column.name])]
    sums, apart = [f"sum({_SIDE}) AS {_DIFFERENCE}"], [f"{_DIFFERENCE} != 0"]
    settings = {"do_not_merge_across_partitions_select_final": 1}
    noise = _noise(server, both, [column.name for column in columns if column.name not in exact], types, settings)
    for number, column in enumerate(columns):
        if column.name in exact:
            continue
        name, number_of = quote(column.name), _number(column.name, types[column.name])
        tolerance = next(share for kind, share in _TOLERANCES if kind in types[column.name])
        sums += [f"sum({_SIDE} * {number_of}) AS _backfill_d{number}", f"sum(abs({number_of})) AS _backfill_s{number}"]
        sums += [f"sum({_SIDE} * {_oddity(name, types[column.name])}) AS _backfill_o{number}"]
        sums += [f"anyIf(toString({name}), {_SIDE} = 1) AS _backfill_w{number}"]
        sums += [f"anyIf(toString({name}), {_SIDE} = -1) AS _backfill_p{number}"]
        apart.append(f"abs(_backfill_d{number}) > {tolerance} * _backfill_s{number} + {noise[column.name]!r}")
        apart.append(f"_backfill_o{number} != 0")
    exact += [_AT] if at else []
    keys = [f"{quote(name)}" for name in exact]
    shown = [f"toString({key})" for key in keys]
    group = f" GROUP BY {', '.join(keys)}" if keys else ""
    floats = [number for number, column in enumerate(columns) if column.name not in exact]
    order = ", ".join(keys[:3]) or "1"
    found = server.rows(
        f"SELECT {_DIFFERENCE}, [{', '.join(shown)}], [{', '.join(f'_backfill_w{n}' for n in floats)}],"
        f" [{', '.join(f'_backfill_p{n}' for n in floats)}]"
        f" FROM (SELECT {', '.join([*keys, *sums])} FROM ({both}){group} HAVING {' OR '.join(apart)})"
        f" ORDER BY {order} LIMIT {_SHOWN} BY sign({_DIFFERENCE})".replace("[]", "emptyArrayString()"),
        settings,
    )
    differences = []
    of_parts_name, of_whole_name = names
    inexact = [columns[number].name for number in floats]
    for difference, values_of, of_whole, of_parts in found:
        row = dict(zip(exact, values_of, strict=True))
        moment = int(row.pop(_AT)) if at else None
        if difference >= 0:
            differences.append(Difference(of_whole_name, {**row, **dict(zip(inexact, of_whole, strict=True))}, moment))
        if difference <= 0:
            differences.append(Difference(of_parts_name, {**row, **dict(zip(inexact, of_parts, strict=True))}, moment))
    return differences


def _fewer_digits(kind: str) -> str:
    """Return the type *kind* with ``Float32`` in place of ``Float64``, and ``BFloat16`` in place of ``Float32``."""
    return kind.replace("Float32", "BFloat16").replace("Float64", "Float32")


def _number(column: str, kind: str) -> str:
    """
    Return SQL for the number that a value of a float column adds to a sum; an array of floats adds the array's sum.

    A NULL, NaN or infinite number counts as zero, and so does an array with a sum that is NaN or infinite.
    """
    number = f"arraySum({quote(column)})" if kind.startswith("Array(") else f"assumeNotNull({quote(column)})"
    return f"if(isFinite({number}), {number}, 0)"


def _oddity(name: str, kind: str) -> str:
    """Return SQL for a number that differs for NULL, NaN and the infinities; 0 for other values and for arrays."""
    if kind.startswith("Array("):
        return "toInt64(0)"
    return f"toInt64(multiIf(isNull({name}), 1, isNaN({name}), 1000, isInfinite({name}), 1000000 * sign({name}), 0))"


def _noise(
    server: ClickHouse, both: str, floats: Sequence[str], types: Mapping[str, str], settings: Mapping[str, Any]
) -> dict[str, float]:
    """Return the largest difference that rounding alone can cause, by the name of each column of floats."""
    if not floats:
        return {}
    greatest = ", ".join(f"toFloat64(max(abs({_number(name, types[name])})))" for name in floats)
    found = server.rows(f"SELECT {greatest} FROM ({both})", settings)[0]
    return {name: _NOISE * float(value) for name, value in zip(floats, found, strict=True)}


def compare_signs(
    server: ClickHouse, target: TableFacts, whole: TableName, names: tuple[str, str], where: str, at: str
) -> list[Difference]:
    """
    Return the sums of signs that differ between a CollapsingMergeTree target and *whole*, for up to three keys.

    A key gives two differences, one for each table. The result is empty for other engines. Rows are read unmerged, so a
    duplicated row of the target shows here until a merge collapses the duplicates. A key with several states or
    cancellations in *whole* is skipped, because *whole* may be unmerged.

    Args:
        names: The names of the target and of *whole* in the differences.
        where: The condition for rows to compare.
        at: SQL for a row's time in milliseconds.
    """
    sign = re.search(r"CollapsingMergeTree\((?:'[^']*',\s*)*(\w+)\)", target.engine_full)
    if sign is None:
        return []
    both = " UNION ALL ".join(
        f"SELECT toString(tuple({target.sorting_key})) AS _backfill_key, {at} AS {_AT},"
        f" {of_whole} * {quote(sign[1])} AS _backfill_w, {1 - of_whole} * {quote(sign[1])} AS _backfill_t"
        f" FROM {quote_table(table)} PREWHERE {where}"
        for of_whole, table in ((1, whole), (0, target.storage))
    )
    found = server.rows(
        f"SELECT _backfill_key, min({_AT}), sum(_backfill_w) AS w, sum(_backfill_t) AS t FROM ({both})"
        f" GROUP BY _backfill_key HAVING w != t AND abs(w) <= 1 ORDER BY _backfill_key LIMIT {_SHOWN}"
    )
    return [
        Difference(name, {f"({target.sorting_key})": str(key), f"sum({sign[1]})": str(signs)}, int(moment))
        for key, moment, of_whole, of_target in found
        for name, signs in zip(names, (of_target, of_whole), strict=True)
    ]


def _readable(column: Column) -> str:
    """
    Return SQL for a column's value in a form that can be compared between tables.

    Aggregate states are finalised, arrays and maps are sorted, and types such as JSON become text.
    """
    name, kind = quote(column.name), unwrap_type(simple_type(column.type))
    is_state = column.type.startswith("AggregateFunction(")
    if kind.startswith(_TEXT_ONLY) or any(f"{word}(" in kind for word in _TEXT_ONLY):
        return f"toString({name})"
    if is_state:
        value = f"finalizeAggregation({name})"
        value = f"arraySort(x -> toString(x), {value})" if _GIVES_ARRAY.match(column.type) else value
    elif kind.startswith("Array(") and "AggregateFunction" not in kind:
        value = f"arraySort(x -> toString(x), {name})"
    else:
        value = f"mapSort({name})" if kind.startswith("Map(") else name
    return value
