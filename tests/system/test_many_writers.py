"""
Many processes on one run, killed at random: what each was told is in the log, and nothing is there twice.

Short by default; the long form is ``BACKFILL_WRITERS=16 BACKFILL_CHUNKS=5000 BACKFILL_KILL_SECONDS=2``: how often one
is killed, on average, because each start costs a second of the processor.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from airflow_provider_backfill.core.run_state import ChunkStatus, RunStatus
from airflow_provider_backfill.state.store import StateStore, open_store
from tests.s3 import S3Server
from tests.state import chunks_of, make_plan
from tests.system.committer import CHUNK_HOURS

WRITERS = int(os.environ.get("BACKFILL_WRITERS", "4"))
# Short, or an idle machine is done before anybody was killed.
KILL_SECONDS = float(os.environ.get("BACKFILL_KILL_SECONDS", "0.25"))
ROOT = Path(__file__).parents[2]


class Place:
    """Where the state is, for this process and for those it starts."""

    def __init__(self, url: str, config: dict[str, str], chunks: int) -> None:
        self.url, self.config = url, config
        self.plan = make_plan(chunks, hours=CHUNK_HOURS)
        self.store: StateStore = open_store(url, config=config)
        self.store.save_plan(self.plan)

    def start(self, notes: Path, *more: str, lease: float = 60) -> subprocess.Popen[bytes]:
        """Start a committer."""
        arguments = [self.url, json.dumps(self.config), str(self.plan.chunk_count), str(notes), str(lease), *more]
        return subprocess.Popen([sys.executable, "-m", "tests.system.committer", *arguments], cwd=ROOT)


@pytest.fixture(params=["files", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place on a folder and on an S3 server; the server is slow, so it gets fewer chunks by default."""
    if request.param == "files":
        return Place(str(tmp_path / "state"), {}, int(os.environ.get("BACKFILL_CHUNKS", "300")))
    server: S3Server = request.getfixturevalue("s3_server")
    chunks = int(os.environ.get("BACKFILL_CHUNKS", "60"))
    return Place(f"s3://{server.new_bucket()}/state", server.config, chunks)


def _notes(folder: Path) -> list[list[Any]]:
    return [json.loads(line) for path in folder.glob("notes-*") for line in path.read_text().splitlines()]


def _events(place: Place) -> list[dict[str, Any]]:
    data = place.store.backend.read(f"events/{place.plan.plan_id}.ndjson") or b""
    return [json.loads(line) for line in data.splitlines()]


def test_what_each_process_was_told_is_there_after_any_kill(place: Place, tmp_path: Path) -> None:
    """Processes die at any instruction: in the middle of a write, with the lock, before the answer."""
    dice = random.Random(os.environ.get("BACKFILL_SEED", "1"))  # noqa: S311 - a schedule, not a secret
    running: list[subprocess.Popen[bytes]] = []
    count = kills = 0
    deadline = time.monotonic() + 60 + place.plan.chunk_count
    while True:
        running = [process for process in running if process.poll() is None]
        run = place.store.open_run(place.plan).run
        if run.status is RunStatus.COMPLETED:
            break
        assert time.monotonic() < deadline, f"{run.count(ChunkStatus.DONE)} of {run.total} done"
        while len(running) < WRITERS:
            running.append(place.start(tmp_path / f"notes-{count}"))
            count += 1
        time.sleep(KILL_SECONDS * dice.uniform(0.4, 1.6))
        victim = dice.choice(running)
        if victim.poll() is None:
            victim.kill()
            victim.wait()
            kills += 1
    for process in running:
        assert process.wait(60) == 0
    assert kills >= 2

    log = place.store.open_run(place.plan)
    log.checkpoint()
    events = _events(place)
    written = Counter((e["type"], e["chunkId"], e["attempt"], e["by"]) for e in events if "chunkId" in e)
    assert set(written.values()) == {1}
    for kind, chunk, attempt, name in _notes(tmp_path):
        if kind != "refused":
            assert written[kind, chunk, attempt, name] == 1
    claims = Counter((e["chunkId"], e["attempt"]) for e in events if e["type"] == "ChunkStarted")
    assert set(claims.values()) == {1}
    finished = Counter(e["chunkId"] for e in events if e["type"] == "ChunkDone")
    assert finished == {chunk.id: 1 for chunk in chunks_of(place.plan)}
    assert log.run.rows == 10 * place.plan.chunk_count
    print(f"{place.plan.chunk_count} chunks, {len(events)} events, {count} processes, {kills} killed")


def test_a_worker_frozen_past_its_lease_changes_nothing(place: Place, tmp_path: Path) -> None:
    """It goes on as if nothing had happened; every word of it is refused, and it is told so."""
    frozen = place.start(tmp_path / "notes-frozen", "pause", lease=1)
    assert os.waitpid(frozen.pid, os.WUNTRACED)[0] == frozen.pid
    time.sleep(1.2)
    other = place.start(tmp_path / "notes-other", lease=60)
    assert other.wait(120) == 0
    log = place.store.open_run(place.plan)
    assert log.run.status is RunStatus.COMPLETED
    lines = log.lines

    os.kill(frozen.pid, signal.SIGCONT)
    assert frozen.wait(60) == 0
    told = [json.loads(line) for line in (tmp_path / "notes-frozen").read_text().splitlines()]
    assert [kind for kind, *_ in told] == ["ChunkStarted", "refused"]
    after = place.store.open_run(place.plan)
    assert (after.lines, after.run) == (lines, log.run)
    chunk = told[0][1]
    assert after.run.done[chunk][0] == 2
