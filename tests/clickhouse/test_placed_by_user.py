"""The window placed by the user: look-backs, spines, paths by the day, table functions; equal to the whole."""

# ruff: noqa: E501 - a statement a line
from __future__ import annotations

import pytest

from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.request import TableFilter
from airflow_provider_backfill.errors import RequestError, StatementRefusedError
from tests.clickhouse.lab import Lab, once

WINDOW = ("2025-01-01", "2025-01-04")
LOOK_BACK = """-- seconds since the user's last event, which may lie in the day before
SELECT * FROM (
    SELECT ts, user, dateDiff('second', lagInFrame(ts, 1, ts) OVER (PARTITION BY user ORDER BY ts), ts) AS wait FROM ev
    WHERE ts >= {chunk_from:DateTime64(3)} - INTERVAL 1 DAY AND ts < {chunk_to:DateTime64(3)}
) WHERE ts >= {chunk_from:DateTime64(3)};
"""


@pytest.fixture
def events(lab: Lab) -> Lab:
    """Events of a day before the window and three days of it."""
    lab.sql(
        "CREATE TABLE ev (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY (user, ts)",
        "INSERT INTO ev SELECT toDateTime('2024-12-31', 'UTC') + number * 600, number % 7 FROM numbers(576)",
        "CREATE TABLE waits (ts DateTime('UTC'), user UInt32, wait Int64) ENGINE = MergeTree ORDER BY (user, ts)",
    )
    return lab


def test_a_look_back_gives_what_the_whole_gives(events: Lab) -> None:
    """Each chunk reads a day more than it writes, so that no user's first event of a day loses its predecessor."""
    plan = events.plan("waits", *WINDOW, 24, select=LOOK_BACK.replace("FROM ev", f"FROM {events.table('ev')}"))
    assert plan["statements"][0]["source"] == ""
    assert events.run(plan)["status"] == "completed"
    truth = "(SELECT ts, user, dateDiff('second', lagInFrame(ts, 1, ts) OVER (PARTITION BY user ORDER BY ts), ts) AS wait FROM ev)"
    assert events.content("waits") == events.content(truth, tail="WHERE ts >= toDateTime('2025-01-01', 'UTC')")
    assert verify_plan(events.session, plan["planId"])["ok"]


def test_a_date_spine(events: Lab) -> None:
    """Rows from no table at all: one a day."""
    events.sql("CREATE TABLE spine (day Date) ENGINE = MergeTree ORDER BY day")
    select = (
        "SELECT {chunk_from:Date} + number AS day FROM numbers(dateDiff('day', {chunk_from:Date}, {chunk_to:Date}))"
    )
    events.fill("spine", *WINDOW, 24, select=select)
    assert events.rows("SELECT day FROM spine ORDER BY day") == events.rows(
        "SELECT toDate('2025-01-01') + number FROM numbers(3)"
    )
    with pytest.raises(RequestError, match="is none that"):
        events.plan("spine", *WINDOW, 6, select=select)


@pytest.mark.parametrize(
    "kind",
    ["DateTime", "DateTime('Asia/Kathmandu')", "DateTime64(3, 'America/New_York')", "DateTime64(6)", "Int64", "UInt64"],
)
def test_every_type_of_bound_is_the_same_instant(events: Lab, kind: str) -> None:
    """Bounds shifted by a zone or a unit move rows to the neighbour, or out of the window."""
    events.sql("CREATE TABLE copy AS ev")
    integer = kind.endswith("Int64")
    value = "toUnixTimestamp64Milli(toDateTime64(ts, 3))" if integer else "ts"
    select = f"SELECT ts, user FROM {events.table('ev')} WHERE {value} >= {{chunk_from:{kind}}} AND {value} < {{chunk_to:{kind}}}"
    events.fill("copy", *WINDOW, 6, select=select, time_unit="ms" if integer else "")
    assert events.content("copy") == events.content("ev", tail="WHERE ts >= toDateTime('2025-01-01', 'UTC')")


def test_files_by_the_day(http_lab: Lab) -> None:
    """The path follows the chunk, and a retry after a failed statement reads the same file again."""
    lab = http_lab
    folder = f"days_{lab.engine.database}"
    for day in range(1, 4):
        lab.sql(
            f"INSERT INTO FUNCTION file('{folder}/2025-01-0{day}.parquet') SELECT toDateTime('2025-01-0{day}', 'UTC') + number * 60 AS ts,"
            " toUInt64(number) AS id FROM numbers(1440)"
        )
    lab.sql("CREATE TABLE dst (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts")
    select = f"SELECT ts, id FROM file(concat('{folder}/', {{day:String}}, '.parquet'))"
    with pytest.raises(RequestError, match="several values") as refused:
        lab.plan("dst", *WINDOW, 36, select=select, formats=(("day", "%Y-%m-%d"),))
    assert "--chunk-by day" in refused.value.hint
    plan = lab.plan("dst", *WINDOW, 24, select=select, formats=(("day", "%Y-%m-%d"),))
    error = StatementRefusedError("broken off", code=209, name="SOCKET_TIMEOUT")
    payload = lab.run(plan, step=once("staged", error))
    assert (payload["status"], payload["attempts"]) == ("completed", 4)
    assert lab.rows("SELECT count(), uniqExact(ts), min(toDate(ts)), max(toDate(ts)) FROM dst") == lab.rows(
        "SELECT 4320, 4320, toDate('2025-01-01'), toDate('2025-01-03')"
    )


def test_a_table_function_is_filtered_as_a_table(http_lab: Lab) -> None:
    """file(), url() and merge() take the time filter by their name; so a copy needs no parameters."""
    lab = http_lab
    name = f"{lab.engine.database}.parquet"
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(600)",
        f"INSERT INTO FUNCTION file('{name}') SELECT * FROM src",
        "CREATE TABLE dst AS src",
    )
    inside = "WHERE ts < toDateTime('2025-01-04', 'UTC')"
    for function in (f"file('{name}')", "merge(currentDatabase(), '^src$')"):
        plan = lab.plan("dst", *WINDOW, 24, select=f"SELECT ts, id FROM {function}", force=True)
        assert lab.run(plan)["status"] == "completed"
        assert lab.content("dst") == lab.content("src", tail=inside)
        assert verify_plan(lab.session, plan["planId"])["ok"]
        lab.sql("TRUNCATE TABLE dst")


def test_rows_of_another_server(http_lab: Lab) -> None:
    """remote() shows the filter in the plan of the other server only, which is asked for it."""
    lab = http_lab
    address = lab.value(
        "SELECT concat('127.0.0.2:', toString(port)) FROM system.clusters WHERE cluster = 'two_shards' LIMIT 1"
    )
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(600)",
        "CREATE TABLE dst AS src",
    )
    lab.fill("dst", *WINDOW, 24, select=f"SELECT ts, id FROM remote('{address}', currentDatabase(), 'src')")
    assert lab.content("dst") == lab.content("src", tail="WHERE ts < toDateTime('2025-01-04', 'UTC')")


def test_settings_of_the_user_reach_what_reads_and_fills(http_lab: Lab) -> None:
    """They change what a SELECT gives (join_use_nulls), so the check of a chunk has them as its filling does."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(432)",
        "CREATE TABLE names (id UInt64, name String) ENGINE = MergeTree ORDER BY id",
        "CREATE TABLE dst (ts DateTime('UTC'), name Nullable(String)) ENGINE = MergeTree ORDER BY ts",
    )
    select = "SELECT ts, name FROM src LEFT JOIN names USING (id)"
    lab.fill(
        "dst",
        *WINDOW,
        24,
        select=select,
        filter_tables=(TableFilter(lab.table("src")),),
        settings={"join_use_nulls": "1"},
    )
    assert lab.rows("SELECT count(), countIf(name IS NULL) FROM dst") == [(432, 432)]
    with pytest.raises(RequestError, match="no_such_setting"):
        lab.plan("dst", *WINDOW, 24, select=select, settings={"no_such_setting": "1"})
