"""``clean`` drops the leftovers of runs, and keeps tables that a live run of any folder needs."""

from __future__ import annotations

import os
import re
import signal
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_backfill.clickhouse.attempt import Step
from airflow_provider_backfill.client import Client
from airflow_provider_backfill.core.events import Event
from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Ward
from tests.command_line import wait_until
from tests.state import START


def age(ward: Ward, table: str) -> None:
    """Make a table look as if it had not changed for two hours."""
    metadata = "SELECT metadata_path FROM system.tables WHERE database = currentDatabase() AND name = "
    path = Path(ward.value("SELECT path FROM system.disks WHERE name = 'default'"), ward.value(f"{metadata}'{table}'"))
    old = path.stat().st_mtime - 7200
    os.utime(path, (old, old))


def fates(ward: Ward, *words: str) -> dict[str, str]:
    """The fate that ``clean`` gives to each of the target's tables, by name."""
    payload = ward.cli.json("clean", "--target", f"{ward.engine.database}.filled", *words)
    assert payload["removed"] + payload["removable"] + payload["kept"] == len(payload["tables"])
    return {entry["table"].partition(".")[2]: entry["fate"] for entry in payload["tables"]}


@pytest.mark.parametrize("chunks", [40, pytest.param(400, marks=pytest.mark.long)])
def test_staging_tables_go_while_the_run_goes_on_and_after_it_stopped(lab: Lab, chunks: int) -> None:
    """2,400 chunks once left 1,951 tables behind a cancel."""
    lab.sql(
        "CREATE TABLE events (ts DateTime('UTC'), v UInt32) ENGINE = MergeTree ORDER BY ts",
        f"INSERT INTO events SELECT toDateTime('2025-01-01', 'UTC') + number * 900, number FROM numbers({chunks})",
        "CREATE TABLE filled (ts DateTime('UTC'), v UInt32) ENGINE = MergeTree ORDER BY ts",
    )
    plan = lab.plan(
        "filled", "2025-01-01", f"{START + chunks * timedelta(minutes=15):%Y-%m-%dT%H:%M:%S}", "0.25", source="events"
    )
    assert plan["chunkCount"] == chunks
    most, done = 0, 0
    worker: list[Any] = []

    def count(event: Event) -> None:
        nonlocal most, done
        done += event.type == "ChunkDone"
        if event.type == "ChunkDone" and done % 10 == 0:
            most = max(most, len(lab.leftovers()))
        if done == chunks * 2 // 3:
            worker[0].stop("it is a test")

    lab.run(plan, report=count, on_start=lambda *given: worker.append(given[0]))
    assert done >= chunks * 2 // 3
    assert most <= 20
    assert lab.leftovers() == []
    assert lab.run(plan, resume=True)["status"] == "completed"
    assert lab.content("filled") == lab.content("events")
    assert lab.leftovers() == []


def test_a_killed_run_leaves_what_clean_drops_once_it_is_cancelled(ward: Ward) -> None:
    plan = ward.planned(hours=2)
    run = ward.cli.start("run", plan["planId"])
    wait_until(lambda: len([e for e in ward.cli.events(plan["planId"]) if e["type"] == "ChunkDone"]) > 4)
    living = fates(ward, "--yes")
    assert set(living.values()) <= {"kept"}
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert ward.cli("cancel", plan["planId"]).code == 0
    listed = fates(ward)
    assert "removable" in listed.values()
    assert set(listed) == set(ward.leftovers())
    answer = ward.cli("clean", plan["planId"], "--yes")
    assert answer.code == 0, answer
    kept = [name for name, fate in fates(ward).items() if fate == "kept"]
    assert ward.leftovers() == kept
    assert ward.run(plan, resume=True)["status"] == "completed"
    assert ward.value("SELECT count() FROM filled") == 2880
    assert ward.leftovers() == []


def test_what_another_folder_runs_is_kept(ward: Ward, tmp_path: Path) -> None:
    """The folder does not have the plan; only the database shows that a worker is active."""
    plan = ward.planned()
    other = Ward(ward.engine, tmp_path / "other", ward.cli.capsys)
    seen: dict[str, str] = {}

    def look(step: Step) -> None:
        if step is Step.STAGED and not seen:
            for name in ward.leftovers():
                age(ward, name)
            seen.update(fates(other, "--yes"))

    assert ward.run(plan, step=look)["status"] == "completed"
    assert len(seen) == 2
    assert set(seen.values()) == {"kept"}
    assert ward.value("SELECT count() FROM filled") == 2880


def test_without_yes_nothing_is_dropped(ward: Ward) -> None:
    plan = ward.planned()
    ward.run(plan)
    names = [f"backfill_{plan['planId']}_0123456789abcdef_1", f"backfill_trial_{plan['planId']}_01234567_parts"]
    ward.sql(
        *(f"CREATE TABLE {name} AS filled" for name in names),
        f"CREATE TABLE backfill_backup_{plan['planId']} AS filled",
    )
    age(ward, names[1])
    answer = ward.cli("clean", plan["planId"])
    assert answer.code == 0
    assert answer.out.startswith("2 tables can be dropped, and nothing was.\n")
    assert "Next: clickhouse-backfill clean" in answer.out
    assert len(ward.leftovers()) == 3
    page = (Path(__file__).parents[2] / "docs" / "reference" / "json.md").read_text(encoding="utf-8")
    described = set(re.findall(r"`(\w+)`", page.split("\n## clean\n", 1)[1].split("\n## ", 1)[0]))
    payload = ward.cli.json("clean", plan["planId"])
    assert {*payload, *payload["tables"][0]} - {"ok", "command"} <= described
    client = Client(ward.engine.url, state_dir=ward.folder)
    left = client.clean(plan["planId"], remove=True)
    assert {table.fate for table in left} == {"removed"}
    assert ward.leftovers() == [f"backfill_backup_{plan['planId']}"]
    assert ward.cli("clean", plan["planId"]).out == "Nothing is left to drop.\n"


def test_of_one_target_the_tables_of_another_are_left_alone(ward: Ward) -> None:
    """They share a database, and the state folder tells the plans apart."""
    ward.target("another")
    names = []
    for plan in (ward.planned(), ward.plan("another", "2025-01-01", "2025-01-03", 12, source="events")):
        ward.run(plan)
        names.append(f"backfill_{plan['planId']}_0123456789abcdef_1")
        ward.sql(f"CREATE TABLE {names[-1]} AS filled")
    assert fates(ward, "--yes") == {names[0]: "removed"}
    assert ward.leftovers() == [names[1]]


def test_a_target_that_is_mistyped_is_a_mistake(ward: Ward) -> None:
    """Also where another plan is known; a dropped table with a plan is only not searched."""
    database = ward.engine.database
    ward.run(ward.planned())
    answer = ward.cli("clean", "--target", f"{database}.filed")
    assert answer.code == 2
    assert f"There is no table {database}.filed" in answer.err
    ward.sql("DROP TABLE filled")
    assert "there is no such table" in ward.cli.json("clean", "--target", f"{database}.filled")["notLookedAt"][0]


@pytest.mark.parametrize("words", [("--target", "shop"), ("--plan-id", "zz"), ("--last", "--plan-id", "ab")])
def test_bad_input_is_told_before_a_server_is_asked(ward: Ward, words: tuple[str, ...]) -> None:
    answer = Ward(ward.engine, ward.folder, ward.cli.capsys).cli(
        "clean", *words, "--clickhouse-url", "http://127.0.0.1:1"
    )
    assert answer.code == 2, answer
