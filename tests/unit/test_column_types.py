"""Which conversions lose nothing: the rule by which a copy may go into columns of other types."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.column_types import is_comparable, widens


@pytest.mark.parametrize(
    ("given", "wanted", "common", "fits"),
    [
        ("UInt32", "UInt64", "UInt64", True),
        ("UInt64", "UInt32", "UInt64", False),
        ("Int32", "UInt32", "Int64", False),
        ("Nullable(UInt32)", "UInt32", "Nullable(UInt32)", True),
        ("UInt32", "Nullable(UInt64)", "Nullable(UInt64)", True),
        ("LowCardinality(Nullable(String))", "String", "Nullable(String)", True),
        ("DateTime('UTC')", "DateTime('Europe/Berlin')", "DateTime('UTC')", True),
        ("DateTime('UTC')", "DateTime64(3, 'Asia/Tokyo')", "DateTime64(3, 'UTC')", True),
        ("DateTime64(6)", "DateTime64(3)", "DateTime64(6)", False),
        ("Map(String, String)", "Map(LowCardinality(String), String)", "Map(String, String)", True),
        ("UInt32", "SimpleAggregateFunction(sum, UInt64)", "UInt64", True),
        ("SimpleAggregateFunction(max, DateTime)", "DateTime", "SimpleAggregateFunction(max, DateTime)", True),
        ("UUID", "String", "", True),
        ("IPv4", "IPv6", "", True),
        ("Bool", "UInt8", "Bool", True),
        ("UInt8", "Bool", "UInt8", False),
        ("String", "JSON", "", False),
        ("UInt8", "Variant(String, UInt8)", "", True),
        ("UInt16", "Variant(String, UInt8)", "", False),
        ("UInt8", "Dynamic", "Dynamic", True),
        ("Enum8('a' = 1)", "Enum16('a' = 1, 'b' = 2)", "Int16", True),
        ("Enum8('a' = 1)", "Enum8('a' = 2, 'b' = 1)", "Int8", False),
        ("Enum8('a' = 1)", "LowCardinality(String)", "String", True),
    ],
)
def test_widening(given: str, wanted: str, common: str, fits: bool) -> None:
    """Too strict makes people write a CAST by hand, too lax changes a value unseen."""
    assert widens(given, wanted, common) is fits


def test_what_can_be_sorted() -> None:
    """An INSERT sorted by all columns fails at a column of states."""
    assert is_comparable("SimpleAggregateFunction(sum, UInt64)")
    assert not any(map(is_comparable, ("AggregateFunction(uniq, UInt8)", "Array(Dynamic)", "Variant(UInt8)", "JSON")))
