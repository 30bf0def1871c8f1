"""
The page in a running Airflow, in headless Chromium, while real backfills run.

Needs Debian's chromium and npm (axe-core); one Airflow and one ClickHouse serve all tests of the file.
"""

from __future__ import annotations

import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clickhouse_connect
import pytest

from airflow_provider_backfill.clickhouse.client import connect
from airflow_provider_backfill.commands.cancel import cancel_plan
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.run import run_plan
from airflow_provider_backfill.commands.session import Payload, Session
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.commands.waive import waive_plan
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.store import open_store
from airflow_provider_backfill.ui_urls import page_address
from tests.airflow.site import AirflowSite, open_browser
from tests.server import ClickHouseServer, fetch_npm

if TYPE_CHECKING:
    from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Dialog, Page

AXE = "axe-core@4.11.0"
ROOT = "/clickhouse-backfills"
# A name that a page might take for markup.
EVIL = "<img src=x onerror=alert(1)>"


class Stage:
    """A ClickHouse with a database, and the state folder that the running Airflow shows."""

    def __init__(self, clickhouse: ClickHouseServer, state: Path) -> None:
        self.state, self.url = state, clickhouse.url
        self.client = clickhouse_connect.get_client(dsn=self.url, autogenerate_session_id=False)
        self.client.command("CREATE DATABASE IF NOT EXISTS stage")
        self.client.command(
            "CREATE TABLE IF NOT EXISTS stage.source (ts DateTime, id UInt64) ENGINE = MergeTree ORDER BY ts"
        )
        self.client.command(
            "INSERT INTO stage.source SELECT toDateTime('2026-01-01') + number * 10, number FROM numbers(86400)"
        )

    @property
    def session(self) -> Session:
        """A session such as the command line makes."""
        return self.session_of("grace@workstation")

    def session_of(self, user: str) -> Session:
        """A session of a user, or of an Airflow task."""
        options = parse_options({"defaults": {"retryDelayMs": 1}, "limits": {"maxWindowHours": 100_000}})
        return Session(open_store(str(self.state)), options, lambda: connect(self.url), user)

    def plan(self, target: str, select: str = "SELECT ts, id FROM stage.source", hours: float = 6) -> str:
        """Plan ten days of a new table; the plan's id."""
        name = target.replace("`", "\\`")
        self.client.command(f"CREATE TABLE stage.`{name}` (ts DateTime, id UInt64) ENGINE = MergeTree ORDER BY ts")
        request = PlanRequest(
            target=TableName("stage", target),
            start=parse_instant("2026-01-01"),
            end=parse_instant("2026-01-11"),
            chunking=Chunking(hours=hours),
            select=select,
        )
        return str(create_plan(self.session, request)["planId"])

    def run(self, plan_id: str) -> Payload:
        """Run a plan to its end."""
        return run_plan(self.session, plan_id)

    def start(self, plan_id: str) -> threading.Thread:
        """Run a plan in the background."""
        thread = threading.Thread(target=self.run, args=(plan_id,), daemon=True)
        thread.start()
        return thread

    def status(self, plan_id: str) -> str:
        """Return the status of a plan."""
        return str(read_status(self.session, plan_id)["status"])

    def log(self, plan_id: str) -> str:
        """The event log as it is on disk."""
        return (self.state / "events" / f"{plan_id}.ndjson").read_text()


# Each row of a chunk takes some time, so that a run can be watched.
SLOW = "SELECT ts, id + sleepEachRow(0.0004) AS id FROM stage.source"
FAILING = "SELECT ts, id + throwIf(toDate(ts) = '2026-01-04', 'no rate for the day') AS id FROM stage.source"


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("web")
    with ClickHouseServer(folder / "clickhouse") as clickhouse:
        yield Stage(clickhouse, folder / "state")


@pytest.fixture(scope="module")
def site(stage: Stage, tmp_path_factory: pytest.TempPathFactory) -> Iterator[AirflowSite]:
    with AirflowSite(tmp_path_factory.mktemp("airflow-home"), stage.state) as site:
        yield site


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


Open = Callable[..., "Page"]


@pytest.fixture
def open_page(site: AirflowSite, browser: Browser) -> Iterator[Open]:
    """Opens an address as a user; a script that runs where none should, or an error on the page, fails the test."""
    contexts: list[BrowserContext] = []
    wrong: list[str] = []

    def dismissed(dialog: Dialog) -> None:
        wrong.append(f"a dialog says {dialog.message}")
        dialog.dismiss()

    def heard(said: ConsoleMessage) -> None:
        if "Content Security Policy" in said.text:
            wrong.append(said.text)

    def open_page(path: str, user: str = "ada", **wanted: Any) -> Page:
        context = browser.new_context(viewport={"width": 1360, "height": 900}, **wanted)
        contexts.append(context)
        context.add_cookies([{"name": "_token", "value": site.token(user), "url": site.url}])
        page = context.new_page()
        page.set_default_timeout(30_000)
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("dialog", dismissed)
        page.on("console", heard)
        page.goto(site.url + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def failed(stage: Stage) -> str:
    """A plan that ran, with one day's chunks failed."""
    plan_id = stage.plan("orders", FAILING)
    stage.run(plan_id)
    assert stage.status(plan_id) == "failed"
    return plan_id


# ---------------------------------------------------------------- permissions


@pytest.mark.parametrize(
    "path",
    [
        f"{ROOT}/",
        f"{ROOT}/plans/0123456789abcdef",
        f"{ROOT}/static/app.js",
        f"{ROOT}/api/plans",
        f"{ROOT}/table?target=stage.orders",
        f"{ROOT}/api/table?target=stage.orders",
        f"{ROOT}/api/plans/0123456789abcdef",
        f"{ROOT}/api/plans/0123456789abcdef/chunks/0123456789abcdef",
    ],
)
def test_nothing_is_shown_without_a_login(site: AirflowSite, path: str) -> None:
    """Airflow leaves a plugin's routes open unless they close themselves."""
    assert site.call("GET", path)[0] == 401
    assert site.call("GET", path, headers={"Authorization": "Bearer nonsense"})[0] in (401, 403)


@pytest.mark.parametrize("path", ["/docs", "/redoc", "/openapi.json"])
def test_there_is_no_documentation_page_that_loads_scripts_from_elsewhere(site: AirflowSite, path: str) -> None:
    bearer = {"Authorization": f"Bearer {site.token('ada')}"}
    assert site.call("GET", f"{ROOT}{path}", headers=bearer)[0] == 404


def test_a_viewer_looks_and_does_not_act(site: AirflowSite, stage: Stage, failed: str) -> None:
    """The simple auth manager grants a custom view's right to every viewer, for every method: we ask for another."""
    bearer = {"Authorization": f"Bearer {site.token('vera')}", "X-ClickHouse-Backfill": "1"}
    status, answer = site.call("GET", f"{ROOT}/api/plans", headers=bearer)
    assert (status, answer["mayAct"], answer["user"]) == (200, False, "vera")
    before = stage.log(failed)
    for verb, body in (("cancel", {}), ("resume", {}), ("waive", {"reason": "because"})):
        for tail in ("", "?dag_id=any"):
            status, answer = site.call("POST", f"{ROOT}/api/plans/{failed}/{verb}{tail}", body, bearer)
            assert status == 403, (verb, answer)
    assert stage.log(failed) == before


def test_an_action_must_come_from_a_page_of_this_airflow(site: AirflowSite, stage: Stage, failed: str) -> None:
    """A browser sends a cookie for any site; not so the header, the origin and the content type."""
    cookie = {"Cookie": f"_token={site.token('ada')}"}
    ours, mark = {"Origin": site.url}, {"X-ClickHouse-Backfill": "1"}
    before = stage.log(failed)
    path = f"{ROOT}/api/plans/{failed}/cancel"
    refused: list[tuple[dict[str, str], int]] = [
        ({**cookie, **ours}, 403),
        ({**cookie, **mark}, 403),
        ({**cookie, **mark, "Origin": "https://elsewhere.example"}, 403),
        ({**cookie, **mark, "Origin": "null"}, 403),
        ({**cookie, **mark, **ours, "Sec-Fetch-Site": "cross-site"}, 403),
        ({**cookie, **mark, **ours, "Content-Type": "text/plain"}, 415),
        ({**cookie, **mark, **ours, "Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({**mark, **ours}, 401),
    ]
    for headers, expected in refused:
        assert site.call("POST", path, {}, headers)[0] == expected, headers
    assert stage.log(failed) == before
    allowed = {**cookie, **mark, **ours}
    assert site.call("POST", path, {"reason": "x", "more": 1}, allowed)[0] == 422
    assert site.call("POST", f"{ROOT}/api/plans/nonsense/cancel", {}, allowed)[0] == 400
    assert site.call("POST", f"{ROOT}/api/plans/{'0' * 16}/cancel", {}, allowed)[0] == 404


def test_a_program_with_a_token_of_its_own_may_act(site: AirflowSite, stage: Stage) -> None:
    plan_id = stage.plan("by_program")
    bearer = {"Authorization": f"Bearer {site.token('ada')}", "X-ClickHouse-Backfill": "1"}
    status, answer = site.call("POST", f"{ROOT}/api/plans/{plan_id}/cancel", {"reason": "not now"}, bearer)
    assert (status, answer["status"]) == (200, "cancelled")
    assert '"by":"ada (Airflow)"' in stage.log(plan_id)
    status, answer = site.call("POST", f"{ROOT}/api/plans/{plan_id}/waive", {"reason": "no more"}, bearer)
    assert status == 200, answer
    status, answer = site.call("GET", f"{ROOT}/api/plans/{plan_id}", headers=bearer)
    assert answer["plan"]["waiver"]["reason"] == "no more"


def test_every_answer_forbids_foreign_scripts_and_frames(site: AirflowSite, open_page: Open) -> None:
    page = open_page(f"{ROOT}/")
    response = page.request.get(f"{site.url}{ROOT}/", headers={"Accept": "text/html"})
    policy = response.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"
    for name in ("../api.py", "..%2fapi.py", "index.html", "missing.js", ".hidden.js"):
        assert page.request.get(f"{site.url}{ROOT}/static/{name}").status == 404, name
    first = page.request.get(f"{site.url}{ROOT}/static/app.js")
    again = page.request.get(f"{site.url}{ROOT}/static/app.js", headers={"If-None-Match": first.headers["etag"]})
    assert again.status == 304


def test_a_person_without_a_login_is_sent_to_it(site: AirflowSite, browser: Browser) -> None:
    context = browser.new_context()
    page = context.new_page()
    page.goto(f"{site.url}{ROOT}/")
    page.get_by_text("Username", exact=True).wait_for()
    assert "next=" in page.url
    context.close()


# ---------------------------------------------------------------- the page


def test_the_navigation_leads_to_the_list_and_a_row_to_its_plan(
    site: AirflowSite, open_page: Open, failed: str
) -> None:
    """In Airflow's own frame, whose address follows, so that people can share it."""
    page = open_page("/")
    page.get_by_text("Browse", exact=True).click()
    page.get_by_text("ClickHouse Backfills").click()
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="ClickHouse backfills").wait_for()
    frame.get_by_text("clickhouse-backfill check fails").wait_for()
    row = frame.get_by_role("row").filter(has_text="stage.orders")
    assert "failed" in row.inner_text()
    assert "no rate for the day" in row.inner_text()
    assert "36 of 40 chunks" in row.inner_text()
    row.get_by_role("link", name="stage.orders").click()
    frame.get_by_role("heading", name="stage.orders").wait_for()
    page.wait_for_url(page_address(site.url, failed))
    page.reload()
    page.frame_locator("iframe").get_by_role("heading", name="stage.orders").wait_for()


def test_a_failed_chunk_shows_its_attempts_and_its_sql(open_page: Open, failed: str) -> None:
    page = open_page(f"{ROOT}/plans/{failed}")
    page.get_by_role("heading", name="4 failed chunks").wait_for()
    assert page.get_by_text("Every row is written exactly once").is_visible()
    page.get_by_role("button", name="4 Jan 2026, 06:00 \N{EN DASH} 12:00").click()
    chunk = page.get_by_role("region", name="4 Jan 2026, 06:00 \N{EN DASH} 12:00")
    chunk.get_by_text("Attempt 1").wait_for()
    text = chunk.inner_text()
    assert "no rate for the day" in text
    assert f"backfill-{failed}-" in text
    chunk.get_by_text("SQL", exact=True).click()
    assert "additional_table_filters" in chunk.inner_text()
    assert "2026-01-04 06:00:00" in chunk.inner_text()
    remedy = page.get_by_text(f"clickhouse-backfill resume --plan-id {failed}")
    assert remedy.first.is_visible()


def test_a_chunk_leads_to_the_log_of_the_task_that_ran_it(stage: Stage, open_page: Open, site: AirflowSite) -> None:
    """In Airflow's own page; a chunk that the command line ran has no such link."""
    plan_id = stage.plan("by_a_task", FAILING)
    task = "airflow:load/manual__2026-01-01T00:00:00+00:00/backfill.chunks[2]#3"
    run_plan(stage.session_of(task), plan_id)
    page = open_page(f"{ROOT}/plans/{plan_id}")
    page.get_by_role("button", name="4 Jan 2026, 06:00 \N{EN DASH} 12:00").click()
    link = page.get_by_role("link", name="Its task in Airflow, with the log")
    path = "/dags/load/runs/manual__2026-01-01T00%3A00%3A00%2B00%3A00/tasks/backfill.chunks/mapped/2?try_number=3"
    assert link.get_attribute("href") == path
    link.click()
    page.wait_for_url(f"{site.url}/dags/load/**")
    page.goto(f"{site.url}{ROOT}/")
    page.get_by_role("row").filter(has_text=plan_id).get_by_role("link", name="load", exact=True).click()
    page.wait_for_url(f"{site.url}/dags/load**")


def test_a_view_is_named_as_text(stage: Stage, open_page: Open) -> None:
    stage.client.command("CREATE TABLE stage.fed (ts DateTime, id UInt64) ENGINE = MergeTree ORDER BY ts")
    stage.client.command(
        f"CREATE MATERIALIZED VIEW stage.`{EVIL} view` TO stage.fed AS SELECT ts, id FROM stage.source"
    )
    window = (parse_instant("2026-01-01"), parse_instant("2026-01-02"))
    plan_id = str(
        create_plan(stage.session, PlanRequest(TableName("stage", "fed"), *window, Chunking(hours=6)))["planId"]
    )
    page = open_page(f"{ROOT}/plans/{plan_id}")
    page.get_by_text(f"{EVIL} view").first.wait_for()
    assert page.locator("img").count() == 0


def test_a_table_has_all_of_its_plans_on_one_calendar(stage: Stage, open_page: Open, failed: str) -> None:
    """At the width of a phone as well: nothing is cut off."""
    page = open_page(f"{ROOT}/table?target=stage.orders")
    page.get_by_role("heading", name="4 gaps that no done chunk has filled").or_(
        page.get_by_role("heading", name="1 gap that no done chunk has filled")
    ).wait_for()
    assert "90 % of the window is proven filled" in page.inner_text("main")
    assert page.get_by_text("(failed)").first.is_visible()
    for path in (f"{ROOT}/", f"{ROOT}/table?target=stage.orders", f"{ROOT}/plans/{failed}"):
        page.set_viewport_size({"width": 390, "height": 844})
        page.goto(page.url.partition(ROOT)[0] + path)
        page.get_by_text("orders").first.wait_for()
        assert page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_the_list_is_sorted_by_its_columns(stage: Stage, open_page: Open, failed: str) -> None:
    stage.plan("aardvark")
    page = open_page(f"{ROOT}/")
    for sort in ("ascending", "descending"):
        page.get_by_role("button", name="Target").click()
        page.locator(f"th[aria-sort={sort}]").wait_for()
        names = page.locator(".plans tbody th > a").all_inner_texts()
        assert names == sorted(names, reverse=sort == "descending")
    assert len(names) > 1
    # What Airflow leaves of 1,440 and of 1,280 pixels: nothing is cut at the right edge.
    for width in (1376, 1216):
        page.set_viewport_size({"width": width, "height": 900})
        assert page.locator(".table-wrap").evaluate("wrap => wrap.scrollWidth - wrap.clientWidth") <= 0, width


def test_failed_cells_of_the_map_are_selected_by_keyboard(open_page: Open, failed: str) -> None:
    """The command line ran these chunks, so there is no task to clear, and the page says so."""
    page = open_page(f"{ROOT}/plans/{failed}")
    field = page.get_by_role("slider", name="Chunks in time")
    field.focus()
    field.press("Home")
    for _ in range(40):
        if "failed" in str(field.get_attribute("aria-valuetext")):
            field.press(" ")
            break
        field.press("ArrowDown")
    page.get_by_text("No task that you may clear in Airflow has executed these chunks.").wait_for()
    page.get_by_role("button", name="Select none").click()
    assert page.locator(".choice").inner_text() == ""


def test_the_map_is_walked_by_keyboard(open_page: Open, failed: str) -> None:
    """Arrow keys go through time, and each cell is said in words."""
    page = open_page(f"{ROOT}/plans/{failed}")
    page.get_by_text("each cell one chunk").wait_for()
    slider = page.get_by_role("slider", name="Chunks in time")
    slider.focus()
    page.keyboard.press("Home")
    words = slider.get_attribute("aria-valuetext") or ""
    assert words.startswith("1 Jan 2026, 00:00 \N{EN DASH} 06:00. done. 2,160 rows in ")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowDown")
    assert (slider.get_attribute("aria-valuetext") or "").startswith("4 Jan 2026, 06:00 \N{EN DASH} 12:00. failed")
    page.keyboard.press("Enter")
    page.get_by_role("region", name="4 Jan 2026, 06:00 \N{EN DASH} 12:00").wait_for()
    page.get_by_role("button", name="Close the chunk").click()
    page.keyboard.press("Home")
    for _ in range(7):
        page.keyboard.press("Shift+ArrowDown")
    page.keyboard.press("Enter")
    page.get_by_text("8 chunks, each cell one chunk").wait_for()
    page.keyboard.press("Escape")
    page.get_by_text("40 chunks, each cell one chunk").wait_for()


def test_a_run_is_watched_and_cancelled_by_somebody_who_may(stage: Stage, open_page: Open, site: AirflowSite) -> None:
    """Progress appears without a reload; the cancel reaches the worker, and the log has its author."""
    plan_id = stage.plan("clicks", SLOW)
    thread = stage.start(plan_id)
    page = open_page(f"{ROOT}/plans/{plan_id}")
    page.get_by_role("heading", name="Running now").wait_for()
    count = page.get_by_text("of 40 chunks done")
    first = count.inner_text()
    deadline = time.monotonic() + 30
    while count.inner_text() == first and time.monotonic() < deadline:
        page.wait_for_timeout(200)
    assert count.inner_text() != first, "nothing moved"

    looking = open_page(f"{ROOT}/plans/{plan_id}", user="vera")
    looking.get_by_text("You have read-only access.").wait_for()
    assert looking.get_by_role("button", name="Cancel").count() == 0

    page.get_by_role("button", name="Cancel …").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Reason").fill("the wrong month")
    began = time.monotonic()
    dialog.get_by_role("button", name="Cancel the backfill").click()
    thread.join(20)
    assert not thread.is_alive()
    assert time.monotonic() - began < 15
    page.get_by_text("ada (Airflow) cancelled the run: the wrong month").wait_for()
    assert stage.status(plan_id) == "cancelled"
    assert '"by":"ada (Airflow)"' in stage.log(plan_id)
    looking.get_by_text("cancelled", exact=True).first.wait_for()

    # No task of Airflow's has worked on it, so there is none that a button could let go on.
    page.get_by_text(f"clickhouse-backfill resume --plan-id {plan_id}").first.wait_for()
    assert page.get_by_role("button", name="Resume").count() == 0


def test_no_text_becomes_markup(stage: Stage, open_page: Open) -> None:
    """Names of tables, errors, SQL and reasons come from people and servers, and stay texts everywhere."""
    select = f"SELECT ts, id + throwIf(id > 60000, '{EVIL} in an error') AS id FROM stage.source /* {EVIL} */"
    plan_id = stage.plan(f"{EVIL}", select)
    stage.run(plan_id)
    somebody = replace(stage.session, user=f"{EVIL} as a user")
    cancel_plan(somebody, plan_id, reason=f"{EVIL} in a reason")
    waive_plan(somebody, plan_id, reason=f"{EVIL} in a waiver")
    for path in (f"{ROOT}/", f"{ROOT}/plans/{plan_id}"):
        page = open_page(path)
        page.get_by_text(EVIL).first.wait_for()
        if path != f"{ROOT}/":
            page.get_by_text(f"{EVIL} in a reason").wait_for()
            for text in ("in a waiver", "as a user"):
                page.get_by_text(f"{EVIL} {text}").first.wait_for()
            page.get_by_text("Rows from stage.source").click()
            page.get_by_role("button", name="8 Jan 2026, 00:00 \N{EN DASH} 06:00").click()
            page.get_by_text(f"{EVIL} in an error").last.wait_for()
            page.get_by_text(f"clickhouse-backfill resume --plan-id {plan_id}").first.wait_for()
        assert page.locator("img").count() == 0
        assert page.locator("script").count() == 2
        page.wait_for_timeout(300)


def test_a_folder_that_cannot_be_read_says_so(stage: Stage, open_page: Open, failed: str) -> None:
    """An empty list would say that all is well."""
    page = open_page(f"{ROOT}/")
    page.get_by_text("stage.orders").first.wait_for()
    plans, aside = stage.state / "plans", stage.state / "plans.aside"
    plans.rename(aside)
    plans.write_text("")
    try:
        page.reload()
        page.get_by_text("Cannot list").wait_for()
        assert page.get_by_role("table").count() == 0
    finally:
        plans.unlink()
        aside.rename(plans)
    page.get_by_text("stage.orders").first.wait_for()


def test_the_frame_is_dark_when_airflow_is(open_page: Open, failed: str) -> None:
    page = open_page("/", color_scheme="light")
    page.evaluate("localStorage.setItem('theme', 'dark')")
    page.goto(page.url.rstrip("/") + page_address("", failed))
    frame = page.frame_locator("iframe")
    frame.get_by_role("heading", name="stage.orders").wait_for()
    assert frame.locator("html").get_attribute("data-theme") == "dark"
    page.evaluate("document.documentElement.classList.replace('dark', 'light')")
    frame.locator("html[data-theme=light]").wait_for(state="attached")


# ---------------------------------------------------------------- for everybody


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The source of axe-core, from npm."""
    folder = tmp_path_factory.mktemp("axe")
    with tarfile.open(fetch_npm(AXE, folder)) as archive:
        archive.extract("package/axe.min.js", folder, filter="data")
    return (folder / "package" / "axe.min.js").read_text()


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_axe_finds_nothing(open_page: Open, axe: str, failed: str, theme: str) -> None:
    """Landmarks, names, roles and contrast, in the list, on a plan with an open chunk, and in a dialog."""
    for path in (f"{ROOT}/", f"{ROOT}/table?target=stage.orders", f"{ROOT}/plans/{failed}"):
        # The policy of the page forbids the checker's own script.
        page = open_page(path, color_scheme=theme, reduced_motion="reduce", bypass_csp=True)
        shown = {f"{ROOT}/": "check fails", f"{ROOT}/table?target=stage.orders": "All plans on one calendar"}
        page.get_by_text(shown.get(path, "each cell one chunk")).first.wait_for()
        if path not in shown:
            page.get_by_role("button", name="4 Jan 2026, 06:00 \N{EN DASH} 12:00").click()
            page.get_by_text("Attempt 1", exact=True).wait_for()
            assert violations(page, axe) == []
            page.get_by_role("button", name="Cancel …").click()
        assert violations(page, axe) == []


def violations(page: Page, axe: str) -> list[str]:
    """What axe-core objects to."""
    page.evaluate(axe)
    found = page.evaluate("() => axe.run()")
    return [
        f"{one['impact']} {one['id']}: {node['html'][:200]} {node['failureSummary'][:300]}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
