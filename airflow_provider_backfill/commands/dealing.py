"""Decide whether each shard fills itself from its own rows, or one source's rows are divided among the shards."""

from collections.abc import Mapping, Sequence

from ..clickhouse import catalog, query_tree
from ..clickhouse.client import ClickHouse
from ..clickhouse.shards import Spread, spread_tables
from ..core.adding_up.case import Verdict
from ..core.dealing import as_number, chance, hashed_columns, is_float
from ..core.facts import Column, TableFacts
from ..core.names import show_table
from ..core.parameters import parameter_settings
from ..core.plan import Plan, Statement, WriteMode
from ..core.query_tree import Node
from ..core.shares import Dealing
from ..core.sql import converted_value, reads_of, row_hash, slot_select
from ..core.tables import TABLE_FUNCTION, TableName
from ..errors import Advice, Flag, RequestError

# Engines, besides MergeTree engines, whose tables have only the rows of their own shard.
_OWN = frozenset({"MaterializedView", "Memory", "Log", "TinyLog", "StripeLog", "Set", "Join", "EmbeddedRocksDB"})
# Table functions that generate rows. They do not show on which server a SELECT's other rows are stored.
_GENERATED = frozenset({"numbers", "numbers_mt", "zeros", "zeros_mt", "generateSeries", "generate_series", "values"})
# Engines that do not show where rows are stored. The tables that a view reads are judged instead of the view.
_NEUTRAL = frozenset({"View", "Dictionary", "SystemOne", "SystemNumbers", "SystemZeros"})
# Engines that read other tables, which are unknown here.
_OPAQUE = frozenset({"Merge", "Buffer", "Alias"})
_BY_HAND = Advice(
    "insert through the Distributed table, at least once: {} {}",
    Flag("--write-mode", WriteMode.INSERT),
    Flag("--accept-at-least-once"),
)


def with_dealing(address: ClickHouse, server: ClickHouse, target: TableFacts, plan: Plan) -> Plan:
    """
    Return the plan, with a division of rows among the shards if every shard reads the same rows.

    The plan is returned unchanged if its target is one table, or if each shard reads its own rows.

    Args:
        address: The server that knows the Distributed tables.
        server: The server of a shard.
        target: The target table on that shard.

    Raises:
        RequestError: It is unknown where a SELECT's rows are stored, only some of the SELECTs give the same rows on
            every shard, a SELECT may choose different rows in each run, the Distributed tables over the target have
            different sharding keys, or no key gives each row exactly one shard.
    """
    if not plan.shards:
        return plan
    trees = [query_tree.query_tree(server, one.select, _values(plan, one)) for one in plan.statements]
    dealt = [_is_dealt(server, target, one, tree) for one, tree in zip(plan.statements, trees, strict=True)]
    if not any(dealt):
        return plan
    if not all(dealt):
        apart = {bool(each): one.name for one, each in zip(plan.statements, dealt, strict=True)}
        raise RequestError(
            f"{apart[False]} gives each shard's own rows, and {apart[True]} the same rows on every shard.",
            remedy=Advice("plan them one by one with {}", Flag("--select")),
        )
    for statement, tree in zip(plan.statements, trees, strict=True):
        if what := chance(tree):
            raise RequestError(
                f"{statement.name} has {what}, and each shard runs it to keep its share of the rows: what is chosen "
                "otherwise each time could come to two shards, or to none.",
                remedy=Advice("omit it, or {}", _BY_HAND),
            )
    key = sharding_key_of(spread_tables(address, Spread(plan.cluster, plan.shard_table or plan.target)), plan.target)
    dealing = _by_sharding_key(server, target, plan, key) if key else None
    dealing = dealing or _by_hash(target, plan, key)
    return plan.model_copy(
        update={"dealing": dealing, "statements": tuple(_exact(target, one, dealing) for one in plan.statements)}
    )


def check_stable(plan: Plan, verdicts: Sequence[Verdict]) -> None:
    """
    Check that all columns by which rows are divided among the shards have repeatable values.

    Raises:
        RequestError: A column may have a different value each time the SELECT is executed.
    """
    if plan.dealing is None:
        return
    loose = {name for verdict in verdicts for name in (*verdict.unstable, *verdict.unordered)}
    if found := [name for name in plan.dealing.columns if name in loose]:
        raise RequestError(
            f"Rows are dealt out to the shards by {', '.join(plan.dealing.columns)}, and {found[0]} may have another "
            "value each time the SELECT is run.",
            remedy=Advice("write the SELECT so that it has the same each time, or {}", _BY_HAND),
        )


def sharding_key_of(keys: Mapping[TableName, str], target: TableName) -> str:
    """
    Return the sharding key by which the rows of a target are divided; empty if there is none.

    Args:
        keys: The sharding keys of the Distributed tables over the target, by name; *target* may be one of these tables.

    Raises:
        RequestError: The keys differ, and *target* is not one of the Distributed tables.
    """
    if target in keys:
        return keys[target]
    if len(set(keys.values())) > 1:
        shown = ", ".join(f"{name}: {key or 'none'}" for name, key in keys.items())
        raise RequestError(
            f"The Distributed tables over {target} have several sharding keys ({shown}), and rows are to be dealt out "
            "by one of them.",
            remedy=Advice("name the table: {}", Flag("--target", show_table(next(iter(keys))))),
        )
    return next(iter(keys.values()), "")


def _values(plan: Plan, statement: Statement) -> dict[str, str]:
    return parameter_settings(statement.parameters, plan.start, plan.end) if statement.parameters else {}


def _is_dealt(server: ClickHouse, target: TableFacts, statement: Statement, tree: Node) -> bool:
    """
    Return whether a statement gives the same rows on every shard, rather than each shard's own rows.

    Raises:
        RequestError: The tables that the statement reads do not show where its rows are stored.
    """
    if statement.source is not None and statement.source.database == TABLE_FUNCTION:
        return True
    if statement.source is not None:
        # Judge only the filtered tables; it does not matter where joined tables are stored.
        names = [statement.source, *(one.table for one in statement.also_filtered)]
        tree = query_tree.query_tree(server, reads_of(names))
    found = query_tree.sources(server, tree, (), target)
    nodes = [node for root in (tree, *(one.tree for one in found.values() if one.tree)) for node in root.walk()]
    functions = {node.name for node in nodes if node.kind == "TABLE_FUNCTION"} - _GENERATED
    engines = {one.engine for one in found.values()} - _NEUTRAL
    own = {engine for engine in engines if engine.endswith("MergeTree") or engine in _OWN}
    elsewhere = sorted((engines - own) | {f"{name}()" for name in functions})
    if elsewhere and (own or not _OPAQUE.isdisjoint(elsewhere)):
        raise RequestError(
            f"{statement.name} reads {' and '.join([*sorted(own), *elsewhere])}, so it is unknown whether it gives "
            "each shard's own rows or the same rows on every shard.",
            remedy=Advice(
                "read one table by its own name, or place the window by the table that the rows come from: {} without "
                "parameters",
                Flag("--filter-table", "database.table"),
            ),
        )
    return not own


def _by_sharding_key(server: ClickHouse, target: TableFacts, plan: Plan, key: str) -> Dealing | None:
    """
    Return the division that a Distributed table with the sharding key *key* makes; None if *key* is not repeatable.

    Raises:
        RequestError: The key is not an integer of up to 64 bits, uses a column that a statement does not fill, or uses
            a float column of a statement that is not row-wise, such as a sum of floats.
    """
    select = slot_select(key, target.storage)
    facts = catalog.select_facts(server, select)
    if facts.unstable:
        return None
    number = as_number(key, facts.columns[0].type)
    if number is None:
        raise RequestError(
            f"The sharding key {key} of {plan.target} is {facts.columns[0].type}, which is no integer of up to 64 "
            "bits, so nothing can be inserted through the table either."
        )
    used = dict.fromkeys(node.name for node in query_tree.query_tree(server, select).walk() if node.kind == "COLUMN")
    for statement in plan.statements:
        if missing := [name for name in used if name not in statement.columns]:
            raise RequestError(
                f"The sharding key {key} of {plan.target} is made of {', '.join(missing)}, which {statement.name} "
                "does not give, so the shard of a row is unknown.",
                remedy=Advice("give it in a {}", Flag("--select")),
            )
        if not statement.row_wise and (floats := [name for name in used if is_float(_type(target.columns, name))]):
            raise RequestError(
                f"The sharding key {key} of {plan.target} is made of {floats[0]}, whose last digits depend on the "
                "order of adding up: each shard could see another one.",
                remedy=_BY_HAND,
            )
    return Dealing(key=number, columns=tuple(used), sharding_key=key, follows=True)


def _by_hash(target: TableFacts, plan: Plan, key: str) -> Dealing:
    """
    Return a division by the product's own hash, for a target whose sharding key is missing or not repeatable.

    Raises:
        RequestError: The statements fill no column that the hash can use.
    """
    filled = set.intersection(*(set(statement.columns) for statement in plan.statements))
    columns = hashed_columns(target.columns, filled, has_key=bool(target.sorting_key))
    if not columns:
        raise RequestError(
            f"Nothing tells the rows of {plan.target} apart by which they could be dealt out to its shards: no column "
            "of its keys is filled that has the same value each time.",
            remedy=_BY_HAND,
        )
    return Dealing(key=row_hash(columns), columns=columns, sharding_key=key)


def _exact(target: TableFacts, statement: Statement, dealing: Dealing) -> Statement:
    """Return the statement with SQL for the stored values of the converted columns that *dealing* uses."""
    exact = {
        column.name: converted_value(column, null=column.name in statement.defaulted)
        for column in target.columns
        if column.name in dealing.columns and column.name in statement.converted
    }
    return statement.model_copy(update={"exact": exact})


def _type(columns: Sequence[Column], name: str) -> str:
    return next((column.type for column in columns if column.name == name), "")
