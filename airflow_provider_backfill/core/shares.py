"""
Write SQL for a shard's share of the rows of a SELECT, where a row's values decide its shard.

:mod:`.dealing` chooses the key. This module is separate, so that reading a plan imports little. This module is pure.
"""

from collections.abc import Mapping, Sequence

from .model import Model
from .names import quote


class Dealing(Model):
    """
    The key that decides the shard of a row.

    Attributes:
        key: SQL for an integer over the target's columns. This integer modulo the number of slots is the row's slot.
        columns: The columns in *key*.
        sharding_key: The sharding key of the Distributed table; empty if there is none.
        follows: Whether *key* is that sharding key, so that each row is where an INSERT through the table would put it.
    """

    key: str
    columns: tuple[str, ...]
    sharding_key: str = ""
    follows: bool = False

    def share(self, weights: Mapping[int, int], shard: int) -> str:
        """
        Return the condition for the rows of a shard.

        Args:
            weights: The number of slots of each shard, by shard number. Slots are numbered from 0, in the order of the
                shard numbers.
        """
        first = sum(weight for number, weight in weights.items() if number < shard)
        slot, end = f"({self.key}) % {max(sum(weights.values()), 1)}", first + weights[shard]
        return f"{slot} = {first}" if end == first + 1 else f"{slot} >= {first} AND {slot} < {end}"


def share_of(select: str, columns: Sequence[str], exact: Mapping[str, str], share: str) -> str:
    """
    Return a SELECT of those rows of *select* for which the condition *share* holds.

    Args:
        columns: The columns to return.
        exact: By column, SQL for the value that an INSERT stores, if the SELECT's value differs.
    """
    values = ", ".join(f"{exact[name]} AS {quote(name)}" if name in exact else quote(name) for name in columns)
    names = ", ".join(map(quote, columns))
    return f"SELECT {names} FROM (SELECT {values} FROM (\n{select}\n)) WHERE {share}"  # noqa: S608 - names are quoted
