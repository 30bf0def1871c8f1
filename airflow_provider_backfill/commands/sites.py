"""Find the sites of a plan's target: one server, or each shard of a cluster."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import NamedTuple

from ..clickhouse import catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import one_server
from ..clickhouse.shards import (
    AnyReplica,
    Spread,
    shard_of,
    shard_urls,
    shard_weights,
    spread_of,
    spread_tables,
    table_identity,
)
from ..core.facts import TableFacts
from ..core.plan import Plan, Shard, WriteMode
from ..core.request import PlanRequest
from ..core.tables import TableName
from ..errors import Advice, BackfillError, Flag, RequestError
from . import plan_inputs
from .session import Payload


class Site(NamedTuple):
    """
    A server or shard on which a plan has chunks to execute.

    Attributes:
        plan: The plan as this site sees it: the whole plan, or one shard's part.
        server: The connection to the address given by the user, or to the shard's replicas.
    """

    plan: Plan
    server: ClickHouse

    @property
    def name(self) -> str:
        """The site's name in messages, such as ``shard 2``; empty if the target is one table."""
        return _name(self.plan.shard)


@contextmanager
def sites_of(server: ClickHouse, plan: Plan) -> Iterator[list[Site]]:
    """
    Yield the sites on which a plan has chunks to execute: *server* alone, or each shard.

    Connections to shards are opened on first use and closed at the end. *server* stays open.
    """
    if not plan.shards:
        yield [Site(plan, server)]
        return
    with ExitStack() as stack:
        sites = []
        for shard in plan.shards:
            there = AnyReplica(server, f"shard {shard.number} of {plan.cluster}", shard.urls)
            stack.callback(there.close)
            sites.append(Site(plan.on_shard(shard.number), there))
        yield sites


def _name(shard: int) -> str:
    return f"shard {shard}" if shard else ""


@contextmanager
def on_site(shard: int) -> Iterator[None]:
    """
    Prefix the message of a :class:`.BackfillError` in this block with the shard's name.

    The message stays unchanged if it already begins with the name, or if *shard* is 0.
    """
    name = _name(shard)
    try:
        yield
    except BackfillError as error:
        if name and not error.message.lower().startswith(name):
            error.message = f"{name[0].upper()}{name[1:]}: {error.message}"
        raise


def check_cluster(server: ClickHouse, plan: Plan) -> None:
    """
    Compare the shards of a plan with the current shards of its cluster.

    A plan without shards is not checked. The shards' tables are not compared here, but by :func:`why_another`.

    Raises:
        RequestError: The cluster is unknown, or has gained or lost a shard; or rows are divided among the shards, and a
            shard's weight or the sharding key has changed.
    """
    if not plan.shards:
        return
    planned, present = {shard.number for shard in plan.shards}, set(shard_urls(server, plan.cluster, {}))
    changes = [
        f"{what} shard{'s' if len(numbers) > 1 else ''} {', '.join(map(str, sorted(numbers)))}"
        for what, numbers in (("it has got", present - planned), ("it has lost", planned - present))
        if numbers
    ]
    if plan.dealing is not None:
        keys = spread_tables(server, Spread(plan.cluster, plan.shard_table or plan.target))
        weights = {shard.number: shard.weight for shard in plan.shards}
        if not changes and shard_weights(server, plan.cluster) != weights:
            changes.append("its shards have other weights")
        # A server without a Distributed table over the shards shows no sharding key, so the key is not compared.
        if keys and plan.dealing.sharding_key not in keys.values():
            changes.append(f"the sharding key is {', '.join(sorted(set(keys.values())))}")
    if changes:
        raise RequestError(
            f"The cluster {plan.cluster} is another than when plan {plan.plan_id} was made: {' and '.join(changes)}.",
            remedy=Advice("plan again with {}; then allow the filled windows, or leave them out", Flag("--force")),
        )


def why_another(server: ClickHouse, site: Site, target: TableFacts) -> str:
    """Return why a shard's server or table is not the planned one; empty if nothing has changed, or without shards."""
    shard = next((one for one in site.plan.shards if one.number == site.plan.shard), None)
    if shard is None:
        return ""
    number = shard_of(server, site.plan.cluster)
    if number and shard.number not in number:
        return f"the server that is reached for it is shard {min(number)} of {site.plan.cluster} now"
    now = table_identity(server, target)
    return "" if now == shard.table else f"{target.storage} there is another table than was planned ({now})"


class Ground(NamedTuple):
    """
    The servers, tables and shards for a new plan.

    Attributes:
        server: The server that explains the statements: the only server, or the server of the shard with the most
            source rows. If the request has a SELECT, the server of the first shard.
        request: The user's request; on a cluster, its target is the local table of the shards.
        sites: Number, server and table of each shard; a single entry with number 0 if the target is one table.
        fields: The values of the plan's fields about the cluster; empty if the target is one table.
    """

    server: ClickHouse
    request: PlanRequest
    sites: Sequence[tuple[int, ClickHouse, TableFacts]]
    fields: Mapping[str, object]


@contextmanager
def ground_of(server: ClickHouse, request: PlanRequest) -> Iterator[Ground]:
    """
    Yield the ground for a new plan, with a connection to each shard of the target. Close these connections at the end.

    Raises:
        RequestError: The target or the cluster is unknown, a shard lacks the table, an address leads to a shard with
            another number, two addresses lead to one table, the shards' tables differ, or the request has addresses of
            shards for a target without shards.
        ServerUnreachableError: A shard cannot be reached; planning needs all shards.
    """
    target = plan_inputs.target_facts(server, request.target) if not request.cluster else None
    spread = _spread(server, target, request)
    if spread is None:
        if request.shard_urls:
            raise RequestError(
                f"{request.target} is one table on one server, so it has no shards to be reached.",
                remedy=Advice("omit {}, or name the cluster by {}", Flag("--shard-url"), Flag("--cluster")),
            )
        found = plan_inputs.target_facts(server, request.target, request.staging_database)
        yield Ground(server, request, [(0, server, found)], {"target_identity": found.identity})
        return
    urls, weights = shard_urls(server, spread.cluster, request.shard_urls), shard_weights(server, spread.cluster)
    with ExitStack() as stack:
        sites, shards = [], []
        for number, addresses in urls.items():
            shard = AnyReplica(server, f"shard {number} of {spread.cluster}", addresses)
            stack.callback(shard.close)
            there = one_server(shard)
            with on_site(number):
                table = plan_inputs.target_facts(there, spread.local, request.staging_database)
                _check_shard(there, spread.cluster, number)
            sites.append((number, there, table))
            identity, weight = table_identity(there, table), weights.get(number, 1)
            shards.append(Shard(number=number, table=identity, urls=addresses, weight=weight))
        _check_apart(spread, shards, sites)
        known = dict.fromkeys([spread.local, *spread_tables(server, spread)])
        fields = {
            "cluster": spread.cluster,
            "shard_table": spread.local,
            "known_as": tuple(known),
            "shards": tuple(shards),
        }
        yield Ground(
            _fullest(sites, request), replace(request, target=spread.local, cluster=spread.cluster), sites, fields
        )


def _spread(server: ClickHouse, target: TableFacts | None, request: PlanRequest) -> Spread | None:
    """Return the cluster and the local table to fill; None if the plan fills the request's target as one table."""
    if request.one_shard or target is None:
        return Spread(request.cluster, request.target) if request.cluster else None
    # If the user asks for write mode insert, the rows go through the Distributed table, which distributes them.
    return None if request.write_mode == WriteMode.INSERT else spread_of(server, target.engine_full)


def _check_shard(server: ClickHouse, cluster: str, number: int) -> None:
    numbers = shard_of(server, cluster)
    if numbers and number not in numbers:
        raise RequestError(
            f"{server.address} is shard {min(numbers)} of the cluster {cluster}, not shard {number}.",
            remedy=Advice("give each shard its own address: {}", Flag("--shard-url", f"{number}=http://host:8123")),
        )


def _check_apart(spread: Spread, shards: Sequence[Shard], sites: Sequence[tuple[int, ClickHouse, TableFacts]]) -> None:
    """Refuse two shards that lead to one table, and shards whose tables differ in engine, keys or columns."""
    seen: dict[str, Shard] = {}
    for shard in shards:
        if other := seen.setdefault(shard.table, shard) if shard.table in seen else None:
            raise RequestError(
                f"Shard {other.number} ({', '.join(other.urls)}) and shard {shard.number} ({', '.join(shard.urls)}) of "
                f"{spread.cluster} lead to one table {spread.local}: its rows would be written twice.",
                remedy=Advice(
                    "give each shard its own address: {}", Flag("--shard-url", f"{shard.number}=http://host:8123")
                ),
            )
        seen[shard.table] = shard
    number, _, first = sites[0]
    for other_number, _, table in sites[1:]:
        if differs := _difference(first, table):
            raise RequestError(
                f"{spread.local} is not the same on all shards: {differs[0]} on shard {number}, {differs[1]} on shard "
                f"{other_number}.",
                hint="make the tables alike, or plan each shard by its own address",
            )


def _difference(one: TableFacts, other: TableFacts) -> tuple[str, str] | None:
    pairs = [
        (one.engine, other.engine),
        (f"PARTITION BY {one.partition_key}", f"PARTITION BY {other.partition_key}"),
        (f"ORDER BY {one.sorting_key}", f"ORDER BY {other.sorting_key}"),
        *((f"{a.name} {a.type}", f"{b.name} {b.type}") for a, b in zip(one.columns, other.columns, strict=False)),
        (f"{len(one.columns)} columns", f"{len(other.columns)} columns"),
    ]
    return next((pair for pair in pairs if pair[0] != pair[1]), None)


def _fullest(sites: Sequence[tuple[int, ClickHouse, TableFacts]], request: PlanRequest) -> ClickHouse:
    """
    Return the server of the shard with the most source rows, since the query plan for an empty table shows no reads.

    If the request has a SELECT, whose sources are not yet known, return the server of the first shard.
    """

    def rows(site: tuple[int, ClickHouse, TableFacts]) -> int:
        _, server, target = site
        names: list[TableName] = [request.source] if request.source is not None else []
        if not names and request.select is None:
            names = [source for view in catalog.feeding_views(server, target.name) for source in view.sources]
        found = [catalog.table_facts(server, name) for name in names]
        return sum(table.rows or 0 for table in found if table is not None)

    return max(sites, key=rows)[1]


def shards_payload(plan: Plan) -> list[Payload]:
    """Return the shards of a plan as JSON, with their addresses; empty if the target is one table."""
    return [{"shard": one.number, "urls": list(one.urls), "existingRows": one.existing_rows} for one in plan.shards]


def target_of(server: ClickHouse, plan: Plan) -> TableFacts:
    """
    Return facts about a plan's target on the server of its site.

    Raises:
        RequestError: The table does not exist, or the plan's staging database cannot hold its staging tables.
    """
    return plan_inputs.target_facts(server, plan.target, plan.staging_database)
