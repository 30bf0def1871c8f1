"""Each row has one shard: the slots of all shards are all slots, and a row's slot follows from its values alone."""

from __future__ import annotations

from typing import Any

import pytest

from airflow_provider_backfill.airflow_support.summary import plan_summary
from airflow_provider_backfill.clickhouse.shards import sharding_key
from airflow_provider_backfill.commands.dealing import sharding_key_of
from airflow_provider_backfill.core.dealing import as_number, chance, hashed_columns
from airflow_provider_backfill.core.facts import Column
from airflow_provider_backfill.core.plan import Shard, Statement
from airflow_provider_backfill.core.plan_words import rows_of_shards
from airflow_provider_backfill.core.query_tree import parse_tree
from airflow_provider_backfill.core.shares import Dealing, share_of
from airflow_provider_backfill.core.tables import TableName, TimeKind
from airflow_provider_backfill.errors import RequestError
from airflow_provider_backfill.state.store import StateStore
from airflow_provider_backfill.web.views.plan_payload import definition_payload
from tests.state import make_plan

_ALL = "; each of the 2 shards reads the whole source"
KEY = Dealing(key="toUInt64(id)", columns=("id",), sharding_key="id", follows=True)


def _holds(share: str, row: int) -> bool:
    """Whether a row of that id meets a condition as the server would reckon it."""
    python = share.replace("toUInt64(id)", str(row)).replace(" AND ", " and ").replace(" = ", " == ")
    return bool(eval(python))  # noqa: S307 - a condition of integers


@pytest.mark.parametrize("weights", [{1: 1}, {1: 1, 2: 1}, {1: 3, 2: 1, 5: 2}, {1: 0, 2: 2, 3: 1}], ids=str)
def test_every_row_has_one_shard_whatever_the_weights(weights: dict[int, int]) -> None:
    slots = [number for number, weight in weights.items() for _ in range(weight)]
    for row in range(100):
        found = [number for number in weights if _holds(KEY.share(weights, number), row)]
        assert found == [slots[row % len(slots)]]


@pytest.mark.parametrize(
    ("engine", "key"),
    [
        ("Distributed('c', 'd', 't')", ""),
        ("Distributed('c', 'd', 't', rand())", "rand()"),
        ("Distributed('c', 'd', 't', cityHash64(a, f(b, ',)')), 'policy')", "cityHash64(a, f(b, ',)'))"),
        ("Distributed('c', 'd', 't', intHash64(id)) SETTINGS fsync_after_insert = 1, x = 2", "intHash64(id)"),
    ],
)
def test_the_sharding_key_is_read_from_the_engine(engine: str, key: str) -> None:
    assert sharding_key(engine) == key


def test_a_negative_key_is_taken_for_an_unsigned_one_of_as_many_bits() -> None:
    assert as_number("id", "Int32") == "toUInt32(id)"
    assert as_number("id", "LowCardinality(UInt8)") == "toUInt8(id)"
    assert [as_number("id", kind) for kind in ("String", "UInt128", "Nullable(UInt64)", "Float64")] == [None] * 4


def test_rows_that_merge_are_dealt_out_together() -> None:
    columns = (
        Column("day", "Date", in_key=True),
        Column("price", "Float64", in_key=True),
        Column("users", "AggregateFunction(uniq, UInt64)"),
        Column("name", "String"),
    )
    filled = [column.name for column in columns]
    assert hashed_columns(columns, filled, has_key=True) == ("day",)
    assert hashed_columns(columns, filled, has_key=False) == ("day", "name")
    assert hashed_columns(columns, ["name"], has_key=True) == ()


def test_a_share_is_of_the_values_that_an_insert_makes() -> None:
    share = share_of("SELECT 1 AS id -- one", ("id", "n"), {"id": "CAST(`id` AS UInt64)"}, "id % 2 = 1")
    inner = "SELECT CAST(`id` AS UInt64) AS `id`, `n` FROM (\nSELECT 1 AS id -- one\n)"
    assert share == f"SELECT `id`, `n` FROM ({inner}) WHERE id % 2 = 1"


def test_a_shard_sees_its_share_and_the_file_does_not_know() -> None:
    shards = tuple(Shard(number=number, table=f"/t/{number}", urls=("http://s:8123",)) for number in (1, 2))
    statement = Statement(
        name="d.s", select="SELECT id FROM d.s", source=None, time_kind=TimeKind.DATETIME, columns=("id",)
    )
    plan = make_plan(2, shards=shards, dealing=KEY, statements=(statement,))
    queries = [plan.on_shard(number).statements[0].query for number in (1, 2)]
    assert [query.endswith(f") % 2 = {slot}") for slot, query in enumerate(queries)] == [True, True]
    assert plan.statements[0].query == plan.statements[0].select
    assert "share" not in plan.on_shard(1).model_dump_json(by_alias=True)


@pytest.mark.parametrize(
    ("dealing", "words"),
    [
        (None, "each shard is filled from its own source"),
        (KEY, f"each row goes to the shard that the sharding key says, id{_ALL}"),
        (
            KEY.model_copy(update={"sharding_key": "", "follows": False}),
            f"each row goes to one shard, by a hash of `id`, since there is no sharding key{_ALL}",
        ),
    ],
)
def test_page_and_approval_say_where_the_rows_of_a_shard_come_from(
    dealing: Dealing | None, words: str, store: StateStore
) -> None:
    """Whoever approves a plan must know whether rows move between shards."""
    shards = tuple(Shard(number=number, table=f"/t/{number}", urls=("http://s:8123",)) for number in (1, 2))
    plan = make_plan(2, shards=shards, dealing=dealing)
    assert definition_payload(plan, store)["rowsOfShards"] == words
    payload: dict[str, Any] = {
        **dict.fromkeys(("target", "timeColumn", "writeMode", "modeReason", "guarantee", "planId"), "x"),
        "from": "2025-01-01T00:00:00Z",
        "to": "2025-01-02T00:00:00Z",
        "chunkCount": 4,
        "existingRows": 0,
        "statements": [],
        "addsUp": None,
        "missedViews": [],
        "shards": [{}, {}],
        "rowsOfShards": words,
    }
    assert f"**Shards** 2: {words}" in plan_summary(payload, 1, "page")
    assert "**Shards**" not in plan_summary(
        {**payload, "shards": [], "rowsOfShards": rows_of_shards(make_plan())}, 1, ""
    )


@pytest.mark.parametrize(
    ("lines", "found"),
    [
        (("QUERY id: 0", "  JOIN TREE", "    TABLE id: 1, table_name: d.t"), ""),
        (
            (
                "QUERY id: 0",
                "  JOIN TREE",
                "    TABLE id: 1, table_name: d.t",
                "  LIMIT",
                "    CONSTANT id: 2, constant_value: UInt64_5, constant_value_type: UInt64",
            ),
            "LIMIT",
        ),
        (
            (
                "QUERY id: 0",
                "  JOIN TREE",
                "    TABLE id: 1, table_name: d.t",
                "  WHERE",
                "    FUNCTION id: 2, function_name: rand, function_type: ordinary, result_type: UInt32",
            ),
            "rand in WHERE",
        ),
        (
            (
                "QUERY id: 0",
                "  JOIN TREE",
                "    TABLE id: 1, table_name: d.t",
                "  WHERE",
                "    FUNCTION id: 2, function_name: now, function_type: ordinary, result_type: DateTime",
            ),
            "",
        ),
    ],
)
def test_what_chooses_other_rows_each_time_is_seen(lines: tuple[str, ...], found: str) -> None:
    assert chance(parse_tree(lines)) == found


def test_of_several_sharding_keys_the_target_names_one() -> None:
    keys = {TableName("d", "by_id"): "id", TableName("d", "by_chance"): "rand()"}
    assert sharding_key_of(keys, TableName("d", "by_id")) == "id"
    assert sharding_key_of({}, TableName("d", "local")) == ""
    with pytest.raises(RequestError, match="several sharding keys"):
        sharding_key_of(keys, TableName("d", "local"))
