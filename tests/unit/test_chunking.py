"""
Chunks by lengths and calendars: the meaning of the texts, the bounds, and the stored values of a plan.

The vectors of ``data/chunk_bounds.json`` are for other tools that compute the same ids.
"""

import hashlib
import json
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_backfill.core.chunking import (
    Cell,
    Chunking,
    Unit,
    decode_bounds,
    encode_bounds,
    pack,
    parse_chunking,
    parse_length,
)
from airflow_provider_backfill.core.ids import iter_chunks, plan_id
from airflow_provider_backfill.core.instants import parse_instant, render_instant, to_ms
from airflow_provider_backfill.errors import RequestError

VECTORS = json.loads((Path(__file__).parent / "data" / "chunk_bounds.json").read_text())
ZONES = ["UTC", "Europe/Berlin", "America/New_York", "America/Havana", "America/Sao_Paulo", "Asia/Kolkata"]
ZONES += ["Australia/Lord_Howe", "Pacific/Apia", "Asia/Kathmandu", "Africa/Cairo"]


def bounds(text: str, start: str, end: str) -> list[str]:
    found = list(parse_chunking(text).slices(parse_instant(start), parse_instant(end)))
    return [render_instant(at) for at, _ in found] + [render_instant(found[-1][1])]


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["text"] for vector in VECTORS])
def test_bounds_and_ids_of_the_vectors(vector: dict[str, str | list[str]]) -> None:
    """Another tool that renders the same text and bounds computes the same ids."""
    assert bounds(str(vector["text"]), str(vector["from"]), str(vector["to"])) == vector["bounds"]
    field = f"{vector['target']}|{vector['from']}|{vector['to']}|{vector['text']}|{vector['timeColumn']}"
    assert hashlib.sha256(field.encode()).hexdigest()[:16] == vector["planId"]
    window = (parse_instant(str(vector["from"])), parse_instant(str(vector["to"])))
    ends = [to_ms(parse_instant(text)) for text in vector["bounds"][1:]]
    assert list(parse_chunking(str(vector["text"])).ends_ms(*window)) == ends
    assert plan_id(str(vector["target"]), *window, str(vector["text"]), str(vector["timeColumn"])) == vector["planId"]
    chunks = iter_chunks(str(vector["planId"]), parse_chunking(str(vector["text"])).slices(*window))
    assert [chunk for chunk, *_ in chunks][:3] == vector["chunkIds"]


@pytest.mark.parametrize(
    ("typed", "text"),
    [
        ("6", "6"),
        ("6.0", "6"),
        ("0x6", "6"),
        ("12h", "12"),
        ("30min", "0.5"),
        ("1d", "24"),
        ("1.5d", "36"),
        ("2d", "48"),
        ("1w", "168"),
        ("1mo", "month"),
        ("3mo", "3mo"),
        ("12mo", "12mo"),
        ("1MO", "month"),
        (" Month ", "month"),
        ("hour", "hour"),
        ("partition", "partition"),
    ],
)
def test_a_length_is_read_as_people_type_it(typed: str, text: str) -> None:
    assert parse_length(typed).text == text
    assert parse_chunking(text) == parse_length(typed)


@pytest.mark.parametrize(
    ("typed", "zone", "text"),
    [
        ("day", "Europe/Berlin", "day@Europe/Berlin"),
        ("1d", "Europe/Berlin", "day@Europe/Berlin"),
        ("1w", "Europe/Berlin", "week@Europe/Berlin"),
        ("1mo", "Europe/Berlin", "month@Europe/Berlin"),
        ("3mo", "Europe/Berlin", "3mo@Europe/Berlin"),
        ("hour", "Asia/Kolkata", "hour@Asia/Kolkata"),
        ("month", "Etc/UTC", "month"),
        ("6", "UTC", "6"),
    ],
)
def test_a_zone_makes_calendar_units_of_lengths(typed: str, zone: str, text: str) -> None:
    assert parse_length(typed, zone).text == text
    assert parse_chunking(text) == parse_length(typed, zone)


@pytest.mark.parametrize(
    ("typed", "zone"),
    [
        ("0", None),
        ("0d", None),
        ("-1", None),
        ("1m", None),
        ("1y", None),
        ("months", None),
        ("", None),
        ("5mo", None),
        ("1.5mo", None),
        ("24mo", None),
        ("inf", None),
        ("6", "Europe/Berlin"),
        ("2d", "Europe/Berlin"),
        ("partition", "Europe/Berlin"),
        ("day", "Europe/Berlino"),
        ("day", "../etc/passwd"),
        ("day", "/etc/passwd"),
    ],
)
def test_what_is_no_length_is_refused(typed: str, zone: str | None) -> None:
    with pytest.raises(RequestError) as caught:
        parse_length(typed, zone)
    assert caught.value.hint


def test_days_of_23_and_25_hours() -> None:
    """A calendar day of a zone with summer time is no number of hours."""
    spring = bounds("day@Europe/Berlin", "2025-03-28T23:00Z", "2025-03-31T22:00Z")
    assert spring == [f"2025-03-{day}T{hour}:00:00.000Z" for day, hour in ((28, 23), (29, 23), (30, 22), (31, 22))]
    autumn = bounds("day@Europe/Berlin", "2025-10-24T22:00Z", "2025-10-27T23:00Z")
    assert autumn == [f"2025-10-{day}T{hour}:00:00.000Z" for day, hour in ((24, 22), (25, 22), (26, 23), (27, 23))]


def test_a_year_by_month_is_twelve_chunks_also_in_berlin() -> None:
    assert len(bounds("month", "2024-01-01", "2025-01-01")) == 13
    berlin = bounds("month@Europe/Berlin", "2023-12-31T23:00Z", "2024-12-31T23:00Z")
    assert len(berlin) == 13
    assert berlin[3:5] == ["2024-03-31T22:00:00.000Z", "2024-04-30T22:00:00.000Z"]


def test_the_window_cuts_the_first_and_the_last_chunk() -> None:
    assert bounds("week", "2025-01-01T12:00Z", "2025-01-14") == [
        "2025-01-01T12:00:00.000Z",
        "2025-01-06T00:00:00.000Z",
        "2025-01-13T00:00:00.000Z",
        "2025-01-14T00:00:00.000Z",
    ]
    assert bounds("month", "2025-01-31", "2025-02-01") == ["2025-01-31T00:00:00.000Z", "2025-02-01T00:00:00.000Z"]


@given(
    zone=st.sampled_from(ZONES),
    unit=st.sampled_from([Unit.HOUR, Unit.DAY, Unit.WEEK, Unit.MONTH]),
    start=st.datetimes(datetime(1971, 1, 1), datetime(2037, 1, 1)),
    days=st.integers(1, 60),
)
def test_calendar_chunks_are_the_units_of_the_zone(zone: str, unit: Unit, start: datetime, days: int) -> None:
    """
    Chunks touch, cover the window, and change exactly where the zone's own calendar changes.

    Held against the standard library's time zones, which are another implementation.
    """
    first = start.replace(microsecond=0, tzinfo=UTC)
    last = first + timedelta(days=days)
    found = list(Chunking(unit=unit, zone=zone).slices(first, last))
    assert found[0][0] == first
    assert found[-1][1] == last
    assert all(before[1] == after[0] for before, after in pairwise(found))
    assert all(at < until for at, until in found)
    for (_, bound), _ in pairwise(found):
        tick = timedelta(milliseconds=1)
        assert _label(unit, bound, zone) != _label(unit, bound - tick, zone)
    for at, until in found:
        assert _label(unit, at, zone) == _label(unit, until - timedelta(milliseconds=1), zone)


def _label(unit: Unit, moment: datetime, zone: str) -> tuple[object, ...]:
    local = moment.astimezone(ZoneInfo(zone))
    if unit is Unit.HOUR:
        return local.date(), local.hour, local.utcoffset()
    if unit is Unit.WEEK:
        return local.isocalendar()[:2]
    return (local.year, local.month) if unit is Unit.MONTH else (local.date(),)


@given(steps=st.lists(st.integers(1, 10**9), min_size=1, max_size=50), start=st.integers(0, 2**41))
def test_stored_bounds_come_back(steps: list[int], start: int) -> None:
    bounds = [start]
    for step in steps:
        bounds.append(bounds[-1] + step)
    assert [start, *decode_bounds(encode_bounds(bounds), start)] == bounds


def test_stored_bounds_are_short() -> None:
    """A hundred thousand unequal chunks of whole minutes take a few bytes each."""
    bounds = [0]
    for index in range(100_000):
        bounds.append(bounds[-1] + 60_000 * (1 + index * 7919 % 97))
    assert len(encode_bounds(bounds)) < 300_000
    assert encode_bounds([0, 3_600_000, 7_200_000, 7_200_001]) == "1: 3600000*2 1"
    assert encode_bounds([0, 3_600_000, 7_200_000, 18_000_000]) == "3600000: 1*2 3"


@pytest.mark.parametrize("text", ["", "x: 1", "60000: 0", "60000: 1 -1", "0: 1", "60000: a"])
def test_damaged_bounds_are_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        list(decode_bounds(text, 0))


def test_limits_are_part_of_the_text() -> None:
    chunking = Chunking(hours=6, rows=5_000_000, size=2**30)
    assert chunking.text == "6|rows=5000000|bytes=1073741824"
    assert parse_chunking(chunking.text) == chunking
    assert parse_chunking("day@Europe/Berlin|bytes=10") == Chunking(unit=Unit.DAY, zone="Europe/Berlin", size=10)
    assert " ".join(map(str, chunking.flags)) == "--chunk-hours 6 --max-chunk-rows 5000000 --max-chunk-bytes 1073741824"
    with pytest.raises(RequestError):
        parse_chunking("6|rows=many")


def test_hours_of_a_zone_that_is_half_an_hour_off() -> None:
    start = to_ms(parse_instant("2025-01-01T00:10Z"))
    found = bounds("hour@Asia/Kolkata", "2025-01-01T00:10Z", "2025-01-01T02:00Z")
    assert found == [
        render_instant(parse_instant("2025-01-01T00:10Z")),
        "2025-01-01T00:30:00.000Z",
        "2025-01-01T01:30:00.000Z",
        "2025-01-01T02:00:00.000Z",
    ]
    assert start > 0


def cells_of(weights: list[float], step: int = 1) -> list[Cell]:
    return [Cell(index * step, weight) for index, weight in enumerate(weights)]


@given(
    weights=st.lists(st.floats(0, 3), min_size=1, max_size=60),
    every=st.integers(1, 7),
)
def test_no_packed_chunk_is_too_heavy_unless_it_is_one_cell(weights: list[float], every: int) -> None:
    """Bounds cover the window; a chunk over the limit has the rows of a single cell."""
    cells, end = cells_of(weights), len(weights)
    base = [*range(0, end, every), end]
    bounds = pack(base, cells)
    assert bounds[0] == 0
    assert bounds[-1] == end
    assert bounds == sorted(set(bounds))
    for at, until in pairwise(bounds):
        inside = [weight for weight in weights[at:until] if weight]
        assert sum(inside) <= 1 + 1e-9 or len(inside) == 1


def test_heavy_is_cut_and_light_is_joined() -> None:
    """One hour has half of all: it is cut in equal pieces, and quiet days around it become few chunks."""
    cells = cells_of([0.1] * 8 + [0.9, 0.9, 0.9, 0.9] + [0.1] * 12)
    assert pack([0, 4, 8, 12, 16, 20, 24], cells) == [0, 8, 9, 10, 11, 12, 20, 24]


def test_cells_without_rows_need_not_be_listed() -> None:
    assert pack([0, 10, 20, 30], [Cell(25, 0.5)]) == [0, 30]
    assert pack([0, 10], [Cell(3, 2.0)]) == [0, 10]
