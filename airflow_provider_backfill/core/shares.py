"""
The share of a shard in the rows of a SELECT, where rows are dealt out by their values.

:mod:`.dealing` chooses the key. Apart from it, so that reading a plan takes none of what the choice looks at. Pure.
"""

from collections.abc import Mapping, Sequence

from .model import Model
from .names import quote


class Dealing(Model):
    """
    The key that decides a row's shard.

    Attributes:
        key: SQL over the target's columns: an integer, whose remainder by the number of slots is a row's slot.
        columns: The columns that *key* is made of.
        sharding_key: The sharding key of the Distributed table; empty where it has none.
        follows: Whether *key* is that one, so that rows are where an INSERT through the table would put them.
    """

    key: str
    columns: tuple[str, ...]
    sharding_key: str = ""
    follows: bool = False

    def share(self, weights: Mapping[int, int], shard: int) -> str:
        """Return the condition for a row of a shard, whose slots follow those of the shards before it."""
        first = sum(weight for number, weight in weights.items() if number < shard)
        slot, end = f"({self.key}) % {max(sum(weights.values()), 1)}", first + weights[shard]
        return f"{slot} = {first}" if end == first + 1 else f"{slot} >= {first} AND {slot} < {end}"


def share_of(select: str, columns: Sequence[str], exact: Mapping[str, str], share: str) -> str:
    """
    Return SQL for the rows of a SELECT that meet the condition *share*.

    Args:
        exact: By column, SQL for the value that an INSERT makes of it.
    """
    values = ", ".join(f"{exact[name]} AS {quote(name)}" if name in exact else quote(name) for name in columns)
    names = ", ".join(map(quote, columns))
    return f"SELECT {names} FROM (SELECT {values} FROM (\n{select}\n)) WHERE {share}"  # noqa: S608 - names are quoted
