"""The size of chunks, and a better length, on real tables."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_backfill.clickhouse import source_rows
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Ward

TWO_DAYS: dict[str, Any] = {"start": "2025-01-01", "end": "2025-01-03"}


def test_a_plan_shows_rows_and_bytes_per_chunk(ward: Ward) -> None:
    """Chunks without rows are counted apart: a median of 0 would hide the others."""
    ward.sql("ALTER TABLE events DELETE WHERE ts < '2025-01-01 18:00:00' SETTINGS mutations_sync = 2")
    estimate = ward.planned(end="2025-01-06")["estimate"]
    assert estimate["rowsPerChunk"] == {"min": 360, "median": 720, "max": 720}
    assert estimate["chunksLookedAt"] == 10
    assert estimate["chunksWithRows"] == 7
    assert estimate["exact"] is True
    size = ward.value(
        "SELECT total_bytes / total_rows FROM system.tables WHERE name = 'events' AND database = currentDatabase()"
    )
    assert estimate["bytesPerChunk"]["max"] == round(720 * size)


def test_several_views_add_up(ward: Ward) -> None:
    """Each view reads the source for itself."""
    ward.sql(*(f"CREATE MATERIALIZED VIEW view{n} TO filled AS SELECT * FROM events" for n in (1, 2)))
    assert ward.planned(source=None)["estimate"]["rowsPerChunk"]["max"] == 2 * 720


@pytest.mark.parametrize(
    ("kind", "value", "unit"),
    [
        ("Date", "toDate(ts)", ""),
        ("DateTime('Asia/Kolkata')", "ts", ""),
        ("DateTime64(6)", "ts", ""),
        ("UInt32", "toUnixTimestamp(ts)", "s"),
        ("Int64", "toUnixTimestamp(ts) * 1000000", "us"),
    ],
)
def test_every_kind_of_time_column_is_counted(ward: Ward, kind: str, value: str, unit: str) -> None:
    columns = f"(at {kind}, k UInt32) ENGINE = MergeTree ORDER BY at"
    ward.sql(f"CREATE TABLE typed {columns}", f"CREATE TABLE copy {columns}")
    ward.sql(f"INSERT INTO typed SELECT {value} AS at, k FROM events")
    plan = ward.plan("copy", hours=24, source="typed", time_column="at", time_unit=unit, **TWO_DAYS)
    assert plan["estimate"]["rowsPerChunk"] == {"min": 1440, "median": 1440, "max": 1440}


def test_chunks_cut_by_key_are_as_exact_as_the_index(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """Parts are counted, and the chunks beside them are estimated where the source is large."""
    limited = {"chunking": Chunking(hours=12, rows=2_000), **TWO_DAYS}
    ward.sql(
        "INSERT INTO events SELECT toDateTime('2025-01-01 01:00:00', 'UTC') + number % 600, 1, number"
        " FROM numbers(20000)"
    )
    assert ward.planned(**limited)["estimate"]["exact"] is True
    monkeypatch.setattr(source_rows, "_COUNT_UP_TO_ROWS", 0)
    assert ward.planned(**limited, force=True)["estimate"]["exact"] is False


def test_what_is_slow_to_count_is_taken_from_the_index(ward: Ward) -> None:
    """Whole granules give more than the rows, so the answer marks the number as an estimate."""
    ward.sql("CREATE VIEW slow AS SELECT ts, k, v FROM events WHERE v + sleepEachRow(0.02) >= 0")
    estimate = ward.planned(source="slow")["estimate"]
    assert estimate["exact"] is False
    assert estimate["rowsPerChunk"]["max"] >= 720


def test_a_source_that_is_a_view_is_counted_too(ward: Ward) -> None:
    ward.sql("CREATE VIEW face AS SELECT * FROM events")
    estimate = ward.planned(source="face")["estimate"]
    assert estimate["rowsPerChunk"]["max"] == 720
    assert estimate["bytesPerChunk"] is None


def test_auto_takes_the_largest_chunk_that_is_no_burden(lab: Lab) -> None:
    """40 million rows in two days: chunks of 12 h hold 10 million each."""
    lab.sql(
        "CREATE TABLE events (ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE filled AS events",
        "INSERT INTO events SELECT toDateTime('2025-01-01', 'UTC') + intDiv(number * 54, 12500) FROM numbers(40000000)",
    )
    plan = lab.plan("filled", source="events", auto_chunks=True, **TWO_DAYS)
    assert (plan["chunkHours"], plan["chunkCount"]) == (12, 4)
    assert plan["estimate"]["rowsPerChunk"]["max"] == 10_000_000


def test_auto_keeps_to_buckets_and_days(ward: Ward) -> None:
    """What suits the rows must fit the tables as well: whole days of a daily count, and the partitions to replace."""
    daily = "SELECT toStartOfDay(ts) AS ts, k, uniqExact(v) AS v FROM {}.events GROUP BY ts, k"
    plan = ward.planned(select=daily.format(ward.engine.database), auto_chunks=True)
    assert plan["chunkHours"] == 48
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    plan = ward.planned(end="2025-01-04", auto_chunks=True, write_mode=WriteMode.REPLACE)
    assert (plan["chunkLength"], plan["chunkCount"]) == ("partition", 3)


def test_auto_from_the_command_line_is_fixed_in_the_plan(ward: Ward) -> None:
    """The plan's identity has the number, so the same plan is found again."""
    words = ["--target", f"{ward.engine.database}.filled", "--source", f"{ward.engine.database}.events"]
    words += ["--from", "2025-01-01", "--to", "2025-01-03"]
    auto = ward.cli.json("plan", *words, "--chunk-hours", "auto")
    again = ward.cli.json("plan", *words, "--chunk-hours", str(auto["chunkHours"]))
    assert again["planId"] == auto["planId"]
    assert again["existed"]


def test_auto_says_when_it_cannot_tell(ward: Ward) -> None:
    """A source that cannot be counted within seconds: a guess would be fixed in the plan."""
    ward.sql(
        "CREATE TABLE memory ENGINE = Memory AS SELECT * FROM events",
        "CREATE VIEW slow AS SELECT * FROM memory WHERE v + sleepEachRow(0.02) >= 0 SETTINGS max_block_size = 99",
    )
    with pytest.raises(RequestError, match="cannot be counted within seconds"):
        ward.planned(source="slow", auto_chunks=True)
    assert ward.planned(source="slow")["estimate"] is None


def test_time_left_follows_from_what_was_measured(ward: Ward) -> None:
    plan = ward.planned()
    assert ward.cli.json("doctor", "--plan-id", plan["planId"])["pace"] is None
    ward.run(plan)
    payload = ward.cli.json("doctor", "--plan-id", plan["planId"])
    assert payload["pace"]["rowsPerSecond"] == pytest.approx(720 / payload["pace"]["secondsPerChunk"], rel=0.02)
