"""
A worker without a ClickHouse: claims, verifies and finishes chunks for real, and notes what it was told.

``python -m tests.system.committer PLACE CONFIG CHUNKS NOTES LEASE [pause]``; with ``pause`` it stops itself
(SIGSTOP) once it has claimed a chunk.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from airflow_provider_backfill.core.events import Event
from airflow_provider_backfill.core.plan import Chunk
from airflow_provider_backfill.core.run_state import ChunkStatus, Run
from airflow_provider_backfill.errors import TransitionError
from airflow_provider_backfill.state.run_log import RunLog
from airflow_provider_backfill.state.store import open_store
from tests.state import chunks_of, done, make_plan, started, verified

CHUNK_HOURS = 0.25


def _is_dead(run: Run, owner: str) -> bool:
    """By its process on this host, or by its lease."""
    worker = run.workers.get(owner)
    if worker is None or datetime.now(UTC) > worker.seen_at + timedelta(seconds=worker.lease_seconds):
        return True
    try:
        os.kill(int(owner.split(":")[1]), 0)
    except ProcessLookupError:
        return True
    return False


class Committer:
    """One process at work on one run."""

    def __init__(self, log: RunLog, notes: Path, lease: float) -> None:
        self.name = f"host:{os.getpid()}:{time.time_ns()}:x"
        self.log = log
        self.lease = lease
        self.notes = notes.open("a")

    def told(self, event: Event) -> None:
        """Note what was acknowledged; it must be in the log for ever."""
        self.notes.write(json.dumps([event.type, event.chunk_id, event.attempt, event.by]) + "\n")  # type: ignore[union-attr]
        self.notes.flush()

    def claim(self, chunk: Chunk) -> int:
        """Claim a chunk, or take it over from the dead; the attempt, or 0."""

        def decide(run: Run) -> Event | None:
            state = run.state(chunk.id)
            takes_over = state.status is ChunkStatus.RUNNING and _is_dead(run, state.owner)
            if state.status is not ChunkStatus.PENDING and not takes_over:
                return None
            attempt = state.attempt + 1
            at = datetime.now(UTC)
            return started(
                self.log.plan, chunk, attempt, self.name, at=at, lease_seconds=self.lease, takes_over=takes_over
            )

        event = self.log.commit(decide)
        if event is None:
            return 0
        self.told(event)
        return self.log.run.state(chunk.id).attempt

    def finish(self, chunk: Chunk, attempt: int) -> None:
        """Verify and finish the claimed chunk, unless somebody else has it by now."""
        for event in (verified(chunk, attempt, self.name), done(chunk, attempt, self.name)):
            try:
                self.log.append(event)
            except TransitionError:
                self.notes.write(json.dumps(["refused", chunk.id, attempt, self.name]) + "\n")
                self.notes.flush()
                return
            self.told(event)


def main(place: str, config: str, chunks: str, notes: str, lease: str, pause: str = "") -> None:
    """Work until every chunk is done."""
    plan = make_plan(int(chunks), hours=CHUNK_HOURS)
    worker = Committer(open_store(place, config=json.loads(config)).open_run(plan), Path(notes), float(lease))
    order = list(chunks_of(plan))
    random.shuffle(order)
    while worker.log.refresh().count(ChunkStatus.DONE) < plan.chunk_count:
        for chunk in order:
            if chunk.id in worker.log.run.done:
                continue
            if attempt := worker.claim(chunk):
                if pause:
                    os.kill(os.getpid(), signal.SIGSTOP)
                worker.finish(chunk, attempt)
                if pause:
                    return
        time.sleep(0.02)


if __name__ == "__main__":
    main(*sys.argv[1:])
