"""
The constants of a SELECT that differ in each chunk, where ``--param`` places the window.

Without bounds there is no SELECT of the whole window to compare with. A path, or a condition that a column equals
such a constant, takes each row for one chunk. Pure.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..query_tree import Node
from .lineage import Value, any_of


class Told(NamedTuple):
    """By what a read takes each row for one chunk: the table function, or nothing for a condition; and its texts."""

    how: str
    texts: tuple[str, ...]


# What their arguments say is no path, so other arguments may give the same rows.
FROM_NOWHERE = frozenset(
    {"numbers", "numbers_mt", "zeros", "zeros_mt", "generateSeries", "generate_series", "generateRandom", "values"}
)
NOTHING = Value("opaque")
"""The other side of a condition that is no equality."""
# Chunks that lie so far apart: a day of the month comes again, and an hour of the day or of the week.
_APART = (0, 1, 7, 12, 24, 28, 29, 30, 31, 168)


def sampled_chunks(count: int) -> list[int]:
    """Return the numbers of some chunks by which to see what follows the chunk, the first and the last included."""
    return sorted({number for number in _APART if number < count} | {count - 1})


def given_constants(trees: Sequence[Node]) -> dict[int, tuple[str, ...]]:
    """
    Return the constants that differ between the trees of one SELECT for several chunks: by their id, all their values.

    None where the trees are not alike otherwise.
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
    """Return whether these constants together have other values in each chunk."""
    values = list(zip(*(given[one] for one in ids), strict=True))
    return bool(values) and len(set(values)) == len(values)


def given_in(value: Value) -> frozenset[int]:
    """Return the ids of the constants that follow the chunk, of which a value is made."""
    found: set[int] = set()

    def collect(one: Value) -> bool:
        if one.what == "given":
            found.add(int(one.source))
        return False

    any_of(value, collect)
    return frozenset(found)


def conditions(value: Value) -> Iterator[tuple[Value, Value]]:
    """Return the two sides of each equality that a condition asks for; of anything else, it and nothing."""
    if value.what == "call" and value.name == "and":
        for arg in value.args:
            yield from conditions(arg)
    elif value.what == "call" and value.name == "equals" and len(value.args) == 2:
        yield value.args[0], value.args[1]
    else:
        yield value, NOTHING


def pinned_side(sides: tuple[Value, Value]) -> Value | None:
    """Return the side of an equality that is made of columns, where the other is the chunk's own and nothing else."""
    for side, other in (sides, sides[::-1]):
        if NOTHING not in sides and given_in(other) and not _has_columns(other) and _has_columns(side):
            return side if not given_in(side) else None
    return None


def _has_columns(value: Value) -> bool:
    return any_of(value, lambda one: one.what not in ("constant", "given", "call"))


def may_share_rows(one: Collection[Told], other: Collection[Told]) -> bool:
    """Return whether two reads may take one row for different chunks, as a look-back does."""
    if set(one) & set(other):
        # Both reads take the same rows for each chunk.
        return False
    paths = [told for told in (*one, *other) if told.how]
    return len(paths) < len(one) + len(other) or any(
        left == right for mine in one for theirs in other for left in mine.texts for right in theirs.texts
    )


def constants_of(nodes: Iterable[Node]) -> Iterator[int]:
    """Return the ids of the constants in expressions, those of queries and of constants in them left out."""
    todo = list(nodes)
    while todo:
        one = todo.pop()
        if one.kind == "CONSTANT":
            yield one.id
        elif one.kind not in ("QUERY", "UNION"):
            todo += [child for children in one.sections.values() for child in children]
