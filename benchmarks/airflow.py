"""
Measure the cost of Airflow: chunks through one DAG run against ``run``, memory of a task against an empty task, DAG
parse time.

The benchmark starts a complete Airflow (scheduler, API server, triggerer, DAG processor, PostgreSQL) and a ClickHouse.
The chunks are small, so their fixed cost is measured.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import clickhouse_connect

from benchmarks.frame import Row, Used, timed, use_of
from tests.airflow.conftest import connection
from tests.server import ClickHouseServer
from tests.system.airflow.stack import RunningAirflow, wait_for

ROOT = Path(__file__).parents[1]
# The number of mapped tasks that share the small chunks of a day or more, two tasks at a time.
_TASKS = 4
_BY_RUN = ("by_run", "by_run_again")
# CPU seconds to parse a DAG file, with Airflow's own modules loaded before.
PARSE = """
import sys, time
from airflow.sdk import DAG, Param
from airflow.sdk.configuration import conf
conf.get("core", "dags_folder")
DAG("empty", params={"a": Param(1)})
began = time.process_time()
exec(compile(open(sys.argv[1]).read(), sys.argv[1], "exec"), {"__name__": "dag"})
print(time.process_time() - began)
"""
EMPTY = 'from airflow.sdk import DAG\nwith DAG("nothing", schedule=None):\n    pass\n'
DAGS = """
import resource
import time
from pathlib import Path
from airflow.sdk import DAG, BaseOperator
from airflow_provider_backfill.operators import BackfillChunkOperator
from airflow_provider_backfill.task_group import BackfillTaskGroup

def note(kind, began):
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with Path("{notes}").open("a") as file:
        file.write(f"{{kind}} {{peak}} {{time.process_time() - began}}\\n")

# In place, so that the mapped tasks are the ones that users have.
execute = BackfillChunkOperator.execute
def noting(self, context):
    began = time.process_time()
    try:
        return execute(self, context)
    finally:
        note("deferred" if self.deferrable else "chunks", began)
BackfillChunkOperator.execute = noting

class Empty(BaseOperator):
    def __init__(self, *, number, **kwargs):
        super().__init__(**kwargs)
        self.number = number
    def execute(self, context):
        note("empty", time.process_time())

# As many tasks as a user gets who says nothing.
for name, deferrable in (("in_workers", False), ("deferred", True)):
    with DAG(name, schedule=None) as dag:
        BackfillTaskGroup(
            target=f"bench.{{name}}", source="bench.source", window_from="2025-01-01", window_to="{end}",
            chunk_hours=1, max_parallel_chunks=2, force_large_window=True, deferrable=deferrable,
        )
    globals()[name] = dag
with DAG("empty", schedule=None) as empty:
    Empty.partial(task_id="one", max_active_tis_per_dagrun=2).expand(number=list(range({tasks})))
"""


def measure(short: bool) -> list[Row]:
    """Return all figures of Airflow."""
    rows = _parsing(1 if short else 5)
    with tempfile.TemporaryDirectory(prefix="backfill-bench-", dir=os.environ.get("BACKFILL_BENCH_DIR")) as folder:
        rows += _running(Path(folder), days=2 if short else 120)
    return rows


def _parsing(rounds: int) -> list[Row]:
    with tempfile.TemporaryDirectory(prefix="backfill-bench-") as folder:
        empty = Path(folder) / "empty.py"
        empty.write_text(EMPTY)

        def cost(path: Path) -> float:
            done = subprocess.run([sys.executable, "-c", PARSE, str(path)], check=True, capture_output=True, text=True)
            return float(done.stdout.split()[-1])

        base = statistics.median(cost(empty) for _ in range(rounds))
        files = sorted(path for path in (ROOT / "dags").glob("*.py") if path.name != "main_job.py")
        return [
            Row(
                f"parse dags/{path.name} beyond an empty DAG, CPU",
                statistics.median(cost(path) for _ in range(rounds)) - base,
                "s",
                bar=0.2,
            )
            for path in files
        ]


def _running(folder: Path, days: int) -> list[Row]:
    chunks = days * 24
    end = time.strftime("%Y-%m-%d", time.gmtime(1_735_689_600 + days * 86_400))
    notes, dags = folder / "notes", folder / "dags"
    dags.mkdir()
    (dags / "bench_dags.py").write_text(DAGS.format(notes=notes, end=end, tasks=_TASKS))
    with ClickHouseServer(folder / "clickhouse") as server:
        client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        client.command("CREATE DATABASE bench")
        table = "(ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts"
        for name in ("source", "in_workers", "deferred", *_BY_RUN):
            client.command(f"CREATE TABLE bench.{name} {table}")
        client.command(
            f"INSERT INTO bench.source SELECT toDateTime('2025-01-01', 'UTC') + 36 * number, number"
            f" FROM numbers({chunks * 100})"
        )
        first = _by_run(folder, server.url, end, _BY_RUN[0])
        airflow = RunningAirflow(
            folder / "airflow", folder / "state", dags, AIRFLOW_CONN_CLICKHOUSE_DEFAULT=connection(server.url)
        )
        try:
            airflow.start()
            walls = {name: _wall(airflow, name) for name in ("empty", "in_workers", "deferred")}
        finally:
            airflow.stop()
        # Measure before and after, so that other work of the machine affects both.
        by_run = Used(*map(statistics.mean, zip(first, _by_run(folder, server.url, end, _BY_RUN[1]), strict=True)))
        for name in ("in_workers", "deferred", *_BY_RUN):
            assert client.command(f"SELECT count(), sum(x) FROM bench.{name}") == client.command(
                "SELECT count(), sum(x) FROM bench.source"
            ), name
    used: dict[str, list[tuple[float, float]]] = {"empty": [], "chunks": [], "deferred": []}
    for line in notes.read_text().splitlines():
        kind, peak, cpu = line.split()
        used[kind].append((float(peak), float(cpu)))
    assert len(used["chunks"]) == _TASKS
    peaks = {kind: max(peak for peak, _ in found) for kind, found in used.items()}
    beside = f"clickhouse-backfill plan and run, {by_run.wall:.1f} s"
    shown = {
        "in_workers": (f"in {_TASKS} mapped tasks in workers", 1.3),
        "deferred": (f"in {_TASKS} mapped tasks deferred to the triggerer", 1.5),
    }
    rows = [
        Row(f"{chunks:,} chunks {words}, wall", walls[name], "s", by_run.wall, beside, bar)
        for name, (words, bar) in shown.items()
    ]
    rows += [
        Row(f"{chunks:,} chunks {words}, wall per chunk beyond it", 1000 * (walls[name] - by_run.wall) / chunks, "ms")
        for name, (words, _) in shown.items()
    ]
    work = sum(cpu for _, cpu in used["chunks"])
    rows.append(
        Row("processor time of the chunk tasks' own work", work, "s", by_run.cpu, "the program's, of plan and run")
    )
    rows.append(Row(f"{_TASKS} mapped tasks that do nothing, 2 at once, wall", walls["empty"], "s"))
    rows.append(Row("peak memory of a chunk task", peaks["chunks"], "MB", peaks["empty"], "an empty task"))
    return rows


def _by_run(folder: Path, url: str, end: str, table: str) -> Used:
    """Plan and run the same chunks from the command line, two in parallel; return the resources used."""
    program = [sys.executable, "-m", "airflow_provider_backfill.cli"]
    common = ["--clickhouse-url", url, "--state-dir", str(folder / "state-of-run"), "--json"]
    window = ["--from", "2025-01-01", "--to", end, "--chunk-hours", "1", "--force-large-window"]
    plan = use_of(*program, "plan", "--target", f"bench.{table}", "--source", "bench.source", *window, *common)
    run = use_of(*program, "run", "--last", "--max-parallel-chunks", "2", *common)
    return Used(plan.wall + run.wall, plan.cpu + run.cpu, max(plan.memory, run.memory))


def _wall(airflow: RunningAirflow, dag: str) -> float:
    """Return the seconds from the trigger of a run to its success."""
    headers = {"Authorization": f"Bearer {airflow.token('ada')}"}
    wait_for(lambda: airflow.call("GET", f"/api/v2/dags/{dag}", None, headers)[0] == 200, f"{dag} is parsed", 300)

    def work() -> None:
        run = airflow.ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"]
        path = f"dags/{dag}/dagRuns/{run}"
        state = wait_for(
            lambda: (found := airflow.ask("GET", path)["state"]) in ("success", "failed") and found, dag, 3600, every=1
        )
        assert state == "success", f"{dag} {state}"

    return timed(work)
