"""What has changed since a plan was made stops its run, unless the user wants the plan as it was."""

from __future__ import annotations

from dataclasses import replace

import pytest

from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.lab import FAST, Lab


@pytest.fixture
def planned(lab: Lab) -> tuple[Lab, str]:
    """A target that a view fills, planned for two days, nothing run."""
    lab.sql(
        "CREATE TABLE src (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT number, toDateTime('2025-01-01', 'UTC') + number * 60 FROM numbers(2880)",
        "CREATE TABLE dst (id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY ts",
        "CREATE MATERIALIZED VIEW feed TO dst AS SELECT id, ts FROM src",
    )
    return lab, lab.plan("dst", "2025-01-01", "2025-01-03", 24)["planId"]


CHANGES = {
    "another SELECT": (
        ["DROP TABLE feed", "CREATE MATERIALIZED VIEW feed TO dst AS SELECT id + 1 AS id, ts FROM src"],
        "the view {}.feed has another SELECT",
    ),
    "a view gone": (["DROP TABLE feed"], "the view {}.feed does not write to {}.dst"),
    "one more view": (
        ["CREATE MATERIALIZED VIEW more TO dst AS SELECT id, ts FROM src WHERE id > 5"],
        "the view {}.more writes to {}.dst as well",
    ),
    "another column": (["ALTER TABLE dst ADD COLUMN note String"], "{}.dst has other columns or keys"),
    "another table": (["CREATE TABLE new AS dst", "EXCHANGE TABLES new AND dst"], "{}.dst is another table"),
}


@pytest.mark.parametrize(("statements", "message"), CHANGES.values(), ids=CHANGES)
def test_a_change_stops_the_run(planned: tuple[Lab, str], statements: list[str], message: str) -> None:
    """Nothing is written, the message names the change, and both remedies work."""
    lab, plan_id = planned
    lab.sql(*statements)
    database = lab.engine.database
    with pytest.raises(RequestError) as refused:
        lab.run({"planId": plan_id})
    assert message.replace("{}", database) in refused.value.message
    assert "--force-compatibility" in refused.value.hint
    assert lab.value("SELECT count() FROM dst") == 0
    assert lab.run({"planId": plan_id}, force_compatibility=True)["status"] == "completed"
    assert lab.rows("SELECT count(), sum(id) FROM dst") == [(2880, 2880 * 2879 // 2)]


def test_a_changed_option_stops_the_run(planned: tuple[Lab, str]) -> None:
    """Tokens are part of every statement that is sent."""
    lab, plan_id = planned
    lab.options = {**FAST, "defaults": {"retryDelayMs": 1, "requireIdempotencyToken": False}}
    with pytest.raises(RequestError, match="requireIdempotencyToken is false"):
        lab.run({"planId": plan_id})
    assert lab.run({"planId": plan_id}, force_compatibility=True)["status"] == "completed"


def test_what_is_as_it_was_runs(planned: tuple[Lab, str]) -> None:
    """Another comment, setting or index of the target changes no row."""
    lab, plan_id = planned
    lab.sql("ALTER TABLE dst MODIFY COMMENT 'new'", "ALTER TABLE dst MODIFY SETTING merge_with_ttl_timeout = 100")
    assert lab.run({"planId": plan_id})["status"] == "completed"


def at_another_address(lab: Lab) -> Lab:
    """The same folder with another address: for all that the folder can know, another shard."""
    return replace(lab, engine=replace(lab.engine, url=lab.engine.url.replace("127.0.0.1", "127.0.0.2")))


def filled(lab: Lab) -> str:
    """The id of a completed plan of two days."""
    lab.with_two_days("(ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts")
    return str(lab.fill("dst", "2025-01-01", "2025-01-03", 24, source="src")["planId"])


def test_a_plan_that_is_completed_elsewhere_is_not_completed_here(http_lab: Lab) -> None:
    """Two shards' plans of one window have one id: the second must not hear "completed"."""
    plan_id = filled(http_lab)
    # A run of this id from a folder of its own, on the other shard.
    staged = f"backfill_{plan_id}_0123456789abcdef_1"
    http_lab.sql(f"CREATE TABLE {staged} (id UInt8) ENGINE = MergeTree ORDER BY id")
    there = at_another_address(http_lab)
    for resume in (False, True):
        with pytest.raises(RequestError, match=rf"Plan {plan_id} was made on .*127\.0\.0\.1.* is .*127\.0\.0\.2"):
            there.run({"planId": plan_id}, resume=resume)
    assert http_lab.leftovers() == [staged]
    assert there.run({"planId": plan_id}, force_environment=True)["noop"]
    assert http_lab.leftovers() == []


def test_a_shard_is_planned_in_a_folder_of_its_own(http_lab: Lab) -> None:
    """Planning again with --force would put away the plan of the first shard, so that nothing speaks of it again."""
    filled(http_lab)
    with pytest.raises(RequestError, match=r"environment: .*127\.0\.0\.1.*, .*127\.0\.0\.2.* now") as refused:
        at_another_address(http_lab).plan("dst", "2025-01-01", "2025-01-03", 24, source="src")
    assert "--state-dir" in refused.value.hint
    assert "--cluster" in refused.value.hint
    assert "--force" not in refused.value.hint


EXCHANGE = ("CREATE TABLE new AS dst", "EXCHANGE TABLES new AND dst")


def test_a_run_does_not_complete_over_two_tables(lab: Lab) -> None:
    """The name moves to an empty table between two chunks: the rows of the first chunk are in the old table."""
    lab.with_two_days("(ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts")
    plan = lab.plan("dst", "2025-01-01", "2025-01-03", 12, source="src")
    exchange = iter([EXCHANGE])

    def step(at: str) -> None:
        if at == "recorded":
            lab.sql(*next(exchange, ()))

    payload = lab.run(plan, step=step)
    assert (payload["status"], payload["chunkCounts"]["done"]) == ("failed", 3)
    assert "became another table while the run was at work" in payload["lastError"]
    with pytest.raises(RequestError, match="is another table") as refused:
        lab.run(plan, resume=True)
    assert "plan again with --force" in refused.value.hint
    lab.sql("TRUNCATE TABLE dst")
    assert lab.fill("dst", "2025-01-01", "2025-01-03", 12, source="src", force=True)["status"] == "completed"
    assert lab.content("dst") == lab.content("src")


@pytest.mark.parametrize("again", ["run", "plan"])
def test_a_completed_plan_says_nothing_of_a_table_that_was_created_since(lab: Lab, again: str) -> None:
    """A rebuilt table is empty: "completed already" would be green."""
    plan_id = filled(lab)
    lab.sql(*EXCHANGE)
    calls = {
        "run": lambda: lab.run({"planId": plan_id}),
        "plan": lambda: lab.plan("dst", "2025-01-01", "2025-01-03", 24, source="src"),
    }
    with pytest.raises(RequestError) as refused:
        calls[again]()
    assert "--force" in refused.value.hint
    assert lab.fill("dst", "2025-01-01", "2025-01-03", 24, source="src", force=True)["status"] == "completed"
    assert lab.content("dst") == lab.content("src")
