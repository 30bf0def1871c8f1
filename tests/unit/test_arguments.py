"""Each flag of ``plan`` or ``run`` has an argument in DAGs and in Python; docs/arguments.py maps them."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import airflow_provider_backfill
from airflow_provider_backfill.backfill import Backfill, Pace
from airflow_provider_backfill.cli.flags import COMMANDS
from airflow_provider_backfill.client import Client
from docs.arguments import PLAN, RUN, Same

OPERATORS = Path(airflow_provider_backfill.__file__).parent / "operators"
METHODS: dict[str, Callable[..., Any]] = {"plan": Client.plan, "backfill": Client.backfill, "run": Backfill.run}


def operator_arguments() -> dict[str, set[str]]:
    """The arguments of each operator, from its source: the unit tier imports no Airflow."""
    found: dict[str, set[str]] = {}
    for path in OPERATORS.glob("*.py"):
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.ClassDef):
                methods = [each for each in node.body if isinstance(each, ast.FunctionDef)]
                made = [each for each in methods if each.name in ("__init__", "partial")]
                found[node.name] = {arg.arg for each in made for arg in each.args.kwonlyargs}
    return found


OPERATOR_ARGUMENTS = operator_arguments()


def method_arguments(name: str) -> set[str]:
    """The arguments of a method, those of its ``**pace`` included."""
    names = set(inspect.signature(METHODS[name]).parameters)
    return names | set(Pace.__annotations__) if "pace" in names else names


@pytest.mark.parametrize(("command", "table"), [("plan", PLAN), ("run", RUN)])
def test_no_flag_is_forgotten(command: str, table: dict[str, Same]) -> None:
    assert {flag.name for flag in COMMANDS[command].flags} == set(table)


@pytest.mark.parametrize(("flag", "same"), [*PLAN.items(), *RUN.items()])
def test_a_flag_has_its_arguments(flag: str, same: Same) -> None:
    for place, known in ((same.dag, OPERATOR_ARGUMENTS.__getitem__), (same.python, method_arguments)):
        found = re.fullmatch(r"(\w+)\((\w+)=\)", place)
        assert place if found is None else found[2] in known(found[1]), flag


def test_no_argument_of_the_operators_is_unlisted() -> None:
    """Whatever has no flag is Airflow's or the state's; a flag would be missing on the command line."""
    of_airflow = {"task_id", "max_mapped_tasks", "clickhouse_conn_id", "state_dir", "options", "deferrable"}
    listed = {match[1] for same in (*PLAN.values(), *RUN.values()) if (match := re.search(r"\((\w+)=\)", same.dag))}
    made = OPERATOR_ARGUMENTS["BackfillPlanOperator"] | OPERATOR_ARGUMENTS["BackfillChunkOperator"]
    assert made - of_airflow - {"map_index_template"} == listed
