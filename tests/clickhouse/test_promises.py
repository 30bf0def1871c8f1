"""The user's view of a running backfill, and the fate of a chunk that is too large for the server."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import clickhouse_connect
import pytest

from airflow_provider_backfill.clickhouse.client import ClickHouse, from_client
from airflow_provider_backfill.commands import chunk_bounds, plan_inputs
from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Payload, Session
from airflow_provider_backfill.core.instants import parse_instant, render_instant
from airflow_provider_backfill.core.plan import RowProof, WriteMode
from tests.clickhouse.lab import Lab

DAYS = ("2025-01-01", "2025-01-05")


def test_readers_never_see_a_half_filled_partition(http_lab: Lab) -> None:
    """While days are replaced, each read of a day finds all of its old rows or all of its new ones."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt32, version UInt8) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 2, number, 2 FROM numbers(172800)",
        "CREATE TABLE dst (ts DateTime('UTC'), id UInt32, version UInt8) ENGINE = MergeTree PARTITION BY toDate(ts)"
        " ORDER BY id",
        # In many small parts, so that a swap has something to be half done with.
        "INSERT INTO dst SELECT ts, id, 1 FROM src WHERE id % 3 = 0 SETTINGS max_block_size = 3000,"
        " min_insert_block_size_rows = 3000",
    )
    plan = lab.plan("dst", *DAYS, 24, source="src", write_mode=WriteMode.REPLACE)
    seen: set[tuple[int, int, int, int]] = set()
    reads = 0
    ended = threading.Event()

    def read() -> None:
        nonlocal reads
        client = lab.server()
        while not ended.is_set():
            for row in client.rows(
                "SELECT toDayOfMonth(ts) AS day, count(), min(version), max(version)"
                f" FROM {lab.table('dst')} GROUP BY day"
            ):
                seen.add(row)
            reads += 1

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(3):
            payload = lab.run(plan, replay_done=True, parallel=2)
    finally:
        ended.set()
        reader.join()
    assert payload["status"] == "completed"
    assert seen == {(day, count, v, v) for day in (1, 2, 3, 4) for v, count in ((1, 14400), (2, 43200))}
    assert reads > 20


def test_a_cancel_reaches_the_question_to_the_source(http_lab: Lab) -> None:
    """Before the insert the source is asked for its rows; that query ends with a cancel as the insert would."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number, number FROM numbers(1000)",
        "CREATE TABLE dst AS src",
    )
    # Forty parts of a second each.
    lab.sql("SYSTEM STOP MERGES src", *["INSERT INTO src SELECT * FROM src LIMIT 1000"] * 40)
    select = f"SELECT ts + sleepEachRow(0.001) AS ts, id FROM {lab.table('src')}"
    plan = lab.plan("dst", "2025-01-01", "2025-01-02", 24, select=select, row_proof=RowProof.CONTENT)
    ended: list[Payload] = []
    runner = threading.Thread(target=lambda: ended.append(lab.run(plan)))
    runner.start()
    mine = f"SELECT query_id FROM system.processes WHERE startsWith(query_id, 'backfill-{plan['planId']}')"
    while not (found := lab.rows(mine)):
        time.sleep(0.05)
    cancel_plan(lab.session, plan["planId"])
    assert found[0][0].endswith("-1.source.1")
    assert lab.rows(mine) == []
    runner.join()
    assert (ended[0]["status"], ended[0]["chunkCounts"]["done"]) == ("cancelled", 0)


def test_a_chunk_that_needs_too_much_memory_is_split(http_lab: Lab) -> None:
    """Under a limit of 1 GiB a day of 120,000 rows that are 12 kB each while they are grouped goes in parts."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt32) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + intDiv(number * 18, 25), number FROM numbers(120000)",
        "CREATE TABLE dst (hour DateTime('UTC'), bytes UInt64) ENGINE = MergeTree ORDER BY hour",
    )
    select = (
        "SELECT toStartOfHour(ts) AS hour, length(arrayStringConcat(groupArray(repeat(toString(id % 10), 12000))))"
        f" AS bytes FROM {lab.table('src')} GROUP BY hour"
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-02", 24, select=select)
    limited = Session(lab.session.store, lab.session.options, lambda: _limited(lab), "test")
    payload = run_plan(limited, plan["planId"])
    assert (payload["status"], payload["chunkCounts"]["done"]) == ("completed", payload["chunkCounts"]["total"])
    assert payload["chunkCounts"]["total"] >= 2
    assert payload["lastError"].startswith("ClickHouse refused the statement")
    assert lab.rows("SELECT count(), uniq(hour), sum(bytes) FROM dst") == [(24, 24, 120_000 * 12_000)]
    assert lab.leftovers() == []


def _limited(lab: Lab) -> ClickHouse:
    """A connection of a user whose statements get 1 GiB."""
    at = urlsplit(lab.engine.url)
    return from_client(
        lambda: clickhouse_connect.get_client(
            host=at.hostname,
            port=at.port,
            database=lab.engine.database,
            autogenerate_session_id=False,
            settings={"max_memory_usage": 1 << 30},
        ),
        "the server",
    )


@dataclass(frozen=True)
class Cut:
    """How a chunk of *hours* is cut; ``[]`` when it cannot be."""

    hours: float
    bounds: list[str]
    wanted: dict[str, Any]


HOURLY = "SELECT toStartOfHour(ts) AS ts, count() AS id FROM {} GROUP BY ts"
CUTS = {
    "rows are cut in the middle": Cut(5, ["2025-01-01T02:30:00.000Z"], {"source": "src"}),
    "not below the shortest chunk": Cut(0.4, [], {"source": "src"}),
    "groups are cut at a bucket": Cut(5, ["2025-01-01T02:00:00.000Z"], {"select": HOURLY}),
    "one bucket is not cut": Cut(1, [], {"select": HOURLY}),
    "partitions are cut between two": Cut(72, ["2025-01-02T00:00:00.000Z"], {"write_mode": WriteMode.REPLACE}),
    "one partition is not cut": Cut(24, [], {"write_mode": WriteMode.REPLACE}),
}


@pytest.mark.parametrize("cut", CUTS.values(), ids=CUTS)
def test_a_chunk_is_cut_where_the_plan_may_have_a_bound(http_lab: Lab, cut: Cut) -> None:
    """As near to the middle as a bucket of the SELECT, and a partition to be replaced, allow."""
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src VALUES ('2025-01-01', 1)",
        "CREATE TABLE dst (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
    )
    wanted = {"source": "src", **cut.wanted}
    if "select" in wanted:
        wanted = {"select": wanted["select"].format(lab.table("src"))}
    end = render_instant(parse_instant("2025-01-01") + timedelta(hours=cut.hours))
    plan = lab.session.store.load_plan(lab.plan("dst", "2025-01-01", end, cut.hours, **wanted)["planId"])
    with lab.session.connected() as server:
        target = plan_inputs.target_facts(server, lab.table("dst"))
        parts = chunk_bounds.split_chunk(server, target, plan, next(plan.chunks()))
    assert [render_instant(part.start) for part in parts[1:]] == cut.bounds
    if parts:
        assert (parts[0].start, parts[0].end, parts[-1].end) == (plan.start, parts[1].start, plan.end)


@pytest.mark.parametrize(
    ("parallel", "settings", "share", "threads"),
    [
        (1, {}, 1, ""),
        (2, {}, 2, "share"),
        (1, {"max_insert_threads": "3"}, None, ""),
        (2, {"max_threads": "7"}, 2, "7"),
    ],
)
def test_chunks_share_the_threads_of_the_server(
    http_lab: Lab, parallel: int, settings: dict[str, str], share: int | None, threads: str
) -> None:
    """
    A single chunk reads with all threads, and writes with all, up to four, as a person would; parallel chunks share.

    The user's setting takes precedence.
    """
    lab = http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + intDiv(number, 5), number FROM numbers(864000)",
        "CREATE TABLE dst AS src",
    )
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src", settings=settings)
    payload = lab.run(plan, parallel=parallel)
    assert (payload["status"], payload["rowsWritten"]) == ("completed", 864000)
    lab.sql("SYSTEM FLUSH LOGS")
    used = lab.rows(
        "SELECT Settings['max_insert_threads'], Settings['max_threads'] FROM system.query_log WHERE"
        f" type = 'QueryFinish' AND query_kind = 'Insert' AND query_id LIKE 'backfill-{payload['planId']}-%'"
        " ORDER BY event_time_microseconds"
    )
    cores = lab.server().free_threads
    assert cores == lab.server().insert_threads >= 1
    writing = 3 if share is None else min(max(cores // share, 1), 4)
    reading = str(max(cores // parallel, 1)) if threads == "share" else threads
    # The last chunk runs alone, if the other one has ended before.
    assert used[0] == ("" if writing == 1 else str(writing), reading)
