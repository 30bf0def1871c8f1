"""The DAGs of the cases: a group each, with a table, a SELECT and arguments of its own; read by the DAG processor."""

import json
import os
from datetime import timedelta
from pathlib import Path

from airflow.sdk import DAG

from airflow_provider_backfill.task_group import BackfillTaskGroup

for name, case in json.loads(Path(os.environ["BACKFILL_CASES"]).read_text()).items():
    chunks = dict(case.get("chunks", {}))
    if "execution_timeout" in chunks:
        chunks["execution_timeout"] = timedelta(seconds=chunks["execution_timeout"])
    with DAG(dag_id=name, schedule=None) as dag:
        BackfillTaskGroup(
            target=f"cases.{name}",
            window_from="2025-01-01",
            window_to="{{ var.value.get('" + name + "_to', '2025-01-03') }}",
            chunk_hours=24 if case.get("days") else 12,
            select=case["select"],
            write_mode=case.get("write_mode"),
            max_mapped_tasks=2,
            max_parallel_chunks=2,
            chunks={"retry_delay": timedelta(seconds=1), **chunks},
            sensor={"poke_interval": 1, "deferrable": case.get("deferred", False)},
            deferrable=case.get("deferred", False),
            options={"defaults": {"retryDelayMs": 1}},
            default_args={"retries": 2},
        )
    globals()[name] = dag
