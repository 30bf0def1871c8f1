"""
The decision whether chunks add up comes before anything is written, and is correct.

Accepted plans are run and compared with the SELECT over the whole window. Refused plans are cut and merged by hand,
without the planner, and must differ.
"""

# ruff: noqa: E501 - a SELECT a line
from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from typing import Any, NamedTuple

import pytest

from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.plan import FilteredTable, WriteMode
from airflow_provider_backfill.core.request import TableFilter
from airflow_provider_backfill.core.sql import filter_setting
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Ward

START, END, HOURS = "2025-01-01", "2025-01-10", 12
SHORT = "2025-01-04"
DAY = "toDate(ts) AS day"


class Shape(NamedTuple):
    """A SELECT over ``ev`` and the target that it fills; *hours* is the length of a chunk."""

    target: str
    select: str
    hours: int = HOURS
    filters: tuple[str, ...] = ("ev",)


def summing(columns: str = "n UInt64", key: str = "day", engine: str = "SummingMergeTree") -> str:
    return f"(day Date, {columns}) ENGINE = {engine} ORDER BY ({key})"


def aggregating(columns: str, key: str = "day Date") -> str:
    return f"({key}, {columns}) ENGINE = AggregatingMergeTree ORDER BY {key.split()[0]}"


PLAIN = "(day Date, n UInt64) ENGINE = MergeTree ORDER BY day"

RIGHT = {
    "counts into a sum": Shape(summing(), f"SELECT {DAY}, count() AS n FROM ev GROUP BY day"),
    "sums of what is summed": Shape(
        summing("n UInt64, v Int64"), f"SELECT {DAY}, countIf(ev.v > 0) AS n, sum(ev.v) * 2 AS v FROM ev GROUP BY day"
    ),
    "the very columns that are summed": Shape(
        summing(engine="SummingMergeTree(n)"), f"SELECT {DAY}, count() AS n FROM ev GROUP BY day"
    ),
    "states": Shape(
        aggregating(
            "u AggregateFunction(uniq, UInt32), q AggregateFunction(quantile(0.9), Int64), a AggregateFunction(avg, Int64)"
        ),
        f"SELECT {DAY}, uniqState(user) AS u, quantileState(0.9)(v) AS q, avgState(v) AS a FROM ev GROUP BY day",
    ),
    "states of states": Shape(
        aggregating("u AggregateFunction(uniq, UInt32)"),
        "SELECT toDate(hour) AS day, uniqMergeState(u) AS u FROM hourly GROUP BY day",
        filters=("hourly",),
    ),
    "extremes": Shape(
        aggregating(
            "lo SimpleAggregateFunction(min, Int64), hi SimpleAggregateFunction(max, Int64), bits SimpleAggregateFunction(groupBitOr, UInt32)"
        ),
        f"SELECT {DAY}, min(v) AS lo, max(v) AS hi, groupBitOr(user) AS bits FROM ev GROUP BY day",
    ),
    "arrays that chunks order as they come": Shape(
        aggregating("a SimpleAggregateFunction(groupArrayArray, Array(UInt32))"),
        f"SELECT {DAY}, groupArrayIf(user, v > 0) AS a FROM ev GROUP BY day",
    ),
    "bits and extremes that are converted": Shape(
        aggregating(
            "bits SimpleAggregateFunction(groupBitOr, Int64), hi SimpleAggregateFunction(max, Float64), lo SimpleAggregateFunction(min, Int64)"
        ),
        f"SELECT {DAY}, toInt64(groupBitOr(user)) AS bits, max(v) / 10 AS hi, min(v) - 5 AS lo FROM ev GROUP BY day",
    ),
    "the latest row, which may be a deletion": Shape(
        "(user UInt32, seen DateTime('UTC'), gone UInt8, kind String) ENGINE = ReplacingMergeTree(seen, gone) ORDER BY user",
        "SELECT user, max(ts) AS seen, argMax(toUInt8(v > 4), ts) AS gone, 'seen' AS kind FROM ev GROUP BY user",
    ),
    "keys in partitions of their own": Shape(
        "(day Date, user UInt32) ENGINE = ReplacingMergeTree PARTITION BY day ORDER BY user",
        f"SELECT DISTINCT {DAY}, user FROM ev",
    ),
    "functions of max, any and sum": Shape(
        aggregating(
            "hi SimpleAggregateFunction(max, UInt32), any SimpleAggregateFunction(any, String), n SimpleAggregateFunction(sum, Int64), s AggregateFunction(sum, UInt64)",
            "user UInt32",
        ),
        "SELECT user, toUnixTimestamp(max(ts)) AS hi, upper(any(concat('u', toString(user)))) AS any, CASE WHEN user > 5 THEN -sum(c) ELSE sum(c) END AS n, sumState(c) AS s FROM (SELECT user, ev.v AS v, max(ev.ts) AS ts, count() AS c FROM ev GROUP BY user, v) GROUP BY user",
    ),
    "maps and arrays": Shape(
        aggregating(
            "m SimpleAggregateFunction(sumMap, Map(UInt32, UInt64)), who SimpleAggregateFunction(groupUniqArrayArray, Array(UInt32))"
        ),
        f"SELECT {DAY}, sumMap(map(user, toUInt64(1))) AS m, groupUniqArray(user) AS who FROM ev GROUP BY day",
    ),
    "sums of sums": Shape(
        summing(),
        f"SELECT day, sum(n) AS n FROM (SELECT {DAY}, user, count() AS n FROM ev GROUP BY day, user) GROUP BY day",
    ),
    "the latest row by its version": Shape(
        "(user UInt32, seen DateTime('UTC'), v Int64) ENGINE = ReplacingMergeTree(seen) ORDER BY user",
        "SELECT user, max(ts) AS seen, argMax(v, ts) AS v FROM ev GROUP BY user",
    ),
    "distinct keys that are merged": Shape(
        "(day Date, user UInt32) ENGINE = ReplacingMergeTree ORDER BY (day, user)",
        f"SELECT DISTINCT {DAY}, user FROM ev",
    ),
    "a group without aggregates": Shape(
        "(day Date, user UInt32) ENGINE = ReplacingMergeTree ORDER BY (day, user)",
        f"SELECT {DAY}, user FROM ev GROUP BY day, user",
    ),
    "finals of a bucket that is whole": Shape(PLAIN, f"SELECT {DAY}, uniqExact(user) AS n FROM ev GROUP BY day", 24),
    "finals of a bucket with an origin": Shape(
        "(b DateTime('UTC'), n UInt64) ENGINE = MergeTree ORDER BY b",
        "SELECT toStartOfInterval(ts, INTERVAL 1 DAY, toDateTime('2025-01-01', 'UTC')) AS b, uniqExact(user) AS n FROM ev GROUP BY b",
        24,
    ),
    "parts of a date that together are a day": Shape(
        "(m UInt8, d UInt8, n UInt64) ENGINE = MergeTree ORDER BY (m, d)",
        "SELECT toMonth(ts) AS m, toDayOfMonth(ts) AS d, uniqExact(user) AS n FROM ev GROUP BY m, d",
        24,
    ),
    "HAVING on the key": Shape(
        summing(), f"SELECT {DAY}, count() AS n FROM ev GROUP BY day HAVING day != '2025-01-03'"
    ),
    "HAVING within a bucket": Shape(PLAIN, f"SELECT {DAY}, count() AS n FROM ev GROUP BY day HAVING n > 120", 24),
    "a window within a bucket": Shape(
        "(ts DateTime('UTC'), place UInt64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, row_number() OVER (PARTITION BY toDate(ts) ORDER BY ts) AS place FROM ev",
        24,
    ),
    "branches that are all limited": Shape(
        "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, user FROM ev UNION ALL SELECT at AS ts, user FROM pay",
        filters=("ev", "pay=at"),
    ),
    "a group over branches": Shape(
        PLAIN,
        "SELECT toDate(t) AS day, uniqExact(user) AS n FROM (SELECT ts AS t, user FROM ev UNION ALL SELECT at AS t, user FROM pay) GROUP BY day",
        24,
        ("ev", "pay=at"),
    ),
    "two sides joined by their hour": Shape(
        "(hour DateTime('UTC'), n UInt64, m UInt64) ENGINE = MergeTree ORDER BY hour",
        "SELECT a.hour AS hour, n, m FROM (SELECT toStartOfHour(ts) AS hour, count() AS n FROM ev GROUP BY hour) AS a"
        " LEFT JOIN (SELECT toStartOfHour(at) AS hour, count() AS m FROM pay GROUP BY hour) AS b ON a.hour = b.hour",
        filters=("ev", "pay=at"),
    ),
    "a dimension on the right": Shape(
        "(ts DateTime('UTC'), name String) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, name FROM ev LEFT JOIN dim ON ev.user = dim.user",
    ),
    "the nearest price": Shape(
        "(ts DateTime('UTC'), price UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, price FROM ev ASOF JOIN prices ON ev.user = prices.user AND ev.ts >= prices.since",
    ),
    "subqueries on other tables": Shape(
        "(ts DateTime('UTC'), top UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, (SELECT max(user) FROM dim) AS top FROM ev WHERE user IN (SELECT user FROM dim) AND EXISTS (SELECT 1 FROM prices)",
    ),
    "arrays unfolded": Shape(
        "(ts DateTime('UTC'), tag UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, tag FROM ev ARRAY JOIN [user, user + 1] AS tag",
    ),
}

WRONG = {
    "a count of distinct users into a summed column": Shape(
        summing(), f"SELECT {DAY}, uniq(user) AS n FROM ev GROUP BY day"
    ),
    "a sum of distinct values": Shape(summing(), f"SELECT {DAY}, sum(DISTINCT user) AS n FROM ev GROUP BY day"),
    "sumForEach() into a summed column": Shape(
        summing("n Array(UInt64)"), f"SELECT {DAY}, sumForEach([user, 1]) AS n FROM ev GROUP BY day"
    ),
    "a ratio into a summed column": Shape(
        summing("n Float64"), f"SELECT {DAY}, sum(v) / count() AS n FROM ev GROUP BY day"
    ),
    "an average into a summed column": Shape(
        summing("n Float64"), f"SELECT {DAY}, avg(user) AS n FROM ev GROUP BY day"
    ),
    "a median into a summed column": Shape(
        summing("n Float64"), f"SELECT {DAY}, quantileExact(user) AS n FROM ev GROUP BY day"
    ),
    "a maximum into a summed column": Shape(summing(), f"SELECT {DAY}, max(user) AS n FROM ev GROUP BY day"),
    "a count into SimpleAggregateFunction(max)": Shape(
        aggregating("n SimpleAggregateFunction(max, UInt64)"), f"SELECT {DAY}, count() AS n FROM ev GROUP BY day"
    ),
    "a count of distinct users into SimpleAggregateFunction(sum)": Shape(
        aggregating("n SimpleAggregateFunction(sum, UInt64)"),
        f"SELECT {DAY}, uniqExact(user) AS n FROM ev GROUP BY day",
    ),
    "minIf() where a chunk may have no matching row": Shape(
        aggregating("lo SimpleAggregateFunction(min, UInt32)"),
        f"SELECT {DAY}, minIf(user + 5, toHour(ts) = 3) AS lo FROM ev GROUP BY day",
    ),
    "a sum into a column that the target does not sum": Shape(
        summing("n UInt64, m UInt64", engine="SummingMergeTree(n)"),
        f"SELECT {DAY}, count() AS n, sum(user) AS m FROM ev GROUP BY day",
    ),
    "a constant into a summed column": Shape(summing(), f"SELECT {DAY}, 1 AS n FROM ev GROUP BY day"),
    "a rounded sum": Shape(summing("n Int64"), f"SELECT {DAY}, intDiv(sum(user), 7) AS n FROM ev GROUP BY day"),
    "a sum of fractions into an integer column": Shape(
        summing("n Int64"), f"SELECT {DAY}, sum(v / 7) AS n FROM ev GROUP BY day"
    ),
    "a sum into a Decimal with fewer digits": Shape(
        summing("n Decimal(18, 1)"),
        f"SELECT {DAY}, sum(toDecimal64(v, 4) / 8) AS n FROM ev GROUP BY day",
    ),
    "a Decimal sum that is divided": Shape(
        summing("n Decimal(38, 1)"), f"SELECT {DAY}, sum(toDecimal64(user, 1)) / 7 AS n FROM ev GROUP BY day"
    ),
    "a sum that overflows its type": Shape(summing(), f"SELECT {DAY}, toUInt8(sum(user)) AS n FROM ev GROUP BY day"),
    "a sum with a term that may be NULL": Shape(
        summing("n Nullable(Int64)"),
        f"SELECT {DAY}, sumOrNullIf(v, toHour(ts) = 3) + count() AS n FROM ev GROUP BY day",
    ),
    "a state that depends on the order of rows": Shape(
        aggregating("d AggregateFunction(deltaSum, Int64)"), f"SELECT {DAY}, deltaSumState(v) AS d FROM ev GROUP BY day"
    ),
    "a count of groups": Shape(
        summing(), f"SELECT day, count() AS n FROM (SELECT {DAY}, user FROM ev GROUP BY day, user) GROUP BY day"
    ),
    "a state of finished counts": Shape(
        aggregating("q AggregateFunction(quantileExact, UInt64)"),
        f"SELECT day, quantileExactState(n) AS q FROM (SELECT {DAY}, user, count() AS n FROM ev GROUP BY day, user) GROUP BY day",
    ),
    "GROUP BY without aggregates into a plain MergeTree": Shape(
        "(day Date, user UInt32) ENGINE = MergeTree ORDER BY day", f"SELECT {DAY}, user FROM ev GROUP BY day, user"
    ),
    "argMax of a Nullable into a ReplacingMergeTree": Shape(
        "(user UInt32, seen DateTime('UTC'), v Nullable(Int64)) ENGINE = ReplacingMergeTree(seen) ORDER BY user",
        "SELECT user, max(ts) AS seen, argMax(if(toDate(ev.ts) = '2025-01-03', ev.v, NULL), ts) AS v FROM ev GROUP BY user",
    ),
    "groupUniqArray of groupUniqArray": Shape(
        aggregating("a SimpleAggregateFunction(groupUniqArrayArray, Array(Array(Int64)))"),
        f"SELECT day, groupUniqArray(w) AS a FROM (SELECT {DAY}, user, arraySort(groupUniqArray(v)) AS w FROM ev GROUP BY day, user) GROUP BY day",
    ),
    "HAVING on a count of a cut group": Shape(
        summing(), f"SELECT {DAY}, count() AS n FROM ev GROUP BY day HAVING n > 100"
    ),
    "WHERE around a count of a cut group": Shape(
        summing(), f"SELECT * FROM (SELECT {DAY}, count() AS n FROM ev GROUP BY day) WHERE n > 100"
    ),
    "GROUP BY the hour of the day": Shape(
        "(h UInt8, n UInt64) ENGINE = MergeTree ORDER BY h", "SELECT toHour(ts) AS h, count() AS n FROM ev GROUP BY h"
    ),
    "GROUP BY the day of the week": Shape(
        "(d UInt8, n UInt64) ENGINE = MergeTree ORDER BY d",
        "SELECT toDayOfWeek(ts) AS d, uniqExact(user) AS n FROM ev GROUP BY d",
        24,
    ),
    "GROUP BY without a time": Shape(
        "(user UInt32, n UInt64) ENGINE = MergeTree ORDER BY user", "SELECT user, count() AS n FROM ev GROUP BY user"
    ),
    "an aggregate without GROUP BY": Shape("(n UInt64) ENGINE = MergeTree ORDER BY n", "SELECT count() AS n FROM ev"),
    "a minimum of a chunk that may be empty": Shape(
        "(k UInt8, lo SimpleAggregateFunction(min, UInt32)) ENGINE = AggregatingMergeTree ORDER BY k",
        "SELECT 1 AS k, min(greatest(user, 3)) AS lo FROM ev WHERE toHour(ts) > 12",
    ),
    "WITH ROLLUP": Shape(PLAIN, f"SELECT {DAY}, count() AS n FROM ev GROUP BY day WITH ROLLUP", 24),
    "GROUPING SETS": Shape(
        "(day Date, user UInt32, n UInt64) ENGINE = MergeTree ORDER BY day",
        f"SELECT {DAY}, user, count() AS n FROM ev GROUP BY GROUPING SETS ((day, user), (user))",
        24,
    ),
    "WITH FILL": Shape(
        "(hour DateTime('UTC'), n UInt64) ENGINE = MergeTree ORDER BY hour",
        "SELECT toStartOfHour(ts) AS hour, count() AS n FROM ev WHERE toHour(ts) BETWEEN 4 AND 9 GROUP BY hour ORDER BY hour WITH FILL STEP 3600",
    ),
    "LIMIT": Shape("(ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts", "SELECT ts FROM ev ORDER BY ts LIMIT 3"),
    "LIMIT BY the hour of the day": Shape(
        "(ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts", "SELECT ts FROM ev ORDER BY ts LIMIT 1 BY toHour(ts)"
    ),
    "DISTINCT without a time": Shape("(user UInt32) ENGINE = MergeTree ORDER BY user", "SELECT DISTINCT user FROM ev"),
    "INTERSECT": Shape(
        "(user UInt32) ENGINE = ReplacingMergeTree ORDER BY user",
        "SELECT user FROM ev WHERE toHour(ts) < 12 INTERSECT DISTINCT SELECT user FROM ev WHERE toHour(ts) >= 12",
    ),
    "EXCEPT": Shape(
        "(user UInt32) ENGINE = ReplacingMergeTree ORDER BY user",
        "SELECT user FROM ev EXCEPT DISTINCT SELECT user FROM ev WHERE v = 6",
    ),
    "runningDifference()": Shape(
        "(ts DateTime('UTC'), n Int64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, runningDifference(v) AS n FROM (SELECT ts, v FROM ev ORDER BY ts)"
        " SETTINGS allow_deprecated_error_prone_window_functions = 1",
    ),
    "rowNumberInAllBlocks()": Shape(
        "(n UInt64) ENGINE = MergeTree ORDER BY n", "SELECT rowNumberInAllBlocks() AS n FROM ev"
    ),
    "a window function partitioned by user": Shape(
        "(ts DateTime('UTC'), n UInt64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, row_number() OVER (PARTITION BY user ORDER BY ts) AS n FROM ev",
    ),
    "a branch of UNION ALL without the time filter": Shape(
        "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, user FROM ev UNION ALL SELECT at AS ts, user FROM pay",
    ),
    "a dimension on the left of a LEFT JOIN": Shape(
        "(name String, v Int64) ENGINE = MergeTree ORDER BY name",
        "SELECT name, v FROM dim LEFT JOIN ev ON ev.user = dim.user AND v > 3",
    ),
    "FULL JOIN with a dimension": Shape(
        "(name String, v Int64) ENGINE = MergeTree ORDER BY name",
        "SELECT name, v FROM ev FULL JOIN dim ON ev.user = dim.user",
    ),
    "ANTI JOIN": Shape(
        "(name String) ENGINE = MergeTree ORDER BY name",
        "SELECT name FROM dim ANTI JOIN ev ON ev.user = dim.user AND v = 5",
    ),
    "a self-join": Shape(
        "(n UInt64) ENGINE = MergeTree ORDER BY n",
        "SELECT toUInt64(a.v + b.v + 50) AS n FROM ev AS a JOIN ev AS b ON a.user = b.user",
    ),
    "a subquery that averages the source": Shape(
        "(ts DateTime('UTC'), n Float64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, v - (SELECT avg(v) FROM ev) AS n FROM ev",
    ),
    "IN with a subquery on the source": Shape(
        "(ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts FROM ev WHERE user IN (SELECT user FROM ev GROUP BY user HAVING count() > 100)",
    ),
    "a correlated subquery on the source": Shape(
        "(ts DateTime('UTC'), n UInt64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, (SELECT sum(r.user) FROM ev AS r WHERE r.user = ev.user) AS n FROM ev",
    ),
    "two filtered tables joined by user": Shape(
        "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ev.ts AS ts, ev.user AS user FROM ev JOIN pay ON ev.user = pay.user",
        filters=("ev", "pay=at"),
    ),
}


# Seldom written, so the server is asked in the long form only; the unit tier replays its answers with every run.
RARE_RIGHT = {
    "the same day of two tables": Shape(
        "(day Date, user UInt32) ENGINE = ReplacingMergeTree ORDER BY (day, user)",
        f"SELECT {DAY}, user FROM ev UNION DISTINCT SELECT toDate(at) AS day, user FROM pay",
        filters=("ev", "pay=at"),
    ),
    "counts of two tables": Shape(
        summing(),
        f"SELECT {DAY}, count() AS n FROM ev GROUP BY day UNION ALL SELECT toDate(at) AS day, countIf(user > 3) AS n FROM pay GROUP BY day",
        filters=("ev", "pay=at"),
    ),
    "a function of each element": Shape(
        "(ts DateTime('UTC'), a Array(UInt32)) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, arrayMap(x -> toUInt32(x + user), [1, 2]) AS a FROM ev",
    ),
    "a name for each row": Shape(
        "(ts DateTime('UTC'), name Nullable(String)) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, (SELECT max(d.name) FROM dim AS d WHERE d.user = ev.user) AS name FROM ev",
    ),
    "one row beside each": Shape(
        "(ts DateTime('UTC'), top UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, top FROM ev CROSS JOIN (SELECT max(user) AS top FROM dim ) AS d",
    ),
    "users of both sides": Shape(
        "(user UInt32, v Int64) ENGINE = MergeTree ORDER BY user",
        "SELECT user, v FROM dim RIGHT JOIN ev USING (user)",
    ),
    "the first user of a day": Shape(
        "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, user FROM ev QUALIFY row_number() OVER (PARTITION BY toDate(ts) ORDER BY user, ts) = 1",
        24,
    ),
    "what is past by now": Shape(
        "(ts DateTime('UTC'), name Nullable(String)) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, NULL AS name FROM ev WHERE ts < now() AND rand() >= 0",
    ),
}
RARE_WRONG = {
    "groups of parts": Shape(
        "(n UInt64, days UInt64) ENGINE = SummingMergeTree ORDER BY n",
        f"SELECT n, count() AS days FROM (SELECT {DAY}, count() AS n FROM ev GROUP BY day) GROUP BY n",
    ),
    "distinct parts": Shape(
        "(n UInt64) ENGINE = ReplacingMergeTree ORDER BY n",
        f"SELECT DISTINCT n FROM (SELECT {DAY}, count() AS n FROM ev GROUP BY day)",
    ),
    "parts unfolded by a function": Shape(
        "(day Date, user UInt32) ENGINE = MergeTree ORDER BY day",
        f"SELECT {DAY}, arrayJoin(groupUniqArray(user)) AS user FROM ev GROUP BY day",
    ),
    "parts unfolded": Shape(
        "(day Date, user UInt32) ENGINE = MergeTree ORDER BY day",
        f"SELECT day, who AS user FROM (SELECT {DAY}, groupUniqArray(user) AS all FROM ev GROUP BY day) ARRAY JOIN all AS who",
    ),
    "parts joined": Shape(
        "(day Date, n UInt64, name String) ENGINE = SummingMergeTree ORDER BY (day, name)",
        f"SELECT day, n, name FROM (SELECT {DAY}, count() % 7 AS n FROM ev GROUP BY day) AS a LEFT JOIN (SELECT toUInt64(user) AS user, name FROM dim ) AS d ON a.n = d.user",
    ),
    "a part in the key": Shape(
        summing("n UInt64, m UInt64", key="day, n"),
        f"SELECT {DAY}, count() AS n, sum(user) AS m FROM ev GROUP BY day",
    ),
    "a NULL that becomes a default": Shape(
        aggregating("lo SimpleAggregateFunction(min, Int64)"),
        f"SELECT {DAY}, minOrNullIf(v + 20, toHour(ts) = 3) AS lo FROM ev GROUP BY day",
    ),
    "each row beside each": Shape(
        "(n UInt64) ENGINE = MergeTree ORDER BY n",
        "SELECT toUInt64(a.user * 10 + b.user) AS n FROM ev AS a CROSS JOIN ev AS b WHERE a.v = 6 AND b.v = -6",
    ),
}


def _with_rare(usual: dict[str, Shape], rare: dict[str, Shape]) -> list[Any]:
    return [*usual, *(pytest.param(name, marks=pytest.mark.long) for name in rare)]


@pytest.fixture
def shop(http_lab: Lab) -> Lab:
    """Events of 16 days, payments, hourly states, and tables to look things up in."""
    http_lab.sql(
        "CREATE TABLE ev (ts DateTime('UTC'), user UInt32, v Int64) ENGINE = MergeTree ORDER BY (user, ts)",
        "INSERT INTO ev SELECT toDateTime('2025-01-01', 'UTC') + number * 587, cityHash64(number) % 9, number % 13 - 6 FROM numbers(1323)",
        "CREATE TABLE pay (at DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY at",
        "INSERT INTO pay SELECT toDateTime('2025-01-01 00:10:00', 'UTC') + number * 5000, number % 9 FROM numbers(155)",
        "CREATE TABLE hourly (hour DateTime('UTC'), u AggregateFunction(uniq, UInt32)) ENGINE = AggregatingMergeTree ORDER BY hour",
        "INSERT INTO hourly SELECT toStartOfHour(ts) AS hour, uniqState(user) FROM ev GROUP BY hour",
        "CREATE TABLE dim (user UInt32, name String) ENGINE = MergeTree ORDER BY user",
        "INSERT INTO dim SELECT number, concat('u', toString(number)) FROM numbers(12)",
        "CREATE TABLE prices (user UInt32, since DateTime('UTC'), price UInt32) ENGINE = MergeTree ORDER BY (user, since)",
        "INSERT INTO prices SELECT number % 9, toDateTime('2024-12-31', 'UTC') + number * 20000, number FROM numbers(80)",
    )
    return http_lab


def qualified(lab: Lab, select: str) -> str:
    """The SELECT with its tables' database, as a stored view has it."""
    for table in ("ev", "pay", "hourly", "dim", "prices"):
        for word in ("FROM", "JOIN"):
            select = (
                (select + " ")
                .replace(f"{word} {table} ", f"{word} {lab.engine.database}.{table} ")
                .replace(f"{word} {table})", f"{word} {lab.engine.database}.{table})")
            )
    return select.strip()


def filters(lab: Lab, shape: Shape) -> tuple[TableFilter, ...]:
    return tuple(
        TableFilter(lab.table(name), column or None)
        for name, _, column in (each.partition("=") for each in shape.filters)
    )


def merged(lab: Lab, table: str, left_out: Sequence[str] = ()) -> list[str]:
    """The rows of a table as its engine merges them, states made values; as text, in which NaN equals NaN."""
    columns = lab.rows(
        f"SELECT name, type FROM system.columns WHERE database = currentDatabase() AND table = '{table}' ORDER BY position"
    )
    values = ", ".join(
        f"arraySort({name})"
        if "Array(" in kind
        else f"mapSort({name})"
        if "Map(" in kind
        else f"finalizeAggregation({name})"
        if kind.startswith("AggregateFunction")
        else name
        for name, kind in columns
        if name not in left_out
    )
    if (
        lab.value(f"SELECT engine FROM system.tables WHERE database = currentDatabase() AND name = '{table}'")
        != "MergeTree"
    ):
        lab.sql(f"OPTIMIZE TABLE {table} FINAL")
    return sorted(map(repr, lab.rows(f"SELECT {values} FROM {table}")))


def tables(lab: Lab, shape: Shape) -> list[FilteredTable]:
    """The filtered tables of a shape with their time columns."""
    times = {"ev": "ts", "pay": "at", "hourly": "hour"}
    return [
        FilteredTable(table=TableName(lab.engine.database, name), column=column or times[name], kind=TimeKind.DATETIME)
        for name, _, column in (each.partition("=") for each in shape.filters)
    ]


def cut_by_hand(lab: Lab, shape: Shape, select: str, table: str) -> None:
    """Fill a table chunk by chunk, as an ordinary loop of INSERT SELECTs with the filter would."""
    names = ", ".join(name for name, *_ in lab.rows(f"DESCRIBE TABLE ({select})"))
    start = parse_instant(START)
    while start < parse_instant(END):
        until = start + timedelta(hours=shape.hours)
        settings = filter_setting(tables(lab, shape), [(start, until)])
        lab.engine.client.command(
            f"INSERT INTO {table} ({names}) SELECT {names} FROM (\n{select}\n)", settings=settings
        )
        start = until


@pytest.mark.parametrize("name", _with_rare(RIGHT, RARE_RIGHT))
def test_what_is_accepted_is_right(shop: Lab, name: str) -> None:
    """An accepted plan gives the result of the SELECT over the whole window, and names its evidence."""
    shape = (RIGHT | RARE_RIGHT)[name]
    select = qualified(shop, shape.select)
    shop.sql(f"CREATE TABLE dst {shape.target}", "CREATE TABLE truth AS dst")
    names = ", ".join(column for column, *_ in shop.rows(f"DESCRIBE TABLE ({select})"))
    limits = filter_setting(tables(shop, shape), [(parse_instant(START), parse_instant(SHORT))])
    shop.engine.client.command(f"INSERT INTO truth ({names}) SELECT {names} FROM (\n{select}\n)", settings=limits)
    plan = shop.plan("dst", START, SHORT, shape.hours, select=select, filter_tables=filters(shop, shape))
    assert plan["addsUp"]["proof"] == "by rule", plan["addsUp"]
    assert shop.run(plan)["status"] == "completed"
    assert merged(shop, "dst") == merged(shop, "truth")
    assert shop.leftovers() == []


@pytest.mark.parametrize("name", _with_rare(WRONG, RARE_WRONG))
def test_what_is_refused_is_wrong(shop: Lab, name: str) -> None:
    """A refused plan would have given another result; one chunk for the window gives the correct result."""
    shape = (WRONG | RARE_WRONG)[name]
    select = qualified(shop, shape.select)
    shop.sql(f"CREATE TABLE dst {shape.target}", "CREATE TABLE truth AS dst", "CREATE TABLE cut AS dst")
    with pytest.raises(RequestError) as refused:
        shop.plan("dst", START, END, shape.hours, select=select, filter_tables=filters(shop, shape))
    assert refused.value.hint
    names = ", ".join(column for column, *_ in shop.rows(f"DESCRIBE TABLE ({select})"))
    shop.sql(f"INSERT INTO truth ({names}) SELECT {names} FROM (\n{select}\n)")
    cut_by_hand(shop, shape, select, "cut")
    assert merged(shop, "cut") != merged(shop, "truth")
    if len(shape.filters) == 1 and "branch" not in name:
        shop.fill("dst", START, END, 24 * 9, select=select, filter_tables=filters(shop, shape))
        assert merged(shop, "dst") == merged(shop, "truth")


def test_a_share_of_the_rows_and_not_a_number_of_them(shop: Lab) -> None:
    """SAMPLE 1 / 2 takes the same half of the keys in each chunk."""
    shop.sql(
        "CREATE TABLE drawn (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY intHash32(user) SAMPLE BY intHash32(user)",
        "INSERT INTO drawn SELECT ts, user FROM ev",
        "CREATE TABLE dst (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
    )
    drawn = f"SELECT ts, user FROM {shop.engine.database}.drawn SAMPLE"
    with pytest.raises(RequestError, match="SAMPLE 100"):
        shop.plan("dst", START, END, 24, select=f"{drawn} 100")
    shop.fill("dst", START, END, 24, select=f"{drawn} 1 / 2", force=True)
    whole = shop.content(f"({drawn} 1 / 2)", tail=f"WHERE ts < toDateTime('{END}', 'UTC')")
    assert shop.content("dst") == whole != (0, 0)


def test_the_remedy_of_a_cut_bucket_is_right(shop: Lab) -> None:
    """The length that the refusal names makes the same SELECT right."""
    select = qualified(shop, f"SELECT {DAY}, uniqExact(user) AS n FROM ev GROUP BY day")
    shop.sql(f"CREATE TABLE dst {PLAIN}")
    with pytest.raises(RequestError, match="cuts a bucket of toDate") as refused:
        shop.plan("dst", START, END, 6, select=select)
    assert "--chunk-hours 24" in refused.value.hint
    shop.fill("dst", START, END, 24, select=select)
    assert shop.value("SELECT count() FROM dst") == 9


def test_the_target_is_read_through_a_view(shop: Lab) -> None:
    """The result of a chunk must not depend on rows that earlier chunks have written."""
    shop.sql(
        "CREATE TABLE dst (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        "CREATE VIEW seen AS SELECT max(ts) AS last FROM dst",
    )
    database = shop.engine.database
    select = f"SELECT ts, user FROM {database}.ev WHERE ts > (SELECT last FROM {database}.seen)"
    with pytest.raises(RequestError, match="the target itself"):
        shop.plan("dst", START, END, 24, select=select, filter_table=shop.table("ev"))


@pytest.mark.parametrize(
    "last",
    [
        "SELECT max(ts) FROM {db}.over",
        "SELECT max(ts) FROM merge('{db}', '^dst$')",
        "SELECT max(ts) FROM remote('127.0.0.1:{port}', '{db}', 'dst')",
        "SELECT dictGet('{db}.loaded', 'ts', toUInt64(1))",
    ],
    ids=["a Merge table", "merge()", "remote() of this server", "a dictionary"],
)
def test_the_target_is_read_by_another_name(shop: Lab, last: str) -> None:
    """The origin of the rows counts, not the name of the table."""
    database = shop.engine.database
    shop.sql(
        "CREATE TABLE dst (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        f"CREATE TABLE over (ts DateTime('UTC'), user UInt32) ENGINE = Merge({database}, '^dst$')",
        "CREATE DICTIONARY loaded (user UInt64, ts DateTime('UTC')) PRIMARY KEY user"
        f" SOURCE(CLICKHOUSE(TABLE 'dst' DB '{database}')) LAYOUT(HASHED()) LIFETIME(0)",
    )
    port = shop.value("SELECT getServerPort('tcp_port')")
    select = f"SELECT ts, user FROM {database}.ev WHERE ts > ({last.format(db=database, port=port)})"
    with pytest.raises(RequestError, match="holds the rows of the target"):
        shop.plan("dst", START, END, 24, select=select, filter_table=shop.table("ev"))


@pytest.mark.parametrize("state", ["topK(3)", "anyHeavy", "histogram(3)", "deltaSumTimestamp"])
def test_a_state_that_keeps_a_selection_is_not_cut(shop: Lab, state: str) -> None:
    """The selection from two selections is not the selection from all values; whole groups are correct."""
    name, _, parameters = state.partition("(")
    given = "v, ts" if name == "deltaSumTimestamp" else "v"
    kinds = "Int64, DateTime('UTC')" if name == "deltaSumTimestamp" else "Int64"
    shop.sql(
        f"CREATE TABLE dst (day Date, s AggregateFunction({state}, {kinds})) ENGINE = AggregatingMergeTree ORDER BY day"
    )
    call = f"{name}State{'(' if parameters else ''}{parameters}({given})"
    select = f"SELECT toDate(ts) AS day, {call} AS s FROM {shop.engine.database}.ev GROUP BY day"
    with pytest.raises(RequestError, match=r"keeps a selection|depends on the order") as refused:
        shop.plan("dst", START, SHORT, 6, select=select)
    assert "--chunk-hours 24" in refused.value.hint
    shop.fill("dst", START, SHORT, 24, select=select)


def test_the_window_on_the_wrong_side_of_a_join(shop: Lab) -> None:
    """Users have a separate time. Limiting users and reading all events in each chunk is not the user's intention."""
    shop.sql(
        "CREATE TABLE users (user UInt32, since DateTime('UTC')) ENGINE = MergeTree ORDER BY user",
        "INSERT INTO users SELECT number, toDateTime('2025-01-02', 'UTC') + number * 3600 FROM numbers(9)",
        "CREATE TABLE dst (ts DateTime('UTC'), v Int64) ENGINE = MergeTree ORDER BY ts",
    )
    select = qualified(shop, "SELECT ev.ts AS ts, v FROM ev JOIN users AS u ON ev.user = u.user").replace(
        "JOIN users", f"JOIN {shop.engine.database}.users"
    )
    with pytest.raises(RequestError, match=r"the target's ts comes from \S+\.ev") as refused:
        shop.plan("dst", START, END, 24, select=select, filter_table=shop.table("users"))
    assert "--whole-table" in refused.value.hint
    shop.plan("dst", START, END, 24, select=select, filter_table=shop.table("users"), whole_tables=(shop.table("ev"),))
    shop.fill("dst", START, END, 48, select=select, filter_table=shop.table("ev"))
    assert shop.value("SELECT count() FROM dst") == 1323


def test_a_setting_makes_another_join(shop: Lab) -> None:
    """Any one event of each user of a chunk is a row for each chunk; all events are one row each."""
    select = qualified(shop, "SELECT name, v FROM dim JOIN ev ON ev.user = dim.user")
    shop.sql("CREATE TABLE dst (name String, v Int64) ENGINE = MergeTree ORDER BY name")
    with pytest.raises(RequestError, match="ANY INNER JOIN where the table that is read whole comes first"):
        shop.plan("dst", START, END, 24, select=select, settings={"join_default_strictness": "ANY"})
    shop.fill("dst", START, END, 24, select=select)
    assert shop.value("SELECT count() FROM dst") == shop.value(f"SELECT count() FROM ({select})")


def test_sources_that_keep_nothing(shop: Lab) -> None:
    """A Null table has passed its rows on; the refusal names the table that has them."""
    shop.sql(
        "CREATE TABLE entry AS ev ENGINE = Null",
        f"CREATE TABLE dst {summing()}",
        f"CREATE MATERIALIZED VIEW mv TO dst AS SELECT {DAY}, count() AS n FROM entry GROUP BY day",
    )
    with pytest.raises(RequestError, match="a Null table, which keeps no rows") as refused:
        shop.plan("dst", START, END, 24)
    assert f"--source {shop.engine.database}.ev" in refused.value.hint
    shop.sql(
        "CREATE TABLE buffered AS ev ENGINE = Buffer(currentDatabase(), entry, 1, 10, 100, 10000, 1000000, 10000000, 100000000)",
        "CREATE VIEW seen AS SELECT * FROM entry",
        "CREATE TABLE merged AS ev ENGINE = Merge(currentDatabase(), '^entry$')",
        "CREATE TABLE copy AS ev",
    )
    for name in ("buffered", "seen", "merged"):
        with pytest.raises(RequestError, match="a Null table, which keeps no rows") as refused:
            shop.plan("copy", START, END, 24, source=name)
        assert ".copy" not in refused.value.hint


@pytest.mark.parametrize(
    ("value", "partition", "expected"),
    [("toDate(ts, 'Asia/Tokyo')", "day", 10), ("toDate(toStartOfHour(ts) + toIntervalHour(1))", "day", 10)],
    ids=["local days", "days of hours called by their end"],
)
def test_replace_by_the_time_that_the_select_gives(shop: Lab, value: str, partition: str, expected: int) -> None:
    """Chunks are cut where the target's partitions begin, so that no chunk overwrites rows of another."""
    select = qualified(shop, f"SELECT {value} AS day, count() AS n FROM ev GROUP BY day")
    shop.sql(f"CREATE TABLE dst (day Date, n UInt64) ENGINE = SummingMergeTree PARTITION BY {partition} ORDER BY day")
    shop.fill("dst", START, END, 24, select=select, write_mode=WriteMode.REPLACE)
    assert shop.rows("SELECT day, sum(n) FROM dst GROUP BY day ORDER BY day") == shop.rows(f"{select} ORDER BY day")
    assert shop.value("SELECT uniqExact(day) FROM dst") == expected
    # By now, the first and the last partition have rows, which may come from outside the window.
    with pytest.raises(RequestError, match="lies inside a partition"):
        shop.plan("dst", START, END, 24, select=select, write_mode=WriteMode.REPLACE, force=True)


def test_replace_keeps_a_partition_that_has_other_rows(shop: Lab) -> None:
    """The window begins in the middle of a local day, whose other rows would be lost."""
    select = qualified(shop, "SELECT toDate(ts, 'Asia/Tokyo') AS day, count() AS n FROM ev GROUP BY day")
    shop.sql(
        "CREATE TABLE dst (day Date, n UInt64) ENGINE = SummingMergeTree PARTITION BY day ORDER BY day",
        "INSERT INTO dst VALUES ('2025-01-01', 5)",
    )
    with pytest.raises(RequestError, match="lies inside a partition"):
        shop.plan("dst", START, END, 24, select=select, write_mode=WriteMode.REPLACE)
    with pytest.raises(RequestError, match="keep-outside"):
        shop.plan("dst", START, END, 24, select=select, write_mode=WriteMode.REPLACE, keep_outside=True)
    assert shop.rows("SELECT * FROM dst")[0][1] == 5


@pytest.mark.parametrize(
    ("ttl", "does"),
    [("", "deletes"), (" GROUP BY ts, user SET v = max(v), w = any(w), ts + INTERVAL 60 YEAR", "rolls up")],
    ids=["deletes", "rolls up"],
)
def test_plan_says_that_the_window_is_past_the_ttl(shop: Lab, ttl: str, does: str) -> None:
    """Rows that a merge deletes right after the backfill are named before it runs."""
    shop.sql(
        "CREATE TABLE dst (ts DateTime('UTC'), user UInt32, v Int64, w UInt8) ENGINE = MergeTree ORDER BY (ts, user)"
        f" TTL ts + toIntervalDay(90){ttl}"
    )
    plan = shop.plan("dst", START, END, 24, source="ev")
    (found,) = [warning["message"] for warning in plan["warnings"] if "TTL" in warning["message"]]
    assert f"{does} rows before about" in found


@pytest.mark.parametrize(
    ("columns", "tail", "words"),
    [
        ("ts DateTime('UTC'), v Int64 TTL ts + INTERVAL 1 DAY", "", "TTL of the column v"),
        ("ts DateTime('UTC'), v Int64, CONSTRAINT small CHECK v < 100", "", "small (v < 100)"),
        ("ts DateTime('UTC'), v Int64", " SETTINGS max_threads = 1", "(max_threads)"),
    ],
    ids=["column TTL", "constraint", "settings"],
)
def test_plan_says_what_may_surprise(shop: Lab, columns: str, tail: str, words: str) -> None:
    """Nothing is wrong yet, but a reader of the plan should learn of it before the data shows it."""
    shop.sql(f"CREATE TABLE dst ({columns}) ENGINE = MergeTree ORDER BY ts")
    select = f"SELECT ts, v FROM {shop.table('ev')}{tail}"
    plan = shop.plan("dst", START, SHORT, 24, select=select, filter_table=shop.table("ev"))
    assert [warning["message"] for warning in plan["warnings"] if words in warning["message"]]
    assert shop.run(plan)["status"] == "completed"


@pytest.mark.parametrize("how", ["DEFAULT", "MATERIALIZED"])
def test_replace_by_a_day_that_the_target_computes(shop: Lab, how: str) -> None:
    """The partition follows from the time by the default, so whole days are whole partitions."""
    shop.sql(
        f"CREATE TABLE dst (ts DateTime('UTC'), v Int64, day Date {how} toDate(ts)) ENGINE = MergeTree"
        " PARTITION BY day ORDER BY ts",
        "INSERT INTO dst (ts, v) SELECT ts, 1000 FROM ev",
    )
    select, replace = f"SELECT ts, v FROM {shop.table('ev')}", {"write_mode": WriteMode.REPLACE}
    with pytest.raises(RequestError, match="inside a partition"):
        shop.plan("dst", START, SHORT, 12, select=select, **replace)
    plan = shop.fill("dst", START, SHORT, 24, select=select, **replace)
    inside = f"WHERE ts < toDateTime('{SHORT}', 'UTC')"
    assert shop.content("dst", "ts, v", inside) == shop.content("ev", "ts, v", inside)
    assert shop.value(f"SELECT count() = countIf(v = 1000) FROM dst WHERE ts >= toDateTime('{SHORT}', 'UTC')") == 1
    assert verify_plan(shop.session, plan["planId"])["ok"]


def test_verify_of_rows_that_are_labelled_by_the_end_of_their_day(shop: Lab) -> None:
    """The label of the day before the window is that of its first day, and its row stays where it is."""
    shop.sql(
        "CREATE TABLE dst (day Date, n UInt64) ENGINE = MergeTree PARTITION BY day ORDER BY day",
        "INSERT INTO dst SELECT toDate('2024-12-25') + number, 7 FROM numbers(30)",
    )
    select = f"SELECT toDate(ts) + 1 AS day, count() AS n FROM {shop.table('ev')} GROUP BY day"
    plan = shop.fill("dst", START, SHORT, 24, select=select, write_mode=WriteMode.REPLACE)
    assert shop.rows("SELECT day, n = 7 FROM dst WHERE day BETWEEN '2025-01-01' AND '2025-01-05' ORDER BY day") == [
        (parse_instant(f"2025-01-0{day}").date(), int(day in (1, 5))) for day in range(1, 6)
    ]
    assert verify_plan(shop.session, plan["planId"])["ok"]
    shop.sql("ALTER TABLE dst UPDATE n = n + 1 WHERE day = '2025-01-04' SETTINGS mutations_sync = 2")
    assert verify_plan(shop.session, plan["planId"])["exitCode"] == 1


# ---------------------------------------------------------------- the trial, and the user's word


def test_rounding_is_no_difference(shop: Lab) -> None:
    """Fractions that are added up in another order differ in their last digits, most of all where they cancel out."""
    sums = "s0 Float64, s1 Float32, s2 SimpleAggregateFunction(sumMap, Map(UInt32, Float64))"
    shop.sql(f"CREATE TABLE dst {summing(sums)}")
    values = "sum(v / 7) AS s0, sum(v / 7) AS s1, sumMap(map(user, user / 7)) AS s2"
    plan = shop.plan("dst", START, SHORT, 6, select=qualified(shop, f"SELECT {DAY}, {values} FROM ev GROUP BY day"))
    assert "agree in day, s0, s1, s2" in plan["addsUp"]["trial"]
    assert shop.run(plan)["status"] == "completed"
    assert verify_plan(shop.session, plan["planId"])["verdict"] == "equal"
    shop.sql("ALTER TABLE dst UPDATE s0 = s0 + 1e-3 WHERE day = '2025-01-02' SETTINGS mutations_sync = 2")
    assert verify_plan(shop.session, plan["planId"])["verdict"] == "differs"


def test_a_state_that_fits_into_no_row_is_said_by_plan(shop: Lab) -> None:
    """The server finds it only when a row is inserted, and each chunk would."""
    shop.sql(f"CREATE TABLE dst {aggregating('u AggregateFunction(uniq, UInt64)')}")
    select = qualified(shop, f"SELECT {DAY}, uniqState(user) AS u FROM ev GROUP BY day")
    with pytest.raises(RequestError, match="does not fit into"):
        shop.plan("dst", START, SHORT, 12, select=select)


def test_a_trial_leaves_nothing_behind_and_is_kept(shop: Lab) -> None:
    """The plan keeps the comparison; the private tables are dropped."""
    shop.sql(f"CREATE TABLE dst {summing()}")
    select = qualified(shop, f"SELECT {DAY}, count() AS n FROM ev GROUP BY day")
    plan = shop.plan("dst", START, END, 6, select=select)
    assert "agree in day, n" in plan["addsUp"]["trial"]
    assert (
        shop.value("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE 'backfill_%'")
        == 0
    )


def test_a_trial_shows_what_the_rules_cannot_see(shop: Lab) -> None:
    """A parametrised view cannot be looked into; that it groups by user shows in the rows."""
    shop.sql(
        "CREATE VIEW by_user AS SELECT user, count() AS n FROM ev WHERE v > {least:Int64} GROUP BY user",
        "CREATE TABLE dst (user UInt32, n UInt64) ENGINE = MergeTree ORDER BY user",
    )
    select = f"SELECT user, n FROM {shop.engine.database}.by_user(least = 0)"
    with pytest.raises(RequestError, match="do not add up: tried on") as refused:
        shop.plan("dst", START, END, 24, select=select, filter_table=shop.table("ev"), time_column="ts")
    assert refused.value.message.count("user = ") == 3
    assert (
        shop.value("SELECT count() FROM system.tables WHERE database = currentDatabase() AND name LIKE 'backfill_%'")
        == 0
    )


def test_a_plan_without_a_trial_says_so_for_ever(ward: Ward) -> None:
    """Without the proof, all later output says so."""
    database = ward.engine.database
    ward.sql("CREATE VIEW by_least AS SELECT * FROM events WHERE v > {least:Float64}")
    wanted = {"select": f"SELECT * FROM {database}.by_least(least = 1)", "filter_table": ward.table("events")}
    assert ward.planned(**wanted)["addsUp"]["proof"] == "by trial"
    plan = ward.planned(**wanted, trial=False, force=True)
    assert plan["addsUp"]["proof"] == "not shown"
    finding = ward.doctor(plan)["backfill_adding_up_not_shown"]
    assert finding["severity"] == "warn"


def test_parts_of_groups_that_are_fine_are_kept_and_counted(ward: Ward) -> None:
    """Groups as traces, whose spans lie in two chunks: readers take the minimum and the maximum anyway."""
    database = ward.engine.database
    ward.sql(
        "CREATE TABLE spans (user UInt32, first DateTime('UTC'), last DateTime('UTC')) ENGINE = MergeTree ORDER BY user"
    )
    ward.sql("CREATE TABLE seen (user UInt32, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts")
    ward.sql("INSERT INTO seen SELECT number % 5, toDateTime('2025-01-01', 'UTC') + number * 3600 FROM numbers(48)")
    select = f"SELECT user, min(ts) AS first, max(ts) AS last FROM {database}.seen GROUP BY user"
    with pytest.raises(RequestError, match="cannot merge parts") as refused:
        ward.plan("spans", "2025-01-01", "2025-01-03", 12, select=select)
    assert "--accept-partial-groups" in refused.value.hint
    plan = ward.plan("spans", "2025-01-01", "2025-01-03", 12, select=select, accept_partial_groups="readers merge")
    assert plan["addsUp"]["proof"] == "by word"
    assert "readers merge" in ward.doctor(plan)["backfill_partial_groups_accepted"]["message"]
    assert ward.run(plan)["status"] == "completed"
    assert ward.rows("SELECT user, min(first), max(last) FROM spans GROUP BY user ORDER BY user") == ward.rows(
        f"{select} ORDER BY user"
    )
