"""The order of chunks, and when they may start."""

from __future__ import annotations

import threading
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.core.hours import AllowedHours, Schedule
from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Ward

WINDOW: dict[str, Any] = {"start": "2025-01-01", "end": "2025-01-03", "hours": 12, "source": "src"}


def sources(lab: Lab) -> None:
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), v UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 600, number FROM numbers(288)",
        "CREATE TABLE dst AS src",
    )


def test_the_newest_chunk_comes_first(lab: Lab) -> None:
    """Dashboards look at yesterday: it is there first, and nothing is left out."""
    sources(lab)
    started: list[str] = []
    plan = lab.plan("dst", **WINDOW)
    done = lab.run(
        plan, newest_first=True, report=lambda event: started.append(event.chunk_id) if event.type == "ChunkDone" else 0
    )
    assert done["status"] == "completed"
    assert started == [chunk.id for chunk in lab.session.store.load_plan(plan["planId"]).chunks()][::-1]
    assert lab.content("dst") == lab.content("src")


def test_a_run_stops_at_its_time_and_goes_on_when_told(lab: Lab) -> None:
    """The running chunk may end; the run is paused and reports the reason."""
    sources(lab)
    plan = lab.plan("dst", **WINDOW)
    # Long enough for the run to begin on a busy machine.
    soon = datetime.now(UTC) + timedelta(seconds=10)

    def first_chunk(event: Any) -> None:
        if event.type == "ChunkStarted":
            # The stop time passes during the chunk.
            time.sleep(max(0.0, (soon - datetime.now(UTC)).total_seconds()) + 0.1)

    paused = lab.run(plan, schedule=Schedule(stop_at=soon), report=first_chunk)
    assert paused["status"] == "paused"
    assert paused["chunkCounts"]["done"] == 1
    assert paused["chunkCounts"]["pending"] == 3
    assert paused["attempts"] == 1
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("dst") == lab.content("src")


def test_outside_its_hours_a_run_waits_and_can_be_cancelled(http_lab: Lab) -> None:
    lab = http_lab
    sources(lab)
    plan = lab.plan("dst", **WINDOW)
    now = datetime.now(UTC)
    later = (now.hour * 60 + now.minute + 120) % 1440
    hours = AllowedHours(later, (later + 60) % 1440)
    said: list[str] = []

    def report(event: Any) -> None:
        if event.type == "RunThrottled":
            said.append(event.reason)
            cancel_plan(lab.session, plan["planId"])

    runner = threading.Thread(target=lambda: lab.run(plan, schedule=Schedule(hours=hours), report=report))
    runner.start()
    runner.join(60)
    assert not runner.is_alive()
    assert said == [f"chunks start from {hours.text} only"]
    assert lab.value("SELECT count() FROM dst") == 0


def test_within_its_hours_a_run_does_not_wait(lab: Lab) -> None:
    sources(lab)
    now = datetime.now(UTC)
    minute = now.hour * 60 + now.minute
    hours = AllowedHours((minute - 60) % 1440, (minute + 60) % 1440)
    assert lab.run(lab.plan("dst", **WINDOW), schedule=Schedule(hours=hours))["status"] == "completed"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--stop-at", "2020-01-01"], "is to stop at 2020-01-01"),
        (["--stop-at", "soon"], "is not a date"),
        (["--hours", "22"], "is not hours of a day"),
        (["--hours", "22-06", "--zone", "Mars/Olympus"], "is not a time zone"),
        (["--zone", "Europe/Berlin"], "belongs to no time of day"),
    ],
)
def test_times_that_cannot_be_are_refused(ward: Ward, flags: list[str], message: str) -> None:
    plan = ward.planned()
    answer = ward.cli("run", "--plan-id", plan["planId"], *flags)
    assert answer.code == 2
    assert message in answer.err
    assert ward.cli.json("run", "--plan-id", plan["planId"], "--newest-first", "--stop-at", "2200-01-01")["ok"]
