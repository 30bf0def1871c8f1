"""The SQL texts: names, bounds and filters as they are sent; the server tests show that they are right."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_provider_backfill.clickhouse.client import ClickHouse
from airflow_provider_backfill.clickhouse.publish import restore
from airflow_provider_backfill.core.column_types import time_kind, unwrap_type
from airflow_provider_backfill.core.facts import Column, TableFacts
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.names import parse_table, quote, show_table
from airflow_provider_backfill.core.plan import FilteredTable, TargetTime
from airflow_provider_backfill.core.sql import create_like, expressions, filter_setting, time_literal
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import RequestError
from tests.state import make_plan


@given(st.text(min_size=1), st.text(min_size=1))
def test_any_name_reads_back_the_same(database: str, table: str) -> None:
    """A plan keeps names as text; one that reads back as another table would be filled instead."""
    name = TableName(database, table)
    assert parse_table(show_table(name), "target") == name


@pytest.mark.parametrize(
    "text",
    [
        "orders",
        "a.b.c",
        "a.",
        ".b",
        "a.b; DROP TABLE x",
        "a.b--",
        "a b.c",
        "a.`b",
        "a.b`c`",
        "",
        "a..b",
        "a.(b)",
        "'a'.b",
    ],
)
def test_what_is_no_table_name(text: str) -> None:
    """Text that could inject a statement is not a name; the message shows the text and the form of a name."""
    with pytest.raises(RequestError, match="is not a table name") as refused:
        parse_table(text, "source")
    assert repr(text) in refused.value.message
    assert "--source database.table" in refused.value.hint


@given(st.text(min_size=1))
def test_a_quoted_name_ends_where_it_should(name: str) -> None:
    """No backtick or backslash in a name may end the quotes early."""
    inner = quote(name)[1:-1]
    assert "`" not in inner.replace("\\\\", "").replace("\\`", "")
    assert not inner.replace("\\\\", "").endswith("\\")


@pytest.mark.parametrize(
    ("kind", "moment", "text"),
    [
        (TimeKind.DATE, "2025-03-01", "toDate('2025-03-01')"),
        (TimeKind.DATE32, "1925-03-01", "toDate32('1925-03-01')"),
        (TimeKind.DATETIME, "2025-03-01T01:00:00+02:00", "toDateTime64('2025-02-28 23:00:00.000', 3, 'UTC')"),
        (TimeKind.DATETIME64, "2025-03-01T00:00:00.5Z", "toDateTime64('2025-03-01 00:00:00.500', 3, 'UTC')"),
        (TimeKind.EPOCH_S, "1970-01-01T00:01:00Z", "60"),
        (TimeKind.EPOCH_S, "1970-01-01T00:01:00.001Z", "61"),
        (TimeKind.EPOCH_MS, "1970-01-01T00:01:00.001Z", "60001"),
        (TimeKind.EPOCH_US, "1970-01-01T00:01:00.001Z", "60001000"),
        (TimeKind.EPOCH_NS, "2025-03-01T00:00:00.001Z", "1740787200001000000"),
        (TimeKind.EPOCH_S, "1969-12-31T23:59:58.5Z", "-1"),
    ],
)
def test_bounds_are_exact_instants(kind: TimeKind, moment: str, text: str) -> None:
    """Epochs are rounded up, so that both sides of a bound cut at the same row."""
    assert time_literal(kind, parse_instant(moment)) == text


def test_a_date_column_takes_days_only() -> None:
    """A Date cannot store half a day."""
    with pytest.raises(RequestError, match="is not a day's start") as refused:
        time_literal(TimeKind.DATE, parse_instant("2025-03-01T06:00Z"))
    assert "--chunk-by day" in refused.value.hint


@pytest.mark.parametrize(
    ("text", "unit", "kind"),
    [
        ("DateTime", "", TimeKind.DATETIME),
        ("DateTime('Europe/Berlin')", "", TimeKind.DATETIME),
        ("Nullable(DateTime64(6, 'UTC'))", "", TimeKind.DATETIME64),
        ("LowCardinality(Nullable(Date))", "", TimeKind.DATE),
        ("UInt32", "s", TimeKind.EPOCH_S),
        ("Int64", "us", TimeKind.EPOCH_US),
        ("UInt64", "ns", TimeKind.EPOCH_NS),
        ("UInt32", "", None),
        ("String", "s", None),
        ("Array(DateTime)", "", None),
        ("UInt8", "s", None),
    ],
)
def test_what_is_a_time(text: str, unit: str, kind: TimeKind | None) -> None:
    """An integer is a time only when its unit is declared."""
    assert time_kind(text, unit) is kind


def test_wrappers_come_off() -> None:
    """Types are compared without wrappers."""
    assert unwrap_type("LowCardinality(Nullable(FixedString(3)))") == "FixedString(3)"
    assert unwrap_type("Array(Nullable(String))") == "Array(Nullable(String))"


def test_a_filter_survives_quotes_in_names() -> None:
    """The setting is a map literal with literals inside; each level is escaped once."""
    table = FilteredTable(table=TableName("d", "it's"), column="a", kind=TimeKind.DATE)
    setting = filter_setting([table], [(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC))])
    condition = r"`a` >= toDate(\'2025-01-01\') AND `a` < toDate(\'2025-01-02\')"
    assert setting == {"additional_table_filters": f"{{'d.it\\'s': '{condition}'}}"}


def test_a_copy_takes_the_engine_as_it_is() -> None:
    """If the server creates the path in Keeper, an engine clause of the product would override it."""
    table, storage = TableName("d", "backfill_p_c_1"), TableName("d", "t")
    for plain in ("MergeTree ORDER BY k", "ReplicatedMergeTree ORDER BY k", "SharedMergeTree ORDER BY k"):
        assert create_like(table, storage, plain, "why") == "CREATE TABLE `d`.`backfill_p_c_1` AS `d`.`t` COMMENT 'why'"


@pytest.mark.parametrize(
    ("engine", "with_settings"),
    [
        ("MergeTree ORDER BY k", "MergeTree ORDER BY k SETTINGS a = 1, b = 2"),
        ("MergeTree ORDER BY k SETTINGS a = 9", "MergeTree ORDER BY k SETTINGS a = 9, a = 1, b = 2"),
    ],
)
def test_a_copy_with_settings_of_its_own(engine: str, with_settings: str) -> None:
    """Of two settings with one name, the server uses the later one."""
    text = create_like(TableName("d", "c"), TableName("d", "t"), engine, "why", settings={"a": 1, "b": 2})
    assert text == f"CREATE TABLE `d`.`c` AS `d`.`t` ENGINE = {with_settings} COMMENT 'why'"


@pytest.mark.parametrize(
    ("key", "elements"),
    [
        ("", []),
        ("ts", ["ts"]),
        ("toYYYYMM(ts)", ["toYYYYMM(ts)"]),
        ("(tenant, toYYYYMM(ts))", ["tenant", "toYYYYMM(ts)"]),
        ("(toYYYYMM(ts), tenant)", ["toYYYYMM(ts)", "tenant"]),
        (
            "tenant, toStartOfInterval(ts, toIntervalHour(1)), id",
            ["tenant", "toStartOfInterval(ts, toIntervalHour(1))", "id"],
        ),
        ("(a) + (b)", ["(a) + (b)"]),
        ("((a, b), c)", ["(a, b)", "c"]),
        ("concat('a, (', `odd,)name`), x", ["concat('a, (', `odd,)name`)", "x"]),
        ("tuple()", ["tuple()"]),
    ],
)
def test_a_key_is_taken_apart_at_its_own_commas(key: str, elements: list[str]) -> None:
    """A month within a tuple must be found, or twelve months cannot be replaced one by one."""
    assert expressions(key) == elements


def test_a_partition_that_chunks_share_is_restored_once() -> None:
    """The number of restored partitions is told to the user, and each statement copies a whole partition."""
    sent: list[str] = []
    server = SimpleNamespace(texts=lambda _: [["202501"], ["202502"]], command=lambda text, _: sent.append(text))
    name = TableName("shop", "orders")
    target = TableFacts(name, name, "MergeTree", (Column("ts", "DateTime"),), "toYYYYMM(ts)", "ts", "MergeTree", None)
    plan = make_plan(3, backup=True, target_time=TargetTime(column="ts", kind=TimeKind.DATETIME))
    assert restore(cast("ClickHouse", server), plan, target, plan.chunks()) == 2
    assert [text.partition("PARTITION ID ")[2].partition(" ")[0] for text in sent] == ["'202501'", "'202502'"]
