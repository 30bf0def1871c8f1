"""Define the rules about tables and queries that backfills left on a server. The rules are pure functions."""

from collections.abc import Iterator

from ...errors import Command, Flag
from ..facts import ServerFacts, StagingFacts
from ..leftovers import Standing, judge_leftover
from ..names import quote, show_table
from ..plain_text import show_number
from ..remedy import command, sql
from ..run_state import ChunkStatus, Run, RunStatus
from ..sql import literal, quote_table
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

LEFTOVER_RULES = RuleRegistry(RuleScope.SERVER)
_rule = LEFTOVER_RULES.rule
_YES = Flag("--yes")


@_rule(
    "backfill_staging_orphaned",
    Severity.WARN,
    "Tables of a backfill are left on the server, of a finished run or of a plan that is not in this state folder.",
    remedy="`resume` an unfinished run; otherwise `clean` drops the tables, except those of a chunk that may be in the "
    "target in part",
)
def _staging(case: RuleContext) -> Iterator[Match]:
    facts, plan, run = case.server or ServerFacts(), case.plan, case.run
    own = "" if plan is None else plan.plan_id
    by_plan: dict[str, list[StagingFacts]] = {}
    for table in facts.staging:
        by_plan.setdefault(table.plan_id, []).append(table)
    alive = {query.plan_id for query in facts.queries}
    for plan_id, tables in by_plan.items():
        if plan_id == own and run is not None:
            yield from _of_this_plan(case, plan_id, run, tables)
        elif plan_id not in facts.known_plans | alive:
            left = [table for table in tables if judge_leftover(table, Standing(None)).removable]
            if left and facts.target is not None:
                yield Match(
                    f"{_counted(left)} of plan {plan_id}, which this state folder does not have, "
                    f"{'is' if len(left) == 1 else 'are'} left beside {facts.target}. "
                    "Remove what no other folder runs.",
                    Command("clean", plan_id, (Flag("--target", show_table(facts.target)), _YES)),
                )


def _of_this_plan(case: RuleContext, plan_id: str, run: Run, tables: list[StagingFacts]) -> Iterator[Match]:
    # Live workers use the tables, and so does a takeover of a dead worker's chunk. A waived plan has no takeovers.
    if run.workers.keys() - case.dead or (run.count(ChunkStatus.RUNNING) and not case.waived):
        return
    left = [table for table in tables if judge_leftover(table, Standing(run)).removable]
    cancelled = run.status is RunStatus.CANCELLED
    status = f"{run.status} and waived" if case.waived else run.status
    kept = [table for table in tables if table not in left]
    # Do not report kept tables of a temporarily waived plan: after a resume, the completed plan drops its tables.
    if kept and (cancelled or (case.waived and run.waiver is not None and run.waiver.until is None)):
        drop = _drop(kept)
        ways = "Where the target is right as it is, drop the table; to finish these rows instead, resume the plan."
        if cancelled:
            # Suggest the resume first only here. After a waiver, another plan may have filled the window.
            ways = f"To finish these rows, resume the plan; where the target is right as it is, run {drop}."
        yield Match(
            f"{_counted(kept)} of this plan, whose run is {status}, {'is' if len(kept) == 1 else 'are'} kept: rows of "
            f"its chunk may be in the target in part. {ways}",
            command("resume", plan_id) if cancelled else sql(drop),
            Severity.INFO if cancelled else None,
        )
    if left:
        yield Match(
            f"{_counted(left)} of this plan, whose run is {status}, {'is' if len(left) == 1 else 'are'} left on "
            "the server.",
            command("clean", plan_id, _YES),
            Severity.INFO if cancelled else None,
        )


def _drop(tables: list[StagingFacts]) -> str:
    there = f" ON CLUSTER {quote(tables[0].cluster)}" if tables[0].cluster else ""
    return f"DROP TABLE {', '.join(quote_table(table.table) for table in tables)}{there} SYNC"


def _counted(tables: list[StagingFacts]) -> str:
    """Return the subject of a message: one table with its rows, or the number of tables and the first with its rows."""
    first = tables[0]
    rows = "on no server, and in Keeper still" if first.lost[0] else show_number(first.rows or 0, "row")
    if first.rows is None and not first.lost[0]:
        rows = "rows that nobody has counted"
    if len(tables) == 1:
        return f"The table {first.table} ({rows})"
    return f"{len(tables)} tables, such as {first.table} ({rows}),"


@_rule(
    "backfill_query_unowned",
    Severity.ERROR,
    "A query of a backfill is running without a living worker, and may write the rows of another attempt.",
    remedy="kill the query",
)
def _queries(case: RuleContext) -> Iterator[Match]:
    facts, plan, run = case.server or ServerFacts(), case.plan, case.run
    if plan is None or run is None:
        return
    for query in facts.queries:
        if query.plan_id != plan.plan_id:
            continue
        state = run.state(query.chunk_id)
        owned = state.status is ChunkStatus.RUNNING and state.attempt == query.attempt and state.owner not in case.dead
        if not owned:
            there = f" ON CLUSTER {quote(query.cluster)}" if query.cluster else ""
            yield Match(
                f"The query {query.query_id} of {query.user} runs for {query.seconds:.0f} s, and no living worker has "
                "claimed its attempt.",
                sql(f"KILL QUERY{there} WHERE query_id = {literal(query.query_id)} SYNC"),
            )
