"""Ways to lose or to double rows that were found by looking for them; each is refused, or done again as a whole."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest

from airflow_provider_backfill.clickhouse.attempt import Step
from airflow_provider_backfill.clickhouse.client import ClickHouse, Counts
from airflow_provider_backfill.commands.lease import utc_now
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.commands.undo import undo_plan
from airflow_provider_backfill.core.events import ChunkReleased
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.core.window import Window
from airflow_provider_backfill.errors import RequestError, ServerUnreachableError, StatementRefusedError
from tests.clickhouse.lab import Lab, once

COLUMNS = "(ts DateTime('UTC'), user UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY (user, ts)"
MEMORY = StatementRefusedError("(total) memory limit exceeded", code=241, name="MEMORY_LIMIT_EXCEEDED")


@pytest.fixture
def days(lab: Lab) -> Lab:
    """Two days with a row a minute, and an empty target."""
    return lab.with_two_days(COLUMNS)


def test_a_chunk_that_is_published_in_part_is_not_split(days: Lab) -> None:
    """The halves would be filled again, and rows that were already moved would be duplicated."""
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, source="src")
    payload = days.run(plan, step=once(Step.MOVED, MEMORY))
    assert (payload["status"], payload["attempts"], payload["chunkCounts"]["total"]) == ("completed", 2, 1)
    assert days.content("dst") == days.content("src")


def test_a_chunk_whose_window_is_to_be_cleared_is_not_split(days: Lab) -> None:
    """The halves would not know of the clear, and would add to existing rows."""
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, source="src")
    days.run(plan)
    payload = days.run(plan, replay_done=True, clear_window=True, step=once("cleared", MEMORY))
    assert (payload["status"], payload["chunkCounts"]["total"]) == ("completed", 1)
    assert days.content("dst") == days.content("src")


@pytest.mark.parametrize("target", ["dst", "monthly"])
def test_chunks_that_keep_what_is_outside_share_no_partition(days: Lab, target: str) -> None:
    """Each would keep the other's rows as they were, or as they are not yet; the proposed window is accepted."""
    days.sql(f"CREATE TABLE monthly {COLUMNS.replace('toDate(ts)', 'toYYYYMM(ts)')}")
    days.sql(f"INSERT INTO {target} SELECT * FROM src")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": True}
    for hours in (8, 14):
        with pytest.raises(RequestError, match="lies inside a partition"):
            days.plan(target, "2025-01-01T12:00", "2025-01-02T12:00", hours, **wanted)
    days.fill(target, "2025-01-01T12:00", "2025-01-02T12:00", 12 if target == "dst" else 24, **wanted)
    assert days.content(target) == days.content("src")


@pytest.mark.parametrize("keep_outside", [True, False])
def test_the_first_and_the_last_chunk_share_no_partition(days: Lab, keep_outside: bool) -> None:
    """A week has two ends: each of the two chunks of its Thursdays would put back the other's rows as they were."""
    days.sql(f"CREATE TABLE weekly {COLUMNS.replace('toDate(ts)', 'toDayOfWeek(ts)')}")
    wanted: dict[str, Any] = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": keep_outside}
    with pytest.raises(RequestError, match="Several chunks give rows of the partition 4 "):
        days.plan("weekly", "2024-12-26T12:00", "2025-01-02T12:00", "day", **wanted)


def test_a_backup_holds_what_was_there_so_nothing_is_cleared_before_it(days: Lab) -> None:
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 24, source="src", write_mode=WriteMode.REPLACE, backup=True)
    with pytest.raises(RequestError, match="that its backup does not hold yet") as refused:
        days.run(plan, replay_failed=True, clear_window=True)
    assert "do not clear it" in refused.value.hint


@pytest.mark.parametrize("rounded", ["toStartOfDay(ts)", "toStartOfHour(ts)"])
def test_a_window_is_cleared_only_of_the_chunks_own_rows(days: Lab, rounded: str) -> None:
    """Under the source's own name may stand its day; rows of the whole day lie in the window of the first hours."""
    select = f"SELECT {rounded} AS ts, user FROM {days.table('src')}"
    plan = days.plan("dst", "2025-01-01", "2025-01-02", 8, select=select, filter_table=days.table("src"))
    days.run(plan)
    before = days.content("dst")
    window = Window(parse_instant("2025-01-01"), parse_instant("2025-01-01T08:00"))
    payload = days.run(plan, replay_done=True, clear_window=True, window=window)
    assert days.content("dst") == before
    if "Day" in rounded:
        assert payload["chunkCounts"]["failed"] == 1
        assert "does not leave ts as it is" in payload["lastError"]
    else:
        assert payload["status"] == "completed"


@pytest.mark.parametrize("resumed", [False, True])
def test_a_sealed_table_that_is_gone_is_no_success(days: Lab, resumed: bool) -> None:
    """A missing table has nothing to move; the rows are staged again."""
    plan = days.plan("dst", "2025-01-01", "2025-01-02", 24, source="src")
    lost = ServerUnreachableError("The server went away.")
    gone = iter([True])

    def step(at: str) -> None:
        if at == "sealed" and next(gone, False):
            if not resumed:
                for name in days.leftovers():
                    days.sql(f"DROP TABLE {name} SYNC")
                return
            raise lost

    payload = days.run(plan, step=step)
    assert (payload["status"], payload["attempts"]) == ("completed", 2)
    assert days.content("dst") == days.content("src", tail="WHERE ts < '2025-01-02'")


def test_a_worker_that_wakes_before_its_move_moves_nothing_of_another_folder(
    days: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    A worker falls asleep after its last look and before MOVE PARTITION, and its chunk is finished by another one.

    A second folder with the same plan had sealed its rows meanwhile. They lay under the same name, and were moved.
    """
    once_only = {"retryDelayMs": 1, "maxRetriesPerChunk": 1}
    other = Lab(days.engine, days.folder.parent / "other", {**days.options, "defaults": once_only})
    plan, theirs = (each.plan("dst", "2025-01-01", "2025-01-02", 24, source="src") for each in (days, other))
    assert plan["planId"] == theirs["planId"]
    command, asleep = ClickHouse.command, iter([True])

    def sleep(self: ClickHouse, sql: str, settings: Mapping[str, Any] | None = None) -> Counts:
        if "MOVE PARTITION" in sql and next(asleep, False):
            command(self, sql, settings)
            for name in days.leftovers():
                days.sql(f"DROP TABLE {name} SYNC")
            lost = once("sealed", ServerUnreachableError("The server went away."))
            assert other.run(theirs, step=lost)["status"] == "failed"
            assert len(other.leftovers()) == 1
        return command(self, sql, settings)

    monkeypatch.setattr(ClickHouse, "command", sleep)
    days.run(plan)
    assert days.content("dst") == days.content("src", tail="WHERE ts < '2025-01-02'")


def fall_asleep(
    days: Lab, monkeypatch: pytest.MonkeyPatch, plan: dict[str, Any], at: str, meanwhile: Callable[[], None]
) -> None:
    """Run a plan of one chunk; the worker sleeps before its statement *at*, and another one may take over the chunk."""
    store = days.session.store
    log = store.open_run(store.load_plan(plan["planId"]))
    (chunk,) = log.plan.chunks()
    command, asleep = ClickHouse.command, iter([True])

    def sleep(self: ClickHouse, sql: str, settings: Mapping[str, Any] | None = None) -> Counts:
        if at in sql and next(asleep, False):
            owner = log.refresh().state(chunk.id).owner
            lost = ChunkReleased(at=utc_now(), by=owner, chunk_id=chunk.id, attempt=1, reason="it looks dead")
            log.append(lost)
            meanwhile()
        return command(self, sql, settings)

    monkeypatch.setattr(ClickHouse, "command", sleep)
    days.run(plan)
    assert next(asleep, False) is False
    assert days.leftovers() == [name for name in days.leftovers() if "_backup_" in name]


def test_a_worker_that_wakes_before_it_empties_a_day_empties_nothing_that_was_published_since(
    days: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source has no rows for the day when the worker falls asleep, and gets some before the chunk is replayed."""
    days.sql("INSERT INTO dst SELECT * FROM src", "ALTER TABLE src DROP PARTITION '2025-01-02'")
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, source="src", write_mode=WriteMode.REPLACE)

    def meanwhile() -> None:
        assert days.run(plan)["status"] == "completed"
        assert days.content("dst") == days.content("src")
        days.sql("INSERT INTO src SELECT ts + INTERVAL 1 DAY, user FROM src")
        assert days.run(plan, replay_done=True)["status"] == "completed"

    fall_asleep(days, monkeypatch, plan, "PARTITION ID '20250102'", meanwhile)
    assert days.content("dst")[0] == 2880
    assert days.content("dst") == days.content("src")


def test_a_worker_that_wakes_before_it_copies_into_a_backup_copies_nothing_that_was_published_since(
    days: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the new rows in the backup, undo would restore nothing."""
    days.sql("INSERT INTO dst SELECT ts, user + 1 FROM src")
    before = days.content("dst")
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, source="src", write_mode=WriteMode.REPLACE, backup=True)

    def meanwhile() -> None:
        assert days.run(plan)["status"] == "completed"

    fall_asleep(days, monkeypatch, plan, "REPLACE PARTITION ID '20250101'", meanwhile)
    assert days.content("dst") == days.content("src")
    undo_plan(days.session, plan["planId"])
    assert days.content("dst") == before


def test_the_comment_of_a_sealed_table_decides_nothing(days: Lab) -> None:
    """Anybody may edit it; which attempt has sealed the table is known from the log."""
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, source="src")
    left = iter([True])

    def step(at: str) -> None:
        if at == Step.MOVED and next(left, False):
            (sealed,) = (name for name in days.leftovers() if "_sealed" in name)
            days.sql(f"ALTER TABLE {sealed} MODIFY COMMENT 'mine, attempt 7'")
            raise ServerUnreachableError("The server went away.")

    payload = days.run(plan, step=step)
    assert (payload["status"], payload["attempts"]) == ("completed", 2)
    assert days.content("dst") == days.content("src")


def test_an_ephemeral_column_is_filled_and_not_summed(days: Lab) -> None:
    """It can be written and not read, also where there is no key to sum instead."""
    days.sql(
        "CREATE TABLE made (ts DateTime('UTC'), user UInt32 EPHEMERAL, name String DEFAULT concat('u', toString(user)))"
        " ENGINE = MergeTree ORDER BY tuple()"
    )
    select = f"SELECT ts, user FROM {days.table('src')}"
    days.fill("made", "2025-01-01", "2025-01-03", 24, select=select)
    assert days.content("made", "ts, name") == days.content("src", "ts, concat('u', toString(user))")


MONTHLY = COLUMNS.replace("toDate(ts)", "toYYYYMM(ts)")
LOST = ServerUnreachableError("The server went away.")


@pytest.mark.parametrize("resumed", [False, True], ids=["retry", "resume"])
def test_rows_that_came_beside_a_chunk_before_it_replaced_their_partition_are_kept(days: Lab, resumed: bool) -> None:
    """They are in no copy of the rows outside the chunk, so the staged rows are staged again."""
    days.sql(f"CREATE TABLE monthly {MONTHLY}", "INSERT INTO monthly SELECT * FROM src")
    days.options = {**days.options, "defaults": {"retryDelayMs": 1, "maxRetriesPerChunk": 1 if resumed else 2}}
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": True}
    plan = days.plan("monthly", "2025-01-01", "2025-01-02", 24, **wanted)
    insert = "INSERT INTO monthly SELECT toDateTime('2025-01-20', 'UTC') + number, 1 FROM numbers(1000)"
    sealed = iter([True])

    def late(at: str) -> None:
        if at == "sealed" and next(sealed, False):
            days.sql(insert)

    if resumed:
        assert days.run(plan, step=once("sealed", LOST))["status"] == "failed"
        days.sql(insert)
        payload = days.run(plan, resume=True)
    else:
        payload = days.run(plan, step=late)
    assert (payload["status"], payload["attempts"]) == ("completed", 2)
    assert days.value("SELECT count() FROM monthly") == 2880 + 1000
    assert not days.leftovers()


def test_a_backup_is_not_taken_of_partitions_that_the_chunk_has_replaced(days: Lab) -> None:
    days.sql("INSERT INTO dst SELECT ts, 99 FROM src")
    before = days.content("dst")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": True, "backup": True}
    plan = days.plan("dst", "2025-01-01", "2025-01-03", 48, **wanted)
    payload = days.run(plan, step=once("replaced", LOST))
    assert (payload["status"], payload["attempts"]) == ("completed", 2)
    assert days.content("dst") == days.content("src")
    undo_plan(days.session, plan["planId"])
    assert days.content("dst") == before


@pytest.mark.parametrize("emptied", [False, True])
def test_a_plan_made_again_has_a_backup_of_its_own(days: Lab, emptied: bool) -> None:
    """The rows from before the first run stay in the first backup, and no undo restores them by mistake."""
    days.sql("INSERT INTO dst SELECT ts, 99 FROM src")
    original = days.content("dst")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "backup": True}
    first = days.fill("dst", "2025-01-01", "2025-01-03", 24, **wanted)
    (backup,) = days.leftovers()
    if emptied:
        days.sql("TRUNCATE TABLE dst")
    before = days.content("dst")
    days.fill("dst", "2025-01-01", "2025-01-03", 24, force=True, **wanted)
    undo_plan(days.session, first["planId"])
    assert days.content("dst") == before
    assert days.content(backup) == original


@pytest.mark.parametrize("tokens", [True, False])
def test_rows_are_inserted_again_although_the_target_remembers_deleted_ones(days: Lab, tokens: bool) -> None:
    """A log of deduplication outlives the rows: a repeated token, or equal rows, would be discarded as a success."""
    days.options = {**days.options, "defaults": {"retryDelayMs": 1, "requireIdempotencyToken": tokens}}
    days.sql(f"CREATE TABLE log {MONTHLY} SETTINGS non_replicated_deduplication_window = 1000")
    wanted = {"source": "src", "write_mode": WriteMode.INSERT, "accept_at_least_once": True}
    plan = days.plan("log", "2025-01-01", "2025-01-02", 12, **wanted)
    days.run(plan)
    # A part with other rows is not dropped but mutated, which leaves the target's log as it is.
    days.sql("INSERT INTO log SELECT * FROM src WHERE ts >= '2025-01-02'", "OPTIMIZE TABLE log FINAL")
    days.run(plan, replay_done=True, clear_window=True)
    assert days.content("log") == days.content("src")
    days.sql("ALTER TABLE log DELETE WHERE ts < '2025-01-02' SETTINGS mutations_sync = 2")
    days.run(days.plan("log", "2025-01-01", "2025-01-02", 12, force=True, **wanted))
    assert days.content("log") == days.content("src")


@pytest.mark.parametrize("tokens", [True, False])
def test_chunks_with_equal_rows_are_all_inserted(days: Lab, tokens: bool) -> None:
    days.options = {**days.options, "defaults": {"retryDelayMs": 1, "requireIdempotencyToken": tokens}}
    engine = "SummingMergeTree ORDER BY user SETTINGS non_replicated_deduplication_window = 1000"
    days.sql(
        f"CREATE TABLE total (user UInt32, n UInt64) ENGINE = {engine}",
        "TRUNCATE TABLE src",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number % 6 FROM numbers(2880)",
    )
    days.fill(
        *("total", "2025-01-01", "2025-01-03", 12),
        select=f"SELECT user, count() AS n FROM {days.table('src')} GROUP BY user",
        filter_table=days.table("src"),
        write_mode=WriteMode.INSERT,
        accept_at_least_once=True,
    )
    assert days.value("SELECT sum(n) FROM total") == 2880


@pytest.mark.parametrize("late", [False, True])
def test_a_retry_of_an_insert_loses_no_rows_that_came_meanwhile(days: Lab, late: bool) -> None:
    """A token names blocks by their number: late rows shift the rows to blocks that the target takes for known ones."""
    days.sql(f"CREATE TABLE log {MONTHLY} SETTINGS non_replicated_deduplication_window = 1000")
    wanted = {"source": "src", "write_mode": WriteMode.INSERT, "accept_at_least_once": True}
    plan = days.plan("log", "2025-01-01", "2025-01-02", 24, **wanted)
    lost = once("inserted", LOST)

    def step(at: str) -> None:
        if late and at == "inserted" and not days.value("SELECT count() FROM src WHERE user = 99"):
            days.sql("INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number, 99 FROM numbers(500)")
        lost(at)

    payload = days.run(plan, step=step)
    assert (payload["status"], payload["attempts"]) == ("completed", 2)
    assert days.value("SELECT count() FROM log WHERE user = 99") == 500 * late
    # At least once: with other rows, the retry writes all of them.
    assert days.value("SELECT count() FROM log WHERE user < 99") == 1440 * (1 + late)


class _Own(Lab):
    """A user whose profile ends a reading after some rows, which the server calls a success."""

    profile: ClassVar[dict[str, Any]] = {"max_rows_to_read": 3000, "read_overflow_mode": "break", "max_block_size": 100}

    def server(self) -> ClickHouse:
        server = super().server()
        for name, value in self.profile.items():
            server._client.set_client_setting(name, value)
        return server


class _Skipping(_Own):
    """A user for whom a shard without an answer has no rows."""

    profile: ClassVar[dict[str, Any]] = {"skip_unavailable_shards": 1}


class _InTokyo(_Own):
    """A user whose days begin at 15:00 UTC."""

    profile: ClassVar[dict[str, Any]] = {"session_timezone": "Asia/Tokyo"}


def test_a_limit_of_the_profile_empties_no_chunk(days: Lab) -> None:
    """The first rows by the key are of the day before: a look for any row of the chunk would end among them."""
    days.sql("CREATE TABLE late (ts DateTime('UTC'), user UInt32) ENGINE = MergeTree ORDER BY user")
    days.sql("INSERT INTO late SELECT toDateTime('2025-01-01 12:00:00', 'UTC') + number, number FROM numbers(86400)")
    plan = days.plan("dst", "2025-01-02", "2025-01-03", 24, source="late")
    payload = _Own(days.engine, days.folder, days.options).run(plan)
    assert payload["status"] == "failed"
    assert "TOO_MANY_ROWS" in payload["lastError"]


def test_a_limit_of_the_profile_deletes_no_row_beside_the_window(days: Lab) -> None:
    """The copy of the rows to keep would end at the limit, and so would the counts that look for lost ones."""
    days.sql(f"CREATE TABLE monthly {MONTHLY}", "INSERT INTO monthly SELECT * FROM src WHERE ts < '2025-01-02'")
    days.sql("INSERT INTO monthly SELECT toDateTime('2025-01-02', 'UTC') + number * 60, 50 FROM numbers(40000)")
    before = days.content("monthly")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": True}
    plan = days.plan("monthly", "2025-01-01", "2025-01-02", 24, **wanted)
    assert _Own(days.engine, days.folder, days.options).run(plan)["status"] == "failed"
    assert days.content("monthly") == before


def test_a_shard_that_goes_away_in_a_run_empties_no_chunk(http_lab: Lab) -> None:
    """A server skips a shard whose table it does not find as well as one that does not answer."""
    lab = http_lab.with_two_days(COLUMNS)
    lab.sql("CREATE TABLE dist AS src ENGINE = Distributed('one_shard', currentDatabase(), 'src')")
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="dist")

    def step(at: str) -> None:
        if at == "claim":
            lab.sql("RENAME TABLE IF EXISTS src TO away")

    payload = _Skipping(lab.engine, lab.folder, lab.options).run(plan, step=step)
    assert payload["status"] == "failed"
    assert payload["chunkCounts"]["done"] == 0


def test_an_undo_deletes_no_rows_that_came_after_the_rebuild(days: Lab) -> None:
    """The backup does not have them; once they are moved out of the way, the advised command works."""
    days.sql("INSERT INTO dst SELECT ts, 99 FROM src")
    before = days.content("dst")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "backup": True}
    plan = days.fill("dst", "2025-01-01", "2025-01-03", 24, **wanted)
    days.sql("INSERT INTO dst SELECT ts, 100 FROM src WHERE ts < '2025-01-01 01:00:00'")
    with pytest.raises(RequestError, match="holds 60 rows in the partitions of chunk") as refused:
        undo_plan(days.session, plan["planId"])
    assert f"run `clickhouse-backfill undo --plan-id {plan['planId']}` again" in refused.value.hint
    assert read_status(days.session, plan["planId"])["status"] == "completed"
    assert days.value("SELECT count() FROM dst") == 2940
    days.sql("ALTER TABLE dst DELETE WHERE user = 100 SETTINGS mutations_sync = 2")
    undo_plan(days.session, plan["planId"])
    assert days.content("dst") == before


def test_an_undo_deletes_no_rows_beside_the_window_that_came_after_the_rebuild(days: Lab) -> None:
    days.sql(f"CREATE TABLE monthly {MONTHLY}", "INSERT INTO monthly SELECT ts, 99 FROM src")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "backup": True, "keep_outside": True}
    plan = days.fill("monthly", "2025-01-01", "2025-01-02", 24, **wanted)
    days.sql("INSERT INTO monthly SELECT ts + 86400 * 5, 100 FROM src WHERE ts < '2025-01-01 01:00:00'")
    with pytest.raises(RequestError, match="holds 60 rows in the partitions"):
        undo_plan(days.session, plan["planId"])
    assert days.value("SELECT count() FROM monthly WHERE user = 100") == 60


def test_an_undo_deletes_no_rows_of_a_later_plan(days: Lab) -> None:
    """The later plan is completed, and would stay so without its rows; its own undo comes first."""
    days.sql("INSERT INTO dst SELECT ts, 99 FROM src")
    before = days.content("dst")
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "backup": True}
    first = days.fill("dst", "2025-01-01", "2025-01-03", 24, **wanted)
    later = days.fill("dst", "2025-01-02", "2025-01-03", 24, **wanted)
    with pytest.raises(RequestError, match=f"Plan {later['planId']} has written to the window since") as refused:
        undo_plan(days.session, first["planId"])
    assert f"undo --plan-id {later['planId']}" in refused.value.hint
    assert read_status(days.session, first["planId"])["status"] == "completed"
    for plan in (later, first):
        undo_plan(days.session, plan["planId"])
    assert days.content("dst") == before


@pytest.mark.parametrize("by", ["hand", "a plan", "a later plan"])
def test_a_window_that_others_were_allowed_to_share_is_not_cleared(days: Lab, by: str) -> None:
    """Nothing would fill the rows of the others again; a plan that has filled them would stay completed."""
    days.sql(f"CREATE TABLE other {COLUMNS}", "INSERT INTO other SELECT ts, 99 FROM src")
    if by == "hand":
        days.sql("INSERT INTO dst SELECT * FROM other")
    elif by == "a plan":
        days.fill("dst", "2025-01-01", "2025-01-03", 12, source="other")
    plan = days.fill("dst", "2025-01-01", "2025-01-03", 24, source="src", allow_existing_rows=by != "a later plan")
    if by == "a later plan":
        days.fill("dst", "2025-01-01", "2025-01-03", 12, source="other", allow_existing_rows=True)
    with pytest.raises(RequestError, match="would delete more than its own rows"):
        days.run(plan, replay_done=True, clear_window=True)
    assert days.value("SELECT count() FROM dst WHERE user = 99") == 2880


def test_rows_beside_the_window_keep_their_computed_values(days: Lab) -> None:
    """A materialized column says when a row came; a copy that computes it again would say now."""
    own = "at DateTime64(6) MATERIALIZED now64(6), raw String EPHEMERAL '7', n UInt8 DEFAULT toUInt8(raw)"
    days.sql(f"CREATE TABLE monthly (ts DateTime('UTC'), user UInt32, {own}) {MONTHLY.partition(') ')[2]}")
    days.sql("INSERT INTO monthly (ts, user) SELECT * FROM src")
    beside = "ts, user, at, n", "WHERE ts >= '2025-01-02'"
    before = days.content("monthly", *beside)
    wanted = {"source": "src", "write_mode": WriteMode.REPLACE, "keep_outside": True}
    days.fill("monthly", "2025-01-01", "2025-01-02", 24, **wanted)
    assert days.content("monthly", *beside) == before


@pytest.mark.parametrize("joined", [True, False])
def test_a_select_is_not_read_in_another_database(http_lab: Lab, joined: bool) -> None:
    """Tables of the same names there have other rows, and no time filter shows that a table is another."""
    lab, stage = http_lab.with_two_days(COLUMNS), f"{http_lab.engine.database}_stage"
    lab.sql("CREATE TABLE users (user UInt32, name UInt32) ENGINE = MergeTree ORDER BY user")
    lab.sql("INSERT INTO users SELECT number, number FROM numbers(7)")
    select = f"SELECT ts, name AS user FROM {lab.table('src')} AS s INNER JOIN users USING user"
    wanted: dict[str, Any] = {"filter_table": lab.table("src")}
    if not joined:
        select, wanted = "SELECT ts, user FROM src WHERE ts >= {chunk_from:DateTime} AND ts < {chunk_to:DateTime}", {}
    lab.sql(f"CREATE DATABASE {stage}")
    try:
        lab.sql(*(f"CREATE TABLE {stage}.{name} AS {name}" for name in ("src", "users")))
        lab.sql(
            f"INSERT INTO {stage}.src SELECT ts, 99 FROM src", f"INSERT INTO {stage}.users SELECT user, 99 FROM users"
        )
        plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, select=select, **wanted)
        there = Lab(replace(lab.engine, url=f"{lab.engine.url}_stage"), lab.folder)
        with pytest.raises(RequestError, match=f"and the database {stage}, and had the"):
            there.run(plan)
        qualified = f"SELECT ts, user FROM {lab.table('src')}"
        there.run(lab.plan("dst", "2025-01-01", "2025-01-03", 12, select=qualified))
    finally:
        lab.sql(f"DROP DATABASE {stage} SYNC")
    assert lab.content("dst") == lab.content("src")


def test_a_copy_has_the_computed_columns_of_its_source(days: Lab) -> None:
    """The target stores them: without a value, each row would have the default, 1970-01-01."""
    own = "day Date MATERIALIZED toDate(ts), twice UInt32 ALIAS user * 2, raw String EPHEMERAL"
    days.sql(f"CREATE TABLE computed (ts DateTime('UTC'), user UInt32, {own}) ENGINE = MergeTree ORDER BY ts")
    days.sql("INSERT INTO computed (ts, user) SELECT * FROM src")
    stored = "ts DateTime('UTC'), user UInt32, day Date, twice UInt32"
    days.sql(f"CREATE TABLE copy ({stored}) ENGINE = MergeTree ORDER BY ts")
    days.fill("copy", "2025-01-01", "2025-01-03", 24, source="computed")
    columns = "ts, user, day, twice"
    assert days.content("copy", columns) == days.content("computed", columns)


def test_days_of_another_time_zone_are_not_counted_in_the_same_chunks(days: Lab) -> None:
    """The chunks were shown to hold whole days of the zone at planning; those of another zone would be in two parts."""
    days.sql("CREATE TABLE daily (day Date, n UInt64) ENGINE = MergeTree ORDER BY day")
    days.sql("CREATE TABLE local (ts DateTime, user UInt32) ENGINE = MergeTree ORDER BY ts")
    days.sql("INSERT INTO local SELECT * FROM src")
    select = f"SELECT toDate(ts) AS day, count() AS n FROM {days.table('local')} GROUP BY day"
    plan = days.plan("daily", "2025-01-01", "2025-01-03", 24, select=select)
    with pytest.raises(RequestError, match="the connection has the time zone Asia/Tokyo, and had the time zone"):
        _InTokyo(days.engine, days.folder, days.options).run(plan)
    assert days.run(plan)["status"] == "completed"


@pytest.mark.parametrize("mode", [None, WriteMode.REPLACE])
def test_a_target_that_was_altered_after_a_chunk_was_sealed_is_filled(http_lab: Lab, mode: WriteMode | None) -> None:
    """It takes no partition of the sealed table any more; the advised flag must help."""
    lab = http_lab.with_two_days(COLUMNS)
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src", write_mode=mode)

    def step(at: str) -> None:
        if at == "sealed":
            lab.sql("ALTER TABLE dst ADD COLUMN IF NOT EXISTS note String")

    assert "INCOMPATIBLE_COLUMNS" in lab.run(plan, step=step)["lastError"]
    with pytest.raises(RequestError, match="has other columns") as refused:
        lab.run(plan, resume=True)
    assert "--force-compatibility" in refused.value.hint
    assert lab.run(plan, resume=True, force_compatibility=True)["status"] == "completed"
    assert lab.content("dst", "ts, user") == lab.content("src")
