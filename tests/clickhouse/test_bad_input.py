"""
Everything a user can get wrong: exit 2, the value and the remedy in the message, nothing written.

One test, or one case of a test, for each way of it; a ClickHouse that does not answer is exit 1.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from clickhouse_connect.driver.client import Client

from tests.command_line import Cli

WINDOW = {"--from": "2025-01-01", "--to": "2025-01-03"}
PLAN_ID = "0123456789abcdef"


@pytest.fixture
def cli(clickhouse_url: str, database: str, client: Client, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A command line on a database with a source, a target, and tables that do not fit each other."""
    engine = "ENGINE = MergeTree ORDER BY tuple()"
    for statement in (
        f"CREATE TABLE source (ts DateTime, n UInt32, note String) {engine}",
        f"CREATE TABLE target (ts DateTime, n UInt32, note String) {engine}",
        f"CREATE TABLE narrow (ts DateTime, n UInt8, note String) {engine}",
        f"CREATE TABLE fewer (ts DateTime, n UInt32) {engine}",
        f"CREATE TABLE timeless (n UInt32, note String) {engine}",
        f"CREATE TABLE two_times (made DateTime, seen DateTime, n UInt32) {engine}",
        f"CREATE TABLE filled (ts DateTime, n UInt32, note String) {engine}",
        "INSERT INTO filled SELECT toDateTime('2025-01-01 12:00:00', 'UTC'), number, '' FROM numbers(7)",
        "INSERT INTO source SELECT toDateTime('2025-01-01 12:00:00', 'UTC'), number, '' FROM numbers(7)",
    ):
        client.command(statement)
    return Cli(tmp_path / "state", f"{clickhouse_url}/{database}", capsys)


def _plan(database: str, changed: dict[str, str]) -> list[str]:
    """
    The words of a valid plan with some flags changed; ``db`` is replaced by the database, an empty
    value drops a flag.
    """
    flags = {"--target": "db.target", "--source": "db.source", **WINDOW, **changed}
    words = ["plan"]
    for name, value in flags.items():
        words += [name, value.replace("db.", f"{database}.")] if value else []
    return words


def test_the_unchanged_words_are_good(cli: Cli, database: str) -> None:
    """Otherwise the cases below could fail for another reason than theirs."""
    assert cli(*_plan(database, {})).code == 0


@pytest.mark.parametrize(
    ("changed", "message", "hint"),
    [
        # Targets and sources.
        ({"--target": "nodot"}, "The target 'nodot' is not a table name", "--target database.table"),
        ({"--target": "a.b.c"}, "The target 'a.b.c' is not a table name", "--target database.table"),
        ({"--target": "db.absent"}, "There is no table db.absent", "check the name"),
        ({"--source": "db.absent"}, "There is no table db.absent", "check the name"),
        ({"--source": "db.target"}, "db.target is the target itself", "pass another --source"),
        ({"--source": ""}, "No materialized view writes to db.target", "--source database.table, or --select"),
        ({"--source": "", "--select": "SELECT * FROM db.target"}, "which is the target itself", "read from"),
        ({"--source": "", "--select": "SELECT * FORM db.source"}, "is not a SELECT that ClickHouse accepts", "correct"),
        ({"--source": "", "--select": "SELECT * FROM db.absent"}, "db.absent", "correct"),
        ({"--target": "db.fewer"}, "has no column 'note', which db.source gives; it has ts, n", "--select"),
        ({"--target": "db.narrow"}, "n is UInt32 in db.source and UInt8 in db.narrow", "CAST(n AS UInt8)"),
        ({"--target": "db.filled"}, "already holds 7 rows in the window", "--allow-existing-rows"),
        # The window.
        ({"--from": "yesterday"}, "'yesterday' is not a date", "2025-01-31"),
        ({"--from": "1"}, "'1' is not a date", "2025-01-31"),
        ({"--from": "2025-02-30"}, "'2025-02-30' names a moment that does not exist", "2025-02-28"),
        ({"--from": "2025-01-03"}, "from 2025-01-03T00:00:00.000Z is not before to 2025-01-03", "the end is exclusive"),
        ({"--from": "2025-01-04"}, "from 2025-01-04T00:00:00.000Z is not before to 2025-01-03", "--to 2025-01-04"),
        ({"--to": "2025-02-01"}, "is 744 h, over the limit of 720 h", "--force-large-window"),
        # The chunks.
        ({"--chunk-hours": "0.2"}, "A chunk of 0.2 h is shorter than the minimum of 15 minutes", "--chunk-hours 0.25"),
        ({"--chunk-hours": "six"}, "'six'", "hours above zero, such as 6"),
        ({"--chunk-hours": "0"}, "'0'", "hours above zero, such as 6"),
        ({"--chunk-hours": "Infinity"}, "'Infinity'", "hours above zero, such as 6"),
        # The time column.
        ({"--time-column": "tz"}, "db.source has no column 'tz'; it has ts DateTime, n UInt32", "with one of these"),
        ({"--time-column": "n"}, "The column n of db.source is UInt32, which holds no instant", "--time-unit"),
        ({"--time-column": "note"}, "The column note of db.source is String, which holds no instant", "DateTime"),
        ({"--source": "db.timeless"}, "db.timeless has no time column; it has n UInt32, note String", "--time-column"),
        ({"--source": "db.two_times"}, "several time columns (made, seen)", "--time-column"),
        (
            {"--time-unit": "s", "--time-column": "ts"},
            "The time ts of db.source is no integer",
            "omit --time-unit s, or name",
        ),
        # Identifiers that try to be more.
        ({"--target": "db.target; DROP TABLE db.source"}, "is not a table name", "--target database.table"),
        ({"--source": "db.source` WHERE 1 --"}, "is not a table name", "--source database.table"),
        ({"--source": "db.`x`; DROP TABLE db.source"}, "is not a table name", "--source database.table"),
        ({"--source": "db.`source; DROP TABLE db.source`"}, "There is no table", "check the name"),
        ({"--time-column": "ts` OR 1 = 1 --"}, "ts` OR 1 = 1 -- is no column of db.source", "--time-column"),
        ({"--time-column": "ts) OR (1 = 1"}, "ts) OR (1 = 1 is no column of db.source", "--time-column"),
        (
            {"--source": "", "--select": "SELECT * FROM db.source", "--filter-table": "x y"},
            "'x y' is not a table",
            "--filter-table",
        ),
        # What there is not.
        ({"--write-mode": "upsert"}, "--write-mode is 'upsert'", "stage, replace, insert"),
        ({"--parallel": "6"}, "plan has no flag --parallel", "set-parallel"),
        ({"--chunk-hour": "6"}, "plan has no flag --chunk-hour", "did you mean --chunk-hours?"),
    ],
)
def test_a_bad_plan(cli: Cli, client: Client, database: str, changed: dict[str, str], message: str, hint: str) -> None:
    words = _plan(database, changed)
    before = client.query("SELECT name, total_rows FROM system.tables WHERE database = currentDatabase()").result_rows

    answer = cli(*words)

    assert answer.code == 2, answer
    assert message.replace("db.", f"{database}.") in answer.err.partition("\n  hint: ")[0]
    assert hint in answer.err.partition("\n  hint: ")[2]
    assert answer.out == ""
    assert not cli.state.exists()
    after = client.query("SELECT name, total_rows FROM system.tables WHERE database = currentDatabase()").result_rows
    assert after == before
    payload = cli.json(*words)
    assert (payload["ok"], payload["command"], payload["exitCode"]) == (False, "plan", 2)


@pytest.mark.parametrize("command", ["run", "resume", "status", "cancel", "doctor"])
@pytest.mark.parametrize(
    ("plan_id", "message", "hint"),
    [
        ("XYZ", "'XYZ' is not a plan id", "16 hex digits"),
        ("../../etc/passwd", "'../../etc/passwd' is not a plan id", "16 hex digits"),
        ("", "'' is not a plan id", "16 hex digits"),
        (PLAN_ID, f"There is no plan {PLAN_ID} in", "clickhouse-backfill list"),
    ],
)
def test_a_bad_plan_id(cli: Cli, command: str, plan_id: str, message: str, hint: str) -> None:
    answer = cli(command, "--plan-id", plan_id)
    assert answer.code == 2
    assert message in answer.err.splitlines()[0]
    assert hint in answer.err.splitlines()[1]
    assert not cli.state.exists()


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ("[defaults]\nchunkHour = 6", "defaults.chunkHour is not an option"),
        ("[defaults]\nchunkHours = 0", "defaults.chunkHours is 0"),
        ('[limits]\nmaxWindowHours = "many"', "limits.maxWindowHours is 'many'"),
        ("[policy]\nblockOverlappingRuns = 1", "policy.blockOverlappingRuns is 1"),
        ("[defaults\n", "is not valid TOML"),
    ],
)
def test_a_bad_option_in_a_file(cli: Cli, database: str, tmp_path: Path, document: str, message: str) -> None:
    path = tmp_path / "options.toml"
    path.write_text(document)
    answer = cli(*_plan(database, {}), "--config", str(path))
    assert answer.code == 2
    assert message in answer.err
    assert str(path) in answer.err
    assert not cli.state.exists()


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("CLICKHOUSE_BACKFILL_CHUNK_HOURS", "-1", "defaults.chunkHours is -1"),
        ("CLICKHOUSE_BACKFILL_CHUNKHOURS", "6", "CLICKHOUSE_BACKFILL_CHUNKHOURS is not an option"),
    ],
)
def test_a_bad_option_in_the_environment(
    cli: Cli, database: str, monkeypatch: pytest.MonkeyPatch, name: str, value: str, message: str
) -> None:
    monkeypatch.setenv(name, value)
    answer = cli(*_plan(database, {}))
    assert answer.code == 2
    assert message in answer.err
    assert name in answer.err
    assert not cli.state.exists()


@pytest.mark.parametrize("url", ["localhost:8123", "ftp://host/db", "http://", "http://host:many/db", "chdb://"])
def test_a_bad_address(cli: Cli, database: str, url: str) -> None:
    cli.url = url
    answer = cli(*_plan(database, {}))
    assert answer.code == 2
    assert "The address of the ClickHouse" in answer.err
    assert "http://user@host:8123/database" in answer.err
    assert not cli.state.exists()


def test_an_address_with_a_setting_that_nobody_knows(cli: Cli, database: str) -> None:
    """The client takes arguments in the URL, and the settings of a query are not among them."""
    cli.url += "?max_execution_time=3"
    answer = cli(*_plan(database, {}))
    assert answer.code == 2
    assert "'max_execution_time'" in answer.err


def test_nobody_answers(cli: Cli, database: str) -> None:
    """A runtime error: the request may be right."""
    cli.url = "http://default@127.0.0.1:9/db"
    answer = cli(*_plan(database, {}))
    assert answer.code == 1
    assert "http://127.0.0.1:9 could not be reached (Connection refused)." in answer.err
    assert "check that it runs" in answer.err
    assert not cli.state.exists()


# ---------------------------------------------------------------- damaged state


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(path: Path) -> None:
    path.write_bytes(b"")


def _garble(path: Path) -> None:
    path.write_bytes(b"\x00\xffnonsense\n")


def _garble_third_line(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines[:2], b'{"type": "ChunkDo\n', *lines[3:]]))


def _claim_twice(path: Path) -> None:
    lines = path.read_bytes().splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if b"ChunkStarted" in line)
    path.write_bytes(b"".join([*lines[: first + 1], lines[first], *lines[first + 1 :]]))


@pytest.mark.parametrize(
    ("name", "damage", "line"),
    [
        ("plans/{}.json", _truncate, ""),
        ("plans/{}.json", _empty, ""),
        ("plans/{}.json", _garble, ""),
        ("runs/{}.json", _truncate, ""),
        ("runs/{}.json", _garble, ""),
        ("events/{}.ndjson", _garble_third_line, ", line 3"),
        ("events/{}.ndjson", _claim_twice, ", line 4"),
    ],
)
def test_a_damaged_file(cli: Cli, database: str, name: str, damage: Callable[[Path], None], line: str) -> None:
    """The file is named with its line and a remedy, and every other plan still works."""
    damaged = cli.json(*_plan(database, {}))["planId"]
    assert cli("run", "--plan-id", damaged).code == 0
    other = cli.json(*_plan(database, {"--from": "2025-01-02", "--to": "2025-01-04"}))["planId"]
    path = cli.state / name.format(damaged)
    if name.startswith("events"):
        # Otherwise the checkpoint answers, and the earlier lines of the log are not read.
        (cli.state / "runs" / f"{damaged}.json").unlink()
    damage(path)

    for command in ("status", "resume", "cancel", "doctor"):
        answer = cli(command, "--plan-id", damaged)
        assert answer.code == 2, answer
        assert f"{path}{line} is damaged" in answer.err
        assert "hint: " in answer.err

    check = cli("check", "--json")
    assert check.code == 1
    findings = check.payload["plugins"]["backfill"]["findings"]
    assert [(finding["code"], finding["planId"]) for finding in findings if finding["planId"] == damaged] == [
        ("backfill_state_damaged", damaged)
    ]
    assert [finding["code"] for finding in findings if finding["planId"] == other] == ["backfill_required_pending"]
    listed = cli("list", "--json")
    assert listed.code == 1
    assert [entry["planId"] for entry in listed.payload["plans"]] == [other]
    assert [entry["planId"] for entry in listed.payload["damaged"]] == [damaged]
    assert str(path) in cli("list").out
    assert cli.json("run", "--plan-id", other)["status"] == "completed"


def test_a_checkpoint_is_written_again_from_the_log(cli: Cli, database: str) -> None:
    plan_id = cli.json(*_plan(database, {}))["planId"]
    before = cli.json("run", "--plan-id", plan_id)
    path = cli.state / "runs" / f"{plan_id}.json"
    path.write_text("{")
    assert str(path) in cli("status", "--plan-id", plan_id).err
    path.unlink()
    after = cli.json("status", "--plan-id", plan_id)
    assert after["chunkCounts"] == before["chunkCounts"]
    assert after["rowsWritten"] == before["rowsWritten"]


def test_a_torn_last_line_is_no_damage(cli: Cli, database: str) -> None:
    """A writer died during the write: the event was never acknowledged."""
    plan_id = cli.json(*_plan(database, {}))["planId"]
    cli("run", "--plan-id", plan_id)
    with (cli.state / "events" / f"{plan_id}.ndjson").open("ab") as log:
        log.write(b'{"type":"RunCanc')
    assert cli.json("status", "--plan-id", plan_id)["status"] == "completed"
    assert cli("check").code == 0


def test_a_state_folder_that_is_a_file(cli: Cli, database: str) -> None:
    cli.state.write_text("not a folder")
    answer = cli(*_plan(database, {}))
    assert answer.code == 2
    assert str(cli.state) in answer.err
    assert "--state-dir" in answer.err
