"""``airflow clickhouse-backfill``: the console script's words, output and exit codes, inside Airflow's command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from airflow_provider_backfill.cli import main


def airflow(*words: str) -> int:
    """Exit code of ``airflow WORDS``, in this process: each start of Airflow costs seconds."""
    from airflow.cli.cli_parser import get_parser

    parsed = get_parser().parse_args(list(words))
    with pytest.raises(SystemExit) as end:
        parsed.func(parsed)
    return int(end.value.code or 0)


@pytest.mark.parametrize(
    "words",
    [
        ["check", "--json"],
        ["--json", "list"],
        ["status", "--json", "--plan-id", "0123456789abcdef"],
        ["plan", "--target", "a.b", "--from", "2025-02-30", "--to", "2025-03-01"],
        ["status", "--plan"],
        ["check", "--help"],
        ["--help"],
        [],
    ],
)
def test_words_output_and_exit_code_are_the_scripts(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLICKHOUSE_BACKFILL_STATE_DIR", str(tmp_path))
    code = main.main(words)
    alone = capfd.readouterr()
    assert airflow("clickhouse-backfill", *words) == code
    assert capfd.readouterr() == alone


def test_the_state_folder_is_that_of_airflows_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not a folder below wherever the command is typed: the plans of DAGs are there."""
    monkeypatch.setenv("AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR", str(tmp_path / "shared"))
    assert airflow("clickhouse-backfill", "list", "--json") == 0
    assert json.loads(capfd.readouterr().out)["stateDir"].rstrip("/") == str(tmp_path / "shared")


def test_a_process_of_its_own_ends_with_the_exit_code(tmp_path: Path) -> None:
    environment = {**os.environ, "AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "airflow", "clickhouse-backfill", "status", "--plan-id", "nonsense", "--json"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert json.loads(done.stdout)["exitCode"] == 2


def test_everything_that_the_metadata_names_is_there() -> None:
    """As Airflow's providers manager finds it: a wrong name there is only logged."""
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManager()  # type: ignore[no-untyped-call]
    runtime = ProvidersManagerTaskRuntime()  # type: ignore[no-untyped-call]
    assert "airflow-provider-backfill" in manager.providers
    assert "airflow_provider_backfill.airflow_support.links.BackfillPlanLink" in manager.extra_links_class_names
    assert "clickhouse_backfill" in runtime.taskflow_decorators
    assert "airflow_provider_backfill.cli.airflow_command.commands" in {
        f"{function.__module__}.{function.__name__}" for function in manager.cli_command_functions
    }
    assert "state_dir" in dict(manager.provider_configs)["airflow-provider-backfill"]["clickhouse_backfill"]["options"]
