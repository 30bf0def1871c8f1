"""Plan a ClickHouse backfill: create an immutable plan and the items that the chunk operator is mapped over."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from airflow.sdk import BaseOperator, Context
from airflow.sdk.definitions.mappedoperator import MappedOperator

from ..airflow_support.compat import conf
from ..airflow_support.fields import (
    blank_to_none,
    conflicting_sources,
    is_literal,
    mapped_items,
    show_window,
    to_chunking,
    to_filters,
    to_flag,
    to_instant,
    to_mode,
    to_proof,
    to_table,
    to_tables,
)
from ..airflow_support.links import BackfillPlanLink, plan_link, push_plan_link
from ..airflow_support.session import (
    airflow_errors,
    load_airflow_options,
    open_session,
    operator_words,
    task_name,
    undefined_named,
)
from ..airflow_support.summary import plan_summary
from ..clickhouse.shards import read_shard_urls
from ..commands.plan import create_plan
from ..commands.session import Payload
from ..core.chunking import AUTO, parse_length
from ..core.instants import render_instant
from ..core.parameters import read_formats
from ..core.plain_text import plain_values, show_number
from ..core.plan import RowProof
from ..core.query_settings import check_setting_values, check_settings, settings_as_text
from ..core.request import PlanRequest
from ..core.tables import TIME_UNITS
from ..core.window import iter_window
from ..errors import RequestError
from ..option_sources import parse_options
from ..options import Defaults

# The default of the maximum number of mapped tasks.
MAX_MAPPED_TASKS = 100
# The boolean arguments, which a form or a template may set as text.
_PLAN_FLAGS = (
    "accept_at_least_once",
    "keep_outside",
    "backup",
    "allow_existing_rows",
    "trial",
    "force_large_window",
    "one_shard",
    "newest_first",
    "force",
)


class BackfillPlanOperator(BaseOperator):
    """
    Create an immutable plan, or reuse an identical plan, and return the items for ``.expand()``.

    The result is a list of ``{"planId", "from", "to", "chunkCount", "clear"}`` with at most *max_mapped_tasks* items;
    with *newest_first*, an item also has ``newestFirst``. Within this limit, each chunk has an item if there are at
    most 24 chunks, if the number of source rows is unknown, or if a chunk has about a minute of work or more. Otherwise
    an item may be a batch of consecutive chunks. The XCom ``plan_id`` has the plan id, and the XCom ``summary`` a
    summary as Markdown. The operator writes nothing to the target. A trial writes to private tables, and drops them.

    Bad literal values fail the import of the DAG. Bad rendered values fail the task, without a retry and before
    anything is written. A template that renders to nothing or ``None`` is treated as an omitted argument.

    Args:
        target: Table to fill, ``database.table``.
        window_from: Start of the window, included: ISO text or a datetime; UTC if the value has no offset.
        window_to: End of the window, excluded.
        chunk_hours: Length of a chunk: hours, or text such as ``12h``, ``1d``, ``month``, ``day@Europe/Berlin``,
            ``partition``, or ``auto``; the option ``defaults.chunkHours`` if None.
        chunk_by: Instead of *chunk_hours*: ``month``, ``week``, ``day`` or ``hour`` of the calendar, or ``partition``.
        chunk_zone: With *chunk_by*, the time zone of the calendar; UTC if None.
        max_chunk_rows: Split chunks with more source rows, and join chunks with fewer.
        max_chunk_bytes: The same limit in uncompressed bytes of the source.
        time_column: Column of the window; detected if None.
        time_unit: Unit of an integer time column: ``s``, ``ms``, ``us`` or ``ns``.
        source: Table to copy. Without *source* and *select*, the target's views are replayed.
        select: SELECT whose rows are inserted; text, or the path of a ``.sql`` template.
        params_format: For each parameter of *select* (``{day:String}``), the strftime format of the chunk's start:
            ``{"day": "%Y-%m-%d"}``.
        settings: ClickHouse settings for the statements that read the source and fill: ``{"max_threads": 4}``.
        filter_table: Table of the SELECT to filter by the window, ``database.table`` or ``database.table=column``;
            several in a list.
        whole_table: Table of the SELECT to read whole in every chunk; several in a list.
        write_mode: ``stage``, ``replace`` or ``insert``; chosen by the target's engine if None.
        accept_at_least_once: Accept a mode that may write rows twice.
        keep_outside: In ``replace``, keep rows outside the window in partly covered partitions.
        backup: In ``replace``, keep the old rows in a backup table.
        proof: ``written`` compares the staged rows with the server's own count of written rows; ``content`` reads the
            source a second time and compares content.
        accept_partial_groups: Reason to accept that chunks cut groups of the SELECT; without a reason, such a plan is
            refused.
        trial: Try a few chunks to see whether the chunks add up.
        allow_existing_rows: Add to existing rows of the target in the window.
        force_large_window: Allow a window longer than ``limits.maxWindowHours``.
        one_shard: Fill this server's local table with the rows of all shards of a Distributed source.
        staging_database: Database for staging tables, instead of the target's database.
        cluster: The cluster on whose shards the target is a local table.
        shard_url: Addresses of shards, such as ``2=http://host:8123``; other addresses come from ``system.clusters``.
        reason: Reason for the backfill; shown by ``report``. The plan's owner is the task's ``owner``.
        newest_first: Map the newest chunks first, and execute the newest chunk of a task first.
        force: Replace an existing plan with the same id; its files are kept under another name.
        max_mapped_tasks: Maximum number of mapped tasks; never more than Airflow's ``core.max_map_length``.
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
        "proof",
        "allow_existing_rows",
        "trial",
        "force_large_window",
        "one_shard",
        "staging_database",
        "cluster",
        "shard_url",
        "reason",
        "newest_first",
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
        proof: str = RowProof.WRITTEN,
        accept_partial_groups: str = "",
        trial: bool | str = True,
        allow_existing_rows: bool | str = False,
        force_large_window: bool | str = False,
        one_shard: bool | str = False,
        staging_database: str = "",
        cluster: str = "",
        shard_url: Sequence[str] = (),
        reason: str = "",
        newest_first: bool | str = False,
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
        self.proof = proof
        self.accept_partial_groups = accept_partial_groups
        self.trial = trial
        self.allow_existing_rows = allow_existing_rows
        self.force_large_window = force_large_window
        self.one_shard = one_shard
        self.staging_database = staging_database
        self.cluster = cluster
        self.shard_url = shard_url
        self.reason = reason
        self.newest_first = newest_first
        self.force = force
        self.max_mapped_tasks = max_mapped_tasks
        self.clickhouse_conn_id = clickhouse_conn_id
        self.state_dir = state_dir
        self.options = options
        with operator_words():
            self._check_literals()

    def render_template_fields(self, context: Context, jinja_env: Any = None) -> Any:
        """
        Render the fields.

        Raises:
            AirflowFailException: A template uses an undefined name, and the run has no logical date.
        """
        with undefined_named(context):
            return super().render_template_fields(context, jinja_env)

    def execute(self, context: Context) -> list[dict[str, Any]]:
        """
        Create or reuse the plan, push the XComs, and return the mapping input.

        Raises:
            AirflowFailException: An argument is invalid, or the plan is refused.
            AirflowException: ClickHouse or the state folder could not be reached.
        """
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
            # Airflow checks the length of the mapping input only after the task. So read the limit before the plan is
            # written, and make no more items.
            most = min(self.max_mapped_tasks, conf.getint("core", "max_map_length", fallback=1024))
            payload = create_plan(session, request)
            batches = list(mapped_items(session.store.load_plan(payload["planId"]), most, self._parallel_tasks()))
            if self._flag("newest_first"):
                batches = [{**batch, "newestFirst": True} for batch in reversed(batches)]
        context["ti"].xcom_push("plan_id", payload["planId"])
        summary = plan_summary(plain_values(payload), len(batches), plan_link(payload["planId"]))
        context["ti"].xcom_push("summary", summary)
        self._tell(payload, len(batches))
        push_plan_link(self, context, payload["planId"])
        clear = context["dag_run"].clear_number or 0
        # The key ``clear`` tells a cleared chunk task whether the clear included this plan task.
        return [{**batch, "clear": clear} for batch in batches]

    def _parallel_tasks(self) -> int:
        """
        Return the maximum number of parallel tasks of a mapped downstream operator in a DAG run.

        The DAG's limit applies if there is no such operator, or if the operator sets no limit.
        """
        most: int = self.dag.max_active_tasks
        mapped = [task for task in self.downstream_list if isinstance(task, MappedOperator)]
        return max((task.max_active_tis_per_dagrun or most for task in mapped), default=most)

    @property
    def output(self) -> Any:
        """The mapping input as an argument of other tasks; ``["plan_id"]`` returns the plan's id."""
        return super().output

    def _length(self) -> str | None:
        """
        Return *chunk_hours* or *chunk_by* as text.

        Return None if neither is given; the option ``defaults.chunkHours`` then decides.

        Raises:
            RequestError: Both *chunk_hours* and *chunk_by* are given.
        """
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
            row_proof=self._value("proof", to_proof) or RowProof.WRITTEN,
            accept_partial_groups=blank_to_none(self.accept_partial_groups) or "",
            trial=self._flag("trial"),
            allow_existing_rows=self._flag("allow_existing_rows"),
            force_large_window=self._flag("force_large_window"),
            one_shard=self._flag("one_shard"),
            staging_database=blank_to_none(self.staging_database) or "",
            cluster=blank_to_none(self.cluster) or "",
            shard_urls=read_shard_urls(self.shard_url),
            reason=blank_to_none(self.reason) or "",
            # Airflow's default owner is not a person.
            owner="" if self.owner == conf.get("operators", "default_owner", fallback="") else self.owner,
            force=self._flag("force"),
        )

    def _value(self, name: str, parse: Callable[[Any], Any]) -> Any:
        """Return the parsed value of a field; None if it is omitted."""
        value = blank_to_none(getattr(self, name))
        return None if value is None else parse(value)

    def _flag(self, name: str) -> bool:
        """Return whether a switch is on; an omitted switch is off."""
        return bool(self._value(name, to_flag))

    def _check_literals(self) -> None:
        """Raise a RequestError or ConfigError for literal values that are wrong however the templates render."""
        if isinstance(self.max_mapped_tasks, bool) or not isinstance(self.max_mapped_tasks, int):
            raise RequestError(f"max_mapped_tasks is {self.max_mapped_tasks!r}.", hint="pass a whole number above 0")
        if self.max_mapped_tasks < 1:
            raise RequestError(f"max_mapped_tasks is {self.max_mapped_tasks}.", hint="pass a whole number above 0")
        if self.time_unit not in ("", *TIME_UNITS):
            raise RequestError(f"time_unit is {self.time_unit!r}.", hint=f"pass one of {', '.join(TIME_UNITS)}")
        read_formats(self.params_format or {})
        check_settings(self.settings or {}, "settings")
        check_setting_values(self.settings or {}, "settings")
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
            "proof": to_proof,
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
            self.log.warning("The target already has %s in the window", show_number(payload["existingRows"], "row"))
        if payload["missedViews"]:
            self.log.warning("These views do not see the rows: %s", ", ".join(payload["missedViews"]))
