"""A sensor that waits for a ClickHouse backfill; it reads the state folder and needs no ClickHouse."""

import time
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context
from airflow.sdk.exceptions import AirflowFailException

from . import commands
from .airflow_session import airflow_errors, load_airflow_options, open_session, operator_words
from .commands import Payload
from .core.model import RunStatus
from .errors import RequestError
from .options import parse_options

_SAME_LINE_SECONDS = 300.0


class BackfillStatusSensor(BaseSensorOperator):
    """
    Wait until a backfill is completed.

    Fails at once, without retries, when the run has failed or was cancelled, when there is no
    such plan, or when its files are damaged; with ``soft_fail`` it is skipped instead. A run that
    is paused, or that nobody works on, is waited for: somebody may resume it.

    Set ``trigger_rule="none_failed"`` where it follows mapped chunk tasks, so that it also tells
    about a run whose tasks were skipped because it was cancelled.

    Args:
        plan_id: The plan's id, such as ``plan.output["plan_id"]``.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``.
        poke_interval: Seconds between two looks, or a timedelta.
    """

    template_fields: Sequence[str] = ("plan_id", "state_dir")
    ui_color = "#e6f1f2"

    def __init__(
        self,
        *,
        plan_id: str,
        state_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
        poke_interval: timedelta | float = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        # Rendered, it is whatever the plan task's XCom holds.
        self.plan_id: Any = plan_id
        self.state_dir = state_dir
        self.options = options
        self._said, self._said_at = "", 0.0
        with operator_words():
            parse_options(options or {}, "options")

    def poke(self, context: Context) -> bool:  # noqa: ARG002 - the base class's signature
        """Whether the backfill is completed."""
        with airflow_errors():
            if not isinstance(self.plan_id, str) or not self.plan_id.strip():
                raise RequestError(f"plan_id is {self.plan_id!r}.", hint="pass plan.output['plan_id'] of the plan task")
            options = load_airflow_options({"state_dir": self.state_dir or None}, self.options)
            status = commands.status(open_session(options, f"airflow:{self.task_id}"), self.plan_id)
        self._tell(status)
        if status["status"] in (RunStatus.FAILED, RunStatus.CANCELLED):
            error = f" {status['lastError']}" if "lastError" in status else ""
            raise AirflowFailException(
                f"Plan {self.plan_id} is {status['status']}: {_counts(status)}.{error} (next: {status['next']})"
            )
        return bool(status["status"] == RunStatus.COMPLETED)

    def _tell(self, status: Payload) -> None:
        """Log where the run stands: when that has changed, else every few minutes."""
        dead = f"; workers gone: {', '.join(status['deadWorkers'])}" if status.get("deadWorkers") else ""
        line = f"{status['status']}: {_counts(status)}{dead}"
        if line == self._said and time.monotonic() - self._said_at < _SAME_LINE_SECONDS:
            return
        self._said, self._said_at = line, time.monotonic()
        say = self.log.warning if dead or status["status"] == RunStatus.PAUSED else self.log.info
        say("Plan %s of %s is %s", self.plan_id, status["target"], line)


def _counts(status: Payload) -> str:
    counts = status["chunkCounts"]
    others = [f"{counts[name]} {name}" for name in ("running", "failed") if counts[name]]
    return ", ".join([f"{counts['done']} of {counts['total']} chunks done", *others, f"{status['rowsWritten']} rows"])
