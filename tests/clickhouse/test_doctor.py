"""Each finding of doctor on a real server: the state, the finding, its remedy pasted, and it is gone."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import suppress
from pathlib import Path

import clickhouse_connect
import pytest

from airflow_provider_backfill.clickhouse import diagnostics
from airflow_provider_backfill.core.plan import WriteMode
from tests.clickhouse.ward import Ward
from tests.command_line import wait_until
from tests.conftest import Engine

DIRECT = {"write_mode": WriteMode.INSERT, "accept_at_least_once": True}


def test_a_sound_plan_has_nothing_but_its_work_to_do(ward: Ward) -> None:
    """A doctor that always finds something is not read."""
    plan = ward.planned()
    assert set(ward.doctor(plan)) == {"backfill_required_pending"}
    ward.run(plan)
    assert ward.doctor(plan) == {}
    assert "no problems found" in ward.cli("doctor", "--plan-id", plan["planId"]).out


def test_the_embedded_engine_can_be_looked_at_too(
    embedded: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ward = Ward(embedded, tmp_path / "state", capsys)
    ward.events()
    ward.target()
    plan = ward.planned()
    assert set(ward.doctor(plan)) == {"backfill_required_pending"}
    assert ward.cli.json("doctor", "--plan-id", plan["planId"])["notLookedAt"] == []


def test_without_a_server_it_says_so_and_does_not_guess(ward: Ward) -> None:
    plan = ward.planned()
    ward.sql("DROP TABLE filled")
    ward.cli.url = ""
    payload = ward.cli.json("doctor", "--plan-id", plan["planId"])
    assert payload["issueCodes"] == ["backfill_required_pending"]
    assert payload["notLookedAt"] == ["ClickHouse: none was named (--clickhouse-url, CLICKHOUSE_URL)"]
    ward.cli.url = "http://default@127.0.0.1:9/db"
    assert "could not be reached" in ward.cli.json("doctor", "--plan-id", plan["planId"])["notLookedAt"][0]
    assert ward.cli("doctor", "--target", "a.b").code == 1


# ---------------------------------------------------------------- tables and statements


def test_backfill_target_missing(ward: Ward) -> None:
    plan = ward.planned()
    ward.sql("DROP TABLE filled SYNC")
    assert plan["target"] in ward.doctor(plan)["backfill_target_missing"]["message"]
    assert "backfill_target_missing" in ward.doctor(None, "--target", plan["target"])
    ward.target()
    assert "backfill_target_missing" not in ward.doctor(plan)


def test_backfill_source_missing(ward: Ward) -> None:
    plan = ward.planned()
    ward.sql("DROP TABLE events SYNC")
    assert f"{ward.engine.database}.events" in ward.doctor(plan)["backfill_source_missing"]["message"]
    ward.events()
    assert "backfill_source_missing" not in ward.doctor(plan)


def test_a_statement_the_server_refuses_by_now(ward: Ward) -> None:
    """A column that was dropped since shows here, not in the first chunk."""
    plan = ward.planned()
    ward.sql("ALTER TABLE events DROP COLUMN v")
    assert "`v`" in ward.doctor(plan)["backfill_source_missing"]["message"]
    ward.sql("ALTER TABLE events ADD COLUMN v Float64")
    assert "backfill_source_missing" not in ward.doctor(plan)


def test_backfill_environment(ward: Ward) -> None:
    """127.0.0.2 is the same server under another address."""
    plan = ward.planned()
    ward.cli.url = ward.cli.url.replace("127.0.0.1", "127.0.0.2")
    finding = ward.doctor(plan)["backfill_environment"]
    assert "127.0.0.2" in finding["message"]
    assert ward.paste(finding) == 0
    assert ward.doctor(plan) == {}


def test_backfill_filter_missing(ward: Ward) -> None:
    """The key of the filter names a table that the view no longer reads: ClickHouse ignores it silently."""
    ward.sql("CREATE VIEW face AS SELECT * FROM events", "CREATE TABLE other AS events")
    select = f"SELECT * FROM {ward.engine.database}.face"
    plan = ward.planned(select=select, filter_table=ward.table("events"))
    assert "backfill_filter_missing" not in ward.doctor(plan)
    ward.sql("CREATE OR REPLACE VIEW face AS SELECT * FROM other")
    finding = ward.doctor(plan)["backfill_filter_missing"]
    assert finding["severity"] == "error"
    assert f"{ward.engine.database}.events" in finding["message"]
    ward.sql("CREATE OR REPLACE VIEW face AS SELECT * FROM events")
    assert "backfill_filter_missing" not in ward.doctor(plan)


def test_backfill_not_pruned(ward: Ward) -> None:
    ward.sql("DROP TABLE events SYNC")
    ward.events(tail="ORDER BY k")
    message = ward.cured(ward.planned(), "backfill_not_pruned")
    assert "each of the 4 chunks reads all of it" in message


def test_backfill_source_read_twice(ward: Ward) -> None:
    """Each side of a self-join sees its own chunk only; with one chunk that is all of the window."""
    events = f"{ward.engine.database}.events"
    select = f"SELECT a.ts AS ts, a.k AS k, b.v AS v FROM {events} a JOIN {events} b ON a.ts = b.ts"
    finding = ward.doctor(ward.planned(select=select))["backfill_source_read_twice"]
    assert "2 times" in finding["message"]
    assert ward.paste(finding) == 0
    (one,) = [plan for plan in ward.cli.json("list")["plans"] if plan["total"] == 1]
    assert "backfill_source_read_twice" not in ward.doctor(one)


def test_backfill_select_unstable(ward: Ward) -> None:
    events = f"{ward.engine.database}.events"
    plan = ward.planned(select=f"SELECT ts, k, toUnixTimestamp(now()) * v AS v FROM {events}")
    assert "now()" in ward.doctor(plan)["backfill_select_unstable"]["message"]
    plan = ward.planned(hours=4, select=f"SELECT ts, k, toUnixTimestamp(ts) * v AS v FROM {events}")
    assert "backfill_select_unstable" not in ward.doctor(plan)
    limited = f"SELECT ts, k, v FROM {events} {{}} LIMIT 1 BY toStartOfHour(ts)"
    plan = ward.planned(hours=6, select=limited.format(""))
    assert "LIMIT BY" in ward.doctor(plan)["backfill_select_unstable"]["message"]
    plan = ward.planned(hours=8, select=limited.format("ORDER BY ts"))
    assert "backfill_select_unstable" not in ward.doctor(plan)


def test_backfill_bounds_misfit(ward: Ward) -> None:
    """The target was created again, with larger partitions than the plan's chunks cover."""
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toDate(ts) ORDER BY ts")
    plan = ward.planned(hours=24, write_mode=WriteMode.REPLACE)
    assert "backfill_chunk_misaligned" not in ward.doctor(plan)
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toMonday(ts) ORDER BY ts")
    finding = ward.doctor(plan)["backfill_chunk_misaligned"]
    assert "toMonday(ts)" in finding["message"]
    assert ward.paste(finding) == 0
    (planned,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    assert "backfill_chunk_misaligned" not in ward.doctor(planned)


def test_backfill_epoch_unit(ward: Ward) -> None:
    """Milliseconds read as seconds lie 50,000 years ahead, so every chunk would be empty and "done"."""
    ward.sql(
        "DROP TABLE events SYNC",
        "DROP TABLE filled SYNC",
        "CREATE TABLE events (at Int64, v UInt32) ENGINE = MergeTree ORDER BY at",
        "CREATE TABLE filled (at Int64, v UInt32) ENGINE = MergeTree ORDER BY at",
        "INSERT INTO events SELECT (1735689600 + number * 60) * 1000, number FROM numbers(1000)",
    )
    plan = ward.planned(time_column="at", time_unit="s")
    assert "as ms it is near" in ward.cured(plan, "backfill_epoch_unit")


# ---------------------------------------------------------------- hidden, deleted, missing or doubled rows


def test_backfill_ttl_deletes(ward: Ward) -> None:
    plan = ward.planned()
    # Far in the future for the one, long past for the other; the third moves and deletes nothing.
    ward.sql("ALTER TABLE filled MODIFY TTL ts + INTERVAL 50 YEAR, ts + INTERVAL 1 DAY RECOMPRESS CODEC(ZSTD(3))")
    assert "backfill_ttl_deletes" not in ward.doctor(plan)
    ward.sql("ALTER TABLE filled MODIFY TTL ts + INTERVAL 3 DAY WHERE k = 1")
    assert "2025-01-03" in ward.cured(plan, "backfill_ttl_deletes")


def _day_counts(ward: Ward) -> None:
    ward.sql("CREATE TABLE counts (ts DateTime('UTC'), n UInt64) ENGINE = SummingMergeTree ORDER BY ts")
    ward.sql(
        "CREATE MATERIALIZED VIEW hanging TO counts AS"
        " SELECT toStartOfDay(ts) AS ts, count() AS n FROM filled GROUP BY ts"
    )


def test_backfill_views_missed(ward: Ward) -> None:
    """What hangs on the target is backfilled after it, from the target."""
    _day_counts(ward)
    plan = ward.planned()
    finding = ward.doctor(plan)["backfill_views_missed"]
    assert f"{ward.engine.database}.hanging, so {ward.engine.database}.counts misses" in finding["message"]
    ward.run(plan)
    assert ward.rows("SELECT * FROM counts") == []
    assert ward.paste(finding) == 0
    (after,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    ward.run(after)
    assert [n for (n,) in ward.rows("SELECT sum(n) FROM counts GROUP BY ts ORDER BY ts")] == [1440, 1440]
    assert ward.doctor(plan) == {}


def test_backfill_views_missed_of_a_view_that_holds_its_own_rows(ward: Ward) -> None:
    ward.sql("CREATE MATERIALIZED VIEW own ENGINE = MergeTree ORDER BY ts AS SELECT ts, k FROM filled")
    plan = ward.planned()
    finding = ward.doctor(plan)["backfill_views_missed"]
    assert f"{ward.engine.database}.own, so {ward.engine.database}.own misses" in finding["message"]
    ward.run(plan)
    assert ward.paste(finding) == 0


def test_backfill_views_doubled(ward: Ward) -> None:
    """Staged, the target's rows come in once, and no view fires."""
    _day_counts(ward)
    plan = ward.planned(**DIRECT)
    assert "fires" in ward.doctor(plan)["backfill_views_doubled"]["message"]
    assert "backfill_views_doubled" not in ward.doctor(ward.planned(hours=6))


def test_backfill_view_refreshable(ward: Ward) -> None:
    plan = ward.planned()
    ward.sql("CREATE MATERIALIZED VIEW adds REFRESH EVERY 1 YEAR APPEND TO filled AS SELECT * FROM events LIMIT 0")
    assert "backfill_view_refreshable" not in ward.doctor(plan)
    ward.sql("CREATE MATERIALIZED VIEW swaps REFRESH EVERY 1 YEAR TO filled AS SELECT * FROM events LIMIT 0")
    finding = ward.doctor(plan)["backfill_view_refreshable"]
    assert finding["severity"] == "error"
    ward.paste(finding)
    wait_until(lambda: "backfill_view_refreshable" not in ward.doctor(plan))


def test_backfill_distributed_pending(ward: Ward) -> None:
    """Rows that were inserted but have not reached the shards are not read by any chunk."""
    ward.sql(
        "RENAME TABLE events TO base",
        "CREATE TABLE events AS base ENGINE = Distributed('two_shards', currentDatabase(), 'base', rand())",
        "SYSTEM STOP DISTRIBUTED SENDS events",
        "INSERT INTO events SETTINGS distributed_foreground_insert = 0, prefer_localhost_replica = 0"
        " SELECT * FROM base",
    )
    assert "sending is stopped" in ward.cured(ward.planned(one_shard=True), "backfill_distributed_pending")


# ---------------------------------------------------------------- parts, mutations


def test_backfill_mutation_unfinished(ward: Ward) -> None:
    plan = ward.planned()
    with suppress(Exception):
        ward.sql("ALTER TABLE events UPDATE v = throwIf(k = 3, 'no threes') WHERE 1 SETTINGS mutations_sync = 1")
    finding = ward.doctor(plan)["backfill_mutation_unfinished"]
    assert finding["severity"] == "error"
    assert "no threes" in ward.cured(plan, "backfill_mutation_unfinished")


def test_backfill_parts_limit(ward: Ward) -> None:
    plan = ward.planned()
    # Without merges, so that the parts stay.
    ward.sql("ALTER TABLE filled MODIFY SETTING parts_to_delay_insert = 5, max_bytes_to_merge_at_max_space_in_pool = 1")
    for number in range(4):
        ward.sql(f"INSERT INTO filled SELECT toDateTime('2024-01-01', 'UTC') + {number}, 0, 0")
    message = ward.cured(plan, "backfill_parts_limit")
    assert "Partition 202401" in message
    assert "4 parts (slowed down from 5" in message


@pytest.mark.parametrize("direct", [True, False])
def test_backfill_many_partitions(ward: Ward, direct: bool) -> None:
    ward.sql("DROP TABLE filled SYNC")
    ward.target(tail="PARTITION BY toStartOfFiveMinutes(ts) ORDER BY ts")
    plan = ward.planned(**(DIRECT if direct else {}))
    finding = ward.doctor(plan)["backfill_many_partitions"]
    assert "144 partitions" in finding["message"]
    assert finding["severity"] == ("error" if direct else "warn")
    assert "backfill_many_partitions" not in ward.doctor(ward.planned(hours=6, **(DIRECT if direct else {})))


def test_backfill_write_guarantee(ward: Ward) -> None:
    """Through a Distributed table rows arrive at least once; into the table behind it exactly once."""
    ward.sql("CREATE TABLE spread AS filled ENGINE = Distributed('one_shard', currentDatabase(), 'filled')")
    plan = ward.plan("spread", "2025-01-01", "2025-01-03", 12, source="events", **DIRECT)
    assert "at least once" in ward.doctor(plan)["backfill_write_guarantee"]["message"]
    assert set(ward.doctor(ward.planned())) == {"backfill_required_pending"}


def test_backfill_token_ignored(ward: Ward) -> None:
    """Of a staged plan that is not worth a word."""
    assert set(ward.doctor(ward.planned())) == {"backfill_required_pending"}
    plan = ward.planned(hours=6, **DIRECT)
    assert "non_replicated_deduplication_window = 0" in ward.cured(plan, "backfill_token_ignored")


# ---------------------------------------------------------------- leftovers


def test_backfill_staging_orphaned_of_a_finished_run(ward: Ward) -> None:
    plan = ward.planned()
    ward.run(plan)
    ward.sql(f"CREATE TABLE backfill_{plan['planId']}_0123456789abcdef_1 AS filled")
    message = ward.cured(plan, "backfill_staging_orphaned")
    assert f"backfill_{plan['planId']}_0123456789abcdef_1 (0 rows)" in message


def test_backfill_staging_orphaned_of_a_plan_that_is_not_here(ward: Ward) -> None:
    """A fresh one may be of a run with another state folder that lives."""
    table = "backfill_00000000000000aa_0123456789abcdef_sealed"
    ward.sql(f"CREATE TABLE {table} AS filled", f"INSERT INTO {table} SELECT * FROM events LIMIT 5")
    words = ("--target", f"{ward.engine.database}.filled")
    assert "backfill_staging_orphaned" not in ward.doctor(None, *words)
    metadata = "SELECT metadata_path FROM system.tables WHERE database = currentDatabase() AND name = "
    path = Path(ward.value("SELECT path FROM system.disks WHERE name = 'default'"), ward.value(f"{metadata}'{table}'"))
    old = path.stat().st_mtime - 7200
    os.utime(path, (old, old))
    finding = ward.doctor(None, *words)["backfill_staging_orphaned"]
    assert "5 rows" in finding["message"]
    assert "00000000000000aa" in finding["message"]
    ward.paste(finding)
    assert ward.leftovers() == []


def test_backfill_query_unowned(ward: Ward) -> None:
    """For example the query of a worker whose host was lost: the query still writes."""
    plan = ward.planned()
    chunk = "0123456789abcdef"
    query_id = f"backfill-{plan['planId']}-{chunk}-7"

    def sleep() -> None:
        with suppress(Exception):
            client = clickhouse_connect.get_client(dsn=ward.engine.url)
            client.query(
                "SELECT sleepEachRow(1) FROM numbers(60) SETTINGS max_block_size = 1",
                settings={"query_id": query_id, "function_sleep_max_microseconds_per_block": 0},
            )

    thread = threading.Thread(target=sleep)
    thread.start()
    wait_until(lambda: ward.value(f"SELECT count() FROM system.processes WHERE query_id = '{query_id}'"))
    message = ward.cured(plan, "backfill_query_unowned")
    thread.join()
    assert query_id in message


def test_backfill_claim_stuck(ward: Ward) -> None:
    """A killed worker: its claims wait for another worker, and doctor names the dead one."""
    select = f"SELECT ts, k, v + sleepEachRow(0.002) AS v FROM {ward.engine.database}.events"
    plan = ward.planned(select=select)
    process = ward.cli.start("run", "--plan-id", plan["planId"])
    wait_until(lambda: any(event["type"] == "ChunkStarted" for event in ward.cli.events(plan["planId"])))
    process.send_signal(signal.SIGKILL)
    process.communicate()
    finding = ward.doctor(plan)["backfill_claim_stuck"]
    assert "1 chunk of" in finding["message"]
    assert ward.paste(finding) == 0
    assert ward.doctor(plan) == {} or "backfill_claim_stuck" not in ward.doctor(plan)
    assert ward.cli.json("status", "--plan-id", plan["planId"])["status"] == "completed"


# ---------------------------------------------------------------- sizes


def test_backfill_chunks_small(ward: Ward) -> None:
    plan = ward.planned(end="2025-01-05", hours=1)
    finding = ward.doctor(plan)["backfill_chunks_small"]
    assert "60 to 60" in finding["message"]
    assert ward.paste(finding) == 0
    (planned,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    assert planned["chunkHours"] > 1
    assert "backfill_chunks_small" not in ward.doctor(planned)


def test_a_probe_that_is_broken_off_is_not_looked_at(ward: Ward, monkeypatch: pytest.MonkeyPatch) -> None:
    """An aggregation that ends before its first block returns no row; the other checks still count."""
    monkeypatch.setattr(diagnostics, "_PROBE_SECONDS", 0.001)
    # A row may take a second, so that no block is done in time; the look asks for none of the rows but here.
    plan = ward.planned(hours=48, select=f"SELECT * FROM {ward.table('events')} WHERE sleepEachRow(0.0005) = 0")
    payload = ward.cli.json("doctor", "--plan-id", plan["planId"])
    assert [text.partition(":")[0] for text in payload["notLookedAt"]] == ["partitions per chunk"]
    assert payload["estimate"] is not None


def test_backfill_chunks_large(ward: Ward) -> None:
    ward.sql(
        "INSERT INTO events SELECT toDateTime('2025-01-01', 'UTC') + intDiv(number, 1000), 0, 0 FROM numbers(110000000)"
    )
    plan = ward.planned(hours=48)
    finding = ward.doctor(plan)["backfill_chunks_large"]
    assert "about" in finding["message"]
    assert ward.paste(finding) == 0
    (planned,) = [entry for entry in ward.cli.json("list")["plans"] if entry["planId"] != plan["planId"]]
    assert planned["chunkHours"] < 48
    assert "backfill_chunks_large" not in ward.doctor(planned)
