"""
The names that a DAG may import, and their arguments: none disappears by accident.

A name that is taken off this list needs a fragment in changelog.d that says so. That each of them is described is held
by docs/generate.py, which makes docs/reference/operators.md of the same code.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "airflow_provider_backfill"
PLACE = "clickhouse_conn_id state_dir options"
WINDOW = "target window_from window_to chunk_hours"
PROMISED = {
    "operators.BackfillPlanOperator": (
        f"{WINDOW} time_column time_unit source select filter_table whole_table write_mode accept_at_least_once"
        " keep_outside backup accept_partial_groups trial allow_existing_rows force_large_window force"
        f" max_mapped_tasks {PLACE}"
    ),
    "operators.BackfillChunkOperator": (
        "chunks replay_done clear_window force_overlap force_compatibility force_environment deferrable"
        f" map_index_template {PLACE}"
    ),
    "sensors.BackfillStatusSensor": (
        "plan_id target window_from window_to fail_if_idle announce_empty partition_key_format deferrable poke_interval"
        " state_dir options"
    ),
    "task_group.BackfillTaskGroup": (
        f"group_id {WINDOW} max_parallel_chunks deferrable approve partition_key_format promote chunks sensor {PLACE}"
        " default_args tooltip"
    ),
    "task_group.backfill_params": WINDOW,
    "task_group.clickhouse_backfill": "python_callable",
}


@pytest.mark.parametrize("name", PROMISED)
def test_what_is_promised_is_there(name: str) -> None:
    module, wanted = name.split(".")
    path = PACKAGE / f"{module}.py"
    if not path.exists():
        # The ``__init__`` of a folder exports the names of its files.
        tree = ast.parse((PACKAGE / module / "__init__.py").read_text(encoding="utf-8"))
        (place,) = (
            found.module
            for found in tree.body
            if isinstance(found, ast.ImportFrom) and wanted in (alias.name for alias in found.names)
        )
        path = PACKAGE / module / f"{place}.py"
    tree = ast.parse(path.read_text(encoding="utf-8"))
    (node,) = (
        found for found in tree.body if isinstance(found, ast.ClassDef | ast.FunctionDef) and found.name == wanted
    )
    functions = [node] if isinstance(node, ast.FunctionDef) else node.body
    (plan,) = (
        function
        for function in functions
        if isinstance(function, ast.FunctionDef) and function.name in ("__init__", wanted)
    )
    arguments = {argument.arg for argument in (*plan.args.args, *plan.args.kwonlyargs)}
    assert set(PROMISED[name].split()) <= arguments
