"""Random queries: every planned and completed backfill equals the SELECT over the whole window."""

from __future__ import annotations

import random
from typing import NamedTuple

import pytest

from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.plan import FilteredTable
from airflow_provider_backfill.core.sql import filter_setting
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab
from tests.clickhouse.test_adding_up import merged

START, END, HOURS = "2025-01-06", "2025-01-08", 12
KEYS = [
    ("toDate(ts)", "Date"),
    ("toStartOfHour(ts)", "DateTime('UTC')"),
    ("toStartOfInterval(ts, INTERVAL 12 HOUR)", "DateTime('UTC')"),
    ("toHour(ts)", "UInt8"),
    ("toDayOfWeek(ts)", "UInt8"),
    ("toMonday(ts)", "Date"),
    ("user", "UInt32"),
    ("user % 3", "UInt8"),
]
PLAIN = [
    *("count()", "sum(v)", "max(v)", "min(v)", "uniqExact(user)", "sum(v) + count()", "sum(v) * 3", "max(v) - min(v)"),
    *("countIf(v > 0)", "minIf(v, v > 2)", "maxIf(user, v > 2)", "sum(DISTINCT user)", "intDiv(sum(user), 3)", "1"),
    *("toInt64(avg(user))", "groupBitOr(user)", "toInt64(quantileExact(user))", "argMax(v, ts)", "any(user) * 0 + 1"),
]
STATES = [
    ("uniqExactState(user)", "AggregateFunction(uniqExact, UInt32)"),
    ("sumState(v)", "AggregateFunction(sum, Int64)"),
    ("avgState(v)", "AggregateFunction(avg, Int64)"),
    ("argMaxState(v, ts)", "AggregateFunction(argMax, Int64, DateTime('UTC'))"),
]
SIMPLE = ["sum", "max", "min", "groupBitOr"]
ENGINES = ["MergeTree", "SummingMergeTree", "SummingMergeTree(c0)", "AggregatingMergeTree", "ReplacingMergeTree"]
TAILS = ["", "", "", " HAVING count() > 3", " HAVING max(v) > 1", " ORDER BY ALL LIMIT 5", " LIMIT 1 BY k0"]


class Query(NamedTuple):
    """A target and the SELECT that fills it."""

    target: str
    select: str


def make(dice: random.Random, source: str) -> Query:
    """A query of random parts; not all of them are accepted by the server."""
    keys = dice.sample(KEYS, dice.choice([1, 1, 2]))
    engine = dice.choice(ENGINES)
    columns, values = [], []
    for number in range(dice.choice([1, 1, 2])):
        if engine == "AggregatingMergeTree" and dice.random() < 0.5:
            value, kind = dice.choice(STATES)
        else:
            value, kind = dice.choice(PLAIN), "Int64"
            if engine == "AggregatingMergeTree":
                value, kind = f"toInt64({value})", f"SimpleAggregateFunction({dice.choice(SIMPLE)}, Int64)"
        columns.append(f"c{number} {kind}")
        values.append(f"{value} AS c{number}")
    names = [f"k{number}" for number in range(len(keys))]
    stored = names if dice.random() < 0.8 else names[:1]
    ddl = ", ".join([*(f"k{number} {kind}" for number, (_, kind) in enumerate(keys)), *columns])
    heads = [f"{value} AS k{number}" for number, (value, _) in enumerate(keys)]
    inner = source
    if dice.random() < 0.2:
        inner = f"(SELECT ts, user, max(v) AS v FROM {source} GROUP BY ts, user)"
    if dice.random() < 0.15:
        inner = f"(SELECT toStartOfDay(ts) AS ts, user, sum(v) AS v FROM {source} GROUP BY ts, user)"
    select = f"SELECT {', '.join([*heads, *values])} FROM {inner} GROUP BY {', '.join(names)}{dice.choice(TAILS)}"
    if dice.random() < 0.1:
        select = f"SELECT DISTINCT {', '.join(heads)} FROM {source}"
    settings = " SETTINGS allow_dimensions_outside_sorting_key = 1" if engine == "AggregatingMergeTree" else ""
    return Query(f"({ddl}) ENGINE = {engine} ORDER BY ({', '.join(stored)}){settings}", select)


def compare(lab: Lab, first: int, count: int) -> tuple[int, int]:
    """Plan and run *count* queries; how many were completed, and how many refused."""
    lab.sql(
        "CREATE TABLE ev (ts DateTime('UTC'), user UInt32, v Int64) ENGINE = MergeTree ORDER BY (user, ts)",
        "INSERT INTO ev SELECT toDateTime('2025-01-05', 'UTC') + number * 311, cityHash64(number) % 7,"
        " number % 11 - 4 FROM numbers(1200)",
    )
    source = TableName(lab.engine.database, "ev")
    window = [(parse_instant(START), parse_instant(END))]
    limits = filter_setting([FilteredTable(table=source, column="ts", kind=TimeKind.DATETIME)], window)
    completed = refused = 0
    for seed in range(first, first + count):
        query = make(random.Random(seed), str(source))  # noqa: S311 - a seed that is told
        lab.sql("DROP TABLE IF EXISTS dst", "DROP TABLE IF EXISTS truth")
        lab.sql(f"CREATE TABLE dst {query.target}")
        try:
            plan = lab.plan("dst", START, END, HOURS, select=query.select, force=True)
        except RequestError:
            refused += 1
            continue
        assert lab.run(plan)["status"] == "completed", (seed, query)
        lab.sql(f"CREATE TABLE truth {query.target}")
        names = ", ".join(name for name, *_ in lab.rows(f"DESCRIBE TABLE ({query.select})"))
        lab.engine.client.command(
            f"INSERT INTO truth ({names}) SELECT {names} FROM (\n{query.select}\n)", settings=limits
        )
        # Of a column that the target does not merge, any of the values in one key stays; the plan names it.
        chance = plan["verify"]["notCompared"]
        assert merged(lab, "dst", chance) == merged(lab, "truth", chance), (seed, query)
        completed += 1
    return completed, refused


def test_what_is_completed_is_right(http_lab: Lab) -> None:
    completed, refused = compare(http_lab, 0, 24)
    assert completed > 2
    assert refused > 2


@pytest.mark.long
def test_what_is_completed_is_right_for_many(http_lab: Lab) -> None:
    completed, refused = compare(http_lab, 1000, 500)
    assert completed > 60
    assert refused > 60
