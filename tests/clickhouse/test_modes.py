"""The write modes on real tables: the content of the target, and refusals before anything runs."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from airflow_provider_backfill.cli.text import show_status
from airflow_provider_backfill.clickhouse import catalog
from airflow_provider_backfill.clickhouse.client import ClickHouse, Counts
from airflow_provider_backfill.commands.check import check_backfills
from airflow_provider_backfill.commands.crew import Crew
from airflow_provider_backfill.commands.doctor import diagnose
from airflow_provider_backfill.commands.lease import utc_now
from airflow_provider_backfill.commands.reopen import reopen_plan
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.commands.undo import undo_plan
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.events import ChunkFailed, ChunkStarted, RunStarted
from airflow_provider_backfill.core.plan import RowProof, WriteMode
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab

SOURCE = """CREATE TABLE src (id UInt64, ts DateTime('UTC'), v Nullable(Float64), s LowCardinality(String))
ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (ts, id)"""
ROWS = """INSERT INTO src SELECT number, toDateTime('2025-01-01 00:00:00', 'UTC') + number * 60,
if(number % 7 = 0, NULL, number / 3), toString(number % 5) FROM numbers(7200)"""
TARGET = SOURCE.replace("TABLE src", "TABLE dst")


@pytest.fixture
def source(lab: Lab) -> Lab:
    """Five days with a row a minute, some values NULL."""
    lab.sql(SOURCE, ROWS)
    return lab


ENGINES = {
    "MergeTree": "MergeTree",
    "Replacing": "ReplacingMergeTree(id)",
    "Summing": "SummingMergeTree(v)",
    "Aggregating": "AggregatingMergeTree",
    "Coalescing": "CoalescingMergeTree",
}


@pytest.mark.parametrize("engine_clause", ENGINES.values(), ids=ENGINES.keys())
@pytest.mark.parametrize("mode", [WriteMode.STAGE, WriteMode.REPLACE])
def test_every_engine_gets_every_row_once(source: Lab, engine_clause: str, mode: WriteMode) -> None:
    """Collapsing engines merge by key: a staging table that merged early, or a row lost, would show in FINAL."""
    table = TARGET.replace("ENGINE = MergeTree", f"ENGINE = {engine_clause}")
    source.sql(table, table.replace("TABLE dst", "TABLE truth"), "INSERT INTO truth SELECT * FROM src")
    payload = source.fill("dst", "2025-01-01", "2025-01-06", 24, source="src", write_mode=mode)
    final = "" if engine_clause == "MergeTree" else "FINAL"
    assert payload["rowsWritten"] == 7200
    assert source.content("dst", tail=final) == source.content("truth", tail=final)
    assert source.leftovers() == []


def test_a_direct_insert_that_has_finished_is_not_repeated_after_a_stop(source: Lab) -> None:
    """The worker knows that the rows are in the target: it must say so before it ends."""
    source.sql(TARGET)
    # The stop kills the reading of the source that follows the INSERT.
    slow = f"SELECT * FROM {source.table('src')} WHERE sleepEachRow(0.001) = 0"
    wanted = {"write_mode": WriteMode.INSERT, "accept_at_least_once": True, "select": slow, "trial": False}
    plan = source.plan("dst", "2025-01-01", "2025-01-03", 24, **wanted)
    crews: list[Crew] = []

    def stop(at: str) -> None:
        if at == "inserted":
            crews[0].stop("it is a test")

    stopped = source.run(plan, step=stop, on_start=lambda crew, *_: crews.append(crew))
    assert (stopped["status"], stopped["chunkCounts"]["done"], stopped["rowsWritten"]) == ("paused", 1, 1440)
    again = source.run(plan, resume=True)
    assert (again["status"], again["attempts"]) == ("completed", 2)
    assert source.content("dst") == source.content("src", tail="WHERE ts < toDateTime('2025-01-03', 'UTC')")
    assert verify_plan(source.session, plan["planId"])["verdict"] == "equal"


def test_a_target_with_everything_on_it(source: Lab) -> None:
    """Projections, skip indices, codecs, constraints and a TTL on the target must not stop a partition from moving."""
    source.sql(
        """CREATE TABLE dst (id UInt64 CODEC(Delta, ZSTD), ts DateTime('UTC'), v Nullable(Float64),
        s LowCardinality(String), day Date MATERIALIZED toDate(ts), len UInt64 ALIAS length(s),
        extra String DEFAULT concat('x', s), INDEX iv v TYPE minmax GRANULARITY 2, CONSTRAINT c CHECK id >= 0,
        PROJECTION p (SELECT s, count() GROUP BY s))
        ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY (s, ts) TTL ts + INTERVAL 100 YEAR"""
    )
    source.fill("dst", "2025-01-01", "2025-01-06", source="src")
    assert source.content("dst", "id, ts, v, s") == source.content("src", "id, ts, v, s")
    assert source.rows("SELECT count(), uniq(day), countIf(extra = concat('x', s)) FROM dst") == [(7200, 5, 7200)]


def test_a_ttl_in_the_past_does_not_eat_rows_while_they_are_staged(source: Lab) -> None:
    """The target's own TTL decides about its rows later; the staging table must hold them all to be verified."""
    source.sql(TARGET + " TTL ts + INTERVAL 1 DAY SETTINGS merge_with_ttl_timeout = 100000")
    source.sql("SYSTEM STOP TTL MERGES dst")
    source.fill("dst", "2025-01-01", "2025-01-06", source="src")
    assert source.content("dst") == source.content("src")


def test_a_columns_ttl_in_the_past_does_not_empty_it_while_it_is_staged(source: Lab) -> None:
    """As with the table's own; a table without one has none that could be taken away."""
    source.sql(TARGET, "ALTER TABLE dst MODIFY COLUMN v Nullable(Float64) TTL ts + INTERVAL 1 DAY")
    source.sql("SYSTEM STOP TTL MERGES dst")
    source.fill("dst", "2025-01-01", "2025-01-06", source="src")
    assert source.content("dst") == source.content("src")


def test_a_chunk_may_span_many_partitions(source: Lab) -> None:
    """A chunk of five days over hourly partitions passes the server's limit of partitions per INSERT block."""
    source.sql(TARGET.replace("toYYYYMMDD(ts)", "toStartOfHour(ts)"))
    source.fill("dst", "2025-01-01", "2025-01-06", 120, source="src")
    assert source.content("dst") == source.content("src")


def test_stage_adds_to_what_is_there_only_when_told(source: Lab) -> None:
    """Rows that are there already would be there twice; the count must be shown before anything runs."""
    source.sql(TARGET, "INSERT INTO dst SELECT * FROM src WHERE id < 60")
    with pytest.raises(RequestError, match="already holds 60 rows") as refused:
        source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    assert "--write-mode replace" in refused.value.hint
    source.fill("dst", "2025-01-01", "2025-01-06", source="src", allow_existing_rows=True)
    assert source.value("SELECT count() FROM dst") == 7260


def test_rows_in_no_partition_of_time_are_deleted_first(source: Lab) -> None:
    """A table without partitions cannot replace a window, so that is not proposed; what is proposed works."""
    table = TARGET.replace("dst", "whole").replace("PARTITION BY toYYYYMMDD(ts)", "")
    source.sql(table, "INSERT INTO whole SELECT * FROM src WHERE id < 60")
    with pytest.raises(RequestError, match="already holds 60 rows") as refused:
        source.plan("whole", "2025-01-01", "2025-01-06", source="src")
    assert "--write-mode replace" not in refused.value.hint
    source.sql(refused.value.hint.split("`", 1)[1].rsplit("`; if", 1)[0])
    source.fill("whole", "2025-01-01", "2025-01-06", source="src")
    assert source.content("whole") == source.content("src")


def test_replace_rebuilds_a_window_and_leaves_the_rest(source: Lab) -> None:
    """A spoilt day gets the current rows of the source; days outside the window keep all their rows."""
    source.sql(TARGET, "INSERT INTO dst SELECT id, ts, -1, 'spoilt' FROM src")
    plan = source.plan("dst", "2025-01-02", "2025-01-04", 24, source="src", write_mode=WriteMode.REPLACE)
    assert plan["existingRows"] == 2880
    assert source.run(plan)["status"] == "completed"
    inside = "WHERE toDate(ts) IN ('2025-01-02', '2025-01-03')"
    assert source.content("dst", tail=inside) == source.content("src", tail=inside)
    assert source.value("SELECT countIf(s = 'spoilt') FROM dst") == 7200 - 2880


def test_replace_on_an_older_server_says_that_replaced_rows_may_return(
    source: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    source.sql(TARGET)
    monkeypatch.setattr(catalog, "version_numbers", lambda _: (26, 3, 9))
    plan = source.plan("dst", "2025-01-02", "2025-01-04", 24, source="src", write_mode=WriteMode.REPLACE)
    (warning,) = [one for one in plan["warnings"] if "ClickHouse 26.3 may bring back" in one["message"]]
    assert "do not restart the server so soon after a run" in warning["hint"]


def test_replace_by_nothing_empties_the_partition(source: Lab) -> None:
    """A day that the source no longer has must be gone from the target: the server refuses an empty REPLACE."""
    source.sql(TARGET, "INSERT INTO dst SELECT * FROM src", "ALTER TABLE src DROP PARTITION 20250103")
    source.fill("dst", "2025-01-02", "2025-01-05", 24, source="src", write_mode=WriteMode.REPLACE)
    assert source.content("dst") == source.content("src")


def test_replace_refuses_half_a_partition_and_its_remedy_works(source: Lab) -> None:
    """Replacing a month by half of it would delete the other half; the proposed window must be accepted."""
    source.sql(TARGET.replace("toYYYYMMDD", "toYYYYMM"), "INSERT INTO dst SELECT * FROM src")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE}
    with pytest.raises(RequestError, match="inside a partition") as refused:
        source.plan("dst", "2025-01-02", "2025-01-04", 24, **wanted)
    assert "pass --from 2025-01-01 --to 2025-02-01 --chunk-by partition" in refused.value.hint
    # Of the two ends of a single chunk, the last alone has rows of the target beside it.
    with pytest.raises(RequestError, match=r"2025-01-04T00:00:00\.000Z lies inside a partition"):
        source.plan("dst", "2024-12-04", "2025-01-04", 744, **wanted)
    source.fill("dst", "2025-01-01", "2025-02-01", 744, **wanted)
    assert source.content("dst") == source.content("src")


@pytest.mark.parametrize("emptied", [False, True], ids=["rows for the window", "no rows for the window"])
def test_replace_refuses_rows_beside_it_that_came_after_the_plan(source: Lab, emptied: bool) -> None:
    """The other half of the month is in the partition that would be replaced, or dropped, by now."""
    source.sql(TARGET.replace("toYYYYMMDD", "toYYYYMM"))
    plan = source.plan("dst", "2025-01-02", "2025-01-04", 48, source="src", write_mode=WriteMode.REPLACE)
    source.sql("INSERT INTO dst SELECT id, ts, -1, 'old' FROM src")
    if emptied:
        source.sql("ALTER TABLE src DROP PARTITION 20250102", "ALTER TABLE src DROP PARTITION 20250103")
    payload = source.run(plan)
    assert payload["status"] == "failed"
    assert "The partitions 202501 of " in payload["lastError"]
    assert "hold 4,320 rows outside the chunk" in payload["lastError"]
    assert source.value("SELECT countIf(s = 'old') FROM dst") == 7200


@pytest.mark.parametrize(
    ("key", "end", "hours"),
    [("toDayOfWeek(ts)", "2025-01-06", 24), ("(s, toMonth(ts))", "2025-02-01", 744)],
    ids=["days of any week", "months of any year"],
)
def test_replace_refuses_partitions_that_come_again(source: Lab, key: str, end: str, hours: int) -> None:
    """Rows of another week or year are in the partitions of the window; the run would refuse to delete them."""
    source.sql(TARGET.replace("toYYYYMMDD(ts)", key))
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "force": True}
    source.fill("dst", "2025-01-01", end, hours, **wanted)
    source.sql("INSERT INTO dst SELECT id, ts - INTERVAL 364 DAY, -1, s FROM src WHERE s != '0'")
    with pytest.raises(RequestError, match="5,760 rows outside the window") as refused:
        source.plan("dst", "2025-01-01", end, hours, **wanted)
    assert "pass --keep-outside" in refused.value.hint
    source.fill("dst", "2025-01-01", end, hours, **wanted, keep_outside=True)
    assert source.content("dst", tail="WHERE ts >= '2025-01-01'") == source.content("src")
    assert source.value("SELECT countIf(v = -1) FROM dst") == 5760


def test_replace_keeps_what_is_outside_when_told(source: Lab) -> None:
    """With --keep-outside the other half of the month survives, its rows untouched."""
    source.sql(TARGET.replace("toYYYYMMDD", "toYYYYMM"), "INSERT INTO dst SELECT id, ts, -1, 'old' FROM src")
    source.fill("dst", "2025-01-02", "2025-01-04", 48, source="src", write_mode=WriteMode.REPLACE, keep_outside=True)
    inside = "WHERE toDate(ts) IN ('2025-01-02', '2025-01-03')"
    assert source.content("dst", tail=inside) == source.content("src", tail=inside)
    assert source.rows("SELECT count(), countIf(s = 'old') FROM dst") == [(7200, 4320)]


def test_replace_may_be_replayed(source: Lab) -> None:
    """Replaying a done chunk gives the current source rows exactly once, even after an earlier publication."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", 24, source="src", write_mode=WriteMode.REPLACE)
    source.run(plan)
    source.sql("INSERT INTO src SELECT id + 100000, ts, v, 'late' FROM src WHERE id < 100")
    payload = source.run(plan, replay_done=True)
    assert (payload["status"], payload["rowsWritten"]) == ("completed", 7300)
    assert source.content("dst") == source.content("src")


def test_undo_brings_back_what_was_replaced(source: Lab) -> None:
    """A rebuild that turns out wrong is taken back: old rows return, days that were empty are empty again."""
    source.sql(TARGET, "INSERT INTO dst SELECT id, ts, -1, 'old' FROM src WHERE toDate(ts) != '2025-01-03'")
    before = source.content("dst")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE}
    plan = source.plan("dst", "2025-01-02", "2025-01-05", 24, **wanted, backup=True)
    source.run(plan)
    assert source.content("dst") != before
    with pytest.raises(RequestError, match="backup") as refused:
        source.run(plan, replay_done=True)
    assert "undo" in refused.value.hint
    for _ in range(2):
        payload = undo_plan(source.session, plan["planId"])
        assert (payload["status"], payload["rowsWritten"], source.content("dst")) == ("undone", 0, before)
    assert source.run(plan, resume=True)["status"] == "completed"
    inside = "WHERE ts >= '2025-01-02' AND ts < '2025-01-05'"
    assert source.content("dst", tail=inside) == source.content("src", tail=inside)


def rebuilt(source: Lab) -> dict[str, Any]:
    """A plan that has replaced two days and filled a day that was empty, with a backup."""
    source.sql(TARGET, "INSERT INTO dst SELECT id, ts, -1, 'old' FROM src WHERE toDate(ts) != '2025-01-03'")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "backup": True}
    plan = source.plan("dst", "2025-01-02", "2025-01-05", 24, **wanted)
    source.run(plan)
    return plan


@pytest.mark.parametrize("nth", [1, 2])
def test_an_undo_that_was_killed_midway_has_to_be_finished(
    source: Lab, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    """The plan is neither completed nor undone; another attempt would back up rows of the plan's own."""
    plan = rebuilt(source)
    plan_id, full = plan["planId"], source.content("dst")
    command, restored = ClickHouse.command, itertools.count(1)

    def die(self: ClickHouse, sql: str, settings: Mapping[str, Any] | None = None) -> Counts:
        if "PARTITION ID" in sql and next(restored) == nth:
            raise KeyboardInterrupt
        return command(self, sql, settings)

    with monkeypatch.context() as patch:
        patch.setattr(ClickHouse, "command", die)
        with pytest.raises(KeyboardInterrupt):
            undo_plan(source.session, plan_id)
    assert (source.content("dst") == full) == (nth == 1)
    status = read_status(source.session, plan_id)
    undo = f"clickhouse-backfill undo --plan-id {plan_id}"
    assert (status["status"], status["signal"], status["next"]) == ("cancelled", "waiting", undo)
    assert "undo     not finished; the replaced rows may be back in part" in show_status(status, io.StringIO())
    checked = check_backfills(source.session)
    (finding,) = checked["plugins"]["backfill"]["findings"]
    assert (checked["ok"], finding["severity"]) == (False, "error")
    assert "the undo is not finished" in finding["message"]
    refusals: tuple[Callable[[], object], ...] = (
        lambda: source.run(plan, resume=True),
        lambda: source.run(plan),
        lambda: reopen_plan(source.session, plan_id),
    )
    for again in refusals:
        with pytest.raises(RequestError, match="is not finished: the replaced rows") as refused:
            again()
        assert undo in refused.value.hint
    undone = undo_plan(source.session, plan_id)
    assert (undone["status"], "undoing" in undone) == ("undone", False)
    old = "WHERE v = -1 AND s = 'old'"
    assert source.content("dst")[0] == source.content("dst", tail=old)[0] == 5760
    assert check_backfills(source.session)["ok"]
    assert source.run(plan, resume=True)["status"] == "completed"
    assert source.content("dst") == full
    assert verify_plan(source.session, plan_id)["ok"]


def test_an_undo_without_its_backup_changes_nothing(source: Lab) -> None:
    plan = rebuilt(source)
    full, (backup,) = source.content("dst"), source.leftovers()
    source.sql(f"DROP TABLE {backup}")
    with pytest.raises(RequestError, match=f"{backup} is not there"):
        undo_plan(source.session, plan["planId"])
    assert read_status(source.session, plan["planId"])["status"] == "completed"
    assert source.content("dst") == full


def test_stage_is_replayed_only_with_its_window_cleared(source: Lab) -> None:
    """Staging again would double the rows, so the window has to go first; the remedy must work."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", 24, source="src")
    source.run(plan)
    with pytest.raises(RequestError, match="a second time") as refused:
        source.run(plan, replay_done=True)
    assert "--clear-window" in refused.value.hint
    source.sql("INSERT INTO src SELECT id + 100000, ts, v, 'late' FROM src WHERE id < 100")
    assert source.run(plan, replay_done=True, clear_window=True)["status"] == "completed"
    assert source.content("dst") == source.content("src")


def test_a_window_is_not_cleared_by_a_bucket(source: Lab) -> None:
    """A day's row comes from several chunks; deleting it would delete rows of other chunks."""
    source.sql("CREATE TABLE days (day Date, n UInt64) ENGINE = SummingMergeTree ORDER BY day")
    select = f"SELECT toDate(ts) AS day, 1 AS n FROM {source.table('src')}"
    plan = source.plan("days", "2025-01-01", "2025-01-06", 6, select=select)
    source.run(plan)
    with pytest.raises(RequestError, match="has no time column ts, so a chunk's window cannot be deleted"):
        source.run(plan, replay_done=True, clear_window=True)
    with pytest.raises(RequestError, match="has no time column ts, so a chunk's window cannot be deleted"):
        source.run(plan, replay_failed=True, clear_window=True, replay_done=True)
    assert source.rows("SELECT sum(n) FROM days") == [(7200,)]


def test_clear_window_needs_chunks_that_are_executed_again(source: Lab) -> None:
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", 24, source="src")
    with pytest.raises(RequestError, match="no chunks are to be") as refused:
        source.run(plan, clear_window=True)
    assert "--replay-failed" in refused.value.hint
    assert source.content("dst")[0] == 0


@pytest.mark.parametrize("resume", [False, True])
def test_failed_chunks_are_filled_anew_after_their_windows_are_cleared(source: Lab, resume: bool) -> None:
    """Whatever of them had reached the target goes first."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", 24, source="src")
    source.sql("INSERT INTO dst SELECT * FROM src WHERE ts < '2025-01-01 12:00:00'")
    store = source.session.store
    log = store.open_run(store.load_plan(plan["planId"]))
    first, at, by = next(iter(log.plan.chunks())), utc_now(), "test"
    log.append(RunStarted(at=at, by=by))
    claim = ChunkStarted(
        at=at, by=by, chunk_id=first.id, attempt=1, start=first.start, end=first.end, query_id="q", lease_seconds=1
    )
    log.append(claim)
    log.append(ChunkFailed(at=at, by=by, chunk_id=first.id, attempt=1, message="lost", final=True))
    payload = source.run(plan, replay_failed=True, clear_window=True, resume=resume)
    assert payload["status"] == "completed"
    assert source.content("dst") == source.content("src")


def test_a_staging_table_has_settings_of_its_own(source: Lab) -> None:
    """Also if the target's settings differ: without ids, parts with equal rows could not be distinguished."""
    source.sql(TARGET + " SETTINGS assign_part_uuids = 0, index_granularity = 100")
    plan = source.plan("dst", "2025-01-01", "2025-01-02", 24, source="src")
    seen: list[tuple[bool, int]] = []

    def look(step: str) -> None:
        if step == "sealed":
            seen.extend(
                source.rows(
                    "SELECT toUInt128(uuid) != 0, marks FROM system.parts WHERE active AND rows"
                    " AND database = currentDatabase() AND position(table, '_sealed') > 0"
                )
            )

    source.run(plan, step=look)
    # 1,440 rows: the granularity is the target's.
    assert [(bool(named), marks > 10) for named, marks in seen] == [(True, True)]


def test_clearing_takes_only_the_window_out_of_a_part(source: Lab) -> None:
    """A part that also holds rows outside the window is rewritten; one that lies in it is dropped."""
    source.sql(TARGET.replace("PARTITION BY toYYYYMMDD(ts) ", ""))
    plan = source.plan("dst", "2025-01-02", "2025-01-04", 24, source="src")
    source.run(plan)
    source.sql("INSERT INTO dst SELECT * FROM src WHERE ts < '2025-01-02' OR ts >= '2025-01-04'", "OPTIMIZE TABLE dst")
    assert source.run(plan, replay_done=True, clear_window=True)["status"] == "completed"
    assert source.content("dst") == source.content("src")


def test_insert_says_at_least_once(source: Lab) -> None:
    """What cannot be promised is said before anything runs, and has to be accepted."""
    source.sql("CREATE TABLE dst AS src ENGINE = Memory")
    with pytest.raises(RequestError, match="at least once"):
        source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    plan = source.plan("dst", "2025-01-01", "2025-01-06", source="src", accept_at_least_once=True)
    assert (plan["writeMode"], "at least once" in plan["guarantee"]) == ("insert", True)
    assert source.run(plan)["rowsWritten"] == 7200
    assert source.content("dst") == source.content("src")


def test_insert_fires_the_views_that_stage_misses(source: Lab) -> None:
    """Moving a partition fires no view; the plan lists those that would miss the rows, and insert reaches them."""
    source.sql(
        TARGET,
        "CREATE TABLE sums (s String, n UInt64) ENGINE = SummingMergeTree ORDER BY s",
        "CREATE MATERIALIZED VIEW tail TO sums AS SELECT s, count() AS n FROM dst GROUP BY s",
    )
    plan = source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    assert plan["missedViews"] == [f"{source.engine.database}.tail"]
    source.fill(
        "dst", "2025-01-01", "2025-01-06", 24, source="src", write_mode=WriteMode.INSERT, accept_at_least_once=True
    )
    assert source.value("SELECT sum(n) FROM sums") == 7200


@pytest.mark.parametrize(
    ("create", "message"),
    [
        ("CREATE VIEW dst AS SELECT * FROM src", "is a View table"),
        ("CREATE TABLE dst AS src ENGINE = Buffer(currentDatabase(), src, 1, 1, 1, 1, 1, 1, 1)", "is a Buffer table"),
    ],
    ids=["view", "buffer"],
)
def test_tables_that_hold_no_rows_are_refused(source: Lab, create: str, message: str) -> None:
    """Rows cannot be counted once where they are not kept; the table behind is the one to fill."""
    source.sql(create)
    with pytest.raises(RequestError, match=message):
        source.plan("dst", "2025-01-01", "2025-01-06", source="src")


def test_what_a_dead_worker_left_goes_with_the_next_run(source: Lab) -> None:
    """Killed between the last record and the cleaning up, a worker leaves the emptied tables of its chunks."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    source.run(plan)
    source.sql(f"CREATE TABLE backfill_{plan['planId']}_0123456789abcdef_sealed AS dst")
    assert source.run(plan)["noop"] is True
    assert source.leftovers() == []
    assert source.content("dst") == source.content("src")


def test_replan_gives_the_same_plan(source: Lab) -> None:
    """Planning again must not count the rows the plan itself has written as strangers."""
    source.sql(TARGET)
    first = source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    source.run(first)
    again = source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    assert (again["planId"], again["existed"]) == (first["planId"], True)
    with pytest.raises(RequestError, match="another definition"):
        source.plan("dst", "2025-01-01", "2025-01-06", select=f"SELECT * FROM {source.table('src')} WHERE id > 5")


def test_a_live_source_gives_the_rows_of_the_attempt_that_succeeded(source: Lab) -> None:
    """Rows that arrive between the source's answer and the insert are seen, and the attempt is made again."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", 24, source="src", row_proof=RowProof.CONTENT)
    late = iter(["INSERT INTO src SELECT id + 100000, ts, v, 'late' FROM src WHERE id < 100"])

    def arrive(step: str) -> None:
        if step == "staging":
            for statement in late:
                source.sql(statement)

    payload = source.run(plan, step=arrive)
    assert (payload["status"], payload["attempts"]) == ("completed", 6)
    assert source.content("dst") == source.content("src")


def test_an_empty_chunk_makes_no_table(source: Lab) -> None:
    """Where the source has no rows, nothing is created, moved or dropped; the chunk is done with no rows."""
    source.sql(TARGET)
    plan = source.plan("dst", "2026-01-01", "2026-01-03", 12, source="src")
    steps: list[str] = []
    payload = source.run(plan, step=steps.append)
    assert (payload["status"], payload["rowsWritten"], payload["chunkCounts"]["done"]) == ("completed", 0, 4)
    assert steps == ["claim", "recorded"] * 4


def test_doctor_and_check_of_a_done_plan_are_green(source: Lab) -> None:
    """After a backfill that went well nothing is left to say."""
    source.sql(TARGET)
    plan = source.plan("dst", "2025-01-01", "2025-01-06", source="src")
    assert check_backfills(source.session)["ok"] is False
    source.run(plan)
    assert check_backfills(source.session)["ok"] is True
    report = diagnose(source.session, plan["planId"])
    assert (report["ok"], report["issueCodes"]) == (True, [])
