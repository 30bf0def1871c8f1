"""
Judge the constants of a SELECT that differ between chunks, where ``--param`` places the window.

Such a constant is made from a bound of the chunk, so no SELECT covers the whole window. Instead, an argument of a table
function, such as a path, or a condition ``column = constant`` assigns each row to one chunk. This module is pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..query_tree import Node
from .lineage import Value, any_of


class Told(NamedTuple):
    """
    How a constant assigns the rows of a read to chunks.

    Attributes:
        how: The table function that has the constant as an argument; empty if the constant is in a condition.
        texts: The constant's value in each sampled chunk.
    """

    how: str
    texts: tuple[str, ...]


# Table functions that generate rows from their arguments. Different arguments may give the same rows.
FROM_NOWHERE = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateSeries", "generate_series", "generateRandom", "values"}
)
NOTHING = Value("opaque")
"""The placeholder for the second side of a condition other than an equality."""
# Numbers of the chunks to sample. Counted from chunk 0, an hour of the day, a day of the week or a day of the month may
# repeat in these chunks.
_APART = (0, 1, 7, 12, 24, 28, 29, 30, 31, 168)


def sampled_chunks(count: int) -> list[int]:
    """Return the numbers, from 0, of the chunks whose constants are compared, including the first and the last."""
    return sorted({number for number in _APART if number < count} | {count - 1})


def given_constants(trees: Sequence[Node]) -> dict[int, tuple[str, ...]]:
    """
    Return the constants that differ between the query trees of several chunks.

    Returns:
        For each constant's id, the value in each tree, in the order of *trees*. Empty if the trees are equal, or differ
        in more than the values of constants.
    """
    given: dict[int, tuple[str, ...]] = {}
    walks = [list(tree.walk()) for tree in trees]
    if len({len(nodes) for nodes in walks}) != 1:
        return {}
    for nodes in zip(*walks, strict=True):
        if len({(node.kind, node.id, "" if node.kind == "CONSTANT" else node.name) for node in nodes}) != 1:
            return {}
        texts = tuple(node.name for node in nodes)
        if nodes[0].kind == "CONSTANT" and len(set(texts)) > 1:
            given[nodes[0].id] = texts
    return given


def tells_chunks(given: Mapping[int, tuple[str, ...]], ids: Collection[int]) -> bool:
    """Return whether the constants *ids* together distinguish all sampled chunks; False without constants."""
    values = list(zip(*(given[one] for one in ids), strict=True))
    return bool(values) and len(set(values)) == len(values)


def given_in(value: Value) -> frozenset[int]:
    """Return the ids of the chunk-dependent constants in a value."""
    found: set[int] = set()

    def collect(one: Value) -> bool:
        if one.what == "given":
            found.add(int(one.source))
        return False

    any_of(value, collect)
    return frozenset(found)


def conditions(value: Value) -> Iterator[tuple[Value, Value]]:
    """
    Yield the two sides of each equality in a condition.

    The operands of ``and`` are separate conditions. For a condition that is not an equality, yield the condition and
    :data:`NOTHING`.
    """
    if value.what == "call" and value.name == "and":
        for arg in value.args:
            yield from conditions(arg)
    elif value.what == "call" and value.name == "equals" and len(value.args) == 2:
        yield value.args[0], value.args[1]
    else:
        yield value, NOTHING


def pinned_side(sides: tuple[Value, Value]) -> Value | None:
    """
    Return the side of an equality that equals a constant of the chunk.

    Returns:
        The side that has columns and no such constant, if the other side has such a constant and no columns; otherwise
        None.
    """
    for side, other in (sides, sides[::-1]):
        if NOTHING not in sides and given_in(other) and not _has_columns(other) and _has_columns(side):
            return side if not given_in(side) else None
    return None


def _has_columns(value: Value) -> bool:
    return any_of(value, lambda one: one.what not in ("constant", "given", "call"))


def may_share_rows(one: Collection[Told], other: Collection[Told]) -> bool:
    """Return whether two reads may assign one row to different chunks, as reads of the same and the previous day do."""
    if set(one) <= set(other) or set(other) <= set(one):
        # All constants of one read are also constants of the other read, so both reads assign a row to the same chunk.
        # One common constant is not enough, because the same hour of two days lies in two chunks.
        return False
    paths = [told for told in (*one, *other) if told.how]
    return len(paths) < len(one) + len(other) or any(
        left == right for mine in one for theirs in other for left in mine.texts for right in theirs.texts
    )


def constants_of(nodes: Iterable[Node]) -> Iterator[int]:
    """Yield the ids of the constants in expressions, but not of constants in subqueries or inside other constants."""
    todo = list(nodes)
    while todo:
        one = todo.pop()
        if one.kind == "CONSTANT":
            yield one.id
        elif one.kind not in ("QUERY", "UNION"):
            todo += [child for children in one.sections.values() for child in children]
