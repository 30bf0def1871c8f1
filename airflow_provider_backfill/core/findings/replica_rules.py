"""The rules on replicas and shards: who is alive, who is behind, and who is reached. Pure."""

from collections.abc import Iterator

from ...errors import Advice
from ..names import quote
from ..remedy import sql
from ..sql import literal, quote_table
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

REPLICA_RULES = RuleRegistry(RuleScope.SERVER)
_rule = REPLICA_RULES.rule

# A part that waits for so long is not on its way.
_STUCK_SECONDS = 15
_LAG_SECONDS = 300
_QUEUE_AT_EASE = 100


@_rule(
    "backfill_distributed_pending",
    Severity.ERROR,
    "A Distributed table holds rows that its shards have not got yet: a source's are missed, a target's come late.",
    remedy="flush it",
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
    "backfill_replica_readonly",
    Severity.ERROR,
    "A replica takes no writes: it has lost Keeper, or its session.",
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
    "A replica is behind: a source's newest rows are not read from it, a target's parts are not seen there.",
    remedy="wait for it; attempts do not read from it meanwhile",
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
    "backfill_replica_dead",
    Severity.WARN,
    "A replica has no session with Keeper: its server is down, or cut off. What is written reaches it later.",
    remedy="bring it back; where it is gone for good, take it out of Keeper",
)
def _dead(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    dead = {(replica.table, name): replica.total for replica in facts.replicas for name in replica.dead}
    for (table, name), total in dead.items():
        yield Match(
            f"The replica {name} of {table}, one of {total}, is dead.",
            Advice(
                "bring its server back; if it is gone for good, run {}",
                sql(f"SYSTEM DROP REPLICA {literal(name)} FROM TABLE {quote_table(table)}"),
            ),
        )


@_rule(
    "backfill_quorum_unmet",
    Severity.ERROR,
    "The user's inserts must reach more replicas than are alive (`insert_quorum`), so each chunk would fail.",
    remedy="bring replicas back, or give the user another profile",
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
    "No cluster of `remote_servers` that this user may ask has all replicas of the target, so staging tables are on "
    "one of them: a chunk whose server is lost while it is published has to be filled anew.",
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
    "Different servers answer at the address, as behind a load balancer. Every command and every attempt keeps to one.",
    remedy="nothing",
)
def _balancer(case: RuleContext) -> Iterator[Match]:
    facts = case.seen
    if facts.balanced:
        yield Match(
            f"Different servers answer at {facts.address}; every command and every attempt keeps to one of them."
        )
