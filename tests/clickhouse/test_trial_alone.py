"""
What the trial catches by itself: the same wrong kinds with the rules switched off.

The rules refuse all of them (``test_adding_up``). A trial sees rows of a few chunks only, so what needs a rare
row, or rows that these chunks have not, is the rules' to refuse.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from itertools import pairwise
from typing import Any

from airflow_provider_backfill.clickhouse import catalog
from airflow_provider_backfill.clickhouse.trial import make_trial, rows_by_bound
from airflow_provider_backfill.core.instants import from_ms, parse_instant, to_ms
from airflow_provider_backfill.core.sampling import Slice, pick_slices
from airflow_provider_backfill.core.sql import filter_setting, quote_table
from airflow_provider_backfill.core.tables import TableName
from tests.clickhouse.lab import Lab
from tests.clickhouse.test_adding_up import END, START, WRONG, Shape, qualified, shop, tables

__all__ = ["shop"]

# The first three need more rows, or other values, than the few chunks have; of the joins, each chunk that is looked
# at may find a match.
BY_RULE_ALONE = {
    "users of the source",
    "a sum into whole numbers",
    "a sum that wraps around",
    "a dimension on the left",
    "a full join",
}


def caught(lab: Lab, shape: Shape) -> bool:
    """Whether a trial over a few chunks shows a difference."""
    lab.sql("DROP TABLE IF EXISTS dst", f"CREATE TABLE dst {shape.target}")
    select = qualified(lab, shape.select)
    names = ", ".join(name for name, *_ in lab.rows(f"DESCRIBE TABLE ({select})"))
    bounds, moment = [], parse_instant(START)
    while moment <= parse_instant(END):
        bounds.append(to_ms(moment))
        moment += timedelta(hours=shape.hours)
    filtered = tables(lab, shape)
    server = lab.server()
    target = catalog.table_facts(server, lab.table("dst"))
    assert target is not None
    places = {bound: number for number, bound in enumerate(bounds)}
    rows = {places[bound]: count for bound, count in rows_by_bound(server, filtered[0], bounds, 20).items()}
    chunks = [(from_ms(start), from_ms(end)) for start, end in pairwise(bounds)]

    def fill(table: TableName, slices: Sequence[Slice], settings: Mapping[str, Any]) -> None:
        limits = filter_setting(filtered, slices)
        text = f"INSERT INTO {quote_table(table)} ({names}) SELECT {names} FROM (\n{select}\n)"
        server.command(text, {**settings, **limits})

    trial = make_trial(server, target, "0" * 16, pick_slices(chunks, rows, 1_000_000), fill, seconds=60)
    return bool(trial.differences)


def test_most_of_what_the_rules_refuse_shows_in_a_trial(shop: Lab) -> None:
    """Two proofs are better than one only where each finds the mistake by itself."""
    missed = {name for name, shape in WRONG.items() if not caught(shop, shape)}
    assert missed <= BY_RULE_ALONE, missed - BY_RULE_ALONE
    assert shop.leftovers() == []
