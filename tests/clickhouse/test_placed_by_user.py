"""The window placed by the user: look-backs, spines, paths by the day, table functions; equal to the whole."""

# ruff: noqa: E501 - a statement a line
from __future__ import annotations

import re
from typing import Any

import pytest

from airflow_provider_backfill.commands.session import Payload
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.plan import WriteMode
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

LAG = "dateDiff('second', lagInFrame(ts, 1, ts) OVER (PARTITION BY user ORDER BY ts), ts) AS wait"
FROM_ON, UP_TO = "ts >= {chunk_from:DateTime}", "ts < {chunk_to:DateTime}"
# No rule shows where such bounds lie; a trial over two chunks finds each mistake.
WRONG_BOUNDS = {
    "bounds that include the end": f"SELECT ts, user, 0 AS wait FROM ev WHERE {FROM_ON} AND ts <= {{chunk_to:DateTime}}",
    "bounds that exclude the start": f"SELECT ts, user, 0 AS wait FROM ev WHERE ts > {{chunk_from:DateTime}} AND {UP_TO}",
    "groups with rows in several chunks": f"SELECT toDateTime('2025-01-01', 'UTC') AS ts, user, count() AS wait FROM (SELECT user FROM ev WHERE {FROM_ON} AND {UP_TO}) GROUP BY user",
    "a look-back that is too short": f"SELECT * FROM (SELECT ts, user, {LAG} FROM ev WHERE {FROM_ON} - INTERVAL 10 MINUTE AND {UP_TO}) WHERE {FROM_ON}",
    "a look-back whose rows are in the result": f"SELECT ts, user, {LAG} FROM ev WHERE {FROM_ON} - INTERVAL 1 DAY AND {UP_TO}",
    "bounds in only one branch of UNION ALL": f"SELECT ts, user, 0 AS wait FROM ev WHERE {FROM_ON} AND {UP_TO} UNION ALL SELECT toDateTime('2025-01-02', 'UTC') AS ts, number AS user, 1 AS wait FROM numbers(3)",
}


# No row of ``rare`` lies at a chunk bound, so that chunks alone would not show it.
RARE_BOUNDS = {
    "bounds that include both ends, without a row at a chunk bound": "SELECT ts, user, 0 AS wait FROM rare WHERE ts BETWEEN {chunk_from:DateTime} AND {chunk_to:DateTime}",
    "bounds that exclude both ends, without a row at a chunk bound": "SELECT ts, user, 0 AS wait FROM rare WHERE ts > {chunk_from:DateTime} AND ts < {chunk_to:DateTime}",
    "groups whose end is included, without a row at a chunk bound": "SELECT ts, user, count() AS wait FROM rare WHERE ts >= {chunk_from:DateTime} AND ts <= {chunk_to:DateTime} GROUP BY ts, user",
}


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


@pytest.mark.parametrize("name", WRONG_BOUNDS)
def test_bounds_that_do_not_add_up(events: Lab, name: str) -> None:
    select = WRONG_BOUNDS[name].replace("FROM ev", f"FROM {events.table('ev')}")
    with pytest.raises(RequestError, match="do not add up"):
        events.plan("waits", *WINDOW, 24, select=select)
    assert events.leftovers() == []


@pytest.mark.parametrize("name", RARE_BOUNDS)
def test_bounds_at_which_no_row_lies_yet(events: Lab, name: str) -> None:
    events.sql("CREATE TABLE rare AS ev", "INSERT INTO rare SELECT ts + 77, user FROM ev")
    select = RARE_BOUNDS[name].replace("FROM rare", f"FROM {events.table('rare')}")
    with pytest.raises(RequestError, match="do not add up"):
        events.plan("waits", *WINDOW, 24, select=select)
    assert events.leftovers() == []


def test_chunks_that_are_too_long_for_a_trial_are_tried_where_they_meet(events: Lab) -> None:
    """Half a row a hundredth of a second: two days take longer than a trial may, and the hours between them do not."""
    events.options["limits"] = {**events.options["limits"], "trialSeconds": 1}
    source = f"{events.table('ev')} WHERE NOT ignore(sleepEachRow(0.01)) AND {FROM_ON}"
    plan = events.plan("waits", *WINDOW, 24, select=f"SELECT ts, user, 0 AS wait FROM {source} AND {UP_TO}")
    assert "2025-01-01T23:00:00Z to 2025-01-02T01:00:00Z" in plan["addsUp"]["trial"]
    wrong = f"SELECT ts, user, 0 AS wait FROM {source} AND ts <= {{chunk_to:DateTime}}"
    with pytest.raises(RequestError, match="do not add up"):
        events.plan("waits", *WINDOW, 24, select=wrong, force=True)


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


ROWS = "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts"
GROUPS = "(day String, user UInt32, n UInt64) ENGINE = MergeTree ORDER BY day"
PATH = "file(concat('FOLDER/', {day:String}, '.parquet'))"
OF_DAYS = "SELECT day, user, count() AS n FROM days GROUP BY day, user"
# Each reads one day of ``days`` or its file, and is right: its groups are the day's, or the target merges. With the truth.
BY_DAY = {
    "rows": (ROWS, "SELECT ts, user FROM days WHERE day = {day:String}", "SELECT ts, user FROM days"),
    "rows by an expression": (
        ROWS,
        "SELECT ts, user FROM days WHERE user < 6 AND toDate({day:String}) = toDate(ts)",
        "SELECT ts, user FROM days WHERE user < 6",
    ),
    "groups": (GROUPS, "SELECT day, user, count() AS n FROM days WHERE day = {day:String} GROUP BY day, user", OF_DAYS),
    "groups by the parameter": (
        GROUPS,
        "SELECT {day:String} AS day, user, count() AS n FROM days WHERE toDate(ts) = toDate({day:String}) GROUP BY day, user",
        OF_DAYS,
    ),
    "groups, of which a day is chosen": (GROUPS, f"SELECT * FROM ({OF_DAYS}) WHERE day = {{day:String}}", OF_DAYS),
    "groups of a file": (
        GROUPS,
        f"SELECT {{day:String}} AS day, user, count() AS n FROM {PATH} GROUP BY day, user",
        OF_DAYS,
    ),
    "rows of a file, with bounds as well": (
        ROWS,
        f"SELECT ts, user FROM {PATH} WHERE ts >= {{chunk_from:DateTime}} AND ts < {{chunk_to:DateTime}}",
        "SELECT ts, user FROM days",
    ),
    "rows of a table twice": (
        ROWS,
        "SELECT ts, user FROM days WHERE day = {day:String} UNION ALL SELECT ts + 1 AS ts, user FROM days WHERE day = {day:String}",
        "SELECT ts, user FROM days UNION ALL SELECT ts + 1 AS ts, user FROM days",
    ),
    "rows of a file twice": (
        ROWS,
        f"SELECT ts, user FROM {PATH} UNION ALL SELECT ts, user + 1 AS user FROM {PATH.replace('.parquet', '.parq*')}",
        "SELECT ts, user FROM days UNION ALL SELECT ts, user + 1 AS user FROM days",
    ),
    "sums that are merged": (
        "(user UInt32, n UInt64) ENGINE = SummingMergeTree ORDER BY user",
        "SELECT user, count() AS n FROM days WHERE day = {day:String} GROUP BY user",
        "SELECT user, count() AS n FROM days GROUP BY user",
    ),
    "rows with a dimension": (
        "(ts DateTime('UTC'), name String) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, name FROM days LEFT JOIN names USING (user) WHERE day = {day:String}",
        "SELECT ts, name FROM days LEFT JOIN names USING (user)",
    ),
}
# Each day would give a part of a group, or rows of another day, or nothing excludes this.
NOT_BY_DAY = {
    "groups with rows of several days": (
        "(user UInt32, n UInt64) ENGINE = MergeTree ORDER BY user",
        "SELECT user, count() AS n FROM days WHERE day = {day:String} GROUP BY user",
        "--accept-partial-groups",
    ),
    "groups with rows of several files": (
        "(user UInt32, n UInt64) ENGINE = MergeTree ORDER BY user",
        "SELECT user, count() AS n FROM " + PATH + " GROUP BY user",
        "--accept-partial-groups",
    ),
    "a maximum of a day into a summed column": (
        "(user UInt32, n Int64) ENGINE = SummingMergeTree ORDER BY user",
        "SELECT user, max(v) AS n FROM days WHERE day = {day:String} GROUP BY user",
        "--accept-partial-groups",
    ),
    "the day as a column, not as a condition": (
        "(day String, user UInt32) ENGINE = MergeTree ORDER BY day",
        "SELECT {day:String} AS day, user FROM days",
        "in WHERE as in",
    ),
    "a branch of UNION ALL that is the same each day": (
        ROWS,
        "SELECT ts, user FROM days WHERE day = {day:String} UNION ALL SELECT toDateTime('2025-01-01', 'UTC') AS ts, user FROM names",
        "in WHERE as in",
    ),
    "all rows from the day on": (
        ROWS,
        "SELECT ts, user FROM days WHERE day >= {day:String}",
        "--no-trial",
    ),
    "the rows of the day and of the day before": (
        ROWS,
        "SELECT ts, user FROM days WHERE toDate(ts) = toDate({day:String}) UNION ALL SELECT ts, user FROM days WHERE toDate(ts) = toDate({day:String}) - 1",
        "--no-trial",
    ),
    "the files of the day and of the day after": (
        ROWS,
        f"SELECT ts, user FROM {PATH} UNION ALL SELECT ts, user FROM {PATH.replace('{day:String}', 'toString(toDate({day:String}) + 1)')}",
        "--no-trial",
    ),
    "numbers() with an argument that follows from the day": (
        "(user UInt32) ENGINE = MergeTree ORDER BY user",
        "SELECT number AS user FROM numbers(toDayOfMonth(toDate({day:String})))",
        "--no-trial",
    ),
    "a window function partitioned by user, over one day": (
        "(ts DateTime('UTC'), w UInt32) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, lagInFrame(user) OVER (PARTITION BY user ORDER BY ts) AS w FROM days WHERE day = {day:String}",
        "--no-trial",
    ),
    "a file of the day joined with the day of a table": (
        "(ts DateTime('UTC'), v Int64) ENGINE = MergeTree ORDER BY ts",
        "SELECT a.ts AS ts, b.v AS v FROM "
        + PATH
        + " AS a INNER JOIN (SELECT user, v FROM days WHERE day = {day:String}) AS b ON a.user = b.user",
        "--no-trial",
    ),
}


@pytest.fixture
def days(http_lab: Lab) -> Lab:
    """Three days of rows whose users come again each day, in a table and as a file for each day."""
    lab, name = http_lab, http_lab.engine.database
    lab.sql(
        "CREATE TABLE days (day String, ts DateTime('UTC'), user UInt32, v Int64) ENGINE = MergeTree ORDER BY (day, ts)",
        "INSERT INTO days SELECT toString(toDate(at)), at, number % 7, number FROM"
        " (SELECT number, toDateTime('2025-01-01', 'UTC') + number * 600 AS at FROM numbers(432))",
        "CREATE TABLE names (user UInt32, name String) ENGINE = MergeTree ORDER BY user",
        "INSERT INTO names SELECT number, toString(number) FROM numbers(5)",
        *(
            f"INSERT INTO FUNCTION file('{name}/2025-01-0{day}.parquet') SELECT ts, user, v FROM days WHERE day = '2025-01-0{day}'"
            for day in (1, 2, 3)
        ),
    )
    return lab


def _by_day(lab: Lab, select: str, **wanted: Any) -> Payload:
    select = select.replace("FOLDER", lab.engine.database)
    select = re.sub(r"(FROM|JOIN) (days|names)", rf"\1 {lab.engine.database}.\2", select)
    return lab.plan("dst", *WINDOW, 24, select=select, formats=(("day", "%Y-%m-%d"),), **wanted)


@pytest.mark.parametrize("name", BY_DAY)
def test_a_day_at_a_time_is_right(days: Lab, name: str) -> None:
    """No SELECT gives the whole window of such a plan, so the rules alone must prove that the days add up."""
    target, select, truth = BY_DAY[name]
    days.sql(f"CREATE TABLE dst {target}", "CREATE TABLE truth AS dst")
    plan = _by_day(days, select)
    assert plan["addsUp"]["proof"] == "by rule"
    assert days.run(plan)["status"] == "completed"
    days.sql(f"INSERT INTO truth {truth}", "OPTIMIZE TABLE dst FINAL", "OPTIMIZE TABLE truth FINAL")
    assert days.content("dst") == days.content("truth")
    assert verify_plan(days.session, plan["planId"])["ok"]


@pytest.mark.parametrize("name", NOT_BY_DAY)
def test_a_day_at_a_time_is_not_shown(days: Lab, name: str) -> None:
    """A trial is impossible, too; the message names the flag with which the user can accept the plan."""
    target, select, way = NOT_BY_DAY[name]
    days.sql(f"CREATE TABLE dst {target}")
    with pytest.raises(RequestError) as refused:
        _by_day(days, select)
    assert way in refused.value.hint
    if way == "--no-trial":
        assert _by_day(days, select, trial=False)["addsUp"]["proof"] == "not shown"
    if way == "--accept-partial-groups":
        assert _by_day(days, select, accept_partial_groups="a row a day is fine")["addsUp"]["proof"] == "by word"


@pytest.mark.parametrize(
    "bounds",
    ["BETWEEN {chunk_from:DateTime} AND {chunk_to:DateTime}", "> {chunk_from:DateTime} AND ts < {chunk_to:DateTime}"],
)
def test_verify_reads_the_window_as_a_whole(events: Lab, bounds: str) -> None:
    """Without a trial, rows at a bound are there twice or not at all; each chunk of the source has them so, too."""
    select = f"SELECT ts, user, 0 AS wait FROM {events.table('ev')} WHERE ts {bounds}"
    plan = events.plan("waits", *WINDOW, 24, select=select, trial=False)
    assert events.run(plan)["status"] == "completed"
    assert verify_plan(events.session, plan["planId"])["exitCode"]


def test_bounds_into_what_no_trial_can_be_made_for(events: Lab) -> None:
    """A table of another engine has no private table like it, so only the user's word remains."""
    events.sql("CREATE TABLE dst (ts DateTime('UTC'), user UInt32) ENGINE = Memory")
    select = (
        f"SELECT ts, user FROM {events.table('ev')} WHERE ts >= {{chunk_from:DateTime}} AND ts < {{chunk_to:DateTime}}"
    )
    wanted: dict[str, Any] = {"select": select, "write_mode": WriteMode.INSERT, "accept_at_least_once": True}
    with pytest.raises(RequestError, match="not proven") as refused:
        events.plan("dst", *WINDOW, 24, **wanted)
    assert "--no-trial" in refused.value.hint
    assert events.plan("dst", *WINDOW, 24, trial=False, **wanted)["addsUp"]["proof"] == "not shown"


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
    """Settings such as join_use_nulls change the result of a SELECT, so the check of a chunk uses the same settings."""
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
