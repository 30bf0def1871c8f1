"""Plans, events and stores for tests of the state: small, valid, and the same wherever they are used."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from airflow_provider_backfill.core.events import (
    ChunkDone,
    ChunkFailed,
    ChunkPart,
    ChunkReleased,
    ChunkSplit,
    ChunkStarted,
    ChunkVerified,
    RunStarted,
)
from airflow_provider_backfill.core.ids import chunk_id, plan_id
from airflow_provider_backfill.core.names import parse_table
from airflow_provider_backfill.core.plan import Chunk, ModeReason, Plan, WriteMode
from airflow_provider_backfill.core.run_state import ContentSums, Run
from airflow_provider_backfill.core.sql import query_id
from airflow_provider_backfill.state.store import StateStore

START = datetime(2025, 1, 1, tzinfo=UTC)


def make_plan(chunks: int = 4, *, planned_at: datetime = START, hours: float = 6, **changes: Any) -> Plan:
    """A plan of *chunks* chunks from 2025-01-01 on."""
    target = changes.pop("target", "shop.orders")
    end = START + chunks * timedelta(hours=hours)
    return Plan(
        plan_id=plan_id(target, START, end, hours, "ts"),
        target=parse_table(target, "target"),
        start=START,
        end=end,
        chunk_hours=hours,
        time_column="ts",
        chunk_count=chunks,
        statements=(),
        write_mode=WriteMode.STAGE,
        mode_reason=ModeReason.ENGINE,
        engine="MergeTree",
        use_tokens=True,
        min_chunk_minutes=15,
        environment="http://localhost:8123/default",
        created_at=planned_at,
    ).model_copy(update=changes)


def chunks_of(plan: Plan) -> tuple[Chunk, ...]:
    """The plan's chunks."""
    return tuple(plan.chunks())


def started(plan: Plan, chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a", **fields: Any) -> ChunkStarted:
    """A claim."""
    return ChunkStarted(
        at=fields.pop("at", START),
        by=by,
        chunk_id=chunk.id,
        attempt=attempt,
        start=chunk.start,
        end=chunk.end,
        query_id=query_id(plan.plan_id, chunk.id, attempt),
        lease_seconds=fields.pop("lease_seconds", 60.0),
        **fields,
    )


def verified(chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a", rows: int = 10) -> ChunkVerified:
    """A staged and verified attempt."""
    return ChunkVerified(at=START, by=by, chunk_id=chunk.id, attempt=attempt, content=ContentSums(rows, 2**64 - 1))


def done(chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a", rows: int = 10, seconds: float = 1.5) -> ChunkDone:
    """A chunk whose rows are in the target."""
    content = ContentSums(rows, 2**64 - 1)
    return ChunkDone(at=START, by=by, chunk_id=chunk.id, attempt=attempt, content=content, seconds=seconds)


def failed(
    chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a", *, final: bool = False, message: str = "out of memory"
) -> ChunkFailed:
    """A failed attempt."""
    return ChunkFailed(at=START, by=by, chunk_id=chunk.id, attempt=attempt, message=message, final=final)


def released(chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a") -> ChunkReleased:
    """A chunk given back."""
    return ChunkReleased(at=START, by=by, chunk_id=chunk.id, attempt=attempt, reason="stopped")


def split(plan: Plan, chunk: Chunk, attempt: int = 1, by: str = "host:1:2:a") -> ChunkSplit:
    """A chunk cut into halves."""
    middle = chunk.start + (chunk.end - chunk.start) / 2
    parts = tuple(
        ChunkPart(id=chunk_id(plan.plan_id, a, b), start=a, end=b)
        for a, b in ((chunk.start, middle), (middle, chunk.end))
    )
    return ChunkSplit(at=START, by=by, chunk_id=chunk.id, attempt=attempt, parts=parts, message="out of memory")


def counts(run: Run) -> dict[str, int]:
    """Return the run's counts, computed again from its chunks."""
    states = [state.status.value for state in run.chunks.values()] + ["done"] * len(run.done)
    found = {status: states.count(status) for status in ("running", "done", "failed", "skipped")}
    return {"total": run.total, "pending": run.total - sum(found.values()), **found}


def save_broken_run(store: StateStore, failures: int = 1, message: str = "out of memory") -> Plan:
    """A started run in *store*: one chunk done, *failures* of them failed permanently, one pending."""
    plan = make_plan(failures + 2)
    store.save_plan(plan)
    log = store.open_run(plan)
    first, *others = chunks_of(plan)
    for event in (RunStarted(at=START, by="me"), started(plan, first), verified(first), done(first)):
        log.append(event)
    for chunk in others[:failures]:
        log.append(started(plan, chunk))
        log.append(failed(chunk, message=message, final=True))
    return plan
