"""The task group: one line, one form, one asset event, and its trigger rules after failures."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk import DAG, task

from airflow_provider_backfill.airflow_support.lineage import target_asset
from airflow_provider_backfill.commands.status import read_status
from airflow_provider_backfill.errors import RequestError
from airflow_provider_backfill.task_group import BackfillTaskGroup, backfill_params, clickhouse_backfill
from tests.airflow.conftest import CONNECTION, Flow
from tests.clickhouse.lab import Lab

WINDOW: dict[str, Any] = {"window_from": "2025-01-01", "window_to": "2025-01-03"}


@pytest.fixture
def lab(http_lab: Lab, airflow_db: None) -> Lab:
    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC'), x UInt32, bad UInt8) ENGINE = MergeTree ORDER BY ts AS"
        " SELECT toDateTime('2025-01-01', 'UTC') + 360 * number, number, 0 FROM numbers(480)",
        "CREATE TABLE target (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "CREATE TABLE live (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
    )
    return http_lab


@pytest.fixture
def common(lab: Lab) -> dict[str, Any]:
    return {
        "clickhouse_conn_id": CONNECTION,
        "state_dir": str(lab.folder),
        "options": {"defaults": {"retryDelayMs": 1}},
        "select": f"SELECT ts, x FROM {lab.engine.database}.source WHERE NOT throwIf(bad)",
    }


def equal(lab: Lab, table: str = "target") -> bool:
    return lab.content(table, "ts, x") == lab.content("source", "ts, x", "WHERE NOT bad")


def events(name: str) -> list[dict[str, Any]]:
    """The extras of an asset's events, oldest first."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        found = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.name == name)
        return [event.extra for event in session.scalars(found.order_by(AssetEvent.id))]


def test_the_form_of_a_trigger_is_the_whole_backfill(lab: Lab, common: dict[str, Any], dag_id: str) -> None:
    """The target is known when it runs only, so the event goes through the alias to the target's asset."""
    target = str(lab.table("target"))
    with DAG(dag_id, schedule=None, params=backfill_params(chunk_hours=12)) as dag:
        BackfillTaskGroup(**common)
    flow = Flow(dag)
    window = {"window_from": "2025-01-01T00:00:00Z", "window_to": "2025-01-03T00:00:00+00:00"}
    assert flow.start(target=target, chunk_hours=24, **window) == "success"
    assert flow.states("backfill.chunks") == ["success"] * 2
    assert equal(lab)
    plan_id = flow.result("backfill.plan", "plan_id")
    published = {
        "target": target,
        "from": "2025-01-01T00:00:00.000Z",
        "to": "2025-01-03T00:00:00.000Z",
        "rowsWritten": 480,
        "planIds": [plan_id],
    }
    assert flow.result("backfill.finished") == published
    assert events(target) == [published]


def test_two_triggers_over_meeting_windows_double_no_row(
    lab: Lab, common: dict[str, Any], dag_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Two people press Trigger, and both plans see an empty window: the chunk that both have is filled once."""
    target = str(lab.table("target"))
    flows = []
    for name in ("first", "second"):
        with DAG(f"{dag_id}_{name}", schedule=None, params=backfill_params(chunk_hours=24)) as dag:
            BackfillTaskGroup(**common)
        flows.append(Flow(dag))
    day = "2025-01-0{}T00:00:00Z".format
    forms = [{"target": target, "window_from": day(1), "window_to": day(end)} for end in (2, 3)]
    # The second run has its plan before the first writes a row.
    planned = lab.plan("target", "2025-01-01", "2025-01-03", 24, select=common["select"])
    assert flows[0].start(**forms[0]) == "success"
    first = flows[0].result("backfill.plan", "plan_id")
    assert flows[1].start(**forms[1]) == "failed"
    assert flows[1].result("backfill.plan", "plan_id") == planned["planId"]
    assert f"Plan {first} has filled 2025-01-01T00:00:00.000Z to 2025-01-02" in "".join(capfd.readouterr())
    assert lab.value("SELECT count() - uniqExact(x) FROM target") == 0
    # As the message advises.
    assert flows[1].start(target=target, window_from=day(2), window_to=day(3)) == "success"
    assert equal(lab)


def test_the_form_has_four_fields_and_asks_for_what_has_no_default() -> None:
    with DAG("form", schedule=None, params=backfill_params(window_from="2025-01-01")) as dag:
        BackfillTaskGroup()
    schemas = {name: dag.params.get_param(name).schema for name in dag.params}
    assert list(schemas) == ["target", "window_from", "window_to", "chunk_hours"]
    assert schemas["window_to"]["format"] == "date-time"
    assert not dag.params.get_param("target").has_value
    assert dag.params["window_from"] == "2025-01-01T00:00:00.000Z"


def test_one_failed_chunk_stops_no_other_and_ends_red(lab: Lab, common: dict[str, Any], dag_id: str) -> None:
    lab.sql("INSERT INTO source VALUES ('2025-01-01 13:30:00', 9999, 1)")
    with DAG(dag_id, schedule=None) as dag:
        BackfillTaskGroup(target=str(lab.table("target")), **WINDOW, chunk_hours=12, promote="SELECT 1", **common)
    flow = Flow(dag)
    assert flow.start() == "failed"
    assert flow.states("backfill.chunks") == ["success", "failed", "success", "success"]
    assert flow.states("backfill.finished") == flow.states("backfill.promote") == ["upstream_failed"]
    lab.sql("ALTER TABLE source DELETE WHERE bad SETTINGS mutations_sync = 2")
    assert flow.clear("backfill.chunks", 1) == "success"
    assert equal(lab)


def test_promote_follows_what_is_complete(lab: Lab, common: dict[str, Any], dag_id: str) -> None:
    """By statements that bear being repeated, over the group's own connection."""
    target, live = lab.table("target"), lab.table("live")
    statements = "; ".join(f"ALTER TABLE {live} REPLACE PARTITION '2025-01-0{day}' FROM {target}" for day in (1, 2))
    with DAG(dag_id, schedule=None) as dag:
        BackfillTaskGroup(target=str(target), **WINDOW, chunk_hours=24, promote=statements, **common)
    flow = Flow(dag)
    assert flow.start() == "success"
    assert equal(lab, "live")
    assert flow.clear("backfill.promote") == "success"
    assert equal(lab, "live")


def test_a_function_promotes_with_what_was_published(lab: Lab, common: dict[str, Any], dag_id: str) -> None:
    def rows_of(published: dict[str, Any]) -> int:
        rows: int = published["rowsWritten"]
        return rows

    with DAG(dag_id, schedule=None) as dag:
        BackfillTaskGroup(target=str(lab.table("target")), **WINDOW, chunk_hours=24, promote=rows_of, **common)
    flow = Flow(dag)
    assert flow.start() == "success"
    assert flow.result("backfill.promote") == 480


@pytest.mark.parametrize("decorator", [clickhouse_backfill, task.clickhouse_backfill], ids=["imported", "@task"])
def test_a_function_says_what_to_backfill(lab: Lab, common: dict[str, Any], dag_id: str, decorator: Any) -> None:
    """The TaskFlow form: it runs in the plan task, with Airflow's context and its own arguments."""
    select = common.pop("select")
    with DAG(dag_id, schedule=None) as dag:

        @decorator(**common)  # type: ignore[untyped-decorator]
        def month(target: str, run_id: str | None = None) -> dict[str, Any]:
            assert run_id
            return {"target": target, **WINDOW, "chunk_hours": 24, "select": select}

        month(str(lab.table("target")))
    flow = Flow(dag)
    assert flow.start() == "success"
    assert flow.states("month.chunks") == ["success"] * 2
    assert equal(lab)


def test_a_function_that_asks_for_nonsense_is_told_what_is_allowed(
    lab: Lab, common: dict[str, Any], dag_id: str, capfd: pytest.CaptureFixture[str]
) -> None:
    with DAG(dag_id, schedule=None, default_args={"retries": 3}) as dag:

        @clickhouse_backfill(**common)  # type: ignore[untyped-decorator]
        def month() -> dict[str, Any]:
            return {"target": "a.b", "window": "2025-01"}

        month()
    flow = Flow(dag)
    assert flow.start() == "failed"
    assert flow.instances("month.plan")[0].try_number == 1
    assert "month returned window. (allowed: accept_at_least_once, " in "".join(capfd.readouterr())


def test_tasks_marked_a_success_by_hand_do_not_make_it_complete(
    lab: Lab, common: dict[str, Any], dag_id: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The final check reads the log, not the colours of tasks, and does not wait for workers that do not exist."""
    from airflow_provider_backfill.operators import BackfillChunkOperator

    monkeypatch.setattr(BackfillChunkOperator, "execute", lambda *_, **__: None)
    with DAG(dag_id, schedule=None) as dag:
        BackfillTaskGroup(target=str(lab.table("target")), **WINDOW, chunk_hours=24, **common)
    flow = Flow(dag)
    assert flow.start() == "failed"
    assert flow.states("backfill.chunks") == ["success"] * 2
    assert flow.states("backfill.finished") == ["failed"]
    assert read_status(lab.session, flow.result("backfill.plan", "plan_id"))["status"] == "planned"
    assert events(str(lab.table("target"))) == []


def test_a_group_without_target_and_params_says_so_when_parsed() -> None:
    with DAG("bare", schedule=None), pytest.raises(RequestError, match=r"params=backfill_params\(\)"):
        BackfillTaskGroup()


def test_a_dag_scheduled_by_the_target_names_the_asset_that_the_group_emits(lab: Lab, dag_id: str) -> None:
    with DAG(dag_id, schedule=None):
        group = BackfillTaskGroup(target="shop.orders", **WINDOW)
    assert group.finished.outlets == [target_asset("shop.orders")]
