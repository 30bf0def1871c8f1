"""Find the tables that backfills have left on servers, and drop those that are no longer needed."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import NamedTuple

from ..clickhouse import attempt, catalog, fence, leftovers
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import find_replicas, one_server
from ..core.facts import Replicas, StagingFacts, TableFacts
from ..core.leftovers import LeftoverKind, Standing, Verdict, judge_leftover, read_name
from ..core.names import show_table
from ..core.plan import Plan
from ..core.tables import TableName
from ..errors import BackfillError, DamagedStateError, PlanNotFoundError, ServerError, ServerUnreachableError
from . import plan_inputs
from .lease import has_live_worker, utc_now
from .session import Payload, Session
from .sites import sites_of

# A target table, and the name of the database for its staging tables. The name is empty for the target's own database.
_Place = tuple[TableName, str]


class _Found(NamedTuple):
    """
    A table that the product created on a server.

    Attributes:
        beside: The replication of the table, or of the target beside which the table was created. None if not
            replicated.
    """

    facts: StagingFacts
    beside: Replicas | None


def clean_up(
    session: Session, *, plan_id: str | None = None, target: TableName | None = None, remove: bool = False
) -> Payload:
    """
    Find the tables that backfills have left, on all replicas and in Keeper, and drop those that are not needed.

    The search covers all databases of the server, and the targets of this folder's plans on every shard. A table is
    kept while a worker may be active on its plan, in any folder or on any host. Signs are a worker with a lease, a
    fence on the target, and a running query. A table is also kept while a resume of its plan may need the table, while
    the files of its plan are damaged, and while a running query names the table. The table of a trial, or of a plan
    that never ran from this folder, is also kept for an hour after its last change. Backups of ``replace`` are ignored.

    Args:
        plan_id: Search only tables of this plan, which need not be in the state folder.
        target: Search only the databases that may hold staging tables of this target, and omit tables of plans that
            have another target according to this folder. A plan that the folder does not have may be for any target, so
            its tables are included.
        remove: Whether to drop the tables; otherwise only list them.

    Returns:
        Each table with its fate and the reason. ``notLookedAt`` lists the targets and shards that were not searched.

    Raises:
        RequestError: No server is configured, or there is neither a table *target* nor a plan with this target.
        ServerError: ClickHouse could not be reached, or refused to drop a table.
    """
    judged: dict[str, Payload] = {}
    unseen: list[str] = []
    seen: set[TableName] = set()
    plans = list(_known_plans(session))
    others = {plan.plan_id for plan in plans if target is not None and not plan.is_called(target)}
    with session.connected_to_one() as address:
        if target is not None and len(others) == len(plans):
            plan_inputs.target_facts(address, target)
        for server, names in _places(plans, address, plan_id, target, unseen):
            found = _find(server, plan_id, names, unseen, everywhere=target is None)
            found = {name: each for name, each in found.items() if each.facts.plan_id not in others}
            # Several shards may have a table of the same name, because a Replicated database creates every table on all
            # its shards. List the name once, but drop every such table.
            left = [each for name, each in found.items() if remove or name not in seen]
            seen |= found.keys()
            for owner in sorted({each.facts.plan_id for each in left}):
                tables = [each for each in left if each.facts.plan_id == owner]
                for batch in _batches(tables):
                    for entry in _clean_plan(session, server, owner, batch, tables, remove=remove):
                        if entry["fate"] != "kept" or entry["table"] not in judged:
                            judged[entry["table"]] = entry
    fates = [entry["fate"] for entry in judged.values()]
    return {
        "ok": True,
        "command": "clean",
        "stateDir": session.store.backend.where(""),
        "planId": plan_id,
        "target": None if target is None else show_table(target),
        "removed": fates.count("removed"),
        "removable": fates.count("removable"),
        "kept": fates.count("kept"),
        "tables": list(judged.values()),
        "notLookedAt": unseen,
    }


def _batches(tables: list[_Found]) -> Iterator[list[_Found]]:
    """Yield groups of tables with the same replicas, each small enough for one DROP under the plan's lock."""
    groups: dict[Replicas | None, list[_Found]] = {}
    for table in tables:
        groups.setdefault(table.beside, []).append(table)
    for group in groups.values():
        names = {table.facts.table: table for table in group}
        for batch in attempt.batches(list(names)):
            yield [names[name] for name in batch]


def _places(
    plans: Sequence[Plan], address: ClickHouse, plan_id: str | None, target: TableName | None, unseen: list[str]
) -> Iterator[tuple[ClickHouse, set[_Place]]]:
    """
    Yield the places to search: the configured server, and each shard of those *plans* that are to be searched.

    *plan_id* and *target* restrict the plans whose shards are searched; None means no restriction. Each place
    comes with its target tables and the databases of their staging tables. A shard that cannot be reached is added to
    *unseen* instead.
    """
    here = {(plan.target, plan.staging_database) for plan in plans}
    yield address, here if target is None else {(target, ""), *((target, one) for name, one in here if name == target)}
    places: dict[tuple[int, tuple[str, ...]], tuple[Plan, set[_Place]]] = {}
    for plan in plans:
        if plan_id in (None, plan.plan_id) and (target is None or plan.is_called(target)):
            for shard in plan.shards:
                _, names = places.setdefault((shard.number, shard.urls), (plan, set()))
                names.add((plan.shard_table or plan.target, plan.staging_database))
    for (number, _), (plan, names) in places.items():
        with sites_of(address, plan) as sites:
            site = next(one for one in sites if one.plan.shard == number)
            try:
                server = one_server(site.server)
            except ServerUnreachableError as error:
                unseen.append(f"{site.name}: {error.message}")
                continue
            yield server, names


def _find(
    server: ClickHouse, plan_id: str | None, targets: set[_Place], unseen: list[str], *, everywhere: bool
) -> dict[TableName, _Found]:
    """
    Return the product's tables on a server, by name; unless *plan_id* is None, only the tables of that plan.

    The search covers the staging databases of *targets*, and with *everywhere* all databases. A target that is missing
    or cannot be inspected is added to *unseen*.
    """
    found: dict[TableName, _Found] = {}
    for facts in _targets(server, targets, unseen):
        for table in leftovers.staging_tables(server, facts):
            found.setdefault(table.table, _Found(table, facts.replicas))
    for table in leftovers.tables_anywhere(server) if everywhere else ():
        if table.table not in found:
            found[table.table] = _Found(table, find_replicas(server, table.table))
    return {name: each for name, each in found.items() if plan_id in (None, each.facts.plan_id)}


def _targets(server: ClickHouse, places: set[_Place], unseen: list[str]) -> Iterator[TableFacts]:
    """Yield the facts about each existing target; add a target that is missing or cannot be inspected to *unseen*."""
    for name, database in sorted(places):
        try:
            facts = catalog.table_facts(server, name)
        except ServerUnreachableError:
            raise
        except ServerError as error:
            unseen.append(f"{name}: {error.message}")
            continue
        if facts is not None:
            yield replace(facts, staging_database=database)
        else:
            unseen.append(f"{name}: there is no such table on {server.address}")


def _known_plans(session: Session) -> Iterator[Plan]:
    for plan_id in session.store.plan_ids():
        try:
            yield session.store.load_plan(plan_id)
        except BackfillError:
            continue


def _clean_plan(
    session: Session, server: ClickHouse, plan_id: str, tables: list[_Found], all_tables: list[_Found], *, remove: bool
) -> Iterator[Payload]:
    """
    Judge *tables* of a plan, drop the unneeded tables if *remove* is set, and yield an entry for each table.

    For a plan in the state folder, hold the plan's lock meanwhile, so that no worker of this folder can claim a chunk.
    *all_tables* are the plan's tables on this server that :func:`clean_up` handles, in this and other batches.
    """
    known = plan_id in session.store.plan_ids()
    hold: AbstractContextManager[None] = session.store.exclusive(plan_id) if known else nullcontext()
    with hold:
        standing = _standing(session, server, plan_id, all_tables)
        named = " ".join(leftovers.texts_of_queries(server))
        verdicts = [
            Verdict(False, "a query that runs names it")
            if each.facts.table.table in named
            else judge_leftover(each.facts, standing)
            for each in tables
        ]
        going = [each for each, verdict in zip(tables, verdicts, strict=True) if verdict.removable]
        if remove and going:
            attempt.drop_tables(server, [each.facts.table for each in going], going[0].beside)
    for each, verdict in zip(tables, verdicts, strict=True):
        leftover = read_name(each.facts.table.table)
        yield {
            "table": show_table(each.facts.table),
            "planId": plan_id,
            "kind": leftover.kind if leftover else "",
            "rows": each.facts.rows,
            "fate": ("removed" if remove else "removable") if verdict.removable else "kept",
            "reason": verdict.reason,
        }


def _standing(session: Session, server: ClickHouse, plan_id: str, tables: list[_Found]) -> Standing:
    """
    Return the plan's run in this folder, whether the plan's files can be read, and any evidence of an active worker.

    The evidence is a live worker in the run's log, a running query of the plan, or a fence that announces a run of the
    plan. The host of the worker does not matter.
    """
    run, readable, own = None, True, ""
    try:
        plan = session.store.load_plan(plan_id)
        run, own = session.store.open_run(plan).run, f"_{plan.nonce or 0}"
    except PlanNotFoundError:
        pass
    except DamagedStateError:
        readable = False
    queries = [*leftovers.live_queries(server), *leftovers.queries_elsewhere(server)]
    # Search again, because a run may have begun since the first search.
    new = [
        _Found(facts, find_replicas(server, facts.table))
        for facts in leftovers.tables_anywhere(server)
        if facts.plan_id == plan_id and facts.table not in {each.facts.table for each in tables}
    ]
    # Skip the fences of this folder's run, because the run's log shows whether a worker is active.
    others = [
        each for each in (*tables, *new) if _is_fence(each) and not (own and each.facts.table.table.endswith(own))
    ]
    at_work = ""
    if run is not None and has_live_worker(run, utc_now()):
        at_work = "a worker is at work on its plan"
    elif any(query.plan_id == plan_id for query in queries):
        at_work = "a query of its plan runs"
    elif any(fence.is_announced(server, each.facts.table, each.beside) for each in others):
        at_work = "a run of its plan is announced on the target"
    return Standing(run, readable, at_work)


def _is_fence(table: _Found) -> bool:
    leftover = read_name(table.facts.table.table)
    return leftover is not None and leftover.kind is LeftoverKind.FENCE
