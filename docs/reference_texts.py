"""
Provide texts that docs/generate.py cannot read from the code: a DAG for each operator, and the
meaning of plain keys.
"""

# The tests of the documentation run each of these DAGs, in this order.
DAGS = {
    "BackfillPlanOperator": """
from airflow.sdk import DAG

from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
from airflow_provider_backfill.sensors import BackfillStatusSensor

with DAG("fill_february", schedule=None) as dag:
    plan = BackfillPlanOperator(
        task_id="plan",
        target="shop.orders_daily",
        window_from="2025-02-01",
        window_to="2025-03-01",
        chunk_hours=168,
    )
    chunks = BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2).expand(chunks=plan.output)
    finished = BackfillStatusSensor(
        task_id="finished",
        plan_id=plan.output["plan_id"],
        mode="reschedule",
        trigger_rule="none_failed",
    )
    chunks >> finished
""",
    "BackfillStatusSensor": """
from airflow.sdk import DAG

from airflow_provider_backfill.sensors import BackfillStatusSensor

# Waits for February, whichever plans fill the month.
with DAG("after_february", schedule=None) as dag:
    BackfillStatusSensor(
        task_id="february",
        target="shop.orders_daily",
        window_from="2025-02-01",
        window_to="2025-03-01",
        deferrable=False,
    )
""",
    "backfill_params": """
from airflow.sdk import DAG

from airflow_provider_backfill.task_group import BackfillTaskGroup, backfill_params

form = backfill_params(target="shop.orders_daily", window_from="2025-03-01", window_to="2025-03-15", chunk_hours="1w")
with DAG("fill_by_form", schedule=None, params=form) as dag:
    BackfillTaskGroup()
""",
    "BackfillTaskGroup": """
from airflow.sdk import DAG

from airflow_provider_backfill.task_group import BackfillTaskGroup

with DAG("rebuild_january", schedule=None) as dag:
    BackfillTaskGroup(
        target="shop.orders_daily",
        window_from="2025-01-01",
        window_to="2025-02-01",
        chunk_by="month",
        write_mode="replace",
        force_large_window=True,
        promote="OPTIMIZE TABLE shop.orders_daily FINAL",
    )
""",
    "clickhouse_backfill": """
from airflow.sdk import DAG

from airflow_provider_backfill.task_group import clickhouse_backfill

with DAG("fill_last_days", schedule=None) as dag:

    @clickhouse_backfill(max_parallel_chunks=2)
    def last_days():
        return {"target": "shop.orders_daily", "window_from": "2025-03-29", "window_to": "2025-04-01"}

    last_days()
""",
}

# Keys of plans and events whose models have no description.
KEYS = {
    "at": "time of the event",
    "attempt": "number of the attempt, from 1",
    "by": "author: `host:pid:start:nonce` of a worker, or the user of a command",
    "chunkId": "id of the chunk",
    "chunkIds": "the chunks to which `statuses` is limited; null for all",
    "clearWindow": "whether the window is deleted from the target first",
    "code": "ClickHouse's error code",
    "column": "the column's name",
    "content": (
        "the number of rows, and a checksum: with the proof `written` the sum of the server's hashes of the parts, with"
        " `content` `sum(cityHash64(tuple(…)))` over the plan's `summedColumns`, or all filled columns;"
        " the checksum is 0 if the source could not be read after a direct INSERT, and the number is then the server's"
    ),
    "createdAt": "time of planning",
    "final": "whether no further attempt starts automatically",
    "format": "number of the file format",
    "from": "start of the window, included",
    "kind": "how the column stores an instant",
    "leaseSeconds": "how long the worker's claims stay valid",
    "message": "the error",
    "minChunkMinutes": "shortest length of a split chunk",
    "name": "ClickHouse's name of the error",
    "onBehalfOf": "user or Airflow task that started the worker",
    "owner": "value of `plan --owner`",
    "parallel": "parallel chunks of all workers, on each shard; 0 for each worker's own setting",
    "parts": "the parts: `id`, `from`, `to`, and `keyRange` for parts with the same window",
    "planId": "id of the plan",
    "plannedAt": "time of planning",
    "queryId": "id of the query in ClickHouse",
    "reach": "`[first, last)` of the rows' time in the target, if some lie outside the chunk's window",
    "readBytes": "uncompressed bytes read by the chunk's statements; null if the server does not report them",
    "readRows": "rows read by the chunk's statements; null if the server does not report them",
    "reason": "the reason",
    "refused": "whether the reason was another writer: the target has its rows in the window, or another run is active",
    "unpublished": "whether no earlier attempt wrote to the target either",
    "unwritten": "whether the attempt wrote nothing to the target",
    "run": "the recovered run",
    "seconds": "duration of the attempt",
    "shard": "number of the chunk's shard; 0 where the target is one table",
    "staged": "the staged parts, if the target is replicated or its database renames no table",
    "statements": "the SELECTs, see [Statement](#statement)",
    "statuses": "the statuses of the chunks that are executed again",
    "supersededBy": "the plan that replaces this plan; empty without one",
    "takesOver": "whether the claim replaces the claim of a dead worker",
    "target": "the table to fill",
    "timeColumn": "column of the source that the window applies to",
    "to": "end of the window, excluded",
    "type": "name of the event",
    "until": "end of the waiver; null for none",
    "untilResumed": "whether only a resume continues the run, because a person paused it",
    "useTokens": "whether inserts carry a deduplication token",
    "writeMode": "`stage`, `replace` or `insert`",
}
