"""Define the rules on replicas and shards: whether they are alive, up to date and reachable. The rules are pure."""

from collections.abc import Iterable, Iterator

from ...errors import Advice, Flag
from ..facts import SpreadFacts
from ..names import quote, show_table
from ..plain_text import show_number
from ..plan import Plan
from ..remedy import plan_command, sql
from ..sql import literal, quote_table
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

REPLICA_RULES = RuleRegistry(RuleScope.SERVER)
_rule = REPLICA_RULES.rule

# A replica lags if it exceeds one of these limits: seconds that the replica's oldest queue entry has waited, seconds of
# absolute delay, and entries of Keeper's log that the replica has not yet copied to its queue.
_STUCK_SECONDS = 15
_LAG_SECONDS = 300
_QUEUE_AT_EASE = 100


@_rule(
    "backfill_distributed_pending",
    Severity.ERROR,
    "A Distributed table holds rows that have not reached the shards: rows of a source are missed, rows of a "
    "target arrive late.",
    remedy="flush the table",
)
def _distributed(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for queue in facts.queues:
        why = f" ({queue.error})" if queue.error else ", and sending is stopped" if queue.blocked else ""
        yield Match(
            f"{queue.files} files of {queue.table} are not sent to the shards yet{why}.",
            sql(f"SYSTEM FLUSH DISTRIBUTED {quote_table(queue.table)}"),
        )


@_rule(
    "backfill_shards_left_out",
    Severity.WARN,
    "The target is a local table that other shards of a cluster have, too, and the plan fills one shard alone.",
    remedy="plan the Distributed table, which fills all shards; or plan each of the other shards by its own address",
)
def _left_out(case: RuleContext) -> Iterator[Match]:
    # Judge finished plans as well, which ``seen`` excludes: a person may notice a forgotten shard only after the run.
    if case.plan is not None and case.server is not None:
        yield from shards_left_out(case.plan, case.server.spreads)


def shards_left_out(plan: Plan, spreads: Iterable[SpreadFacts]) -> Iterator[Match]:
    """
    Yield a match for each Distributed table over a local target, with the shards that the plan does not fill.

    Yield nothing for a plan that fills all shards.
    """
    for spread in spreads if not plan.shards else ():
        several = len(spread.others) > 1
        numbers = ", ".join(map(str, spread.others))
        yield Match(
            f"{plan.target} is a local table of {spread.table}, and this plan fills shard {spread.here} of the cluster "
            f"{spread.cluster} alone, not shard{'s' if several else ''} {numbers}.",
            plan_command(plan, Flag("--target", show_table(spread.table))),
        )


@_rule(
    "backfill_replica_readonly",
    Severity.ERROR,
    "A replica is read-only: its session with Keeper is lost.",
    remedy="restore the connection to Keeper, then restart the replica",
    reproduced=False,
)
def _readonly(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for replica in facts.replicas:
        if replica.readonly or replica.expired:
            state = "is read-only" if replica.readonly else "has lost its session with Keeper"
            why = f": {replica.error}" if replica.error else ""
            yield Match(
                f"The replica {replica.name} of {replica.table} {state}{why}.",
                sql(f"SYSTEM RESTART REPLICA {quote_table(replica.table)}"),
            )


@_rule(
    "backfill_replica_lagging",
    Severity.WARN,
    "A replica lags: the newest rows of a source, or parts of a target, are missing on the replica.",
    remedy="wait; attempts do not read from a lagging replica",
)
def _lagging(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    for replica in facts.replicas:
        if replica.readonly or replica.expired:
            continue
        stuck = replica.queue > 0 and replica.waits > _STUCK_SECONDS
        if stuck or replica.delay > _LAG_SECONDS or replica.behind > _QUEUE_AT_EASE:
            yield Match(
                f"The replica {replica.name} of {replica.table} has {replica.queue} parts to fetch or drop, the oldest "
                f"for {replica.waits} s, and is {replica.behind} log entries and {replica.delay} s behind.",
                sql(f"SYSTEM SYNC REPLICA {quote_table(replica.table)} LIGHTWEIGHT"),
            )


@_rule(
    "backfill_database_stuck",
    Severity.WARN,
    "A replica of a Replicated database does not execute what the database has queued, so staging tables are neither "
    "created nor dropped on the replica.",
    remedy="look for the errors of DDLWorker in the log of its server",
)
def _stuck(case: RuleContext) -> Iterator[Match]:
    for replica in case.seen.database_replicas:
        if replica.waits > _STUCK_SECONDS:
            yield Match(
                f"The replica {replica.name} of the database {replica.database} has not executed "
                f"{show_number(replica.behind, 'queued statement')}, the first for {replica.waits} s."
            )


@_rule(
    "backfill_replica_dead",
    Severity.WARN,
    "A replica has no session with Keeper: its server is down or cut off. New rows reach the replica later.",
    remedy="restart the server; if the server is lost, remove the replica from Keeper",
)
def _dead(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    dead = {(replica.table, name): replica.total for replica in facts.replicas for name in replica.dead}
    for (table, name), total in dead.items():
        yield Match(
            f"The replica {name} of {table}, one of {total}, is dead.",
            Advice(
                "bring its server back; if it is gone permanently, run {}",
                sql(f"SYSTEM DROP REPLICA {literal(name)} FROM TABLE {quote_table(table)}"),
            ),
        )


@_rule(
    "backfill_quorum_unmet",
    Severity.ERROR,
    "The user's inserts require more replicas than are alive (`insert_quorum`), so each chunk would fail.",
    remedy="restart replicas, or give the user another profile",
)
def _quorum(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    replicas = facts.target_replicas
    if replicas is not None and facts.quorum > len(replicas.active):
        yield Match(
            f"Inserts of {facts.user} must reach {facts.quorum} replicas of {facts.target} (insert_quorum), and "
            f"{len(replicas.active)} of {replicas.total} are alive."
        )


@_rule(
    "backfill_replicas_unreached",
    Severity.WARN,
    "No cluster of `remote_servers` that is visible to the user has all replicas of the target, so staging "
    "tables are on one replica. If that server is lost during publishing, the chunk must be filled again.",
    remedy="define such a cluster, and grant REMOTE and CLUSTER",
)
def _unreached(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    replicas = facts.target_replicas
    if replicas is not None and not replicas.reaches_all:
        yield Match(
            f"{facts.target} has {replicas.total} replicas, and no cluster that {facts.user} may ask has all of them.",
            sql(f"GRANT REMOTE, CLUSTER ON *.* TO {quote(facts.user)}"),
        )


@_rule(
    "backfill_balancer",
    Severity.INFO,
    "Different servers answer at the address, as behind a load balancer. Every command and every attempt stays "
    "on one server.",
    remedy="nothing",
)
def _balancer(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.balanced:
        yield Match(
            f"Different servers answer at {facts.address}; every command and every attempt keeps to one of them."
        )
