"""
Plan a ClickHouse backfill, and execute its chunks in mapped tasks.

A mapped task gets a plan's id and a window, never a position. A cleared task therefore finds the same chunks, even if
the plan task ran again. The event log counts the attempts of each chunk, and one task uses the whole budget
(``maxRetriesPerChunk``). Airflow's ``retries`` are for lost workers and an unreachable ClickHouse, and give a failed
chunk no new budget. A clear by a person gives the chunk a new budget.
"""

from .chunk import BackfillChunkOperator
from .plan import BackfillPlanOperator

__all__ = ["BackfillChunkOperator", "BackfillPlanOperator"]
