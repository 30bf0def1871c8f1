"""The one-way import rule of the package, checked by parsing its files, and the modules that a start must not load."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import resolve_name
from pathlib import Path

import pytest

import airflow_provider_backfill

PACKAGE = "airflow_provider_backfill"
ROOT = Path(airflow_provider_backfill.__file__).parent

# A room is a top-level module or package. A room may import the rooms of lower layers and itself, never a neighbour.
LAYERS: list[set[str]] = [
    # The package's own __init__, the errors, and where pages are: they import nothing of ours.
    {"", "errors", "ui_urls"},
    {"core"},
    {"options"},
    {"option_sources"},
    {"state", "clickhouse"},
    {"commands"},
    {"backfill", "airflow_support"},
    {"client"},
    {"triggers", "cli", "web"},
    {"operators", "sensors"},
    {"task_group", "plugin"},
]
LAYER = {room: number for number, rooms in enumerate(LAYERS) for room in rooms}

# Only these may load Airflow when they are imported; "clickhouse" may inside a function, for a connection's hook.
_AIRFLOW_SKINS = {"airflow_support", "triggers", "web", "operators", "sensors", "task_group", "plugin"}
_AIRFLOW_LAZILY = {"clickhouse", "cli"}
# What the providers manager imports on every `airflow` call.
_AIRFLOW_COMMAND = "cli/airflow_command.py"
_CLICKHOUSE = {"clickhouse"}

# Loaded by every start, so no more than it needs.
_ERRORS_MAY = {"collections", "contextlib", "contextvars", "shlex", "typing"}

# core is pure: of other packages it uses pydantic only, and of the standard library nothing with side effects. pendulum
# computes calendars and time zones from its own data, so its results depend on nothing outside.
_CORE_MAY = {"pydantic", "pydantic_core", "pendulum"}
_CORE_MAY_NOT = {
    *("asyncio", "ctypes", "http", "multiprocessing", "os", "pathlib", "random", "secrets", "select"),
    *("shutil", "signal", "socket", "sqlite3", "ssl", "subprocess", "sys", "tempfile", "threading", "time", "urllib"),
}

# What must not be in memory after a start of the command line: each costs from a third of a second up.
NOT_FOR_THE_VERSION = {"difflib", "json", "pydantic", "traceback", "urllib.request"}
HEAVY = {"airflow", "chdb", "clickhouse_connect", "numpy", "pandas", "pendulum", "pyarrow"}


def _imports(tree: ast.Module, package: str) -> Iterator[tuple[str, int, bool]]:
    """
    Yield ``(absolute dotted name, line, at module level)`` of every import in *tree*, also of those in functions.

    ``from a import b`` gives ``a.b``, since b may be a module. ``import_module("a")`` with a literal counts.
    """
    lazy = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        or (isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        names: list[str] = []
        line = 0
        match node:
            case ast.Import():
                names, line = [alias.name for alias in node.names], node.lineno
            case ast.ImportFrom():
                base = resolve_name("." * node.level + (node.module or ""), package) if node.level else node.module
                names, line = [f"{base}.{alias.name}" for alias in node.names], node.lineno
            case ast.Call(
                func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module"),
                args=[ast.Constant(value=str(name)), *_],
            ):
                names, line = [resolve_name(name, package)], node.lineno
        for name in names:
            yield name, line, id(node) not in lazy


def violations(path: str, source: str) -> list[str]:
    """
    Return one sentence for each import of a file that breaks the rule; empty when it keeps it.

    Args:
        path: The file's path inside the package, such as ``core/planner.py``.
        source: Its text.
    """
    parts = Path(path).with_suffix("").parts
    is_package = parts[-1] == "__init__"
    room = "" if parts == ("__init__",) else parts[0]
    if room not in LAYER:
        return [f"{path}: {room} is in no layer of the import rule"]
    package = ".".join((PACKAGE, *parts[:-1]))
    found = []
    for name, line, at_module_level in _imports(ast.parse(source), package):
        where = f"{path}:{line}: {name}"
        top, _, rest = name.partition(".")
        if top == "__future__":
            continue
        if top == PACKAGE:
            other = rest.split(".")[0]
            if other not in LAYER:
                # A name of the package's own __init__, such as __version__.
                other = ""
            # The package hands out Client when it is asked for.
            handed_out = path == "__init__.py" and other == "client" and not at_module_level
            if other != room and LAYER[other] >= LAYER[room] and not handed_out:
                found.append(f"{where}: {room or '__init__'} may not import {other or '__init__'}")
        elif room == "" or (room == "errors" and top not in _ERRORS_MAY):
            found.append(f"{where}: {room or '__init__'} imports nothing")
        elif top == "airflow" and room not in _AIRFLOW_SKINS and path != _AIRFLOW_COMMAND:
            if room not in _AIRFLOW_LAZILY:
                found.append(f"{where}: {room} knows nothing of Airflow")
            elif at_module_level:
                found.append(f"{where}: {room} may import Airflow inside a function only")
        elif top in {"clickhouse_connect", "chdb"} and room not in _CLICKHOUSE:
            found.append(f"{where}: only clickhouse/ talks to ClickHouse")
        elif room == "core" and (top in _CORE_MAY_NOT or top not in {*sys.stdlib_module_names, *_CORE_MAY}):
            found.append(f"{where}: core is pure")
        elif top in {"pandas", "numpy", "chdb"} and at_module_level:
            found.append(f"{where}: too slow to load at module level")
        if is_package and not room and at_module_level:
            found.append(f"{where}: the package's __init__ imports nothing")
    return found


@pytest.mark.parametrize("path", sorted(str(file.relative_to(ROOT)) for file in ROOT.rglob("*.py")))
def test_the_package_keeps_the_import_rule(path: str) -> None:
    """Imports run skins -> commands -> {state, clickhouse} -> core -> errors, in every file, also inside functions."""
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "expected"),
    [
        ("core/planner.py", "import os", "core is pure"),
        ("core/planner.py", "import clickhouse_connect", "only clickhouse/ talks to ClickHouse"),
        ("core/planner.py", "import sqlglot", "core is pure"),
        ("core/planner.py", "from ..state import store", "core may not import state"),
        ("core/planner.py", "from airflow_provider_backfill import commands", "core may not import commands"),
        ("core/planner.py", "def f():\n    from ..clickhouse.client import open", "core may not import clickhouse"),
        (
            "core/planner.py",
            "import importlib\nimportlib.import_module('..state', __package__)",
            "may not import state",
        ),
        ("state/posix.py", "from ..clickhouse import execute", "state may not import clickhouse"),
        ("state/posix.py", "from ..commands import plan", "state may not import commands"),
        ("clickhouse/client.py", "from airflow.sdk import Connection", "inside a function only"),
        ("commands/run.py", "def f():\n    import airflow", "commands knows nothing of Airflow"),
        ("commands/run.py", "from ..cli import main", "commands may not import cli"),
        ("commands/run.py", "async def f():\n    import chdb", "only clickhouse/ talks to ClickHouse"),
        ("cli/main.py", "from ..operators import BackfillPlanOperator", "cli may not import operators"),
        ("triggers.py", "from .sensors import BackfillStatusSensor", "triggers may not import sensors"),
        ("cli/main.py", "from ..web.api import create_app", "cli may not import web"),
        ("options.py", "from .commands import plan", "options may not import commands"),
        ("core/planner.py", "from ..options import Options", "core may not import options"),
        ("errors.py", "import re", "errors imports nothing"),
        ("__init__.py", "from .errors import BackfillError", "may not import errors"),
        ("__init__.py", "import airflow", "__init__ imports nothing"),
        ("__init__.py", "def __getattr__(name):\n    from .commands import run", "may not import commands"),
        ("__init__.py", "from .client import Client", "may not import client"),
        ("newroom.py", "", "is in no layer"),
        ("operators.py", "import pandas", "too slow to load at module level"),
    ],
)
def test_the_rule_finds_what_breaks_it(path: str, source: str, expected: str) -> None:
    """A rule that cannot fail holds nothing."""
    found = violations(path, source)
    assert any(expected in sentence for sentence in found), found


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/planner.py", "from __future__ import annotations\nimport hashlib\nfrom pydantic import BaseModel"),
        ("core/replay.py", "from ..errors import RequestError\nfrom .plan import Plan\nfrom . import planner"),
        ("clickhouse/client.py", "import clickhouse_connect\ndef f():\n    from airflow.sdk import Connection"),
        ("sensors.py", "from airflow.sdk import BaseSensorOperator\nfrom .triggers import BackfillTrigger"),
        ("commands/run.py", "from ..state.store import Store\nfrom ..options import Options"),
        ("cli/main.py", "from .. import __version__\nfrom ..commands import run\nfrom ..errors import BackfillError"),
    ],
)
def test_the_rule_accepts_what_keeps_it(path: str, source: str) -> None:
    assert violations(path, source) == []


def _loaded(*arguments: str) -> set[str]:
    """Return the top-level names of the modules that a Python with *arguments* imports, by ``-X importtime``."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    lines = [line for line in done.stderr.splitlines() if line.startswith("import time:")]
    names = {line.rsplit("|", 1)[1].strip() for line in lines}
    return {name.split(".")[0] for name in names} | {name for name in names if name in NOT_FOR_THE_VERSION}


def test_importing_the_package_loads_nothing_else() -> None:
    """Airflow imports the package in every process for its metadata."""
    before, after = _loaded("-c", "pass"), _loaded("-c", f"import {PACKAGE}")
    assert after - before == {PACKAGE}


def test_the_command_line_starts_without_anything_heavy() -> None:
    """``--version`` must answer before a person notices a delay; importing Airflow alone takes seconds."""
    assert _loaded("-m", f"{PACKAGE}.cli", "--version") & (HEAVY | NOT_FOR_THE_VERSION) == set()


def test_a_list_of_plans_loads_no_rule_and_nothing_that_asks_a_server(tmp_path: Path) -> None:
    """What only ``plan``, ``doctor`` and ``repair`` look at would be a tenth of each start."""
    loaded = _loaded("-m", f"{PACKAGE}.cli", "list", "--state-dir", str(tmp_path))
    others = ("core.facts", "core.query_tree", "core.request", "core.findings.judge", "state.recovery", "clickhouse")
    assert {"urllib.request", *(f"{PACKAGE}.{name}" for name in others)} & loaded == set()
