"""When a run may start chunks: by the clocks of a zone, over midnight and in weeks when clocks change."""

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_backfill.core.hours import ANY_TIME, check_limits, parse_hours, parse_stop, read_schedule
from airflow_provider_backfill.core.instants import parse_instant, render_instant
from airflow_provider_backfill.errors import RequestError


@pytest.mark.parametrize(
    ("hours", "zone", "moment", "allowed"),
    [
        ("22-06", None, "2025-01-01T22:00Z", True),
        ("22-06", None, "2025-01-01T21:59Z", False),
        ("22-06", None, "2025-01-02T05:59Z", True),
        ("22-06", None, "2025-01-02T06:00Z", False),
        ("09:30-17", "UTC", "2025-01-01T09:30Z", True),
        ("09:30-17", "UTC", "2025-01-01T09:29Z", False),
        ("22-06", "Europe/Berlin", "2025-01-01T21:00Z", True),
        ("22-06", "Europe/Berlin", "2025-07-01T20:00Z", True),
        ("22-06", "Europe/Berlin", "2025-07-01T04:00Z", False),
        ("22-24", None, "2025-01-01T23:59Z", True),
        ("0-6", None, "2025-01-01T00:00Z", True),
        ("00-24", None, "2025-01-01T00:00Z", True),
        ("0-24:00", "Europe/Berlin", "2025-01-01T22:59Z", True),
    ],
)
def test_hours_are_those_of_the_zones_clocks(hours: str, zone: str | None, moment: str, allowed: bool) -> None:
    assert parse_hours(hours, zone).allows(parse_instant(moment)) is allowed


@pytest.mark.parametrize("hours", ["22", "22-22", "24-24", "24-0", "25-06", "22:60-06", "night", "22-", "-06", ""])
def test_what_is_no_hours_is_refused(hours: str) -> None:
    with pytest.raises(RequestError) as caught:
        parse_hours(hours)
    assert caught.value.hint


def test_an_unknown_zone_is_refused() -> None:
    with pytest.raises(RequestError, match="Mars"):
        parse_hours("22-06", "Mars/Olympus")


@pytest.mark.parametrize(
    ("text", "zone", "now", "stop"),
    [
        ("06:00", None, "2025-01-01T05:00Z", "2025-01-01T06:00:00.000Z"),
        ("06:00", None, "2025-01-01T06:00Z", "2025-01-02T06:00:00.000Z"),
        ("06:00", "Europe/Berlin", "2025-01-01T05:30Z", "2025-01-02T05:00:00.000Z"),
        # The night when clocks go forward has no 02:30; the next 06:00 is four hours after 01:00.
        ("06:00", "Europe/Berlin", "2025-03-30T00:00Z", "2025-03-30T04:00:00.000Z"),
        ("2025-01-31T06:00:00Z", None, "2025-01-01", "2025-01-31T06:00:00.000Z"),
        ("2025-01-31", "Europe/Berlin", "2025-01-01", "2025-01-31T00:00:00.000Z"),
    ],
)
def test_a_run_stops_when_that_time_comes_next(text: str, zone: str | None, now: str, stop: str) -> None:
    assert render_instant(parse_stop(text, parse_instant(now), zone)) == stop


@pytest.mark.parametrize("text", ["2020-01-01", "soon", "25:00", ""])
def test_a_time_that_cannot_come_is_refused(text: str) -> None:
    with pytest.raises(RequestError):
        parse_stop(text, datetime(2025, 1, 1, tzinfo=UTC) + timedelta(hours=1))


def test_a_schedule_says_why_a_chunk_waits_and_when_it_is_over() -> None:
    now = parse_instant("2025-01-01T12:00Z")
    schedule = read_schedule("22-06", "13:00", None, now)
    assert schedule.reason_to_wait(now) == "chunks start from 22:00 to 06:00 UTC only"
    assert schedule.reason_to_wait(now + timedelta(hours=10)) == ""
    assert [schedule.is_over(now + timedelta(minutes=minutes)) for minutes in (59, 60)] == [False, True]
    assert ANY_TIME.reason_to_wait(now) == ""
    assert not ANY_TIME.is_over(now)
    with pytest.raises(RequestError, match="belongs to no time of day"):
        read_schedule(None, None, "Europe/Berlin", now)


@pytest.mark.parametrize(
    ("load", "failures"), [(0, 1), (1.5, 1), (True, 1), ("1", 1), (0.5, 0), (0.5, True), (0.5, 2.0)]
)
def test_limits_out_of_range_are_refused(load: object, failures: object) -> None:
    check_limits(1, 1)
    with pytest.raises(RequestError, match="The maximum"):
        check_limits(load, failures)
