"""
Every row of the two tables in docs/how-to/airflow-clears-and-kills.md, on a running Airflow, through its REST API.

All cases run at once, each in a DAG and a table of its own, and each ends with a comparison of the
target's content. One fixture drives them; a test per case tells what became of it. ``-s`` prints how long
the server's queries outlived each kill.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest
from clickhouse_connect.driver.client import Client

from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.list import list_plans
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.store import StateStore
from tests.airflow.conftest import connection
from tests.server import ClickHouseServer
from tests.system.airflow.stack import RunningAirflow, wait_for

HERE = Path(__file__).parent
PLAN, CHUNKS, FINISHED = "backfill.plan", "backfill.chunks", "backfill.finished"
CASES: dict[str, dict[str, Any]] = {}
PLAYS: dict[str, Callable[[Case], None]] = {}
# The triggerer is killed for one of them, when no other case needs it any more.
LAST = "kill_the_triggerer"
TIMEOUT = 45


def case(**definition: Any) -> Callable[[Callable[[Case], None]], Callable[[Case], None]]:
    """Register a case: what its DAG is made of, and what is done to its run."""

    def register(play: Callable[[Case], None]) -> Callable[[Case], None]:
        CASES[play.__name__], PLAYS[play.__name__] = definition, play
        return play

    return register


def slow(name: str) -> str:
    """A SELECT whose rows take as long as the table of speeds says when the statement starts."""
    seconds = f"(SELECT seconds FROM cases.speed WHERE name = '{name}')"
    return f"SELECT ts, x FROM cases.slow_source WHERE NOT sleepEachRow({seconds})"


class Case:
    """One DAG, its table and its one run, or two."""

    def __init__(self, name: str, airflow: RunningAirflow, server: ClickHouseServer, state: Path) -> None:
        self.name, self.airflow, self.state = name, airflow, state
        self.client: Client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        self.run = ""
        self.took: float | None = None

    # ------------------------------------------------------------ Airflow

    def start(self) -> None:
        """Trigger a run."""
        wait_for(self._known, f"{self.name} is parsed", 180, every=1)
        answer = self.airflow.ask("POST", f"dags/{self.name}/dagRuns", {"logical_date": None})
        self.run = answer["dag_run_id"]

    def _known(self) -> bool:
        headers = {"Authorization": f"Bearer {self.airflow.token('ada')}"}
        return self.airflow.call("GET", f"/api/v2/dags/{self.name}", None, headers)[0] == 200

    def end(self, expected: str) -> None:
        """Wait for the end of the run, which must be *expected*."""
        path = f"dags/{self.name}/dagRuns/{self.run}"
        found = wait_for(
            lambda: (state := self.airflow.ask("GET", path)["state"]) in ("success", "failed") and state,
            f"{self.name} ends",
            420,
            every=1,
        )
        assert found == expected, (found, self.instances())

    def instances(self) -> dict[tuple[str, int], dict[str, Any]]:
        """The task instances, by task and map index."""
        found = self.airflow.ask("GET", f"dags/{self.name}/dagRuns/{self.run}/taskInstances")["task_instances"]
        return {(ti["task_id"], ti["map_index"]): ti for ti in found}

    def state_of(self, task: str, index: int = -1) -> str:
        """The state of a task instance."""
        return str(self.instances().get((task, index), {}).get("state"))

    def clear(self, *tasks: Any, downstream: bool = True) -> None:
        """What the button "Clear" does."""
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self.run, "task_ids": list(tasks)}
        self.airflow.ask("POST", f"dags/{self.name}/clearTaskInstances", {**body, "include_downstream": downstream})

    def mark(self, state: str, task: str, index: int) -> None:
        """What the button "Mark state as …" does."""
        path = f"dags/{self.name}/dagRuns/{self.run}/taskInstances/{task}/{index}"
        self.airflow.ask("PATCH", path, {"new_state": state})

    # ------------------------------------------------------------ ClickHouse

    def sql(self, text: str) -> Any:
        """The answer to a statement."""
        return self.client.command(text)

    def speed(self, seconds: float) -> None:
        """Set how many seconds a row takes, for statements that start from now on."""
        self.sql(
            f"ALTER TABLE cases.speed UPDATE seconds = {seconds} WHERE name = '{self.name}' SETTINGS mutations_sync = 2"
        )

    def queries(self) -> int:
        """How many statements of ours for this table run on the server."""
        return int(
            self.sql(
                "SELECT count() FROM system.processes WHERE startsWith(query_id, 'backfill-')"
                f" AND position(query, '''{self.name}''')"
            )
        )

    def wait_until_it_runs(self, many: int = 1) -> None:
        """Wait until so many of our statements are at work."""
        wait_for(lambda: self.queries() >= many, f"{self.name}: a query runs", 300)

    def wait_until_it_is_gone(self, began: float | None = None) -> None:
        """Measure how long the server's queries live on, from now or from *began* on."""
        began = time.monotonic() if began is None else began
        wait_for(lambda: not self.queries(), f"{self.name}: the query is gone", 60)
        self.took = time.monotonic() - began

    def equal(self, source: str = "source", columns: str = "ts, x") -> None:
        """The target's content is the source's."""

        def sums(table: str) -> Any:
            return self.sql(f"SELECT count(), sum(cityHash64({columns})) FROM cases.{table} WHERE ts < '2025-01-03'")

        assert sums(self.name) == sums(source)

    # ------------------------------------------------------------ the plan

    @property
    def session(self) -> Session:
        """The state folder."""
        return Session(StateStore(FileBackend(self.state)), Options(), None, "test")

    @property
    def plans(self) -> list[dict[str, Any]]:
        """The statuses of this table's plans, oldest first."""
        found = [plan for plan in list_plans(self.session)["plans"] if plan["target"] == f"cases.{self.name}"]
        return [read_status(self.session, plan["planId"]) for plan in found]

    @property
    def attempts(self) -> int:
        """How many attempts the logs have."""
        return sum(plan["attempts"] for plan in self.plans)

    def workers(self) -> list[int]:
        """The processes that execute chunks now."""
        plan = self.plans[-1]["planId"]
        store = self.session.store
        run = store.open_run(store.load_plan(plan)).run
        return [pid for owner in run.workers if Path(f"/proc/{(pid := int(owner.split(':')[1]))}").exists()]


# ---------------------------------------------------------------- clears

FAILING = "SELECT ts, x FROM cases.{name}_source WHERE NOT throwIf(bad)"


@case(select=FAILING.format(name="clear_a_failed_chunk"), source=True)
def clear_a_failed_chunk(run: Case) -> None:
    """With downstream. Only what is left is executed."""
    run.start()
    run.end("failed")
    assert run.state_of(CHUNKS, 0) == "failed"
    assert run.state_of(CHUNKS, 1) == "success"
    assert run.attempts == 4
    run.sql(f"ALTER TABLE cases.{run.name}_source DELETE WHERE bad SETTINGS mutations_sync = 2")
    run.clear([CHUNKS, 0])
    run.end("success")
    assert run.attempts == 5
    run.equal()


@case(select=FAILING.format(name="mark_a_failed_chunk_a_success"), source=True)
def mark_a_failed_chunk_a_success(run: Case) -> None:
    """The plan does not become complete, and the run stays red."""
    run.start()
    run.end("failed")
    run.mark("success", CHUNKS, 0)
    run.clear(FINISHED)
    run.end("failed")
    assert run.state_of(FINISHED) == "failed"
    assert run.plans[0]["status"] == "failed"
    assert run.plans[0]["chunkCounts"]["failed"] == 1


@case(select="SELECT ts, x FROM cases.source")
def clear_done_chunks(run: Case) -> None:
    """Nothing runs: of one chunk, of the plan with downstream, of the whole run, and in a new run."""
    run.start()
    run.end("success")
    for cleared in ([CHUNKS, 1], PLAN):
        run.clear(cleared)
        run.end("success")
    run.airflow.ask("POST", f"dags/{run.name}/dagRuns/{run.run}/clear", {"dry_run": False, "only_failed": False})
    run.end("success")
    run.start()
    run.end("success")
    assert run.attempts == 4
    assert len(run.plans) == 1
    run.equal()


@case(select="SELECT ts, x FROM cases.source", write_mode="replace", chunks={"replay_done": True}, days=True)
def clear_a_done_chunk_with_replay_done(run: Case) -> None:
    """It runs again, the others do not, and the rows are there once."""
    run.start()
    run.end("success")
    before = run.attempts
    run.sql(f"ALTER TABLE cases.{run.name} DELETE WHERE ts >= '2025-01-02' SETTINGS mutations_sync = 2")
    run.clear([CHUNKS, 1])
    run.end("success")
    assert run.attempts == before + before // 2
    run.equal()


@case(select=slow("clear_a_running_chunk"))
def clear_a_running_chunk(run: Case) -> None:
    """Its query is killed, and the new try goes on."""
    run.start()
    run.wait_until_it_runs(2)
    run.speed(0)
    run.clear([CHUNKS, 0], [CHUNKS, 1])
    run.wait_until_it_is_gone()
    run.end("success")
    run.equal("slow_source")


@case(select=FAILING.format(name="clear_the_plan_alone_with_other_parameters"), source=True)
def clear_the_plan_alone_with_other_parameters(run: Case) -> None:
    """A new plan comes about, and a chunk cleared later does not execute what stands at its place in it."""
    run.start()
    run.end("failed")
    run.sql(f"ALTER TABLE cases.{run.name}_source DELETE WHERE bad SETTINGS mutations_sync = 2")
    run.sql(f"TRUNCATE TABLE cases.{run.name}")
    run.airflow.ask("POST", "variables", {"key": f"{run.name}_to", "value": "2025-01-04"})
    run.clear(PLAN, downstream=False)
    wait_for(
        lambda: len(run.plans) == 2 and run.state_of(PLAN) == "success", f"{run.name}: a second plan", 240, every=1
    )
    # Else the run may end of this clear after the next one.
    run.end("failed")
    before = run.attempts
    run.clear([CHUNKS, 0], downstream=False)
    run.end("failed")
    assert run.state_of(CHUNKS, 0) == "failed"
    assert run.attempts == before
    # As the message says: with downstream all of the new plan's chunks are executed.
    run.clear(PLAN)
    run.end("success")
    assert run.plans[1]["status"] == "completed"
    run.equal()


# ---------------------------------------------------------------- kills


def fail_both_and_clear(run: Case) -> None:
    """Mark both running chunks failed: their queries end, nothing stays claimed, and a clear fills the target."""
    run.mark("failed", CHUNKS, 0)
    run.mark("failed", CHUNKS, 1)
    run.wait_until_it_is_gone()
    run.end("failed")
    assert run.plans[0]["chunkCounts"]["running"] == 0
    run.speed(0)
    run.clear([CHUNKS, 0], [CHUNKS, 1])
    run.end("success")
    run.equal("slow_source")


@case(select=slow("mark_failed"))
def mark_failed(run: Case) -> None:
    run.start()
    run.wait_until_it_runs(2)
    fail_both_and_clear(run)


@case(select=slow("stop_the_run"))
def stop_the_run(run: Case) -> None:
    """A DAG run set to failed."""
    run.start()
    run.wait_until_it_runs(2)
    run.airflow.ask("PATCH", f"dags/{run.name}/dagRuns/{run.run}", {"state": "failed"})
    run.wait_until_it_is_gone()
    run.speed(0)
    run.airflow.ask("POST", f"dags/{run.name}/dagRuns/{run.run}/clear", {"dry_run": False, "only_failed": False})
    run.end("success")
    run.equal("slow_source")


@case(select=slow("execution_timeout"), chunks={"execution_timeout": TIMEOUT, "retries": 3})
def execution_timeout(run: Case) -> None:
    run.start()
    run.wait_until_it_runs(2)
    run.speed(0)
    began = max(datetime.fromisoformat(run.instances()[CHUNKS, index]["start_date"]) for index in (0, 1))
    wait_for(lambda: not run.queries(), f"{run.name}: the query is gone", 120)
    run.took = (datetime.now(UTC) - began).total_seconds() - TIMEOUT
    run.end("success")
    assert run.instances()[CHUNKS, 0]["try_number"] > 1
    run.equal("slow_source")


def end_the_worker(run: Case, number: int) -> None:
    run.start()
    run.wait_until_it_runs(2)
    run.speed(0)
    began = time.monotonic()
    for worker in run.workers():
        os.kill(worker, number)
    run.wait_until_it_is_gone(began)
    run.end("success")
    run.equal("slow_source")


@case(select=slow("sigterm_of_the_worker"), chunks={"retries": 1})
def sigterm_of_the_worker(run: Case) -> None:
    end_the_worker(run, signal.SIGTERM)


@case(select=slow("sigkill_of_the_worker"), chunks={"retries": 1})
def sigkill_of_the_worker(run: Case) -> None:
    end_the_worker(run, signal.SIGKILL)


@case(select=slow("mark_a_deferred_chunk_failed"), deferred=True)
def mark_a_deferred_chunk_failed(run: Case) -> None:
    run.start()
    run.wait_until_it_runs(2)
    assert run.state_of(CHUNKS, 0) == "deferred"
    fail_both_and_clear(run)


@case(select=slow("cancel_the_plan"), deferred=True)
def cancel_the_plan(run: Case) -> None:
    """From the command line or the page: the tasks are skipped, and the sensor says so at once."""
    run.start()
    run.wait_until_it_runs(2)
    cancel_plan(run.session, run.plans[0]["planId"])
    run.wait_until_it_is_gone()
    run.end("failed")
    assert run.state_of(CHUNKS, 0) == run.state_of(CHUNKS, 1) == "skipped"
    assert run.state_of(FINISHED) == "failed"


@case(select=slow(LAST), deferred=True)
def kill_the_triggerer(run: Case) -> None:
    """SIGKILL; another one takes up the chunks, whose claims died with it."""
    run.start()
    run.wait_until_it_runs(2)
    run.speed(0)
    run.airflow.kill_component("triggerer")
    run.wait_until_it_is_gone()
    run.airflow.start_component("triggerer")
    run.end("success")
    assert run.instances()[CHUNKS, 0]["try_number"] == 1
    run.equal("slow_source")


# ---------------------------------------------------------------- the stage


pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A server of these cases alone, with their tables."""
    with ClickHouseServer(tmp_path_factory.mktemp("cases") / "clickhouse") as server:
        client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        columns = "ts DateTime('UTC'), x UInt32"
        statements = [
            "CREATE DATABASE cases",
            "CREATE TABLE cases.speed (name String, seconds Float64) ENGINE = MergeTree ORDER BY name",
            f"CREATE TABLE cases.source ({columns}) ENGINE = MergeTree ORDER BY ts",
            "INSERT INTO cases.source SELECT toDateTime('2025-01-01', 'UTC') + 360 * number, number FROM numbers(480)",
            f"CREATE TABLE cases.slow_source ({columns}) ENGINE = MergeTree ORDER BY ts SETTINGS index_granularity = 1",
            "INSERT INTO cases.slow_source SELECT ts, x FROM cases.source WHERE x % 5 = 0",
        ]
        for name, definition in CASES.items():
            statements += [
                f"CREATE TABLE cases.{name} ({columns}) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
                f"INSERT INTO cases.speed VALUES ('{name}', 2.9)",
            ]
            if "source" in definition:
                statements += [
                    f"CREATE TABLE cases.{name}_source ({columns}, bad UInt8) ENGINE = MergeTree ORDER BY ts",
                    f"INSERT INTO cases.{name}_source SELECT *, 0 FROM cases.source",
                    f"INSERT INTO cases.{name}_source VALUES ('2025-01-01 13:30:00', 9999, 1)",
                ]
        for statement in statements:
            client.command(statement)
        yield server


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, server: ClickHouseServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """What became of each case that is asked for; all of them are through."""
    here = [item for item in request.session.items if item.path == request.path and hasattr(item, "callspec")]
    asked = {item.callspec.params["name"] for item in here}
    home = tmp_path_factory.mktemp("airflow")
    (home / "dags").mkdir()
    (home / "dags" / "cases_dag.py").write_text((HERE / "cases_dag.py").read_text())
    (home / "cases.json").write_text(json.dumps(CASES))
    conn = connection(server.url, session_settings={"max_block_size": 1})
    airflow = RunningAirflow(
        home,
        home / "state",
        home / "dags",
        BACKFILL_CASES=str(home / "cases.json"),
        AIRFLOW_CONN_CLICKHOUSE_DEFAULT=conn,
    )
    try:
        airflow.start()
        cases = {name: Case(name, airflow, server, home / "state") for name in CASES if name in asked}
        with ThreadPoolExecutor(len(cases)) as pool:
            found = {name: pool.submit(PLAYS[name], cases[name]) for name in cases if name != LAST}
            for future in found.values():
                future.exception()
            if LAST in cases:
                found[LAST] = pool.submit(PLAYS[LAST], cases[LAST])
                found[LAST].exception()
        for name, run in cases.items():
            if run.took is not None:
                print(f"{name}: the server's queries were gone after {timedelta(seconds=round(run.took, 1))}")
        yield found
    finally:
        airflow.stop()


@pytest.mark.parametrize("name", CASES)
def test_the_content_is_right_after(name: str, outcomes: dict[str, Future[None]]) -> None:
    outcomes[name].result()
