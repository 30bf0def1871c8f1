"""Ids: the conformance vectors, and properties for every date, number and window."""

from __future__ import annotations

import hashlib
import json
import math
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airflow_provider_backfill.core.ids import chunk_id, idempotency_token, iter_chunks, plan_id
from airflow_provider_backfill.core.instants import parse_instant, render_instant, to_ms
from airflow_provider_backfill.core.window import (
    iter_ends_ms,
    iter_window,
    parse_chunk_hours,
    render_chunk_hours,
    split_window,
    whole_days,
)
from airflow_provider_backfill.errors import RequestError

VECTORS = json.loads((Path(__file__).parents[1] / "conformance" / "plan_ids.json").read_text(encoding="utf-8"))

instants = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC))
offsets = st.integers(-14 * 60, 14 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes)))


@pytest.mark.parametrize("vector", VECTORS, ids=[vector["id"] for vector in VECTORS])
def test_ids_bounds_and_tokens_equal_the_peers(vector: dict[str, Any]) -> None:
    """Other tools find our plans and chunks by ids they compute themselves, so every digit counts."""
    flags, expected = vector["flags"], vector["expected"]
    start, end = parse_instant(flags["from"]), parse_instant(flags["to"])
    defaults = vector.get("options", {}).get("defaults", {})
    hours = parse_chunk_hours(str(flags.get("chunkHours", defaults.get("chunkHours", 6))))
    tokens = defaults.get("requireIdempotencyToken", True)
    column = expected["timeColumn"]
    plan = plan_id(flags["target"].strip(), start, end, hours, column)

    assert (render_instant(start), render_instant(end)) == (expected["from"], expected["to"])
    assert render_chunk_hours(hours) == expected["chunkHoursText"]
    assert plan == expected["planId"]

    digest, first = hashlib.sha256(), []
    for number, (a, b) in enumerate(split_window(start, end, hours)):
        chunk, token = chunk_id(plan, a, b), idempotency_token(plan, a, b) if tokens else ""
        digest.update(f"{chunk}|{render_instant(a)}|{render_instant(b)}|{token}\n".encode())
        if number < len(expected["firstChunks"]):
            first.append({"id": chunk, "from": render_instant(a), "to": render_instant(b), "idempotencyToken": token})
    assert number + 1 == expected["chunkCount"]
    assert first == [
        {key: found[key] for key in ("id", "from", "to", "idempotencyToken")} for found in expected["firstChunks"]
    ]
    assert digest.hexdigest() == expected["chunksDigest"]


@pytest.mark.parametrize(
    ("text", "rendered"),
    [
        ("2025", "2025-01-01T00:00:00.000Z"),
        ("2025-03", "2025-03-01T00:00:00.000Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000Z"),
        ("2025-01-01T06:00", "2025-01-01T06:00:00.000Z"),
        ("2025-01-01t06:00:00z", "2025-01-01T06:00:00.000Z"),
        ("2025-01-01 06:00:00", "2025-01-01T06:00:00.000Z"),
        ("2025-01-01T06:00:00.9999999Z", "2025-01-01T06:00:00.999Z"),
        ("2025-01-01T06:00:00.1Z", "2025-01-01T06:00:00.100Z"),
        ("2025-01-01T06:00:00+05:30", "2025-01-01T00:30:00.000Z"),
        ("2025-01-01T06:00:00+0530", "2025-01-01T00:30:00.000Z"),
        ("2025-01-01T06:00:00-08", "2025-01-01T14:00:00.000Z"),
        ("2024-12-31T24:00", "2025-01-01T00:00:00.000Z"),
        ("0001-01-01", "0001-01-01T00:00:00.000Z"),
        (" 2025-01-01 ", "2025-01-01T00:00:00.000Z"),
    ],
)
def test_dates_mean_utc(text: str, rendered: str) -> None:
    """A date-time without an offset means UTC, in any zone of the machine; finer digits are truncated."""
    assert render_instant(parse_instant(text)) == rendered


@pytest.mark.parametrize(
    "text",
    [
        *("", "1", "yesterday", "2025-02-30", "2025-13-01", "2025-00-10", "2025-01-01T25:00", "2025-01-01T24:01"),
        *("2025-01-01T00:60", "2025-01-01T00:00:60", "2025-01-01T00:00+25:00", "2025-01-01T00:00+01:99", "20250101"),
        *("2025-1-1", "2025-01-01T6:00", "2025-01-01Z", "2025-01-01T", "٢٠٢٥-01-01", "9999-12-31T24:00"),
        *("0001-01-01T00:00+01:00", "2025-01-01T00:00:00 Z", "2025-01-01\n2025"),
    ],
)
def test_what_is_no_date_is_refused_with_its_text(text: str) -> None:
    """A date that is read as another one fills the wrong window."""
    with pytest.raises(RequestError) as caught:
        parse_instant(text)
    assert repr(text) in caught.value.message
    assert caught.value.hint


@settings(deadline=None)
@given(instants, offsets)
def test_an_instant_comes_back_from_its_text(moment: datetime, offset: timezone) -> None:
    """Every instant in a state file is read back as the same, and any zone's rendering is the same instant."""
    text = render_instant(moment)
    assert parse_instant(text) == moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    assert render_instant(moment.astimezone(offset)) == text
    assert len(text) == 24


def test_a_naive_datetime_names_no_instant() -> None:
    """The machine's zone must never decide which rows are written."""
    with pytest.raises(ValueError, match="naive"):
        render_instant(datetime(2025, 1, 1))


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (6, "6"),
        (6.0, "6"),
        (0.25, "0.25"),
        (1 / 3, "0.3333333333333333"),
        (1e-6, "0.000001"),
        (1e-7, "1e-7"),
        (1.5e-7, "1.5e-7"),
        (123456789012345680000, "123456789012345680000"),
        (1e20, "100000000000000000000"),
        (1e21, "1e+21"),
        (1.25e21, "1.25e+21"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
        (0.1 + 0.2, "0.30000000000000004"),
        (-0.0, "0"),
        (-2.5, "-2.5"),
        (1e300 * 10, "1e+301"),
        (math.inf, "Infinity"),
        (-math.inf, "-Infinity"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_written_as_javascript_writes_them(value: float, text: str) -> None:
    """The chunk size enters the plan id as text."""
    assert render_chunk_hours(value) == text


@settings(deadline=None)
@given(st.floats(min_value=5e-324, allow_infinity=False))
def test_a_number_comes_back_from_its_text(value: float) -> None:
    """The text has the shortest digits that read back as the same number, in a layout without a needless point."""
    text = render_chunk_hours(value)
    assert parse_chunk_hours(text) == value
    mantissa, _, exponent = text.partition("e")
    assert not mantissa.endswith(".")
    assert not ("." in mantissa and mantissa.endswith("0"))
    assert bool(exponent) == (value >= 1e21 or value < 1e-6)


@pytest.mark.parametrize(
    ("text", "value"),
    [("6", 6), (" 6 ", 6), ("+6", 6), ("6.", 6), (".5", 0.5), ("6e0", 6), ("0x6", 6), ("0b110", 6), ("0o6", 6)],
)
def test_a_chunk_size_is_read_as_javascript_reads_it(text: str, value: float) -> None:
    """The same flag must give the same plan in both tools."""
    assert parse_chunk_hours(text) == value


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "six", "1_000", "NaN", "Infinity", "1e999", "0x", "1e-400", "٦", "6h", "-0x6", "6,5"]
)
def test_what_is_no_chunk_size_is_refused_with_its_text(text: str) -> None:
    """Python reads some of these as numbers; the peer does not, or they are no size."""
    with pytest.raises(RequestError) as caught:
        parse_chunk_hours(text)
    assert repr(text) in caught.value.message


@settings(deadline=None)
@given(
    st.datetimes(datetime(1970, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.integers(1, 10**9),
    st.floats(0.01, 1e5),
)
def test_slices_cover_the_window_and_never_overlap(start: datetime, length_ms: int, hours: float) -> None:
    """A gap loses rows and an overlap doubles them."""
    start = start.replace(microsecond=0)
    end = start + timedelta(milliseconds=length_ms)
    slices = split_window(start, end, hours)
    assert slices[0][0] == start
    assert slices[-1][1] == end
    assert all(before[1] == after[0] for before, after in pairwise(slices))
    assert all(a < b for a, b in slices)
    step = timedelta(hours=hours)
    assert all(abs((b - a) - step) <= timedelta(milliseconds=1) for a, b in slices[:-1])


@settings(deadline=None)
@given(
    st.datetimes(datetime(1960, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)),
    st.integers(1, 3000),
    st.floats(0.3, 100),
)
def test_the_fast_chunk_ids_are_the_defined_ones(start: datetime, hours: int, size: float) -> None:
    """A plan's chunks are computed by a shortcut, which must never give another id."""
    start = start.replace(microsecond=0)
    end = start + timedelta(hours=hours)
    slices = list(iter_window(start, end, size))
    assert list(iter_ends_ms(start, end, size)) == [to_ms(until) for _, until in slices]
    assert list(iter_chunks("0123456789abcdef", iter_window(start, end, size))) == [
        (chunk_id("0123456789abcdef", a, b), a, b, "", 0) for a, b in slices
    ]
    on_shards = list(iter_chunks("0123456789abcdef", iter_window(start, end, size), (1, 3)))
    assert on_shards == [
        (chunk_id("0123456789abcdef", a, b, shard=shard), a, b, "", shard) for a, b in slices for shard in (1, 3)
    ]
    assert len({chunk for chunk, *_ in on_shards}) == len(on_shards)


def test_a_window_without_length_is_refused() -> None:
    """The end is exclusive, so from = to names nothing."""
    moment = parse_instant("2025-01-01")
    for end in (moment, moment - timedelta(hours=1)):
        with pytest.raises(RequestError, match=r"The window is empty: from 2025-01-01T00:00:00\.000Z"):
            split_window(moment, end, 6)


@pytest.mark.parametrize("hours", [0.0, -1.0, math.inf, math.nan, 1e-12])
def test_a_chunk_size_that_gets_nowhere_is_refused(hours: float) -> None:
    """Otherwise cutting the window would never end."""
    with pytest.raises(RequestError, match="chunk size"):
        split_window(parse_instant("2025-01-01"), parse_instant("2025-01-02"), hours)


def test_a_part_by_its_key_has_an_id_of_its_own() -> None:
    """The condition is hashed as it is stored, after the window; without one the id is that of the window."""
    window = (parse_instant("2025-01-01"), parse_instant("2025-01-01T00:15Z"))
    plan, condition = "0123456789abcdef", "(tenant) = 'big' AND (ts) < CAST('2025-01-01 00:05:00' AS DateTime('UTC'))"
    text = f"{plan}:2025-01-01T00:00:00.000Z:2025-01-01T00:15:00.000Z:{condition}"
    assert chunk_id(plan, *window, condition) == hashlib.sha256(f"chunk:{text}".encode()).hexdigest()[:16]
    assert idempotency_token(plan, *window, condition) == hashlib.sha256(f"token:{text}".encode()).hexdigest()
    assert chunk_id(plan, *window, "") == chunk_id(plan, *window)


@pytest.mark.parametrize(
    ("window", "days"),
    [
        (("2025-01-01T00:00:00", "2025-01-02T00:00:00"), ("2025-01-01", "2025-01-02")),
        (("2025-01-01T05:06:07.008", "2025-01-01T06:00:00"), ("2025-01-01", "2025-01-02")),
        (("2024-12-31T23:59:59.999", "2025-01-01T00:00:00.001"), ("2024-12-31", "2025-01-02")),
    ],
    ids=["a day", "an hour of a day", "a moment at midnight"],
)
def test_the_days_of_a_window(window: tuple[str, str], days: tuple[str, str]) -> None:
    """A Date column has no hours, so a filter on one takes the whole days; a part of a day is not left out."""
    assert whole_days(*map(parse_instant, window)) == tuple(map(parse_instant, days))
