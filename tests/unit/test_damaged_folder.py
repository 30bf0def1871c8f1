"""Every command that reads a damaged, empty or misplaced state folder reports it plainly, with a remedy."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from airflow_provider_backfill.core.events import RunStarted
from airflow_provider_backfill.state.store import open_store
from tests.command_line import Cli
from tests.state import START, chunks_of, done, make_plan, started, verified

PLAN = make_plan(3)
ID = PLAN.plan_id
READ = (
    *("list", "check", "status --last", f"status {ID}", "status --target shop.orders", f"doctor {ID}"),
    *("coverage --target shop.orders", f"events {ID}", f"report {ID}", f"pause {ID}"),
)


def plan_file(state: Path) -> Path:
    return state / "plans" / f"{ID}.json"


def log_file(state: Path) -> Path:
    return state / "events" / f"{ID}.ndjson"


def second_line_unknown(state: Path) -> None:
    lines = log_file(state).read_text().splitlines(keepends=True)
    log_file(state).write_text("".join([*lines[:2], '{"type":"Nope"}\n', *lines[3:]]))


DAMAGE: dict[str, Callable[[Path], object]] = {
    "plan emptied": lambda state: plan_file(state).write_text(""),
    "plan of another shape": lambda state: plan_file(state).write_text("{}"),
    "plan overwritten": lambda state: plan_file(state).write_bytes(os.urandom(300)),
    "log emptied": lambda state: log_file(state).write_text(""),
    "log gone": lambda state: log_file(state).unlink(),
    "log zeroed": lambda state: log_file(state).write_bytes(bytes(log_file(state).stat().st_size)),
    "log line unknown": second_line_unknown,
}


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A folder with a run that is under way, and no server."""
    cli = Cli(tmp_path / "state", "", capsys)
    store, plan = open_store(str(cli.state)), PLAN
    assert store.save_plan(plan)
    log, first = store.open_run(plan), next(iter(chunks_of(plan)))
    for event in (RunStarted(at=START, by="me"), started(plan, first), verified(first), done(first)):
        log.append(event)
    log.write_checkpoint()
    return cli


@pytest.mark.parametrize("damage", DAMAGE)
def test_damage_is_named_by_every_command(cli: Cli, damage: str) -> None:
    DAMAGE[damage](cli.state)
    for command in READ:
        answer = cli(*command.split())
        said = answer.out + answer.err
        assert answer.code in (1, 2), (command, said)
        assert "is damaged" in said, (command, said)
        assert ID in said
        assert "There is no plan" not in said, command
        assert "Unexpected" not in said, command


def test_the_log_is_told_where_only_its_checkpoint_is_damaged(cli: Cli) -> None:
    (cli.state / "runs" / f"{ID}.json").write_text("")
    assert "ChunkDone" in cli("events", ID).out
    assert cli("status", ID).code == 2
    assert cli("repair", ID).code == 0
    assert "1 of 3 done" in cli("status", ID).out


def test_a_file_in_place_of_the_folder_is_a_mistake(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "a-file"
    place.write_text("x")
    for command in READ:
        answer = Cli(place, "", capsys)(*command.split())
        assert answer.code == 2, command
        assert "which is a file" in answer.err


@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_folder_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool) -> None:
    """A green light in the wrong directory would be the worst answer."""
    folder = tmp_path / "empty"
    if exists:
        folder.mkdir()
    cli = Cli(folder, "", capsys)
    for command in READ:
        answer = cli(*command.split())
        assert str(folder) in answer.out + answer.err, command
    assert cli("check").out.startswith("ok: no plan found")


def test_coverage_says_nothing_of_damage_beside_its_window(cli: Cli) -> None:
    """The plan has 1 January until 18:00, so windows that only touch it need none of its files."""
    DAMAGE["log line unknown"](cli.state)
    window = ("coverage", "--target", "shop.orders", "--json")
    for start, end, damaged in (
        ("2024-12-31", "2025-01-01", []),
        ("2025-01-01T18:00", "2025-01-02", []),
        ("2024-12-31", "2025-01-01T00:01", [ID]),
        ("2025-01-01T17:59", "2025-01-02", [ID]),
    ):
        found = json.loads(cli(*window, "--from", start, "--to", end).out)["damaged"]
        assert [entry["planId"] for entry in found] == damaged, (start, end)
