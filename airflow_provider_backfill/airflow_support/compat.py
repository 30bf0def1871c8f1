"""
Provide names that differ between Airflow's minor versions, or that a version lacks.

Moved names come from the official compatibility provider. All other names that this package imports from
``airflow.sdk`` have existed since 3.0.
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
    """Return whether Airflow has at least this version; a release candidate counts as its release."""
    return (major, minor) <= _VERSION


def deferrable_by_default() -> bool:
    """Return Airflow's option ``[operators] default_deferrable``, the default of the argument *deferrable*."""
    return bool(conf.getboolean("operators", "default_deferrable", fallback=False))


class TaskState(Protocol):
    """Values that a task instance keeps across tries and clears; ``get`` returns None for an unknown key."""

    def get(self, key: str) -> Any: ...  # noqa: D102

    def set(self, key: str, value: Any) -> None: ...  # noqa: D102


def task_state(context: Context, store: StateStore) -> TaskState:
    """Return the state of the task instance: Airflow's task state store (since 3.3), or a file in the state folder."""
    found: TaskState | None = context.get("task_state_store")
    return _FolderState(store, context["ti"]) if found is None else found


class _FolderState:
    """
    Task state in one small file per task instance, in the state folder.

    The file outlives its DAG run. So a first try starts with empty state, even if an earlier run with the same name
    left a file.
    """

    def __init__(self, store: StateStore, ti: Any) -> None:
        key = json.dumps([ti.dag_id, ti.run_id, ti.task_id, ti.map_index])
        self._backend, self._name = store.backend, f"tasks/{hashlib.sha256(key.encode()).hexdigest()[:32]}.json"
        self._values: dict[str, Any] = {} if ti.try_number <= 1 else json.loads(self._backend.read(self._name) or b"{}")

    def get(self, key: str) -> Any:
        """Return the value of a key; None if it is unknown."""
        return self._values.get(key)

    def set(self, key: str, value: Any) -> None:
        """Store a JSON value for a key, and replace an earlier value."""
        self._values[key] = value
        self._backend.replace(self._name, json.dumps(self._values).encode())


def alias_extra(extra: Mapping[str, Any]) -> dict[str, Any]:
    """Return the extra of an asset alias's event; for Airflow 3.0, which accepts no lists, join lists with commas."""
    if airflow_is(3, 1):
        return dict(extra)
    return {name: ",".join(value) if isinstance(value, list) else value for name, value in extra.items()}
