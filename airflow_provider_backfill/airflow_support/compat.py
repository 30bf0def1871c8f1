"""
Names that Airflow's minor versions have in different places, or lack.

Names that have moved come from the official compatibility provider. Everything else that this package takes from
``airflow.sdk`` has been there since 3.0.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Protocol

from airflow import __version__ as _airflow_version
from airflow.providers.common.compat.sdk import (
    AirflowException,
    AirflowFailException,
    AirflowNotFoundException,
    AirflowSkipException,
    BaseHook,
    Stats,
    conf,
)
from airflow.sdk import Context

from ..state.store import StateStore

__all__ = [
    "AirflowException",
    "AirflowFailException",
    "AirflowNotFoundException",
    "AirflowSkipException",
    "BaseHook",
    "Stats",
    "TaskState",
    "airflow_is",
    "alias_extra",
    "conf",
    "deferrable_by_default",
    "task_state",
]

_VERSION = tuple(int(part) for part in re.findall(r"\d+", _airflow_version)[:2])


def airflow_is(major: int, minor: int) -> bool:
    """Return whether Airflow is of this version or a later one, release candidates of it included."""
    return (major, minor) <= _VERSION


def deferrable_by_default() -> bool:
    """Airflow's ``[operators] default_deferrable``."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


class TaskState(Protocol):
    """Values that a task instance keeps over tries and clears; ``get`` returns None for a key never set."""

    def get(self, key: str) -> Any: ...  # noqa: D102

    def set(self, key: str, value: Any) -> None: ...  # noqa: D102


def task_state(context: Context, store: StateStore) -> TaskState:
    """Airflow's task state store, which came with 3.3; before, a file for each task instance in the state folder."""
    found: TaskState | None = context.get("task_state_store")
    return _FolderState(store, context["ti"]) if found is None else found


class _FolderState:
    """
    One small file for each task instance, in the state folder.

    Nobody takes it away with the DAG run. Therefore a first try begins with nothing, whatever an earlier run of
    the same name has left.
    """

    def __init__(self, store: StateStore, ti: Any) -> None:
        key = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
        self._backend, self._name = store.backend, f"tasks/{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        self._values: dict[str, Any] = {} if ti.try_number <= 1 else json.loads(self._backend.read(self._name) or b"{}")

    def get(self, key: str) -> Any:
        """Return the value, or None."""
        return self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        """Keep a value."""
        self._values[key] = value
        self._backend.replace(self._name, json.dumps(self._values).encode())


def alias_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the extra of an event for an asset alias: Airflow 3.0 takes no lists, so lists become text."""
    if airflow_is(3, 1):
        return dict(extra)
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in extra.items()}
