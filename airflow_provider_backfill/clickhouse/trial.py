"""
The trial: a few chunks filled one by one, and all of them at once, into private tables like the target.

What is there after merging is compared by content. It shows what the rules cannot prove, and is a second
opinion on what they do. The tables are gone afterwards, also when the trial fails.
"""

import re
import secrets
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from ..core.column_types import unwrap_type
from ..core.facts import Column, TableFacts
from ..core.instants import from_ms
from ..core.names import quote, time_value
from ..core.plan import FilteredTable
from ..core.sampling import Slice
from ..core.sql import bound_before, create_like, milliseconds, quote_table, slices_condition
from ..core.tables import TableName
from .attempt import drop_tables
from .client import LONG_TEXT, ClickHouse

# Of the sum of what is compared; adding up in another order changes the last digits.
_TOLERANCE = 1e-9
_SHOWN = 3
_AT = "_backfill_at"
_FLOAT = re.compile(r"Float32|Float64|BFloat16")
_GIVES_ARRAY = re.compile(r"AggregateFunction\((?:\d+, )?(?:groupArray|groupUniqArray|topK|approx_top)", re.IGNORECASE)
_TEXT_ONLY = ("JSON", "Dynamic", "Variant", "Object", "QBit")
_REPLICATED = re.compile(r"^(?:Replicated|Shared)(\w*MergeTree)(\(((?:[^()']|'(?:[^'\\]|\\.)*'|\([^()]*\))*)\))?")
_INSERT = {"async_insert": 0, "deduplicate_insert_select": "disable", "max_partitions_per_insert_block": 0}


class Difference(NamedTuple):
    """A row that only one of the two ways gives, as text by column; *at* is its time in milliseconds where asked."""

    given_by: str
    row: Mapping[str, str]
    at: int | None = None


class Trial(NamedTuple):
    """
    What a trial found.

    Attributes:
        slices: The parts of the window that it looked at.
        rows: How many rows the target got from all of them at once, before merging.
        seconds: How long it took.
        columns: The columns that were compared.
        differences: Rows that differ, up to three for each side; none when all agree.
    """

    slices: tuple[Slice, ...]
    rows: int
    seconds: float
    columns: tuple[str, ...]
    differences: tuple[Difference, ...]


def make_trial(
    server: ClickHouse,
    target: TableFacts,
    plan_id: str,
    slices: Sequence[Slice],
    fill: Callable[[TableName, Sequence[Slice], Mapping[str, Any]], None],
    *,
    seconds: float,
    not_compared: Collection[str] = (),
) -> Trial:
    """
    Fill two tables like the target, slice by slice and at once, and compare them.

    Args:
        fill: Insert what the plan's statements give for some slices into a table, with these settings.
        seconds: How long each statement may take.
        not_compared: Columns of which several values are right.

    Raises:
        ServerError: ClickHouse refused a statement, such as one that took too long.
    """
    began = time.monotonic()
    with private_tables(server, target, plan_id, ("parts", "whole")) as (parts, whole):
        settings = {**_INSERT, "max_execution_time": max(seconds, 0.1)}
        for one in slices:
            fill(parts, [one], settings)
        fill(whole, slices, settings)
        rows = int(server.rows(f"SELECT count() FROM {quote_table(whole)}")[0][0])
        columns = [
            column
            for column in target.columns
            if column.name not in not_compared and column.default_kind not in ("ALIAS", "EPHEMERAL")
        ]
        differences = compare_merged(server, target, columns, parts, whole, ("the chunks", "the whole"))
    names = tuple(column.name for column in columns)
    return Trial(tuple(slices), rows, time.monotonic() - began, names, tuple(differences))


def rows_by_bound(server: ClickHouse, table: FilteredTable, bounds: Sequence[int], seconds: float) -> dict[int, int]:
    """
    How many rows a table has from each bound to the next, in milliseconds; bounds without rows are left out.

    After so many seconds, what was counted so far: it serves to choose, not to prove.
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
    server: ClickHouse, target: TableFacts, plan_id: str, sides: Sequence[str]
) -> Iterator[tuple[TableName, ...]]:
    """Empty tables like the target, one for each side, on this server alone, that nobody else knows of."""
    nonce = secrets.token_hex(4)
    database = target.storage.database
    tables = tuple(TableName(database, f"backfill_trial_{plan_id}_{nonce}_{side}") for side in sides)
    engine = _REPLICATED.sub(_on_one_server, target.engine_full)
    try:
        for table in tables:
            comment = f"airflow-provider-backfill: trial of plan {plan_id}"
            server.command(
                create_like(table, target.storage, engine, comment, settings=target.allowances), server.permissive
            )
        yield tables
    finally:
        drop_tables(server, tables)


def _on_one_server(match: re.Match[str]) -> str:
    """Return the engine without its paths in Keeper."""
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
    Rows that are not the same in both tables once their parts are merged.

    Args:
        names: What the two tables are called in the differences.
        where: Compare only rows that meet it; the others take no part in merging.
        at: SQL for a row's time in milliseconds, to be given with a difference.
    """
    values = ", ".join(f"{_readable(column)} AS {quote(column.name)}" for column in columns)
    if at:
        values = ", ".join(filter(None, (values, f"{at} AS {_AT}")))
    merged = " FINAL" if re.sub("^(Replicated|Shared)", "", target.engine) != "MergeTree" else ""
    chosen = f" PREWHERE {where}" if where else ""
    both = " UNION ALL ".join(
        f"SELECT {sign} AS side{', ' if values else ''}{values} FROM {quote_table(table)}{merged}{chosen}"
        for sign, table in ((1, whole), (-1, parts))
    )
    types = dict(row[:2] for row in server.rows(f"DESCRIBE TABLE ({both})"))
    exact = [column.name for column in columns if not _FLOAT.search(types[column.name])]
    sums, apart = ["sum(side) AS difference"], ["difference != 0"]
    for number, column in enumerate(columns):
        if column.name in exact:
            continue
        is_array = types[column.name].startswith("Array(")
        number_of = f"arraySum({quote(column.name)})" if is_array else f"assumeNotNull({quote(column.name)})"
        finite = f"if(isFinite({number_of}), {number_of}, 0)"
        sums += [f"sum(side * {finite}) AS d{number}", f"sum(abs({finite})) AS s{number}"]
        sums += [f"anyIf(toString({quote(column.name)}), side = 1) AS w{number}"]
        sums += [f"anyIf(toString({quote(column.name)}), side = -1) AS p{number}"]
        apart.append(f"abs(d{number}) > {_TOLERANCE} * s{number}")
    exact += [_AT] if at else []
    keys = [f"{quote(name)}" for name in exact]
    shown = [f"toString({key})" for key in keys]
    group = f" GROUP BY {', '.join(keys)}" if keys else ""
    floats = [number for number, column in enumerate(columns) if column.name not in exact]
    order = ", ".join(keys[:3]) or "1"
    found = server.rows(
        f"SELECT difference, [{', '.join(shown)}], [{', '.join(f'w{n}' for n in floats)}],"
        f" [{', '.join(f'p{n}' for n in floats)}]"
        f" FROM (SELECT {', '.join([*keys, *sums])} FROM ({both}){group} HAVING {' OR '.join(apart)})"
        f" ORDER BY {order} LIMIT {2 * _SHOWN}".replace("[]", "emptyArrayString()"),
        {"do_not_merge_across_partitions_select_final": 1},
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


def signs_differ(server: ClickHouse, target: TableFacts, whole: TableName, where: str) -> bool:
    """Whether rows that collapse do not add up to the same for a key, whatever was merged with what, and when."""
    sign = re.search(r"(?<!Versioned)CollapsingMergeTree\((?:'[^']*',\s*)*(\w+)\)", target.engine_full)
    if sign is None:
        return False
    both = " UNION ALL ".join(
        f"SELECT tuple({target.sorting_key}) AS key, {side} * {quote(sign[1])} AS sign FROM {quote_table(table)}"
        f" PREWHERE {where}"
        for side, table in ((1, target.storage), (-1, whole))
    )
    question = f"SELECT 1 FROM (SELECT key FROM ({both}) GROUP BY key HAVING sum(sign) != 0) LIMIT 1"
    return server.numbers(question) == (1,)


def _readable(column: Column) -> str:
    """Return a column's value in a form that can be compared: states finalised, orders that mean nothing taken away."""
    name, kind = quote(column.name), unwrap_type(column.type)
    if column.type.startswith("AggregateFunction("):
        value = f"finalizeAggregation({name})"
        return f"arraySort(x -> toString(x), {value})" if _GIVES_ARRAY.match(column.type) else value
    if kind.startswith(_TEXT_ONLY) or any(f"{word}(" in kind for word in _TEXT_ONLY):
        return f"toString({name})"
    if kind.startswith("Array(") and "AggregateFunction" not in kind:
        return f"arraySort(x -> toString(x), {name})"
    return f"mapSort({name})" if kind.startswith("Map(") else name
