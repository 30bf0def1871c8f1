"""Fixtures of the airflow tier: a migrated Airflow home, and DAG runs that a test can clear and continue."""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.clickhouse.lab import Lab
from tests.conftest import Engine

CONNECTION = "clickhouse_test"
DAGS = Path(__file__).parents[2] / "dags"

# An empty folder: every run parses the DAGs again, and the tests provide them.
os.environ["AIRFLOW__CORE__DAGS_FOLDER"] = str(Path(os.environ["AIRFLOW_HOME"]) / "dags")
# A failed test shows the lines of its runs, without Airflow's own lines.
os.environ["AIRFLOW__LOGGING__LOGGING_LEVEL"] = "WARNING"


@pytest.fixture(scope="session")
def airflow_db() -> None:
    """The metadata database of the tests' Airflow home, migrated once."""
    from airflow.utils.db import initdb

    Path(os.environ["AIRFLOW__CORE__DAGS_FOLDER"]).mkdir(exist_ok=True)
    initdb()


def connection(url: str, **extra: Any) -> str:
    """Return an Airflow connection to the ClickHouse at *url*, embedded or not, as an environment variable has it."""
    parts = urlsplit(url)
    if parts.scheme == "chdb":
        return json.dumps(
            {
                "conn_type": "clickhouse",
                "extra": {**extra, "client_kwargs": {"interface": "chdb", "path": parts.path}},
            }
        )
    return json.dumps(
        {
            "conn_type": "clickhouse",
            "host": parts.hostname,
            "port": parts.port,
            "login": parts.username,
            "password": parts.password,
            "schema": parts.path.strip("/"),
            "extra": extra,
        }
    )


@pytest.fixture(autouse=True)
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no scheduler is to take note of a deferral, none is waited for."""
    from airflow_provider_backfill import triggers

    monkeypatch.setattr(triggers, "_SETTLE_SECONDS", 0.0)


@pytest.fixture
def connect(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Makes a ClickHouse the one behind the connection ``clickhouse_test``."""

    def connect_to(url: str, **extra: Any) -> None:
        monkeypatch.setenv(f"AIRFLOW_CONN_{CONNECTION.upper()}", connection(url, **extra))

    return connect_to


@pytest.fixture
def http_lab(request: pytest.FixtureRequest, tmp_path: Path, connect: Callable[..., None]) -> Lab:
    """A laboratory on the HTTP server, which is also the one behind ``clickhouse_test``."""
    url, database, client = (request.getfixturevalue(name) for name in ("clickhouse_url", "database", "client"))
    lab = Lab(Engine("http", client, database, f"{url}/{database}"), tmp_path / "state")
    connect(lab.engine.url)
    return lab


class Flow:
    """
    One run of one DAG, in this process, task after task as Airflow's scheduler would pick them.

    Attributes:
        dag: The DAG; it is serialised when the run starts.
        run: The DAG run, None before :meth:`start`.
    """

    def __init__(self, dag: Any) -> None:
        self.dag = dag
        self.run: Any = None

    def start(self, **conf: Any) -> str:
        """Run the DAG to its end with *conf* as params; the state it ended in."""
        self._serialise()
        self.run = self.dag.test(run_conf=conf)
        return self.state

    def _serialise(self) -> None:
        from airflow.dag_processing.bundles.manager import DagBundlesManager
        from airflow.dag_processing.collection import update_dag_parsing_results_in_db
        from airflow.serialization.serialized_objects import LazyDeserializedDAG
        from airflow.utils.session import create_session

        DagBundlesManager().sync_bundles_to_db()  # type: ignore[no-untyped-call]
        with create_session() as session:
            found = [LazyDeserializedDAG.from_dag(self.dag)]
            update_dag_parsing_results_in_db("dags-folder", None, found, {}, None, set(), session)

    @property
    def state(self) -> str:
        """The DAG run's state."""
        return str(self.run.state)

    def instances(self, task_id: str) -> list[Any]:
        """The task instances of a task, by map index."""
        return sorted((ti for ti in self._all() if ti.task_id == task_id), key=lambda ti: ti.map_index)

    def states(self, task_id: str) -> list[str]:
        """The states of a task's instances, by map index."""
        return [str(ti.state) for ti in self.instances(task_id)]

    def _all(self) -> list[Any]:
        from airflow.utils.session import create_session

        with create_session() as session:
            return list(self.run.get_task_instances(session=session))

    def result(self, task_id: str, key: str = "return_value", map_index: int = -1) -> Any:
        """What a task has pushed."""
        from airflow.models.xcom import XComModel
        from airflow.utils.session import create_session

        with create_session() as session:
            query = XComModel.get_many(
                run_id=self.run.run_id, key=key, task_ids=task_id, dag_ids=self.dag.dag_id, map_indexes=map_index
            )
            found = session.scalars(query).all()
            return XComModel.deserialize_value(found[0]) if found else None

    def clear(self, task_id: str, *map_indexes: int, downstream: bool = True) -> str:
        """Clear a task (all of its instances, or those of *map_indexes*) as a person does, and run on to the end."""
        from airflow.models.taskinstance import clear_task_instances
        from airflow.utils.session import create_session

        wanted = {task_id} | (self.dag.get_task(task_id).get_flat_relative_ids() if downstream else set())
        with create_session() as session:
            self.run = session.merge(self.run)
            cleared = [
                ti
                for ti in self.run.get_task_instances(session=session)
                if ti.task_id in wanted and (ti.task_id != task_id or not map_indexes or ti.map_index in map_indexes)
            ]
            clear_task_instances(cleared, session, dag_run_state="running")  # type: ignore[arg-type]
        return self._go_on()

    def _go_on(self) -> str:
        """The loop of ``dag.test()``, on the run that is there."""
        from airflow.sdk.definitions.dag import _run_task
        from airflow.serialization.serialized_objects import DagSerialization
        from airflow.utils.session import create_session

        with create_session() as session:
            run = self.run = session.merge(self.run)
            run.dag = DagSerialization.deserialize_dag(DagSerialization.serialize_dag(self.dag))
            while str(run.state) == "running":
                session.expire_all()
                ready, _ = run.update_state(session=session)
                for ti in ready:
                    if str(ti.state) != "up_for_reschedule":
                        ti.try_number += 1
                    ti.state = "scheduled"
                session.commit()
                for ti in [ti for ti in run.get_task_instances(session=session) if str(ti.state) == "scheduled"]:
                    _run_task(ti=ti, task=self.dag.task_dict[ti.task_id], run_triggerer=True)
                if not ready:
                    time.sleep(0.1)
        return self.state


@pytest.fixture
def dag_id(request: pytest.FixtureRequest) -> str:
    """A DAG id that no other test has."""
    return f"{request.node.originalname}_{uuid.uuid4().hex[:8]}"


@pytest.fixture
def backfill(airflow_db: None, dag_id: str, tmp_path: Path) -> Callable[..., Flow]:
    """Makes a DAG of plan, chunks and sensor, with *plan*, *chunks* and *sensor* as further arguments of each."""
    from airflow.sdk import DAG

    from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
    from airflow_provider_backfill.sensors import BackfillStatusSensor

    def make(
        target: str,
        plan: dict[str, Any],
        chunks: dict[str, Any] | None = None,
        sensor: dict[str, Any] | None = None,
        operator: type[BackfillChunkOperator] = BackfillChunkOperator,
    ) -> Flow:
        common = {
            "state_dir": str(tmp_path / "state"),
            "options": {"defaults": {"retryDelayMs": 1}, "limits": {"maxWindowHours": 100_000}},
            "retry_delay": 0,
        }
        server = {"clickhouse_conn_id": CONNECTION}
        with DAG(dag_id=dag_id, schedule=None) as dag:
            planned = BackfillPlanOperator(task_id="plan", target=target, **{**common, **server, **plan})
            mapped = operator.partial(task_id="chunks", **{**common, **server, **(chunks or {})}).expand(
                chunks=planned.output
            )
            finished = BackfillStatusSensor(
                task_id="finished",
                plan_id=planned.output["plan_id"],
                trigger_rule="none_failed",
                **{**common, "poke_interval": 0.1, "timeout": 20, **(sensor or {})},
            )
            mapped >> finished
        return Flow(dag)

    return make
