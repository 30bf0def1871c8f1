"""Commands as text to paste: verbs, flags and quoting."""

import shlex
from datetime import datetime, timedelta

from .findings.registry import TIME_UNITS
from .instants import render_instant
from .plan import Plan, WriteMode

PROGRAM = "clickhouse-backfill"
SQL = "SQL: "
# The default of limits.maxWindowHours; the flag does no harm where a higher limit is set.
_LENGTHS = {"--chunk-hours", "--chunk-by"}
_LARGE_WINDOW = timedelta(hours=720)


def command(verb: str, plan_id: str, *flags: str) -> str:
    """The command line for a person to paste."""
    return " ".join([PROGRAM, verb, "--plan-id", plan_id, *flags])


def sql(statement: str) -> str:
    """A statement for a person to paste into a ClickHouse client."""
    return f"{SQL}{statement}"


def plan_command(plan: Plan, *flags: str) -> str:
    """The command line that plans the same backfill again, with *flags* in place of its own."""
    given = {flag.partition(" ")[0] for flag in flags}
    words = [("--target", plan.target), ("--from", short_instant(plan.start)), ("--to", short_instant(plan.end))]
    words.append(("--time-column", plan.time_column))
    first = plan.statements[0]
    if first.time_kind in TIME_UNITS:
        words.append(("--time-unit", TIME_UNITS[first.time_kind]))
    if first.name == "--select":
        words += [("--select", first.select), ("--filter-table", first.source)]
    elif first.name == first.source:
        words.append(("--source", first.source))
    if plan.write_mode is not WriteMode.STAGE:
        words.append(("--write-mode", plan.write_mode))
    switches = {
        "--accept-at-least-once": plan.write_mode is WriteMode.INSERT,
        "--keep-outside": plan.keep_outside,
        "--backup": plan.backup,
        "--allow-existing-rows": bool(plan.existing_rows),
        "--force-large-window": plan.end - plan.start > _LARGE_WINDOW,
    }
    line = [f"{name} {shlex.quote(value)}" for name, value in words if name not in given]
    line += [] if given & _LENGTHS else [plan.chunking.flags]
    line += [name for name, on in switches.items() if on]
    return " ".join([PROGRAM, "plan", *line, *flags])


def short_instant(moment: datetime) -> str:
    """An instant as a person types it: the date alone at midnight."""
    return render_instant(moment).removesuffix("T00:00:00.000Z").replace(".000Z", "Z")
