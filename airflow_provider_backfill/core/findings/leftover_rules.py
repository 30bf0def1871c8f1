"""The rules on what backfills have left on a server: staging tables and queries. Pure."""

from collections.abc import Iterator
from datetime import timedelta

from ..facts import ServerFacts
from ..names import quote
from ..remedy import sql
from ..run_state import ChunkStatus, RunStatus
from ..sql import literal, quote_table
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

LEFTOVER_RULES = RuleRegistry(RuleScope.SERVER)
_rule = LEFTOVER_RULES.rule

# So long after its last change a staging table that no plan here knows is taken for left behind.
_FRESH_SECONDS = 3600


@_rule(
    "backfill_staging_orphaned",
    Severity.WARN,
    "Staging tables are left on the server of a run that is over, or of a plan that this state folder does not have.",
    remedy="`resume` an unfinished run; otherwise drop them",
)
def _staging(case: RuleContext) -> Iterator[Match]:
    facts, plan, run = case.server or ServerFacts(), case.plan, case.run
    alive = {query.plan_id for query in facts.queries}
    for table in facts.staging:
        there = f" ON CLUSTER {quote(table.cluster)}" if table.cluster else ""
        drop = sql(f"DROP TABLE IF EXISTS {quote_table(table.table)}{there} SYNC")
        rows = "rows that nobody has counted" if table.rows is None else f"{table.rows} rows"
        path, lost = table.lost
        if lost:
            rows = "on no server, and in Keeper still"
            drop = sql(f"SYSTEM DROP REPLICA {literal(lost[0])} FROM ZKPATH {literal(path)}")
        if plan is not None and run is not None and table.plan_id == plan.plan_id:
            if run.status in (RunStatus.COMPLETED, RunStatus.PLANNED) and not run.workers:
                yield Match(f"{table.table} ({rows}) is left of this plan, whose run is {run.status}.", drop)
            elif run.status.is_cancelled and not run.count(ChunkStatus.RUNNING):
                yield Match(
                    f"{table.table} ({rows}) is kept for a resume of this cancelled plan.",
                    drop,
                    Severity.INFO,
                )
        elif table.plan_id not in facts.known_plans | alive and (table.age is None or table.age > _FRESH_SECONDS):
            age = "" if table.age is None else f", unchanged for {timedelta(seconds=table.age)}"
            yield Match(
                f"{table.table} ({rows}{age}) is of plan {table.plan_id}, "
                "which this state folder does not have. Drop it if no other folder has the plan.",
                drop,
            )


@_rule(
    "backfill_query_unowned",
    Severity.ERROR,
    "A query of ours runs that no living worker has claimed; it may still write what another attempt writes too.",
    remedy="kill it",
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
