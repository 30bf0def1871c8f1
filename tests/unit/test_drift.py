"""Changes since the planning, detected from facts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from airflow_provider_backfill.core.drift import compatibility_token, detect_drift, planned_views
from airflow_provider_backfill.core.facts import Column, TableFacts
from airflow_provider_backfill.core.plan import Plan, Statement
from airflow_provider_backfill.core.tables import TableName, TimeKind
from tests.state import make_plan

NAME = TableName("shop", "orders")
TARGET = TableFacts(NAME, NAME, "MergeTree", (Column("a", "UInt8"), Column("b", "Date")), "b", "a", "MergeTree", None)
VIEW = Statement(
    name="shop.view", select="SELECT a", source=TableName("shop", "raw"), time_kind=TimeKind.DATE, columns=("a",)
)
VIEWS = {"shop.view": "SELECT a"}


def planned(*statements: Statement, token: str | None = None) -> Plan:
    plan = make_plan().model_copy(update={"statements": statements or (VIEW,)})
    now = compatibility_token(plan.statements, TARGET, use_tokens=plan.use_tokens)
    return plan.model_copy(update={"compatibility_token": now if token is None else token})


def drift(plan: Plan, target: TableFacts = TARGET, views: dict[str, str] | None = None, **changes: Any) -> list[str]:
    given = {"use_tokens": plan.use_tokens, "connection": "time zone UTC", **changes}
    return detect_drift(plan, target, VIEWS if views is None else views, **given)


def test_nothing_has_changed() -> None:
    assert drift(planned()) == []


@pytest.mark.parametrize(
    ("views", "found"),
    [
        ({}, "the view shop.view does not write to shop.orders"),
        ({"shop.view": "SELECT b"}, "the view shop.view has another SELECT"),
        ({**VIEWS, "shop.new": "SELECT 1"}, "the view shop.new writes to shop.orders as well"),
    ],
)
def test_views(views: dict[str, str], found: str) -> None:
    plan = planned()
    assert drift(plan, views=views) == [found.replace("shop.orders", str(plan.target))]


@pytest.mark.parametrize(
    ("then", "now", "found"), [("1", "2", True), ("1", "1", False), ("", "2", False), ("1", "", False)]
)
def test_another_table_of_the_name(then: str, now: str, found: bool) -> None:
    """A plan of an older version, and a database without UUIDs, tell nothing."""
    plan = planned().model_copy(update={"target_identity": then})
    assert drift(plan, replace(TARGET, uuid=now)) == [f"{plan.target} is another table"] * found


@pytest.mark.parametrize(("then", "found"), [("time zone UTC", False), ("", False), ("time zone Asia/Tokyo", True)])
def test_another_connection(then: str, found: bool) -> None:
    """A copy of a table, and a plan of an older version, do not depend on the connection."""
    plan = planned().model_copy(update={"connection": then})
    assert drift(plan) == ["the connection has the time zone UTC, and had the time zone Asia/Tokyo"] * found


def test_views_of_a_plan_with_another_source_are_none_of_its_business() -> None:
    copy = VIEW.model_copy(update={"name": "shop.raw"})
    assert planned_views(planned(copy)) == {}
    assert drift(planned(copy), views={"shop.new": "SELECT 1"}) == []
    assert planned_views(planned()) == VIEWS


@pytest.mark.parametrize(
    "changes",
    [
        {"columns": (*TARGET.columns, Column("c", "UInt8"))},
        {"columns": (Column("a", "UInt16"), TARGET.columns[1])},
        {"columns": (Column("a", "UInt8", "MATERIALIZED"), TARGET.columns[1])},
        {"sorting_key": "b"},
        {"partition_key": "a"},
        {"engine": "ReplacingMergeTree"},
    ],
)
def test_the_targets_columns_and_keys(changes: dict[str, Any]) -> None:
    plan = planned()
    assert drift(plan, replace(TARGET, **changes)) == [f"{plan.target} has other columns or keys"]
    assert drift(planned(token=""), replace(TARGET, **changes)) == [], "a plan without a token says nothing of them"


def test_the_option_for_tokens() -> None:
    plan = planned()
    assert drift(plan, use_tokens=not plan.use_tokens) == [
        f"defaults.requireIdempotencyToken is {str(not plan.use_tokens).lower()}"
    ]


def test_the_token_is_of_everything_that_affects_the_data() -> None:
    def token(statement: Statement = VIEW, *, use_tokens: bool = True) -> str:
        return compatibility_token([statement], TARGET, use_tokens=use_tokens)

    changed = [
        VIEW.model_copy(update={name: value})
        for name, value in (("name", "x"), ("select", "SELECT 2"), ("source", "shop.x"), ("columns", ("b",)))
    ]
    tokens = {token(), token(use_tokens=False), *(token(statement) for statement in changed)}
    assert len(tokens) == 6
    assert all(len(one) == 64 for one in tokens)
    assert token(VIEW.model_copy(update={"reads": 5})) == token()
