"""
The services of docker-compose.yaml with the profiles celery and s3, as processes and without Docker.

    uv run --group celery python -m tests.system.airflow.services

starts PostgreSQL, Redis, an S3 server, ClickHouse, and Airflow with two Celery workers, backfills a table
through the workers with the state in S3, and says what came of it: it ends with 0 only if the target's
content is the source's. ``--stay`` keeps everything running afterwards, ``--folder`` keeps the logs.
PostgreSQL and Redis must be installed.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import clickhouse_connect
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.commands.list import list_plans
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.store import open_store
from tests.airflow.conftest import connection
from tests.s3 import S3Server
from tests.server import ClickHouseServer
from tests.system.airflow.stack import WORKERS, CeleryAirflow, wait_for

HERE = Path(__file__).parent
QUICK, SLOW = "through_celery", "slowly_through_celery"
CASES: dict[str, dict[str, Any]] = {
    QUICK: {"select": "SELECT ts, x FROM cases.source"},
    # A chunk takes about ten seconds; whoever loses its worker has another try.
    SLOW: {"select": "SELECT ts, x FROM cases.source WHERE NOT sleepEachRow(0.0001)", "chunks": {"retries": 2}},
}
TABLES = (
    "CREATE DATABASE cases",
    "CREATE TABLE cases.source (ts DateTime('UTC'), x UInt64) ENGINE = MergeTree ORDER BY ts",
    "INSERT INTO cases.source SELECT toDateTime('2025-01-01', 'UTC') + number, number FROM numbers(172800)",
    *(
        f"CREATE TABLE cases.{name} AS cases.source ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts"
        for name in CASES
    ),
)


@dataclass
class Services:
    """
    Everything that runs.

    Attributes:
        state: The store of plans and event logs, as a session that a command takes.
        client: Of the ClickHouse.
    """

    airflow: CeleryAirflow
    state: Session
    client: Client

    def start(self, dag: str) -> str:
        """Trigger a run of a DAG; its path in the API."""
        headers = {"Authorization": f"Bearer {self.airflow.token('ada')}"}
        known = f"/api/v2/dags/{dag}"
        wait_for(lambda: self.airflow.call("GET", known, None, headers)[0] == 200, f"{dag} is known", 180)
        run = self.airflow.ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        return f"dags/{dag}/dagRuns/{run}"

    def end(self, run: str) -> dict[str, Any]:
        """Wait for the end of a run, and return what is to be known of it: tasks, plans, workers and tables."""
        dag = run.split("/")[1]
        state = wait_for(
            lambda: (state := self.airflow.ask("GET", run)["state"]) in ("success", "failed") and state,
            f"the run of {dag} ends",
            300,
            every=1,
        )
        tasks = self.airflow.ask("GET", f"{run}/taskInstances")["task_instances"]
        return {
            "run": state,
            "tasks": {f"{task['task_id']}[{task['map_index']}]": task["state"] for task in tasks},
            "plans": [
                {key: status[key] for key in ("planId", "status", "chunkCounts", "attempts")}
                for plan in list_plans(self.state)["plans"]
                if plan["target"] == f"cases.{dag}"
                for status in [read_status(self.state, plan["planId"])]
            ],
            "tasksOfWorkers": {name: self.airflow.log_of(name).count("succeeded in") for name in WORKERS},
            "source": self.content("source"),
            "target": self.content(dag),
        }

    def queries(self) -> int:
        """How many statements of ours run on the server."""
        running = "SELECT count() FROM system.processes WHERE startsWith(query_id, 'backfill-')"
        return int(self.client.query(running).result_rows[0][0])

    def content(self, table: str) -> list[int]:
        """How many rows a table has, and a sum of their hashes."""
        (row,) = self.client.query(f"SELECT count(), sum(cityHash64(ts, x)) FROM cases.{table}").result_rows
        return list(row)


@contextlib.contextmanager
def services(folder: Path) -> Iterator[Services]:
    """Start everything below *folder*, and end it afterwards."""
    home = folder / "airflow"
    (home / "dags").mkdir(parents=True)
    (home / "dags" / "cases_dag.py").write_text((HERE / "cases_dag.py").read_text())
    (home / "cases.json").write_text(json.dumps(CASES))
    with S3Server() as s3, ClickHouseServer(folder / "clickhouse") as server:
        client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        for statement in TABLES:
            client.command(statement)
        bucket = s3.new_bucket()
        store = {
            "conn_type": "aws",
            "login": s3.config["access_key_id"],
            "password": s3.config["secret_access_key"],
            "extra": {"endpoint_url": s3.url, "region_name": s3.config["region"]},
        }
        airflow = CeleryAirflow(
            home,
            f"s3://state_store@{bucket}/main",
            home / "dags",
            BACKFILL_CASES=str(home / "cases.json"),
            AIRFLOW_CONN_CLICKHOUSE_DEFAULT=connection(server.url, session_settings={"max_block_size": 1000}),
            AIRFLOW_CONN_STATE_STORE=json.dumps(store),
        )
        state = Session(open_store(f"s3://{bucket}/main", config=s3.config), Options(), None, "services")
        try:
            airflow.start()
            yield Services(airflow, state, client)
        finally:
            airflow.stop()


def main() -> int:
    """Run it, print what came of it, and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.system.airflow.services")
    parser.add_argument("--stay", action="store_true", help="keep everything running until Ctrl-C")
    parser.add_argument("--folder", type=Path, help="a new folder for data and logs (default: one that is removed)")
    options = parser.parse_args()
    began = time.monotonic()
    with (
        tempfile.TemporaryDirectory(prefix="backfill-services-") as scratch,
        services(options.folder or Path(scratch)) as running,
    ):
        print(f"Airflow on {running.airflow.url} (user ada, password ada), after {time.monotonic() - began:.0f} s")
        found = running.end(running.start(QUICK))
        print(json.dumps(found, indent=2))
        if options.stay:
            print("Ctrl-C ends it.", flush=True)
            with contextlib.suppress(KeyboardInterrupt):
                while True:
                    time.sleep(60)
    print(f"after {time.monotonic() - began:.0f} s")
    return 0 if found["run"] == "success" and found["source"] == found["target"] else 1


if __name__ == "__main__":
    sys.exit(main())
