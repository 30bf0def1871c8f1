"""A plan is named by a beginning of its id, as the last one, or by its table: no command needs 16 digits by hand."""

from __future__ import annotations

from datetime import timedelta

from airflow_provider_backfill.core.events import RunCancelled
from airflow_provider_backfill.core.plan import Plan
from airflow_provider_backfill.state.store import StateStore
from tests.command_line import Cli
from tests.state import START, make_plan


def _save(store: StateStore, target: str, hours: int = 0) -> Plan:
    plan = make_plan(2, target=target, planned_at=START + timedelta(hours=hours))
    assert store.save_plan(plan)
    return plan


def _named(cli: Cli, *words: str) -> str:
    return str(cli.json("status", *words)["planId"])


def test_a_unique_beginning_names_the_plan(cli: Cli, store: StateStore) -> None:
    first, second = _save(store, "shop.a"), _save(store, "shop.b")
    length = next(n for n in range(1, 17) if first.plan_id[:n] != second.plan_id[:n])
    assert _named(cli, first.plan_id[:length]) == first.plan_id
    assert _named(cli, "--plan-id", second.plan_id[:length]) == second.plan_id


def test_a_beginning_of_several_ids_is_refused_with_all_of_them(cli: Cli, store: StateStore) -> None:
    """A cancel must never hit the wrong plan."""
    by_digit: dict[str, list[Plan]] = {}
    for number in range(17):
        plan = _save(store, f"shop.t{number}")
        by_digit.setdefault(plan.plan_id[0], []).append(plan)
    digit, plans = next((digit, plans) for digit, plans in by_digit.items() if len(plans) > 1)
    answer = cli("cancel", digit)
    assert answer.code == 2
    assert f"{len(plans)} plan ids begin with {digit}" in answer.err
    assert all(store.open_run(plan).run.status == "planned" for plan in plans)


def test_the_last_plan_is_the_one_created_last(cli: Cli, store: StateStore) -> None:
    _save(store, "shop.a", hours=1)
    last = _save(store, "shop.b", hours=3)
    _save(store, "shop.c", hours=2)
    assert _named(cli, "--last") == last.plan_id


def test_a_table_names_its_one_open_plan(cli: Cli, store: StateStore) -> None:
    """A cancelled plan of the same table is not meant; where only ended plans are left, the one is."""
    plan, other = _save(store, "shop.a"), make_plan(3, target="shop.a")
    store.save_plan(other)
    assert "2 open plans" in cli("status", "--target", "shop.a").err
    store.open_run(other).append(RunCancelled(at=START, by="me"))
    assert _named(cli, "--target", "shop.a") == plan.plan_id
    store.open_run(plan).append(RunCancelled(at=START, by="me"))
    assert "2 plans, none of them open" in cli("status", "--target", "shop.a").err


def test_damaged_plans_are_passed_over(cli: Cli, store: StateStore) -> None:
    plan = _save(store, "shop.a")
    (cli.state / "plans" / "0123456789abcdef.json").write_text("{")
    assert _named(cli, "--last") == _named(cli, "--target", "shop.a") == plan.plan_id


def test_list_takes_a_table_and_a_status_and_prints_ids_alone(cli: Cli, store: StateStore) -> None:
    plan, other = _save(store, "shop.a"), _save(store, "shop.b")
    store.open_run(other).append(RunCancelled(at=START, by="me"))
    assert cli("list", "--target", "shop.a", "--quiet").out == f"{plan.plan_id}\n"
    assert cli("list", "--status", "cancelled", "--quiet").out == f"{other.plan_id}\n"
