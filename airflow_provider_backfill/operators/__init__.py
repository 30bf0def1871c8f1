"""
Operators: plan a ClickHouse backfill, and execute its chunks in mapped tasks.

A mapped task is given a plan's id and a window, never a position, so that a clear finds the same
chunks whatever the plan task does meanwhile. How often a chunk is tried is kept in the plan's
event log (``maxRetriesPerChunk``), and spent within one task; Airflow's ``retries`` are for lost
workers and an unreachable ClickHouse, and never give a failed chunk another budget. A person's
clear does.
"""

from .chunk import BackfillChunkOperator
from .plan import BackfillPlanOperator

__all__ = ["BackfillChunkOperator", "BackfillPlanOperator"]
