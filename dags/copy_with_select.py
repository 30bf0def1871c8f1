"""
Copy rows of one table into another through a SELECT, exactly once.

The SELECT is sent unchanged. The server applies the window of each chunk when it reads
`demo.flights`. The tables are those of `dags/main_job.py`:

    CREATE TABLE demo.late_flights
    (time_hour DateTime('UTC'), carrier String, flight UInt16, origin String, dest String, dep_delay Int16)
    ENGINE = MergeTree PARTITION BY toYYYYMM(time_hour) ORDER BY time_hour
"""

from airflow.sdk import DAG, Param

from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
from airflow_provider_backfill.sensors import BackfillStatusSensor

LATE_FLIGHTS = """
SELECT time_hour, carrier, flight, origin, dest, assumeNotNull(f.dep_delay) AS dep_delay
FROM demo.flights AS f
WHERE f.dep_delay > 60
"""

with DAG(
    dag_id="copy_with_select",
    description="Fill a table from a SELECT",
    schedule=None,
    doc_md=__doc__,
    tags=["clickhouse", "backfill"],
    params={
        "window_from": Param("2013-06-01", type="string", description="Start of the window in UTC, included"),
        "window_to": Param("2013-07-01", type="string", description="End of the window in UTC, excluded"),
    },
) as dag:
    plan = BackfillPlanOperator(
        task_id="plan",
        target="demo.late_flights",
        select=LATE_FLIGHTS,
        window_from="{{ params.window_from }}",
        window_to="{{ params.window_to }}",
        chunk_hours=24,
        # Ten tasks for thirty chunks, because a task costs Airflow more than a small chunk costs ClickHouse.
        max_mapped_tasks=10,
    )
    chunks = BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2).expand(chunks=plan.output)
    finished = BackfillStatusSensor(
        task_id="finished", plan_id=plan.output["plan_id"], mode="reschedule", trigger_rule="none_failed"
    )
    chunks >> finished
