"""
A whole backfill in one line of a DAG: plan, chunks, the final check, and the tasks that follow.

::

    with DAG("rebuild", schedule=None, params=backfill_params(target="shop.orders_daily")):
        BackfillTaskGroup()

    with DAG("fill_last_days", schedule=None):

        @clickhouse_backfill(max_parallel_chunks=2)
        def last_days():
            return {"target": "shop.orders_daily", "window_from": "2025-03-29", "window_to": "2025-04-01"}

        last_days()
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import wraps
from inspect import signature
from typing import Any

from airflow.providers.common.compat.sdk import SET_DURING_EXECUTION, context_merge, determine_kwargs
from airflow.sdk import Context, Param, TaskGroup
from airflow.sdk.bases.decorator import DecoratedOperator

from .airflow_support.compat import airflow_is
from .airflow_support.fields import is_literal, to_instant
from .airflow_support.lineage import BACKFILLS, target_asset
from .airflow_support.session import airflow_errors, operator_words
from .core.instants import render_instant
from .errors import RequestError
from .operators import BackfillChunkOperator, BackfillPlanOperator
from .sensors import BackfillStatusSensor

_FORM = ("target", "window_from", "window_to", "chunk_hours")


def backfill_params(
    *,
    target: str | None = None,
    window_from: str | datetime | None = None,
    window_to: str | datetime | None = None,
    chunk_hours: float | str = 6,
) -> dict[str, Param]:
    """
    Return the params of a DAG for a backfill's form; fields without a default are required.

    A :class:`BackfillTaskGroup` without a target reads all four values from the params. The arguments are the defaults
    of the fields.

    Args:
        target: Table to fill, ``database.table``.
        window_from: Start of the window, included; UTC if the value has no offset.
        window_to: End of the window, excluded.
        chunk_hours: Length of a chunk, as :class:`BackfillPlanOperator` takes it.

    Raises:
        RequestError: A bound of the window is not a date.
    """

    def param(default: Any, **schema: Any) -> Param:
        return Param(**schema) if default is None else Param(default, **schema)

    def moment(value: str | datetime | None) -> str | None:
        return None if value is None else render_instant(to_instant(value))

    with operator_words():
        return {
            "target": param(
                target, type="string", minLength=3, title="Target", description="Table to fill, database.table"
            ),
            "window_from": param(
                moment(window_from),
                type="string",
                format="date-time",
                title="From",
                description="Start of the window, included",
            ),
            "window_to": param(
                moment(window_to),
                type="string",
                format="date-time",
                title="To",
                description="End of the window, excluded",
            ),
            "chunk_hours": param(
                chunk_hours,
                type=["string", "number"],
                title="Chunk length",
                description="Hours, or 12h, 1d, 1w, 1mo, month, day@Europe/Berlin, partition, auto",
            ),
        }


class BackfillTaskGroup(TaskGroup):
    """
    Plan a backfill, execute its chunks in mapped tasks, and fail unless every row is in the target.

    The tasks are ``plan``, ``chunks`` and ``finished``, and optionally ``approve`` and ``promote``. A failed chunk
    stops no other chunk. The DAG run ends red if a chunk failed, if the backfill was cancelled, or if a person
    marked a task as successful before its chunks were done. ``finished`` returns the published window. If
    rows were written, ``finished`` also sends an asset event: for the target's own asset
    (:func:`.lineage.target_asset`), or, if the target is known only at run time, through the alias
    ``clickhouse_backfill``.

    Args:
        group_id: Name of the group, and prefix of its tasks.
        target: Table to fill, ``database.table``. When None, the DAG's params give target, window and chunk length; see
            :func:`backfill_params`.
        window_from: Start of the window, included: ISO text or a datetime; UTC if the value has no offset.
        window_to: End of the window, excluded.
        chunk_hours: Length of a chunk, as :class:`BackfillPlanOperator` takes it.
        max_parallel_chunks: Maximum number of parallel mapped tasks; option ``defaults.maxParallelChunks`` when None.
        deferrable: Execute the chunks in the triggerer; Airflow's ``[operators] default_deferrable`` when None.
        approve: Let a person approve the plan's summary under "Required actions" before the chunks run: True, or
            arguments of Airflow's ``ApprovalOperator``, such as ``assigned_users`` or ``response_timeout``. A rejection
            skips the rest, leaves the DAG run green, and waives the plan. Requires Airflow 3.1.
        partition_key_format: Send an asset event for each partition in the window, see :class:`BackfillStatusSensor`.
            Requires a target that is known when Airflow parses the DAG, or ``outlets`` in *sensor*.
        promote: Last step, after all rows are in the target: SQL for the same connection (statements separated by
            ``;``), or a function of the result of ``finished``. A clear repeats the step, so repeating must be safe:
            ``REPLACE PARTITION`` is safe, ``EXCHANGE TABLES`` would swap the tables back.
        chunks: Further arguments of :class:`BackfillChunkOperator`, such as ``pool`` or ``replay_done``.
        sensor: Further arguments of :class:`BackfillStatusSensor`, such as ``outlets``.
        clickhouse_conn_id: Connection of the official ClickHouse provider.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``.
        default_args: Arguments of all tasks in the group, such as ``retries``.
        tooltip: Tooltip of the group in Airflow.
        plan: Further arguments of :class:`BackfillPlanOperator`.
    """

    def __init__(
        self,
        group_id: str = "backfill",
        *,
        target: str | None = None,
        window_from: str | datetime | None = None,
        window_to: str | datetime | None = None,
        chunk_hours: float | str | None = None,
        max_parallel_chunks: int | None = None,
        deferrable: bool | None = None,
        approve: bool | Mapping[str, Any] = False,
        partition_key_format: str = "",
        promote: str | Callable[..., Any] | None = None,
        chunks: Mapping[str, Any] | None = None,
        sensor: Mapping[str, Any] | None = None,
        clickhouse_conn_id: str = "clickhouse_default",
        state_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
        default_args: Mapping[str, Any] | None = None,
        tooltip: str = "",
        **plan: Any,
    ) -> None:
        shared: Any = dict(default_args or {})
        super().__init__(group_id=group_id, default_args=shared, tooltip=tooltip)
        make = BackfillPlanOperator
        if "python_callable" in plan:
            make, form = _PlanDecoratedOperator, {}
        elif target is None:
            form = self._form()
        else:
            values = (target, window_from, window_to, chunk_hours)
            form = dict(zip(_FORM, values, strict=True))
        state = {"state_dir": state_dir, "options": options}
        common = {**state, "clickhouse_conn_id": clickhouse_conn_id}
        with self:
            self.plan = make(task_id="plan", **{**common, **form, **plan})
            self.chunks = BackfillChunkOperator.partial(
                task_id="chunks",
                max_parallel_chunks=max_parallel_chunks,
                **{**common, "deferrable": deferrable, **(chunks or {})},
            ).expand(chunks=self.plan.output)
            outlet = target_asset(target) if target is not None and is_literal(target) else BACKFILLS
            self.finished = BackfillStatusSensor(
                task_id="finished",
                plan_id=self.plan.output["plan_id"],
                # Run also after skipped chunks: a cancelled run is not finished, and the DAG run must not be green.
                trigger_rule="none_failed",
                # The chunk tasks have ended, so no task will execute the remaining chunks.
                fail_if_idle=True,
                **{**state, "outlets": [outlet], "partition_key_format": partition_key_format, **(sensor or {})},
            )
            self.chunks >> self.finished
            # An empty dict of arguments also asks for an approval.
            if approve is not False:
                self.approval = self._approval({} if approve is True else approve, state)
                self.plan >> self.approval >> self.chunks
            if promote is not None:
                self.promote = self._promote(promote, clickhouse_conn_id)
                self.finished >> self.promote

    def _form(self) -> dict[str, Any]:
        missing = [name for name in _FORM if name not in self.dag.params]
        if missing:
            raise RequestError(
                f"The group {self.group_id} has no target, and the DAG no params {', '.join(missing)}.",
                hint="pass target, window_from and window_to, or give the DAG params=backfill_params()",
            )
        return {name: f"{{{{ params.{name} }}}}" for name in _FORM}

    def _approval(self, asked: Mapping[str, Any], state: Mapping[str, Any]) -> Any:
        if not airflow_is(3, 1):
            raise RequestError(
                "approve asks a person, which Airflow can do since 3.1.", hint="omit it, or use a later Airflow"
            )
        from .airflow_support.approval import BackfillApproval

        return BackfillApproval(
            task_id="approve",
            plan_id=self.plan.output["plan_id"],
            **{
                "subject": f"May the ClickHouse backfill of {self.plan.target} run?",
                "body": self.plan.output["summary"],
                "state_dir": state["state_dir"],
                "backfill_options": state["options"],
                **asked,
            },
        )

    def _promote(self, what: str | Callable[..., Any], clickhouse_conn_id: str) -> Any:
        if not isinstance(what, str):
            from airflow.sdk import task

            return task(task_id="promote")(what)(self.finished.output)
        from airflow.providers.common.sql.operators.sql import SQLExecuteQueryOperator

        return SQLExecuteQueryOperator(
            task_id="promote", conn_id=clickhouse_conn_id, sql=what, split_statements=True, return_last=False
        )


class _PlanDecoratedOperator(DecoratedOperator, BackfillPlanOperator):
    """A plan task whose arguments come from a function."""

    template_fields: Sequence[str] = (*DecoratedOperator.template_fields, *BackfillPlanOperator.template_fields)
    custom_operator_name = "@task.clickhouse_backfill"
    overwrite_rtif_after_execution = True

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"target": SET_DURING_EXECUTION, **kwargs})

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """
        Call the function, plan the backfill that the function describes, and return the items for ``.expand()``.

        Raises:
            AirflowFailException: The function returned no dict with a target, an unknown argument or a bad value; or
                the plan is refused.
            AirflowException: ClickHouse or the state folder could not be reached.
        """
        context_merge(context, self.op_kwargs)
        known = determine_kwargs(self.python_callable, self.op_args, context)
        asked = self.python_callable(*self.op_args, **known)
        with airflow_errors():
            name = self.python_callable.__name__
            if not isinstance(asked, Mapping) or "target" not in asked:
                raise RequestError(
                    f"{name} returned {asked!r}.",
                    hint="return a dict of arguments of BackfillPlanOperator, target among them",
                )
            if unknown := sorted(set(asked) - _PLAN_ARGUMENTS):
                raise RequestError(
                    f"{name} returned {', '.join(unknown)}.", hint=f"allowed: {', '.join(sorted(_PLAN_ARGUMENTS))}"
                )
            for argument, value in asked.items():
                setattr(self, argument, value)
            self._check_literals()
        return BackfillPlanOperator.execute(self, context)


_PLAN_ARGUMENTS = frozenset(signature(BackfillPlanOperator.__init__).parameters) - {"self", "kwargs"}


def clickhouse_backfill(python_callable: Callable[..., Any] | None = None, **group: Any) -> Any:
    """
    Turn a function into the planner of a :class:`BackfillTaskGroup`; also available as ``@task.clickhouse_backfill``.

    The function runs in the plan task. Like a ``@task``, it gets its arguments and Airflow's context. It returns
    arguments of :class:`BackfillPlanOperator`. Calling the decorated function in a DAG returns the group, which has the
    function's name unless ``group_id`` is given.

    Args:
        group: Arguments of :class:`BackfillTaskGroup`, other than target and window.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., BackfillTaskGroup]:
        @wraps(function)
        def make(*args: Any, **kwargs: Any) -> BackfillTaskGroup:
            given = {"group_id": function.__name__, **group}
            return BackfillTaskGroup(**given, python_callable=function, op_args=args, op_kwargs=kwargs)

        return make

    return decorate if python_callable is None else decorate(python_callable)
