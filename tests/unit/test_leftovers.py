"""Which tables of ours may be dropped: never one that a living run, wherever it is, or a resume needs."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.facts import StagingFacts
from airflow_provider_backfill.core.leftovers import LeftoverKind, Standing, judge_leftover, read_name
from airflow_provider_backfill.core.run_state import ChunkState, ChunkStatus, ContentSums, Run, Staged, Waiver
from airflow_provider_backfill.core.tables import TableName

PLAN, CHUNK = "a" * 16, "c" * 16
OLD, NEW = 3601, 3600
STAGED, SEALED = f"backfill_{PLAN}_{CHUNK}_1", f"backfill_{PLAN}_{CHUNK}_sealed"
SHARED = f"backfill_{PLAN}_staged_01234567"
TRIAL = f"backfill_trial_{PLAN}_01234567_parts"
FENCE = f"backfill_{PLAN}_fence_01234567_0_86400000_0"
ROWS = {1: ContentSums(3, 7)}
ON_REPLICAS = Staged(STAGED, (("202501", "0f"),))
IN_DOUBT = {CHUNK: ChunkState(ChunkStatus.PENDING, 1, verified=ROWS)}
SHARED_IN_DOUBT = {CHUNK: ChunkState(ChunkStatus.PENDING, 1, verified=ROWS, staged=Staged(SHARED, (("202501", "0f"),)))}
ON_REPLICAS_IN_DOUBT = {CHUNK: ChunkState(ChunkStatus.PENDING, 1, verified=ROWS, staged=ON_REPLICAS)}
COMPLETED = Run(PLAN, 1, started=True, counts={ChunkStatus.DONE: 1})
CANCELLED = Run(PLAN, 1, started=True, cancelled=True)


def _failed(state: ChunkState, *, waived: bool = False) -> Run:
    waiver = Waiver("ann", "another plan has filled it", None, "") if waived else None
    return Run(PLAN, 1, started=True, counts={state.status: 1}, chunks={CHUNK: state}, waiver=waiver)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (STAGED, LeftoverKind.STAGING),
        (f"{STAGED}_01234567", LeftoverKind.STAGING),
        (SHARED, LeftoverKind.STAGING),
        (SEALED, LeftoverKind.STAGING),
        (f"{SEALED}_01234567", LeftoverKind.STAGING),
        (FENCE, LeftoverKind.FENCE),
        (f"backfill_{PLAN}_fence_01234567_-86400000_0_1a2b3c4d", LeftoverKind.FENCE),
        (TRIAL, LeftoverKind.TRIAL),
        # What an undo brings back, and tables of others.
        (f"backfill_backup_{PLAN}", None),
        (f"backfill_{PLAN}_{CHUNK}_1_copy", None),
        (f"backfill_{PLAN}_01234567_parts", None),
        (f"backfill_trial_{PLAN}_{CHUNK}_1", None),
        ("backfill_orders", None),
    ],
)
def test_a_name_tells_what_a_table_is_for(name: str, kind: LeftoverKind | None) -> None:
    leftover = read_name(name)
    assert (leftover and leftover.kind) == kind
    assert leftover is None or leftover.plan_id == PLAN


@pytest.mark.parametrize(
    ("name", "standing", "age", "removable"),
    [
        (STAGED, Standing(COMPLETED), 0, True),
        (STAGED, Standing(CANCELLED), 0, True),
        (STAGED, Standing(Run(PLAN, 1, started=True, undone=True)), 0, True),
        (FENCE, Standing(CANCELLED), 0, True),
        (STAGED, Standing(None), OLD, True),
        (STAGED, Standing(None), None, True),
        (STAGED, Standing(None), NEW, False),
        # A plan has its id from its arguments: another folder may run the same one.
        (STAGED, Standing(Run(PLAN, 1)), NEW, False),
        (STAGED, Standing(Run(PLAN, 1)), OLD, True),
        (STAGED, Standing(Run(PLAN, 1, started=True)), OLD, False),
        (STAGED, Standing(Run(PLAN, 1, started=True, paused=True)), OLD, False),
        (STAGED, Standing(Run(PLAN, 1, started=True, counts={ChunkStatus.FAILED: 1})), OLD, False),
        # Its rows may be in the target in part.
        (SEALED, Standing(Run(PLAN, 1, started=True, cancelled=True, chunks=IN_DOUBT)), OLD, False),
        # Nothing is published from a table that was not sealed: its worker died before that.
        (STAGED, Standing(Run(PLAN, 1, started=True, cancelled=True, chunks=IN_DOUBT)), OLD, True),
        (STAGED, Standing(Run(PLAN, 1, started=True, cancelled=True, chunks=ON_REPLICAS_IN_DOUBT)), OLD, False),
        (SHARED, Standing(Run(PLAN, 1, started=True, cancelled=True, chunks=SHARED_IN_DOUBT)), OLD, False),
        (SHARED, Standing(Run(PLAN, 1, started=True, cancelled=True, chunks=ON_REPLICAS_IN_DOUBT)), OLD, True),
        # A waived and refused plan is not wanted any more; tables with rows that may be in the target are kept.
        (STAGED, Standing(_failed(ChunkState(ChunkStatus.FAILED, 1), waived=True)), NEW, True),
        (SEALED, Standing(_failed(ChunkState(ChunkStatus.FAILED, 1, verified=ROWS))), NEW, False),
        (SEALED, Standing(_failed(ChunkState(ChunkStatus.FAILED, 1, verified=ROWS), waived=True)), OLD, False),
        (SEALED, Standing(_failed(ChunkState(ChunkStatus.PENDING, 1, verified=ROWS), waived=True)), OLD, False),
        (STAGED, Standing(_failed(ChunkState(ChunkStatus.RUNNING, 1, verified=ROWS), waived=True)), OLD, True),
        (STAGED, Standing(None, readable=False), OLD, False),
        # A verify of a completed plan makes private tables, too.
        (TRIAL, Standing(COMPLETED), NEW, False),
        (TRIAL, Standing(Run(PLAN, 1, started=True)), OLD, True),
        *((name, Standing(run, at_work="x"), OLD, False) for name in (STAGED, FENCE) for run in (None, COMPLETED)),
        ("backfill_backup_aaaaaaaaaaaaaaaa", Standing(COMPLETED), OLD, False),
    ],
)
def test_only_what_nobody_needs_may_go(name: str, standing: Standing, age: int | None, removable: bool) -> None:
    verdict = judge_leftover(StagingFacts(TableName("shop", name), PLAN, 5, age), standing)
    assert verdict.removable is removable
    assert verdict.reason
