"""The exchange between a backfill and the rest of Airflow: lineage, metrics, credentials of the state."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airflow_provider_backfill.airflow_support.lineage import openlineage
from airflow_provider_backfill.airflow_support.session import airflow_errors, open_session
from airflow_provider_backfill.commands.status import WindowStatus
from airflow_provider_backfill.core.run_state import ChunkStatus, RunStatus
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.core.window import Window
from airflow_provider_backfill.options import Options
from tests.airflow.conftest import Flow
from tests.clickhouse.lab import Lab
from tests.s3 import S3Server

Make = Callable[..., Flow]
WINDOW: dict[str, Any] = {"window_from": "2025-01-01", "window_to": "2025-01-03", "chunk_hours": 24}


@pytest.fixture
def lab(http_lab: Lab) -> Lab:
    http_lab.sql(
        "CREATE TABLE source (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree ORDER BY ts AS"
        " SELECT toDateTime('2025-01-01', 'UTC') + 360 * number, number FROM numbers(480)",
        "CREATE TABLE target (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
    )
    return http_lab


def test_a_chunk_task_tells_source_target_and_rows(lab: Lab, backfill: Make) -> None:
    """The OpenLineage provider asks the operator after the task's end, in its process."""
    from airflow_provider_backfill.operators import BackfillChunkOperator

    told: list[Any] = []

    class Asked(BackfillChunkOperator):
        def execute(self, context: Any) -> dict[str, Any]:
            assert self.get_openlineage_facets_on_complete(None) is None
            result = super().execute(context)
            told.append(self.get_openlineage_facets_on_complete(None))
            return result

    flow = backfill(str(lab.table("target")), {**WINDOW, "source": str(lab.table("source"))}, operator=Asked)
    assert flow.start() == "success"
    lineage = told[0]
    namespace = lab.engine.url.rpartition("/")[0].replace("http://default@", "clickhouse://")
    assert [(d.namespace, d.name) for d in lineage.inputs] == [(namespace, str(lab.table("source")))]
    assert [(d.namespace, d.name) for d in lineage.outputs] == [(namespace, str(lab.table("target")))]
    assert lineage.outputs[0].outputFacets["outputStatistics"].rowCount == 240
    counts = dict.fromkeys(ChunkStatus, 0)
    window = Window(datetime(2025, 1, 1, tzinfo=UTC), datetime(2025, 1, 2, tzinfo=UTC))
    nothing = WindowStatus("0", TableName("a", "b"), (), "chdb:///data", window, RunStatus.RUNNING, counts, 1, ())
    assert openlineage(nothing).inputs == []


def test_a_failed_task_tells_of_the_rows_that_are_there(lab: Lab, backfill: Make) -> None:
    """One of its two chunks is in the target, where a reader may have found it."""
    from airflow_provider_backfill.operators import BackfillChunkOperator

    told: list[Any] = []

    class Asked(BackfillChunkOperator):
        def execute(self, context: Any) -> dict[str, Any]:
            try:
                return super().execute(context)
            finally:
                told.append(self.get_openlineage_facets_on_failure(None))

    # A granule is read as a whole: with larger ones the chunk before would meet the bad row as well.
    lab.sql(
        "CREATE TABLE fine (ts DateTime('UTC'), x UInt32) ENGINE = MergeTree ORDER BY ts"
        " SETTINGS index_granularity = 1 AS SELECT * FROM source"
    )
    select = f"SELECT ts, x FROM {lab.table('fine')} WHERE NOT throwIf(x = 360)"
    flow = backfill(str(lab.table("target")), {**WINDOW, "select": select, "max_mapped_tasks": 1}, operator=Asked)
    assert flow.start() == "failed"
    assert told[0].outputs[0].outputFacets["outputStatistics"].rowCount == 240
    assert [dataset.name for dataset in told[0].inputs] == [str(lab.table("fine"))]


def test_a_secret_reaches_no_xcom_lineage_or_log(
    lab: Lab, backfill: Make, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """The SELECT has credentials as literals, and the error of a chunk quotes an address with some."""
    from airflow.models.xcom import XComModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    from airflow_provider_backfill.operators import BackfillChunkOperator

    marker, told = "m4rk3rOfASecret", []

    class Asked(BackfillChunkOperator):
        def execute(self, context: Any) -> dict[str, Any]:
            try:
                return super().execute(context)
            except Exception as error:
                told.append(str(error))
                raise
            finally:
                told.append(repr(self.get_openlineage_facets_on_failure(None)))

    quoted = f"http://u:{marker}@files.example.org/x.csv?token={marker}"
    asked = f"SELECT ts, x FROM {lab.table('source')} WHERE length(encrypt('aes-128-ecb', 'x', '{marker:.<16}'))"
    asked += f" AND NOT throwIf(x >= 240, '{quoted}')"
    flow = backfill(str(lab.table("target")), {**WINDOW, "select": asked}, operator=Asked)
    with caplog.at_level("DEBUG", "airflow.task"):
        assert flow.start() == "failed"
    with create_session() as session:
        pushed = session.scalars(select(XComModel.value).where(XComModel.run_id == flow.run.run_id)).all()
    assert "**Write mode**" in str(pushed), "the summary is among them"
    assert "**Chunks add up** shown by rule" in str(pushed), "who approves a plan reads why its chunks add up"
    assert any("files.example.org" in text for text in told), "the error itself is told"
    shown = capfd.readouterr()
    assert marker not in "".join([str(pushed), *told, caplog.text, shown.out, shown.err])


def test_no_row_sends_no_asset_event(lab: Lab, backfill: Make) -> None:
    """A consumer would run for nothing, so sending the event has to be requested."""
    from airflow_provider_backfill.airflow_support.lineage import target_asset

    asset = target_asset(str(lab.table("target")))
    nothing = {**WINDOW, "select": f"SELECT ts, x FROM {lab.table('source')} WHERE x < 0"}
    for asked, expected in (({}, 0), ({"announce_empty": True}, 1)):
        flow = backfill(str(lab.table("target")), nothing, sensor={"outlets": [asset], **asked})
        assert flow.start() == "success"
        assert len(events_of(asset.name)) == expected


def events_of(name: str) -> list[Any]:
    """The events of an asset, as Airflow has them."""
    from airflow.models.asset import AssetEvent, AssetModel
    from airflow.utils.session import create_session
    from sqlalchemy import select

    with create_session() as session:
        query = select(AssetEvent).join(AssetModel, AssetModel.id == AssetEvent.asset_id).where(AssetModel.name == name)
        return list(session.scalars(query))


def test_chunks_rows_and_seconds_are_counted(lab: Lab, backfill: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As any StatsD that Airflow is configured with gets them."""
    from airflow_provider_backfill.airflow_support.compat import Stats

    seen: list[tuple[str, Any, Any]] = []
    monkeypatch.setattr(Stats, "incr", lambda name, number=1, **more: seen.append((name, number, more.get("tags"))))
    monkeypatch.setattr(Stats, "timing", lambda name, value, **more: seen.append((name, value, more.get("tags"))))
    flow = backfill(str(lab.table("target")), {**WINDOW, "source": str(lab.table("source"))})
    assert flow.start() == "success"
    ours = [entry for entry in seen if entry[0].startswith("clickhouse_backfill.")]
    tags = {"target": str(lab.table("target")), "dag_id": flow.dag.dag_id}
    assert [entry for entry in ours if entry[0].endswith("rows")] == [("clickhouse_backfill.rows", 240, tags)] * 2
    assert sum(entry[0] == "clickhouse_backfill.chunks_done" for entry in ours) == 2
    assert all(entry[1].total_seconds() > 0 for entry in ours if entry[0] == "clickhouse_backfill.chunk_seconds")


def test_a_line_about_a_chunk_says_window_and_reason_first_and_the_query_last(
    lab: Lab, backfill: Make, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AIRFLOW__LOGGING__LOGGING_LEVEL", "INFO")
    flow = backfill(
        str(lab.table("target")),
        {**WINDOW, "select": f"SELECT ts, x FROM {lab.table('source')} WHERE NOT throwIf(x = 5)"},
    )
    assert flow.start() == "failed"
    plan_id = flow.result("plan", "plan_id")
    lines = [line for line in "".join(capfd.readouterr()).splitlines() if "failed permanently" in line]
    assert lines
    attempt = rf"attempt 1, query backfill-{plan_id}-[0-9a-f]{{16}}-1"
    said = rf"2025-01-0[12]: .*throwIf.* \(failed permanently, [0-9.]+ s, {attempt}\)"
    for line in lines:
        assert re.search(said, line), line


@pytest.fixture
def s3_server() -> Iterator[S3Server]:
    """A running S3 server."""
    with S3Server() as server:
        yield server


def test_credentials_of_an_object_store_come_from_a_connection(
    s3_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the connection's id in the URL, as in Airflow's own object paths; it is shown nowhere."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    bucket = s3_server.new_bucket()
    connection = {
        "conn_type": "aws",
        "login": "somebody",
        "password": "a secret of theirs",
        "extra": {"endpoint_url": s3_server.url, "region_name": "us-east-1"},
    }
    monkeypatch.setenv("AIRFLOW_CONN_STATE_STORE", json.dumps(connection))
    session = open_session(Options(state_dir=f"s3://state_store@{bucket}/backfills"), "test")
    assert list(session.store.plan_ids()) == []
    assert session.store.plan_path("0123456789abcdef") == f"s3://{bucket}/backfills/plans/0123456789abcdef.json"


def test_a_connection_that_is_not_there_is_named() -> None:
    with pytest.raises(AirflowFailException, match="There is no Airflow connection 'nobody'"), airflow_errors():
        open_session(Options(state_dir="s3://nobody@bucket/backfills"), "test")
