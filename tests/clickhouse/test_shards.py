"""The rows of all shards must not land on one of them while every light is green."""

from __future__ import annotations

import pytest

from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import Lab


@pytest.fixture
def spread(http_lab: Lab) -> Lab:
    """A source over two shards, and a target that both have: one process is seen twice."""
    http_lab.sql(
        "CREATE TABLE local (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO local SELECT number, toDateTime('2025-01-01', 'UTC') + number FROM numbers(100)",
        "CREATE TABLE spread AS local ENGINE = Distributed(two_shards, currentDatabase(), local, rand())",
        "CREATE TABLE target AS local",
    )
    return http_lab


def test_a_distributed_source_into_a_local_target_is_refused(spread: Lab) -> None:
    with pytest.raises(RequestError, match="local table on 2 of its shards") as caught:
        spread.plan("target", "2025-01-01", "2025-01-02", 24, source="spread")
    assert "--one-shard" in caught.value.hint
    assert spread.leftovers() == []


def test_it_may_be_wanted(spread: Lab) -> None:
    spread.fill("target", "2025-01-01", "2025-01-02", 24, source="spread", one_shard=True)
    # Both shards of this cluster are the same server, so each row comes twice.
    assert spread.value("SELECT count() FROM target") == 200


def test_a_local_source_is_not_asked_about(spread: Lab) -> None:
    spread.fill("target", "2025-01-01", "2025-01-02", 24, source="local")
    assert spread.value("SELECT count() FROM target") == 100


def test_a_target_that_one_shard_has_is_fine(spread: Lab) -> None:
    spread.sql("CREATE TABLE alone AS local ENGINE = Distributed(one_shard, currentDatabase(), local)")
    spread.fill("target", "2025-01-01", "2025-01-02", 24, source="alone")
    assert spread.value("SELECT count() FROM target") == 100
