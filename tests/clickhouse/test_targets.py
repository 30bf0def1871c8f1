"""Targets as they are: tables of old versions, of other settings, of experimental and suspicious types."""

# ruff: noqa: E501 - a definition a line
from __future__ import annotations

from typing import NamedTuple
from uuid import uuid4

import pytest
from clickhouse_connect.driver.exceptions import DatabaseError

from airflow_provider_backfill.clickhouse.attempt import Step
from airflow_provider_backfill.commands.plan import create_plan
from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.chunking import parse_length
from airflow_provider_backfill.core.instants import parse_instant
from airflow_provider_backfill.core.plan import WriteMode
from airflow_provider_backfill.core.request import PlanRequest
from airflow_provider_backfill.core.tables import TableName
from airflow_provider_backfill.errors import RequestError, StatementRefusedError
from tests.clickhouse.lab import Lab, once

WINDOW = ("2025-01-01", "2025-01-04")


class Target(NamedTuple):
    """
    A table as users have it.

    Attributes:
        columns: The columns in addition to ``ts`` and ``id``.
        engine: Its engine clause.
        values: Expressions for these columns, over a source with ``ts`` and ``id``.
        settings: Settings of the session that creates the table.
        compared: The expressions to compare; states have to be finalised.
    """

    columns: str
    engine: str
    values: str = ""
    settings: str = ""
    compared: str = "*"
    mode: WriteMode | None = None


MERGE_TREE = "MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts"
SUMS = "SimpleAggregateFunction(sum, UInt64)"
TARGETS = {
    "suspicious LowCardinality": Target(
        "n LowCardinality(UInt32)", MERGE_TREE, "toUInt32(id) AS n", "allow_suspicious_low_cardinality_types = 1"
    ),
    "FixedString(300)": Target(
        "f FixedString(300)",
        MERGE_TREE,
        "toFixedString(toString(id), 300) AS f",
        "allow_suspicious_fixed_string_types = 1",
    ),
    "suspicious Variant": Target(
        "v Variant(UInt32, Int64)",
        MERGE_TREE,
        "toUInt32(id) AS v",
        "allow_suspicious_variant_types = 1",
        "ts, id, toString(v)",
    ),
    "JSON": Target("j JSON", MERGE_TREE, "concat('{\"a\":', toString(id), '}') AS j", compared="ts, id, toString(j)"),
    "Dynamic": Target("d Dynamic", MERGE_TREE, "toString(id) AS d", compared="ts, id, toString(d)"),
    "nullable key": Target(
        "k Nullable(UInt32)",
        "MergeTree ORDER BY (ts, k) SETTINGS allow_nullable_key = 1",
        "if(id % 5 = 0, NULL, toUInt32(id)) AS k",
    ),
    "nullable partition key": Target(
        "k Nullable(UInt8)",
        "MergeTree PARTITION BY (toYYYYMMDD(ts), k) ORDER BY ts SETTINGS allow_nullable_key = 1",
        "if(id % 3 = 0, NULL, toUInt8(id % 3)) AS k",
        mode=WriteMode.REPLACE,
    ),
    "SimpleAggregateFunction in the key": Target(
        "s SimpleAggregateFunction(max, UInt64)",
        "MergeTree ORDER BY (ts, s)",
        "id AS s",
        "allow_suspicious_primary_key = 1",
    ),
    "a dimension outside the key": Target(
        f"host String, n {SUMS}",
        "AggregatingMergeTree ORDER BY (ts, id) SETTINGS allow_dimensions_outside_sorting_key = 1",
        "'h' AS host, 1 AS n",
    ),
    "constant TTL": Target(
        "",
        "MergeTree ORDER BY ts TTL toDate('2020-01-01') + INTERVAL 1 DAY",
        settings="allow_suspicious_ttl_expressions = 1",
    ),
    "TTL that is past": Target("", "MergeTree PARTITION BY toYYYYMM(ts) ORDER BY ts TTL ts + INTERVAL 1 DAY"),
    "TTL of a column": Target("c String TTL ts + INTERVAL 1 DAY", MERGE_TREE, "'c' AS c"),
    "Nested as it is": Target(
        "n Nested(a UInt32, b String)",
        MERGE_TREE,
        "[(toUInt32(id), 'x')]::Nested(a UInt32, b String) AS n",
        "flatten_nested = 0",
    ),
    "Nested, flattened": Target("n Nested(a UInt32, b String)", MERGE_TREE, "[toUInt32(id)] AS `n.a`, ['x'] AS `n.b`"),
    "projections": Target(
        "PROJECTION p (SELECT ts, count() GROUP BY ts), PROJECTION q (SELECT * ORDER BY id)", MERGE_TREE
    ),
    "projections where rows are replaced": Target(
        "PROJECTION p (SELECT ts, count() GROUP BY ts)",
        "ReplacingMergeTree ORDER BY (ts, id) SETTINGS deduplicate_merge_projection_mode = 'rebuild'",
    ),
    "statistics": Target(
        "v UInt32 STATISTICS(tdigest, uniq)",
        MERGE_TREE,
        "toUInt32(id) AS v",
        "allow_statistics = 1, allow_experimental_statistics = 1",
    ),
    "text index": Target(
        "t String, INDEX i t TYPE text(tokenizer = 'splitByNonAlpha')", MERGE_TREE, "toString(id) AS t"
    ),
    "vector index": Target(
        "v Array(Float32), INDEX i v TYPE vector_similarity('hnsw', 'L2Distance', 3)",
        MERGE_TREE,
        "[toFloat32(id), 1, 2]::Array(Float32) AS v",
    ),
    "suspicious index": Target("INDEX i (ts, ts) TYPE minmax", f"{MERGE_TREE} SETTINGS allow_suspicious_indices = 1"),
    "suspicious codec": Target(
        "c UInt32 CODEC(LZ4, LZ4)", MERGE_TREE, "toUInt32(id) AS c", "allow_suspicious_codecs = 1"
    ),
    "reverse key": Target("", "MergeTree ORDER BY (ts DESC, id) SETTINGS allow_experimental_reverse_key = 1"),
    "sampling key": Target(
        "", "MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (ts, intHash32(id)) SAMPLE BY intHash32(id)"
    ),
    "float partition key": Target(
        "f Float32",
        "MergeTree PARTITION BY (toDate(ts), f) ORDER BY ts SETTINGS allow_floating_point_partition_key = 1",
        "toFloat32(id % 2) AS f",
        mode=WriteMode.REPLACE,
    ),
    "tuple partition key": Target(
        "kind String",
        "MergeTree PARTITION BY (kind, toMonday(ts), toDate(ts)) ORDER BY ts",
        "['a', 'b'][1 + id % 2] AS kind",
        mode=WriteMode.REPLACE,
    ),
    "no sorting key": Target("", "MergeTree ORDER BY tuple()"),
    "constraint and defaults": Target(
        "a UInt64 DEFAULT id + 1, b UInt64 MATERIALIZED id * 2, c UInt64 ALIAS id, e String EPHEMERAL, CONSTRAINT k CHECK id < 1000000",
        MERGE_TREE,
    ),
}


# Tables that today's server refuses to create in any session, but an older one created.
OLDER = {
    "a dimension outside the key": Target(
        f"host String, n {SUMS}", "AggregatingMergeTree ORDER BY (ts, id)", "'h' AS host, 1 AS n"
    ),
    "a nullable key": Target("k Nullable(UInt32)", "MergeTree ORDER BY (ts, k)", "toUInt32(id) AS k"),
    "a projection where rows are replaced": Target(
        "PROJECTION p (SELECT ts, count() GROUP BY ts)", "ReplacingMergeTree ORDER BY (ts, id)"
    ),
}


@pytest.fixture
def source(lab: Lab) -> Lab:
    """Four days of events, of which three are the window."""
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 1200, number FROM numbers(288)",
    )
    return lab


def create(one: Target, table: str) -> str:
    """The statement that makes a table of the definition."""
    between = ", " if one.columns else ""
    return f"{table} (ts DateTime('UTC'), id UInt64{between}{one.columns}) ENGINE = {one.engine}"


def fill(lab: Lab, one: Target) -> None:
    """Plan, run and verify, and compare the target with the same SELECT inserted in one statement."""
    lab.sql("SYSTEM STOP TTL MERGES dst", "SYSTEM STOP TTL MERGES truth")
    select = f"SELECT ts, id{', ' if one.values else ''}{one.values} FROM {lab.table('src')}"
    columns = ", ".join(f"`{name}`" for (name, *_) in lab.rows(f"DESCRIBE TABLE ({select})"))
    lab.sql(f"INSERT INTO truth ({columns}) SELECT {columns} FROM ({select}) WHERE ts < '2025-01-04'")
    plan = lab.plan("dst", *WINDOW, 24, select=select, write_mode=one.mode)
    payload = lab.run(plan)
    assert (payload["status"], payload["rowsWritten"]) == ("completed", 216), payload
    assert lab.content("dst", one.compared) == lab.content("truth", one.compared)
    assert verify_plan(lab.session, plan["planId"])["ok"]
    assert lab.leftovers() == []


@pytest.mark.parametrize("name", TARGETS)
def test_a_target_as_it_is(source: Lab, name: str) -> None:
    """What a session could make with its settings is staged, published and verified in one that has none of them."""
    one = TARGETS[name]
    settings = dict(pair.split(" = ") for pair in one.settings.split(", ") if pair)
    for table in ("dst", "truth"):
        source.engine.client.command(f"CREATE TABLE {create(one, table)}", settings=settings)
    fill(source, one)


@pytest.mark.parametrize("name", OLDER)
def test_a_target_that_an_older_version_has_made(http_lab: Lab, name: str) -> None:
    """After an upgrade, a server attaches tables that it would not create; settings permit the copies."""
    one, lab = OLDER[name], http_lab
    lab.sql(
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 1200, number FROM numbers(288)",
    )
    with pytest.raises(DatabaseError):
        lab.sql(f"CREATE TABLE {create(one, 'dst')}")
    for table in ("dst", "truth"):
        lab.sql(f"ATTACH TABLE {create(one, f'{table} UUID ' + repr(str(uuid4())))}")
    fill(lab, one)


def test_a_target_of_the_old_syntax_is_refused_with_a_way(source: Lab) -> None:
    """Its copies can have no settings, so nothing keeps the parts of a staging table from being merged while moved."""
    source.engine.client.command(
        "CREATE TABLE dst (ts DateTime('UTC'), id UInt64, day Date) ENGINE = MergeTree(day, (ts, id), 8192)",
        settings={"allow_deprecated_syntax_for_merge_tree": 1},
    )
    select = f"SELECT ts, id, toDate(ts) AS day FROM {source.table('src')}"
    with pytest.raises(RequestError, match="old syntax") as refused:
        source.plan("dst", *WINDOW, 24, select=select)
    assert "PARTITION BY toYYYYMM(day) ORDER BY (ts, id)" in refused.value.hint
    source.fill("dst", *WINDOW, 24, select=select, write_mode=WriteMode.INSERT, accept_at_least_once=True)
    assert source.value("SELECT count() FROM dst") == 216


@pytest.mark.parametrize("mode", [WriteMode.STAGE, WriteMode.REPLACE])
@pytest.mark.parametrize("step", ["verified", "moved", "replaced"])
def test_a_target_whose_database_renames_no_table(http_lab: Lab, mode: WriteMode, step: str) -> None:
    """
    In a database of the engine Memory, only the log shows which table of a chunk is published, also
    after a failure.
    """
    lab, database = http_lab, f"{http_lab.engine.database}_memory"
    lab.sql(
        f"CREATE DATABASE {database} ENGINE = Memory",
        f"CREATE TABLE {database}.dst (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 1200, number FROM numbers(216)",
    )
    try:
        request = PlanRequest(
            target=TableName(database, "dst"),
            start=parse_instant(WINDOW[0]),
            end=parse_instant(WINDOW[1]),
            chunking=parse_length("24"),
            source=lab.table("src"),
            write_mode=mode,
        )
        plan = create_plan(lab.session, request)
        error = StatementRefusedError("broken off", code=209, name="SOCKET_TIMEOUT")
        assert lab.run(plan, step=once(step, error, nth=2))["status"] == "completed"
        assert lab.content(f"{database}.dst") == lab.content("src")
        assert lab.rows(f"SHOW TABLES FROM {database}") == [("dst",)]
    finally:
        lab.sql(f"DROP DATABASE {database}")


@pytest.mark.parametrize("mode", [WriteMode.STAGE, WriteMode.REPLACE])
def test_staging_tables_in_a_database_of_their_own(http_lab: Lab, mode: WriteMode) -> None:
    """No table of a chunk is in the target's database, and no table is left in either database."""
    lab, database = http_lab, f"{http_lab.engine.database}_staging"
    lab.sql(
        f"CREATE DATABASE {database}",
        "CREATE TABLE src (ts DateTime('UTC'), id UInt64) ENGINE = MergeTree PARTITION BY toDate(ts) ORDER BY ts",
        "INSERT INTO src SELECT toDateTime('2025-01-01', 'UTC') + number * 1200, number FROM numbers(216)",
        "CREATE TABLE dst AS src",
    )
    seen: set[str] = set()

    def look(step: Step) -> None:
        if step is Step.STAGED:
            seen.update(f"{row[0]}" for row in lab.rows(f"SHOW TABLES FROM {database}"))
            assert [name for name in lab.leftovers() if "fence" not in name] == []

    try:
        plan = lab.plan("dst", *WINDOW, 24, source="src", write_mode=mode, staging_database=database)
        assert lab.run(plan, step=look)["status"] == "completed"
        assert len({name for name in seen if name.endswith("_1")}) == 3
        assert lab.content("dst") == lab.content("src")
        assert (lab.leftovers(), lab.rows(f"SHOW TABLES FROM {database}")) == ([], [])
    finally:
        lab.sql(f"DROP DATABASE {database}")


def test_a_staging_database_that_is_not_there(source: Lab) -> None:
    source.sql("CREATE TABLE dst AS src")
    with pytest.raises(RequestError, match="no database nowhere") as refused:
        source.plan("dst", *WINDOW, 24, source="src", staging_database="nowhere")
    assert "CREATE DATABASE" in refused.value.hint
