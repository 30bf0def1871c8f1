"""docker-compose.yaml is read, not run, here: its form, its pins, its secrets, what its services share."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AIRFLOW = {name: service for name, service in SERVICES.items() if name.startswith("airflow-")}


def test_it_is_a_compose_file() -> None:
    """The compose specification's own schema, as it is vendored in check-jsonschema."""
    done = subprocess.run(
        [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", "docker-compose.yaml"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_airflow_services_are_all_there() -> None:
    assert {name: service["command"][0] for name, service in AIRFLOW.items()} == {
        "airflow-init": "version",
        "airflow-api-server": "api-server",
        "airflow-scheduler": "scheduler",
        "airflow-dag-processor": "dag-processor",
        "airflow-triggerer": "triggerer",
    }


def test_airflow_is_the_version_of_the_lock_file() -> None:
    """The composed Airflow is the one that the tests ran on."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    (locked,) = (package["version"] for package in lock["package"] if package["name"] == "apache-airflow")
    assert f"FROM apache/airflow:{locked}-" in TEXT
    assert f'"apache-airflow=={locked}"' in TEXT


def test_every_image_has_a_version() -> None:
    images = {service["image"] for service in SERVICES.values()}
    assert all(re.search(r":[^:/]*\d+\.\d+", image) for image in images), images


def test_every_service_that_stays_has_a_health_check() -> None:
    assert [name for name, service in SERVICES.items() if "healthcheck" not in service] == ["airflow-init"]


def test_every_airflow_service_shares_the_state_folder() -> None:
    """A plan that the scheduler's tasks wrote must be there for the triggerer and the API server."""
    for name, service in AIRFLOW.items():
        state = service["environment"]["AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR"]
        assert f"backfill-state:{state}" in service["volumes"], name


def test_secrets_come_from_the_environment_only() -> None:
    """Each is required, and the example of .env names exactly those, without a value."""
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search(r"PASSWORD|SECRET|KEY|CONN", name):
                assert re.search(r"\$\{[A-Z_]+:\?[^}]+\}", value), name
    required = set(re.findall(r"(?<!\$)\$\{([A-Z_]+):\?", TEXT))
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    assert set(re.findall(r"^([A-Z_]+)=$", example, re.MULTILINE)) == required


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
