"""Fixtures of the clickhouse tier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.clickhouse.lab import Lab
from tests.clickhouse.ward import Clinic, Ward
from tests.conftest import Engine


@pytest.fixture
def lab(engine: Engine, tmp_path: Path) -> Lab:
    """A laboratory on each engine."""
    return Lab(engine, tmp_path / "state")


@pytest.fixture
def http_lab(request: pytest.FixtureRequest, tmp_path: Path) -> Lab:
    """A laboratory on the HTTP server, for features that the embedded engine lacks."""
    url, database, client = (request.getfixturevalue(name) for name in ("clickhouse_url", "database", "client"))
    return Lab(Engine("http", client, database, f"{url}/{database}"), tmp_path / "state")


@pytest.fixture
def ward(http_lab: Lab, capsys: pytest.CaptureFixture[str]) -> Ward:
    """A ward on the HTTP server with a source ``events`` and an empty target ``filled``."""
    ward = Ward(http_lab.engine, http_lab.folder, capsys)
    ward.events()
    ward.target()
    return ward


@pytest.fixture
def clinic(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Clinic]:
    """A server whose configuration and user ``own`` the test chooses; it ends with the test."""
    clinic = Clinic(tmp_path, capsys)
    yield clinic
    clinic.server.stop()
