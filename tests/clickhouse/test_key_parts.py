"""Chunks below the shortest time: parts by the sorting key of the source, planned and after a failure."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest

from airflow_provider_backfill.clickhouse.client import ClickHouse, from_client
from airflow_provider_backfill.clickhouse.key_samples import key_columns, rows_by_condition
from airflow_provider_backfill.commands import chunk_bounds, plan_inputs
from airflow_provider_backfill.commands.coverage import read_coverage
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.key_ranges import KeyColumn
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab

DAY = {"start": "2025-01-01", "end": "2025-01-02", "source": "src"}
LIMIT = Chunking(hours=6, rows=5_000)
# Half an hour belongs to one tenant, and a quarter of an hour is the shortest chunk.
TABLE = """
    CREATE TABLE src (ts DateTime('UTC'), tenant LowCardinality(String), v UInt64) ENGINE = MergeTree
    ORDER BY {} SETTINGS index_granularity = 128
"""
QUIET = """
    INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 10, 't' || toString(number % 9), number
    FROM numbers(8640)
"""
LOUD = """
    INSERT INTO src SELECT toDateTime('2025-01-01 10:00:00', 'UTC') + number % 1800, 'big', number
    FROM numbers(40000)
"""


def sources(lab: Lab, key: str = "(tenant, ts)") -> None:
    lab.sql(TABLE.format(key), QUIET, LOUD, f"CREATE TABLE dst AS src ENGINE = MergeTree ORDER BY {key}")


@pytest.mark.parametrize("key", ["(tenant, ts)", "(toDate(ts), tenant, ts)", "ts", "(ts, tenant)", "v"])
def test_no_chunk_is_heavier_than_the_limit(lab: Lab, key: str) -> None:
    """Whatever the source is sorted by: the rows are the same, and no chunk has more of them than was asked for."""
    sources(lab, key)
    plan = lab.plan("dst", chunking=LIMIT, **DAY)
    stored = lab.session.store.load_plan(plan["planId"])
    assert stored.parts
    assert plan["chunkCount"] == stored.total_chunks
    assert plan["warnings"] == []
    done = lab.run(plan)
    assert done["status"] == "completed"
    assert done["chunkCounts"]["total"] == done["chunkCounts"]["done"] == stored.total_chunks
    assert lab.content("dst") == lab.content("src")
    run = lab.session.store.open_run(stored).run
    assert max(rows for _, rows, _, _ in run.done.values()) <= 5_000


def test_the_index_is_used(http_lab: Lab) -> None:
    """An INSERT reads only its own rows and a few granules: a key range is not a scan with a filter."""
    lab = http_lab
    sources(lab)
    plan = lab.plan("dst", chunking=LIMIT, **DAY)
    assert lab.run(plan)["status"] == "completed"
    lab.sql("SYSTEM FLUSH LOGS")
    read = lab.value(
        "SELECT max(read_rows) FROM system.query_log WHERE type = 'QueryFinish' AND query_kind = 'Insert'"
        f" AND startsWith(query_id, 'backfill-{plan['planId']}')"
    )
    assert read <= 5_000 * 1.25


TYPES = {
    "Int8": "number % 200 - 100",
    "UInt256": "number * 1000000007",
    "Date": "toDate('2024-12-01') + number % 90",
    "Date32": "toDate32('1925-01-01') + number % 90",
    "DateTime('Europe/Berlin')": "toDateTime('2025-10-25 23:00:00', 'UTC') + number * 7",
    "DateTime64(9, 'America/New_York')": "fromUnixTimestamp64Nano(toInt64(1730610000000000001 + number * 1000000001))",
    "String": "concat('it''s \\\\ ', toString(number % 50), '\\n\\t\\0')",
    "String CODEC(NONE)": "concat(if(number % 2 = 0, unhex('ff'), 'z'), toString(number % 50))",
    "FixedString(16)": "if(number % 2 = 0, MD5(toString(number)), toFixedString(toString(number), 16))",
    "FixedString(5)": "toFixedString(toString(number % 300), 5)",
    "LowCardinality(String)": "toString(number % 40)",
    "UUID": "reinterpretAsUUID(cityHash64(number))",
    "IPv4": "toIPv4(toUInt32(number * 65537))",
    "IPv6": "toIPv6(concat('2001:db8::', hex(number)))",
    "Decimal(18, 4)": "toDecimal64(number, 4) / 7",
    "Enum8('a' = -1, 'b' = 1, 'c' = 0)": "['a', 'b', 'c'][number % 3 + 1]",
    "Bool": "number % 2 = 0",
    "Float64": "if(number % 10 = 0, nan, number / 3)",
    "Nullable(String)": "if(number % 5 = 0, NULL, toString(number % 30))",
}


@pytest.mark.parametrize("kind", TYPES)
def test_every_row_lies_in_one_part_whatever_the_keys_type(lab: Lab, kind: str) -> None:
    """Literals compare as the column sorts: an hour that comes twice, signs, quotes, NaN and NULL."""
    lab.sql(
        f"CREATE TABLE src (k {kind}, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY k"
        " SETTINGS allow_nullable_key = 1",
        f"INSERT INTO src SELECT {TYPES[kind]}, toDateTime('2025-01-01', 'UTC') FROM numbers(3000)",
        "CREATE TABLE dst (k String, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
    )
    select = f"SELECT toString(assumeNotNull(k)) AS k, ts FROM {lab.table('src')}"
    limit: dict[str, Any] = {"time_column": "ts", "chunking": Chunking(hours=24, rows=1_100)}
    plan = lab.plan("dst", "2025-01-01", "2025-01-02", select=select, **limit)
    stored = lab.session.store.load_plan(plan["planId"])
    ((_, ranges),) = stored.parts.items()
    with lab.session.connected() as server:
        counts = rows_by_condition(server, lab.table("src"), "1", ranges)
        anywhere = " OR ".join(f"({each})" for each in ranges)
        (together,) = server.numbers(f"SELECT count() FROM {lab.table('src')} WHERE {anywhere}")
    assert len(ranges) > 1
    assert sum(counts) == together == 3000


def test_verify_sees_rows_that_two_parts_share(lab: Lab) -> None:
    """A check that reads the source part by part would count these rows twice, as the target has them."""
    sources(lab)
    store, plan = lab.session.store, lab.plan("dst", chunking=LIMIT, **DAY)
    stored = store.load_plan(plan["planId"])
    store.retire_plan(stored.plan_id, "before")
    parts = {place: (*ranges, "tenant = 'big'") for place, ranges in stored.parts.items()}
    store.save_plan(stored.model_copy(update={"parts": parts}))
    assert lab.run(plan)["status"] == "completed"
    found = verify_plan(lab.session, plan["planId"])
    assert (found["verdict"], found["rowsFromSource"], found["rowsInTarget"]) == ("differs", 48_640, 88_640)


def test_parts_are_asked_for_where_results_add_up(lab: Lab) -> None:
    """States of an AggregatingMergeTree add up; finished aggregates in a ReplacingMergeTree do not, and it is said."""
    sources(lab)
    lab.sql(
        "CREATE TABLE states (tenant String, hour DateTime('UTC'), n AggregateFunction(uniqExact, UInt64))"
        " ENGINE = AggregatingMergeTree ORDER BY (tenant, hour)",
        "CREATE TABLE finished (tenant String, hour DateTime('UTC'), n UInt64)"
        " ENGINE = ReplacingMergeTree ORDER BY (tenant, hour)",
    )
    select = "SELECT tenant, toStartOfHour(ts) AS hour, {}(v) AS n FROM {} GROUP BY tenant, hour"
    window: dict[str, Any] = {"start": "2025-01-01", "end": "2025-01-02", "chunking": LIMIT}
    plan = lab.plan("states", select=select.format("uniqExactState", lab.table("src")), **window)
    assert lab.session.store.load_plan(plan["planId"]).parts
    assert lab.run(plan)["status"] == "completed"
    query = "SELECT tenant, {} AS hour, {} FROM {} GROUP BY tenant, hour ORDER BY tenant, hour"
    assert lab.rows(query.format("hour", "uniqExactMerge(n)", "states")) == lab.rows(
        query.format("toStartOfHour(ts)", "uniqExact(v)", "src")
    )
    plan = lab.plan("finished", select=select.format("uniqExact", lab.table("src")), **window)
    assert not lab.session.store.load_plan(plan["planId"]).parts
    (warning,) = [each for each in plan["warnings"] if "than the limit" in each["message"]]
    assert "2025-01-01T10:00:00Z to 2025-01-01T11:00:00Z" in warning["message"]
    assert lab.run(plan)["status"] == "completed"


def test_rows_of_one_key_are_left_together_and_it_is_said(lab: Lab) -> None:
    sources(lab, "tenant")
    plan = lab.plan("dst", chunking=LIMIT, **DAY)
    assert len(plan["warnings"]) == 1
    assert "times as much" in plan["warnings"][0]["message"]
    assert lab.run(plan)["status"] == "completed"
    assert lab.content("dst") == lab.content("src")


def test_a_window_is_covered_when_all_its_parts_are(lab: Lab) -> None:
    """One done part of a window proves nothing about the others."""
    sources(lab)
    plan = lab.plan("dst", chunking=LIMIT, **DAY)

    stored = lab.session.store.load_plan(plan["planId"])
    heavy = {part.id for parts in stored.planned_parts().values() for part in parts}
    stops: list[Any] = []

    def stop_within_parts(event: Any) -> None:
        if event.type == "ChunkDone" and event.chunk_id in heavy:
            stops[0].stop("enough")

    lab.run(plan, on_start=lambda worker, *_: stops.append(worker), report=stop_within_parts)
    run = lab.session.store.open_run(stored).run
    assert heavy & set(run.done)
    (where,) = read_coverage(lab.session, lab.table("dst"), parse_instant("2025-01-01"), parse_instant("2025-01-02"))[
        "servers"
    ]
    assert where["covered"][-1]["to"] <= "2025-01-01T10:15:00.000Z"
    assert where["gaps"][0]["from"] <= "2025-01-01T10:15:00.000Z"
    assert lab.run(plan, resume=True)["status"] == "completed"
    assert lab.content("dst") == lab.content("src")


def test_the_window_of_a_part_is_not_deleted(lab: Lab) -> None:
    """It is the window of the other parts as well."""
    sources(lab)
    plan = lab.plan("dst", chunking=LIMIT, **DAY)
    lab.run(plan)
    with pytest.raises(RequestError, match="cut by the sorting key"):
        lab.run(plan, replay_done=True, clear_window=True)
    assert lab.content("dst") == lab.content("src")


def memory_of(lab: Lab, most: int) -> ClickHouse:
    """A connection of a user whose statements may use *most* bytes of memory."""
    at = urlsplit(lab.engine.url)
    settings = {"max_memory_usage": most, "max_threads": 1, "max_bytes_ratio_before_external_group_by": 0}
    return from_client(
        lambda: clickhouse_connect.get_client(
            host=at.hostname,
            port=at.port,
            database=lab.engine.database,
            autogenerate_session_id=False,
            settings=settings,
        ),
        "the server",
    )


def test_the_shortest_chunk_that_needs_too_much_memory_is_completed(http_lab: Lab) -> None:
    """Where time cannot be cut further, the key is cut, repeatedly if needed."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), user UInt64, v String) ENGINE = MergeTree ORDER BY (user, ts)",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number % 900, number % 50000, repeat('x', 100)"
        " || toString(number) FROM numbers(400000)",
        "CREATE TABLE dst (user UInt64, v AggregateFunction(groupUniqArray, String))"
        " ENGINE = AggregatingMergeTree ORDER BY user",
    )
    select = f"SELECT user, groupUniqArrayState(v) AS v FROM {lab.table('src')} GROUP BY user"
    plan = lab.plan("dst", "2025-01-01", "2025-01-01T00:15Z", hours="15min", select=select)
    limited = Session(lab.session.store, lab.session.options, lambda: memory_of(lab, 40_000_000), "test")
    done = run_plan(limited, plan["planId"])
    assert done["status"] == "completed"
    assert done["chunkCounts"]["total"] > 1
    query = "SELECT user, arraySort({}(v)) FROM {} GROUP BY user ORDER BY user"
    assert lab.rows(query.format("groupUniqArrayMerge", "dst")) == lab.rows(query.format("groupUniqArray", "src"))


def test_a_hash_is_taken_where_a_key_has_no_order_that_literals_keep(lab: Lab) -> None:
    lab.sql(
        "CREATE TABLE src (k Float64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY k",
        "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') FROM numbers(1000)",
        "CREATE TABLE dst AS src ENGINE = MergeTree ORDER BY ts",
    )
    plan = lab.session.store.load_plan(
        lab.plan("dst", "2025-01-01", "2025-01-01T00:15Z", hours="15min", source="src")["planId"]
    )
    with lab.session.connected() as server:
        assert key_columns(server, lab.table("src")) == (KeyColumn("k", "Float64"),)
        target = plan_inputs.target_facts(server, lab.table("dst"))
        first, second = chunk_bounds.split_chunk(server, target, plan, next(plan.chunks()))
        again = chunk_bounds.split_chunk(server, target, plan, first)
        counts = rows_by_condition(server, lab.table("src"), "1", [part.key_range for part in (*again, second)])
    assert sum(counts) == 1000
    assert all(100 < count < 700 for count in counts)
    assert len({part.id for part in (first, second, *again)}) == 4
