"""
Operators: plan a ClickHouse backfill, and execute its chunks in mapped tasks.

A mapped task gets a plan's id and a window, never a position. A cleared task therefore finds the same
chunks, whatever the plan task has done since. The event log keeps the number of attempts of each
chunk. One task uses up the budget (``maxRetriesPerChunk``). Airflow's ``retries`` are for lost workers
and an unreachable ClickHouse, and give a failed chunk no new budget. A clear by a person gives a new
budget.
"""

from .chunk import BackfillChunkOperator
from .plan import BackfillPlanOperator

__all__ = ["BackfillChunkOperator", "BackfillPlanOperator"]
