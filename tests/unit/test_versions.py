"""State files of every released format load for ever; see tests/unit/data/README.md."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from airflow_provider_backfill.core.model import ChunkStatus, RunStatus, WriteMode
from airflow_provider_backfill.state.store import StateStore, open_store
from tests.state import chunks_of

DATA = Path(__file__).parent / "data"
RUN, RESTORED = "fc5a72e2a3970656", "ac59499bb94c3150"


@pytest.fixture
def store(tmp_path: Path) -> StateStore:
    """A copy of the folder that format 1 left."""
    shutil.copytree(DATA / "format-1", tmp_path / "state")
    return open_store(str(tmp_path / "state"))


@pytest.mark.parametrize("run_file", [True, False])
def test_format_1_loads(store: StateStore, run_file: bool) -> None:
    """Every kind of event is in that log; with the run file, a line behind the log, or from the log alone."""
    if not run_file:
        Path(store.run_path(RUN)).unlink()
    plan = store.load_plan(RUN)
    assert (plan.target, plan.write_mode, plan.chunk_count) == ("shop.orders", WriteMode.STAGE, 6)
    assert plan.statements[0].source == "shop.events"
    log = store.open_run(plan)
    first, second, third, fourth, fifth, sixth = (chunk.id for chunk in chunks_of(plan))
    run = log.run
    assert (log.lines, run.status, run.total, run.attempts) == (27, RunStatus.RUNNING, 7, 8)
    assert run.done == {first: (2, 1200, 2**64 - 1, 1.5)}
    assert (run.state(second).status, run.state(second).attempt, run.state(second).clear) == ("pending", 2, True)
    assert (run.state(third).error, run.state(third).tries) == ("out of memory", 0)
    assert run.state(fourth).attempt == 1
    assert len(run.splits[fifth]) == 2
    assert run.state(sixth).status is ChunkStatus.PENDING
    assert (run.waiver, run.workers, run.last_error) == (None, {}, "out of memory")


def test_a_restored_run_of_format_1_loads(store: StateStore) -> None:
    """A repaired log begins with the run as it was made out."""
    plan = store.load_plan(RESTORED)
    run = store.open_run(plan).run
    assert (run.status, run.rows, run.count(ChunkStatus.DONE)) == (RunStatus.RUNNING, 10, 1)
