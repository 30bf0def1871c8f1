"""docker-compose.yaml is read here and not run: its form, pins, secrets, and shared settings."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker-compose.yaml").read_text(encoding="utf-8")
COMPOSE: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
AIRFLOW = {name: service for name, service in SERVICES.items() if name.startswith("airflow-")}
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
# Services that end.
ONCE = ["airflow-init", "minio-bucket"]


def of_profile(name: str) -> set[str]:
    """The services that only this profile has."""
    return {service for service, what in SERVICES.items() if what.get("profiles") == [name]}


def config(name: str) -> ElementTree.Element:
    """An inline configuration file."""
    return ElementTree.fromstring(COMPOSE["configs"][name]["content"])  # noqa: S314 - our own file


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
        "airflow-worker-1": "celery",
        "airflow-worker-2": "celery",
    }


def test_the_small_form_is_the_default() -> None:
    """Whoever sets nothing but the secrets gets the LocalExecutor, the state on a volume, and one ClickHouse."""
    assert {name for name, service in SERVICES.items() if "profiles" not in service} == {
        "postgres",
        "clickhouse",
        *(name for name in AIRFLOW if "worker" not in name),
    }
    assert of_profile("celery") == {"redis", "airflow-worker-1", "airflow-worker-2"}
    assert of_profile("s3") == {"minio", "minio-bucket"}
    assert of_profile("replicas") == {"clickhouse-2", "clickhouse-keeper"}


def test_nothing_of_a_profile_is_required_outside_it() -> None:
    required = {
        (name, other): how["required"]
        for name, service in SERVICES.items()
        for other, how in service.get("depends_on", {}).items()
        if SERVICES[other].get("profiles") not in (None, service.get("profiles"))
    }
    assert required
    assert not any(required.values()), required


def test_each_profile_has_its_settings_in_the_example() -> None:
    """The lines to take the # away from switch the executor, the state folder and the cluster over."""
    settings = dict(re.findall(r"^#([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE))
    profiles = {profile for service in SERVICES.values() for profile in service.get("profiles", [])}
    assert set(settings.pop("COMPOSE_PROFILES").split(",")) == profiles
    optional = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):-", TEXT)) - {"AIRFLOW_UID"}
    assert set(settings) == optional
    assert settings["AIRFLOW_EXECUTOR"] == "CeleryExecutor"
    connection, bucket = re.fullmatch(r"s3://(\w+)@([\w-]+)/\w+", settings["BACKFILL_STATE_DIR"]).groups()  # type: ignore[union-attr]
    assert all(f"AIRFLOW_CONN_{connection.upper()}" in service["environment"] for service in AIRFLOW.values())
    assert SERVICES["minio-bucket"]["entrypoint"][-1].split("/")[1] == bucket
    (mounted,) = SERVICES["clickhouse"]["configs"]
    assert re.sub(r"\$\{.*?\}", settings["CLICKHOUSE_CLUSTER_FOLDER"], mounted["target"]) == (
        "/etc/clickhouse-server/config.d/cluster.xml"
    )


def test_airflow_is_the_version_of_the_lock_file() -> None:
    """The composed Airflow is the one that the tests ran on."""
    lock = tomllib.loads((ROOT / "uv.lock").read_text(encoding="utf-8"))
    (locked,) = (package["version"] for package in lock["package"] if package["name"] == "apache-airflow")
    assert f"FROM apache/airflow:{locked}-" in TEXT
    assert f'"apache-airflow=={locked}"' in TEXT


def test_both_servers_are_of_one_version() -> None:
    """Keeper may be older: a server of each version speaks with the Keeper of the last long-term release."""
    images = {service["image"] for name, service in SERVICES.items() if name in ("clickhouse", "clickhouse-2")}
    assert len(images) == 1


def test_every_service_that_stays_has_a_health_check() -> None:
    assert [name for name, service in SERVICES.items() if "healthcheck" not in service] == ONCE
    assert [name for name, service in SERVICES.items() if service["restart"] == "no"] == ONCE
    for service in SERVICES.values():
        for other, how in service.get("depends_on", {}).items():
            assert how["condition"] == ("service_completed_successfully" if other in ONCE else "service_healthy")


def test_every_airflow_service_shares_the_state_the_dags_and_the_settings() -> None:
    """A plan that one task wrote must be there for the other worker, the triggerer and the API server."""
    shared = AIRFLOW["airflow-scheduler"]
    default = re.fullmatch(
        r"\$\{BACKFILL_STATE_DIR:-(.+)\}", shared["environment"]["AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR"]
    )
    assert default
    assert f"backfill-state:{default[1]}" in shared["volumes"]
    for name, service in AIRFLOW.items():
        for key in ("image", "build", "user", "volumes"):
            assert service[key] == shared[key], (name, key)
        assert service["environment"].items() >= shared["environment"].items(), name


def test_the_workers_are_two_of_a_kind_with_time_to_end() -> None:
    first, second = (SERVICES[name] for name in ("airflow-worker-1", "airflow-worker-2"))
    assert first == second
    assert first["command"] == ["celery", "worker"]
    assert first["stop_grace_period"] == AIRFLOW["airflow-scheduler"]["stop_grace_period"]
    assert "inspect ping" in first["healthcheck"]["test"][1]
    assert {"redis", "postgres"} <= first["depends_on"].keys()


def test_both_replicas_have_one_configuration() -> None:
    """Each knows the other, Keeper and itself by the names of the services."""
    first, second = SERVICES["clickhouse"], SERVICES["clickhouse-2"]
    assert first["configs"] == second["configs"]
    for name in ("clickhouse", "clickhouse-2"):
        assert SERVICES[name]["environment"]["CLICKHOUSE_REPLICA"] == name
    cluster = config("clickhouse-cluster")
    assert [host.text for host in cluster.findall("remote_servers/replicas/shard/replica/host")] == [
        "clickhouse",
        "clickhouse-2",
    ]
    named = {element.get("from_env") for element in cluster.iter()} - {None}
    assert named == first["environment"].keys() == second["environment"].keys()
    keeper = config("clickhouse-keeper")
    assert cluster.findtext("zookeeper/node/host") == keeper.findtext(
        "keeper_server/raft_configuration/server/hostname"
    )
    assert cluster.findtext("zookeeper/node/host") in SERVICES
    port = keeper.findtext("keeper_server/tcp_port")
    assert cluster.findtext("zookeeper/node/port") == port
    assert f"/127.0.0.1/{port};" in SERVICES["clickhouse-keeper"]["healthcheck"]["test"][-1]


def test_every_configuration_is_used_and_every_volume_is_declared() -> None:
    used = {mount["source"] for service in SERVICES.values() for mount in service.get("configs", [])}
    assert used == COMPOSE["configs"].keys()
    volumes = {volume.split(":")[0] for service in SERVICES.values() for volume in service.get("volumes", [])}
    assert {volume for volume in volumes if not volume.startswith("./")} == COMPOSE["volumes"].keys()


def test_secrets_come_from_the_environment_only() -> None:
    """Those of the small form are required; the example of .env names exactly those, without a value."""
    required = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):\?", TEXT))
    assert set(re.findall(r"^([A-Z0-9_]+)=$", EXAMPLE, re.MULTILINE)) == required
    # Compose checks required variables for all profiles, so the services check these themselves.
    asked = {"REDIS_PASSWORD": "redis", "S3_SECRET_KEY": "minio"}
    assert set(re.findall(r"^#([A-Z0-9_]+)=$", EXAMPLE, re.MULTILINE)) == asked.keys()
    for service in SERVICES.values():
        for name, value in service.get("environment", {}).items():
            if re.search(r"PASSWORD|SECRET|KEY|CONN|AUTH$|BROKER|BACKEND|MC_HOST", name):
                found = re.findall(r"(?<!\$)\$\{([A-Z0-9_]+):[?-]", value)
                assert found, name
                assert set(found) <= required | asked.keys() | {"S3_ACCESS_KEY"}, name
    for name, server in asked.items():
        start = " ".join(SERVICES[server].get("entrypoint", SERVICES[server].get("command", [])))
        (variable,) = re.findall(rf"\$\$\{{(\w+):\?set {name} in \.env\}}", start)
        assert SERVICES[server]["environment"][variable] == f"${{{name}:-}}"


def test_nothing_is_published_beyond_this_machine() -> None:
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)
