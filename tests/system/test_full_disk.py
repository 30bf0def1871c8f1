"""A file system that is really full, at every page of a run, and one whose folder may not be written."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from airflow_provider_backfill.core.run_state import ChunkStatus, RunStatus
from airflow_provider_backfill.errors import StateError
from airflow_provider_backfill.state.posix import FileBackend
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import StateStore
from tests.state import chunks_of, done, make_plan, started, verified

PLAN = make_plan(40)
PAGE = os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 60 pages, in memory."""
    folder = tmp_path / "disk"
    folder.mkdir()
    done_ = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={60 * PAGE}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if done_.returncode:
        pytest.skip(f"this user may not mount a file system: {done_.stderr.decode().strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def _run(store: StateStore) -> RunLog:
    """Plan and run from wherever it stands, writing the run file as often as can be."""
    store.save_plan(PLAN)
    log = store.open_run(PLAN)
    for chunk in chunks_of(PLAN):
        state = log.run.state(chunk.id)
        attempt = state.attempt + (state.status is ChunkStatus.PENDING)
        if state.status is ChunkStatus.PENDING:
            log.append(started(PLAN, chunk, attempt))
        if state.status is not ChunkStatus.DONE:
            if attempt not in state.verified:
                log.append(verified(chunk, attempt))
            log.append(done(chunk, attempt))
            log.write_checkpoint()
    return log


def test_a_full_disk_at_any_page_is_survived(small_disk: Path) -> None:
    """Once there is space again, the run goes on and ends, with nothing lost and nothing repeated."""
    ballast = small_disk / "ballast"
    failures = 0
    for pages in itertools.count(1):
        place = small_disk / f"state-{pages}"
        store = StateStore(FileBackend(place))
        ballast.write_bytes(b"")
        free = os.statvfs(small_disk).f_bavail
        ballast.write_bytes(b"x" * max(free - pages, 0) * PAGE)
        try:
            _run(store)
        except StateError as error:
            assert "No space left on device" in error.message  # noqa: PT017 - some rounds pass
            failures += 1
        else:
            break
        finally:
            ballast.unlink()
        log = _run(store)
        assert log.run.status is RunStatus.COMPLETED
        assert store.open_run(PLAN).run == log.run
        lines = Path(store.event_path(PLAN.plan_id)).read_bytes().splitlines()
        assert len({json.dumps(json.loads(line), sort_keys=True) for line in lines}) == len(lines) == 1 + 3 * 40
        assert not list(place.rglob("*.tmp"))
        subprocess.run(["rm", "-r", str(place)], check=True)
    assert failures >= 8
