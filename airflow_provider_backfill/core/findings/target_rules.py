"""Define the rules on the target: TTL, views, mutations, parts, disks, the guarantee of a write. All are pure."""

from collections.abc import Iterable, Iterator

from ...errors import Advice, Command, Flag
from ..facts import TableFacts, TtlFacts
from ..instants import render_instant, short_instant
from ..names import quote, show_table
from ..plain_text import show_bytes
from ..plan import WriteMode
from ..plan_words import guarantee, mode_reason
from ..remedy import chunk_hours_flag, command, plan_command, sql
from ..run_state import RunStatus
from ..sql import literal, quote_table, table_condition
from ..table_definition import checks
from ..tables import TableName
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity, show_names

TARGET_RULES = RuleRegistry(RuleScope.SERVER)
_rule = TARGET_RULES.rule

# The share of a limit on parts from which the rule warns; the rest is room for other inserts. ClickHouse first delays
# and then refuses inserts into a partition with too many parts, and refuses inserts into a table with too many parts.
_PARTS_SHARE = 0.8
# The disk space that a chunk needs, as a multiple of its size: its rows, its staging table, and a merge of that table.
_COPIES = 3


@_rule(
    "backfill_environment",
    Severity.WARN,
    "The connected ClickHouse is not the ClickHouse of the plan.",
    remedy="connect to the other server, or `run --force-environment` if both are the same",
)
def _environment(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if plan is not None and facts.address and plan.environment != facts.address:
        verb = "run" if case.run is None or case.run.status is RunStatus.PLANNED else "resume"
        yield Match(
            f"The plan was made on {plan.environment}, and this is {facts.address}.",
            command(verb, plan.plan_id, "--force-environment"),
        )


@_rule(
    "backfill_target_missing",
    Severity.ERROR,
    "The target does not exist, or the user has no right to see the table.",
    remedy="create the table, or choose the right server",
)
def _target_missing(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.target is not None and facts.storage is None:
        yield Match(
            f"There is no table {facts.target} on {facts.address} that {facts.user} can see. "
            "Create it, or point --clickhouse-url to the server that has it."
        )


@_rule(
    "backfill_ttl_deletes",
    Severity.ERROR,
    "The target's TTL would soon delete rows of the window, or values of a column.",
    remedy="lengthen or remove the TTL, or plan a later window",
)
def _ttl(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.target is not None and facts.storage is not None:
        yield from past_ttl(facts.target, facts.storage, facts.ttls)


def past_ttl(target: TableName, storage: TableName, ttls: Iterable[TtlFacts]) -> Iterator[Match]:
    """Yield a match for each TTL, of the target or of a column, that has expired for a part of the window."""
    for ttl in ttls:
        if ttl.until is not None and ttl.column:
            yield Match(
                f"The TTL of the column {ttl.column} of {target} ({ttl.expression}) ends before about "
                f"{render_instant(ttl.until)}, and the window has such rows: a merge would set their "
                f"{ttl.column} to its default after the backfill, and verify would find them changed.",
                sql(f"ALTER TABLE {quote_table(storage)} MODIFY COLUMN {quote(ttl.column)} REMOVE TTL"),
            )
        elif ttl.until is not None:
            does, to_them = (
                ("rolls up", "make one row of several")
                if " GROUP BY " in ttl.expression
                else ("deletes", "delete them")
            )
            yield Match(
                f"The TTL of {target} ({ttl.expression}) {does} rows before about {render_instant(ttl.until)}, "
                f"and the window has such rows: a merge would {to_them} after the backfill.",
                sql(f"ALTER TABLE {quote_table(storage)} REMOVE TTL"),
            )


def constrained(target: TableFacts) -> Iterator[Match]:
    """Yield one match with all constraints of the target, which every row must meet; nothing without constraints."""
    if found := [f"{check.name} ({check.expression})" for check in checks(target.definition)]:
        yield Match(
            f"{target.name} has the constraint{'s' if len(found) > 1 else ''} {', '.join(found)}: a chunk with one row "
            "that breaks it fails as a whole, and writes nothing.",
            Advice("leave such rows out in the SELECT"),
        )


@_rule(
    "backfill_views_missed",
    Severity.WARN,
    "Moved and replaced partitions do not trigger views, so the views on the target miss the rows.",
    remedy="after the run, `plan` and `run` a backfill of the tables behind the views",
)
def _views_missed(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if not case.stages:
        return
    for view in facts.views_fired:
        filled = facts.view_targets.get(view, view)
        remedy = None
        if plan is not None:
            window = Flag("--from", short_instant(plan.start)), Flag("--to", short_instant(plan.end))
            remedy = Command("plan", flags=(Flag("--target", show_table(filled)), *window))
        yield Match(
            f"Moving partitions into {facts.target} does not fire the view {view}, so {filled} misses the rows. "
            "Backfill it as well, once this is done.",
            remedy,
        )


@_rule(
    "backfill_views_doubled",
    Severity.WARN,
    "Rows are inserted directly, so the views on the target fire; a retried chunk fires them again.",
    remedy="stage into the MergeTree table behind the target, or rebuild the tables behind the views afterwards",
)
def _views_doubled(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.views_fired and not case.stages:
        yield Match(
            f"Each insert into {facts.target} fires {show_names(facts.views_fired)}; an attempt that fails midway and "
            "is retried gives them the same rows twice."
        )


@_rule(
    "backfill_view_refreshable",
    Severity.ERROR,
    "A refreshable view replaces the target's rows on a schedule, including the backfilled rows.",
    remedy="stop the view during the backfill",
)
def _refreshable(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for view in facts.views_refreshed:
        yield Match(
            f"{view} is a refreshable view that replaces the rows of {facts.target} each time it refreshes.",
            sql(f"SYSTEM STOP VIEW {quote_table(view)}"),
        )


@_rule(
    "backfill_mutation_unfinished",
    Severity.WARN,
    "A mutation of the target or a source is unfinished, so rows change during the copy. A failing mutation "
    "blocks later mutations, such as the deletion of a window.",
    remedy="wait for the end of the mutation; kill a mutation that fails forever",
)
def _mutations(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for mutation in facts.mutations:
        state = f"fails: {mutation.error}" if mutation.error else f"has {mutation.parts_to_do} parts to do"
        table = mutation.table
        yield Match(
            f"The mutation {mutation.id} of {table} ({mutation.command}) {state}.",
            sql(f"KILL MUTATION WHERE {table_condition(table)} AND mutation_id = {literal(mutation.id)}")
            if mutation.error
            else None,
            Severity.ERROR if mutation.error else None,
        )


@_rule(
    "backfill_parts_limit",
    Severity.WARN,
    "A partition of the target is close to the server's limit on parts: inserts and moves are slowed down, then"
    " refused.",
    remedy="wait for merges, or merge the partition",
)
def _parts(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for parts in facts.parts:
        refused = parts.parts >= parts.throw or parts.total >= parts.total_limit
        if refused or parts.parts >= parts.delay * _PARTS_SHARE or parts.total >= parts.total_limit * _PARTS_SHARE:
            yield Match(
                f"Partition {parts.partition} of {parts.table} has {parts.parts} parts (slowed down from "
                f"{parts.delay}, refused from {parts.throw}), the table {parts.total} (refused from "
                f"{parts.total_limit}).",
                sql(f"OPTIMIZE TABLE {quote_table(parts.table)} PARTITION ID {literal(parts.partition)} FINAL"),
                Severity.ERROR if refused else None,
            )


@_rule(
    "backfill_drop_limit",
    Severity.ERROR,
    "A partition to be replaced is larger than `max_partition_size_to_drop`, and the user has no right to lift "
    "the limit for a query.",
    remedy="raise the limit in the server's configuration, or remove the constraint",
)
def _drop_limit(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    if plan is None or plan.write_mode is not WriteMode.REPLACE or not facts.drop_limit:
        return
    largest = max((parts.largest for parts in facts.parts if parts.table == facts.storage), default=0)
    if facts.drop_limit_tied and largest > facts.drop_limit:
        yield Match(
            f"The largest partition of {facts.target} is {show_bytes(largest)}, replacing it is refused over "
            f"{show_bytes(facts.drop_limit)} (max_partition_size_to_drop), and {facts.user} may not change that "
            "setting."
        )


@_rule(
    "backfill_disk_space",
    Severity.ERROR,
    "The free space on the target's disks is too small for the largest chunks, their staging tables and a merge.",
    remedy="free space, or plan smaller chunks",
)
def _disk(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    if plan is None or not facts.disks or facts.estimate is None:
        return
    per_row = facts.estimate.bytes_per_row
    if per_row is None:
        return
    need = facts.estimate.largest * per_row * _COPIES
    free = sum(disk.free for disk in facts.disks)
    if free < need:
        disks = ", ".join(f"{disk.name} {show_bytes(disk.free)}" for disk in facts.disks)
        remedy = None
        if facts.proposed_hours is not None and facts.proposed_hours < (plan.chunk_hours or 0) and case.untouched:
            remedy = plan_command(plan, chunk_hours_flag(facts.proposed_hours))
        yield Match(
            f"The disks of {facts.target} have {show_bytes(free)} free ({disks}); the largest chunk, its staging table "
            f"and a merge of it need about {show_bytes(need)}.",
            remedy,
        )


@_rule(
    "backfill_write_guarantee",
    Severity.WARN,
    "The plan writes straight into the target, so rows arrive at least once, not exactly once.",
    remedy="plan a backfill of the MergeTree table behind the target, with staging",
)
def _guarantee(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if plan is not None and facts.storage is not None and not case.stages:
        yield Match(f"{mode_reason(plan)} {guarantee(plan.write_mode)}")


@_rule(
    "backfill_replaced_rows_return",
    Severity.WARN,
    "A restart of an older ClickHouse may bring back rows that `replace` has just replaced.",
    remedy="upgrade ClickHouse to 26.6 or later, or do not restart it right after a run",
    reproduced=False,
)
def _replaced(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    if plan is not None and facts.storage is not None and plan.write_mode is WriteMode.REPLACE:
        yield from returning_rows(facts.engine, facts.version)


def returning_rows(engine: str, version: tuple[int, ...]) -> Iterator[Match]:
    """Yield a match if a restart of the server may bring back rows of the target that a plan replaces."""
    if () < version < (26, 6) and not engine.startswith(("Replicated", "Shared")):
        yield Match(
            f"ClickHouse {version[0]}.{version[1]} may bring back the rows that this plan replaces: it keeps the parts "
            "for old_parts_lifetime (8 minutes by default), and a restart within that time may load the parts again.",
            Advice(
                "upgrade to ClickHouse 26.6 or later, or do not restart the server so soon after a run; else compare "
                "with `verify`"
            ),
        )


@_rule(
    "backfill_token_ignored",
    Severity.INFO,
    "Deduplication tokens have no effect on this target or version. Staging does not need tokens; a plain "
    "INSERT has no second protection.",
    remedy="for a plain INSERT, give the target a deduplication window",
)
def _tokens(case: RuleContext) -> Iterator[Match]:
    facts, plan = case.seen, case.plan
    if plan is None or not plan.use_tokens:
        return
    severity = None if case.stages else Severity.WARN
    if facts.version[:2] in ((26, 1), (26, 2)):
        version = ".".join(str(part) for part in facts.version)
        yield Match(f"ClickHouse {version} ignores the deduplication token of an INSERT … SELECT.", severity=severity)
    elif facts.token_window == 0 and facts.storage is not None and not case.stages:
        yield Match(
            f"{facts.target} keeps no deduplication log (non_replicated_deduplication_window = 0), so tokens are "
            "ignored and a retried insert may double rows.",
            sql(f"ALTER TABLE {quote_table(facts.storage)} MODIFY SETTING non_replicated_deduplication_window = 1000"),
            severity,
        )
