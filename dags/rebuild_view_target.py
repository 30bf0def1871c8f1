"""
Fill the target of a materialized view that was created after its source had its data.

The view only sees what is inserted after it was made. This replays it over the past, by its own
stored SELECT, week by week. Trigger it with other values to backfill a table of yours; the
defaults are the tables of `dags/main_job.py`, which also runs this file.
"""

from airflow.sdk import DAG, Param

from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
from airflow_provider_backfill.sensors import BackfillStatusSensor

with DAG(
    dag_id="rebuild_view_target",
    description="Replay a materialized view over a past window",
    schedule=None,
    doc_md=__doc__,
    tags=["clickhouse", "backfill"],
    params={
        "target": Param("demo.flights_per_day", type="string", description="Table that the view writes to"),
        "window_from": Param("2013-01-01", type="string", description="Start of the window in UTC, included"),
        "window_to": Param("2014-01-02", type="string", description="End of the window in UTC, excluded"),
        "chunk_hours": Param(168, type="number", exclusiveMinimum=0, description="Length of a chunk"),
    },
) as dag:
    plan = BackfillPlanOperator(
        task_id="plan",
        target="{{ params.target }}",
        window_from="{{ params.window_from }}",
        window_to="{{ params.window_to }}",
        chunk_hours="{{ params.chunk_hours }}",
        # A year is more than limits.maxWindowHours, on purpose.
        force_large_window=True,
    )
    chunks = BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2).expand(chunks=plan.output)
    finished = BackfillStatusSensor(
        task_id="finished",
        plan_id=plan.output["plan_id"],
        mode="reschedule",
        # Also when chunks were skipped because somebody cancelled the run: it is not finished then.
        trigger_rule="none_failed",
    )
    chunks >> finished
