"""
Check rights, replicas and shards before a plan is made, because a fault in these would spoil every chunk.

Also compare a new plan with the stored plan of the same id, and report a window without rows.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress

from ..clickhouse import catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import insert_quorum
from ..clickhouse.rights import missing_grants
from ..clickhouse.row_policies import row_filters
from ..clickhouse.shards import shards_with, spread_of
from ..clickhouse.time_buckets import returning_values
from ..core.adding_up.case import Verdict
from ..core.facts import PolicyFacts, ScanFacts, TableFacts
from ..core.findings.registry import Match
from ..core.findings.source_rules import empty_window, hidden_rows
from ..core.findings.target_rules import returning_rows
from ..core.names import quote
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, Statement, WriteMode
from ..core.planner import differences
from ..core.request import PlanRequest
from ..core.tables import TableName
from ..core.target_window import window_filter
from ..errors import Advice, Flag, RequestError, StatementRefusedError
from .adding_up import partition_key
from .plan_inputs import target_facts
from .sites import Ground


def check_quorum(server: ClickHouse, target: TableFacts) -> None:
    """
    Check that enough replicas are alive for the user's insert quorum.

    Raises:
        RequestError: Too few replicas are alive; or the quorum is more than one replica, and no cluster that the user
            may query has all replicas. In both cases, every chunk would fail.
    """
    replicas = target.replicas
    if replicas is None:
        return
    quorum = insert_quorum(server, replicas.total)
    if quorum > len(replicas.active):
        raise RequestError(
            f"Inserts of this user must reach {quorum} replicas of {target.name} (insert_quorum), and "
            f"{len(replicas.active)} of {replicas.total} are alive: {', '.join(replicas.active)}.",
            hint="bring the others back, or use a user whose profile asks for fewer",
        )
    if quorum > 1 and not replicas.reaches_all:
        raise RequestError(
            f"Inserts of this user must reach {quorum} replicas of {target.name} (insert_quorum), and no cluster that "
            "the user may ask has all of them, so a staging table would be on one.",
            hint="define such a cluster in remote_servers, and GRANT REMOTE, CLUSTER ON *.* to the user",
        )


def check_grants(server: ClickHouse, target: TableFacts, mode: WriteMode) -> None:
    """
    Check that the user has the rights that a write mode needs on the target and on system tables.

    Rights on sources are not checked here: a missing right shows when the source is read. If the server has no
    ``CHECK GRANT``, nothing is checked.

    Raises:
        RequestError: Rights are missing; the hint has the GRANT statements.
    """
    try:
        missing = missing_grants(server, target, mode, ())
    except StatementRefusedError:
        # This version has no CHECK GRANT. doctor reports this, and the run reports missing rights.
        return
    if not missing:
        return
    user = str(server.value("SELECT currentUser()"))
    by_place: dict[str, list[str]] = {}
    for grant in missing:
        by_place.setdefault(grant.on, []).append(grant.right)
    lacks = ", ".join(f"{' and '.join(rights)} on {on}" for on, rights in by_place.items())
    grants = "; ".join(f"GRANT {', '.join(rights)} ON {on} TO {quote(user)}" for on, rights in by_place.items())
    raise RequestError(
        f"{user} lacks rights that write mode {mode} needs: {lacks}.",
        hint=f"as a user who may grant: {grants}",
    )


def check_hidden_rows(server: ClickHouse, target: TableFacts, effect: str) -> None:
    """
    Refuse to delete rows of a target if a row policy hides rows of the target from this user.

    If the server refuses the query, for example because of rights on some columns only, nothing is checked.

    Args:
        effect: The operation that would delete hidden rows, for the message.

    Raises:
        RequestError: A row policy hides rows of the target.
    """
    if hidden := [policy.condition for policy in _row_policies(server, [target.storage])]:
        raise RequestError(
            f"A row policy shows this user only rows of {target.name} with {', '.join(hidden)}: {effect} would delete "
            "other rows, which nothing here can see or count.",
            hint="run the backfill as a user without a row policy on the target",
        )


def rows_hidden(ground: Ground, statements: Iterable[Statement]) -> Iterator[Match]:
    """Report the row policies that hide rows of the target, or of a source of *statements*, from this user."""
    sources = [one.table for one in statements if one.table is not None]
    for _, server, target in ground.sites:
        yield from hidden_rows(_row_policies(server, [target.storage, *sources]), target.storage)


def rows_return(server: ClickHouse, target: TableFacts, plan: Plan) -> Iterator[Match]:
    """Report that a restart of an older server may bring back rows that the plan replaces."""
    if plan.write_mode is WriteMode.REPLACE:
        yield from returning_rows(target.engine, catalog.version_numbers(server.value("SELECT version()")))


def _row_policies(server: ClickHouse, tables: Iterable[TableName]) -> Iterator[PolicyFacts]:
    """Yield the row policies that hide rows of the tables from this user; none for a table that may not be queried."""
    for table in dict.fromkeys(tables):
        with suppress(StatementRefusedError):
            yield from (PolicyFacts(table, condition) for condition in row_filters(server, table))


def check_shards(server: ClickHouse, target: TableFacts, statements: Sequence[Statement], request: PlanRequest) -> None:
    """
    Refuse to put the rows of all shards into the local table of one shard.

    Raises:
        RequestError: A source is Distributed over a cluster in which several shards have the target, and the request
            neither has *one_shard* nor names a cluster or a Distributed target.
    """
    # With one_shard, the user wants all rows on this server. With a cluster or a Distributed target, each
    # row goes to its shard.
    if request.one_shard or request.cluster or target.engine == "Distributed":
        return
    for table in (one.table for one in statements if one.table is not None):
        source = target_facts(server, table)
        spread = spread_of(server, source.engine_full)
        if spread is None:
            continue
        shards = shards_with(server, spread.cluster, target.storage)
        if shards > 1:
            raise RequestError(
                f"{source.name} is Distributed over the cluster {spread.cluster}, and {target.name} is a local table "
                f"on {shards} of its shards: the rows of all shards would land on this one.",
                remedy=Advice(
                    "on each shard plan with {} or the shard's own source, or pass {} if all rows belong here",
                    Flag("--source", str(spread.local)),
                    Flag("--one-shard"),
                ),
            )


def same_plan(existing: Plan, plan: Plan) -> Plan:
    """
    Return *existing*, the stored plan with the id of *plan*.

    Raises:
        RequestError: The two plans have different definitions.
    """
    changed = differences(existing, plan)
    if not changed:
        return existing
    remedy = Advice(
        "change the window or the chunk size, or pass {} to plan again; the old files get another name",
        Flag("--force"),
    )
    if existing.environment != plan.environment and not existing.cluster and not plan.cluster:
        # With the old files under another name, no command would speak of the first server any more.
        remedy = Advice(
            "use the address of the plan if both lead to one table; otherwise plan here in another folder with {}, or "
            "plan all shards as one with {}",
            Flag("--state-dir"),
            Flag("--cluster"),
        )
    raise RequestError(
        f"Plan {plan.plan_id} exists with another definition. " + "; ".join(changed) + ".", remedy=remedy
    )


def returning_partitions(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], verdicts: Sequence[Verdict]
) -> str:
    """
    Return the condition that a row of the target is in a partition of the window that also has other times.

    Such a partition returns later, as the partitions of ``toDayOfWeek(ts)`` do every week. Return an empty text if no
    partition returns, or if the plan replaces no partitions or keeps the rows outside the window.
    """
    if plan.write_mode is not WriteMode.REPLACE or plan.keep_outside:
        return ""
    conditions = []
    for scan, verdict in zip(scans, verdicts, strict=True):
        key = partition_key(server, target, scan, verdict)
        if values := returning_values(server, key.of_source, scan.times, plan.start, plan.end):
            conditions.append(f"{key.of_target} IN ({values})")
    return " OR ".join(conditions)


def check_rows_outside(server: ClickHouse, target: TableFacts, plan: Plan, returning: str) -> None:
    """
    Refuse to replace partitions in which the target has rows outside the window.

    Args:
        returning: The condition that a row is in such a partition; empty if there are none.

    Raises:
        RequestError: The target has such rows; or the window cuts a day of a date column.
    """
    if not returning:
        return
    window = window_filter(plan, Chunk("", plan.start, plan.end))
    if rows := catalog.count_rows(server, target.storage, f"({returning}) AND NOT coalesce({window}, 0)"):
        raise RequestError(
            f"{target.name} has {show_number(rows, 'row')} outside the window in partitions ({target.partition_key}) "
            "of the window, and replacing these partitions would delete the rows.",
            remedy=Advice(
                "pass {} to keep the rows, or omit {}",
                Flag("--keep-outside"),
                Flag("--write-mode", WriteMode.REPLACE),
            ),
        )


def rows_elsewhere(server: ClickHouse, plan: Plan) -> Iterator[Match]:
    """Report the filtered tables that have rows, if it is known that no filtered table has a row in the window."""
    if plan.source_rows == 0:
        for table in dict.fromkeys(table for statement in plan.statements for table in plan.filters(statement)):
            if values := catalog.sample_times(server, table.table, table.column):
                yield empty_window(plan, table, *values)
