"""
The mistakes that a trial alone detects: the same wrong kinds with the rules switched off.

The rules refuse all of them (``test_adding_up``). A trial reads rows of a few chunks only. So the rules must refuse
mistakes that need a rare row, or rows that these chunks lack.
"""

# ruff: noqa: E501 - lines of a page
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
from tests.clickhouse.test_placed_by_user import NOT_BY_DAY, RARE_BOUNDS, WRONG_BOUNDS
from tests.command_line import REPOSITORY

__all__ = ["shop"]

# They need more rows, or other values, than the few chunks have.
BY_RULE_ALONE = {
    "argMax of a Nullable into a ReplacingMergeTree",
    "IN with a subquery on the source",
    "a sum of fractions into an integer column",
    "a sum that overflows its type",
}

_TEXT = """\
# Do the chunks add up

A plan of several chunks is right only if its chunks add up. Chunks add up if their results, merged as the target merges
rows, equal the result of the SELECT over the whole window. `plan` shows this before anything runs, and the plan keeps the
evidence. There are three kinds of evidence:

1. **By rule.** ClickHouse shows how it understands the SELECT (`EXPLAIN QUERY TREE`). The rules follow each read, join,
   group and aggregate to the columns of the target. An aggregate must end in a column that merges the aggregate.
   Otherwise each group must belong to a bucket of time that no chunk bound cuts. `plan` refuses any other SELECT, and
   names a way that works.
2. **By trial.** A few real chunks fill private tables, first one by one and then all together. The contents are compared
   after merging. If they differ, `plan` refuses the SELECT and prints three rows that differ. [What a trial
   reads](#what-a-trial-reads) has the details.
3. **By word.** `--accept-partial-groups REASON` accepts groups that chunks cut. `--no-trial` accepts a plan that the rules do
   not prove. `plan`, `doctor`, `check` and the page report such a plan permanently.

`any` and `anyLast` are accepted into a column that merges by the same function: any of the values is right, as in the
SELECT. `verify` does not compare such a column, and `plan` names the column.

A SELECT with `{day:String}` alone takes one chunk at a time. No SELECT gives the whole window, so a trial is impossible and
the rules decide: each row must come from a path or a condition of its own chunk.

## What a trial reads

- A trial reads about `limits.trialRows` rows, or a quarter of them if the rules already prove the plan.
- If the SELECT has `{chunk_from:T}` and `{chunk_to:T}`, the trial reads two neighbouring chunks. If a statement takes longer
  than `limits.trialSeconds`, the trial reads only the parts of these chunks next to their common bound.
- Such a SELECT is also tried with a chunk bound at the time of a row, because `BETWEEN` is wrong only there.

## Which evidence finds which mistake

Each kind of mistake was tried with the rules switched off. The trial reads the rows of a few chunks. A mistake that needs a
rare row, or a row without a match, may not show in these rows; the rules refuse such a mistake.

*Not decided* means that the rules leave a SELECT to the trial. Lines about bounds are of SELECTs with `{chunk_from:T}` and
`{chunk_to:T}`.
"""


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


def page() -> str:
    """Return the page of the documentation about the evidence that chunks add up."""
    rows = [f"| {name} | refused | {'no difference' if name in BY_RULE_ALONE else 'differs'} |" for name in WRONG]
    rows += [f"| {name} | not decided | differs |" for name in (*WRONG_BOUNDS, *RARE_BOUNDS)]
    rows += [f"| {name}, by `--param` alone | refused | not possible |" for name in NOT_BY_DAY]
    return (
        f"{_TEXT}\n| a SELECT or a target with | the rules | the trial alone |\n|---|---|---|\n"
        + "\n".join(rows)
        + "\n"
    )


def test_most_of_what_the_rules_refuse_shows_in_a_trial(shop: Lab) -> None:
    """Two proofs are better than one only if each finds mistakes alone; the page has the result for each kind."""
    assert {name for name, shape in WRONG.items() if not caught(shop, shape)} == BY_RULE_ALONE
    assert shop.leftovers() == []


def test_the_page_says_what_is_caught_by_which() -> None:
    """Written by `python -c 'from tests.clickhouse.test_trial_alone import page; print(page(), end="")'`."""
    assert (REPOSITORY / "docs" / "reference" / "adding-up.md").read_text(encoding="utf-8") == page()
