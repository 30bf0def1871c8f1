"""The command line on a real ClickHouse, as a person or a CI job uses it, including kills."""

from __future__ import annotations

import json
import os
import pty
import shlex
import signal
import time
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.cli.main import main
from tests.command_line import Answer, Cli, finish, wait_until
from tests.conftest import Engine
from tests.server import SECURED_PASSWORD, ClickHouseServer

COUNTS = {"total", "pending", "running", "done", "failed", "skipped"}
RUN_KEYS = {
    *("ok", "command", "planId", "status", "chunkCounts", "attempts", "rowsWritten", "runPath", "eventPath"),
    "updatedAt",
}


@dataclass
class Shop:
    """
    Ten days of orders in one table, an empty table of the same form, and a command line.

    Attributes:
        rows: Rows in ``orders``; its ``id`` counts from 0.
    """

    cli: Cli
    client: Client
    database: str
    rows: int

    def plan(self, *words: str, hours: float = 6, days: int = 10) -> str:
        """Plan a copy of the first days' orders, and give the plan's id."""
        source = [] if "--select" in words else ["--source", f"{self.database}.orders"]
        payload = self.cli.json(
            *("plan", "--target", f"{self.database}.copy", "--from", "2025-01-01", "--to", f"2025-01-{days + 1:02}"),
            *("--chunk-hours", str(hours), *source, *words),
        )
        assert payload["ok"], payload
        return str(payload["planId"])

    def content(self, table: str) -> tuple[Any, ...]:
        """Content sums of a table."""
        query = f"SELECT count(), sum(cityHash64(ts, id, amount)) FROM {self.database}.{table}"
        return tuple(self.client.query(query).result_rows[0])

    def is_copied(self) -> bool:
        """Whether the copy holds each order once, and no table of ours is left."""
        left = f"SELECT count() FROM system.tables WHERE database = '{self.database}' AND name LIKE 'backfill%'"
        return self.content("copy") == self.content("orders") and self.client.command(left) == 0

    def slow_select(self) -> str:
        """A SELECT of all orders that takes longer, the more rows ``load`` has; without rows it returns nothing."""
        return (
            f"SELECT o.ts AS ts, o.id AS id, max(o.amount) AS amount FROM {self.database}.orders AS o"
            f" CROSS JOIN {self.database}.load AS l GROUP BY ts, id"
        )

    def load(self, rows: int) -> None:
        """Set the slowness of the slow SELECT. Plan before, since a slow trial would take all of its time."""
        self.client.command(f"TRUNCATE TABLE {self.database}.load")
        self.client.command(f"INSERT INTO {self.database}.load SELECT number FROM numbers({rows})")


def _shop(cli: Cli, client: Client, database: str, rows: int = 40_000) -> Shop:
    columns = "(ts DateTime('UTC'), id UInt64, amount UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY id"
    for table in ("orders", "copy"):
        client.command(f"CREATE TABLE {database}.{table} {columns}")
    client.command(f"CREATE TABLE {database}.load (n UInt64) ENGINE = MergeTree ORDER BY n")
    client.command(
        f"INSERT INTO {database}.orders SELECT toDateTime('2025-01-01', 'UTC') + intDiv(number * 864000, {rows}),"
        f" number, cityHash64(number) % 1000 FROM numbers({rows})"
    )
    return Shop(cli, client, database, rows)


@pytest.fixture
def shop(
    clickhouse_url: str, database: str, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> Shop:
    """A shop on the shared server."""
    return _shop(Cli(tmp_path / "state", f"{clickhouse_url}/{database}", capsys), client, database)


@pytest.fixture
def own_shop(own_server: ClickHouseServer, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Shop:
    """A shop on a separate server, whose logs contain nothing else."""
    client = clickhouse_connect.get_client(dsn=own_server.url, autogenerate_session_id=False)
    client.command("CREATE DATABASE shop")
    return _shop(Cli(tmp_path / "state", f"{own_server.url}/shop", capsys), client, "shop")


# ---------------------------------------------------------------- the way of a backfill


def test_from_plan_to_a_check_that_passes(engine: Engine, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The main job on either engine, with every payload's keys and exit code."""
    shop = _shop(Cli(tmp_path / "state", engine.url, capsys), engine.client, engine.database)
    cli, target = shop.cli, f"{shop.database}.copy"
    words = ("plan", "--target", target, "--from", "2025-01-01", "--to", "2025-01-11", "--json")

    answer = cli(*words, "--source", f"{shop.database}.orders")
    plan = answer.payload
    assert answer.code == 0
    assert {"ok", "command", "planId", "target", "chunkCount", "chunkHours", "planPath"} <= set(plan)
    assert (plan["from"], plan["to"]) == ("2025-01-01T00:00:00.000Z", "2025-01-11T00:00:00.000Z")
    assert (plan["chunkCount"], plan["chunkHours"], plan["timeColumn"], plan["existed"]) == (40, 6, "ts", False)
    assert Path(plan["planPath"]).is_file()
    plan_id = plan["planId"]

    again = cli(*words, "--source", f"{shop.database}.orders").payload
    assert (again["planId"], again["existed"]) == (plan_id, True)

    check = cli("check", "--json")
    assert check.code == 1
    assert check.payload["failedChecks"] == ["plugin:backfill"]
    result = check.payload["plugins"]["backfill"]
    assert result["findingCodes"] == ["backfill_required_pending"]
    assert set(result["findings"][0]) >= {"code", "severity", "message", "planId"}
    assert (result["evaluated"], result["requiredCount"], result["activeRuns"], result["failedRuns"]) == (1, 1, 0, 0)

    run = cli("run", "--plan-id", plan_id, "--json")
    assert run.code == 0
    assert set(run.payload) >= RUN_KEYS
    assert set(run.payload["chunkCounts"]) == COUNTS
    assert (run.payload["status"], run.payload["rowsWritten"]) == ("completed", shop.rows)
    advice = shlex.split(run.payload["next"])
    assert (advice[1], plan_id in advice) == ("verify", True)
    assert shop.is_copied()

    status = cli("status", "--plan-id", plan_id, "--json")
    assert status.code == 0
    assert {key: status.payload[key] for key in RUN_KEYS - {"command"}} == {
        key: run.payload[key] for key in RUN_KEYS - {"command"}
    }
    check = cli("check", "--json")
    assert (check.code, check.payload["failedChecks"]) == (0, [])
    doctor = cli("doctor", "--plan-id", plan_id, "--json")
    assert doctor.code == 0
    assert set(doctor.payload) >= {
        *("ok", "command", "planId", "status", "issueCodes", "recommendations", "failedChunkIds")
    }
    assert [entry["planId"] for entry in cli.json("list")["plans"]] == [plan_id]
    assert cli.json("run", "--plan-id", plan_id)["noop"] is True
    assert cli("cancel", "--plan-id", plan_id).code == 2


def test_texts_for_people(shop: Shop) -> None:
    """Each command answers on stdout and ends with the next command; progress is on stderr."""
    cli, source = shop.cli, f"{shop.database}.orders"
    view = f"{shop.database}.seen"
    shop.client.command(
        f"CREATE MATERIALIZED VIEW {view} ENGINE = MergeTree ORDER BY id AS SELECT id FROM {shop.database}.copy"
    )
    answer = cli(
        "plan", "--target", f"{shop.database}.copy", "--source", source, "--from", "2025", "--to", "2025-01-02"
    )
    plan_id = Path(cli.files()[0]).stem
    for text in (f"{shop.database}.copy", source, "2025-01-01 to 2025-01-02 UTC", "4 of 6 h", "stage:", view):
        assert text in answer.out
    assert shlex.split(answer.out.splitlines()[-1]) == [
        *("Next:", "clickhouse-backfill", "run", "--state-dir", str(cli.state), "--clickhouse-url", cli.url),
        *("--plan-id", plan_id),
    ]
    run = cli("run", "--plan-id", plan_id)
    assert "4 of 4 done" in run.out
    assert [line.split()[1] for line in run.err.splitlines()] == ["1/4", "2/4", "3/4", "4/4"]
    assert "completed" in cli("list").out
    assert "every required backfill is finished" in cli("check").out
    assert "is completed" in cli("doctor", "--plan-id", plan_id).out


def test_stdout_is_the_object_and_nothing_else(shop: Shop) -> None:
    """Also as a separate program, in which libraries and warnings could write to stdout."""
    plan_id = shop.plan(hours=24)
    for words in (
        ("run", "--plan-id", plan_id),
        ("status", "--plan-id", plan_id),
        ("doctor", "--plan-id", plan_id),
        ("check",),
        ("list",),
    ):
        answer = shop.cli.program(*words, "--json")
        assert (answer.code, answer.payload["ok"], answer.err) == (0, True, "")


def test_with_the_policy_relaxed_run_plans_first(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_REQUIRE_DRY_RUN_BEFORE_RUN", "false")
    source, target = f"{shop.database}.orders", f"{shop.database}.copy"
    window = ("--from", "2025-01-01", "--to", "2025-01-11")
    payload = shop.cli.json("run", "--target", target, "--source", source, *window, "--max-parallel-chunks", "2")
    assert (payload["command"], payload["status"]) == ("run", "completed")
    assert shop.is_copied()


def test_with_the_policy_relaxed_the_window_comes_from_the_source(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_REQUIRE_EXPLICIT_WINDOW", "false")
    source, target = f"{shop.database}.orders", f"{shop.database}.copy"
    payload = shop.cli.json("plan", "--target", target, "--source", source)
    assert payload["from"] == "2025-01-01T00:00:00.000Z"
    assert shop.cli("run", "--plan-id", payload["planId"]).code == 0
    assert shop.is_copied()


# ---------------------------------------------------------------- failures and advice


def test_what_doctor_advises_works_when_pasted(shop: Shop) -> None:
    """A permanently failed chunk: run reports it, check fails, and the advised command finishes the job."""
    shop.load(1)
    select = (
        f"SELECT ts, id, amount FROM {shop.database}.orders"
        f" WHERE throwIf(id IN (SELECT n + 20000 FROM {shop.database}.load), 'a bad order') = 0"
    )
    plan_id = shop.plan("--select", select, "--filter-table", f"{shop.database}.orders")

    run = shop.cli("run", "--plan-id", plan_id)
    assert run.code == 1
    assert "39 of 40 done, 1 failed" in run.out
    assert "attempt 1 failed permanently: a bad order" in run.err

    doctor = shop.cli("doctor", "--plan-id", plan_id, "--json")
    assert doctor.code == 1
    assert {"backfill_chunk_failed_retry_exhausted", "backfill_required_pending"} <= set(doctor.payload["issueCodes"])
    assert len(doctor.payload["failedChunkIds"]) == 1
    assert shop.cli("check").code == 1

    shop.load(0)
    (advice,) = doctor.payload["recommendations"]
    program, *words = shlex.split(advice)
    assert program == "clickhouse-backfill"
    assert main(words) == 0
    assert shop.is_copied()
    assert shop.cli("check").code == 0


def test_nobody_there_is_exit_1_and_nothing_is_done(shop: Shop) -> None:
    plan_id = shop.plan()
    before = shop.cli.files()
    shop.cli.url = "http://default@127.0.0.1:9/nowhere"
    for command in ("run", "plan"):
        words = ("--plan-id", plan_id) if command == "run" else ("--target", "a.b", "--source", "a.c")
        window = () if command == "run" else ("--from", "2025-01-01", "--to", "2025-01-02")
        answer = shop.cli(command, *words, *window, "--json")
        assert answer.code == 1
        assert "http://127.0.0.1:9 could not be reached" in answer.payload["error"]
        assert "--clickhouse-url" in answer.payload["hint"]
    assert shop.cli.files() == before
    assert shop.cli.json("status", "--plan-id", plan_id)["status"] == "planned"


# ---------------------------------------------------------------- stopping and dying


def _done(shop: Shop, plan_id: str) -> int:
    return sum(event["type"] == "ChunkDone" for event in shop.cli.events(plan_id))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.long), signal.SIGHUP])
def test_a_signal_pauses_and_resume_goes_on(shop: Shop, number: signal.Signals) -> None:
    """What a terminal, a service manager and a lost connection send."""
    plan_id = shop.plan(hours=4)
    process = shop.cli.start("run", "--plan-id", plan_id, "--max-parallel-chunks", "2", "--json")
    wait_until(lambda: _done(shop, plan_id) >= 5)
    process.send_signal(number)
    answer = finish(process)

    assert answer.code == 128 + number
    assert answer.payload["status"] == "paused"
    assert answer.payload["chunkCounts"]["running"] == 0
    assert 5 <= answer.payload["chunkCounts"]["done"] < 60
    assert f"Stopped by {number.name}" in answer.err
    assert "Traceback" not in answer.err
    assert "clickhouse-backfill resume" in answer.payload["next"]

    resumed = shop.cli.json("resume", "--plan-id", plan_id, "--max-parallel-chunks", "2")
    assert (resumed["ok"], resumed["status"]) == (True, "completed")
    assert shop.is_copied()


def test_a_signal_kills_a_query_that_lasts(shop: Shop) -> None:
    """A pause must not wait for an hour's INSERT."""
    shop.load(1)
    plan_id = shop.plan("--select", shop.slow_select(), "--filter-table", f"{shop.database}.orders", hours=24, days=2)
    shop.load(30_000_000)
    process = shop.cli.start("run", "--plan-id", plan_id)
    wait_until(lambda: _queries(shop, plan_id) == 1)
    process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    answer = finish(process)
    assert time.monotonic() - began < 5
    assert (answer.code, _queries(shop, plan_id)) == (128 + signal.SIGTERM, 0)
    assert "is paused" in answer.out


def _queries(shop: Shop, plan_id: str) -> int:
    query = f"SELECT count() FROM system.processes WHERE startsWith(query_id, 'backfill-{plan_id}')"
    return int(str(shop.client.command(query)))


def test_a_second_interrupt_leaves_at_once(own_shop: Shop, own_server: ClickHouseServer) -> None:
    """When the server answers nothing, giving chunks back waits for it; a person need not."""
    own_shop.load(1)
    plan_id = own_shop.plan("--select", own_shop.slow_select(), "--filter-table", "shop.orders", hours=24)
    own_shop.load(30_000_000)
    process = own_shop.cli.start("run", "--plan-id", plan_id)
    wait_until(lambda: _queries(own_shop, plan_id) == 1)
    own_server.pause()
    process.send_signal(signal.SIGINT)
    time.sleep(1)
    assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert finish(process, 5).code == -signal.SIGINT
    own_server.resume()

    own_shop.load(1)
    assert own_shop.cli("resume", "--plan-id", plan_id).code == 0
    assert own_shop.is_copied()


def test_an_interrupt_before_it_begins_leaves_nothing(own_shop: Shop, own_server: ClickHouseServer) -> None:
    plan_id = own_shop.plan()
    before = own_shop.cli.files()
    own_server.pause()
    process = own_shop.cli.start("run", "--plan-id", plan_id)
    wait_until(lambda: _catches(process.pid, signal.SIGTERM))
    process.send_signal(signal.SIGTERM)
    answer = finish(process, 10)
    own_server.resume()
    assert (answer.code, answer.err) == (130, "clickhouse-backfill: Interrupted.\n")
    assert own_shop.cli.files() == before


def _catches(pid: int, number: signal.Signals) -> bool:
    """Return whether the process has a handler for the signal, according to the kernel."""
    caught = Path(f"/proc/{pid}/status").read_text().partition("SigCgt:\t")[2].split()[0]
    return bool(int(caught, 16) >> (number - 1) & 1)


def test_killed_again_and_again_it_still_writes_each_row_once(shop: Shop) -> None:
    """``kill -9`` at moments that differ; no lease is waited for, because the owner's process is gone."""
    plan_id = shop.plan(hours=2)
    command = "run"
    for turn in range(6):
        process = shop.cli.start(command, "--plan-id", plan_id, "--max-parallel-chunks", "2")
        goal = _done(shop, plan_id) + 5
        wait_until(lambda goal=goal: _done(shop, plan_id) >= goal)  # type: ignore[misc]
        time.sleep(turn * 0.007)
        process.kill()
        assert finish(process).code == -signal.SIGKILL
        command = "resume"
    assert shop.cli.json("status", "--plan-id", plan_id)["chunkCounts"]["done"] < 120
    resumed = shop.cli.json("resume", "--plan-id", plan_id, "--max-parallel-chunks", "2")
    assert (resumed["status"], resumed["rowsWritten"]) == ("completed", shop.rows)
    assert shop.is_copied()


def test_cancel_from_a_second_terminal_stops_the_server_too(shop: Shop) -> None:
    """Within two seconds no worker holds a chunk and no query of the plan is alive; resume finishes."""
    shop.load(1)
    plan_id = shop.plan("--select", shop.slow_select(), "--filter-table", f"{shop.database}.orders", hours=24)
    shop.load(30_000_000)
    process = shop.cli.start("run", "--plan-id", plan_id, "--max-parallel-chunks", "2", "--json")
    wait_until(lambda: _queries(shop, plan_id) == 2)

    cancel = shop.cli.program("cancel", "--plan-id", plan_id, "--reason", "wrong month", "--json")

    assert (cancel.code, cancel.payload["status"]) == (0, "cancelled")
    assert cancel.payload["queries"].endswith(" killed")
    assert (cancel.payload["chunkCounts"]["running"], _queries(shop, plan_id)) == (0, 0)
    run = finish(process, 10)
    assert (run.code, run.payload["status"], run.payload["chunkCounts"]["done"]) == (1, "cancelled", 0)
    events = shop.cli.events(plan_id)
    (asked,) = [event for event in events if event["type"] == "RunCancelled"]
    released = [event for event in events if event["type"] == "ChunkReleased"]
    assert len(released) == 2
    assert all(_moment(event) - _moment(asked) < 2 for event in released)
    assert _moment(events[-1]) - _moment(asked) < 2

    refused = shop.cli("run", "--plan-id", plan_id)
    assert (refused.code, "was cancelled" in refused.err) == (2, True)
    shop.load(1)
    assert shop.cli.json("resume", "--plan-id", plan_id)["status"] == "completed"
    assert shop.is_copied()


def _moment(event: dict[str, Any]) -> float:
    return datetime.fromisoformat(event["at"]).timestamp()


def test_two_runs_at_once_execute_no_chunk_twice(own_shop: Shop) -> None:
    """The server's own log counts the INSERTs: one for each chunk."""
    plan_id = own_shop.plan(hours=4)
    both = [own_shop.cli.start("run", "--plan-id", plan_id, "--max-parallel-chunks", "2", "--json") for _ in range(2)]
    answers = [finish(process) for process in both]

    assert [(answer.code, answer.payload["status"]) for answer in answers] == [(0, "completed")] * 2
    assert own_shop.is_copied()
    own_shop.client.command("SYSTEM FLUSH LOGS")
    inserts = own_shop.client.query(
        "SELECT query_id, count() FROM system.query_log WHERE type = 'QueryStart' AND query_kind = 'Insert'"
        f" AND startsWith(query_id, 'backfill-{plan_id}') GROUP BY query_id"
    ).result_rows
    assert Counter(count for _, count in inserts) == {1: 60}
    assert len({query_id.split("-")[2] for query_id, _ in inserts}) == 60
    assert len({event["by"] for event in own_shop.cli.events(plan_id) if event["type"] == "ChunkDone"}) == 2


# ---------------------------------------------------------------- watching


def test_a_watcher_leaves_when_the_run_ends(shop: Shop) -> None:
    plan_id = shop.plan(hours=4)
    watcher = shop.cli.start("status", "--watch", "--plan-id", plan_id)
    assert watcher.poll() is None
    assert shop.cli("run", "--plan-id", plan_id).code == 0
    answer = finish(watcher, 10)
    assert answer.code == 0
    assert "60 of 60 done" in answer.out
    lines = answer.err.splitlines()
    assert "completed: 60 of 60 chunks done, 40,000 rows" in lines[-1]
    assert len(set(lines)) == len(lines)


def test_a_watcher_leaves_with_an_interrupt(shop: Shop) -> None:
    plan_id = shop.plan()
    watcher = shop.cli.start("status", "--watch", "--plan-id", plan_id)
    assert watcher.stderr is not None
    assert "planned: 0 of 40 chunks done" in watcher.stderr.readline()
    watcher.send_signal(signal.SIGINT)
    answer = finish(watcher, 10)
    assert (answer.code, answer.err) == (0, "")
    assert "is planned" in answer.out


def test_a_watcher_with_json_gets_a_line_for_each_change(shop: Shop) -> None:
    """For machines: each line is a complete answer, and the last equals a plain status."""
    plan_id = shop.plan()
    watcher = shop.cli.start("status", "--watch", "--json", "--plan-id", plan_id)
    assert watcher.stdout is not None
    first = json.loads(watcher.stdout.readline())
    assert (first["status"], first["slowest"], first["failing"]) == ("planned", [], [])
    assert shop.cli("run", "--plan-id", plan_id).code == 0
    answer = finish(watcher, 10)
    assert (answer.code, answer.err) == (0, "")
    lines = [json.loads(line) for line in answer.out.splitlines()]
    assert lines[-1] == shop.cli.json("status", "--plan-id", plan_id)
    assert len(lines) > 2
    assert all(line["planId"] == plan_id for line in lines)
    counts = [line["chunkCounts"]["done"] for line in lines]
    assert counts == sorted(counts)
    last = lines[-2]
    assert last["pace"]["rowsPerSecond"] > 0
    seconds = [chunk["seconds"] for chunk in last["slowest"]]
    assert seconds == sorted(seconds, reverse=True)
    assert len(seconds) == 3


def _on_terminal(cli: Cli, *words: str) -> tuple[int, str]:
    """Exit code of a program that runs on a terminal, and all that the terminal got."""
    ours, theirs = pty.openpty()
    process = cli.start(*words, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:
            # Linux reports an error when the last writer of a terminal has closed it.
            break
        if not data:
            break
        shown += data
    os.close(ours)
    return process.wait(60), shown.decode()


def test_a_terminal_gets_a_map_with_rate_and_time_left(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "140")
    plan_id = shop.plan(hours=2)
    code, shown = _on_terminal(shop.cli, "run", "--plan-id", plan_id, "--max-parallel-chunks", "2")
    assert code == 0
    drawn = (
        "/120 chunks",
        " running",
        " rows/s, ",
        " left",
        "120/120 chunks",
        "40,000 rows",
        "█",
        "slowest",
    )
    for text in (*drawn, "\x1b[?25h"):
        assert text in shown
    assert shop.is_copied()


def test_a_run_outlives_the_pipe_that_shows_it(shop: Shop) -> None:
    """``clickhouse-backfill run … 2>&1 | head -1`` and a closed terminal must not leave half a backfill."""
    plan_id = shop.plan()
    process = shop.cli.start("run", "--plan-id", plan_id, "--verbose")
    assert process.stderr is not None
    assert process.stderr.readline()
    process.stderr.close()
    assert process.stdout is not None
    assert "is completed" in process.stdout.read()
    assert process.wait(30) == 0
    process.stdout.close()
    assert shop.is_copied()


def test_a_run_outlives_its_terminal(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a hang-up signal, as under nohup: drawing the bar fails, and filling the target continues."""
    monkeypatch.setenv("TERM", "xterm-256color")
    plan_id = shop.plan()
    ours, theirs = pty.openpty()
    process = shop.cli.start("run", "--plan-id", plan_id, stderr=theirs)
    os.close(theirs)
    wait_until(lambda: _done(shop, plan_id) >= 3)
    os.close(ours)
    assert process.stdout is not None
    assert "is completed" in process.stdout.read()
    assert process.wait(30) == 0
    process.stdout.close()
    assert shop.is_copied()


# ---------------------------------------------------------------- secrets


def _encoded(server: ClickHouseServer, password: str) -> str:
    return f"http://secured:{quote(password, safe='')}@127.0.0.1:{server.http_port}"


@pytest.mark.parametrize(
    "way", ["url", *(pytest.param(way, marks=pytest.mark.long) for way in ("environment", "file"))]
)
def test_no_password_is_shown_or_stored(
    clickhouse_server: ClickHouseServer, tmp_path: Path, capsys: pytest.CaptureFixture[str], way: str
) -> None:
    """Every command, its failures included, leaves no trace of it in state or output."""
    client = clickhouse_connect.get_client(dsn=clickhouse_server.url, autogenerate_session_id=False)
    database = f"secret_{way}"
    client.command(f"DROP DATABASE IF EXISTS {database} SYNC")
    client.command(f"CREATE DATABASE {database}")
    given = _encoded(clickhouse_server, SECURED_PASSWORD)
    bare = f"http://secured@127.0.0.1:{clickhouse_server.http_port}"
    cli = Cli(tmp_path / "state", f"{given if way == 'url' else bare}/{database}", capsys)
    words: list[str] = []
    if way == "environment":
        cli.environment["CLICKHOUSE_PASSWORD"] = SECURED_PASSWORD
    if way == "file":
        path = tmp_path / "password"
        path.write_text(f"{SECURED_PASSWORD}\n")
        words = ["--password-file", str(path)]
    shop = _shop(cli, client, database, rows=1_000)
    source, target, window = f"{database}.orders", f"{database}.copy", ("--from", "2025-01-01", "--to", "2025-01-11")

    plan = cli.program("plan", "--target", target, "--source", source, *window, "--json", "--verbose", *words)
    plan_id = plan.payload["planId"]
    answers: list[Answer] = [
        plan,
        cli.program("run", "--plan-id", plan_id, "--verbose", *words),
        cli.program("status", "--plan-id", plan_id, "--verbose", *words),
        cli.program("doctor", "--plan-id", plan_id, "--verbose", *words),
        cli.program("plan", "--target", f"{database}.absent", *window, "--verbose", *words),
        cli.program("plan", "--target", target, "--verbose", "--clickhouse-url-typo", cli.url, *words),
    ]
    assert [answer.code for answer in answers] == [0, 0, 0, 0, 2, 2]
    assert shop.is_copied()
    wrong = Cli(cli.state, f"{_encoded(clickhouse_server, 'wrong-pass')}/{database}", capsys)
    refused = wrong.program("resume", "--plan-id", plan_id, "--replay-done", "--clear-window", "--verbose")
    assert refused.code == 1
    assert "wrong-pass" not in refused.out + refused.err
    everything = "".join(answer.out + answer.err for answer in answers)
    everything += "".join(path.read_text() for path in cli.state.rglob("*") if path.is_file())
    for secret in (SECURED_PASSWORD, quote(SECURED_PASSWORD, safe=""), "s3cret"):
        assert secret not in everything
    client.command(f"DROP DATABASE {database} SYNC")
