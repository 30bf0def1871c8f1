"""What several tests without a server share: a command line, and its state folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from airflow_provider_backfill.state.store import StateStore, open_store
from tests.command_line import Cli


@pytest.fixture
def cli(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    """A command line without a ClickHouse."""
    return Cli(tmp_path / "state", "", capsys)


@pytest.fixture
def store(cli: Cli) -> StateStore:
    """Its state folder."""
    return open_store(str(cli.state))
