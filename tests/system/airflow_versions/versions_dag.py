"""The DAGs of the versions: every way to use the package once; read by the DAG processor of each Airflow."""

import os
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.sdk import DAG, task

from airflow_provider_backfill.airflow_support.compat import airflow_is
from airflow_provider_backfill.airflow_support.lineage import target_asset
from airflow_provider_backfill.operators import BackfillChunkOperator, BackfillPlanOperator
from airflow_provider_backfill.sensors import BackfillStatusSensor
from airflow_provider_backfill.task_group import BackfillTaskGroup, backfill_params, clickhouse_backfill

WINDOW: dict[str, Any] = {"window_from": "2025-01-01", "window_to": "2025-01-03", "chunk_hours": 24}
QUICK: dict[str, Any] = {"poke_interval": 1, "timeout": 300}


def copy_to(name: str) -> dict[str, Any]:
    """What a plan into the table of a DAG is given."""
    return {"target": f"versions.{name}", "source": "versions.source", "write_mode": "replace", **WINDOW}


class OnceLost(BackfillChunkOperator):
    """The first task loses its first try after its chunk is done."""

    def execute(self, context: Any) -> dict[str, Any]:
        """Fail where a retry has to find out what is done."""
        found = super().execute(context)
        if (context["ti"].map_index, context["ti"].try_number) == (0, 1):
            raise RuntimeError("the worker is lost")
        return found


with DAG("mapped", schedule=None, default_args={"retries": 1, "retry_delay": timedelta(seconds=1)}):
    plan = BackfillPlanOperator(task_id="plan", **copy_to("mapped"))
    chunks = OnceLost.partial(task_id="chunks", max_parallel_chunks=2, replay_done=True).expand(chunks=plan.output)
    chunks >> BackfillStatusSensor(
        task_id="finished", plan_id=plan.output["plan_id"], trigger_rule="none_failed", **QUICK
    )

with DAG("deferred", schedule=None):
    deferred_plan = BackfillPlanOperator(task_id="plan", **copy_to("deferred"))
    BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2, deferrable=True).expand(
        chunks=deferred_plan.output
    )
    # Not after the chunks: it has something to wait for.
    BackfillStatusSensor(task_id="finished", plan_id=deferred_plan.output["plan_id"], deferrable=True, **QUICK)

with DAG("rescheduled", schedule=None):
    BackfillStatusSensor(
        task_id="finished",
        target="versions.mapped",
        **{name: WINDOW[name] for name in ("window_from", "window_to")},
        mode="reschedule",
        # A task that is back before the scheduler has noted that it was rescheduled is failed by it.
        **{**QUICK, "poke_interval": 10},
    )

with DAG("grouped", schedule=None):
    BackfillTaskGroup(
        **copy_to("grouped"),
        max_parallel_chunks=2,
        promote="ALTER TABLE versions.promoted REPLACE PARTITION ID '20250101' FROM versions.grouped",
        sensor=QUICK,
    )

with DAG("decorated", schedule=None):

    @clickhouse_backfill(max_parallel_chunks=2, sensor=QUICK)  # type: ignore[untyped-decorator]
    def days(first: datetime) -> dict[str, Any]:
        """Two days."""
        return {**copy_to("decorated"), "window_from": first, "window_to": first + timedelta(days=2)}

    @task.clickhouse_backfill(max_parallel_chunks=2, sensor=QUICK)
    def other_days() -> dict[str, Any]:
        """The same, by the decorator that Airflow finds."""
        return copy_to("task_decorated")

    days(datetime(2025, 1, 1))
    other_days()


def note(context: Any) -> None:
    """A callback: writes down what it was called for."""
    ti = context.get("task_instance")
    what = context["dag_run"].run_id if ti is None else f"{ti.task_id}[{ti.map_index}]"
    with (Path(os.environ["AIRFLOW_HOME"]) / "noted").open("a") as file:
        file.write(f"{what}\n")


with DAG("dateless", schedule=None):
    interval = {"window_from": "{{ data_interval_start | ts }}", "window_to": "{{ data_interval_end | ts }}"}
    BackfillPlanOperator(task_id="plan", **{**copy_to("nowhere"), **interval}, retries=3)


async def note_late(context: Any, what: str) -> None:
    """A callback of a deadline; the triggerer calls it."""
    (Path(os.environ["AIRFLOW_HOME"]) / "late").write_text(f"{context['dag_run']['dag_id']}: {what}")


deadline: dict[str, Any] = {}
if airflow_is(3, 2):
    from airflow.sdk import AsyncCallback, DeadlineAlert, DeadlineReference  # type: ignore[attr-defined]

    deadline["deadline"] = DeadlineAlert(
        reference=DeadlineReference.DAGRUN_QUEUED_AT,
        interval=timedelta(seconds=1),
        callback=AsyncCallback("versions_dag.note_late", {"what": "a second has passed"}),
    )

with DAG("expected", schedule=None, params=backfill_params(target="versions.nowhere", chunk_hours=24), **deadline):
    # What everybody gives their tasks.
    theirs = {"pool": "backfills", "priority_weight": 7, "weight_rule": "absolute", "on_success_callback": note}
    BackfillTaskGroup(source="versions.source", write_mode="replace", default_args=theirs, sensor=QUICK)

if airflow_is(3, 1):
    with DAG("approved", schedule=None):
        BackfillTaskGroup(**copy_to("approved"), approve=True, sensor=QUICK)

if airflow_is(3, 3):
    from airflow.sdk import PartitionedAssetTimetable, PartitionedAtRuntime

    with DAG("partitioned", schedule=PartitionedAtRuntime()):
        BackfillTaskGroup(**copy_to("partitioned"), partition_key_format="%Y-%m-%d", sensor=QUICK)

    with DAG("each_partition", schedule=PartitionedAssetTimetable(assets=target_asset("versions.partitioned"))):

        @task
        def look(partition_key: str | None = None) -> str | None:
            """The day that is there."""
            return partition_key

        look()
