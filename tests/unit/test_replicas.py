"""The tables of a replicated target, and the rules of its log."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.core.facts import Replicas
from airflow_provider_backfill.core.replay import apply_event, new_run
from airflow_provider_backfill.core.run_state import Staged
from airflow_provider_backfill.core.sql import create_like
from airflow_provider_backfill.errors import TransitionError
from tests.state import chunks_of, failed, make_plan, started, verified
from tests.unit.test_checks import TARGET

BESIDE = Replicas("default", "/t/01/orders", "r1", ("r1", "r2"), 2, "main", False, "/t/{shard}/orders", "'{replica}'")
BY_DATABASE = BESIDE._replace(cluster="", by_database=True, beside="", name="")


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ("ReplicatedMergeTree('/t/{shard}/orders', '{replica}') ORDER BY x", "ReplicatedMergeTree({}) ORDER BY x"),
        (
            "ReplicatedReplacingMergeTree('/t/{shard}/orders', '{replica}', version) ORDER BY x SETTINGS a = 1",
            "ReplicatedReplacingMergeTree({}, version) ORDER BY x SETTINGS a = 1",
        ),
        (
            r"ReplicatedSummingMergeTree('/it\'s/a, \'path\'', 'r1', (a, b)) ORDER BY x",
            "ReplicatedSummingMergeTree({}, (a, b)) ORDER BY x",
        ),
    ],
)
def test_a_table_beside_has_the_engine_with_a_path_of_its_own(engine: str, expected: str) -> None:
    assert BESIDE.engine(engine, "copy") == expected.format("'/t/{shard}/orders_copy', '{replica}'")


def test_a_replicated_database_chooses_the_path() -> None:
    engine = "ReplicatedReplacingMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}', version) ORDER BY x"
    assert BY_DATABASE.engine(engine, "copy") == "ReplicatedReplacingMergeTree(version) ORDER BY x"
    plain = "ReplicatedMergeTree('/clickhouse/tables/{uuid}/{shard}', '{replica}') ORDER BY x"
    assert BY_DATABASE.engine(plain, "copy") == "ReplicatedMergeTree() ORDER BY x"


def test_a_copy_is_made_on_the_cluster_that_has_all_replicas() -> None:
    engine = "ReplicatedMergeTree('/t/{shard}/orders', '{replica}') ORDER BY x"
    copy = TARGET._replace(table="copy")
    assert create_like(copy, TARGET, engine, "why", again=True, replicas=BESIDE, cluster="main") == (
        "CREATE TABLE IF NOT EXISTS `shop`.`copy` ON CLUSTER `main` AS `shop`.`orders`"
        " ENGINE = ReplicatedMergeTree('/t/{shard}/orders_copy', '{replica}') ORDER BY x COMMENT 'why'"
    )


def test_all_replicas_are_reached_by_a_cluster_by_the_database_or_when_there_is_one() -> None:
    assert BESIDE.reaches_all
    assert BY_DATABASE.reaches_all
    assert BESIDE._replace(cluster="", total=1).reaches_all
    assert not BESIDE._replace(cluster="").reaches_all


def test_what_one_attempt_has_staged_on_replicas_no_later_one_replaces() -> None:
    """It may already be partly published, through a server that no longer answers."""
    plan = make_plan(1)
    (chunk,) = chunks_of(plan)
    first, second = Staged("backfill_1", (("202501", "aa"),)), Staged("backfill_2", (("202501", "bb"),))
    run = new_run(plan)
    for event in (started(plan, chunk), verified(chunk).model_copy(update={"staged": first}), failed(chunk)):
        apply_event(run, event)
    apply_event(run, started(plan, chunk, 2))
    with pytest.raises(TransitionError, match="has staged its rows in backfill_1"):
        apply_event(run, verified(chunk, 2).model_copy(update={"staged": second}))
    assert run.state(chunk.id).staged == first
