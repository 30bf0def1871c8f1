"""The DAGs that the tests of the page inside Airflow look at; read by the DAG processor."""

from airflow.sdk import DAG

from airflow_provider_backfill.task_group import BackfillTaskGroup

FAILING = "SELECT ts, x, bad FROM page.source WHERE NOT throwIf(bad = {}, 'no rate for the day')"
SLOW = "SELECT ts, x, bad FROM page.source WHERE NOT sleepEachRow((SELECT max(seconds) FROM page.speed))"

for name, select, approve in (
    ("watched", SLOW, False),
    ("stopped", SLOW, False),
    ("failing", FAILING.format(1), False),
    ("chosen", FAILING.format(2), False),
    ("approved", "SELECT ts, x, bad FROM page.source", True),
):
    with DAG(dag_id=name, schedule=None) as dag:
        BackfillTaskGroup(
            target=f"page.{name}",
            window_from="2025-01-01",
            window_to="2025-01-07",
            chunk_hours=24,
            select=select,
            approve=approve,
            max_parallel_chunks=3,
            sensor={"poke_interval": 1},
            options={"defaults": {"retryDelayMs": 1}},
        )
    globals()[name] = dag
