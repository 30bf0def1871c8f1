"""Files of the format before the first release are refused by name; see tests/unit/data/README.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_provider_backfill.errors import StateFormatError
from airflow_provider_backfill.state.store import StateStore, open_store

DATA = Path(__file__).parent / "data"
RUN = "fc5a72e2a3970656"


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """A copy of the folder that format 1 left."""
    shutil.copytree(DATA / "format-1", tmp_path / "state")
    return open_store(str(tmp_path / "state"))


def test_a_plan_of_format_1_is_refused_by_name(store: StateStore) -> None:
    """An old plan must neither be read with new meanings nor be taken for repairable damage."""
    with pytest.raises(StateFormatError, match="before the first release: it has format 1") as caught:
        store.load_plan(RUN)
    assert "--state-dir" in caught.value.hint
