"""
The pictures of the documentation, taken from real runs: a real ClickHouse, a real Airflow, headless Chromium.

    python -m docs.screenshots [--huge-seconds 300]

Writes docs/images/*.png. Most of the time goes into the plan of 100,000 chunks, of which most are empty.
"""

import argparse
import io
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import clickhouse_connect
from rich._export_format import CONSOLE_SVG_FORMAT
from rich.terminal_theme import TerminalTheme

from airflow_provider_backfill.clickhouse.client import ClickHouse, connect, from_client
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.run import RunFlags, run_plan
from airflow_provider_backfill.commands.session import Session
from airflow_provider_backfill.core.chunking import Chunking
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.names import parse_table
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.run_state import ChunkStatus
from airflow_provider_backfill.errors import BackfillError
from airflow_provider_backfill.option_sources import parse_options
from airflow_provider_backfill.state.store import open_store
from tests.airflow.site import CHROMIUM, CHROMIUM_FLAGS, AirflowSite
from tests.server import ClickHouseServer

IMAGES = Path(__file__).parent / "images"
_COLOURS = TerminalTheme(
    (16, 21, 30),
    (222, 228, 238),
    # Black, red, green, yellow, blue, magenta, cyan, white; then the bright colours.
    [
        *((40, 48, 62), (240, 98, 92), (46, 168, 140), (230, 168, 60)),
        *((96, 156, 236), (190, 130, 230), (70, 190, 200), (222, 228, 238)),
    ],
    [
        *((128, 140, 160), (250, 112, 104), (64, 196, 166), (246, 190, 84)),
        *((124, 176, 246), (208, 154, 244), (96, 214, 224), (255, 255, 255)),
    ],
)
# Fetch no font, since every machine has a monospaced one.
_WITHOUT_FONTS = re.sub(r"@font-face \{\{.*?\}\}", "", CONSOLE_SVG_FORMAT, flags=re.DOTALL)
OPTIONS = {"defaults": {"retryDelayMs": 200}, "limits": {"maxWindowHours": 100_000}}

TABLES = """
CREATE DATABASE web; CREATE DATABASE shop; CREATE DATABASE iot; CREATE DATABASE ads;
CREATE TABLE web.page_views (ts DateTime, user UInt64, path LowCardinality(String), ms UInt32)
    ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts;
INSERT INTO web.page_views SELECT toDateTime('2026-03-01') + number % 2592000, cityHash64(number) % 90000,
    '/p/' || toString(number % 300), rand() % 2000 FROM numbers(6000000);
CREATE TABLE web.views_per_hour (hour DateTime, path LowCardinality(String), views AggregateFunction(count),
    users AggregateFunction(uniq, UInt64)) ENGINE = AggregatingMergeTree
    PARTITION BY toYYYYMM(hour) ORDER BY (hour, path);
CREATE MATERIALIZED VIEW web.views_per_hour_mv TO web.views_per_hour AS SELECT toStartOfHour(ts) AS hour, path,
    countState() AS views, uniqState(user) AS users FROM web.page_views GROUP BY hour, path;
CREATE TABLE shop.orders (ordered_at DateTime, id UInt64, amount Decimal(12, 2), note String)
    ENGINE = MergeTree PARTITION BY toYYYYMM(ordered_at) ORDER BY ordered_at;
INSERT INTO shop.orders SELECT toDateTime('2026-01-01') + number * 3, number, number % 9000 / 100,
    'order ' || toString(number) FROM numbers(2592000);
CREATE TABLE shop.orders_eur (ordered_at DateTime, id UInt64, amount Decimal(12, 2))
    ENGINE = MergeTree PARTITION BY toYYYYMM(ordered_at) ORDER BY (ordered_at, id);
CREATE TABLE shop.orders_eur_2 AS shop.orders_eur;
CREATE TABLE iot.readings (ts DateTime, device UInt32, weight UInt32)
    ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts;
INSERT INTO iot.readings SELECT toDateTime('2026-05-01') + number * 30, number % 500,
    if(number BETWEEN 11520 AND 15839 OR number BETWEEN 34560 AND 36000, 40000, 10) FROM numbers(40320);
CREATE TABLE iot.spectra (ts DateTime, device UInt32, energy UInt64)
    ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts;
CREATE TABLE ads.clicks (at DateTime64(3), campaign UInt32, cost Float64)
    ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY at;
INSERT INTO ads.clicks SELECT toDateTime64('2026-02-01', 3) + number / 20, number % 700, (number % 100) / 100
    FROM numbers(24192000);
CREATE TABLE ads.clicks_v2 (at DateTime64(3), campaign UInt32, cost Float64)
    ENGINE = MergeTree PARTITION BY toYYYYMM(at) ORDER BY (campaign, at);
CREATE TABLE iot.samples (ts DateTime, device UInt32, value Float32)
    ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts;
INSERT INTO iot.samples SELECT toDateTime('2023-01-01 08:00:00') + intDiv(number, 1800) * 86400 + number % 1800,
    number % 50, number % 1000 / 10 FROM numbers(1800 * 1040);
CREATE TABLE iot.samples_by_device (ts DateTime, device UInt32, value Float32)
    ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (device, ts);
"""

RATES = (
    "SELECT ordered_at, id, throwIf(amount = 0 AND toDate(ordered_at) IN ('2026-02-03', '2026-03-14'), "
    "'no exchange rate for this day') + amount * 0.92 AS amount FROM shop.orders"
)


class Studio:
    """One ClickHouse and one state folder, with the plans of the pictures, by name."""

    def __init__(self, folder: Path, clickhouse: ClickHouseServer) -> None:
        self.state = folder / "state"
        self.url = clickhouse.url
        self.plans: dict[str, str] = {}
        self._client = clickhouse_connect.get_client(dsn=self.url, autogenerate_session_id=False)
        self._running: list[threading.Thread] = []
        self._stops: list[Callable[[str], None]] = []
        for statement in TABLES.split(";"):
            if statement.strip():
                self._client.command(statement)

    def session(self, user: str = "ada@workstation", memory: int = 0) -> Session:
        """Return a session like the command line's, optionally with a limit of *memory* bytes per query."""

        def server() -> ClickHouse:
            if not memory:
                return connect(self.url, connections=12)
            settings = {"max_memory_usage": memory}
            return from_client(
                lambda: clickhouse_connect.get_client(dsn=self.url, autogenerate_session_id=False, settings=settings),
                "the connection",
            )

        return Session(open_store(str(self.state)), parse_options(OPTIONS), server, user)

    def plan(self, name: str, target: str, start: str, end: str, hours: float, **wanted: Any) -> str:
        """Plan a backfill and remember it as *name*."""
        for key in ("source", "filter_table"):
            if wanted.get(key):
                wanted[key] = parse_table(wanted[key], key)
        window = (parse_instant(start), parse_instant(end))
        request = PlanRequest(parse_table(target, "target"), *window, Chunking(hours=hours), **wanted)
        self.plans[name] = create_plan(self.session(), request)["planId"]
        return self.plans[name]

    def run(self, name: str, parallel: int = 2, memory: int = 0, resume: bool = False, **flags: bool) -> None:
        """Run a plan to its end."""
        try:
            run_plan(
                self.session(memory=memory),
                self.plans[name],
                flags=RunFlags(**flags),
                parallel=parallel,
                resume=resume,
                on_start=lambda worker, *_: self._stops.append(worker.stop),
            )
        except BackfillError as error:
            sys.stderr.write(f"{name}: {error}\n")

    def start(self, name: str, parallel: int = 2) -> threading.Thread:
        """Run a plan in the background."""
        thread = threading.Thread(target=self.run, args=(name, parallel), daemon=True)
        thread.start()
        self._running.append(thread)
        return thread

    def wait(self, name: str, done: int, running: threading.Thread) -> None:
        """Wait until *done* chunks of a plan are done, or its run has ended."""
        store = self.session().store
        log = store.open_run(store.load_plan(self.plans[name]))
        while log.refresh().count(ChunkStatus.DONE) < done and running.is_alive():
            time.sleep(0.05)

    def stop(self) -> None:
        """Stop the running plans, and wait for their end."""
        for stop in self._stops:
            stop("the pictures are taken")
        for thread in self._running:
            thread.join(60)


def set_up(studio: Studio) -> None:
    """Create the short plans: done, failed, split, cancelled, planned."""
    studio.plan("done", "web.views_per_hour", "2026-03-01", "2026-03-31", 6)
    studio.run("done")
    studio.plan(
        "failed",
        "shop.orders_eur",
        "2026-01-01",
        "2026-03-30",
        12,
        select=RATES,
    )
    studio.run("failed")
    studio.plan(
        "again",
        "shop.orders_eur_2",
        "2026-01-01",
        "2026-03-30",
        12,
        select=RATES,
    )
    studio.plan(
        "split",
        "iot.spectra",
        "2026-05-01",
        "2026-05-15",
        8,
        select="SELECT ts, device, arraySum(range(weight)) AS energy FROM iot.readings",
    )
    studio.run("split", memory=120_000_000, parallel=1)
    studio.plan("waiting", "ads.clicks_v2", "2026-02-01", "2026-02-03", 6, source="ads.clicks")
    studio.plan("live", "ads.clicks_v2", "2026-02-03", "2026-02-15", 2, source="ads.clicks")
    studio.plan("huge", "iot.samples_by_device", "2023-01-01", "2025-11-07T16:00:00Z", 0.25, source="iot.samples")


def main() -> int:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--huge-seconds", type=float, default=300, help="how long the plan of 100,000 chunks runs")
    parser.add_argument("--keep", type=Path, help="work in this folder and leave everything running")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = options.keep or Path(name)
        with ClickHouseServer(folder / "clickhouse") as clickhouse:
            studio = Studio(folder, clickhouse)
            set_up(studio)
            studio.start("huge", parallel=4)
            with AirflowSite(folder / "airflow", studio.state) as site:
                sys.stderr.write(f"{site.url} {studio.plans}\n")
                time.sleep(options.huge_seconds)
                studio.wait("live", 70, studio.start("live", parallel=2))
                take_pictures(site, studio)
                take_terminal(studio, "again", 80)
                if options.keep:
                    time.sleep(86_400)
            studio.stop()
    return 0


# Picture: theme, plan (empty for the list), height of the window.
SHOTS: dict[str, tuple[Literal["light", "dark"], str, int]] = {
    "plan": ("light", "live", 1000),
    "list": ("light", "", 720),
    "failed": ("light", "failed", 840),
    "huge": ("light", "huge", 720),
    "dark": ("dark", "split", 720),
}


def take_pictures(site: AirflowSite, studio: Studio) -> None:
    """Open each page as an administrator, and save a picture."""
    from playwright.sync_api import Page, sync_playwright

    IMAGES.mkdir(exist_ok=True)
    frame = "/plugin/clickhouse-backfills/clickhouse-backfills/"

    def take(page: Page, name: str, plan: str) -> None:
        page.goto(site.url + frame + (f"plans/{studio.plans[plan]}" if plan else ""))
        page.frame_locator("iframe").get_by_text("each cell" if plan else "check").first.wait_for(timeout=60_000)
        page.wait_for_timeout(2500)
        page.screenshot(path=IMAGES / f"{name}.png")

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        for name, (theme, plan, height) in SHOTS.items():
            context = browser.new_context(viewport={"width": 1440, "height": height}, color_scheme=theme)
            context.add_cookies([{"name": "_token", "value": site.token("ada"), "url": site.url}])
            context.add_init_script(f"localStorage.setItem('theme', '{theme}')")
            take(context.new_page(), name, plan)
            context.close()
        browser.close()


def take_terminal(studio: Studio, plan: str, done: int) -> None:
    """Save the picture of ``run`` with *done* done chunks."""
    from playwright.sync_api import sync_playwright
    from rich.console import Console

    from airflow_provider_backfill.cli.live import RunView

    store = studio.session().store
    made = store.load_plan(studio.plans[plan])
    log = store.open_run(made)
    console = Console(record=True, width=104, height=26, force_terminal=True, file=io.StringIO())
    picture = RunView(made, log.run)
    studio.wait(plan, done, studio.start(plan, parallel=3))
    log.refresh()
    console.print(
        f"[bold]$[/] clickhouse-backfill run --plan-id {made.plan_id} --max-parallel-chunks 3\n", highlight=False
    )
    console.print(picture.draw(log.run, console.width, console.height))
    drawing = console.export_svg(title="clickhouse-backfill", code_format=_WITHOUT_FONTS, theme=_COLOURS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_FLAGS)
        page = browser.new_page(device_scale_factor=1)
        page.set_content(f"<style>body {{ margin: 0 }} svg {{ width: 1180px; display: block }}</style>{drawing}")
        page.locator("svg").screenshot(path=IMAGES / "terminal.png", omit_background=True)
        browser.close()


if __name__ == "__main__":
    sys.exit(main())
