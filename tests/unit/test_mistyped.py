"""A hundred mistyped commands: exit code 2, and a hint that leads to the right command."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from airflow_provider_backfill.cli.flags import COMMANDS
from airflow_provider_backfill.cli.main import main
from airflow_provider_backfill.state.store import open_store
from tests.state import make_plan

PLAN = make_plan()
ID = PLAN.plan_id
JANUARY = "--target shop.orders --from 2025-01-01 --to 2025-02-01"

# The typed words, and the text that the hint must contain.
MISTYPED: list[tuple[str, str]] = [
    # Commands: letters swapped, left out, doubled; singular and plural; other tools' words.
    ("paln", "plan"),
    ("pln", "plan"),
    ("plna --target shop.orders", "plan"),
    ("rnu", "run"),
    ("runn", "run"),
    ("stauts", "status"),
    ("staus", "status"),
    ("statuses", "status"),
    ("event", "events"),
    ("lists", "list"),
    ("checks", "check"),
    ("verfiy", "verify"),
    ("verifiy", "verify"),
    ("cancle", "cancel"),
    ("canel", "cancel"),
    ("resum", "resume"),
    ("doctr", "doctor"),
    ("coverge", "coverage"),
    ("reports", "report"),
    ("wave", "waive"),
    ("repiar", "repair"),
    ("cleen", "clean"),
    ("setparallel 4", "set-parallel"),
    ("set_parallel 4", "set-parallel"),
    ("Plan", "plan"),
    ("STATUS", "status"),
    ("ls", "list"),
    ("show", "status"),
    ("start", "run"),
    ("stop", "pause"),
    ("kill", "cancel"),
    ("abort", "cancel"),
    ("delete", "clean"),
    ("cleanup", "clean"),
    ("retry", "resume"),
    ("continue", "resume"),
    ("rollback", "undo"),
    ("revert", "undo"),
    ("logs", "events"),
    ("log", "events"),
    ("history", "events"),
    ("progress", "status"),
    ("create", "plan"),
    ("new", "plan"),
    ("execute", "run"),
    ("diagnose", "doctor"),
    ("validate", "verify"),
    ("compare", "verify"),
    ("skip", "waive"),
    ("fix", "repair"),
    ("pace 4", "set-parallel"),
    ("parallel 4", "set-parallel"),
    ("info", "status"),
    ("frobnicate", "plan"),
    # Flags: a dash missing, one dash, underscores, wrong case, prefixes, other names, another command's.
    ("status -last", "--last"),
    ("status —last", "--last"),
    ("status last", "--last"),
    ("plan -target shop.orders", "--target"),
    ("plan target=shop.orders", "--target"),
    ("plan --tagret shop.orders", "--target"),
    ("plan --table shop.orders", "--target"),
    ("plan --targets shop.orders", "--target"),
    ("plan --Target shop.orders", "--target"),
    ("plan --start 2025-01-01", "--from"),
    ("plan --end 2025-02-01", "--to"),
    ("plan --since 2025-01-01", "--from"),
    ("plan --until 2025-02-01", "--to"),
    ("plan --chunk_hours 6", "--chunk-hours"),
    ("plan --chunkHours 6", "--chunk-hours"),
    ("plan --chunk-size 6", "--chunk-hours"),
    ("plan --chunk 6h", "--chunk-hours"),
    ("plan --mode replace", "--write-mode"),
    ("plan --sql 'SELECT 1'", "--select"),
    ("run --parallel 4", "--max-parallel-chunks"),
    ("run --max-parallel 4", "--max-parallel-chunks"),
    ("run --workers 4", "--max-parallel-chunks"),
    ("run -j 4", "--max-parallel-chunks"),
    ("run --watch", "status"),
    ("status --follow", "events"),
    ("status --jsn", "--json"),
    ("list --state", "--status"),
    ("list --statedir x", "--state-dir"),
    ("list --url http://localhost:8123", "--clickhouse-url"),
    ("list --host localhost", "--clickhouse-url"),
    ("status --id " + ID, "--plan-id"),
    ("status --plan " + ID, "--plan-id"),
    ("status --planid " + ID, "--plan-id"),
    ("clean --force", "--yes"),
    ("clean -y", "--yes"),
    ("clean --dry-run", "without --yes"),
    ("list -v", "--verbose"),
    # Values: dates, units, swapped, missing, of the wrong kind.
    (f"{'plan ' + JANUARY} --chunk-hours 6x", "6"),
    (f"{'plan ' + JANUARY} --chunk-hours six", "6"),
    (f"{'plan ' + JANUARY} --chunk-hours 0", "0"),
    (f"{'plan ' + JANUARY} --chunk-hours -6", "0"),
    (f"{'plan ' + JANUARY} --chunk-hours 5min", "0.25"),
    (f"{'plan ' + JANUARY} --chunk-by months", "month"),
    (f"{'plan ' + JANUARY} --chunk-by weekly", "week"),
    (f"{'plan ' + JANUARY} --chunk-by dayly", "day"),
    (f"{'plan ' + JANUARY} --chunk-by day --chunk-zone Berlin", "Europe/Berlin"),
    (f"{'plan ' + JANUARY} --write-mode replac", "replace"),
    (f"{'plan ' + JANUARY} --time-unit sec", "s"),
    (f"{'plan ' + JANUARY} --max-chunk-rows 5M", "5000000"),
    (f"{'plan ' + JANUARY} --setting max_threads", "NAME=VALUE"),
    (f"{'plan ' + JANUARY} --param day", "NAME=FORMAT"),
    (f"{'plan ' + JANUARY} --backup", "--write-mode replace"),
    (f"{'plan ' + JANUARY} --keep-outside", "--write-mode replace"),
    (f"{'plan ' + JANUARY} --source shop.orders", "another --source"),
    (f"{'plan ' + JANUARY} --setting async_insert=1", "leave async_insert out"),
    (f"{'plan ' + JANUARY} --param day=%Y", "--select"),
    ("plan --target shop.orders --from 2025-02-01 --to 2025-01-01", "--from 2025-01-01 --to 2025-02-01"),
    ("plan --target shop.orders --from 2025-01-01 --to 2025-01-01", "2025-01-02"),
    ("plan --target shop.orders --from 2025-02-30 --to 2025-03-01", "2025-02-28"),
    ("plan --target shop.orders --from 2025-13-01 --to 2025-03-01", "2025-02-28"),
    ("plan --target shop.orders --from 01.02.2025 --to 2025-03-01", "2025-02-01"),
    ("plan --target shop.orders --from 2025/01/01 --to 2025-03-01", "2025-01-01"),
    ("plan --target shop.orders --from 20250101 --to 2025-03-01", "2025-01-01"),
    ("plan --target shop.orders --from 2025-1-1 --to 2025-03-01", "2025-01-01"),
    ("plan --target shop.orders --from yesterday --to 2025-03-01", "2025-01-31"),
    ("plan --target shop.orders --from '2025-01-01 6pm' --to 2025-03-01", "2025-01-31"),
    ("plan --target shop.orders --from 2025-01-01", "--to"),
    ("plan --target shop.orders --to 2025-01-01", "--from"),
    ("plan --from 2025-01-01 --to 2025-02-01", "--target"),
    ("plan --target --from 2025-01-01 --to 2025-02-01", "--target"),
    ("plan --target orders --from 2025-01-01 --to 2025-02-01", "database.table"),
    ("plan shop.orders --from 2025-01-01 --to 2025-02-01", "--target"),
    ("plan shop.orders 2025-01-01 2025-02-01", "--target"),
    ("plan --target shop.orders. --from 2025-01-01 --to 2025-02-01", "database.table"),
    ("plan --target 'shop orders' --from 2025-01-01 --to 2025-02-01", "database.table"),
    (f"{'plan ' + JANUARY} --source a.b --select 'SELECT 1'", "keep one"),
    (f"run {ID} --max-load 0.8", "percentage"),
    (f"run {ID} --max-load 80%", "80"),
    (f"run {ID} --max-failures none", "whole number"),
    (f"run {ID} --hours 22", "22-06"),
    (f"run {ID} --stop-at 6", "06:00"),
    (f"run {ID} --stop-at 25:00", "06:00"),
    (f"run {ID} --max-parallel-chunks two", "integer > 0"),
    (f"run {ID} --notify nowhere", "http"),
    (f"status {ID} --chunks fail", "failed"),
    ("list --status fail", "failed"),
    ("list --status done", "completed"),
    ("check --max-age 36", "36h"),
    ("check --max-age 2days", "7d"),
    ("set-parallel four", "whole number"),
    ("completion powershell", "bash"),
    ("completion", "bash"),
    # Ids: quotes, spaces, the table in their place, two of them, none.
    (f"status ' {ID[:6]} {ID[6:]}'", "list"),
    (f"status \"'{ID}'\"", "list"),
    (f"status {ID}.json", "list"),
    (f"status {ID.upper()[:-1]}Z", "list"),
    ("status 0000", "list"),
    ("status ffffffffffffffff", "list"),
    ("status shop.orders", "--target"),
    (f"status {ID} {ID}", "keep one"),
    (f"status {ID} --last", "keep one"),
    (f"status --plan-id={ID} {ID}", "keep one"),
    ("status", "list"),
    ("run", "list"),
    ("status --plan-id", "--plan-id ID"),
    ("status --plan-id ''", "list"),
    # Order, and words of the shell.
    (f"{ID} status", "status"),
    ("--json", "plan"),
    ("", "plan"),
    ("--help-me", "--help"),
    (f"status {ID} --json=true", "--json alone"),
    ("list -- --json", "--help"),
    ("clickhouse-backfill list", "list"),
    (f"waive {ID}", "--reason"),
]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with one plan; no server is named, and none answers."""
    folder = tmp_path / "state"
    open_store(str(folder)).save_plan(PLAN)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_STATE_DIR", str(folder))
    monkeypatch.setenv("CLICKHOUSE_URL", "http://127.0.0.1:1/")
    return folder


def test_there_are_more_than_a_hundred() -> None:
    assert len({words for words, _ in MISTYPED}) == len(MISTYPED) > 100


@pytest.mark.parametrize(("words", "helps"), MISTYPED)
def test_a_mistyped_command_is_told_with_what_works(
    words: str, helps: str, state: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code = main(shlex.split(words))
    out, err = capsys.readouterr()
    hint = err.partition("hint: ")[2]
    assert code == 2, err
    assert not out or "--json" in words
    assert helps in hint, err
    # A command that the hint names is one.
    for word in hint.split("clickhouse-backfill ")[1:]:
        name = word.split()[0].strip("?`,;.")
        assert name in COMMANDS or name.startswith("-"), hint
