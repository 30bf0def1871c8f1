"""Execute chunks of a plan in mapped tasks."""

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context

from ..airflow_support import lineage
from ..airflow_support.compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskState,
    deferrable_by_default,
    task_state,
)
from ..airflow_support.fields import (
    blank_to_none,
    is_literal,
    is_newest_first,
    parse_mapped_item,
    show_window,
    to_flag,
)
from ..airflow_support.links import BackfillPlanLink, push_plan_link
from ..airflow_support.pace import FIELDS, Pace, check_literals, read_pace
from ..airflow_support.session import airflow_errors, load_airflow_options, open_session, operator_words, task_name
from ..airflow_support.task_log import ChunkReporter
from ..commands.lease import utc_now
from ..commands.run import RunFlags, run_plan
from ..commands.session import Session
from ..commands.status import WindowStatus, window_status
from ..core.instants import render_instant
from ..core.plain_text import show_number
from ..core.plan import Plan
from ..core.run_state import Run
from ..core.window import Window
from ..errors import BackfillError, Command, RequestError
from ..option_sources import parse_options
from ..triggers import BackfillChunkTrigger

_CLEAR_KEY = "clickhouse_backfill_clear"
_PLAN_KEY = "clickhouse_backfill_plan"
_LABEL = "{{ task.window_label }}"
_FORCED = ("force_overlap", "force_compatibility", "force_environment")
_CHUNK_FLAGS = ("replay_done", "clear_window", *_FORCED)


class BackfillChunkOperator(BaseOperator):
    """
    Execute the chunks of one item of the plan operator's result.

    A task executes one chunk at a time. After a permanent failure of a chunk, the task continues with the other chunks,
    within *max_failures*. Outcomes:

    - success: all chunks of the window are done, now or before;
    - failed, without Airflow's ``retries``: a chunk failed permanently, *stop_at* has passed, or a retry cannot help;
    - skipped: the run was cancelled or undone;
    - failed, with Airflow's ``retries``: ClickHouse or the state folder could not be reached, or the task was killed.

    If the task is killed or times out, its query is killed and its chunks are released. A retry continues with these
    chunks.

    A clear or a new DAG run gives failed chunks a new budget of attempts; with *replay_done* it also executes done
    chunks again. An automatic retry does neither.

    Args:
        chunks: One item of the plan operator's result.
        replay_done: Execute done chunks again, one time per clear or DAG run.
        clear_window: With *replay_done*, delete a chunk's window from the target first; needed unless the plan's write
            mode is ``replace``.
        force_overlap: Run in parallel to another run over the same rows, or before the source is filled.
        force_compatibility: Run although the view, the target's columns or an option changed since planning.
        force_environment: Run on a ClickHouse that is not the ClickHouse of the plan.
        max_load: Wait while parts or memory exceed this share of the server's limits.
        max_failures: Stop after this many permanent failures in a row in one task.
        hours: Start chunks only in these hours of the day: ``22-06`` or ``22:30-06:00``. Outside these hours, a task
            waits; with *deferrable*, it waits without a worker slot.
        stop_at: Start no chunk after this time: ``2025-01-31T06:00:00Z``, or ``06:00`` for the next such time after the
            start of the DAG run. Unfinished tasks then fail, without Airflow's ``retries``; a clear continues them.
        zone: Time zone of *hours* and *stop_at*; UTC when None.
        deferrable: Execute the chunks in the triggerer, so that a task holds no worker slot; Airflow's ``[operators]
            default_deferrable`` when None. ``execution_timeout`` then counts from the deferral.
        clickhouse_conn_id: Connection of the official ClickHouse provider.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``.
        map_index_template: Label of a mapped task in Airflow; window and progress by default.
    """

    template_fields: Sequence[str] = (
        "chunks",
        "replay_done",
        "clear_window",
        "force_overlap",
        "force_compatibility",
        "force_environment",
        "max_load",
        "max_failures",
        "hours",
        "stop_at",
        "zone",
        "clickhouse_conn_id",
        "state_dir",
    )
    template_fields_renderers: ClassVar[dict[str, str]] = {"chunks": "json"}
    operator_extra_links = (BackfillPlanLink(),)
    ui_color = "#faff69"

    def __init__(
        self,
        *,
        chunks: Mapping[str, Any],
        replay_done: bool | str = False,
        clear_window: bool | str = False,
        force_overlap: bool | str = False,
        force_compatibility: bool | str = False,
        force_environment: bool | str = False,
        max_load: float | str = 0.8,
        max_failures: int | str = 10,
        hours: str | None = None,
        stop_at: str | None = None,
        zone: str | None = None,
        deferrable: bool | None = None,
        clickhouse_conn_id: str = "clickhouse_default",
        state_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
        map_index_template: str = _LABEL,
        **kwargs: Any,
    ) -> None:
        super().__init__(map_index_template=map_index_template, **kwargs)
        self.chunks = chunks
        self.replay_done = replay_done
        self.clear_window = clear_window
        self.force_overlap = force_overlap
        self.force_compatibility = force_compatibility
        self.force_environment = force_environment
        self.max_load = max_load
        self.max_failures = max_failures
        self.hours = hours
        self.stop_at = stop_at
        self.zone = zone
        self.deferrable = deferrable_by_default() if deferrable is None else deferrable
        self.clickhouse_conn_id = clickhouse_conn_id
        self.state_dir = state_dir
        self.options = options
        self._stop: Callable[[str], None] | None = None
        self._killed = False
        self._progress = ""
        self._lineage: WindowStatus | None = None
        with operator_words():
            parse_options(options or {}, "options")
            check_literals(self._pace_fields())
            flags = {name: self._flag(name) for name in _CHUNK_FLAGS if is_literal(getattr(self, name))}
            if flags.get("clear_window") and flags.get("replay_done") is False:
                raise RequestError(
                    "clear_window does nothing without replay_done.", hint="pass replay_done=True as well"
                )

    @classmethod
    def partial(cls, *, task_id: str, max_parallel_chunks: int | None = None, **kwargs: Any) -> Any:
        """
        Prepare the mapping, with a limit on the tasks that run in parallel.

        Args:
            max_parallel_chunks: Maximum number of parallel mapped tasks in a DAG run; the option
                ``defaults.maxParallelChunks`` when None. With 1, Airflow's scheduler starts one task per loop, which
                costs seconds per task. ``max_active_tis_per_dagrun`` takes precedence.

        Raises:
            ConfigError: *max_parallel_chunks* or an option is invalid.
        """
        with operator_words():
            options = kwargs.get("options")
            if max_parallel_chunks is None and "max_active_tis_per_dagrun" not in kwargs:
                max_parallel_chunks = load_airflow_options({}, options).defaults.max_parallel_chunks
            elif max_parallel_chunks is not None:
                parse_options({"defaults": {"maxParallelChunks": max_parallel_chunks}}, "max_parallel_chunks")
        kwargs.setdefault("max_active_tis_per_dagrun", max_parallel_chunks)
        # Before 3.3, Airflow reads the label from the mapped operator, not from the expanded task.
        kwargs.setdefault("map_index_template", _LABEL)
        return super().partial(task_id=task_id, **kwargs)

    def _flag(self, name: str) -> bool:
        """Return whether a switch is on; an omitted switch is off."""
        value = blank_to_none(getattr(self, name))
        return value is not None and to_flag(value)

    def _pace_fields(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in FIELDS}

    def _pace(self, context: Context) -> Pace:
        return read_pace(self._pace_fields(), context["dag_run"].start_date or utc_now())

    @property
    def window_label(self) -> str:
        """Airflow's label of the map index: the window and, once the task has counted its chunks, the progress."""
        return f"{show_window(self.chunks['from'], self.chunks['to'])}{self._progress}"

    def execute(self, context: Context) -> dict[str, Any]:
        """
        Execute the remaining chunks and return the totals of the window, or defer to the triggerer.

        Raises:
            AirflowSkipException: The plan was cancelled or undone before all chunks of the window were done.
            AirflowFailException: Chunks failed, the stop time has come, or a retry cannot help.
            AirflowException: Chunks are not done for another reason; Airflow may retry the task.
        """
        with airflow_errors():
            plan_id, window = parse_mapped_item(self.chunks)
            push_plan_link(self, context, plan_id)
            pace = self._pace(context)
            options = load_airflow_options({"state_dir": blank_to_none(self.state_dir)}, self.options)
            session = open_session(options, task_name(context), self.clickhouse_conn_id)
            state = task_state(context, session.store)
            self._refuse_other_plan(context, plan_id, state)
            fresh, reporter = _Clear(context, state), ChunkReporter(self.log, self.dag_id)
            status = self._look(session, plan_id, window)
            replay = self._flag("replay_done") and fresh.is_new
            if status.is_done and not replay:
                self.log.info("%s: every chunk was done before (plan %s)", self.window_label, plan_id)
                return self._result(status)
            self._refuse_cancelled(status)
            flags = RunFlags(
                replay_done=replay,
                replay_failed=fresh.is_new,
                clear_window=replay and self._flag("clear_window"),
                **{name: self._flag(name) for name in _FORCED},
            )

            def begin(worker: Any, plan: Plan, _: Run) -> None:
                # The log now has the chunks to replay, so later tries only continue with them.
                fresh.acted()
                reporter.begin(plan)
                if self.deferrable:
                    self._defer(session, flags, pace)
                self._stop = worker.stop
                if self._killed:
                    worker.stop(_KILLED)

            try:
                with reporter:
                    run_plan(
                        session,
                        plan_id,
                        flags=flags,
                        parallel=1,
                        window=window,
                        on_start=begin,
                        report=reporter,
                        newest_first=is_newest_first(self.chunks),
                        **pace.arguments(),
                    )
            except BackfillError:
                # A cancel after this task's check makes the start of the run raise an error. Skip the task then.
                self._refuse_cancelled(self._look(session, plan_id, window))
                raise
            return self._outcome(self._look(session, plan_id, window), pace)

    def _defer(self, session: Session, flags: RunFlags, pace: Pace) -> None:
        trigger = BackfillChunkTrigger(
            chunks=dict(self.chunks),
            user=session.user,
            dag_id=self.dag_id,
            clickhouse_conn_id=self.clickhouse_conn_id,
            state_dir=blank_to_none(self.state_dir),
            options=self.options,
            flags={name: getattr(flags, name) for name in _FORCED},
            pace=pace._asdict(),
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """
        Continue after the work in the triggerer, and return the totals of the window.

        Raises:
            AirflowSkipException: The plan was cancelled or undone before all chunks of the window were done.
            AirflowFailException: Chunks failed, the stop time has come, or a retry cannot help.
            AirflowException: Chunks are not done for another reason; Airflow may retry the task.
        """
        with airflow_errors():
            plan_id, window = parse_mapped_item(self.chunks)
            push_plan_link(self, context, plan_id)
            options = load_airflow_options({"state_dir": blank_to_none(self.state_dir)}, self.options)
            status = self._look(open_session(options, task_name(context)), plan_id, window)
            if event["error"] and not status.is_done:
                self._refuse_cancelled(status)
                raise (AirflowFailException if event["final"] else AirflowException)(event["error"])
            return self._outcome(status, self._pace(context))

    def get_openlineage_facets_on_complete(self, _: Any) -> Any:
        """Return sources, target and rows for the OpenLineage provider; None if no chunk of the window is done."""
        return None if self._lineage is None else lineage.openlineage(self._lineage)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """Return the lineage of the work done before a failure; None if no chunk of the window is done."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def on_kill(self) -> None:
        """
        Make the worker kill its query and release its chunks, without waiting for the worker.

        Airflow calls this method from a signal handler.
        """
        self._killed = True
        stop = self._stop
        if stop is not None:
            # Stop in another thread: this thread may hold a lock that stop() needs.
            threading.Thread(target=stop, args=(_KILLED,), name="backfill-kill", daemon=True).start()

    def _look(self, session: Session, plan_id: str, window: Window) -> WindowStatus:
        status = window_status(session, plan_id, window)
        if not status.total:
            raise RequestError(
                f"No chunk of plan {plan_id} lies in {render_instant(window.start)} to {render_instant(window.end)}.",
                hint="pass chunks as BackfillPlanOperator returns them",
            )
        failed = f", {len(status.failed)} failed" if status.failed else ""
        self._progress = f", {status.done}/{status.total} done{failed}"
        self._lineage = status if status.done else None
        return status

    def _refuse_other_plan(self, context: Context, plan_id: str, state: TaskState) -> None:
        """
        Refuse a plan that differs from this task's earlier plan, unless the plan task was cleared with this task.

        If the plan task was cleared alone and made a different plan, this map index has an unrelated chunk of the new
        plan. A plan that is not refused is recorded in *state*.

        Raises:
            RequestError: The plan differs, and this task was cleared without the plan task.
        """
        before = state.get(_PLAN_KEY)
        if before not in (None, plan_id) and (context["dag_run"].clear_number or 0) > self.chunks.get("clear", 0):
            raise RequestError(
                f"This task has executed chunks of plan {before}, and the plan task has made plan {plan_id} since.",
                hint="clear the plan task with downstream, so that all of its chunks are executed",
            )
        state.set(_PLAN_KEY, plan_id)

    @staticmethod
    def _refuse_cancelled(status: WindowStatus) -> None:
        if status.status.is_cancelled:
            raise AirflowSkipException(
                f"Plan {status.plan_id} was cancelled; `{Command('resume', status.plan_id)}` continues it."
            )

    def _outcome(self, status: WindowStatus, pace: Pace) -> dict[str, Any]:
        if status.is_done:
            window = _shown(status.window)
            rows, chunks = show_number(status.rows, "row"), show_number(status.done, "chunk")
            self.log.info("%s: %s, %s done (plan %s)", window, rows, chunks, status.plan_id)
            return self._result(status)
        self._refuse_cancelled(status)
        if failed := status.failed:
            shown = "; ".join(f"{_shown(one.window)}: {one.error}" for one in failed[:3])
            more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
            raise AirflowFailException(
                f"{len(failed)} of {status.total} chunks of plan {status.plan_id} failed. {shown}{more}. "
                "Mend the cause, then clear this task."
            )
        if pace.is_over() and not self._killed:
            raise AirflowFailException(
                f"Plan {status.plan_id}: the time to stop, {pace.stop_at}, has come with {status.done} of "
                f"{status.total} chunks done. Clear this task to continue."
            )
        why = _KILLED if self._killed else "it stopped"
        raise AirflowException(
            f"Plan {status.plan_id}: {why} with {status.done} of {status.total} chunks done; the next try continues."
        )

    def _result(self, status: WindowStatus) -> dict[str, Any]:
        return {
            "planId": status.plan_id,
            "from": render_instant(status.window.start),
            "to": render_instant(status.window.end),
            "chunkCount": status.total,
            "rowsWritten": status.rows,
        }


_KILLED = "the task was killed"


def _shown(window: Window) -> str:
    return show_window(*map(render_instant, window))


class _Clear:
    """
    The last clear of a task instance; the creation counts as a clear.

    The task state keeps the last clear that was acted on, because a worker may be lost before it acts on a clear.

    Attributes:
        is_new: Whether no try has acted on this clear yet.
    """

    def __init__(self, context: Context, state: TaskState) -> None:
        ti, self._state = context["ti"], state
        # At each clear, Airflow sets max_tries to the tries so far plus the retries. The difference, the tries so far,
        # identifies the clear.
        self._number = str(ti.max_tries - (ti.task.retries or 0))
        self.is_new = self._state.get(_CLEAR_KEY) != self._number

    def acted(self) -> None:
        """Record that this clear was acted on."""
        self._state.set(_CLEAR_KEY, self._number)
