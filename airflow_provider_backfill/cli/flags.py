"""The commands and their flags, as data."""

from typing import Any, NamedTuple

Payload = dict[str, Any]


class Flag(NamedTuple):
    """One flag; *value* shows what it takes and is empty for a switch; *many* says that it may be given again."""

    name: str
    value: str
    help: str
    many: bool = False

    @property
    def key(self) -> str:
        """Return the flag's name as an attribute of the parsed arguments."""
        return self.name.lstrip("-").replace("-", "_")


class _Command(NamedTuple):
    help: str
    flags: tuple[Flag, ...]
    more: tuple[Flag, ...] = ()


COMMON = (
    Flag("--clickhouse-url", "URL", "http[s]://user@host:8123/database or chdb:///path (CLICKHOUSE_URL)"),
    Flag("--password-file", "FILE", "file that holds the password (CLICKHOUSE_PASSWORD_FILE, CLICKHOUSE_PASSWORD)"),
    Flag("--state-dir", "DIR", "folder of plans, runs and events (CLICKHOUSE_BACKFILL_STATE_DIR)"),
    Flag("--config", "FILE", "options file; default: clickhouse-backfill.toml or pyproject.toml here"),
    Flag("--json", "", "print one JSON object on stdout and nothing else"),
    Flag("--verbose", "", "show every event, and the traceback of an unexpected error"),
)
SHELL = Flag("--shell", "SHELL", "bash, zsh or fish; may stand without the flag: completion bash")
PLAN_ID = Flag("--plan-id", "ID", "the plan's id or its beginning; may stand without the flag: run 2bf8")
_LAST = Flag("--last", "", "the plan that was created last")
_OPEN = Flag("--target", "DATABASE.TABLE", "the one open plan of this table")
_NAMED = (PLAN_ID, _LAST, _OPEN)
PLAN_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "table to fill"),
    Flag("--from", "TIME", "start of the window, included: 2025-01-31 or 2025-01-31T06:00:00Z"),
    Flag("--to", "TIME", "end of the window, excluded"),
    Flag("--chunk-hours", "LENGTH", "hours, 12h, 1d, 1w, 1mo, or auto: what suits the table (option chunkHours, 6)"),
    Flag("--chunk-by", "UNIT", "month, week, day or hour of the calendar, or partition of the target"),
    Flag("--chunk-zone", "ZONE", "with --chunk-by: time zone of the calendar, such as Europe/Berlin (default: UTC)"),
    Flag("--max-chunk-rows", "N", "cut chunks that read more rows of the source, join those that read less"),
    Flag("--max-chunk-bytes", "N", "the same by uncompressed bytes of the source"),
    Flag("--time-column", "COLUMN", "column, or expression over columns, that the window applies to (default: found)"),
    Flag("--time-unit", "UNIT", "s, ms, us or ns, when the time column is an integer epoch"),
    Flag("--source", "DATABASE.TABLE", "copy this table, columns matched by name (default: replay the target's views)"),
    Flag("--select", "SQL", "insert the rows of this SELECT"),
    Flag("--select-file", "FILE", "insert the rows of the SELECT in this file"),
    Flag(
        "--param", "NAME=FORMAT", "make {NAME:String} in the SELECT the chunk's start, as day=%Y-%m-%d does", many=True
    ),
    Flag(
        "--filter-table",
        "DATABASE.TABLE[=COLUMN]",
        "table of the SELECT that the window applies to, by its time column; may be given again",
        many=True,
    ),
    Flag("--whole-table", "DATABASE.TABLE", "table that every chunk reads whole; may be given again", many=True),
    Flag("--accept-partial-groups", "REASON", "chunks may cut groups of the SELECT, since parts of them are fine"),
    Flag("--no-trial", "", "do not try on a few chunks whether they add up; every later look at the plan says so"),
    Flag("--setting", "NAME=VALUE", "ClickHouse setting for reading and filling; may be given again", many=True),
    Flag("--write-mode", "MODE", "stage, replace or insert (default: what fits the target)"),
    Flag("--accept-at-least-once", "", "with insert: accept that a failed attempt may repeat rows"),
    Flag("--keep-outside", "", "with replace: keep rows outside the window in partitions that it covers in part"),
    Flag("--backup", "", "with replace: keep what is overwritten, so that undo can bring it back"),
    Flag("--allow-existing-rows", "", "add to the rows that the target already holds in the window"),
    Flag("--one-shard", "", "fill this server's local table with the rows of all shards of a Distributed source"),
    Flag("--force-large-window", "", "go over limits.maxWindowHours"),
    Flag("--reason", "TEXT", "why the backfill is made; shown by report"),
    Flag("--owner", "NAME", "who answers for the backfill; shown by report"),
    Flag("--quiet", "", "print the plan's id alone"),
    Flag("--force", "", "plan anew where a plan of this id exists; its files are kept beside"),
)
_DRY_RUN = Flag("--dry-run", "", "write nothing: show the SQL, rows and expected time of the first and heaviest chunk")
_RUN_FLAGS = (
    PLAN_ID,
    _LAST,
    Flag("--max-parallel-chunks", "N", "chunks at once (default: option maxParallelChunks, 1)"),
    Flag("--replay-done", "", "execute done chunks again"),
    Flag("--replay-failed", "", "execute failed chunks again, with a fresh budget of attempts"),
    Flag(
        "--clear-window", "", "with --replay-done or --replay-failed: delete each chunk's window from the target first"
    ),
    Flag("--max-load", "PERCENT", "wait while the server uses more of its limits on parts and memory (default: 80)"),
    Flag("--max-failures", "N", "pause when so many chunks in a row failed for good (default: 10)"),
    Flag("--newest-first", "", "begin with the end of the window"),
    Flag("--stop-at", "TIME", "start no chunk from then on: 06:00, or 2025-01-31T06:00:00Z; the run is paused"),
    Flag("--hours", "HOURS", "start chunks in these hours of the day only: 22-06 or 22:30-06:00"),
    Flag("--zone", "ZONE", "time zone of --hours and --stop-at (default: UTC)"),
    Flag("--log-format", "FORMAT", "progress as text, or as json with one object a line (default: text)"),
    Flag("--notify", "URL", "send how the run ended to this address, as JSON by POST"),
    Flag("--force-overlap", "", "run beside another run over the same rows"),
    Flag("--force-compatibility", "", "run the plan as it was made, though options have changed since"),
    Flag("--force-environment", "", "run on another ClickHouse than the plan was made on"),
)
_STATUSES = ("pending", "running", "done", "failed")
_CHUNKS = Flag("--chunks", "STATUS", f"list the chunks that are {', '.join(_STATUSES[:-1])} or {_STATUSES[-1]}")
_EVENTS_FLAGS = (
    *_NAMED,
    Flag("--follow", "", "wait for further events until the run has ended; with --json a line for each"),
    Flag("--chunk", "ID", "only the events of this chunk; the beginning of its id is enough"),
)
_LIST_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "only the plans of this table"),
    Flag("--status", "STATUS", "only plans of this status: planned, running, paused, completed, failed, cancelled"),
    Flag("--quiet", "", "print the ids alone, one a line"),
)
_WATCH = Flag("--watch", "", "show progress until the run has ended; with --json a line for each change")
_REASON = Flag("--reason", "TEXT", "why, for the event log")
_NARROW = Flag("--target", "DATABASE.TABLE", "look only at the backfills of this table")

_DOCTOR_FLAGS = (PLAN_ID, _LAST, Flag("--target", "DATABASE.TABLE", "look at this table, before there is a plan"))
_CHECK_FLAGS = (
    _NARROW,
    Flag("--max-age", "AGE", "an unfinished plan only warns until it is so old: 90m, 36h, 7d, 2w"),
    Flag("--required", "FILE", "TOML, YAML or JSON file of backfills that must have a plan"),
    Flag("--format", "FORMAT", "text, or github for annotations of a workflow"),
    Flag("--junit", "FILE", "write the findings as a JUnit file as well"),
)
PARALLEL = Flag("--parallel", "N", "chunks at once, over all workers; auto: as each worker was told")
_PARALLEL_FLAGS = (*_NAMED, PARALLEL)
_WAIVE_FLAGS = (
    *_NAMED,
    _REASON,
    Flag("--until", "TIME", "when the waiver ends by itself (default: never)"),
    Flag("--superseded-by", "ID", "the plan that does this one's work"),
)
_COVERAGE_FLAGS = (
    Flag("--target", "DATABASE.TABLE", "table whose done chunks are looked at"),
    Flag("--from", "TIME", "start of the window, included (default: where the first plan of the table starts)"),
    Flag("--to", "TIME", "end of the window, excluded (default: where the last plan of the table ends)"),
)

_CLEAN_FLAGS = (
    PLAN_ID,
    _LAST,
    Flag("--target", "DATABASE.TABLE", "look beside this table, and nowhere else"),
    Flag("--yes", "", "drop the tables; without it they are only listed"),
)

_REPORT_FLAGS = (
    *_NAMED,
    Flag("--verify", "", "verify the plan now, for the report"),
    Flag("--format", "FORMAT", "text or markdown"),
)

COMMANDS = {
    "plan": _Command("make an immutable plan; nothing runs", (*PLAN_FLAGS, _DRY_RUN)),
    "run": _Command("execute a plan, chunk by chunk", _RUN_FLAGS, PLAN_FLAGS),
    "resume": _Command("go on after a pause, crash, failure or cancel; failed chunks included", (_OPEN, *_RUN_FLAGS)),
    "status": _Command("show where a plan stands", (*_NAMED, _WATCH, _CHUNKS)),
    "events": _Command("show what happened to a plan, event by event", _EVENTS_FLAGS),
    "set-parallel": _Command("change how many chunks run at once, even during a run", _PARALLEL_FLAGS),
    "pause": _Command("pause a run until it is resumed; its workers give their chunks back", (*_NAMED, _REASON)),
    "cancel": _Command("stop a plan and kill its queries, until it is resumed", (*_NAMED, _REASON)),
    "doctor": _Command("show what is wrong with a plan or a table, and what to type", _DOCTOR_FLAGS),
    "check": _Command("fail while a planned backfill is not completed; for CI", _CHECK_FLAGS),
    "coverage": _Command("show which parts of a window are proven filled", _COVERAGE_FLAGS),
    "report": _Command("report who ran a plan, when, and what it cost", _REPORT_FLAGS),
    "verify": _Command("compare what was written with the source and the target as they are now", _NAMED),
    "undo": _Command("bring back what a plan made with --backup has replaced", _NAMED),
    "waive": _Command("say that a plan need not be finished; check does not count it", _WAIVE_FLAGS),
    "repair": _Command("make a plan's damaged files readable again; the damaged ones are kept", _NAMED),
    "clean": _Command("drop the tables that runs and trials have left on the server", _CLEAN_FLAGS),
    "list": _Command("list the plans, newest last", _LIST_FLAGS),
    "completion": _Command("print a completion script for bash, zsh or fish", (SHELL,)),
    "help": _Command("show the commands, or the options of one", ()),
    "version": _Command("show the version", ()),
}
ALL_FLAGS = {flag.name: flag for command in COMMANDS.values() for flag in (*COMMON, *command.flags)}
POSITIONAL = (PLAN_ID, SHELL, PARALLEL)
"""Flags whose value may stand alone, as the one word that belongs to no flag."""
