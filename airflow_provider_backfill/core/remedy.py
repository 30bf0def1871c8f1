"""Build the parts of a remedy: command lines, flags and SQL statements."""

from collections.abc import Sequence
from datetime import timedelta

from ..errors import Advice, Command, Flag, Sql
from .instants import short_instant
from .masking import mask_secrets
from .names import show_table
from .plan import Plan, RowProof, WriteMode
from .tables import TABLE_FUNCTION
from .window import render_chunk_hours

_LENGTHS = {"--chunk-hours", "--chunk-by"}
# The default of limits.maxWindowHours. A longer window gets --force-large-window; the flag has no effect if the user
# has set a higher limit.
_LARGE_WINDOW = timedelta(hours=720)


def command(verb: str, plan_id: str, *flags: Flag | str) -> Command:
    """Return the command line of *verb* for a plan; a flag without a value may be given as its name."""
    return Command(verb, plan_id, tuple(Flag(flag) if isinstance(flag, str) else flag for flag in flags))


def sql(statement: str) -> Sql:
    """Return a statement for a person to paste into a ClickHouse client."""
    return Sql(statement)


def plan_command(plan: Plan, *flags: Flag) -> Command:
    """
    Return the command line that plans the same backfill again, changed by *flags*.

    A flag with a value replaces the plan's flag of the same name. A flag for the chunk length replaces the plan's chunk
    length. Secrets in the SELECT are masked. The command line omits the flags for people (``--reason``, ``--owner``).
    """
    given = {flag.name for flag in flags}
    own = [Flag("--target", show_table(plan.target)), Flag("--from", short_instant(plan.start))]
    own.append(Flag("--to", short_instant(plan.end)))
    own += _source_flags(plan)
    own += [Flag("--whole-table", show_table(table)) for table in plan.whole_tables]
    if plan.adds_up is not None and plan.adds_up.accepted:
        own.append(Flag("--accept-partial-groups", plan.adds_up.accepted))
    own += [Flag("--setting", f"{name}={value}") for name, value in plan.statements[0].settings.items()]
    if plan.write_mode is not WriteMode.STAGE:
        own.append(Flag("--write-mode", plan.write_mode))
    if plan.row_proof is RowProof.CONTENT and plan.write_mode is not WriteMode.INSERT:
        own.append(Flag("--proof", plan.row_proof))
    if plan.staging_database:
        own.append(Flag("--staging-database", plan.staging_database))
    if plan.cluster and plan.target == plan.shard_table:
        # A Distributed target has its cluster in its definition.
        own.append(Flag("--cluster", plan.cluster))
    own += [Flag("--shard-url", f"{shard.number}={url}") for shard in plan.shards for url in shard.urls]
    switches = {
        "--no-trial": plan.adds_up is not None and plan.adds_up.trial_declined,
        "--accept-at-least-once": plan.write_mode is WriteMode.INSERT,
        "--keep-outside": plan.keep_outside,
        "--backup": plan.backup,
        "--allow-existing-rows": plan.allow_existing_rows,
        "--one-shard": plan.one_shard,
        "--force-large-window": plan.end - plan.start > _LARGE_WINDOW,
    }
    own = [flag for flag in own if flag.name not in given]
    own += () if given & _LENGTHS else plan.chunking.flags
    own += [Flag(name) for name, on in switches.items() if on]
    return Command("plan", flags=(*own, *flags))


def _source_flags(plan: Plan) -> list[Flag]:
    """Return the flags for the statements of a plan, their tables with a time filter and their time columns."""
    first, own = plan.statements[0], []
    kinds = [one.kind for each in plan.statements for one in plan.filters(each)]
    kinds += [one.kind for each in plan.statements for one in each.parameters if one.kind is not None]
    detected = first.parameters[0].name if first.parameters else None
    # Time columns that differ between views were detected, so the command line needs no flag for them.
    if plan.time_column != detected and not any(one.time_column for one in plan.statements):
        own.append(Flag("--time-column", plan.time_column))
    own += [Flag("--time-unit", kind.unit) for kind in kinds if kind.unit][:1]
    if first.name == "--select":
        own.append(Flag("--select", mask_secrets(first.select)))
        own += [Flag("--param", f"{one.name}={one.format}") for one in first.parameters if one.format]
    elif first.copies_table:
        own.append(Flag("--source", first.source_text))
    if any(statement.also_filtered for statement in plan.statements):
        filters = dict.fromkeys(one for statement in plan.statements for one in plan.filters(statement))
        tables = [one for one in filters if one.table.database != TABLE_FUNCTION]
        own += [Flag("--filter-table", f"{show_table(one.table)}={one.column}") for one in tables]
    elif first.name == "--select" and first.table is not None:
        own.append(Flag("--filter-table", show_table(first.table)))
    return own


def pass_flags(flags: Sequence[Flag]) -> Advice:
    """Return the advice to pass *flags*; operators show the flags as arguments."""
    return Advice(f"pass {' '.join('{}' for _ in flags)}", *flags)


def chunk_hours_flag(hours: float) -> Flag:
    """Return the flag ``--chunk-hours`` for chunks of *hours* hours."""
    return Flag("--chunk-hours", render_chunk_hours(hours))
