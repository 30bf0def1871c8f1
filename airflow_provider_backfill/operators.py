"""
Operators: plan a ClickHouse backfill, and execute its chunks in mapped tasks.

A mapped task is given a plan's id and a window, never a position, so that a clear finds the same
chunks whatever the plan task does meanwhile. How often a chunk is tried is kept in the plan's
event log (``maxRetriesPerChunk``), and spent within one task; Airflow's ``retries`` are for lost
workers and an unreachable ClickHouse, and never give a failed chunk another budget. A person's
clear does.
"""

import threading
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context

from .airflow_support import lineage
from .airflow_support.compat import (
    AirflowException,
    AirflowFailException,
    AirflowSkipException,
    TaskState,
    conf,
    deferrable_by_default,
    task_state,
)
from .airflow_support.fields import (
    blank_to_none,
    conflicting_sources,
    is_literal,
    mapped_items,
    parse_mapped_item,
    show_window,
    to_chunking,
    to_filters,
    to_flag,
    to_instant,
    to_mode,
    to_table,
    to_tables,
)
from .airflow_support.links import BackfillPlanLink, plan_link, push_plan_link
from .airflow_support.session import (
    airflow_errors,
    load_airflow_options,
    open_session,
    operator_words,
    task_name,
    undefined_named,
)
from .airflow_support.summary import plan_summary
from .airflow_support.task_log import ChunkReporter
from .commands.plan import create_plan
from .commands.run import RunFlags, run_plan
from .commands.session import Payload, Session
from .commands.status import window_status
from .core.chunking import AUTO, parse_length
from .core.facts import TIME_UNITS
from .core.instants import render_instant
from .core.parameters import read_formats
from .core.plain_text import plain_values
from .core.plan import Plan, PlanRequest
from .core.query_settings import check_settings, settings_as_text
from .core.run_state import Run, RunStatus
from .core.window import iter_window
from .errors import BackfillError, RequestError
from .options import Defaults, parse_options
from .triggers import BackfillChunkTrigger

MAX_MAPPED_TASKS = 100
_CLEAR_KEY = "clickhouse_backfill_clear"
_PLAN_KEY = "clickhouse_backfill_plan"
_LABEL = "{{ task.window_label }}"
# What a field of a form may switch.
_PLAN_FLAGS = (
    "accept_at_least_once",
    "keep_outside",
    "backup",
    "allow_existing_rows",
    "trial",
    "force_large_window",
    "force",
)
_FORCED = ("force_overlap", "force_compatibility", "force_environment")
_CHUNK_FLAGS = ("replay_done", "clear_window", *_FORCED)


class BackfillPlanOperator(BaseOperator):
    """
    Make an immutable plan, or find the one made before, and return what to map the chunk operator over.

    The result is a list of ``{"planId", "from", "to", "chunkCount"}``: one item per chunk while there are few (24)
    or each has seconds of work, else consecutive chunks in evenly sized batches, and never more than
    *max_mapped_tasks* items. The XCom ``plan_id``
    has the plan's id, and ``summary`` what a person needs to know of it, as Markdown. Nothing is written to
    ClickHouse.

    Bad literal values fail when the DAG is parsed; bad rendered ones fail the task, without a
    retry and before anything is written. A templated value that renders to nothing (or ``None``,
    as an empty field of a form does) is not given.

    Args:
        target: Table to fill, ``database.table``.
        window_from: Start of the window, included: ISO text or a datetime; without an offset UTC.
        window_to: End of the window, excluded.
        chunk_hours: Length of a chunk: hours, or text such as ``12h``, ``1d``, ``month``, ``day@Europe/Berlin``,
            ``partition``, or ``auto``; the option ``defaults.chunkHours`` when None.
        chunk_by: Instead of *chunk_hours*: ``month``, ``week``, ``day`` or ``hour`` of the calendar, or ``partition``.
        chunk_zone: With *chunk_by*, the time zone of the calendar; UTC when None.
        max_chunk_rows: Cut chunks that read more rows of the source than this, and join those that read less.
        max_chunk_bytes: The same by uncompressed bytes of the source.
        time_column: Column that the window applies to; found when None.
        time_unit: ``s``, ``ms``, ``us`` or ``ns`` when that column is an integer epoch.
        source: Copy this table; with neither *source* nor *select* the target's views are replayed.
        select: Insert the rows of this SELECT; text, or the path of a ``.sql`` template.
        params_format: By the name of a parameter of *select* (``{day:String}``), the format of strftime that makes
            it the chunk's start: ``{"day": "%Y-%m-%d"}``.
        settings: ClickHouse settings for the statements that read the source and fill: ``{"max_threads": 4}``.
        filter_table: Table of the SELECT that the window applies to, ``database.table`` or
            ``database.table=column``; several in a list.
        whole_table: Table that every chunk reads whole; several in a list.
        write_mode: ``stage``, ``replace`` or ``insert``; what fits the target when None.
        accept_at_least_once: Accept a mode that may write rows twice.
        keep_outside: In ``replace``, keep rows outside the window in partitions it covers in part.
        backup: In ``replace``, keep what is overwritten in a table of its own.
        accept_partial_groups: Why parts of groups that chunks cut are fine; refused when empty.
        trial: Try on a few chunks whether they add up.
        allow_existing_rows: Add to the rows that the target already holds in the window.
        force_large_window: Go over ``limits.maxWindowHours``.
        force: Plan anew where a plan of this id exists; its files are kept beside.
        max_mapped_tasks: Most mapped tasks; never more than Airflow's ``core.max_map_length``.
        clickhouse_conn_id: Connection of the official ClickHouse provider.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``: ``{"limits": {"maxWindowHours": 9000}}``.
    """

    template_fields: Sequence[str] = (
        "target",
        "window_from",
        "window_to",
        "chunk_hours",
        "chunk_by",
        "chunk_zone",
        "max_chunk_rows",
        "max_chunk_bytes",
        "time_column",
        "source",
        "select",
        "filter_table",
        "whole_table",
        "accept_partial_groups",
        "write_mode",
        "accept_at_least_once",
        "keep_outside",
        "backup",
        "allow_existing_rows",
        "trial",
        "force_large_window",
        "force",
        "clickhouse_conn_id",
        "state_dir",
    )
    template_ext: Sequence[str] = (".sql",)
    template_fields_renderers: ClassVar[dict[str, str]] = {"select": "sql"}
    operator_extra_links = (BackfillPlanLink(),)
    ui_color = "#fff6cc"

    def __init__(
        self,
        *,
        target: str,
        window_from: str | datetime | None = None,
        window_to: str | datetime | None = None,
        chunk_hours: float | str | None = None,
        chunk_by: str | None = None,
        chunk_zone: str | None = None,
        max_chunk_rows: int | str | None = None,
        max_chunk_bytes: int | str | None = None,
        time_column: str | None = None,
        time_unit: str = "",
        source: str | None = None,
        select: str | None = None,
        params_format: Mapping[str, str] | None = None,
        settings: Mapping[str, Any] | None = None,
        filter_table: str | Sequence[str] | None = None,
        whole_table: str | Sequence[str] | None = None,
        write_mode: str | None = None,
        accept_at_least_once: bool | str = False,
        keep_outside: bool | str = False,
        backup: bool | str = False,
        accept_partial_groups: str = "",
        trial: bool | str = True,
        allow_existing_rows: bool | str = False,
        force_large_window: bool | str = False,
        force: bool | str = False,
        max_mapped_tasks: int = MAX_MAPPED_TASKS,
        clickhouse_conn_id: str = "clickhouse_default",
        state_dir: str | None = None,
        options: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.target = target
        self.window_from = window_from
        self.window_to = window_to
        self.chunk_hours = chunk_hours
        self.chunk_by = chunk_by
        self.chunk_zone = chunk_zone
        self.max_chunk_rows = max_chunk_rows
        self.max_chunk_bytes = max_chunk_bytes
        self.time_column = time_column
        self.time_unit = time_unit
        self.source = source
        self.select = select
        self.params_format = params_format
        self.settings = settings
        self.filter_table = filter_table
        self.whole_table = whole_table
        self.write_mode = write_mode
        self.accept_at_least_once = accept_at_least_once
        self.keep_outside = keep_outside
        self.backup = backup
        self.accept_partial_groups = accept_partial_groups
        self.trial = trial
        self.allow_existing_rows = allow_existing_rows
        self.force_large_window = force_large_window
        self.force = force
        self.max_mapped_tasks = max_mapped_tasks
        self.clickhouse_conn_id = clickhouse_conn_id
        self.state_dir = state_dir
        self.options = options
        with operator_words():
            self._check_literals()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> Any:
        """Render the fields, with the way out where a run has no data interval."""
        with undefined_named(context):
            return super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """Plan, and return the mapping input."""
        with airflow_errors():
            arguments = {
                "max_chunk_rows": blank_to_none(self.max_chunk_rows),
                "max_chunk_bytes": blank_to_none(self.max_chunk_bytes),
                "time_column": blank_to_none(self.time_column),
                "state_dir": blank_to_none(self.state_dir),
            }
            options = load_airflow_options(arguments, self.options)
            request = self._request(options.defaults)
            session = open_session(options, task_name(context), self.clickhouse_conn_id)
            # Airflow checks the length after the task has run; here it is bounded before anything is written.
            most = min(self.max_mapped_tasks, conf.getint("core", "max_map_length", fallback=1024))
            payload = create_plan(session, request)
            batches = list(mapped_items(session.store.load_plan(payload["planId"]), most))
        context["ti"].xcom_push("plan_id", payload["planId"])
        summary = plan_summary(plain_values(payload), len(batches), plan_link(payload["planId"]))
        context["ti"].xcom_push("summary", summary)
        self._tell(payload, len(batches))
        push_plan_link(self, context, payload["planId"])
        clear = context["dag_run"].clear_number or 0
        # So that a chunk task knows whether it was cleared together with this one.
        return [{**batch, "clear": clear} for batch in batches]

    @property
    def output(self) -> Any:
        """The mapping input as an argument of other tasks, and with ``["plan_id"]`` the plan's id."""
        return super().output

    def _length(self) -> str | None:
        """The length of a chunk that a field gives; None when the option decides."""
        lengths = [blank_to_none(value) for value in (self.chunk_hours, self.chunk_by)]
        if None not in lengths:
            raise RequestError(
                "chunk_hours and chunk_by exclude each other: a chunk has one length.", hint="keep one of them"
            )
        length = next((each for each in lengths if each is not None), None)
        return None if length is None else str(length).strip()

    def _request(self, defaults: Defaults) -> PlanRequest:
        target = self._value("target", to_table("target"))
        if target is None:
            raise RequestError("target is empty.", hint="write target='database.table'")
        if blank_to_none(self.source) is not None and blank_to_none(self.select) is not None:
            raise conflicting_sources()
        start, end = self._value("window_from", to_instant), self._value("window_to", to_instant)
        if start is not None and start == end:
            raise RequestError(
                f"The window is empty: both ends are {render_instant(start)}.",
                hint="a plain cron, such as '@daily', has no data interval in Airflow 3: give the DAG "
                "schedule=CronDataIntervalTimetable('@daily', timezone='UTC')",
            )
        length = self._length()
        auto = length == AUTO
        chunking = defaults.chunking(None if auto else length, blank_to_none(self.chunk_zone))
        return PlanRequest(
            target=target,
            start=start,
            end=end,
            chunking=chunking.without_limits() if auto else chunking,
            auto_chunks=auto,
            time_column=defaults.time_column,
            time_unit=self.time_unit,
            source=self._value("source", to_table("source")),
            select=blank_to_none(self.select),
            formats=read_formats(self.params_format or {}),
            settings=settings_as_text({**(defaults.settings or {}), **(self.settings or {})}),
            filter_tables=self._value("filter_table", to_filters) or (),
            whole_tables=self._value("whole_table", to_tables("whole-table")) or (),
            write_mode=self._value("write_mode", to_mode),
            accept_at_least_once=self._flag("accept_at_least_once"),
            keep_outside=self._flag("keep_outside"),
            backup=self._flag("backup"),
            accept_partial_groups=blank_to_none(self.accept_partial_groups) or "",
            trial=self._flag("trial"),
            allow_existing_rows=self._flag("allow_existing_rows"),
            force_large_window=self._flag("force_large_window"),
            force=self._flag("force"),
        )

    def _value(self, name: str, parse: Callable[[Any], Any]) -> Any:
        """The parsed value of a field, None when it is not given."""
        value = blank_to_none(getattr(self, name))
        return None if value is None else parse(value)

    def _flag(self, name: str) -> bool:
        """Whether a switch is on; not given is off."""
        return bool(self._value(name, to_flag))

    def _check_literals(self) -> None:
        """Refuse what is wrong whatever the templates render to."""
        if isinstance(self.max_mapped_tasks, bool) or not isinstance(self.max_mapped_tasks, int):
            raise RequestError(f"max_mapped_tasks is {self.max_mapped_tasks!r}.", hint="pass a whole number above 0")
        if self.max_mapped_tasks < 1:
            raise RequestError(f"max_mapped_tasks is {self.max_mapped_tasks}.", hint="pass a whole number above 0")
        if self.time_unit not in ("", *TIME_UNITS):
            raise RequestError(f"time_unit is {self.time_unit!r}.", hint=f"pass one of {', '.join(TIME_UNITS)}")
        read_formats(self.params_format or {})
        check_settings(self.settings or {}, "settings")
        parse_options(self.options or {}, "options")
        parsers: dict[str, Callable[[Any], Any]] = {
            "target": to_table("target"),
            "window_from": to_instant,
            "window_to": to_instant,
            "chunk_hours": to_chunking,
            "chunk_by": to_chunking,
            "source": to_table("source"),
            "filter_table": to_filters,
            "whole_table": to_tables("whole-table"),
            "write_mode": to_mode,
            **dict.fromkeys(_PLAN_FLAGS, to_flag),
        }
        found = {name: self._value(name, parse) for name, parse in parsers.items() if is_literal(getattr(self, name))}
        if found.get("window_from") and found.get("window_to"):
            next(iter_window(found["window_from"], found["window_to"], 1.0))
        if all(is_literal(each) for each in (self.chunk_hours, self.chunk_by, self.chunk_zone)):
            length, zone = self._length(), blank_to_none(self.chunk_zone)
            if length not in (None, AUTO) and zone is not None:
                parse_length(length, zone)
        if found.get("source") and is_literal(self.select) and blank_to_none(self.select) is not None:
            raise conflicting_sources()

    def _tell(self, payload: Payload, tasks: int) -> None:
        payload = plain_values(payload)
        known = "planned before" if payload["existed"] else "planned"
        self.log.info(
            "%s, %s: %s, %s chunks in %s mapped tasks, by the column %s (plan %s)",
            *(payload["target"], show_window(payload["from"], payload["to"]), known),
            *(payload["chunkCount"], tasks, payload["timeColumn"], payload["planId"]),
        )
        reason = payload["modeReason"].rstrip(".")
        self.log.info("Write mode %s: %s. %s", payload["writeMode"], reason, payload["guarantee"])
        for statement in payload["statements"]:
            self.log.info("Rows come from %s through %s", statement["source"], statement["name"])
        if payload["existingRows"]:
            self.log.warning("The target already holds %s rows in the window", payload["existingRows"])
        if payload["missedViews"]:
            self.log.warning("These views do not see the rows: %s", ", ".join(payload["missedViews"]))


class BackfillChunkOperator(BaseOperator):
    """
    Execute the chunks of a plan that lie in a window; mapped over what the plan operator returns.

    ::

        BackfillChunkOperator.partial(task_id="chunks", max_parallel_chunks=2).expand(chunks=plan.output)

    One chunk at a time within a task, each with a checkpoint of its own. Outcomes:

    - all chunks of the window are done: success, also when they were done before;
    - a chunk failed for good: failed, without Airflow's ``retries``, once the others have ended;
    - the run was cancelled: skipped;
    - the task was killed or timed out: its query is killed, its chunks are given back, and a retry goes on;
    - ClickHouse or the state folder could not be reached: Airflow's ``retries`` apply.

    A clear, and a new DAG run, gives failed chunks a fresh budget of attempts, and executes done
    ones again only if *replay_done* says so; an automatic retry does neither.

    Args:
        chunks: One item of the plan operator's result.
        replay_done: Execute done chunks again, once per clear or DAG run.
        clear_window: With *replay_done*, delete a chunk's window from the target first; needed unless the
            plan's write mode is ``replace``.
        force_overlap: Run beside another run over the same rows.
        force_compatibility: Run the plan as it was made, though options have changed since.
        force_environment: Run on another ClickHouse than the plan was made on.
        deferrable: Execute the chunks in the triggerer, so that a task holds no worker slot meanwhile; Airflow's
            ``[operators] default_deferrable`` when None. ``execution_timeout`` then counts from the deferral.
        clickhouse_conn_id: Connection of the official ClickHouse provider.
        state_dir: Folder of plans, runs and events; ``[clickhouse_backfill] state_dir`` when None.
        options: Any other options, as in ``clickhouse-backfill.toml``.
        map_index_template: What Airflow shows for a mapped task; its window and progress by default.
    """

    template_fields: Sequence[str] = (
        "chunks",
        "replay_done",
        "clear_window",
        "force_overlap",
        "force_compatibility",
        "force_environment",
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
        self.deferrable = deferrable_by_default() if deferrable is None else deferrable
        self.clickhouse_conn_id = clickhouse_conn_id
        self.state_dir = state_dir
        self.options = options
        self._stop: Callable[[str], None] | None = None
        self._killed = False
        self._progress = ""
        self._lineage: Payload | None = None
        with operator_words():
            parse_options(options or {}, "options")
            flags = {name: self._flag(name) for name in _CHUNK_FLAGS if is_literal(getattr(self, name))}
            if flags.get("clear_window") and flags.get("replay_done") is False:
                raise RequestError(
                    "clear_window does nothing without replay_done.", hint="pass replay_done=True as well"
                )

    @classmethod
    def partial(cls, *, task_id: str, max_parallel_chunks: int | None = None, **kwargs: Any) -> Any:
        """
        Prepare the mapping, as for any operator.

        Args:
            max_parallel_chunks: Mapped tasks of a DAG run that run at once; the option
                ``defaults.maxParallelChunks`` when None. With 1, Airflow's scheduler starts one task per
                loop, which costs seconds per task. ``max_active_tis_per_dagrun`` is the same and wins.
        """
        with operator_words():
            options = kwargs.get("options")
            if max_parallel_chunks is None and "max_active_tis_per_dagrun" not in kwargs:
                max_parallel_chunks = load_airflow_options({}, options).defaults.max_parallel_chunks
            elif max_parallel_chunks is not None:
                parse_options({"defaults": {"maxParallelChunks": max_parallel_chunks}}, "max_parallel_chunks")
        kwargs.setdefault("max_active_tis_per_dagrun", max_parallel_chunks)
        # Before 3.3, Airflow takes the label from what is mapped and not from the operator that comes of it.
        kwargs.setdefault("map_index_template", _LABEL)
        return super().partial(task_id=task_id, **kwargs)

    def _flag(self, name: str) -> bool:
        """Whether a switch is on; not given is off."""
        value = blank_to_none(getattr(self, name))
        return value is not None and to_flag(value)

    @property
    def window_label(self) -> str:
        """The window, and once there is any the progress, as Airflow shows it for a map index."""
        return f"{show_window(self.chunks['from'], self.chunks['to'])}{self._progress}"

    def execute(self, context: Context) -> dict[str, Any]:
        """Execute what is not done, and return what the window amounts to."""
        with airflow_errors():
            plan_id, window = parse_mapped_item(self.chunks)
            push_plan_link(self, context, plan_id)
            options = load_airflow_options({"state_dir": blank_to_none(self.state_dir)}, self.options)
            session = open_session(options, task_name(context), self.clickhouse_conn_id)
            state = task_state(context, session.store)
            self._refuse_other_plan(context, plan_id, state)
            fresh, reporter = _Clear(context, state), ChunkReporter(self.log, self.dag_id)
            status = self._look(session, plan_id, window)
            replay = self._flag("replay_done") and fresh.is_new
            if self._is_done(status) and not replay:
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
                # From here on the log knows what is to be replayed: a further try goes on with it.
                fresh.acted()
                reporter.begin(plan)
                if self.deferrable:
                    self._defer(session, flags)
                self._stop = worker.stop
                if self._killed:
                    worker.stop(_KILLED)

            try:
                run_plan(
                    session,
                    plan_id,
                    flags=flags,
                    parallel=1,
                    window=window,
                    on_start=begin,
                    report=reporter,
                )
            except BackfillError:
                # A cancel between our look and the start reads as an error there.
                self._refuse_cancelled(self._look(session, plan_id, window))
                raise
            return self._outcome(self._look(session, plan_id, window))

    def _defer(self, session: Session, flags: RunFlags) -> None:
        trigger = BackfillChunkTrigger(
            chunks=dict(self.chunks),
            user=session.user,
            dag_id=self.dag_id,
            clickhouse_conn_id=self.clickhouse_conn_id,
            state_dir=blank_to_none(self.state_dir),
            options=self.options,
            flags={name: getattr(flags, name) for name in _FORCED},
        )
        self.defer(trigger=trigger, method_name="execute_complete", timeout=self.execution_timeout)

    def execute_complete(self, context: Context, event: Mapping[str, Any]) -> dict[str, Any]:
        """Go on after the chunks were executed in the triggerer."""
        with airflow_errors():
            plan_id, window = parse_mapped_item(self.chunks)
            push_plan_link(self, context, plan_id)
            options = load_airflow_options({"state_dir": blank_to_none(self.state_dir)}, self.options)
            status = self._look(open_session(options, task_name(context)), plan_id, window)
            if event["error"] and not self._is_done(status):
                self._refuse_cancelled(status)
                raise (AirflowFailException if event["final"] else AirflowException)(event["error"])
            return self._outcome(status)

    def get_openlineage_facets_on_complete(self, _: Any) -> Any:
        """Sources, target and rows, for the OpenLineage provider where there is one; None before the end."""
        return None if self._lineage is None else lineage.openlineage(self._lineage)

    def get_openlineage_facets_on_failure(self, task_instance: Any) -> Any:
        """The same of what was done before the task failed; None when that is nothing."""
        return self.get_openlineage_facets_on_complete(task_instance)

    def on_kill(self) -> None:
        """Kill the query on the server and give the chunks back; Airflow calls it from a signal handler."""
        self._killed = True
        stop = self._stop
        if stop is not None:
            # In a thread, because this one may hold, where it was interrupted, a lock that stop() needs.
            threading.Thread(target=stop, args=(_KILLED,), name="backfill-kill", daemon=True).start()

    def _look(self, session: Session, plan_id: str, window: tuple[datetime, datetime]) -> Payload:
        status = window_status(session, plan_id, window)
        counts = status["chunkCounts"]
        if not counts["total"]:
            raise RequestError(
                f"No chunk of plan {plan_id} lies in {status['from']} to {status['to']}.",
                hint="pass chunks as BackfillPlanOperator returns them",
            )
        failed = f", {counts['failed']} failed" if counts["failed"] else ""
        self._progress = f", {counts['done']}/{counts['total']} done{failed}"
        self._lineage = status if counts["done"] else None
        return status

    def _refuse_other_plan(self, context: Context, plan_id: str, state: TaskState) -> None:
        """
        A task that has worked on one plan takes up another only if it was cleared together with the plan task.

        Else the plan task was cleared alone and made another plan, and what this map index gets now is a
        chunk of it by position.
        """
        before = state.get(_PLAN_KEY)
        if before not in (None, plan_id) and (context["dag_run"].clear_number or 0) > self.chunks.get("clear", 0):
            raise RequestError(
                f"This task has executed chunks of plan {before}, and the plan task has made plan {plan_id} since.",
                hint="clear the plan task with downstream, so that all of its chunks are executed",
            )
        state.set(_PLAN_KEY, plan_id)

    @staticmethod
    def _is_done(status: Payload) -> bool:
        counts = status["chunkCounts"]
        return bool(counts["done"] == counts["total"])

    @staticmethod
    def _refuse_cancelled(status: Payload) -> None:
        if RunStatus(status["status"]).is_cancelled:
            raise AirflowSkipException(
                f"Plan {status['planId']} was cancelled; `clickhouse-backfill resume --plan-id {status['planId']}` "
                "takes it up again."
            )

    def _outcome(self, status: Payload) -> dict[str, Any]:
        counts, plan_id = status["chunkCounts"], status["planId"]
        if self._is_done(status):
            window, rows = show_window(status["from"], status["to"]), f"{status['rowsWritten']:,}"
            self.log.info("%s: %s rows, %s chunks done (plan %s)", window, rows, counts["done"], plan_id)
            return self._result(status)
        self._refuse_cancelled(status)
        if counts["failed"]:
            shown = "; ".join(f"{show_window(f['from'], f['to'])}: {f['error']}" for f in status["failed"][:3])
            more = f"; and {counts['failed'] - 3} more" if counts["failed"] > 3 else ""
            raise AirflowFailException(
                f"{counts['failed']} of {counts['total']} chunks of plan {plan_id} failed. {shown}{more}. "
                "Mend the cause, then clear this task."
            )
        why = _KILLED if self._killed else "it stopped"
        raise AirflowException(
            f"Plan {plan_id}: {why} with {counts['done']} of {counts['total']} chunks done; the next try goes on."
        )

    def _result(self, status: Payload) -> dict[str, Any]:
        return {
            "planId": status["planId"],
            "from": status["from"],
            "to": status["to"],
            "chunkCount": status["chunkCounts"]["total"],
            "rowsWritten": status["rowsWritten"],
        }


_KILLED = "the task was killed"


class _Clear:
    """
    Whether a task instance is at work for the first time since it was cleared, or since it was made.

    Kept in the task's state, since a worker may be lost before it has acted on it.
    """

    def __init__(self, context: Context, state: TaskState) -> None:
        ti, self._state = context["ti"], state
        # Airflow adds the tries made so far to max_tries with each clear.
        self._number = str(ti.max_tries - (ti.task.retries or 0))
        self.is_new = self._state.get(_CLEAR_KEY) != self._number

    def acted(self) -> None:
        """Remember that this clear was acted on."""
        self._state.set(_CLEAR_KEY, self._number)
