"""Chunks by calendar units, partitions and the rows of the source: on a server, to the end of the run."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_backfill.core.chunking import Chunking, parse_length
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.errors import RequestError
from airflow_provider_backfill.option_sources import parse_options
from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Ward

COLUMNS = "(ts DateTime('{zone}'), tenant LowCardinality(String), v UInt64)"
YEAR = {
    "UTC": {"start": "2024-01-01", "end": "2025-01-01"},
    "Europe/Berlin": {"start": "2023-12-31T23:00Z", "end": "2024-12-31T23:00Z"},
}


def year_of(lab: Lab, zone: str, key: str) -> None:
    """Two rows an hour over a year, and a target by month that holds other rows of that year."""
    columns = COLUMNS.format(zone=zone)
    start = "toDateTime('2023-12-31 23:00:00', 'UTC')" if zone != "UTC" else "toDateTime('2024-01-01', 'UTC')"
    lab.sql(
        f"CREATE TABLE src {columns} ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO src SELECT {start} + number * 1800, ['a', 'b'][number % 2 + 1], number FROM numbers(366 * 48)",
        f"CREATE TABLE dst {columns} ENGINE = MergeTree PARTITION BY {key} ORDER BY (tenant, ts)",
        f"INSERT INTO dst SELECT {start} + number * 7200, 'a', 1 FROM numbers(366 * 12)",
    )


@pytest.mark.parametrize(
    ("zone", "key", "length"),
    [
        ("UTC", "toYYYYMM(ts)", "month"),
        ("UTC", "(tenant, toYYYYMM(ts))", "month"),
        ("UTC", "(tenant, toYYYYMM(ts))", "partition"),
        ("Europe/Berlin", "toYYYYMM(ts)", "month@Europe/Berlin"),
        ("Europe/Berlin", "(toYYYYMM(ts), tenant)", "partition"),
    ],
)
def test_twelve_months_are_rebuilt_as_twelve_chunks(lab: Lab, zone: str, key: str, length: str) -> None:
    """The most common partitioning: each month is one chunk, with any number of hours and in any zone."""
    year_of(lab, zone, key)
    plan = lab.plan(
        "dst", hours=length, source="src", write_mode=WriteMode.REPLACE, force_large_window=True, **YEAR[zone]
    )
    assert plan["chunkCount"] == 12
    assert plan["chunkLength"] == length
    assert plan["chunkHours"] is None
    done = lab.run(plan)
    assert done["status"] == "completed"
    assert done["chunkCounts"]["done"] == 12
    assert lab.content("dst") == lab.content("src")


def test_a_month_by_hours_names_the_partitions(ward: Ward) -> None:
    """The hint that once proposed one chunk for the year is pasted, and plans three months as three chunks."""
    words = ["--target", f"{ward.engine.database}.filled", "--source", f"{ward.engine.database}.events"]
    words += ["--from", "2025-01-01", "--to", "2025-04-01", "--write-mode", "replace", "--force-large-window"]
    refused = ward.cli("plan", *words)
    assert refused.code == 2
    assert "lies inside a partition" in refused.err
    assert "--chunk-by partition" in refused.err
    assert "--chunk-hours" not in refused.err
    assert ward.cli.json("plan", *words, "--chunk-by", "partition")["chunkCount"] == 3
    assert ward.cli.json("plan", *words, "--chunk-by", "month")["chunkCount"] == 3
    assert ward.cli.json("plan", *words, "--chunk-hours", "1mo")["existed"]
    assert ward.cli.json("plan", *words, "--chunk-hours", "auto")["chunkLength"] == "partition"


def test_a_bucket_by_month_names_the_calendar(ward: Ward) -> None:
    select = "SELECT toStartOfMonth(ts) AS ts, k, uniqExact(v) AS v FROM {}.events GROUP BY ts, k"
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="ORDER BY (k, ts)")
    with pytest.raises(RequestError, match="cuts a bucket") as refused:
        ward.planned(select=select.format(ward.engine.database), end="2025-04-01", hours="1d", force_large_window=True)
    assert refused.value.hint == "pass --chunk-by month"


def test_a_window_within_a_month_is_moved_to_its_edges(ward: Ward) -> None:
    with pytest.raises(RequestError) as refused:
        ward.planned(start="2025-01-10", end="2025-02-10", write_mode=WriteMode.REPLACE, force_large_window=True)
    assert refused.value.hint.startswith("pass --from 2025-01-01 --to 2025-03-01 --chunk-by partition")


def test_days_of_a_zone_without_and_with_summer_time(lab: Lab) -> None:
    """Days of 23 and 25 hours are whole buckets of a daily count, and whole partitions."""
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), v UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-03-28 23:00:00', 'UTC') + number * 600, number FROM numbers(432)",
        "CREATE TABLE dst (ts DateTime('Europe/Berlin'), n UInt64) ENGINE = MergeTree"
        " PARTITION BY toDate(ts) ORDER BY ts",
    )
    select = f"SELECT toStartOfDay(ts, 'Europe/Berlin') AS ts, uniqExact(v) AS n FROM {lab.table('src')} GROUP BY ts"
    window: dict[str, Any] = {"start": "2025-03-28T23:00Z", "end": "2025-03-31T22:00Z", "select": select}
    window["write_mode"] = WriteMode.REPLACE
    for length in (24, "day@Europe/Berlin"):
        # Bounds of 24 hours move to where the days of the zone begin.
        plan = lab.plan("dst", hours=length, **window)
        assert plan["chunkCount"] == 3
        assert lab.run(plan)["status"] == "completed"
        assert lab.rows("SELECT n FROM dst ORDER BY ts") == [(144,), (138,), (144,)]


def test_the_window_may_cut_a_calendar_chunk_where_nothing_is_whole(ward: Ward) -> None:
    plan = ward.planned(start="2025-01-02T12:00Z", end="2025-01-04T06:00Z", hours="day")
    assert plan["chunkCount"] == 3
    assert ward.run(plan)["status"] == "completed"
    assert ward.value("SELECT count() FROM filled") == 42 * 60


def test_calendar_chunks_go_through_every_command(ward: Ward) -> None:
    """Status, list, doctor, verify and coverage say how a plan without a number of hours is cut."""
    words = ["--target", f"{ward.engine.database}.filled", "--source", f"{ward.engine.database}.events"]
    plan = ward.cli.json("plan", *words, "--from", "2025-01-01", "--to", "2025-01-05", "--chunk-by", "week")
    assert (plan["chunkLength"], plan["chunkCount"]) == ("week", 1)
    text = ward.cli("plan", *words, "--from", "2025-01-01", "--to", "2025-01-05", "--chunk-by", "week").out
    assert "1 by week, by the column ts" in text
    ward.doctor(plan)
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 0
    assert ward.cli("verify", "--plan-id", plan["planId"]).code == 0
    assert ward.cli.json("list")["plans"][0]["chunkLength"] == "week"
    assert ward.cli.json("status", "--plan-id", plan["planId"])["status"] == "completed"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--chunk-hours", "6", "--chunk-by", "day"], "exclude each other"),
        (["--chunk-by", "fortnight"], "is not a chunk length"),
        (["--chunk-by", "day", "--chunk-zone", "Mars/Olympus"], "is not a time zone"),
        (["--chunk-hours", "6", "--chunk-zone", "Europe/Berlin"], "does not go with the time zone"),
        (["--chunk-zone", "Europe/Berlin"], "does not go with the time zone"),
        (["--chunk-by", "partition", "--chunk-zone", "Europe/Berlin"], "partitions are those of the target"),
        (["--max-chunk-rows", "0"], "maxChunkRows is 0"),
        (["--max-chunk-bytes", "many"], "maxChunkBytes is 'many'"),
        (["--chunk-hours", "auto", "--max-chunk-rows", "5"], "exclude each other"),
    ],
)
def test_a_length_that_cannot_be_is_refused_without_a_server(ward: Ward, flags: list[str], message: str) -> None:
    words = ["--target", "a.b", "--from", "2025-01-01", "--to", "2025-01-05", *flags]
    answer = ward.cli("plan", *words, "--clickhouse-url", "http://127.0.0.1:1")
    assert answer.code == 2
    assert message in answer.err


def test_no_partition_key_with_time_is_said(ward: Ward) -> None:
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY k ORDER BY ts")
    with pytest.raises(RequestError, match="does not follow from the time"):
        ward.planned(hours="partition")


# ---------------------------------------------------------------- rows and bytes


def loads(lab: Lab, plan: dict[str, Any]) -> list[int]:
    """Rows of the source in each chunk of a plan, in time order."""
    stored = lab.session.store.load_plan(plan["planId"])
    return [
        lab.value(
            f"SELECT count() FROM events WHERE ts >= toDateTime64('{chunk.start:%Y-%m-%d %H:%M:%S}', 3, 'UTC')"
            f" AND ts < toDateTime64('{chunk.end:%Y-%m-%d %H:%M:%S}', 3, 'UTC')"
        )
        for chunk in stored.chunks()
    ]


def test_heavy_hours_are_cut_and_light_ones_joined(ward: Ward) -> None:
    """A launch of an hour in a quiet week: no chunk is heavier than the limit, and there are few of them."""
    ward.sql(
        "INSERT INTO events SELECT toDateTime('2025-01-02 10:00:00', 'UTC') + number % 3600, 1, number"
        " FROM numbers(40000)"
    )
    plan = ward.planned(end="2025-01-05", hours="6", chunking=Chunking(hours=6, rows=10_000))
    assert plan["chunkLength"] == "6|rows=10000"
    rows = loads(ward, plan)
    assert sum(rows) == 4 * 1440 + 40_000
    assert max(rows) <= 12_000
    assert len(rows) <= 9
    assert ward.run(plan)["status"] == "completed"
    assert ward.content("filled") == ward.content("events")


def test_bytes_limit_as_rows_do(ward: Ward) -> None:
    """A row of the source has 16 bytes uncompressed, and its share of the marks."""
    plan = ward.planned(hours="1d", chunking=Chunking(hours=24, size=17 * 720))
    assert plan["chunkLength"] == "24|bytes=12240"
    assert loads(ward, plan) == [720] * 4


def test_limits_keep_buckets_and_days_whole(ward: Ward) -> None:
    """Bounds lie only where the plan allows them, even between heavy rows."""
    select = "SELECT toStartOfInterval(ts, INTERVAL 4 HOUR) AS ts, k, uniqExact(v) AS v FROM {}.events GROUP BY ts, k"
    plan = ward.planned(select=select.format(ward.engine.database), hours="1d", chunking=Chunking(hours=24, rows=500))
    assert sum(loads(ward, plan)) == 2880
    assert max(loads(ward, plan)) <= 500
    stored = ward.session.store.load_plan(plan["planId"])
    assert {chunk.start.hour % 4 for chunk in stored.chunks()} == {0}


def test_partitions_are_joined_and_never_cut(ward: Ward) -> None:
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    chunking = Chunking(unit=parse_length("partition").unit, rows=3000)
    plan = ward.planned(end="2025-01-05", write_mode=WriteMode.REPLACE, chunking=chunking)
    assert plan["chunkLength"] == "partition|rows=3000"
    assert loads(ward, plan) == [2880, 2880]
    assert ward.run(plan)["status"] == "completed"
    assert ward.content("filled") == ward.content("events")


def test_dates_are_cut_by_days(lab: Lab) -> None:
    lab.sql(
        "CREATE TABLE events (ts Date, v UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO events SELECT toDate('2025-01-01') + number % 10, number FROM numbers(1000)",
        "CREATE TABLE filled AS events",
    )
    plan = lab.plan("filled", "2025-01-01", "2025-01-11", source="events", chunking=Chunking(hours=240, rows=250))
    assert plan["chunkCount"] == 5
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("filled") == lab.content("events")


def test_the_same_plan_is_found_although_rows_came(ward: Ward) -> None:
    """Bounds that came from data are those of the first planning."""
    chunking = Chunking(hours=6, rows=500)
    first = ward.planned(chunking=chunking)
    before = loads(ward, first)
    ward.sql("INSERT INTO events SELECT toDateTime('2025-01-02', 'UTC'), 1, number FROM numbers(5000)")
    again = ward.planned(chunking=chunking)
    assert again["existed"]
    assert again["planId"] == first["planId"]
    assert len(loads(ward, again)) == len(before)


def test_a_view_has_rows_and_no_bytes(ward: Ward) -> None:
    ward.sql("CREATE VIEW face AS SELECT * FROM events")
    plan = ward.planned(source="face", chunking=Chunking(hours=6, rows=1000))
    assert max(loads(ward, plan)) <= 1000
    with pytest.raises(RequestError, match="What a row of"):
        ward.planned(source="face", chunking=Chunking(hours=6, size=1000))


def test_limits_of_the_options_apply(ward: Ward) -> None:
    options = parse_options({"defaults": {"chunkHours": "1d", "maxChunkRows": 100}})
    assert options.defaults.chunking().text == "24|rows=100"
    assert options.defaults.chunking("month", "Europe/Berlin").text == "month@Europe/Berlin|rows=100"
