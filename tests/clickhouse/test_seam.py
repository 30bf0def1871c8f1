"""The seam between a backfill and live ingest: rows that the target already has, and rows still to come."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

from airflow_provider_backfill.core.plan import WriteMode
from tests.clickhouse.ward import Ward


def feed(ward: Ward, since: str) -> None:
    """A view that feeds the target, and rows inserted after the view's creation, from *since* on for an hour."""
    ward.sql("CREATE MATERIALIZED VIEW feed TO filled AS SELECT * FROM events")
    arrive(ward, since)


def arrive(ward: Ward, since: str) -> None:
    ward.sql(f"INSERT INTO events SELECT toDateTime('{since}', 'UTC') + number * 60, number, 0.5 FROM numbers(60)")


def hours_from_now(hours: float) -> str:
    return f"{datetime.now(UTC) + timedelta(hours=hours):%Y-%m-%dT%H:00:00Z}"


def test_what_a_view_has_written_is_left_out_by_the_cut(ward: Ward) -> None:
    """The view was made on the 3rd at 06:00: from there on its rows are in the target, before it they are missing."""
    ward.sql("ALTER TABLE events DELETE WHERE ts >= '2025-01-03 06:00:00' SETTINGS mutations_sync = 2")
    feed(ward, "2025-01-03 06:00:00")
    database = ward.engine.database
    words = ("plan", "--target", f"{database}.filled", "--from", "2025-01-01", "--to", "2025-01-04")
    refused = ward.cli(*words)
    assert refused.code == 2
    assert f"60 rows in the window (the first at 2025-01-03T06:00:00.000Z, as {database}.feed may have" in refused.err
    cut = re.search(r"--to (\S+);", refused.err)
    assert cut
    plan = ward.cli.json(*words[:-1], cut[1])
    assert ward.cli("run", "--plan-id", plan["planId"]).code == 0
    columns = "ts, k, v"
    assert ward.content("filled", columns) == ward.content("events", columns)


def test_backfill_seam_overlap(ward: Ward) -> None:
    """The rows arrived between plan and run; the remedy plans the window before them."""
    plan = ward.planned(end="2025-01-06")
    assert "backfill_target_changed" not in ward.doctor(plan)
    feed(ward, "2025-01-05 00:00:00")
    finding = ward.doctor(plan)["backfill_target_changed"]
    assert finding["severity"] == "error"
    assert f"60 rows of the window since the planning ({ward.engine.database}.feed feed it)" in finding["message"]
    assert ward.paste(finding) == 0
    (before,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    assert before["to"] == "2025-01-05T00:00:00.000Z"
    assert set(ward.doctor(before)) == {"backfill_required_pending"}
    ward.run(before)
    assert ward.content("filled", "ts, k, v") == ward.content("events", "ts, k, v")


def test_rows_that_were_accepted_are_no_overlap(ward: Ward) -> None:
    feed(ward, "2025-01-02 00:00:00")
    plan = ward.planned(allow_existing_rows=True)
    assert "backfill_target_changed" not in ward.doctor(plan)
    arrive(ward, "2025-01-02 12:00:00")
    finding = ward.doctor(plan)["backfill_target_changed"]
    assert "60 rows of the window since the planning" in finding["message"]
    assert "in addition to the accepted 60" in finding["message"]
    assert finding["hint"] == ""


def test_backfill_window_open(ward: Ward) -> None:
    """A window into the future is planned with a warning, and the remedy ends it on a chunk bound that is past."""
    words = ("plan", "--target", f"{ward.engine.database}.filled", "--source", f"{ward.engine.database}.events")
    answer = ward.cli(*words, "--from", hours_from_now(-30), "--to", hours_from_now(30), "--chunk-hours", "12")
    assert answer.code == 0
    assert "rows that come after their chunk is done are missed" in answer.out
    (plan,) = ward.cli.json("list")["plans"]
    finding = ward.doctor(plan)["backfill_window_open"]
    assert finding["severity"] == "warn"
    assert finding["hint"] in answer.out
    assert ward.paste(finding) == 0
    (past,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    assert past["total"] == 2
    assert "backfill_window_open" not in ward.doctor(past)


def test_a_window_to_replace_that_is_open_is_an_error(ward: Ward) -> None:
    """Rows that arrive between filling and swapping a partition would be gone."""
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    today = f"{datetime.now(UTC):%Y-%m-%d}"
    tomorrow = f"{datetime.now(UTC) + timedelta(days=1):%Y-%m-%d}"
    plan = ward.planned(start=today, end=tomorrow, hours=24, write_mode=WriteMode.REPLACE)
    finding = ward.doctor(plan)["backfill_window_open"]
    assert (finding["severity"], finding["hint"]) == ("error", "")
    assert "lost when their partition is replaced" in finding["message"]
