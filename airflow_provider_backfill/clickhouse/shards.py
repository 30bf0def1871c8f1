"""What a Distributed table is spread over, and on which shards a local table is."""

import re
from typing import NamedTuple

from ..core.facts import TableFacts
from ..core.sql import literal
from ..core.tables import TableName
from ..errors import StatementRefusedError
from .client import ClickHouse

_TEXT = r"'((?:[^'\\]|\\.)*)'"
_DISTRIBUTED = re.compile(rf"^Distributed\({_TEXT}, {_TEXT}, {_TEXT}")


class Spread(NamedTuple):
    """The cluster of a Distributed table, and the local table on its shards."""

    cluster: str
    local: TableName


def spread_of(table: TableFacts) -> Spread | None:
    """Return what a Distributed table is spread over; None for any other table."""
    match = _DISTRIBUTED.match(table.engine_full)
    if match is None:
        return None
    cluster, database, name = (re.sub(r"\\(.)", r"\1", text) for text in match.groups())
    return Spread(cluster, TableName(database, name))


def shards_with(server: ClickHouse, cluster: str, table: TableName) -> int:
    """
    Count the shards of *cluster* that have *table*, where this server is one of them; 1 where it is none.

    Where the shards cannot be asked, all of the cluster's are counted.

    Raises:
        ServerUnreachableError: This server could not be reached.
    """
    about = f"SELECT max(is_local), uniqExact(shard_num) FROM system.clusters WHERE cluster = {literal(cluster)}"
    member, shards = server.numbers(about)
    if not member or shards < 2:
        return 1
    try:
        (found,) = server.numbers(
            f"SELECT uniqExact(shardNum()) FROM cluster({literal(cluster)}, system.tables)"
            f" WHERE database = {literal(table.database)} AND name = {literal(table.table)}"
        )
    except StatementRefusedError:
        return shards
    return found
