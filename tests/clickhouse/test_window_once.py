"""No window twice: two plans, two folders, live views and hand-written rows never end in rows that are there twice."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest

from airflow_provider_backfill.cli.parser import parse
from airflow_provider_backfill.cli.plan_request import read_request
from airflow_provider_backfill.clickhouse.fence import Fence, WindowTakenError
from airflow_provider_backfill.commands.check import check_backfills
from airflow_provider_backfill.commands.coverage import read_coverage
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.plan_inputs import target_facts
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.waive import waive_plan
from airflow_provider_backfill.core.findings.registry import RequiredBackfill
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.core.window import Window
from airflow_provider_backfill.errors import BackfillError, RequestError, ServerUnreachableError
from tests.clickhouse.lab import Lab, once

SOURCE = (
    "CREATE TABLE src (id UInt64, ts DateTime('UTC'), v Int64) ENGINE = MergeTree ORDER BY ts",
    "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60, number % 11 FROM numbers(5760)",
)
HOURLY = "SELECT toStartOfHour(ts) AS hour, sum(v) AS v, count() AS n FROM {} GROUP BY hour"
DAILY = "SELECT toDate(ts) AS day, sum(v) AS v, count() AS n FROM {} GROUP BY day"


def copied(lab: Lab, tail: str = "") -> None:
    lab.sql(*SOURCE, f"CREATE TABLE dst (id UInt64, ts DateTime('UTC'), v Int64) ENGINE = MergeTree ORDER BY id {tail}")


def doubled(lab: Lab) -> int:
    """Rows of the target that are there more than once."""
    return int(lab.value("SELECT count() - uniqExact(id) FROM dst"))


def other_folder(lab: Lab, name: str = "other") -> Lab:
    return Lab(lab.engine, lab.folder.parent / name, lab.options)


def test_a_window_that_another_plan_has_filled_is_not_filled_again(lab: Lab) -> None:
    """Both plans saw an empty window; the second names the first, and its advice ends in the right rows."""
    copied(lab)
    first = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    second = lab.plan("dst", "2025-01-02", "2025-01-04", 24, source="src")
    assert [other["planId"] for other in second["meetingPlans"]] == [first["planId"]]
    lab.run(first)
    # No server is needed to know.
    with pytest.raises(RequestError) as refused:
        run_plan(replace(lab.session, server=None), second["planId"])
    assert first["planId"] in refused.value.message
    assert "2025-01-02T00:00:00.000Z to 2025-01-03T00:00:00.000Z" in refused.value.message
    assert "--from 2025-01-03 --to 2025-01-04" in refused.value.hint
    # As the chunk operator asks: for a part of the plan.
    part = Window(parse_instant("2025-01-03"), parse_instant("2025-01-04"))
    with pytest.raises(RequestError, match=first["planId"]):
        run_plan(lab.session, second["planId"], window=part)
    lab.fill("dst", "2025-01-03", "2025-01-04", 24, source="src")
    waive_plan(lab.session, second["planId"], reason="filled")
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (4320, 0)
    assert check_backfills(lab.session)["ok"]


def _pasted(lab: Lab, hint: str) -> None:
    """Follow an advice: run what it plans."""
    session = lab.session
    for command in re.findall(r"`clickhouse-backfill (.*?)`", hint):
        call = parse(shlex.split(command))
        if call.command == "plan":
            lab.run(create_plan(session, read_request(call, session.options)))
        else:
            assert call.command == "waive"
            waive_plan(session, call.need("--plan-id", ""), reason=call.need("--reason", ""))


def test_a_chunk_in_doubt_is_finished_before_its_plan_is_refused(lab: Lab) -> None:
    """It was published and not recorded, so to plan its window again would be refused for its own rows."""
    copied(lab)
    lab.options = {**lab.options, "defaults": {"retryDelayMs": 1, "maxRetriesPerChunk": 1}}
    plan = lab.plan("dst", "2025-01-01", "2025-01-05", 24, source="src")
    day = Window(parse_instant("2025-01-01"), parse_instant("2025-01-02"))
    cut = once("moved", ServerUnreachableError("cut"))
    assert lab.run(plan, window=day, step=cut)["chunkCounts"]["failed"] == 1
    lab.run(lab.plan("dst", "2025-01-02", "2025-01-03", 24, source="src"), force_overlap=True)
    with pytest.raises(RequestError, match="would fill again") as refused:
        lab.run(plan)
    assert refused.value.hint.endswith(f"`clickhouse-backfill resume --plan-id {plan['planId']}`")
    assert not check_backfills(lab.session)["ok"]
    with pytest.raises(RequestError, match="would fill again") as refused:
        lab.run(plan, resume=True)
    assert "--from 2025-01-03 --to 2025-01-05" in refused.value.hint
    assert not check_backfills(lab.session)["ok"]
    _pasted(lab, refused.value.hint)
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (5760, 0)
    assert lab.leftovers() == []
    assert check_backfills(lab.session)["ok"]


def test_a_completed_plan_drops_no_table_of_a_run_of_another_folder(http_lab: Lab) -> None:
    """Both plans have one id, so their tables have one prefix; the fence of the other run says that it is alive."""
    copied(http_lab)
    other = other_folder(http_lab)
    plan, again = (
        lab.plan("dst", "2025-01-01", "2025-01-02", 24, source="src", allow_existing_rows=True)
        for lab in (http_lab, other)
    )
    http_lab.run(plan)

    def step(at: str) -> None:
        if at == "staged":
            assert http_lab.run(plan)["noop"]

    payload = other.run(again, step=step)
    assert (payload["status"], payload["attempts"]) == ("completed", 1)
    assert (http_lab.value("SELECT count() FROM dst"), doubled(http_lab)) == (2880, 1440)
    assert http_lab.leftovers() == []


@pytest.mark.parametrize("hours", [24, 12])
def test_a_window_that_another_folder_has_filled_is_not_filled_again(lab: Lab, hours: float) -> None:
    """The other folder's log is not to be seen; the rows are. What they do not meet is filled."""
    copied(lab)
    other = other_folder(lab)
    plan = other.plan("dst", "2025-01-02", "2025-01-04", hours, source="src")
    lab.fill("dst", "2025-01-01", "2025-01-03", 24, source="src")
    payload = other.run(plan)
    assert payload["chunkCounts"]["failed"] == 24 / hours
    assert "that plan" in payload["lastError"]
    assert "has not written" in payload["lastError"]
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (4320, 0)
    # Nor by trying again.
    assert other.run(plan, resume=True)["status"] == "failed"
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (4320, 0)


@pytest.mark.parametrize("mode", [WriteMode.STAGE, WriteMode.INSERT])
@pytest.mark.parametrize("seed", range(int(os.environ.get("BACKFILL_TEST_SEEDS", "3"))))
def test_two_folders_at_the_same_time(http_lab: Lab, seed: int, mode: WriteMode) -> None:
    """The first run fills the window; the second is refused, and then fills the remaining windows."""
    lab = http_lab
    copied(lab)
    labs = [lab, other_folder(lab)]
    wanted = {"source": "src", "write_mode": mode, "accept_at_least_once": mode is WriteMode.INSERT}
    plans = [
        labs[0].plan("dst", "2025-01-01", "2025-01-03", 6, **wanted),
        labs[1].plan("dst", "2025-01-02", "2025-01-04", 4 + seed % 4 * 2, **wanted),
    ]
    start = threading.Barrier(2)
    errors: list[BackfillError] = []

    def run(which: int) -> None:
        start.wait()
        threading.Event().wait(seed % 5 * 0.05 * which)
        try:
            labs[which].run(plans[which], parallel=1 + seed % 2)
        except BackfillError as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert doubled(lab) == 0
    assert all(plans[0]["planId"] in str(error) and plans[1]["planId"] in str(error) for error in errors)
    for which in (0, 1):
        labs[which].run(
            plans[which],
            resume=labs[which]
            .session.store.open_run(labs[which].session.store.load_plan(plans[which]["planId"]))
            .run.started,
        )
    assert doubled(lab) == 0
    assert lab.leftovers() == []


def test_rows_that_a_view_writes_meanwhile_fail_their_chunk_alone(lab: Lab) -> None:
    """They come in after the plan; the chunks before them are filled, and the advice fills up to them."""
    copied(lab)
    plan = lab.plan("dst", "2025-01-01", "2025-01-04", 24, source="src")
    lab.sql("INSERT INTO dst SELECT * FROM src WHERE ts >= '2025-01-03 12:00:00'")
    payload = lab.run(plan)
    assert (payload["status"], payload["chunkCounts"]["done"]) == ("failed", 2)
    assert "--from 2025-01-03 --to 2025-01-03T12:00:00Z" in payload["lastError"]
    waive_plan(lab.session, plan["planId"], reason="live from noon on")
    lab.fill("dst", "2025-01-03", "2025-01-03T12:00:00Z", 6, source="src")
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (5760, 0)


@pytest.mark.parametrize("step", ["staging", "staged", "verified", "sealed", "moved"])
def test_a_chunk_is_not_refused_for_its_own_rows(lab: Lab, step: str) -> None:
    """The attempt ends at each step, also between publish and record; the next one completes it."""
    copied(lab, "PARTITION BY toStartOfInterval(ts, INTERVAL 12 HOUR)")
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    lab.run(plan, step=once(step, ServerUnreachableError("cut")))
    assert lab.run(plan)["status"] == "completed"
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (2880, 0)


@pytest.mark.parametrize("step", ["sealed", "moved"])
def test_rows_of_others_that_came_while_a_chunk_was_half_published_are_seen(lab: Lab, step: str) -> None:
    copied(lab, "PARTITION BY toStartOfInterval(ts, INTERVAL 12 HOUR)")
    lab.options = {**lab.options, "defaults": {"retryDelayMs": 1, "maxRetriesPerChunk": 1}}
    plan = lab.plan("dst", "2025-01-01", "2025-01-02", 24, source="src")
    assert lab.run(plan, step=once(step, ServerUnreachableError("cut")))["status"] == "failed"
    lab.sql("INSERT INTO dst SELECT * FROM src WHERE ts >= '2025-01-01 14:00:00' AND ts < '2025-01-01 15:00:00'")
    payload = lab.run(plan, resume=True)
    assert (payload["status"], doubled(lab)) == ("failed", 0)
    assert "holds 60 rows" in payload["lastError"]


@pytest.mark.parametrize(("select", "time"), [(HOURLY, "hour DateTime('UTC')"), (DAILY, "day Date")])
@pytest.mark.parametrize("parallel", [1, 4])
def test_chunks_that_share_a_bucket_are_no_strangers(lab: Lab, select: str, time: str, parallel: int) -> None:
    """Four chunks add to each day of a roll-up, before and after its merges; another folder's plan adds nothing."""
    column = time.split()[0]
    lab.sql(*SOURCE, f"CREATE TABLE sums ({time}, v Int64, n UInt64) ENGINE = SummingMergeTree ORDER BY {column}")
    wanted = {"select": select.format(lab.table("src")), "time_column": "ts"}
    other = other_folder(lab)
    theirs = other.plan("sums", "2025-01-01", "2025-01-05", 12, **wanted)
    plan = lab.plan("sums", "2025-01-01", "2025-01-05", 6, **wanted)

    def merge(at: str) -> None:
        if at == "recorded":
            lab.sql("OPTIMIZE TABLE sums FINAL")

    assert lab.run(plan, parallel=parallel, step=merge)["status"] == "completed"
    assert lab.value("SELECT sum(n) FROM sums") == 5760
    assert other.run(theirs, max_failures=100)["chunkCounts"]["done"] == 0
    assert lab.value("SELECT sum(n) FROM sums") == 5760


def test_rows_that_were_allowed_are_added_to(lab: Lab) -> None:
    """The one way round; check is red, since both plans give the same rows, until a rebuild has replaced the window."""
    copied(lab, "PARTITION BY toDate(ts)")
    other = lab.plan("dst", "2025-01-01", "2025-01-02", 24, source="src")
    plan = lab.plan("dst", "2025-01-01", "2025-01-02", 12, source="src", allow_existing_rows=True)
    lab.run(other)
    assert lab.run(plan)["status"] == "completed"
    assert doubled(lab) == 1440
    found = check_backfills(lab.session)["plugins"]["backfill"]["findings"]
    assert [(f["code"], f["severity"]) for f in found] == [("backfill_window_filled_twice", "error")]
    lab.sql("DELETE FROM src WHERE ts < toDateTime('2025-01-02', 'UTC')")
    lab.fill("dst", "2025-01-01", "2025-01-03", 24, source="src", write_mode=WriteMode.REPLACE)
    assert (lab.value("SELECT count() FROM dst WHERE ts < toDateTime('2025-01-02', 'UTC')"), doubled(lab)) == (0, 0)
    assert check_backfills(lab.session)["ok"]


def test_a_window_that_was_emptied_may_be_filled_by_another_plan(lab: Lab) -> None:
    """The second plan was made when the rows of the first were gone again."""
    copied(lab)
    lab.fill("dst", "2025-01-01", "2025-01-02", 24, source="src")
    lab.sql("TRUNCATE TABLE dst")
    lab.fill("dst", "2025-01-01", "2025-01-02", 12, source="src")
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (1440, 0)
    assert check_backfills(lab.session)["ok"]


def test_a_window_is_cleared_and_filled_anew(lab: Lab) -> None:
    """A replay that empties its windows first adds to nothing."""
    copied(lab)
    plan = lab.fill("dst", "2025-01-01", "2025-01-03", 12, source="src")
    assert lab.run(plan, replay_done=True, clear_window=True, parallel=2)["status"] == "completed"
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (2880, 0)


def test_an_insert_that_failed_midway_is_tried_again(lab: Lab) -> None:
    """At least once: rows that the failed attempt left behind do not block the next attempt."""
    copied(lab)
    wanted = {"source": "src", "write_mode": WriteMode.INSERT, "accept_at_least_once": True}
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 12, **wanted)
    payload = lab.run(plan, step=once("inserted", ServerUnreachableError("cut"), 2))
    assert payload["status"] == "completed"
    other = other_folder(lab)
    theirs = other.plan("dst", "2025-01-03", "2025-01-04", 12, **wanted)
    lab.sql("INSERT INTO dst SELECT * FROM src WHERE ts >= '2025-01-03 12:00:00' AND ts < '2025-01-03 12:10:00'")
    assert other.run(theirs)["chunkCounts"]["failed"] == 1


def test_a_dead_run_holds_its_window_for_its_lease(http_lab: Lab) -> None:
    """A dead run cannot drop its fence; another run drops it when it was silent for long enough."""
    lab = http_lab
    copied(lab)
    plans = [
        lab.session.store.load_plan(lab.plan("dst", "2025-01-01", "2025-01-03", hours, source="src")["planId"])
        for hours in (6, 12)
    ]
    server = lab.server()
    target = target_facts(server, lab.table("dst"))
    dead, living = (Fence(server, target, plan, 4) for plan in plans)
    dead.acquire()
    with pytest.raises(WindowTakenError, match=plans[0].plan_id):
        living.acquire()
    threading.Event().wait(4.5)
    living.acquire()
    with pytest.raises(WindowTakenError, match=plans[1].plan_id):
        dead.hold()
    living.release()
    assert lab.leftovers() == []


@pytest.mark.parametrize(
    "after", [pytest.param(0.6, marks=pytest.mark.long), 1.2, pytest.param(2.0, marks=pytest.mark.long)]
)
def test_a_run_that_is_killed_keeps_its_window_and_completes(http_lab: Lab, after: float) -> None:
    """Kill -9 at a random moment: another folder's plan is refused, the run is resumed, and no row is doubled."""
    lab, slow = http_lab, "SELECT id, ts, v + sleepEachRow(0.0004) AS v FROM {}"
    copied(lab, "PARTITION BY toDate(ts)")
    plan = lab.plan("dst", "2025-01-01", "2025-01-05", 6, select=slow.format(lab.table("src")))
    other = other_folder(lab)
    theirs = other.plan("dst", "2025-01-01", "2025-01-05", 24, source="src")
    words = ["run", "--plan-id", plan["planId"], "--state-dir", str(lab.folder), "--clickhouse-url", lab.engine.url]
    process = subprocess.Popen(
        [sys.executable, "-m", "airflow_provider_backfill.cli", *words], stdout=subprocess.DEVNULL
    )
    deadline = time.monotonic() + 60
    while not any("_fence_" in name for name in lab.leftovers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(after)
    process.kill()
    process.wait()
    if process.returncode == -signal.SIGKILL:
        with pytest.raises(WindowTakenError, match=plan["planId"]):
            other.run(theirs)
    payload = lab.run(plan, resume=True)
    assert payload["status"] == "completed"
    assert other.run(theirs)["chunkCounts"]["failed"] == 4
    assert (lab.value("SELECT count() FROM dst"), doubled(lab)) == (5760, 0)


def test_rows_of_a_source_that_another_plan_has_still_to_fill_are_waited_for(lab: Lab) -> None:
    """The second of two steps would be completed without the rows that the first has still to bring."""
    copied(lab)
    lab.sql("CREATE TABLE last AS dst")
    first = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    lab.sql("INSERT INTO dst SELECT id, ts - 86400, v FROM src WHERE ts < '2025-01-02'")
    second = lab.plan("last", "2025-01-01", "2025-01-02", 24, source="dst")
    with pytest.raises(RequestError, match=f"Plan {first['planId']} is planned, and fills") as refused:
        lab.run(second)
    assert f"run --plan-id {first['planId']}" in refused.value.hint
    lab.run(first)
    assert lab.run(second)["status"] == "completed"
    assert lab.value("SELECT count() FROM last") == 1440


@pytest.mark.parametrize("waived", [True, False])
def test_a_source_may_be_read_before_it_is_filled(lab: Lab, waived: bool) -> None:
    """Both ways that the refusal names."""
    copied(lab)
    lab.sql("CREATE TABLE last AS dst")
    first = lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    lab.sql("INSERT INTO dst SELECT * FROM src WHERE ts < '2025-01-01 01:00:00'")
    second = lab.plan("last", "2025-01-01", "2025-01-02", 24, source="dst")
    if waived:
        waive_plan(lab.session, first["planId"], reason="its rows are not needed")
    assert lab.run(second, force_overlap=not waived)["status"] == "completed"
    assert lab.value("SELECT count() FROM last") == 60


def test_rows_of_a_dropped_table_cover_no_window_of_the_next_one(lab: Lab) -> None:
    """Its plans stay completed; a plan of the table that has the name now tells that they filled another."""
    copied(lab)
    lab.fill("dst", "2025-01-01", "2025-01-02", 24, source="src")
    assert read_coverage(lab.session, lab.table("dst"))["ok"]
    lab.sql("DROP TABLE dst SYNC", "CREATE TABLE dst AS src")
    lab.fill("dst", "2025-01-02", "2025-01-03", 24, source="src")
    found = read_coverage(lab.session, lab.table("dst"))
    assert (found["ok"], [gap["to"] for gap in found["gaps"]]) == (False, ["2025-01-02T00:00:00.000Z"])
    window = parse_instant("2025-01-01"), parse_instant("2025-01-03")
    declared = [RequiredBackfill(lab.table("dst"), *window, reason="", owner="", where="the file")]
    assert not check_backfills(lab.session, declared=declared)["ok"]
    lab.fill("dst", "2025-01-01", "2025-01-02", 24, source="src", force=True)
    assert read_coverage(lab.session, lab.table("dst"))["ok"]
    assert check_backfills(lab.session, declared=declared)["ok"]
