"""The DAGs of dags/, unchanged: they are cheap to parse and do what they promise."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.airflow.conftest import DAGS, Flow, connection
from tests.clickhouse.lab import Lab
from tests.conftest import Engine
from tests.server import ClickHouseServer

# main_job.py is a script that runs one of them; .airflowignore keeps Airflow from reading it.
FILES = sorted(path for path in DAGS.glob("*.py") if path.name != "main_job.py")
# Parse DAG files with Airflow loaded; report the duration and every access outside of Python's own files.
PARSE = """
import sys, time
from airflow.sdk import DAG, Param
from airflow.sdk.configuration import conf
conf.get("core", "dags_folder")
DAG("empty", params={"a": Param(1)})
seen = []
def hook(event, args):
    code = event == "open" and str(args[0]).endswith((".py", ".pyc", ".so"))
    if event in ("open", "socket.connect", "subprocess.Popen") and not code:
        seen.append((event, str(args[0])))
sys.addaudithook(hook)
began = time.process_time()
for path in sys.argv[1:]:
    exec(compile(open(path).read(), path, "exec"), {"__name__": "dag"})
took = time.process_time() - began
print(took, seen)
"""


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.dag


def test_airflow_finds_every_dag(airflow_db: None) -> None:
    from airflow.dag_processing.dagbag import DagBag

    bag = DagBag(dag_folder=str(DAGS))
    assert bag.import_errors == {}
    assert sorted(bag.dags) == [path.stem for path in FILES]


def test_parsing_costs_little_and_reaches_for_nothing() -> None:
    """The DAG processor parses each file every few seconds."""
    done = subprocess.run([sys.executable, "-c", PARSE, *map(str, FILES)], capture_output=True, text=True, check=True)
    took, _, seen = done.stdout.strip().splitlines()[-1].partition(" ")
    assert seen == "[]"
    # 0.2 s of CPU on an idle machine.
    assert float(took) < 0.6


@pytest.fixture
def lab(own_server: ClickHouseServer, airflow_db: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Lab:
    """A server with the tables that the DAGs' defaults name, and a few flights a day."""
    import clickhouse_connect

    monkeypatch.setenv("AIRFLOW_CONN_CLICKHOUSE_DEFAULT", connection(own_server.url))
    monkeypatch.setenv("AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR", str(tmp_path / "state"))
    client = clickhouse_connect.get_client(dsn=own_server.url, autogenerate_session_id=False)
    client.command("CREATE DATABASE demo")
    lab = Lab(Engine("http", client, "demo", f"{own_server.url}/demo"), tmp_path / "state")
    lab.sql(
        "CREATE TABLE demo.flights (time_hour DateTime('UTC'), carrier String, flight UInt16, origin String,"
        " dest String, distance UInt16, dep_delay Nullable(Int16)) ENGINE = MergeTree ORDER BY time_hour AS"
        " SELECT toDateTime('2013-01-01', 'UTC') + 7200 * number, 'AA', number, ['EWR', 'JFK'][number % 2 + 1], 'IAH',"
        " 100, if(number % 5 = 0, NULL, number % 100) FROM numbers(4380)",
        "CREATE TABLE demo.flights_per_day (day Date, origin LowCardinality(String), flights UInt64, miles UInt64)"
        " ENGINE = SummingMergeTree PARTITION BY toYYYYMM(day) ORDER BY (day, origin)",
        "CREATE MATERIALIZED VIEW demo.count_flights TO demo.flights_per_day AS SELECT toDate(time_hour) AS day,"
        " origin, count() AS flights, sum(distance) AS miles FROM demo.flights GROUP BY day, origin",
        "CREATE TABLE demo.late_flights (time_hour DateTime('UTC'), carrier String, flight UInt16, origin String,"
        " dest String, dep_delay Int16) ENGINE = MergeTree PARTITION BY toYYYYMM(time_hour) ORDER BY time_hour",
    )
    return lab


@pytest.mark.parametrize(("name", "group"), [("rebuild_view_target", ""), ("one_line", "backfill.")])
def test_a_views_target_is_rebuilt(lab: Lab, name: str, group: str) -> None:
    flow = Flow(load(DAGS / f"{name}.py"))
    # Four chunks rather than 53, as a person would set it in the form.
    assert flow.start(chunk_hours=2208) == "success"
    assert flow.states(f"{group}chunks") == ["success"] * 4
    assert lab.content("demo.flights_per_day") == lab.content(
        "(SELECT toDate(time_hour) AS day, toLowCardinality(origin) AS origin, count() AS flights,"
        " sum(distance) AS miles FROM demo.flights GROUP BY day, origin)"
    )


def test_copy_with_select(lab: Lab) -> None:
    flow = Flow(load(DAGS / "copy_with_select.py"))
    assert flow.start() == "success"
    # Thirty small chunks share two tasks for each of the two that may run in parallel.
    assert flow.states("chunks") == ["success"] * 4
    wanted = "WHERE dep_delay > 60 AND time_hour >= '2013-06-01' AND time_hour < '2013-07-01'"
    columns = "time_hour, carrier, flight, origin, dest, assumeNotNull(dep_delay)"
    assert lab.content("demo.late_flights") == lab.content("demo.flights", columns, wanted)
