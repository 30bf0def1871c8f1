"""
The rules that need a look at ClickHouse: tables, query plan, parts, replicas, disks, rights, leftovers.

Pure: the look itself is :mod:`..clickhouse.health`, its result a :class:`ServerFacts`.
"""

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from itertools import takewhile

from ...errors import Advice, Command, Flag
from ..facts import ServerFacts, TableName, TtlFacts
from ..instants import render_instant
from ..plan import Plan, WriteMode
from ..remedy import chunk_hours_flag, command, plan_command, short_instant, sql
from ..run_state import ChunkStatus, RunStatus
from ..sql import literal, quote, quote_table, show_table, table_condition
from .registry import Match, RuleContext, RuleRegistry, RuleScope, Severity

SERVER_RULES = RuleRegistry(RuleScope.SERVER)
_NOTHING = ServerFacts()
_rule = SERVER_RULES.rule

# A chunk under so many rows takes about twice its share of one statement, for tables, verification and publishing.
SMALL_ROWS = 100_000
MANY_CHUNKS = 50
LARGE_ROWS = 100_000_000
LARGE_BYTES = 10 * 2**30
_PARTITIONS_AT_EASE = 100
# A part that waits for so long is not on its way.
_STUCK_SECONDS = 15
_LAG_SECONDS = 300
_QUEUE_AT_EASE = 100
# Inserts are slowed down from the server's limit on; a backfill should not take the last parts.
_PARTS_SHARE = 0.8
# A chunk's rows, its staging table, and a merge of it.
_COPIES = 3
# So long after its last change a staging table that no plan here knows is taken for left behind.
_FRESH_SECONDS = 3600


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _names(tables: Iterable[TableName]) -> str:
    return ", ".join(str(table) for table in tables)


def _staged(plan: Plan | None) -> bool:
    return plan is None or plan.write_mode is not WriteMode.INSERT


def _server(case: RuleContext) -> ServerFacts:
    """What was seen; nothing for a plan that is finished: then only leftovers matter."""
    return _NOTHING if case.finished or case.server is None else case.server


@_rule(
    "backfill_environment",
    Severity.WARN,
    "The ClickHouse that was asked is not the one the plan was made on.",
    remedy="ask the other one, or `run --force-environment` when both are the same",
)
def _environment(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if plan is not None and facts.address and plan.environment != facts.address:
        verb = "run" if case.run is None or case.run.status is RunStatus.PLANNED else "resume"
        yield Match(
            f"The plan was made on {plan.environment}, and this is {facts.address}.",
            command(verb, plan.plan_id, "--force-environment"),
        )


@_rule(
    "backfill_target_missing",
    Severity.ERROR,
    "The target is not there, or this user may not see it.",
    remedy="create it, or choose the right server",
)
def _target_missing(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    if facts.target and facts.storage is None:
        yield Match(
            f"There is no table {facts.target} on {facts.address} that {facts.user} can see. "
            "Create it, or point --clickhouse-url to the server that has it."
        )


@_rule(
    "backfill_source_missing",
    Severity.ERROR,
    "A table that the plan reads is not there, or the server does not accept a statement any more.",
    remedy="restore what the message names, or plan anew",
)
def _source_missing(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for name in facts.missing_sources:
        yield Match(f"The source {name} is not on {facts.address}, or {facts.user} may not see it.")
    for scan in facts.scans:
        if scan.error and scan.source not in facts.missing_sources:
            yield Match(f"{scan.statement} is not accepted by the server any more: {scan.error}")


@_rule(
    "backfill_filter_missing",
    Severity.ERROR,
    "The time filter does not reach every read of the source, so each chunk would read rows of other chunks.",
    remedy="make the name in the SELECT that of the source again, or plan anew with another `--filter-table`",
)
def _filter_missing(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
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
    remedy="fewer, larger chunks; or an index on the time column",
)
def _not_pruned(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if plan is None or plan.chunk_count < 2:
        return
    for scan in facts.scans:
        if scan.facts is None or scan.facts.pruned or not scan.facts.filtered:
            continue
        column = quote(plan.time_column)
        index = quote(f"backfill_{plan.time_column}")
        database, _, table = scan.source.partition(".")
        yield Match(
            f"No index of {scan.source} uses {plan.time_column}, so each of the {plan.chunk_count} chunks reads all "
            "of it. Use larger chunks, or add an index.",
            sql(
                f"ALTER TABLE {quote_table(TableName(database, table))} ADD INDEX {index} {column} TYPE minmax "
                f"GRANULARITY 1, MATERIALIZE INDEX {index} SETTINGS mutations_sync = 2"
            ),
        )


@_rule(
    "backfill_source_read_twice",
    Severity.WARN,
    "The SELECT reads the source more than once, and the filter applies to every read: rows outside a chunk "
    "(the row before, the other side of a self-join) are not seen.",
    remedy="`plan` with one chunk, or write the SELECT without the second read",
)
def _read_twice(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if plan is None or plan.chunk_count < 2:
        return
    for scan in facts.scans:
        if scan.facts is not None and scan.facts.reads > 1:
            whole = (plan.end - plan.start) / timedelta(hours=1)
            yield Match(
                f"{scan.statement} reads {scan.source} {scan.facts.reads} times, and every read sees only the "
                "chunk's own window. Where it looks at rows of another time, its result depends on the chunks; "
                "one chunk for all of the window has no such bounds inside.",
                plan_command(plan, chunk_hours_flag(whole)) if _untouched(case) else None,
            )


@_rule(
    "backfill_select_unstable",
    Severity.WARN,
    "The SELECT gives other rows when it is asked again (now(), rand(), LIMIT BY without an order), so its "
    "result cannot be held against the source and a retry may differ.",
    remedy="take the value from the row, or sort before the LIMIT BY",
)
def _unstable(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for trait in facts.traits:
        if trait.functions:
            calls = ", ".join(f"{name}()" for name in trait.functions)
            yield Match(
                f"{trait.statement} uses {calls}, which may give another value each time it is asked; "
                "its rows are not held against the source."
            )
        if trait.unordered:
            yield Match(
                f"{trait.statement} has {trait.unordered} over rows in no order: which rows it keeps is left to "
                "chance. Add an ORDER BY before it."
            )


@_rule(
    "backfill_chunk_misaligned",
    Severity.ERROR,
    "Chunk bounds lie inside a partition, a bucket of the SELECT, or a day of a Date column.",
    remedy="`plan` with bounds that fit; the message names them",
)
def _misfit(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    if facts.misfit is not None:
        yield Match(facts.misfit.message, facts.misfit.proposal)


@_rule(
    "backfill_window_open",
    Severity.WARN,
    "The window reaches into the future: rows that come after their chunk is done are missed, or lost where "
    "partitions are replaced (then an error).",
    remedy="`plan` with a `--to` that is past, and another plan for the rest later",
)
def _open(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if plan is not None and facts.seam is not None:
        yield from open_window(plan, facts.seam.now, _untouched(case))


def open_window(plan: Plan, now: datetime, untouched: bool = True) -> Iterator[Match]:
    """What is to be said of a window that ends after *now*; the remedy ends it on the plan's last past chunk bound."""
    if plan.end <= now:
        return
    cut = max((end for _, end in takewhile(lambda each: each[1] <= now, plan.slices())), default=None)
    replaced = plan.write_mode is WriteMode.REPLACE
    lost = "lost when their partition is replaced" if replaced else "missed"
    yield Match(
        f"The window ends at {render_instant(plan.end)}, and it is {render_instant(now)}: rows that come after their "
        f"chunk is done are {lost}.",
        plan_command(plan, Flag("--to", short_instant(cut))) if untouched and cut is not None else None,
        Severity.ERROR if replaced else None,
    )


@_rule(
    "backfill_target_changed",
    Severity.ERROR,
    "The target has got rows of the window since it was planned, as from a view that feeds it; they would be there "
    "twice.",
    remedy="`plan` with a `--to` that ends before them, or with `--write-mode replace`",
)
def _overlap(case: RuleContext) -> Iterator[Match]:
    plan, seam = case.plan, _server(case).seam
    if plan is None or seam is None or plan.write_mode is WriteMode.REPLACE or not _untouched(case):
        return
    known = plan.existing_rows or 0
    if seam.rows <= known:
        return
    by = f" ({_names(seam.fed_by)} feed it)" if seam.fed_by else ""
    since = f", from {render_instant(seam.first)} on" if seam.first is not None else ""
    before = f" beside the {known} that were accepted" if known else ""
    cut = seam.first if seam.first is not None and seam.first > plan.start and not known else None
    yield Match(
        f"{plan.target} has got {seam.rows - known} rows of the window since it was planned{by}{since}{before}; "
        "the backfill would add to them.",
        plan_command(plan, Flag("--to", short_instant(cut))) if cut is not None else None,
    )


@_rule(
    "backfill_epoch_unit",
    Severity.ERROR,
    "The integers of the time column do not look like instants in the declared unit.",
    remedy="`plan` with the `--time-unit` that the message names",
)
def _epoch(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    for epoch in facts.epochs:
        # The unit is no part of a plan's identity: the new plan takes the place of this one.
        remedy = None if plan is None else plan_command(plan, Flag("--time-unit", epoch.fitting), Flag("--force"))
        yield Match(
            f"{epoch.table}.{epoch.column} holds values such as {epoch.value}: as {epoch.declared} that is far from "
            f"now, as {epoch.fitting} it is near.",
            remedy,
        )


@_rule(
    "backfill_row_policy",
    Severity.WARN,
    "A row policy hides rows of the source from this user, so they are not backfilled.",
    remedy="let a user run the backfill who sees all rows",
)
def _row_policy(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for policy in facts.policies:
        yield Match(
            f"A row policy shows {facts.user} only rows of {policy.table} with {policy.condition}; "
            "the others are not backfilled. Run it as a user without the policy."
        )


@_rule(
    "backfill_ttl_deletes",
    Severity.ERROR,
    "The target's TTL would delete rows of the window soon after they have been written.",
    remedy="lengthen or remove the TTL, or plan a window that is not past it",
)
def _ttl(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    if facts.storage is not None:
        yield from past_ttl(facts.target, facts.storage, facts.ttls)


def past_ttl(target: str, storage: TableName, ttls: Iterable[TtlFacts]) -> Iterator[Match]:
    """What is to be said of a window that is partly past the target's TTL."""
    for ttl in ttls:
        if ttl.until is not None:
            yield Match(
                f"The TTL of {target} ({ttl.expression}) deletes rows before about {render_instant(ttl.until)}, "
                "and the window has such rows: a merge would delete them after the backfill.",
                sql(f"ALTER TABLE {quote_table(storage)} REMOVE TTL"),
            )


@_rule(
    "backfill_views_missed",
    Severity.WARN,
    "Partitions that are moved or replaced fire no views, so the views on the target do not see the rows.",
    remedy="once this is done, `plan` and `run` what the views fill",
)
def _views_missed(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if not _staged(plan):
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
    remedy="stage into the MergeTree table behind the target, or rebuild what the views fill afterwards",
)
def _views_doubled(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    if facts.views_fired and not _staged(case.plan):
        yield Match(
            f"Each insert into {facts.target} fires {_names(facts.views_fired)}; an attempt that fails midway and is "
            "retried gives them the same rows twice."
        )


@_rule(
    "backfill_view_refreshable",
    Severity.ERROR,
    "A refreshable view replaces the target's rows on its own schedule, the backfilled ones included.",
    remedy="stop the view while the backfill is needed",
)
def _refreshable(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for view in facts.views_refreshed:
        yield Match(
            f"{view} is a refreshable view that replaces the rows of {facts.target} each time it refreshes.",
            sql(f"SYSTEM STOP VIEW {quote_table(view)}"),
        )


@_rule(
    "backfill_distributed_pending",
    Severity.ERROR,
    "A Distributed table holds rows that its shards have not got yet: a source's are missed, a target's come late.",
    remedy="flush it",
)
def _distributed(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
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
    facts = _server(case)
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
    facts = _server(case)
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
    facts = _server(case)
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
    facts = _server(case)
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
    facts = _server(case)
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
    facts = _server(case)
    if facts.balanced:
        yield Match(
            f"Different servers answer at {facts.address}; every command and every attempt keeps to one of them."
        )


@_rule(
    "backfill_mutation_unfinished",
    Severity.WARN,
    "A mutation of the target or a source is not done, so rows change while they are copied; one that fails "
    "blocks later ones, such as the deletion of a window.",
    remedy="wait until it is done; one that fails for ever must be killed",
)
def _mutations(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
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
    "A partition of the target has nearly as many parts as its server bears; inserts and moves are slowed down, "
    "then refused.",
    remedy="let merges catch up, or merge the partition",
)
def _parts(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
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
    "backfill_many_partitions",
    Severity.WARN,
    "The rows of one chunk fall into many partitions: each costs a move, and a plain INSERT refuses more than "
    "`max_partitions_per_insert_block`.",
    remedy="smaller chunks, where the partition key follows the time column",
)
def _partitions(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    count = facts.partitions_per_chunk
    if plan is None or count is None:
        return
    limit = facts.partitions_limit
    if not _staged(plan) and limit and count > limit:
        yield Match(
            f"The rows of one chunk fall into {count} partitions of {facts.target}, and an INSERT of this user may "
            f"write to {limit} (max_partitions_per_insert_block).",
            severity=Severity.ERROR,
        )
    elif _staged(plan) and count > _PARTITIONS_AT_EASE:
        yield Match(
            f"The rows of one chunk fall into {count} partitions of {facts.target}; each is published on its own, "
            f"which takes about {count * 0.04:.0f} s per chunk."
        )


@_rule(
    "backfill_drop_limit",
    Severity.ERROR,
    "A partition that is to be replaced is larger than `max_partition_size_to_drop`, and this user may not lift "
    "that limit for a query.",
    remedy="raise the limit in the server's configuration, or remove the constraint",
)
def _drop_limit(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    if plan is None or plan.write_mode is not WriteMode.REPLACE or not facts.drop_limit:
        return
    largest = max((parts.largest for parts in facts.parts if parts.table == facts.storage), default=0)
    if facts.drop_limit_tied and largest > facts.drop_limit:
        yield Match(
            f"The largest partition of {facts.target} is {_size(largest)}, replacing it is refused over "
            f"{_size(facts.drop_limit)} (max_partition_size_to_drop), and {facts.user} may not change that setting."
        )


@_rule(
    "backfill_disk_space",
    Severity.ERROR,
    "The target's disks have less free space than the largest chunks, their staging tables and a merge need.",
    remedy="free space, or make chunks smaller",
)
def _disk(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    if plan is None or not facts.disks or facts.estimate is None:
        return
    per_row = facts.estimate.bytes_per_row
    if per_row is None:
        return
    need = facts.estimate.largest * per_row * _COPIES
    free = sum(disk.free for disk in facts.disks)
    if free < need:
        disks = ", ".join(f"{disk.name} {_size(disk.free)}" for disk in facts.disks)
        remedy = None
        if facts.proposed_hours is not None and facts.proposed_hours < (plan.chunk_hours or 0) and _untouched(case):
            remedy = plan_command(plan, chunk_hours_flag(facts.proposed_hours))
        yield Match(
            f"The disks of {facts.target} have {_size(free)} free ({disks}); the largest chunk, its staging table and "
            f"a merge of it need about {_size(need)}.",
            remedy,
        )


def _untouched(case: RuleContext) -> bool:
    return case.run is None or case.run.status is RunStatus.PLANNED


@_rule(
    "backfill_grant_missing",
    Severity.ERROR,
    "The user lacks a right that the plan needs.",
    remedy="grant it",
)
def _grants(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for grant in facts.grants:
        yield Match(
            f"{facts.user} lacks {grant.right} on {grant.on}.",
            sql(f"GRANT {grant.right} ON {grant.on} TO {quote(facts.user)}"),
        )


@_rule(
    "backfill_setting_constrained",
    Severity.ERROR,
    "A setting that a backfill relies on may not be set so by this user.",
    remedy="remove the constraint from the user's profile",
)
def _settings(case: RuleContext) -> Iterator[Match]:
    facts = _server(case)
    for setting in facts.settings:
        yield Match(
            f"{facts.user} may not set {setting.name} = {setting.wanted} (it is "
            f"{setting.value}, {setting.reason}), so statements of the backfill are refused. "
            "Remove the constraint from the user's profile."
        )


@_rule(
    "backfill_write_guarantee",
    Severity.WARN,
    "The plan writes straight into the target, so rows arrive at least once, not exactly once.",
    remedy="plan a backfill of the MergeTree table behind the target, which can be staged",
)
def _guarantee(case: RuleContext) -> Iterator[Match]:
    plan, facts = case.plan, _server(case)
    if plan is not None and facts.storage is not None and not _staged(plan):
        yield Match(f"{plan.mode_reason} {plan.guarantee}")


@_rule(
    "backfill_token_ignored",
    Severity.INFO,
    "Deduplication tokens do nothing on this target or version. Staging does not rely on them; a plain INSERT "
    "has no second belt then.",
    remedy="for a plain INSERT, give the target a deduplication window",
)
def _tokens(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    if plan is None or not plan.use_tokens:
        return
    severity = None if _staged(plan) else Severity.WARN
    if facts.version[:2] in ((26, 1), (26, 2)):
        version = ".".join(str(part) for part in facts.version)
        yield Match(f"ClickHouse {version} ignores the deduplication token of an INSERT … SELECT.", severity=severity)
    elif facts.token_window == 0 and facts.storage is not None and not _staged(plan):
        yield Match(
            f"{facts.target} keeps no deduplication log (non_replicated_deduplication_window = 0), so tokens are "
            "ignored and a retried insert may double rows.",
            sql(f"ALTER TABLE {quote_table(facts.storage)} MODIFY SETTING non_replicated_deduplication_window = 1000"),
            severity,
        )


@_rule(
    "backfill_staging_orphaned",
    Severity.WARN,
    "Staging tables are left on the server of a run that is over, or of a plan that this state folder does not have.",
    remedy="`resume` an unfinished run; otherwise drop them",
)
def _staging(case: RuleContext) -> Iterator[Match]:
    facts, plan, run = case.server or _NOTHING, case.plan, case.run
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
    facts, plan, run = case.server or _NOTHING, case.plan, case.run
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


@_rule(
    "backfill_chunks_small",
    Severity.INFO,
    "The chunks hold so few rows that their fixed cost outweighs the rows.",
    remedy="`plan` with a larger `--chunk-hours`",
)
def _small(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    estimate = facts.estimate
    if plan is None or estimate is None or not estimate.filled or not _untouched(case):
        return
    proposed, hours = facts.proposed_hours, plan.chunk_hours or 0
    if estimate.median < SMALL_ROWS and plan.chunk_count >= MANY_CHUNKS and proposed and proposed > hours:
        yield Match(
            f"The {plan.chunk_count} chunks {plan.chunking.words} read {_rows(case)}: "
            "each costs as much again in tables, verification and publishing.",
            plan_command(plan, chunk_hours_flag(proposed)),
        )


@_rule(
    "backfill_chunks_large",
    Severity.WARN,
    "The largest chunks hold so much that an attempt takes long, and a failure costs all of it.",
    remedy="`plan` with a smaller `--chunk-hours`",
)
def _large(case: RuleContext) -> Iterator[Match]:
    facts, plan = _server(case), case.plan
    estimate = facts.estimate
    if plan is None or estimate is None or not _untouched(case):
        return
    proposed = facts.proposed_hours
    size = estimate.largest * (estimate.bytes_per_row or 0)
    if (estimate.largest > LARGE_ROWS or size > LARGE_BYTES) and proposed and proposed < (plan.chunk_hours or 0):
        yield Match(
            f"The {plan.chunk_count} chunks {plan.chunking.words} read {_rows(case)}.",
            plan_command(plan, chunk_hours_flag(proposed)),
        )


def _rows(case: RuleContext) -> str:
    estimate = case.server.estimate if case.server is not None else None
    if estimate is None:
        return "an unknown number of rows"
    size = f" ({_size(estimate.largest * estimate.bytes_per_row)})" if estimate.bytes_per_row is not None else ""
    about = "" if estimate.exact else "about "
    return f"{about}{estimate.smallest} to {estimate.largest}{size} rows each, {estimate.median} in the median"
