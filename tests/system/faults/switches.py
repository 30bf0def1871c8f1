"""
Safeties that a test can switch off in a runner, to see that the campaign notices.

Each patches the running process only. Nothing in the product reads them.
"""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

from airflow_provider_backfill.clickhouse import execute, proof, publish
from airflow_provider_backfill.clickhouse.attempt import Step, kill_queries
from airflow_provider_backfill.commands import claims, lease, run, trying, worker
from airflow_provider_backfill.core import replay
from airflow_provider_backfill.core.events import ChunkStarted, Event
from airflow_provider_backfill.core.plan import Chunk
from airflow_provider_backfill.core.run_state import ChunkStatus, Run
from airflow_provider_backfill.core.sql import query_id, quote_table
from airflow_provider_backfill.state.run_log import RunLog


def patch(where: ModuleType | type, **values: object) -> None:
    """
    Put *values* in place of what *where* knows under these names.

    Raises:
        AttributeError: It knows no such name, so nothing would be switched off.
    """
    for name, value in values.items():
        getattr(where, name)
        setattr(where, name, value)


def no_claim_check() -> None:
    """Take every chunk that is not done, whoever holds it, and let the log say so."""

    def claim(self: claims.Claims, log: RunLog, chunk: Chunk) -> Event | None:
        def decide(run: Run) -> ChunkStarted | None:
            state = run.state(chunk.id)
            if run.cancelled or chunk.id in run.splits or state.status is ChunkStatus.DONE:
                return None
            number = max(state.attempt, 1)
            return ChunkStarted(
                at=lease.utc_now(),
                by=self._owner,
                chunk_id=chunk.id,
                attempt=number,
                start=chunk.start,
                end=chunk.end,
                query_id=query_id(self._plan_id, chunk.id, number),
                lease_seconds=self._lease,
            )

        return log.commit(decide)

    patch(claims.Claims, claim=claim)
    patch(replay, _why_not_start=lambda *_: "", _why_not_end=lambda *_: "")


def no_seal() -> None:
    """Publish the attempt's own staging table, as if it were the only one."""

    def run_attempt(server: Any, attempt: Any) -> Any:
        if attempt.number > 1:
            kill_queries(server, attempt.plan.plan_id, attempt.chunk.id)
            execute._drop_attempts(server, attempt)
        own = execute._own_table(attempt)
        found, _ = execute._stage(server, attempt, own, None)
        attempt.step(Step.SEALED)
        if attempt.plan.write_mode == "replace":
            publish.replace_partitions(server, attempt, own, found)
        else:
            publish.move_partitions(server, attempt, own, found.content, found)
        return found.content

    patch(worker, run_attempt=run_attempt)


def no_reconcile() -> None:
    """Start an attempt without a look at what earlier ones left."""
    patch(execute, kill_queries=lambda *_: 0, _resumable=lambda *_: None)


def no_moved_check() -> None:
    """Move a partition again without asking whether it had arrived before the server died."""
    patch(publish, drop_parts_already_moved=lambda *_: None)


def no_fence() -> None:
    """Announce no run in the database, and look for none."""
    patch(run, _fence=lambda *_, **__: None)


def no_look_at_rows() -> None:
    """Publish into a window without a look at the rows that are there."""
    patch(publish, refuse_before_publish=lambda *_, **__: None)


def no_trial() -> None:
    """Plan without trying whether chunks add up, as if the trial had shown it."""
    patch(trying, try_chunks=lambda *_, **__: (True, "switched off"))


def no_verification() -> None:
    """Seal what was staged, whatever it is."""
    prove = proof.prove

    def believe(server: Any, attempt: Any, table: Any, written: Any, wanted: Any) -> Any:
        rows = server.numbers(f"SELECT count() FROM {quote_table(table)}")[0]
        return prove(server, attempt, table, rows, None)

    patch(proof, prove=believe)


SWITCHES: dict[str, Callable[[], None]] = {
    "claim": no_claim_check,
    "seal": no_seal,
    "reconcile": no_reconcile,
    "moved": no_moved_check,
    "fence": no_fence,
    "rows": no_look_at_rows,
    "trial": no_trial,
    "proof": no_verification,
}
