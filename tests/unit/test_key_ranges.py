"""Chunks below the shortest time: ranges of the sorting key contain every row exactly once, for any sample."""

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_backfill.core.key_ranges import KeyColumn, cut_by_hash, cut_by_key

KEY = (KeyColumn("`tenant`", "String"), KeyColumn("`n`", "Int64"))
ROWS = st.lists(st.tuples(st.sampled_from("abcdef"), st.integers(-5, 20)), min_size=1, max_size=80)


@given(rows=ROWS, pieces=st.integers(1, 9), take=st.integers(1, 80))
def test_every_row_lies_in_one_range(rows: list[tuple[str, int]], pieces: int, take: int) -> None:
    """Rows with keys that the sample does not have are in a range as well."""
    sample = [(tenant, str(number)) for tenant, number in sorted(rows[:take])]
    conditions = cut_by_key(KEY, sample, pieces)
    with sqlite3.connect(":memory:") as db:
        db.execute("CREATE TABLE s (tenant TEXT, n INTEGER)")
        db.executemany("INSERT INTO s VALUES (?, ?)", rows)
        # SQLite reads these conditions as ClickHouse does: a CAST to Int64 is an integer to both.
        counts = [db.execute(f"SELECT count(*) FROM s WHERE {each or '1'}").fetchone()[0] for each in conditions]
        hits = " + ".join(f"({each or '1'})" for each in conditions)
        assert db.execute(f"SELECT DISTINCT {hits} FROM s").fetchall() == [(1,)]
    assert sum(counts) == len(rows)


def test_one_value_that_has_most_rows_is_cut_by_the_next_column() -> None:
    sample = [("a", "1")] * 2 + [("big", str(n)) for n in range(10, 20)] + [("z", "3")] * 2
    assert cut_by_key(KEY, sample, 3) == [
        "(`tenant`) < 'big'",
        "(`tenant`) = 'big' AND (`n`) < CAST('14' AS Int64)",
        "(`tenant`) = 'big' AND (`n`) >= CAST('14' AS Int64) AND (`n`) < CAST('18' AS Int64)",
        "(`tenant`) = 'big' AND (`n`) >= CAST('18' AS Int64)",
        "(`tenant`) > 'big'",
    ]


def test_one_key_cannot_be_cut() -> None:
    assert cut_by_key(KEY[:1], [("a",)] * 5, 3) == [""]


def test_a_piece_can_be_cut_again() -> None:
    """A piece of a piece lies in it, and a second hash is another one than the first."""
    (first, _) = cut_by_hash(KEY, 2)
    again = cut_by_hash(KEY, 2, first)
    assert all(each.startswith(f"{first} AND ") for each in again)
    assert again[0] != f"{first} AND {first}"
    assert cut_by_key(KEY, [("a", "1"), ("b", "1")], 2, "x = 1") == [
        "x = 1 AND (`tenant`) < 'b'",
        "x = 1 AND (`tenant`) >= 'b'",
    ]


@pytest.mark.parametrize(
    ("type_", "text", "literal"),
    [
        ("String", "it's", r"'it\'s'"),
        ("LowCardinality(String)", "a", "'a'"),
        ("String", "\udcff\n", "unhex('ff0a')"),
        ("FixedString(4)", "a\0b", "CAST(unhex('610062') AS FixedString(4))"),
        ("DateTime('Europe/Berlin')", "2025-10-26 00:30:00", "CAST('2025-10-26 00:30:00' AS DateTime('UTC'))"),
        (
            "DateTime64(3, 'Asia/Kolkata')",
            "2025-01-01 00:00:00.001",
            "CAST('2025-01-01 00:00:00.001' AS DateTime64(3, 'UTC'))",
        ),
        ("DateTime64(9)", "2025-01-01 00:00:00", "CAST('2025-01-01 00:00:00' AS DateTime64(9, 'UTC'))"),
        ("UInt64", "5", "CAST('5' AS UInt64)"),
    ],
)
def test_literals_are_typed(type_: str, text: str, literal: str) -> None:
    """A time is written in UTC, so that a repeated hour in the column's zone is unambiguous."""
    assert KeyColumn("k", type_).literal(text) == literal


@pytest.mark.parametrize(
    ("type_", "orderable"),
    [("UInt8", True), ("DateTime", True), ("UUID", True), ("Float64", False), ("Nullable(String)", False)],
)
def test_which_types_have_ranges(type_: str, orderable: bool) -> None:
    assert KeyColumn("k", type_).orderable is orderable
