"""Wait for a ClickHouse backfill by reading the state folder, without ClickHouse."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import BaseSensorOperator, Context, PokeReturnValue

from .airflow_support.compat import AirflowException, AirflowFailException, AirflowSkipException, deferrable_by_default
from .airflow_support.fields import blank_to_none, is_literal, to_instant, to_table
from .airflow_support.lineage import announce, check_partitions
from .airflow_support.links import BackfillPlanLink, push_plan_link
from .airflow_support.session import airflow_errors, operator_words, undefined_named
from .commands.session import Payload
from .core.instants import render_instant
from .errors import RequestError
from .option_sources import parse_options
from .triggers import BackfillStatusTrigger, Progress, Watched


class BackfillStatusSensor(BaseSensorOperator):
    """
    Wait until a plan is completed, or until any plans have filled a window of a target.

    The sensor fails immediately, without retries, if the run failed, was cancelled or was undone, if there is no such
    plan, or if the plan's files are damaged; with ``soft_fail`` the sensor is skipped instead. The sensor keeps waiting
    for a paused run and for a run without a worker, because a person may resume the run. For a window, the sensor also
    waits for unplanned parts. The sensor fails when all plans of a part have failed, were cancelled or were undone, or
    when two plans have filled a part and no open plan rebuilds the part.

    The result is ``{"target", "from", "to", "rowsWritten", "planIds"}``; for a window, ``rowsWritten`` is None. The
    events of the ``outlets`` (assets or aliases) have the same content. A plan without rows sends no event, unless
    *announce_empty* is true.

    Set ``trigger_rule="none_failed"`` downstream of mapped chunk tasks, so that the sensor also runs after a cancel has
    skipped the chunks.

    Args:
        plan_id: The plan's id, such as ``plan.output["plan_id"]``. Alternatively, pass *target* and a window.
        target: Table, ``database.table``.
        window_from: Start of the window, included: ISO text or a datetime; UTC if the value has no offset.
        window_to: End of the window, excluded.
        fail_if_idle: Also fail while the plan is unfinished and has no living worker; ignored for a window.
        announce_empty: Send the asset events even if the plan has written no rows.
        partition_key_format: Send an event for each partition in the window. The key is the partition's start in UTC by
            strftime, such as ``%Y-%m-%d``. Requires Airflow 3.3 and the schedule ``PartitionedAtRuntime()``.
        deferrable: Wait in the triggerer, so that any number of sensors use one process; Airflow's ``[operators]
            default_deferrable`` when None.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``.
        poke_interval: Seconds between two checks, or a timedelta.
    """

    template_fields: Sequence[str] = ("plan_id", "target", "window_from", "window_to", "state_dir")
    operator_extra_links = (BackfillPlanLink(),)
    ui_color = "#e6f1f2"

    def __init__(
        self,
        *,
        plan_id: str | None = None,
        target: str | None = None,
        window_from: str | datetime | None = None,
        window_to: str | datetime | None = None,
        fail_if_idle: bool = False,
        announce_empty: bool = False,
        partition_key_format: str = "",
        deferrable: bool | None = None,
        state_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
        poke_interval: timedelta | float = 15,
        **kwargs: Any,
    ) -> None:
        super().__init__(poke_interval=poke_interval, **kwargs)
        # After rendering, the field has the plan task's XCom.
        self.plan_id: Any = plan_id
        self.target = target
        self.window_from = window_from
        self.window_to = window_to
        self.fail_if_idle = fail_if_idle
        self.announce_empty = announce_empty
        self.partition_key_format = partition_key_format
        self.deferrable = deferrable_by_default() if deferrable is None else deferrable
        self.state_dir = state_dir
        self.options = options
        self._progress: Progress | None = None
        with operator_words():
            parse_options(options or {}, "options")
            if partition_key_format:
                check_partitions(partition_key_format, self.outlets)
            if target is not None and is_literal(target):
                to_table("target")(target)
            if (plan_id is None) == (target is None):
                raise RequestError(
                    "A sensor waits for a plan or for a target's window.",
                    hint="pass plan_id, or target with window_from and window_to",
                )

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> Any:
        """
        Render the fields.

        Raises:
            AirflowFailException: A template uses an undefined name, and the run has no logical date.
        """
        with undefined_named(context):
            return super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> Any:
        """
        Wait in this process and return the published window, or defer to the triggerer.

        After a deferral, :meth:`execute_complete` returns the window.

        Raises:
            AirflowFailException: The backfill cannot complete, or an argument is invalid.
            AirflowSensorTimeout: The ``timeout`` has passed, without ``soft_fail``.
            AirflowException: The state folder cannot be read.
            AirflowSkipException: The backfill cannot complete, with ``soft_fail`` or ``never_fail``; or any other error
                with ``never_fail``; or the ``timeout`` has passed, with ``soft_fail``.
        """
        found: Any
        if isinstance(self.plan_id, str) and self.plan_id:
            push_plan_link(self, context, self.plan_id)
        if not self.deferrable:
            found = super().execute(context)
        else:
            # Completed and impossible backfills need no triggerer.
            first = self._first_look(context)
            if not first:
                self.defer(
                    trigger=BackfillStatusTrigger(poke_interval=self.poke_interval, **self._watched()._asdict()),
                    method_name="execute_complete",
                    timeout=timedelta(seconds=self.timeout),
                )
            found = first.xcom_value
        self._announce(context, found)
        return found

    def _announce(self, context: Context, published: Payload) -> None:
        if published["rowsWritten"] == 0 and not self.announce_empty:
            self.log.info("No row came of the window, so no asset event is sent")
            # Airflow would send an event for each remaining outlet of a successful task.
            self.outlets = []
            return
        announce(context, self.outlets, published, self.partition_key_format)

    def _first_look(self, context: Context) -> PokeReturnValue:
        try:
            return self.poke(context)
        except Exception as error:
            # For its own modes, poke and reschedule, the base class does the same.
            if self.never_fail or (self.soft_fail and isinstance(error, AirflowFailException)):
                raise AirflowSkipException(str(error)) from error
            raise

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> Payload:
        """
        Return the published window after the wait in the triggerer.

        Raises:
            AirflowFailException: The backfill cannot complete, or an argument is invalid; the message has the reason.
            AirflowException: The state folder cannot be read.
        """
        if event["lost"]:
            # The base class applies soft_fail and never_fail.
            raise (AirflowFailException if event.get("final", True) else AirflowException)(event["lost"])
        published: Payload = event["published"]
        self.log.info("Filled: %s", published)
        self._announce(context, published)
        return published

    def poke(self, context: Context) -> PokeReturnValue:  # noqa: ARG002 - the base class's signature
        """
        Return whether the backfill is completed, with the published window as the XCom value (None before).

        Raises:
            AirflowFailException: The backfill cannot complete, or an argument is invalid; the message has the reason.
            AirflowException: The state folder cannot be read.
        """
        with airflow_errors():
            found = self._watched().look(f"airflow:{self.task_id}")
        if self._progress is None:
            self._progress = Progress(self.log)
        self._progress.tell(found)
        if found.lost:
            raise AirflowFailException(found.lost)
        return PokeReturnValue(found.published is not None, found.published)

    def _watched(self) -> Watched:
        where = Watched(state_dir=blank_to_none(self.state_dir), options=self.options, fail_if_idle=self.fail_if_idle)
        if self.target is not None:
            return where._replace(
                target=self.target, window_from=self._bound("window_from"), window_to=self._bound("window_to")
            )
        if not isinstance(self.plan_id, str) or not self.plan_id.strip():
            raise RequestError(f"plan_id is {self.plan_id!r}.", hint="pass plan.output['plan_id'] of the plan task")
        return where._replace(plan_id=self.plan_id)

    def _bound(self, name: str) -> str:
        value = blank_to_none(getattr(self, name))
        if value is None:
            raise RequestError(f"{name} is empty.", hint="pass window_from and window_to with target")
        return render_instant(to_instant(value))
