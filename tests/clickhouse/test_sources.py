"""Where rows come from, and how their time is stored: views, tables, every kind of time column, awkward names."""

# ruff: noqa: E501 - a statement a line
from __future__ import annotations

import pytest

from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab

KINDS = {
    "Date": ("Date", "toDate('2025-01-01') + intDiv(number, 100)", "", 24),
    "Date32": ("Date32", "toDate32('2025-01-01') + intDiv(number, 100)", "", 24),
    "DateTime": ("DateTime", "toDateTime('2025-01-01', 'UTC') + number * 864", "", 6),
    "DateTime UTC": ("DateTime('UTC')", "toDateTime('2025-01-01', 'UTC') + number * 864", "", 6),
    "DateTime Berlin": ("DateTime('Europe/Berlin')", "toDateTime('2025-01-01', 'UTC') + number * 864", "", 6),
    "DateTime Kathmandu": ("DateTime('Asia/Kathmandu')", "toDateTime('2025-01-01', 'UTC') + number * 864", "", 6),
    "DateTime64(3)": ("DateTime64(3)", "toDateTime64('2025-01-01', 3, 'UTC') + number * 864.321", "", 6),
    "DateTime64(9) New York": (
        "DateTime64(9, 'America/New_York')",
        "toDateTime64('2025-01-01', 9, 'UTC') + number * 864.321",
        "",
        6,
    ),
    "Nullable": ("Nullable(DateTime)", "toDateTime('2025-01-01', 'UTC') + number * 864", "", 6),
    "seconds": ("UInt32", "toUnixTimestamp(toDateTime('2025-01-01', 'UTC')) + number * 864", "s", 6),
    "milliseconds": ("UInt64", "(toUnixTimestamp(toDateTime('2025-01-01', 'UTC')) + number * 864) * 1000 + 7", "ms", 6),
    "microseconds": (
        "Int64",
        "(toUnixTimestamp(toDateTime('2025-01-01', 'UTC')) + number * 864) * 1000000 + 7",
        "us",
        6,
    ),
    "nanoseconds": (
        "UInt64",
        "(toUnixTimestamp(toDateTime('2025-01-01', 'UTC')) + number * 864) * 1000000000 + 7",
        "ns",
        6,
    ),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("window", "least"),
    [
        (("2025-01-02", "2025-01-05"), 6),
        pytest.param(("2025-01-01", "2025-01-11"), 24, marks=pytest.mark.long),
    ],
    ids=["part", "all"],
)
def test_every_kind_of_time_column(lab: Lab, kind: str, window: tuple[str, str], least: int) -> None:
    """Bounds are exact UTC instants for any zone or unit of the column: a wrong bound shifts rows between chunks."""
    column_type, value, unit, hours = KINDS[kind]
    lab.sql(
        f"CREATE TABLE src (id UInt64, at {column_type}) ENGINE = MergeTree ORDER BY id",
        f"INSERT INTO src SELECT number, {value} FROM numbers(1000)",
        "CREATE TABLE dst AS src",
    )
    lab.fill("dst", *window, max(hours, least), source="src", time_unit=unit, time_column="at")
    low, high = (int(parse_instant(text).timestamp()) for text in window)
    per = {"": None, "s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}[unit]
    instant = f"at / {per}" if per else "toFloat64(toUnixTimestamp64Micro(toDateTime64(at, 6, 'UTC'))) / 1e6"
    inside = f"WHERE {instant} >= {low} AND {instant} < {high}"
    assert lab.content("dst") == lab.content("src", tail=inside)
    assert lab.value("SELECT count() FROM dst") in (300, 1000)


@pytest.mark.parametrize(
    ("kind", "value", "unit", "words", "remedy"),
    [
        (
            "UInt32",
            "toYYYYMMDD(toDate('2025-01-01') + number % 5)",
            "s",
            "20250101 to 20250105, read as s since 1970",
            "pass --time-column 'YYYYMMDDToDate(at)' and omit --time-unit s",
        ),
        ("UInt64", "1735689600 + number", "ms", "1735689600 to ", "--time-unit s --force"),
        ("UInt32", "number", "s", "0 to 99, read as s", "check --from, --to and --time-unit s"),
        ("Date", "toDate('2024-01-01')", "", "2024-01-01.", "check --from, --to and --time-column"),
    ],
    ids=["numbers of days", "another unit", "no time", "another year"],
)
def test_plan_warns_of_a_source_without_rows_in_the_window(
    lab: Lab, kind: str, value: str, unit: str, words: str, remedy: str
) -> None:
    """Times that are read wrongly look like an empty window, and such a plan would complete with 0 rows."""
    table = f"(id UInt64, at {kind}) ENGINE = MergeTree ORDER BY id"
    lab.sql(f"CREATE TABLE src {table}", f"CREATE TABLE dst {table}")
    lab.sql(f"INSERT INTO src SELECT number, {value} FROM numbers(100)")
    window = ("2025-01-01", "2025-01-06", 24)
    plan = lab.plan("dst", *window, source="src", time_column="at", time_unit=unit)
    (warning,) = [one for one in plan["warnings"] if "has no row in the window, but rows outside it" in one["message"]]
    assert words in warning["message"]
    assert warning["hint"].endswith(remedy)
    if "days" in warning["hint"]:
        good = lab.plan("dst", *window, source="src", time_column="YYYYMMDDToDate(at)")
        assert not [one for one in good["warnings"] if "no row" in one["message"]]
        assert lab.run(good)["rowsWritten"] == 100


# What people keep the time in: how it is read, and whether an index of a table sorted and partitioned by it is used.
EXPRESSIONS = {
    "tuple": ("Tuple(UInt32, String)", "(toUInt32({at}), 'x')", "toDateTime(tupleElement(kept, 1))", True),
    "text": ("String", "toString({at})", "parseDateTimeBestEffort(kept, 'UTC')", False),
    "map": ("Map(String, String)", "map('at', toString({at}))", "kept['at']::DateTime('UTC')", False),
    "UUIDv7": ("UUID", "dateTimeToUUIDv7({at})", "UUIDv7ToDateTime(kept)", None),
    "JSON": ("JSON", "concat('{{\"at\": ', toString(toUInt32({at})), '}}')", "toDateTime(kept.at::UInt32)", False),
    "fraction": ("Float64", "toUnixTimestamp({at}) + 0.5", "fromUnixTimestamp64Milli(toInt64(kept * 1000))", False),
    "offset": ("UInt32", "toUInt32(toUnixTimestamp({at}) - 1000000000)", "toDateTime(kept + 1000000000)", True),
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_a_time_that_is_an_expression(http_lab: Lab, name: str) -> None:
    """Rows whose time is an expression over columns are filled exactly once."""
    lab = http_lab
    kept, value, expression, pruned = EXPRESSIONS[name]
    key = f"PARTITION BY toYYYYMM({expression}) ORDER BY {expression}" if pruned else "ORDER BY id"
    at = "(toDateTime('2025-01-01', 'UTC') + number * 864)"
    lab.sql(
        f"CREATE TABLE src (id UInt64, kept {kept}) ENGINE = MergeTree {key}",
        f"INSERT INTO src SELECT number, {value.format(at=at)} FROM numbers(1000)",
        "CREATE TABLE dst AS src",
        "CREATE TABLE hours (hour DateTime('UTC'), n SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree ORDER BY hour",
    )
    plan = lab.plan("dst", "2025-01-02", "2025-01-05", 6, source="src", time_column=expression)
    assert plan["timeColumn"] == f"({expression})"
    if pruned is not None:
        assert any("No index" in warning["message"] for warning in plan["warnings"]) is not pruned
    assert lab.run(plan)["status"] == "completed"
    inside = f"WHERE {expression} >= toDateTime('2025-01-02', 'UTC') AND {expression} < toDateTime('2025-01-05', 'UTC')"
    shown = "id, toString(kept)"
    assert lab.content("dst", shown) == lab.content("src", shown, inside)
    assert lab.value("SELECT count() FROM dst") == 300
    assert verify_plan(lab.session, plan["planId"])["ok"]
    select = f"SELECT toStartOfHour(toDateTime({expression}), 'UTC') AS hour, count() AS n FROM {lab.table('src')} GROUP BY hour"
    lab.fill("hours", "2025-01-02", "2025-01-05", 6, select=select, time_column=expression)
    assert lab.rows("SELECT hour, sum(n) FROM hours GROUP BY hour ORDER BY hour") == lab.rows(
        select.replace("GROUP", f"{inside} GROUP") + " ORDER BY hour"
    )


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("max(ts)", "no expression that ClickHouse filters it by"),
        ("now() - id", "another time whenever"),
        ("nothing(ts)", "no expression that ClickHouse filters it by"),
        ("id + 1", "holds no instant"),
        ("tss", "has no column 'tss'"),
    ],
)
def test_an_expression_that_is_no_time_is_refused(lab: Lab, expression: str, says: str) -> None:
    lab.sql("CREATE TABLE src (ts DateTime, id UInt64) ENGINE = MergeTree ORDER BY ts", "CREATE TABLE dst AS src")
    with pytest.raises(RequestError, match=says):
        lab.plan("dst", "2025-01-01", "2025-01-02", source="src", time_column=expression)


def test_days_of_23_and_25_hours(lab: Lab) -> None:
    """A local day that a clock change makes shorter or longer holds its rows, once."""
    for day, start, end, rows in (
        ("spring", "2025-03-30T00:00:00+01:00", "2025-03-31T00:00:00+02:00", 23 * 60),
        ("autumn", "2025-10-26T00:00:00+02:00", "2025-10-27T00:00:00+01:00", 25 * 60),
    ):
        lab.sql(
            f"CREATE TABLE src_{day} (id UInt64, at DateTime('Europe/Berlin')) ENGINE = MergeTree ORDER BY at",
            f"INSERT INTO src_{day} SELECT number, toDateTime('{start[:10]}', 'UTC') - 86400 + number * 60 FROM numbers(4320)",
            f"CREATE TABLE dst_{day} AS src_{day}",
        )
        payload = lab.fill(f"dst_{day}", start, end, 6, source=f"src_{day}")
        assert payload["rowsWritten"] == rows
        date = f"toDate('{start[:10]}')"
        assert lab.content(f"dst_{day}") == lab.content(
            f"src_{day}", tail=f"WHERE toDate(at, 'Europe/Berlin') = {date}"
        )


def test_a_window_with_milliseconds(lab: Lab) -> None:
    """Bounds finer than the column cut at the same rows on both sides of each chunk."""
    lab.sql(
        "CREATE TABLE src (id UInt64, at DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY at",
        "INSERT INTO src SELECT number, toDateTime64('2025-01-01', 3, 'UTC') + number / 1000 FROM numbers(10000)",
        "CREATE TABLE dst AS src",
    )
    payload = lab.fill("dst", "2025-01-01T00:00:01.5Z", "2025-01-01T00:00:02.001Z", 0.25, source="src")
    inside = "WHERE toUnixTimestamp64Milli(at) % 86400000 >= 1500 AND toUnixTimestamp64Milli(at) % 86400000 < 2001"
    assert lab.content("dst") == lab.content("src", tail=inside)
    assert payload["rowsWritten"] > 490


@pytest.fixture
def views(lab: Lab) -> Lab:
    """Two tables of events with a view each, both writing to one target that came later."""
    for name, step in (("web", 60), ("app", 90)):
        lab.sql(
            f"CREATE TABLE {name} (id UInt64, ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
            f"INSERT INTO {name} SELECT number, toDateTime('2025-01-01', 'UTC') + number * {step}, number % 97 FROM numbers(5000)",
        )
    lab.sql(
        """CREATE TABLE hourly (hour DateTime('UTC'), kind String, n SimpleAggregateFunction(sum, UInt64),
        users AggregateFunction(uniq, UInt32)) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(hour) ORDER BY (kind, hour)"""
    )
    for name in ("web", "app"):
        lab.sql(
            f"CREATE MATERIALIZED VIEW {name}_hourly TO hourly AS SELECT toStartOfHour(ts) AS hour, '{name}' AS kind,"
            f" count() AS n, uniqState(user) AS users FROM {name} GROUP BY hour"
        )
    return lab


def test_all_views_that_feed_the_target_are_replayed(views: Lab) -> None:
    """Leaving one of several views out would fill the target with half of its rows."""
    plan = views.plan("hourly", "2025-01-01", "2025-01-07", 6)
    assert [entry["source"].rpartition(".")[2] for entry in plan["statements"]] == ["app", "web"]
    views.run(plan)
    ours = "SELECT kind, hour, sum(n), uniqMerge(users) FROM hourly GROUP BY kind, hour ORDER BY kind, hour"
    truth = " UNION ALL ".join(
        f"SELECT '{name}' AS kind, toStartOfHour(ts) AS hour, count(), uniq(user) FROM {name} GROUP BY hour"
        for name in ("app", "web")
    )
    assert views.rows(ours) == views.rows(f"SELECT * FROM ({truth}) ORDER BY kind, hour")


def test_chunks_smaller_than_the_bucket_are_right_for_states(views: Lab) -> None:
    """-State columns merge, so a quarter of an hour of an hourly view is no mistake."""
    views.fill("hourly", "2025-01-01T00:00Z", "2025-01-01T06:00Z", 0.25)
    truth = "SELECT uniq(user), count() FROM web WHERE ts < '2025-01-01 06:00:00'"
    assert views.rows("SELECT uniqMerge(users), sum(n) FROM hourly WHERE kind = 'web'") == views.rows(truth)


def test_a_view_with_an_inner_table(lab: Lab) -> None:
    """A view without TO keeps its rows in a hidden table; it is the one to fill."""
    lab.sql(
        "CREATE TABLE web (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO web SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(5000)",
        "CREATE MATERIALIZED VIEW daily ENGINE = SummingMergeTree ORDER BY day AS"
        " SELECT toDate(ts) AS day, count() AS n FROM web GROUP BY day",
    )
    lab.fill("daily", "2025-01-01", "2025-01-05", 6, time_column="ts")
    assert lab.rows("SELECT day, sum(n) FROM daily GROUP BY day ORDER BY day") == lab.rows(
        "SELECT toDate(ts) AS day, count() FROM web GROUP BY day ORDER BY day"
    )


def test_a_view_of_what_another_view_writes(lab: Lab) -> None:
    """In a chain of views, each level is a source like any other."""
    lab.sql(
        "CREATE TABLE web (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE mid (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE last (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE MATERIALIZED VIEW first TO mid AS SELECT id, ts FROM web",
        "INSERT INTO web SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(5000)",
        "CREATE MATERIALIZED VIEW second TO last AS SELECT id + 1 AS id, ts FROM mid",
    )
    lab.fill("last", "2025-01-01", "2025-01-05")
    assert lab.content("last") == lab.content("mid", "id + 1, ts")


def test_a_refreshable_view_is_refused(http_lab: Lab) -> None:
    """It would replace the target's rows by its next refresh."""
    http_lab.sql(
        "CREATE TABLE web (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE dst (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE MATERIALIZED VIEW r REFRESH EVERY 1 YEAR TO dst AS SELECT id, ts FROM web",
    )
    with pytest.raises(RequestError, match="refreshable view"):
        http_lab.plan("dst", "2025-01-01", "2025-01-05")


def test_a_view_with_now_is_filled_and_says_how_it_is_verified(lab: Lab) -> None:
    """now() has another value in each evaluation, so reading the source again proves nothing."""
    lab.sql(
        "CREATE TABLE web (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO web SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(5000)",
        "CREATE TABLE dst (id UInt64, ts DateTime('UTC'), loaded DateTime64(6)) ENGINE = MergeTree ORDER BY ts",
        "CREATE MATERIALIZED VIEW v TO dst AS SELECT id, ts, now64(6) AS loaded FROM web",
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-05")
    assert [entry["verifiedAgainstSource"] for entry in plan["statements"]] == [False]
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("dst", "id, ts") == lab.content("web")


def test_names_that_need_quotes(lab: Lab) -> None:
    """Spaces, dots, backticks, quotes and umlauts in names reach every statement safely."""
    odd = "`we``ird.näme 'x'`"
    lab.sql(
        f"CREATE TABLE {odd} (`the id` UInt64, `t``s` DateTime('UTC')) ENGINE = MergeTree ORDER BY `t``s`",
        f"INSERT INTO {odd} SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(5000)",
        f"CREATE TABLE `dst-{odd[1:]} AS {odd}",
    )
    name = "we`ird.näme 'x'"
    request = PlanRequest(
        target=TableName(lab.engine.database, f"dst-{name}"),
        source=TableName(lab.engine.database, name),
        start=parse_instant("2025-01-01"),
        end=parse_instant("2025-01-05"),
        chunking=Chunking(hours=12),
    )
    plan = create_plan(lab.session, request)
    assert lab.run(plan)["status"] == "completed"
    assert lab.content(f"`dst-{odd[1:]}") == lab.content(odd)


def test_a_self_join_of_chunks_is_refused_and_of_one_chunk_is_right(lab: Lab) -> None:
    """The filter applies to every scan of the source, so rows of two chunks would not meet."""
    lab.sql(
        "CREATE TABLE src (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(5000)",
        "CREATE TABLE dst (id UInt64) ENGINE = MergeTree ORDER BY id",
    )
    table = lab.table("src")
    select = f"SELECT a.id FROM {table} a JOIN {table} b ON a.id = b.id"
    with pytest.raises(RequestError, match="rows that lie in different chunks would not find each other"):
        lab.plan("dst", "2025-01-01", "2025-01-05", select=select)
    plan = lab.plan("dst", "2025-01-01", "2025-01-05", 96, select=select)
    assert plan["statements"][0]["reads"] == 2
    assert lab.run(plan)["rowsWritten"] == 5000
