"""Where the page of a plan is, as the command line knows it without loading Airflow."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.ui_urls import airflow_address, page_address, task_path
from tests.command_line import Cli
from tests.state import make_plan

PLAN = make_plan()


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    StateStore(FileBackend(tmp_path / "state")).save_plan(PLAN)
    return Cli(tmp_path / "state", "", capsys)


def test_status_and_doctor_say_where_the_page_is(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW__API__BASE_URL", "https://airflow.example/etl/")
    address = page_address("https://airflow.example/etl", PLAN.plan_id)
    assert address.startswith("https://airflow.example/etl/plugin/clickhouse-backfills/")
    for command in ("status", "doctor"):
        assert cli.json(command, "--plan-id", PLAN.plan_id)["page"] == address
        assert address in cli(command, "--plan-id", PLAN.plan_id).out


def test_without_an_airflow_there_is_no_page(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW__API__BASE_URL", raising=False)
    monkeypatch.delenv("AIRFLOW_CONFIG", raising=False)
    monkeypatch.setenv("AIRFLOW_HOME", str(tmp_path))
    for command in ("status", "doctor"):
        assert "page" not in cli.json(command, "--plan-id", PLAN.plan_id)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[api]\nbase_url = http://a:8080\n", "http://a:8080"),
        ("[api]\nport = 8080\n", ""),
        ("[core]\nx = %(broken\n[api]\nbase_url = http://a\n", "http://a"),
        ("no section", ""),
        ("\xff\x00", ""),
    ],
)
def test_the_configuration_file_is_read_as_it_is(tmp_path: Path, text: str, address: str) -> None:
    """A file that Airflow would refuse is none of our business here."""
    (tmp_path / "airflow.cfg").write_bytes(text.encode("latin-1"))
    assert airflow_address({"AIRFLOW_HOME": str(tmp_path)}) == address
    assert airflow_address({"AIRFLOW_CONFIG": str(tmp_path / "airflow.cfg")}) == address


def test_only_a_task_has_a_log() -> None:
    assert task_path("ada@workstation") == ""
    assert task_path("airflow:d/r/t#1") == "/dags/d/runs/r/tasks/t?try_number=1"
