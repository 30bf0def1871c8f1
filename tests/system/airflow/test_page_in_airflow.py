"""
The page inside a running Airflow, in headless Chromium: the tabs of a DAG run and a task, a retry, an approval.

One Airflow serves all tests of the file; each has a DAG of its own (``page_dag.py``). With ``PAGE_PICTURES`` set
to a folder, what was seen is kept there.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import clickhouse_connect
import pytest

from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.list import list_plans
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.options import Options
from airflow_provider_backfill.state.store import open_store
from tests.airflow.conftest import connection
from tests.airflow.site import open_browser
from tests.server import ClickHouseServer
from tests.system.airflow.stack import RunningAirflow, wait_for

if TYPE_CHECKING:
    from playwright.sync_api import Browser, FrameLocator, Page

pytestmark = pytest.mark.long

DAG_FILE = Path(__file__).parent / "page_dag.py"
PAGE = "/clickhouse-backfills"
PICTURES = os.environ.get("PAGE_PICTURES", "")
ROWS = "(ts DateTime('UTC'), x UInt64, bad UInt8) ENGINE = MergeTree ORDER BY ts"
TABLES = (
    "CREATE DATABASE page",
    f"CREATE TABLE page.source {ROWS} SETTINGS index_granularity = 1",
    "INSERT INTO page.source (ts, x) SELECT toDateTime('2025-01-01', 'UTC') + 3600 * number, number FROM numbers(144)",
    "ALTER TABLE page.source UPDATE bad = 1 WHERE x IN (36, 60, 108) SETTINGS mutations_sync = 2",
    "ALTER TABLE page.source UPDATE bad = 2 WHERE x IN (12, 84) SETTINGS mutations_sync = 2",
    "CREATE TABLE page.speed (seconds Float64) ENGINE = MergeTree ORDER BY tuple()",
    "INSERT INTO page.speed VALUES (2)",
    *(f"CREATE TABLE page.{name} {ROWS}" for name in ("watched", "stopped", "failing", "chosen", "approved")),
)


class Stage:
    """The running Airflow, its ClickHouse, and its state folder."""

    def __init__(self, airflow: RunningAirflow, server: ClickHouseServer, state: Path) -> None:
        self.airflow = airflow
        self.client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        self.session = Session(open_store(str(state)), Options(), None, "test")

    def start(self, dag: str) -> str:
        """Trigger a run; its id."""
        known = {"Authorization": f"Bearer {self.airflow.token('ada')}"}
        path = f"/api/v2/dags/{dag}"
        wait_for(lambda: self.airflow.call("GET", path, None, known)[0] == 200, f"{dag} is parsed", 240, every=0.5)
        return str(self.airflow.ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None})["dag_run_id"])

    def end(self, dag: str, run: str) -> str:
        """The state that a run ends in."""
        path = f"dags/{dag}/dagRuns/{run}"
        found = wait_for(
            lambda: (state := self.airflow.ask("GET", path)["state"]) in ("success", "failed") and state,
            f"{dag} ends",
            300,
            every=0.5,
        )
        return str(found)

    def states(self, dag: str, run: str) -> dict[tuple[str, int], str]:
        """The states of a run's task instances."""
        found = self.airflow.ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances")["task_instances"]
        return {(ti["task_id"], ti["map_index"]): str(ti["state"]) for ti in found}

    def speed(self, seconds: float) -> None:
        """Set how many seconds a row of the slow DAGs takes, in statements that start from now on."""
        self.client.command(f"ALTER TABLE page.speed UPDATE seconds = {seconds} WHERE 1 SETTINGS mutations_sync = 2")

    def log(self, dag: str) -> str:
        """The event log of a DAG's plan."""
        return Path(self.plan(dag)["eventPath"]).read_text()

    def plan(self, dag: str) -> dict[str, Any]:
        """Where the plan of a DAG's table stands."""
        (plan,) = [plan for plan in list_plans(self.session)["plans"] if plan["target"] == f"page.{dag}"]
        return read_status(self.session, plan["planId"])


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    home = tmp_path_factory.mktemp("page-airflow")
    (home / "dags").mkdir()
    (home / "dags" / DAG_FILE.name).write_text(DAG_FILE.read_text())
    with ClickHouseServer(home / "clickhouse") as server:
        client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
        for statement in TABLES:
            client.command(statement)
        conn = connection(server.url, session_settings={"max_block_size": 1})
        airflow = RunningAirflow(home, home / "state", home / "dags", AIRFLOW_CONN_CLICKHOUSE_DEFAULT=conn)
        try:
            airflow.start()
            yield Stage(airflow, server, home / "state")
        finally:
            airflow.stop()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(stage: Stage, browser: Browser) -> Iterator[Open]:
    """Opens an address of Airflow as a user; an error in a script fails the test."""
    contexts = []
    wrong: list[str] = []

    def open_page(path: str, user: str = "ada", width: int = 1440, zone: str = "UTC", theme: str = "light") -> Page:
        context = browser.new_context(viewport={"width": width, "height": 900}, timezone_id="America/New_York")
        contexts.append(context)
        url = stage.airflow.url
        context.add_cookies([{"name": "_token", "value": stage.airflow.token(user), "url": url}])
        # As Airflow's own menus store them.
        context.add_init_script(
            f"localStorage.setItem('timezone', '\"{zone}\"'); localStorage.setItem('theme', '{theme}')"
        )
        page = context.new_page()
        page.set_default_timeout(60_000)
        # Airflow's own scripts are not ours to judge.
        page.on("pageerror", lambda error: wrong.append(str(error)) if PAGE in str(error.stack) else None)
        page.goto(url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


def inner(page: Page) -> FrameLocator:
    """The page of this package, inside Airflow's."""
    return page.frame_locator("iframe[src*='clickhouse-backfills']")


def keep(page: Page, name: str) -> None:
    """A picture for a person to look at, when one is wanted."""
    if PICTURES:
        page.wait_for_timeout(1500)
        page.screenshot(path=Path(PICTURES) / f"{name}.png")


def asks(stage: Stage, run: str) -> None:
    """Wait until a run waits for a person."""
    waiting = ("awaiting_input", "deferred")
    wait_for(lambda: stage.states("approved", run).get(("backfill.approve", -1)) in waiting, "it asks a person", 240)


def of_run(dag: str, run: str) -> str:
    """The address of our tab of a DAG run."""
    return f"/dags/{dag}/runs/{quote(run, safe='')}/plugin/clickhouse-backfills-of-run"


def test_a_run_shows_its_backfill_while_it_runs(stage: Stage, open_page: Open) -> None:
    """In a tab of the DAG run, found by a click, and of the mapped task."""
    run = stage.start("watched")
    wait_for(lambda: stage.states("watched", run).get(("backfill.chunks", 0)) == "running", "a chunk runs", 240)
    page = open_page(f"/dags/watched/runs/{quote(run, safe='')}/")
    page.get_by_role("link", name="ClickHouse Backfill", exact=True).click()
    inner(page).get_by_role("heading", name="page.watched").wait_for()
    inner(page).get_by_text("each cell one chunk").first.wait_for()
    keep(page, "run-tab")
    # No way out of the tab to the page of the DAG run that one is on, nor to all plans.
    assert inner(page).get_by_role("link", name="Open the DAG run").count() == 0
    task = f"/dags/watched/runs/{quote(run, safe='')}/tasks/backfill.chunks/mapped/0"
    page = open_page(f"{task}/plugin/clickhouse-backfills-of-task", theme="dark")
    inner(page).get_by_role("heading", name="page.watched").wait_for()
    inner(page).locator("html[data-theme=dark]").wait_for(state="attached")
    keep(page, "task-tab-dark")
    page = open_page(of_run("watched", run), zone="Europe/Berlin")
    inner(page).get_by_text("times in Europe/Berlin").wait_for()
    # Airflow's own pages need more room than a phone has; ours alone does not.
    page = open_page(f"{PAGE}/run?dag=watched&run={quote(run, safe='')}", width=390, zone="Europe/Berlin")
    page.get_by_text("times in Europe/Berlin").wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    keep(page, "run-390")
    stage.speed(0)


def test_failed_chunks_are_retried_by_who_may(stage: Stage, open_page: Open) -> None:
    """The tasks are shown before, Airflow clears them, and the target is complete; a viewer gets no button."""
    run = stage.start("failing")
    assert stage.end("failing", run) == "failed"
    assert stage.plan("failing")["chunkCounts"]["failed"] == 3
    page = open_page(of_run("failing", run), user="vera")
    inner(page).get_by_text("You have read-only access.").wait_for()
    assert inner(page).get_by_role("button", name="Retry").count() == 0
    # Nor does Airflow let a viewer clear by itself.
    body = {"dry_run": False, "dag_run_id": run, "task_ids": ["backfill.chunks"]}
    bearer = {"Authorization": f"Bearer {stage.airflow.token('vera')}"}
    assert stage.airflow.call("POST", "/api/v2/dags/failing/clearTaskInstances", body, bearer)[0] == 403

    stage.client.command("ALTER TABLE page.source UPDATE bad = 0 WHERE bad = 1 SETTINGS mutations_sync = 2")
    page = open_page(of_run("failing", run))
    inner(page).get_by_role("button", name="Retry 3 failed chunks").click()
    listed = inner(page).get_by_role("list", name="Tasks that are cleared")
    for task in ("backfill.chunks[1]", "backfill.chunks[2]", "backfill.chunks[4]", "backfill.finished"):
        listed.get_by_text(task, exact=True).wait_for()
    assert listed.get_by_role("listitem").count() == 4
    keep(page, "retry")
    inner(page).get_by_role("button", name="Clear 4 tasks").click()
    wait_for(lambda: stage.states("failing", run)["backfill.chunks", 1] != "failed", "the tasks are cleared", 60)
    assert stage.end("failing", run) == "success"
    assert stage.client.query("SELECT count(), uniqExact(x) FROM page.failing").result_rows == [(144, 144)]
    inner(page).get_by_text("completed", exact=True).first.wait_for()


def select_failed(page: Page, number: int) -> None:
    """Select the failed cell of the map with this number, by keyboard."""
    field = inner(page).get_by_role("slider", name="Chunks in time")
    inner(page).get_by_text("each cell one chunk").first.wait_for()
    field.focus()
    page.keyboard.press("Home")
    for _ in range(6):
        if "failed" in str(field.get_attribute("aria-valuetext")):
            number -= 1
            if not number:
                return page.keyboard.press(" ")
        page.keyboard.press("ArrowRight")
    raise AssertionError(field.get_attribute("aria-valuetext"))


def test_selected_cells_are_retried_by_who_may(stage: Stage, open_page: Open) -> None:
    """Of two failed chunks the selected one runs again and the other one does not; a viewer can retry neither."""
    run = stage.start("chosen")
    assert stage.end("chosen", run) == "failed"
    assert stage.plan("chosen")["chunkCounts"]["failed"] == 2
    page = open_page(of_run("chosen", run), user="vera")
    select_failed(page, 2)
    inner(page).get_by_text("No task that you may clear in Airflow has executed these chunks.").wait_for()
    assert inner(page).get_by_role("button", name="Retry").count() == 0
    keep(page, "selected-viewer")

    stage.client.command("ALTER TABLE page.source UPDATE bad = 0 WHERE bad = 2 SETTINGS mutations_sync = 2")
    attempts = stage.plan("chosen")["attempts"]
    page = open_page(of_run("chosen", run))
    select_failed(page, 2)
    inner(page).get_by_role("button", name="Retry 1 selected chunk").click()
    listed = inner(page).get_by_role("list", name="Tasks that are cleared")
    for task in ("backfill.chunks[3]", "backfill.finished"):
        listed.get_by_text(task, exact=True).wait_for()
    assert listed.get_by_role("listitem").count() == 2
    keep(page, "selected")
    inner(page).get_by_role("button", name="Clear 2 tasks").click()
    wait_for(lambda: stage.states("chosen", run)["backfill.chunks", 3] == "success", "the selected task succeeds", 120)
    # The other one is still failed, and so is the run.
    assert stage.end("chosen", run) == "failed"
    plan = stage.plan("chosen")
    assert (plan["attempts"], plan["chunkCounts"]["failed"], plan["chunkCounts"]["done"]) == (attempts + 1, 1, 5)
    assert stage.states("chosen", run)["backfill.chunks", 0] == "failed"
    days = "SELECT DISTINCT toDayOfMonth(ts) AS day FROM page.chosen ORDER BY day"
    assert [day for (day,) in stage.client.query(days).result_rows] == [2, 3, 4, 5, 6]


def test_a_cancelled_backfill_goes_on_where_somebody_resumes_it(stage: Stage, open_page: Open) -> None:
    """The cancel is lifted, the skipped tasks are cleared, and the run ends well; nothing is done twice."""
    stage.speed(2)
    run = stage.start("stopped")
    wait_for(lambda: stage.states("stopped", run).get(("backfill.chunks", 0)) == "running", "a chunk runs", 240)
    wait_for(lambda: stage.plan("stopped")["chunkCounts"]["running"], "a chunk is claimed", 120)
    cancel_plan(stage.session, stage.plan("stopped")["planId"])
    assert stage.end("stopped", run) == "failed"
    stage.speed(0)
    page = open_page(of_run("stopped", run))
    inner(page).get_by_role("button", name="Resume").click()
    listed = inner(page).get_by_role("list", name="Tasks that are cleared")
    listed.get_by_text("backfill.chunks[0]", exact=True).wait_for()
    keep(page, "resume")
    inner(page).get_by_role("button", name="Clear 7 tasks").click()
    wait_for(lambda: stage.states("stopped", run)["backfill.chunks", 0] != "skipped", "the tasks are cleared", 60)
    assert stage.end("stopped", run) == "success"
    assert stage.client.query("SELECT count(), uniqExact(x) FROM page.stopped").result_rows == [(144, 144)]
    assert '"by":"ada (Airflow)"' in stage.log("stopped")


def test_the_page_leads_to_the_run(stage: Stage, open_page: Open) -> None:
    """From the plan's page to the DAG run that worked on it."""
    run = stage.start("failing")
    stage.end("failing", run)
    plan = stage.plan("failing")["planId"]
    page = open_page(f"/clickhouse-backfills/plans/{plan}")
    page.get_by_role("link", name="Open the DAG run").click()
    page.wait_for_url("**/dags/failing/runs/**")


def test_a_person_approves_or_rejects(stage: Stage, open_page: Open) -> None:
    """The approver reads what will happen; a No is green, and nothing has to be finished."""
    run = stage.start("approved")
    asks(stage, run)
    page = open_page(f"/dags/approved/runs/{quote(run, safe='')}/tasks/backfill.approve/required_actions")
    page.get_by_text("page.approved").first.wait_for()
    page.get_by_text("Every row is written exactly once").first.wait_for()
    keep(page, "approve")
    page.get_by_role("button", name="Reject").click()
    assert stage.end("approved", run) == "success"
    states = stage.states("approved", run)
    assert {state for (task, _), state in states.items() if task.endswith(("chunks", "finished"))} == {"skipped"}
    plan = stage.plan("approved")
    assert plan["status"] == "planned"
    page = open_page(of_run("approved", run))
    inner(page).get_by_text("waived", exact=True).first.wait_for()
    inner(page).get_by_text("rejected by ada").first.wait_for()
    keep(page, "rejected")

    again = stage.start("approved")
    asks(stage, again)
    page = open_page(f"/dags/approved/runs/{quote(again, safe='')}/tasks/backfill.approve/required_actions")
    page.get_by_role("button", name="Approve").click()
    assert stage.end("approved", again) == "success"
    assert stage.client.query("SELECT count(), uniqExact(x) FROM page.approved").result_rows == [(144, 144)]
    assert stage.plan("approved")["status"] == "completed"
