"""
The supported versions of Airflow, each with everything around it that belongs to its time, at work for real.

For each version: an environment of its own (``environments.py``), PostgreSQL, scheduler, DAG processor, triggerer and
API server, and DAGs that use the package in every way; driven through Airflow's REST API, which is the same in
all of them. ``pytest -m long tests/system/airflow_versions`` runs all, ``-k 3.0`` one. Each test is a cell of
the table in docs/reference/airflow-versions.md.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import clickhouse_connect
import pytest

from tests.airflow.conftest import connection
from tests.pages import blocks
from tests.server import ClickHouseServer
from tests.system.airflow.stack import RunningAirflow, wait_for
from tests.system.airflow_versions.environments import PROJECT, VERSIONS, Version, make

pytestmark = pytest.mark.long

DAG_FILE = Path(__file__).parent / "versions_dag.py"
PAGE = "/clickhouse-backfills"
PAGE_OF_DOCS = PROJECT / "docs" / "how-to" / "windows-in-a-dag.md"
TARGETS = (
    *("mapped", "deferred", "grouped", "promoted", "decorated", "task_decorated"),
    *("approved", "partitioned", "expected"),
)


class Running:
    """
    One version at work.

    Attributes:
        airflow: It.
    """

    def __init__(self, version: Version, airflow: RunningAirflow, python: Path, server: ClickHouseServer) -> None:
        self.version, self.airflow, self._python = version, airflow, python
        self.client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        self._runs: dict[str, str] = {}

    def start(self, dag: str, **more: Any) -> None:
        """Trigger a run of a DAG, unless one was triggered before."""
        if dag in self._runs:
            return
        known = {"Authorization": f"Bearer {self.airflow.token('ada')}"}
        path = f"/api/v2/dags/{dag}"
        wait_for(lambda: self.airflow.call("GET", path, None, known)[0] == 200, f"{dag} is parsed", 240, every=0.5)
        answer = self.airflow.ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None, **more})
        self._runs[dag] = answer["dag_run_id"]

    def runs(self, dag: str) -> list[dict[str, Any]]:
        """All runs of a DAG."""
        return list(self.airflow.ask("GET", f"dags/{dag}/dagRuns")["dag_runs"])

    def path(self, dag: str) -> str:
        """The path of a DAG's run in the API."""
        return f"dags/{dag}/dagRuns/{self._runs[dag]}"

    def end(self, dag: str, expected: str = "success") -> None:
        """Wait for the end of a DAG's run, which must be *expected*."""
        self.start(dag)
        state = wait_for(
            lambda: (state := self.airflow.ask("GET", self.path(dag))["state"]) in ("success", "failed") and state,
            f"{dag} ends",
            400,
            every=0.5,
        )
        tasks = {name: ti["state"] for name, ti in self.instances(dag).items()}
        assert state == expected, (tasks, _errors(self.airflow.home))

    def instances(self, dag: str) -> dict[str, dict[str, Any]]:
        """The task instances of a DAG's run, mapped ones as ``task[index]``."""
        found = self.airflow.ask("GET", f"{self.path(dag)}/taskInstances")["task_instances"]
        return {ti["task_id"] + (f"[{ti['map_index']}]" if ti["map_index"] >= 0 else ""): ti for ti in found}

    def state(self, dag: str, task: str) -> str:
        """The state of a task."""
        return str(self.instances(dag).get(task, {}).get("state"))

    def clear(self, dag: str, *tasks: Any) -> None:
        """Clear these tasks and no other ones, and wait until the run has succeeded again."""
        # With what is downstream, Airflow 3.0 would clear all mapped tasks for one of them.
        body = {"dry_run": False, "only_failed": False, "dag_run_id": self._runs[dag], "task_ids": list(tasks)}
        self.airflow.ask("POST", f"dags/{dag}/clearTaskInstances", body)
        self.end(dag)

    def same(self, table: str) -> bool:
        """Whether a table has the rows of the source, each once."""
        sums = "SELECT count(), sum(cityHash64(ts, x)) FROM versions."
        return bool(self.client.query(sums + table).result_rows == self.client.query(f"{sums}source").result_rows)

    def plan(self, target: str) -> dict[str, Any]:
        """The plan of a table, from the page's API."""
        status, found = self.ask_page("ada", "GET", f"/api/plans?q={target}")
        assert status == 200, found
        if not found["complete"]:
            time.sleep(0.5)
            return self.plan(target)
        (plan,) = [plan for plan in found["plans"] if plan["target"] == f"versions.{target}"]
        return dict(plan)

    def ask_page(self, user: str, method: str, path: str, body: Any = None) -> tuple[int, dict[str, Any]]:
        """One request to the page's API, of a user or of nobody."""
        headers = {"Authorization": f"Bearer {self.airflow.token(user)}"} if user else {}
        return self.airflow.call(method, PAGE + path, body, {**headers, "X-ClickHouse-Backfill": "1"})

    def refusal(self, arguments: str) -> str:
        """What a group with such arguments is refused with while a DAG is parsed."""
        code = (
            "from airflow.sdk import DAG\n"
            "from airflow_provider_backfill.errors import RequestError\n"
            "from airflow_provider_backfill.task_group import BackfillTaskGroup\n"
            "with DAG('refused', schedule=None):\n"
            f"    try: BackfillTaskGroup(target='a.b', {arguments})\n"
            "    except RequestError as error: print('refused:', error)"
        )
        done = subprocess.run(
            [self._python, "-c", code], env=self.airflow.environment, capture_output=True, text=True, check=True
        )
        return done.stdout.partition("refused: ")[2]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        """A call of ``airflow``."""
        command = [str(self._python), "-m", "airflow", *words]
        return subprocess.run(command, env=self.airflow.environment, capture_output=True, text=True, check=False)

    @cached_property
    def plugin(self) -> dict[str, Any]:
        """What Airflow says of the plugin."""
        found = self.airflow.ask("GET", "plugins")["plugins"]
        return dict(next(plugin for plugin in found if plugin["name"] == "clickhouse_backfill"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """A ClickHouse for one version after the other."""
    with ClickHouseServer(tmp_path_factory.mktemp("versions") / "clickhouse") as server:
        yield server


@pytest.fixture(scope="module", params=list(VERSIONS))
def running(
    request: pytest.FixtureRequest, server: ClickHouseServer, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Running]:
    """A version at work, with fresh tables."""
    version = VERSIONS[request.param]
    python = make(version)
    client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
    of_a_day = "ENGINE = MergeTree PARTITION BY toYYYYMMDD(ts) ORDER BY ts"
    statements = [
        "DROP DATABASE IF EXISTS versions SYNC",
        "CREATE DATABASE versions",
        f"CREATE TABLE versions.source (ts DateTime('UTC'), x UInt64) {of_a_day}",
        "INSERT INTO versions.source SELECT toDateTime('2025-01-01', 'UTC') + number, number FROM numbers(172800)",
        *(f"CREATE TABLE versions.{name} AS versions.source" for name in TARGETS),
        "DROP DATABASE IF EXISTS shop SYNC",
        "CREATE DATABASE shop",
        *(f"CREATE TABLE shop.{name} AS versions.source" for name in ("orders", "orders_copy")),
        "INSERT INTO shop.orders SELECT * FROM versions.source",
    ]
    for statement in statements:
        client.command(statement)
    home = tmp_path_factory.mktemp(f"airflow-{version.minor}")
    (home / "dags").mkdir()
    (home / "dags" / DAG_FILE.name).write_text(DAG_FILE.read_text())
    if version.at_least("3.2"):
        recommended = next(block for block in blocks(PAGE_OF_DOCS) if block.title == "orders_of_a_day.py")
        (home / "dags" / recommended.title).write_text(recommended.text)
    airflow = RunningAirflow(
        home,
        home / "state",
        home / "dags",
        python=python,
        AIRFLOW_CONN_CLICKHOUSE_DEFAULT=connection(server.url),
        # The triggerer imports what a deadline calls.
        PYTHONPATH=str(home / "dags"),
    )
    try:
        airflow.start()
        running = Running(version, airflow, python, server)
        # All that are asked for at once: most of the time they wait for Airflow.
        asked = {item.name for item in request.session.items if f"[{version.minor}]" in item.name}
        for name, dags in DAGS_OF.items():
            if f"{name}[{version.minor}]" in asked:
                for dag in dags:
                    if version.at_least(SINCE.get(dag, "3.0")):
                        running.start(dag)
        yield running
    finally:
        airflow.stop()


def _errors(home: Path) -> str:
    """The last lines about errors in the logs of tasks and components."""
    lines = []
    for path in home.rglob("*.log"):
        found = [line for line in path.read_text(errors="replace").splitlines() if "error" in line.lower()]
        lines += [f"{path.relative_to(home)}: {line[:1500]}" for line in found[-5:]]
    return "\n".join(lines)


SINCE = {"approved": "3.1", "partitioned": "3.3"}
DAGS_OF = {
    "test_plan_chunks_and_sensor": ("mapped",),
    "test_sensor_that_is_rescheduled": ("mapped", "rescheduled"),
    "test_deferred_chunks_and_sensor": ("deferred",),
    "test_group_and_what_follows": ("grouped",),
    "test_decorators": ("decorated",),
    "test_approval": ("approved",),
    "test_partitions_of_a_window": ("partitioned",),
}


def test_plan_chunks_and_sensor(running: Running) -> None:
    """Mapped tasks fill the target, each row once, and say which window they are; a retry executes nothing twice."""
    running.end("mapped")
    assert running.same("mapped")
    found = running.instances("mapped")
    assert {name: ti["state"] for name, ti in found.items()} == dict.fromkeys(
        ("plan", "chunks[0]", "chunks[1]", "finished"), "success"
    )
    assert found["chunks[1]"]["rendered_map_index"] == "2025-01-02, 1/1 done"
    assert (found["chunks[0]"]["try_number"], running.plan("mapped")["attempts"]) == (2, 2)


def test_sensor_that_is_rescheduled(running: Running) -> None:
    """It waits for a window that another DAG fills."""
    running.start("mapped")
    running.end("rescheduled")


def test_deferred_chunks_and_sensor(running: Running) -> None:
    """Both wait in the triggerer."""
    running.end("deferred")
    assert running.same("deferred")


def test_group_and_what_follows(running: Running) -> None:
    """The task group, and the SQL that promotes what it filled."""
    running.end("grouped")
    assert running.same("grouped")
    promoted = "SELECT count(), min(toDate(ts)) = max(toDate(ts)) FROM versions.promoted"
    assert running.client.query(promoted).result_rows == [(86_400, 1)]


def test_decorators(running: Running) -> None:
    """A function that says what to fill."""
    running.end("decorated")
    assert running.same("decorated")
    assert running.same("task_decorated")


def test_clears(running: Running) -> None:
    """A clear replays a done chunk where that is asked for, once and no other one; else nothing runs."""
    running.end("mapped")
    before = running.plan("mapped")["attempts"]
    running.client.command(
        "ALTER TABLE versions.mapped DELETE WHERE toDate(ts) = '2025-01-02' SETTINGS mutations_sync = 2"
    )
    running.clear("mapped", ["chunks", 1])
    assert running.plan("mapped")["attempts"] == before + 1
    assert running.same("mapped")
    running.end("deferred")
    attempts = running.plan("deferred")["attempts"]
    running.clear("deferred", ["chunks", 0])
    assert running.plan("deferred")["attempts"] == attempts


def test_page_and_api(running: Running) -> None:
    """Nobody without a login, everybody with one may look, and an administrator may act."""
    running.end("mapped")
    plan = running.plan("mapped")["planId"]
    assert running.ask_page("", "GET", "/api/plans")[0] == 401
    for user in ("ada", "vera"):
        status, found = running.ask_page(user, "GET", f"/api/plans/{plan}")
        assert (status, found["plan"]["status"], found["mayAct"]) == (200, "completed", user == "ada")
    waiver = {"reason": "not needed"}
    assert running.ask_page("vera", "POST", f"/api/plans/{plan}/waive", waiver)[0] == 403


def test_link_to_the_page(running: Running) -> None:
    """The button on a task opens the plan's page, inside Airflow's where it has a place for it."""
    running.end("mapped")
    plan = running.plan("mapped")["planId"]
    links = running.airflow.ask("GET", f"{running.path('mapped')}/taskInstances/plan/links")
    inside = "/plugin/clickhouse-backfills" if running.version.at_least("3.1") else ""
    assert links["extra_links"]["ClickHouse Backfill"] == f"{running.airflow.url}{inside}{PAGE}/plans/{plan}"


def test_place_in_airflow(running: Running) -> None:
    """An entry and two tabs since 3.1; on 3.0 only the page's own address, and Airflow starts."""
    places = {view["destination"] for view in running.plugin.get("external_views", [])}
    assert places == ({"nav", "dag_run", "task_instance"} if running.version.at_least("3.1") else set())


def run_expected(running: Running) -> None:
    """Fill the form of the DAG that has what everybody gives theirs, and trigger it, unless that was done before."""
    pools = running.airflow.ask("GET", "pools")["pools"]
    if "backfills" not in {pool["name"] for pool in pools}:
        running.airflow.ask("POST", "pools", {"name": "backfills", "slots": 1, "include_deferred": False})
    form = {"target": "versions.expected", "window_from": "2025-01-01T00:00:00Z", "window_to": "2025-01-03T00:00:00Z"}
    running.start("expected", conf=form)
    running.end("expected")


def test_form_pool_priority_and_callbacks(running: Running) -> None:
    """What everybody gives a DAG and its tasks works for these as for any other ones."""
    run_expected(running)
    assert running.same("expected")
    found = running.instances("expected").values()
    assert {(ti["pool"], ti["priority_weight"]) for ti in found} == {("backfills", 7)}
    noted = (running.airflow.home / "noted").read_text().split()
    assert sorted(noted) == ["backfill.chunks[0]", "backfill.chunks[1]", "backfill.finished[-1]", "backfill.plan[-1]"]


def test_deadline_alert(running: Running) -> None:
    """Airflow's own alert says that a backfill takes longer than it may; since 3.2."""
    if not running.version.at_least("3.2"):
        pytest.skip("Airflow has deadlines since 3.2")
    run_expected(running)
    late = running.airflow.home / "late"
    wait_for(late.exists, "somebody is told", 60)
    assert late.read_text() == "expected: a second has passed"


def test_run_without_a_logical_date_is_told_the_way_out(running: Running) -> None:
    """As Airflow's form triggers one; without the retries that could not help."""
    running.start("dateless")
    running.end("dateless", "failed")
    assert running.instances("dateless")["plan"]["try_number"] == 1
    said = running.airflow.ask("GET", f"{running.path('dateless')}/taskInstances/plan/logs/1")
    assert "A run without a logical date has no data interval" in str(said["content"])


def test_tabs_find_the_plan(running: Running) -> None:
    """What the tabs ask Airflow for, with the rights of a viewer; since 3.1."""
    running.end("mapped")
    plan = running.plan("mapped")["planId"]
    bearer = {"Authorization": f"Bearer {running.airflow.token('vera')}"}
    tasks = f"/api/v2/{running.path('mapped')}/taskInstances"
    status, found = running.airflow.call("GET", f"{tasks}/~/xcomEntries?xcom_key=plan_id&limit=100", None, bearer)
    assert (status, [entry["task_id"] for entry in found["xcom_entries"]]) == (200, ["plan"])
    for place in ("plan/xcomEntries/plan_id?map_index=-1", "chunks/xcomEntries/_link_BackfillPlanLink?map_index=1"):
        status, found = running.airflow.call("GET", f"{tasks}/{place}", None, bearer)
        assert (status, found["value"].strip('"')[-16:]) == (200, plan)


def test_approval(running: Running) -> None:
    """A No is green, and waives the plan with the name of who said it; since 3.1."""
    if not running.version.at_least("3.1"):
        assert "since 3.1" in running.refusal("approve=True")
        return
    running.start("approved")
    asks = ("awaiting_input", "deferred")
    wait_for(lambda: running.state("approved", "backfill.approve") in asks, "it asks a person", 300)
    path = f"{running.path('approved')}/taskInstances/backfill.approve/-1/hitlDetails"
    asked = running.airflow.ask("GET", path)
    assert "versions.approved" in asked["subject"]
    assert "**Window** 2025-01-01 to 2025-01-03" in asked["body"]
    running.airflow.ask("PATCH", path, {"chosen_options": ["Reject"]})
    running.end("approved")
    waiver = running.plan("approved")["waiver"]
    assert waiver["reason"] == "rejected by ada"
    assert running.client.query("SELECT count() FROM versions.approved").result_rows == [(0,)]


def test_partition_of_a_day(running: Running) -> None:
    """The DAG that the documentation recommends, for one day; its consumer runs for that day."""
    if not running.version.at_least("3.2"):
        pytest.skip("Airflow has such partitions since 3.2")
    running.start("orders_of_a_day", partition_key="2025-01-02")
    running.end("orders_of_a_day")
    days = "SELECT DISTINCT toDate(ts) = '2025-01-02' FROM shop.orders_copy"
    assert running.client.query(days).result_rows == [(1,)]
    (follower,) = wait_for(lambda: running.runs("orders_report"), "the consumer runs", 240, every=1)
    assert follower["partition_key"] == "2025-01-02"


def test_partitions_of_a_window(running: Running) -> None:
    """An event for each day of the window; since 3.3."""
    if not running.version.at_least("3.3"):
        assert "since 3.3" in running.refusal("partition_key_format='%Y-%m-%d'")
        return
    running.end("partitioned")
    both = {"2025-01-01", "2025-01-02"}
    wait_for(
        lambda: {run["partition_key"] for run in running.runs("each_partition")} == both, "two consumers run", 240, 1
    )


def test_command_line(running: Running) -> None:
    """``airflow clickhouse-backfill`` since 3.2."""
    found = running.command("clickhouse-backfill", "list")
    if running.version.at_least("3.2"):
        assert found.returncode == 0, found.stderr
        return
    assert found.returncode == 2
    assert "invalid choice: 'clickhouse-backfill'" in found.stderr


def test_provider_and_its_options(running: Running) -> None:
    """Airflow knows the provider and its section of the configuration."""
    found = running.command("providers", "list", "--output", "json")
    assert "airflow-provider-backfill" in found.stdout, found.stderr
    value = running.command("config", "get-value", "clickhouse_backfill", "chunk_hours")
    assert value.stdout.strip().endswith("6")
