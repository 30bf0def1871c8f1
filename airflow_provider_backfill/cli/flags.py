"""Define the commands and their flags as data."""

from typing import Any, NamedTuple

Payload = dict[str, Any]


class Flag(NamedTuple):
    """
    One flag of the command line.

    Attributes:
        name: The name as typed, with its dashes.
        value: A placeholder for the value; empty for a switch.
        many: Whether the flag may be repeated.
    """

    name: str
    value: str
    help: str
    many: bool = False

    @property
    def key(self) -> str:
        """The flag's name among the parsed arguments: ``state_dir`` for ``--state-dir``."""
        return self.name.lstrip("-").replace("-", "_")


class _Command(NamedTuple):
    help: str
    flags: tuple[Flag, ...]
    more: tuple[Flag, ...] = ()


COMMON = (
    Flag("--clickhouse-url", "URL", "http[s]://user@host:8123/database or chdb:///path (CLICKHOUSE_URL)"),
    Flag("--password-file", "FILE", "file with the password (CLICKHOUSE_PASSWORD_FILE, CLICKHOUSE_PASSWORD)"),
    Flag("--state-dir", "DIR", "folder of plans, runs and events (CLICKHOUSE_BACKFILL_STATE_DIR)"),
    Flag("--config", "FILE", "options file; default: clickhouse-backfill.toml or pyproject.toml here"),
    Flag("--json", "", "print one JSON object on stdout and nothing else"),
    Flag("--verbose", "", "show every event, and the traceback of an unexpected error"),
)
SHELL = Flag("--shell", "SHELL", "bash, zsh or fish; the flag may be omitted: completion bash")
PLAN_ID = Flag("--plan-id", "ID", "plan id or unique prefix; the flag may be omitted: run 2bf8")
_LAST = Flag("--last", "", "the newest plan")
_OPEN = Flag("--target", "DATABASE.TABLE", "the only open plan of this table")
_NAMED = (PLAN_ID, _LAST, _OPEN)
PLAN_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "table to fill"),
    Flag("--from", "TIME", "start of the window, included: 2025-01-31 or 2025-01-31T06:00:00Z"),
    Flag("--to", "TIME", "end of the window, excluded"),
    Flag("--chunk-hours", "LENGTH", "hours, 12h, 1d, 1w, 1mo, or auto to suit the table (option chunkHours, 6)"),
    Flag("--chunk-by", "UNIT", "month, week, day or hour of the calendar, or partition of the target"),
    Flag("--chunk-zone", "ZONE", "with --chunk-by: time zone of the calendar, such as Europe/Berlin (default: UTC)"),
    Flag("--max-chunk-rows", "N", "split chunks with more source rows, join chunks with fewer"),
    Flag("--max-chunk-bytes", "N", "the same by uncompressed bytes of the source"),
    Flag("--time-column", "COLUMN", "column, or expression over columns, of the window (default: detected)"),
    Flag("--time-unit", "UNIT", "s, ms, us or ns, when the time column is an integer epoch"),
    Flag("--source", "DATABASE.TABLE", "copy this table, columns matched by name (default: replay the target's views)"),
    Flag("--select", "SQL", "insert the rows of this SELECT"),
    Flag("--select-file", "FILE", "insert the rows of the SELECT in this file"),
    Flag("--param", "NAME=FORMAT", "replace {NAME:String} in the SELECT by the chunk's start: day=%Y-%m-%d", many=True),
    Flag(
        "--filter-table",
        "DATABASE.TABLE[=COLUMN]",
        "table of the SELECT to filter by the window; repeatable",
        many=True,
    ),
    Flag("--whole-table", "DATABASE.TABLE", "table of the SELECT to read whole in every chunk; repeatable", many=True),
    Flag("--accept-partial-groups", "REASON", "accept that chunks cut groups of the SELECT into partial rows"),
    Flag("--no-trial", "", "skip the trial of a few chunks; recorded in the plan"),
    Flag("--setting", "NAME=VALUE", "ClickHouse setting for reading and filling; repeatable", many=True),
    Flag("--write-mode", "MODE", "stage, replace or insert (default: chosen by the target)"),
    Flag("--accept-at-least-once", "", "with insert: accept that a failed attempt may repeat rows"),
    Flag("--keep-outside", "", "with replace: keep rows outside the window in partly covered partitions"),
    Flag("--backup", "", "with replace: keep the old rows, so that undo can restore them"),
    Flag("--staging-database", "NAME", "database for staging tables (default: the target's)"),
    Flag("--proof", "WHAT", "written (default): compare staged rows with the server's count; content: with the source"),
    Flag("--allow-existing-rows", "", "add to existing rows of the target in the window"),
    Flag("--cluster", "NAME", "the target is a local table on each shard of this cluster"),
    Flag("--shard-url", "SHARD=URL", "address of a shard: 2=http://host:8123; again for its replicas", many=True),
    Flag("--one-shard", "", "fill this server's local table with the rows of all shards of a Distributed source"),
    Flag("--force-large-window", "", "allow a window longer than limits.maxWindowHours"),
    Flag("--reason", "TEXT", "reason for the backfill; shown by report"),
    Flag("--owner", "NAME", "person or team responsible; shown by report"),
    Flag("--quiet", "", "print only the plan id"),
    Flag("--force", "", "replace an existing plan with this id; its files are kept under another name"),
)
_DRY_RUN = Flag("--dry-run", "", "write nothing: show the SQL, rows and expected time of the first and heaviest chunk")
_RUN_FLAGS = (
    PLAN_ID,
    _LAST,
    Flag("--max-parallel-chunks", "N", "parallel chunks (default: option maxParallelChunks, 1)"),
    Flag("--replay-done", "", "execute done chunks again"),
    Flag("--replay-failed", "", "execute failed chunks again, with a fresh budget of attempts"),
    Flag(
        "--clear-window", "", "with --replay-done or --replay-failed: delete each chunk's window from the target first"
    ),
    Flag("--max-load", "PERCENT", "wait while parts or memory exceed this share of the server's limits (default: 80)"),
    Flag("--max-failures", "N", "pause after N permanent failures in a row (default: 10)"),
    Flag("--newest-first", "", "start at the end of the window"),
    Flag("--stop-at", "TIME", "start no chunk after TIME and pause: 06:00, or 2025-01-31T06:00:00Z"),
    Flag("--hours", "HOURS", "start chunks only in these hours of the day: 22-06 or 22:30-06:00"),
    Flag("--zone", "ZONE", "time zone of --hours and --stop-at (default: UTC)"),
    Flag("--log-format", "FORMAT", "text, or json with one object per line (default: text)"),
    Flag("--notify", "URL", "send the result of the run to URL, as JSON by POST"),
    Flag("--force-overlap", "", "run in parallel to another run over the same rows, or before the source is filled"),
    Flag(
        "--force-compatibility", "", "run although the view, the target's columns or an option changed since planning"
    ),
    Flag("--force-environment", "", "run on another ClickHouse than the one of the plan"),
)
_STATUSES = ("pending", "running", "done", "failed")
_CHUNKS = Flag(
    "--chunks", "STATUS", f"list the chunks with this status: {', '.join(_STATUSES[:-1])} or {_STATUSES[-1]}"
)
_SQL = Flag("--sql", "CHUNK", "print the SQL of this chunk as well; a prefix of the id is enough")
_EVENTS_FLAGS = (
    *_NAMED,
    Flag("--follow", "", "follow until the run has ended; with --json one line per event"),
    Flag("--chunk", "ID", "only events of this chunk; a prefix of the id is enough"),
)
_LIST_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "only the plans of this table"),
    Flag("--status", "STATUS", "only plans with this status: planned, running, paused, completed, failed, cancelled"),
    Flag("--quiet", "", "print only the ids, one per line"),
)
_WATCH = Flag("--watch", "", "follow until the run has ended; with --json one line per change")
_REASON = Flag("--reason", "TEXT", "reason, for the event log")
_NARROW = Flag("--target", "DATABASE.TABLE", "check only backfills of this table")

_DOCTOR_FLAGS = (PLAN_ID, _LAST, Flag("--target", "DATABASE.TABLE", "diagnose this table, with or without a plan"))
_CHECK_FLAGS = (
    _NARROW,
    Flag("--max-age", "AGE", "report younger unfinished plans as warnings: 90m, 36h, 7d, 2w"),
    Flag("--required", "FILE", "TOML, YAML or JSON file with required backfills"),
    Flag("--format", "FORMAT", "text, or github for workflow annotations"),
    Flag("--junit", "FILE", "write the findings as a JUnit file as well"),
)
PARALLEL = Flag(
    "--parallel", "N", "parallel chunks of all workers, on each shard; auto restores each worker's own setting"
)
_PARALLEL_FLAGS = (*_NAMED, PARALLEL)
_WAIVE_FLAGS = (
    *_NAMED,
    _REASON,
    Flag("--until", "TIME", "end of the waiver (default: never)"),
    Flag("--superseded-by", "ID", "the plan that replaces this plan"),
)
_COVERAGE_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "the table"),
    Flag("--from", "TIME", "start of the window, included (default: where the first plan of the table starts)"),
    Flag("--to", "TIME", "end of the window, excluded (default: where the last plan of the table ends)"),
)

_CLEAN_FLAGS = (
    PLAN_ID,
    _LAST,
    Flag("--target", "DATABASE.TABLE", "search only next to this table"),
    Flag("--yes", "", "drop the tables; otherwise they are only listed"),
)

_REPORT_FLAGS = (
    *_NAMED,
    Flag("--verify", "", "include a verification"),
    Flag("--format", "FORMAT", "text or markdown"),
)

COMMANDS = {
    "plan": _Command("create an immutable plan; nothing runs", (*PLAN_FLAGS, _DRY_RUN)),
    "run": _Command("execute a plan, chunk by chunk", _RUN_FLAGS, PLAN_FLAGS),
    "resume": _Command("continue a paused, failed or cancelled plan, retrying failed chunks", (_OPEN, *_RUN_FLAGS)),
    "status": _Command("show the status of a plan", (*_NAMED, _WATCH, _CHUNKS, _SQL)),
    "events": _Command("print the history of a plan, event by event", _EVENTS_FLAGS),
    "set-parallel": _Command("change the number of parallel chunks, even during a run", _PARALLEL_FLAGS),
    "pause": _Command("pause a run until resume; the workers release their chunks", (*_NAMED, _REASON)),
    "cancel": _Command("cancel a plan until resume, and kill its queries", (*_NAMED, _REASON)),
    "doctor": _Command("diagnose a plan or table and suggest the command that fixes it", _DOCTOR_FLAGS),
    "check": _Command("exit 1 while any required backfill is unfinished; for CI", _CHECK_FLAGS),
    "coverage": _Command("show the proven filled parts of a window", _COVERAGE_FLAGS),
    "report": _Command("report the users, times and cost of a plan", _REPORT_FLAGS),
    "verify": _Command("compare the rows of the plan with source and target", _NAMED),
    "undo": _Command("restore the rows that a plan with --backup has replaced", _NAMED),
    "waive": _Command("mark a plan as not required, so that check ignores it", _WAIVE_FLAGS),
    "repair": _Command("repair a plan's damaged files; the damaged files are kept", _NAMED),
    "clean": _Command("drop tables left on the server by runs and trials", _CLEAN_FLAGS),
    "list": _Command("list the plans, newest last", _LIST_FLAGS),
    "completion": _Command("print a completion script for bash, zsh or fish", (SHELL,)),
    "help": _Command("show the commands, or the options of a command", ()),
    "version": _Command("show the version", ()),
}
_PLAN_FEBRUARY = "plan --target shop.orders_daily --from 2025-02-01 --to 2025-03-01"
EXAMPLES = {
    "plan": (
        f"{_PLAN_FEBRUARY} --chunk-by month --write-mode replace --dry-run",
        f"{_PLAN_FEBRUARY} --chunk-by month --write-mode replace --backup",
    ),
    "run": ("run --last --max-parallel-chunks 2", "run 5832 --stop-at 06:00 --hours 22-06"),
    "resume": ("resume --last",),
    "status": ("status --last", "status 5832 --chunks failed"),
    "events": ("events --last",),
    "set-parallel": ("set-parallel --last 4",),
    "pause": ('pause --last --reason "the nightly load comes first"',),
    "cancel": ('cancel --last --reason "the wrong month"',),
    "doctor": ("doctor --last", "doctor --target shop.orders_daily"),
    "check": ("check", "check --target shop.orders_daily --max-age 36h --format github"),
    "coverage": ("coverage --target shop.orders_daily --from 2025-02-01 --to 2025-03-01",),
    "report": ("report --last --format markdown",),
    "verify": ("verify --last",),
    "undo": ("undo --last",),
    "waive": ('waive --last --reason "the source is gone" --until 2030-06-30',),
    "repair": ("repair --last",),
    "clean": ("clean",),
    "list": ("list --target shop.orders_daily",),
    "completion": ("completion bash",),
    "help": ("help plan",),
    "version": ("version",),
}
"""Example arguments by command; the documentation runs them in this order."""
ALL_FLAGS = {flag.name: flag for command in COMMANDS.values() for flag in (*COMMON, *command.flags)}
POSITIONAL = (PLAN_ID, SHELL, PARALLEL)
"""Flags whose names may be omitted, so that a value is a positional word."""
