"""Build addresses of the backfill page and of tasks in Airflow, for every interface."""

import re
from collections.abc import Mapping
from configparser import ConfigParser
from configparser import Error as ConfigError
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote, urlsplit

_TASK = re.compile(r"airflow:([^/]+)/(.+)/([^/\[\]#]+)(?:\[(\d+)\])?#(\d+)")

ROUTE = "clickhouse-backfills"
"""The prefix of the page's address, and the page's name among Airflow's plugin pages."""


def page_address(base_url: str, plan_id: str = "", *, framed: bool = True) -> str:
    """
    Return the address of the page, or of one plan on the page.

    Args:
        base_url: Airflow's ``[api] base_url``; if empty, the address is relative to the host.
        plan_id: The plan; if empty, the address is that of the list of plans.
        framed: Whether the page is shown inside Airflow's navigation, which Airflow 3.0 cannot do.
    """
    base = base_url.strip().rstrip("/")
    page = f"/{ROUTE}/" + (f"plans/{plan_id}" if plan_id else "")
    # The path after the route is the path inside the frame that Airflow opens.
    return f"{base}/plugin/{ROUTE}{urlsplit(base).path}{page}" if framed else f"{base}{page}"


def airflow_address(environ: Mapping[str, str]) -> str:
    """
    Return Airflow's configured address without importing Airflow; empty if it is unknown.

    The address comes from ``AIRFLOW__API__BASE_URL``, otherwise from ``[api] base_url`` of the ``airflow.cfg`` that
    Airflow would read.
    """
    if given := environ.get("AIRFLOW__API__BASE_URL", "").strip():
        return given
    home = Path(environ.get("AIRFLOW_HOME") or Path.home() / "airflow")
    parser = ConfigParser(interpolation=None, strict=False)
    with suppress(OSError, ValueError, ConfigError):
        parser.read(environ.get("AIRFLOW_CONFIG") or home / "airflow.cfg", encoding="utf-8")
    return parser.get("api", "base_url", fallback="").strip()


class TaskName(NamedTuple):
    """A try of a task instance; *map_index* is -1 for an unmapped task."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int
    try_number: int


def parse_task(name: str) -> TaskName | None:
    """
    Return the parts of a task instance's name from the event log; None for other names.

    Args:
        name: ``airflow:dag/run/task[map index]#try``, or another name, such as a user's.
    """
    found = _TASK.fullmatch(name)
    if found is None:
        return None
    dag, run, task, index, attempt = found.groups()
    return TaskName(dag, run, task, -1 if index is None else int(index), int(attempt))


def task_path(name: str) -> str:
    """Return the path and query of a task's page below Airflow's base address; empty if *name* is not a task's name."""
    found = parse_task(name)
    if found is None:
        return ""
    mapped = f"/mapped/{found.map_index}" if found.map_index >= 0 else ""
    dag, run, task = (quote(part, safe="") for part in found[:3])
    return f"/dags/{dag}/runs/{run}/tasks/{task}{mapped}?try_number={found.try_number}"
