"""How many mapped tasks share the chunks of a plan."""

from types import SimpleNamespace
from typing import Any

import pytest

from airflow_provider_backfill.airflow_support.fields import task_count


@pytest.mark.parametrize(
    ("chunks", "rows", "most", "parallel", "expected"),
    [
        # Few: one task each, however small they are.
        (24, 0, 100, 2, 24),
        # Many and small: a chunk costs a fraction of a second, and a task seconds.
        (100, 1_000, 100, 2, 4),
        (2_880, 288_000, 100, 2, 4),
        (10_000, 0, 100, 2, 10),
        # All parallel tasks are busy, and nearly until the end.
        (100, 1_000, 100, 1, 4),
        (100, 1_000, 100, 16, 32),
        (100, 1_000, 100, 64, 100),
        (2_880, 288_000, 100, 3, 6),
        (10_000, 0, 100, 3, 12),
        # Large ones have work enough.
        (100, 4_000_000_000, 100, 2, 68),
        (1_000, 40_000_000_000, 100, 2, 100),
        (100, 4_000_000_000, 10, 2, 10),
        # Nobody knows.
        (90, None, 100, 2, 90),
    ],
)
def test_a_task_has_seconds_of_work_once_there_are_many(
    chunks: int, rows: int | None, most: int, parallel: int, expected: int
) -> None:
    plan: Any = SimpleNamespace(chunk_count=chunks, source_rows=rows)
    assert task_count(plan, most, parallel) == expected
