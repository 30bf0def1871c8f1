"""
Run a whole backfill in one line, with a form for target, window and chunk length.

The defaults are the tables of `dags/main_job.py`. To continue from a filled window, schedule a DAG by the asset of the
group: `schedule=target_asset("demo.flights_per_day")`.
"""

from airflow.sdk import DAG

from airflow_provider_backfill.task_group import BackfillTaskGroup, backfill_params

with DAG(
    dag_id="one_line",
    description="Plan, chunks and sensor as one task group, asked for by a form",
    schedule=None,
    doc_md=__doc__,
    tags=["clickhouse", "backfill"],
    params=backfill_params(
        target="demo.flights_per_day", window_from="2013-01-01", window_to="2014-01-02", chunk_hours=168
    ),
) as dag:
    BackfillTaskGroup(max_parallel_chunks=2, force_large_window=True)
