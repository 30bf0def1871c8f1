"""The documentation does what it says: each page's blocks are run in order, in a fresh folder, on a ClickHouse."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import clickhouse_connect
import pytest
from clickhouse_connect.driver.exceptions import ClickHouseError

from tests.airflow.conftest import Flow, connection
from tests.airflow.test_example_dags import load
from tests.pages import PAGES, ROOT, Block, Reader, blocks, build_site
from tests.s3 import S3Server
from tests.server import ClickHouseServer
from tests.system.airflow.stack import Postgres

# The tutorial is followed by tests/system/test_wheel.py, where only the built wheel is installed, and the page about
# shards by tests/cluster/test_how_to.py.
ELSEWHERE = ("docs/tutorial/", "docs/how-to/sharded-cluster.md")
NAMES = [name for page in PAGES if not (name := str(page.relative_to(ROOT))).startswith(ELSEWHERE)]
RUN = {"bash", "sql", "python"}
# Blocks that cannot be run here; the page says why beside each.
MOST_NOT_RUN = 19


@pytest.fixture(scope="module")
def airflow_home() -> None:
    """The metadata database of the tests' Airflow home."""
    from airflow.utils.db import initdb

    initdb()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    """One server for all pages; each has its tables anew."""
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def reader(
    request: pytest.FixtureRequest, server: ClickHouseServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Reader:
    """Somebody with the tables of docs/example.sql and nothing else."""
    client = clickhouse_connect.get_client(dsn=server.url, autogenerate_session_id=False)
    names = client.query("SHOW DATABASES").result_columns[0]
    for name in set(names) - {"system", "default", "information_schema", "INFORMATION_SCHEMA"}:
        client.command(f"DROP DATABASE `{name}` SYNC")
    state = tmp_path / ".clickhouse-backfill"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIRFLOW_CONN_CLICKHOUSE_DEFAULT", connection(server.url))
    monkeypatch.setenv("AIRFLOW__CLICKHOUSE_BACKFILL__STATE_DIR", str(state))

    def run_dag(path: Path) -> str:
        request.getfixturevalue("airflow_home")
        return Flow(load(path)).start()

    reader = Reader(tmp_path, client, {"CLICKHOUSE_URL": server.url}, run_dag)
    example = (ROOT / "docs" / "example.sql").read_text(encoding="utf-8")
    reader.do(Block(0, "sql", "", example))
    return reader


@pytest.fixture
def elsewhere(reader: Reader, server: ClickHouseServer) -> Iterator[None]:
    """What the named collections of the page on other servers lead to, with rows."""
    with S3Server() as s3:
        postgres = Postgres().start()
        crm = f"host = '127.0.0.1', port = {postgres.port}, user = 'airflow', password = 'x', database = 'postgres'"
        collections = {
            "old_cluster": f"addresses_expr = '127.0.0.1:{server.tcp_port}', user = 'default'",
            "lake": f"url = '{s3.url}/{s3.new_bucket()}/', access_key_id = 'test', secret_access_key = 'test'",
            "crm": crm,
        }
        for name, values in collections.items():
            reader.do(Block(0, "sql", "", f"CREATE NAMED COLLECTION {name} AS {values}"))
        for day in ("2025-02-01", "2025-02-02", "2025-02-03"):
            file = f"s3(lake, filename = 'orders/{day}/0.parquet', format = 'Parquet')"
            orders = f"SELECT * FROM shop.orders WHERE toDate(ordered_at) = '{day}'"
            reader.do(Block(0, "sql", "", f"INSERT INTO FUNCTION {file} {orders}"))
        postgres.query(
            "CREATE TABLE customers AS SELECT timestamptz '2025-01-31 00:00Z' + n * interval '1 hour' AS changed_at,"
            " n::bigint AS id, 'c' || n AS name FROM generate_series(0, 143) AS n"
        )
        yield
        for name in collections:
            reader.do(Block(0, "sql", "", f"DROP NAMED COLLECTION {name}"))
        postgres.stop()


@pytest.mark.parametrize("name", NAMES)
def test_a_page_does_what_it_says(name: str, reader: Reader, request: pytest.FixtureRequest) -> None:
    if "NAMED COLLECTION" in (ROOT / name).read_text(encoding="utf-8"):
        request.getfixturevalue("elsewhere")
    for block in blocks(ROOT / name):
        try:
            reader.do(block)
        except (AssertionError, OSError, subprocess.SubprocessError, ClickHouseError) as error:
            pytest.fail(f"{name}, line {block.line}: {error}", pytrace=False)


def test_what_is_not_run_is_little_and_says_why() -> None:
    found = [(name, block.line) for name in NAMES for block in blocks(ROOT / name) if block.not_run]
    assert len(found) <= MOST_NOT_RUN, found


def test_every_block_names_a_language_that_is_looked_at() -> None:
    """A block of another language would go unseen."""
    known = {*RUN, "text", "toml", "yaml", "json", "ini"}
    assert {block.language for name in NAMES for block in blocks(ROOT / name)} <= known


def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    build_site(tmp_path)
    assert (tmp_path / "site" / "index.html").exists()


def test_every_page_is_in_the_navigation() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    listed = re.findall(r"[\w/-]+\.md", navigation)
    assert sorted(listed) == sorted(str(page.relative_to(ROOT / "docs")) for page in (ROOT / "docs").rglob("*.md"))


def test_spelling() -> None:
    done = subprocess.run(
        [
            "codespell",
            "README.md",
            "CHANGELOG.md",
            "CONTRIBUTING.md",
            "changelog.d",
            "docs",
            "airflow_provider_backfill",
            "dags",
        ],
        cwd=ROOT,
        env={"PATH": str(Path(sys.executable).parent)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
