"""The texts that are sent: instants, filters, tables of an attempt, content sums."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from airflow_provider_backfill.core.facts import Column
from airflow_provider_backfill.core.plan import Chunk, Statement, TargetTime, TimeLabel
from airflow_provider_backfill.core.shares import Dealing
from airflow_provider_backfill.core.sql import (
    any_row_sql,
    backup_table,
    bound_before,
    chunk_filter,
    copy_select,
    insert_select,
    instant_sql,
    instants,
    milliseconds,
    query_id,
    sealed_table,
    source_checksum_sql,
    staging_table,
    table_checksum_sql,
    table_condition,
    time_filter,
)
from airflow_provider_backfill.core.table_definition import checks, column_ttls
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.core.target_window import window_filter
from airflow_provider_backfill.errors import RequestError
from tests.state import make_plan

START = datetime(2025, 1, 1, tzinfo=UTC)
STORAGE, RAW = TableName("shop", "orders"), TableName("shop", "raw")
STATEMENT = Statement(
    name="v",
    select="SELECT a, b",
    source=TableName("shop", "raw"),
    time_kind=TimeKind.DATETIME,
    columns=("a", "b"),
    converted=("b",),
    defaulted=("b",),
)
PLAN = make_plan(statements=(STATEMENT,), target_time=TargetTime(column="day", kind=TimeKind.DATE))
CHUNK = Chunk("c" * 16, START, START + timedelta(days=1))
WINDOW = (
    "`ts` >= toDateTime64('2025-01-01 00:00:00.000', 3, 'UTC')"
    " AND `ts` < toDateTime64('2025-01-02 00:00:00.000', 3, 'UTC')"
)


@pytest.mark.parametrize(
    ("kind", "read", "written"),
    [
        (TimeKind.EPOCH_S, "toInt64(x) * 1000", "floor(ms / 1000)"),
        (TimeKind.EPOCH_MS, "intDiv(toInt64(x), 1)", "ms * 1"),
        (TimeKind.EPOCH_US, "intDiv(toInt64(x), 1000)", "ms * 1000"),
        (TimeKind.EPOCH_NS, "intDiv(toInt64(x), 1000000)", "ms * 1000000"),
        (
            TimeKind.DATETIME,
            "toUnixTimestamp64Milli(toDateTime64(x, 3, 'UTC'))",
            "fromUnixTimestamp64Milli(ms, 'UTC')",
        ),
    ],
)
def test_a_column_as_milliseconds_and_back(kind: TimeKind, read: str, written: str) -> None:
    assert (milliseconds("x", kind), instant_sql("ms", kind)) == (read, written)


def test_bounds_are_short_where_they_are_regular() -> None:
    assert instants([0, 10, 20, 25]) == "SELECT least(toInt64(0 + number * 10), toInt64(25)) AS ms FROM numbers(4)"
    assert instants([0, 10, 15, 25]) == "SELECT arrayJoin(arrayCumSum([toInt64(0), 10, 5, 10])) AS ms"
    assert instants([0, 10, 25]) == "SELECT arrayJoin(arrayCumSum([toInt64(0), 10, 15])) AS ms", "the last is longer"
    assert bound_before("ms", [5, 15, 25]) == "toInt64(5 + intDiv(ms - 5, 10) * 10)"
    assert bound_before("ms", [0, 10, 15, 25]) == "roundDown(ms, arrayCumSum([toInt64(0), 10, 5]))"
    assert bound_before("ms", [0, 10, 30]) == "roundDown(ms, arrayCumSum([toInt64(0), 10]))"


def test_the_window_at_the_source_and_at_the_target() -> None:
    assert time_filter("ts", TimeKind.DATETIME, CHUNK.start, CHUNK.end) == WINDOW
    assert window_filter(PLAN, CHUNK) == "`day` >= toDate('2025-01-01') AND `day` < toDate('2025-01-02')"
    with pytest.raises(RequestError, match="has no time column"):
        window_filter(make_plan(), CHUNK)
    (setting,) = chunk_filter(PLAN, STATEMENT, CHUNK).items()
    assert setting[0] == "additional_table_filters"
    assert setting[1].startswith("{'shop.raw': '`ts` >= toDateTime64(")


@pytest.mark.parametrize(
    ("kind", "stored", "last"),
    [
        (TimeKind.DATE, "Date", "fromUnixTimestamp64Milli(toInt64(1735689600000), 'UTC')"),
        (TimeKind.DATETIME64, "DateTime64(3)", "fromUnixTimestamp64Milli(toInt64(1735775999999), 'UTC')"),
        (
            TimeKind.DATETIME64,
            "DateTime64(9, 'UTC')",
            "fromUnixTimestamp64Nano(toInt64(1735776000000) * 1000000 - 1, 'UTC')",
        ),
        (TimeKind.EPOCH_US, "Int64", "toInt64(1735776000000) * 1000 - 1"),
        (TimeKind.EPOCH_S, "UInt32", "floor(toInt64(1735775999999) / 1000)"),
    ],
)
def test_the_last_row_of_a_chunk_may_come_right_before_its_end(kind: TimeKind, stored: str, last: str) -> None:
    """A row in the last nanosecond of a day belongs to the day, also where the target has another time for it."""
    label = TimeLabel(expression="f(ts)", column="ts", type=stored, kind=kind)
    plan = make_plan(target_time=TargetTime(column="day", kind=TimeKind.DATE, label=label))
    assert window_filter(plan, CHUNK).endswith(f"<= arrayMap(`ts` -> (f(ts)), [CAST({last} AS {stored})])[1]")


def test_a_part_by_the_sorting_key_reads_its_range_only() -> None:
    part = CHUNK._replace(key_range="k < 5")
    assert f"SELECT 1 FROM `shop`.`raw` WHERE {WINDOW} AND (k < 5) LIMIT 1" in any_row_sql(PLAN, STATEMENT, part)
    assert f"SELECT 1 FROM `shop`.`raw` WHERE {WINDOW} LIMIT 1" in any_row_sql(PLAN, STATEMENT, CHUNK)


def test_shards_are_asked_whether_a_window_has_rows_without_a_limit() -> None:
    """A LIMIT that is reached cuts the connections to the shards that are still at work."""
    dealt = PLAN.model_copy(update={"dealing": Dealing(key="id", columns=("id",))})
    counts = f"SELECT count() AS found FROM `shop`.`raw` WHERE {WINDOW}"
    assert any_row_sql(dealt, STATEMENT, CHUNK) == f"SELECT 1 FROM ({counts}) HAVING sum(found) > 0"


def test_the_names_of_an_attempt() -> None:
    """Other folders, the doctor and KILL QUERY know them by these forms."""
    plan = PLAN.plan_id
    assert query_id("p", "c", 2) == "backfill-p-c-2"
    assert staging_table(PLAN, STORAGE, "c", 2) == TableName("shop", f"backfill_{plan}_c_2")
    assert sealed_table(PLAN, STORAGE, "c") == TableName("shop", f"backfill_{plan}_c_sealed")
    own = PLAN.model_copy(update={"nonce": "1a2b3c4d"})
    assert sealed_table(own, STORAGE, "c") == TableName("shop", f"backfill_{plan}_c_sealed_1a2b3c4d")
    assert backup_table(PLAN, STORAGE) == TableName("shop", f"backfill_backup_{plan}")
    assert backup_table(own, STORAGE) == TableName("shop", f"backfill_backup_{plan}_1a2b3c4d")
    assert table_condition(STORAGE, "name") == "database = 'shop' AND name = 'orders'"


def test_copies_and_inserts_name_their_columns() -> None:
    assert copy_select(RAW, [Column("a", "UInt8"), Column("b c", "UInt8")]) == "SELECT `a`, `b c` FROM `shop`.`raw`"
    assert insert_select(STORAGE, STATEMENT) == (
        "INSERT INTO `shop`.`orders` (`a`, `b`) SELECT `a`, `b` FROM (\nSELECT a, b\n)"
    )


def test_content_sums_are_of_values_as_the_target_has_them() -> None:
    assert table_checksum_sql(STORAGE, ("a", "b"), "x = 1") == (
        "SELECT count(), sum(cityHash64(tuple(`a`, `b`))) FROM (SELECT `a`, `b` FROM `shop`.`orders` WHERE x = 1)"
    )
    assert " WHERE " not in table_checksum_sql(STORAGE, ("a",))
    columns = [Column("a", "UInt8"), Column("b", "UInt8")]
    text = source_checksum_sql(STATEMENT, columns, ("a", "b"))
    assert "if(`b` IS NULL, CAST(defaultValueOfTypeName('UInt8') AS UInt8), CAST(assumeNotNull(`b`) AS UInt8))" in text
    assert text.startswith("SELECT count(), sum(cityHash64(tuple(`a`, `as b`))) FROM (SELECT `a`, ")
    own = source_checksum_sql(STATEMENT, [columns[0], columns[1]._replace(default="7")], ("b",))
    assert "CAST((7) AS UInt8)" in own
    plain = STATEMENT.model_copy(update={"defaulted": ()})
    assert "CAST(`b` AS UInt8) AS `as b`" in source_checksum_sql(plain, columns, ("b",))


def test_what_a_definition_says_beside_types() -> None:
    """Words in texts and in other places are no TTL and no constraint."""
    definition = (
        "CREATE TABLE a.b (`ts` DateTime('UTC'), `note` String DEFAULT 'x TTL (y' COMMENT ', CONSTRAINT a CHECK',"
        " `v` Map(String, Int64) CODEC(ZSTD(1)) TTL ts + toIntervalDay(1), CONSTRAINT few CHECK length(v) < 3,"
        " CONSTRAINT sure ASSUME v != map(), INDEX i ts TYPE minmax) ENGINE = MergeTree ORDER BY (ts, note)"
        " TTL ts + toIntervalDay(9)"
    )
    assert list(column_ttls(definition)) == [("v", "ts + toIntervalDay(1)")]
    assert list(checks(definition)) == [("few", "length(v) < 3")]
    assert list(checks("CREATE VIEW shop.seen AS SELECT 1")) == []
