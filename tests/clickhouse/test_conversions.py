"""Values that change their type on the way into the target: as an INSERT changes them, in fill and verification alike."""

# ruff: noqa: E501 - a statement a line
from __future__ import annotations

from airflow_provider_backfill.commands.verify import verify_plan
from tests.clickhouse.lab import Lab

_ROWS = "toDateTime('2025-01-01', 'UTC') + number * 600 AS ts"


def test_a_null_becomes_the_default_as_in_an_insert(lab: Lab) -> None:
    """The comparison uses the value that an INSERT stores for a NULL: the column's default, also in a key."""
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), user Nullable(UInt32), v Nullable(UInt32), w LowCardinality(Nullable(String)))"
        " ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO src SELECT {_ROWS}, if(number % 10 = 0, NULL, number % 50), if(number % 3 = 0, NULL, number),"
        " if(number % 4 = 0, NULL, 'x') FROM numbers(288)",
        "CREATE TABLE dst (ts DateTime('UTC'), user UInt32, v UInt32 DEFAULT 7, w String DEFAULT 'none')"
        " ENGINE = MergeTree ORDER BY (user, ts)",
        "CREATE TABLE truth AS dst",
        "INSERT INTO truth SELECT ts, user, v, w FROM src",
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("dst") == lab.content("truth")
    assert verify_plan(lab.session, plan["planId"])["ok"]
    lab.sql("ALTER TABLE dst UPDATE v = 8 WHERE v = 7 AND user = 3 SETTINGS mutations_sync = 2")
    assert not verify_plan(lab.session, plan["planId"])["ok"]


def test_a_default_that_reads_other_columns(lab: Lab) -> None:
    """
    The default can be inserted but is not recomputed here: the rows are correct, and verify names the uncompared
    column.
    """
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), v Nullable(UInt32)) ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO src SELECT {_ROWS}, if(number % 3 = 0, NULL, number) FROM numbers(288)",
        "CREATE TABLE dst (ts DateTime('UTC'), v UInt32 DEFAULT toUnixTimestamp(ts)) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE truth AS dst",
        "INSERT INTO truth SELECT ts, v FROM src",
    )
    lab.fill("dst", "2025-01-01", "2025-01-03", 24, select=f"SELECT ts, v FROM {lab.table('src')}")
    assert lab.content("dst") == lab.content("truth")


def test_wider_types_need_no_cast(lab: Lab) -> None:
    """A table copied into one of wider types, without a SELECT by hand."""
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), kind Enum8('a' = 1), id UUID, m Map(String, UInt32), ok Bool, ip IPv4)"
        " ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO src SELECT {_ROWS}, 'a', toUUID('61f0c404-5cb3-11e7-907b-a6006ad3dba0'), map('k', number), number % 2,"
        " '10.0.0.1' FROM numbers(288)",
        "CREATE TABLE dst (ts DateTime64(3, 'Europe/Berlin'), kind Enum16('a' = 1, 'b' = 2), id String,"
        " m Map(LowCardinality(String), UInt64), ok UInt8, ip IPv6) ENGINE = MergeTree ORDER BY ts",
        "CREATE TABLE truth AS dst",
        "INSERT INTO truth SELECT * FROM src",
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("dst") == lab.content("truth")
    assert verify_plan(lab.session, plan["planId"])["ok"]


def test_aggregate_states_by_plain_inserts(http_lab: Lab) -> None:
    """States cannot be sorted, so an INSERT of states has no order."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO src SELECT {_ROWS}, number % 50 FROM numbers(288)",
        "CREATE TABLE local (hour DateTime('UTC'), u AggregateFunction(uniq, UInt32)) ENGINE = AggregatingMergeTree ORDER BY hour",
        "CREATE TABLE dist AS local ENGINE = Distributed(one_shard, currentDatabase(), local)",
        "CREATE MATERIALIZED VIEW mv TO dist AS SELECT toStartOfHour(ts) AS hour, uniqState(user) AS u FROM src GROUP BY hour",
    )
    lab.fill("dist", "2025-01-01", "2025-01-03", 24, write_mode="insert", accept_at_least_once=True)
    assert lab.rows("SELECT uniqExact(hour), uniqMerge(u) FROM local") == [(48, 50)]
