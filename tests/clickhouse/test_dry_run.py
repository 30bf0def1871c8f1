"""``plan --dry-run``: show the effects of a plan without storing it."""

from __future__ import annotations

from airflow_provider_backfill.core.chunking import Chunking
from tests.clickhouse.ward import Ward


def words(ward: Ward, *more: str) -> list[str]:
    flags = ["--target", f"{ward.engine.database}.filled", "--source", f"{ward.engine.database}.events"]
    return [*flags, "--from", "2025-01-01", "--to", "2025-01-05", *more]


def test_it_shows_the_first_and_the_heaviest_chunk_and_writes_nothing(ward: Ward) -> None:
    """The statements are those of the run: pasted, they give the rows that the run writes."""
    ward.sql("INSERT INTO events SELECT toDateTime('2025-01-03 01:00:00', 'UTC'), 1, number FROM numbers(5000)")
    before = sorted(ward.folder.rglob("*"))
    answer = ward.cli("plan", *words(ward, "--chunk-by", "day", "--dry-run", "--json"))
    assert answer.code == 0
    payload = answer.payload
    assert sorted(path for path in ward.folder.rglob("*") if path.suffix) == [path for path in before if path.suffix]
    assert payload["planPath"] is None
    first, heaviest = payload["preview"]["chunks"]
    assert (first["rows"], heaviest["rows"]) == (1440, 6440)
    assert (first["from"], heaviest["from"]) == ("2025-01-01T00:00:00.000Z", "2025-01-03T00:00:00.000Z")
    assert payload["preview"]["rows"] == 4 * 1440 + 5000
    assert heaviest["bytes"] > first["bytes"] > 0
    assert heaviest["seconds"] >= first["seconds"] >= 0
    assert payload["preview"]["rowsPerSecond"] > 0
    (statement,) = heaviest["sql"]
    table = statement.split("INTO ", 1)[1].split(" (", 1)[0]
    ward.sql(f"CREATE TABLE {table} AS filled", statement)
    assert ward.value(f"SELECT count() FROM {table}") == 6440
    assert ward.cli.json("list")["plans"] == []


def test_parts_are_shown_by_their_own_rows(ward: Ward) -> None:
    ward.sql(
        "INSERT INTO events SELECT toDateTime('2025-01-03 01:00:00', 'UTC') + number % 600, 1, number"
        " FROM numbers(5000)"
    )
    limited = words(ward, "--max-chunk-rows", "1000", "--dry-run")
    preview = ward.cli.json("plan", *limited)["preview"]
    assert max(chunk["rows"] for chunk in preview["chunks"]) <= 1000
    assert preview["chunks"][1]["keyRange"]
    text = ward.cli("plan", *limited).out
    assert "would be created. Nothing was written." in text
    assert "-- the heaviest chunk, 2025-01-03 01:00 to" in text
    assert "Next:" not in text


def test_a_plan_that_exists_is_shown_as_it_is(ward: Ward) -> None:
    made = ward.planned(end="2025-01-05", chunking=Chunking(hours=24))
    shown = ward.cli.json("plan", *words(ward, "--chunk-hours", "24", "--dry-run"))
    assert shown["existed"]
    assert shown["planId"] == made["planId"]
    assert len(shown["preview"]["chunks"]) == 2


def test_each_view_is_counted_by_its_own_time_column(ward: Ward) -> None:
    """The second source has a column of the first one's name, too, with another time."""
    ward.sql(
        "CREATE TABLE late (at DateTime, ts DateTime, k UInt32, v Float64) ENGINE = MergeTree ORDER BY at",
        "INSERT INTO late SELECT toDateTime('2025-01-02 01:00:00', 'UTC'), toDateTime('2020-01-01', 'UTC'), 1, number"
        " FROM numbers(5000)",
        "CREATE MATERIALIZED VIEW view1 TO filled AS SELECT * FROM events",
        "CREATE MATERIALIZED VIEW view2 TO filled AS SELECT at AS ts, k, v FROM late",
    )
    flags = ["--target", f"{ward.engine.database}.filled", "--from", "2025-01-01", "--to", "2025-01-03"]
    preview = ward.cli.json("plan", *flags, "--chunk-by", "day", "--dry-run")["preview"]
    assert preview["rows"] == 2 * 1440 + 5000
    assert [chunk["rows"] for chunk in preview["chunks"]] == [1440, 6440]
