"""
Fill the target of a materialized view that was created after the data.

A view sees only rows inserted after its creation. This DAG replays the view's stored SELECT over the past, week by
week. Trigger the DAG with other values to backfill another table. The defaults are the tables of `dags/main_job.py`,
which also runs this file.
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
        # A year is longer than limits.maxWindowHours.
        force_large_window=True,
    )
    chunks = BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2).expand(chunks=plan.output)
    finished = BackfillStatusSensor(
        task_id="finished",
        plan_id=plan.output["plan_id"],
        mode="reschedule",
        # Run also after skipped chunks: a cancelled run is not finished, and the DAG run must not be green.
        trigger_rule="none_failed",
    )
    chunks >> finished
