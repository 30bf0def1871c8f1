"""
Fixtures of all tiers: a real ClickHouse over HTTP, the embedded one, fresh databases.

The folder of a test is its tier and becomes its marker. Nothing here touches the
user's own Airflow, ClickHouse or settings, unless ``CLICKHOUSE_URL`` names a server to use.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

import clickhouse_connect
import hypothesis
import pytest
from clickhouse_connect.driver.client import Client

from tests.server import ClickHouseServer

# A busy machine may hold up any example for longer than a deadline.
hypothesis.settings.register_profile("any-machine", deadline=None)
hypothesis.settings.load_profile("any-machine")

TIERS = ("unit", "clickhouse", "cluster", "airflow", "system")

# Read before the tests' environment is cleaned of it.
_EXTERNAL_URL = os.environ.get("CLICKHOUSE_URL", "")
_OWN_PREFIXES = ("CLICKHOUSE_", "AIRFLOW__CLICKHOUSE_BACKFILL__")

# Airflow reads its home when it is first imported, so it is set before any test module is.
_HOME = Path(tempfile.mkdtemp(prefix="backfill-airflow-"))
os.environ["AIRFLOW_HOME"] = str(_HOME)
os.environ["AIRFLOW__CORE__LOAD_EXAMPLES"] = "False"


@dataclass(frozen=True)
class Engine:
    """
    A ClickHouse of one kind with a fresh database for one test.

    Attributes:
        kind: ``http`` for a server, ``embedded`` for chdb inside this process.
        client: A clickhouse-connect client whose current database is *database*.
        database: Name of the empty database, dropped after the test.
        url: The ``--clickhouse-url`` of the same engine: ``http://user@host:port/database`` or ``chdb:///path``. The
            latter can be opened in this process only.
    """

    kind: Literal["http", "embedded"]
    client: Client
    database: str
    url: str


# The embedded engine is the server's own code, so every run of the tests asks it where the ways part: how we call it,
# the write modes, types, and the Python client. The long form asks all of it.
_EMBEDDED_TOO = ("test_modes", "test_answers", "test_client", "test_conversions", "test_attacks")


# Before pytest looks at -m.
@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark each test with its tier, the folder below tests/, and as long what both engines need not show each time."""
    here = Path(__file__).parent
    for item in items:
        tier = item.path.relative_to(here).parts[0]
        if tier in TIERS:
            item.add_marker(tier)
        given = getattr(item, "callspec", None)
        if given is not None and given.params.get("engine") == "embedded" and item.path.stem not in _EMBEDDED_TOO:
            item.add_marker("long")


def pytest_unconfigure() -> None:
    """Remove the tests' Airflow home."""
    shutil.rmtree(_HOME, ignore_errors=True)


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hide the user's own settings, so that a test sees the defaults wherever it runs."""
    for name in list(os.environ):
        if name.startswith(_OWN_PREFIXES):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def _session_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClickHouseServer]:
    with ClickHouseServer(tmp_path_factory.mktemp("clickhouse")) as server:
        yield server


@pytest.fixture
def clickhouse_server(_session_server: ClickHouseServer) -> ClickHouseServer:
    """
    The running server that all tests share, as an object, to be paused or restarted.

    It is always one that the tests started, also when ``CLICKHOUSE_URL`` is set. A test that
    left it dead or paused does not harm the next one: it is revived here. To kill it, or to
    count lines of its log tables, prefer ``own_server``.
    """
    if _session_server.running:
        _session_server.resume()
    return _session_server.start()


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[ClickHouseServer]:
    """A running server of this test alone (0.3 s to start), with empty logs, free to be killed."""
    with ClickHouseServer(tmp_path / "clickhouse") as server:
        yield server


@pytest.fixture
def clickhouse_url(request: pytest.FixtureRequest) -> str:
    """Address of a ClickHouse over HTTP, without a database: ``CLICKHOUSE_URL`` if set, else the shared server."""
    if _EXTERNAL_URL:
        return urlunsplit(urlsplit(_EXTERNAL_URL)._replace(path="", query="", fragment=""))
    server: ClickHouseServer = request.getfixturevalue("clickhouse_server")
    return server.url


@pytest.fixture
def database(clickhouse_url: str) -> Iterator[str]:
    """Name of a fresh, empty database on ``clickhouse_url``, dropped after the test."""
    with _fresh_database(_connect(clickhouse_url)) as name:
        yield name


@pytest.fixture
def client(clickhouse_url: str, database: str) -> Iterator[Client]:
    """A client over HTTP whose current database is ``database``; it has no session, so threads may share it."""
    client = _connect(f"{clickhouse_url}/{database}")
    yield client
    client.close()


@pytest.fixture(scope="session")
def embedded_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of the embedded ClickHouse; chdb allows one for the whole process."""
    return str(tmp_path_factory.mktemp("chdb"))


@pytest.fixture(scope="session")
def _embedded_root(embedded_path: str) -> Iterator[Client]:
    # Held open for the whole session: chdb shuts its engine down with the last client.
    root = clickhouse_connect.get_client(interface="chdb", path=embedded_path)
    yield root
    root.close()


@pytest.fixture
def embedded(_embedded_root: Client, embedded_path: str) -> Iterator[Engine]:
    """The embedded ClickHouse with a fresh database."""
    with _fresh_database(_embedded_root) as name:
        client = clickhouse_connect.get_client(interface="chdb", path=embedded_path, database=name)
        yield Engine("embedded", client, name, f"chdb://{embedded_path}")
        client.close()


@pytest.fixture(params=["http", "embedded"])
def engine(request: pytest.FixtureRequest) -> Engine:
    """A ClickHouse with a fresh database; the test runs once over HTTP and once embedded."""
    if request.param == "embedded":
        embedded: Engine = request.getfixturevalue("embedded")
        return embedded
    url, database = request.getfixturevalue("clickhouse_url"), request.getfixturevalue("database")
    return Engine("http", request.getfixturevalue("client"), database, f"{url}/{database}")


def _connect(url: str) -> Client:
    return clickhouse_connect.get_client(dsn=url, autogenerate_session_id=False)


@contextlib.contextmanager
def _fresh_database(client: Client) -> Iterator[str]:
    name = f"test_{uuid.uuid4().hex[:12]}"
    client.command(f"CREATE DATABASE {name}")
    try:
        yield name
    finally:
        client.command(f"DROP DATABASE IF EXISTS {name} SYNC")
