"""Schemas of public projects: planned, run, killed, resumed and verified, and equal to the whole; or refused."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from airflow_provider_backfill.commands.verify import verify_plan
from airflow_provider_backfill.core.request import TableFilter
from airflow_provider_backfill.errors import RequestError
from tests.clickhouse.corpus import AT, CASES, SHORT, Case, page
from tests.clickhouse.lab import Lab
from tests.command_line import REPOSITORY

WINDOW = ("2025-01-01", "2025-01-04")


def _marked(number: int) -> object:
    case = CASES[number]
    marks = () if number in SHORT else (pytest.mark.long,)
    return pytest.param(case, id=f"{case.project}: {case.name}", marks=marks)


@pytest.mark.parametrize("case", map(_marked, range(len(CASES))))
def test_a_schema_that_people_have(http_lab: Lab, case: Case) -> None:
    lab, flags = http_lab, dict[str, Any](case.flags)
    for name, (definition, values) in case.sources.items():
        lab.sql(f"CREATE TABLE {name} {definition}")
        insert = f"INSERT INTO {name} SELECT {values.format(at=AT)} FROM numbers(864)"
        # As many inserts would leave it, with all versions of a row.
        lab.engine.client.command(insert, settings={"optimize_on_insert": 0})
    first = next(iter(case.sources))
    for table in ("dst", "truth"):
        lab.sql(f"CREATE TABLE {table} {case.target or f'AS {first}'}")
    if case.select and not case.as_select:
        lab.sql(f"CREATE MATERIALIZED VIEW mv TO dst AS {case.select}")
    elif case.select:
        flags["select"] = case.select
    else:
        flags["source"] = first
    if filtered := str(flags.pop("filter", "")):
        flags["filter_tables"] = tuple(TableFilter(lab.table(name)) for name in filtered.split(","))
    if case.refused:
        with pytest.raises(RequestError, match=case.refused) as refused:
            lab.plan("dst", *WINDOW, 24, **flags)
        assert refused.value.hint
        return
    plan = lab.plan("dst", *WINDOW, 24, **flags)
    child = os.fork()
    if child == 0:
        steps = iter(range(1000))

        def step(at: str) -> None:
            if at == "sealed" and next(steps) == 1:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            lab.run(plan, step=step)
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert lab.run(plan)["status"] == "completed"
    select = case.select or f"SELECT * FROM {first}"
    columns = ", ".join(f"`{name}`" for (name, *_) in lab.rows(f"DESCRIBE TABLE ({select})"))
    lab.sql(f"INSERT INTO truth ({columns}) SELECT {columns} FROM ({select})")
    assert _merged(lab, "dst") == _merged(lab, "truth")
    verified = verify_plan(lab.session, plan["planId"])
    assert verified["ok"], str(verified)
    assert lab.leftovers() == []


def test_the_page_says_what_is_tried() -> None:
    """Written by `python -c 'from tests.clickhouse.corpus import page; print(page(), end="")'`."""
    assert (REPOSITORY / "docs" / "reference" / "schemas.md").read_text(encoding="utf-8") == page()


def _merged(lab: Lab, table: str) -> list[tuple[object, ...]]:
    """What a table holds once it is merged, as text; states finalised, arrays sorted."""
    values = []
    for name, kind, *_ in lab.rows(f"DESCRIBE TABLE {table}"):
        value = f"finalizeAggregation(`{name}`)" if kind.startswith("AggregateFunction(") else f"`{name}`"
        is_array = kind.startswith(
            ("Array(", "SimpleAggregateFunction(groupArray", "SimpleAggregateFunction(groupUniqArray")
        )
        values.append(f"toString(arraySort({value}))" if is_array else f"toString({value})")
    final = (
        ""
        if lab.value(f"SELECT engine FROM system.tables WHERE name = '{table}' AND database = currentDatabase()")
        == "MergeTree"
        else "FINAL"
    )
    return lab.rows(f"SELECT count(), sum(cityHash64({', '.join(values)})) FROM {table} {final}")
