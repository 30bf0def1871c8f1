"""Define the rules on sources: missing tables, reads, unstable SELECTs, time units, row policies. All are pure."""

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta

from ...errors import Advice, Flag
from ..facts import PolicyFacts
from ..names import is_expression, quote, show_table, time_value
from ..plan import FilteredTable, Plan
from ..remedy import chunk_hours_flag, plan_command, sql
from ..sql import quote_table
from ..tables import TABLE_FUNCTION, TableName, TimeKind
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

SOURCE_RULES = RuleRegistry(RuleScope.SERVER)
_rule = SOURCE_RULES.rule

# A number such as 20250131.
_DAY_NUMBER = re.compile(r"(?:19|20)\d\d(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\d|3[01])")


@_rule(
    "backfill_source_missing",
    Severity.ERROR,
    "A table of the plan is missing, or the server no longer accepts a statement.",
    remedy="restore the table in the message, or plan again",
)
def _source_missing(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for name in facts.missing_sources:
        yield Match(f"The source {name} is not on {facts.address}, or {facts.user} may not see it.")
    for scan in facts.scans:
        if scan.error and scan.source not in facts.missing_sources:
            yield Match(f"{scan.statement} is not accepted by the server any more: {scan.error}")


@_rule(
    "backfill_filter_missing",
    Severity.ERROR,
    "The time filter does not reach every read of the source, so each chunk would read rows of other chunks.",
    remedy="use the name of the source in the SELECT again, or plan again with another `--filter-table`",
)
def _filter_missing(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for scan in facts.scans:
        if scan.facts is not None and (scan.facts.filtered == 0 or scan.facts.filtered < scan.facts.reads):
            yield Match(
                f"The time filter on {scan.source} takes effect in {scan.facts.filtered} of {scan.facts.reads} "
                f"reads of it in {scan.statement}; every chunk would read rows of other chunks. "
                "Read the source by its own name in the SELECT, not through merge() or a Buffer table."
            )


@_rule(
    "backfill_not_pruned",
    Severity.WARN,
    "No index of the source uses the time column, so every chunk reads the whole source.",
    remedy="plan fewer, larger chunks; or add an index on the time column",
)
def _not_pruned(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if plan is None or plan.chunk_count < 2:
        return
    for scan in facts.scans:
        if scan.facts is None or scan.facts.pruned or not scan.facts.filtered:
            continue
        if scan.facts.unsent:
            yield unsent_filter(scan.facts.unsent, scan.source, plan.chunk_count)
        # Skip views and Distributed tables, which read tables of other names, and files, which cannot have an index.
        if str(scan.source) not in scan.facts.tables:
            continue
        column = time_value(plan.time_column)
        index = quote("backfill_time" if is_expression(plan.time_column) else f"backfill_{plan.time_column}")
        yield Match(
            f"No index of {scan.source} uses {plan.time_column}, so each of the {plan.chunk_count} chunks reads all "
            "of it. Use larger chunks, or add an index.",
            sql(
                f"ALTER TABLE {quote_table(scan.source)} ADD INDEX {index} {column} TYPE minmax "
                f"GRANULARITY 1, MATERIALIZE INDEX {index} SETTINGS mutations_sync = 2"
            ),
        )


def unsent_filter(database: str, table: TableName, chunks: int) -> Match:
    """Return the match for a *table* that each chunk reads whole, because *database* (such as MySQL) gets no filter."""
    name = f"{table.table}()" if table.database == TABLE_FUNCTION else str(table)
    return Match(
        f"ClickHouse does not send the time filter to {database}, so each of the {chunks} chunks reads all of {name}.",
        Advice(
            "write the bounds into the SELECT, which are sent: WHERE ts >= {chunk_from:DateTime64(6)} AND ts <"
            " {chunk_to:DateTime64(6)}; or use larger chunks"
        ),
    )


@_rule(
    "backfill_source_read_twice",
    Severity.WARN,
    "The SELECT reads the source more than once, and the filter applies to every read. Rows outside a chunk are"
    " invisible (the previous row, the other side of a self-join).",
    remedy="`plan` with one chunk, or write the SELECT without the second read",
)
def _read_twice(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    if plan is None or plan.chunk_count < 2:
        return
    for scan in facts.scans:
        if scan.facts is not None and scan.facts.reads > 1:
            whole = (plan.end - plan.start) / timedelta(hours=1)
            yield Match(
                f"{scan.statement} reads {scan.source} {scan.facts.reads} times, and every read sees only the "
                "chunk's own window. Where it looks at rows of another time, its result depends on the chunks; "
                "one chunk for all of the window has no such bounds inside.",
                plan_command(plan, chunk_hours_flag(whole)) if case.untouched else None,
            )


@_rule(
    "backfill_select_unstable",
    Severity.WARN,
    "Repeating the SELECT gives other rows (now(), rand(), LIMIT BY without an ORDER BY), so the result cannot "
    "be compared with the source and a retry may differ.",
    remedy="use a value from the row, or sort before the LIMIT BY",
)
def _unstable(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for trait in facts.traits:
        if trait.functions:
            calls = ", ".join(f"{name}()" for name in trait.functions)
            yield Match(
                f"{trait.statement} uses {calls}, which may give another value each time it is asked; "
                "its rows are not compared with the source."
            )
        if trait.unordered:
            yield Match(
                f"{trait.statement} has {trait.unordered} over rows in no order: which rows it keeps is left to "
                "chance. Add an ORDER BY before it."
            )


@_rule(
    "backfill_epoch_unit",
    Severity.ERROR,
    "The integers of the time column do not look like instants in the declared unit.",
    remedy="`plan` with the `--time-unit` in the message",
)
def _epoch(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, case.seen
    for epoch in facts.epochs:
        # The unit is not part of the plan's identity, so the new plan has the same id and needs --force.
        remedy = None if plan is None else plan_command(plan, Flag("--time-unit", epoch.fitting), Flag("--force"))
        yield Match(
            f"{epoch.table}.{epoch.column} holds values such as {epoch.value}: as {epoch.declared} that is far from "
            f"now, as {epoch.fitting} it is near.",
            remedy,
        )


def empty_window(plan: Plan, table: FilteredTable, low: str, high: str) -> Match:
    """
    Return the match for a table that has rows, but none in the plan's window.

    Args:
        low: The smallest of some values of the time column, as text.
        high: The largest of these values.
    """
    unit = table.kind.unit
    values = low if low == high else f"{low} to {high}"
    message = (
        f"{show_table(table.table)} has no row in the window, but rows outside it: {table.column} has values such as "
        f"{values}{f', read as {unit} since 1970' if unit else ''}."
    )
    if not unit:
        return Match(message, Advice("check {}, {} and {}", Flag("--from"), Flag("--to"), Flag("--time-column")))
    if _DAY_NUMBER.fullmatch(low) and _DAY_NUMBER.fullmatch(high):
        column = Flag("--time-column", f"YYYYMMDDToDate({table.column})")
        return Match(message, Advice("if the numbers are days, pass {} and omit {}", column, Flag("--time-unit", unit)))
    seconds = {kind.unit: int(high) / kind.per_second for kind in TimeKind if kind.per_second}
    near = [each for each, value in seconds.items() if 0.5 * value < plan.start.timestamp() < 2 * value]
    if not near:
        return Match(message, Advice("check {}, {} and {}", Flag("--from"), Flag("--to"), Flag("--time-unit", unit)))
    # The unit is not part of the plan's identity, so the new plan has the same id and needs --force.
    return Match(message, plan_command(plan, Flag("--time-unit", near[0]), Flag("--force")))


@_rule(
    "backfill_row_policy",
    Severity.WARN,
    "A row policy hides rows of a source from this user, so these rows are not backfilled. Or it hides rows of the"
    " target, so these rows are neither counted nor verified.",
    remedy="run the backfill as a user without a row policy",
)
def _row_policy(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.storage is not None:
        yield from hidden_rows(facts.policies, facts.storage)


def hidden_rows(policies: Iterable[PolicyFacts], storage: TableName) -> Iterator[Match]:
    """Yield a match for each row policy that hides rows of the target's *storage*, or of a source, from this user."""
    for policy in policies:
        effect = "the others are not backfilled"
        if policy.table == storage:
            effect = "the others do not count as existing rows, and verify does not compare them"
        yield Match(
            f"A row policy shows this user only rows of {policy.table} with {policy.condition}; {effect}.",
            Advice("run the backfill as a user without the policy"),
        )
