"""Judge conditions, and the steps that combine several rows: GROUP BY, DISTINCT, LIMIT BY and window functions."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import replace

from ...errors import Flag
from ..query_tree import Node
from .case import Kind
from .expressions import Expressions, is_uneven
from .lineage import Value, any_of, is_partial, literal_of, show
from .placed import Told, given_in, pinned_side, tells_chunks
from .rows import Cut, RefusedError, Rows, Shape, or_one_chunk, show_key

_IN_BLOCK = re.compile(
    r"neighbor|running(?:Difference\w*|Accumulate|Concurrency)|rowNumberIn(?:All)?Blocks?|blockSize|blockNumber",
    re.IGNORECASE,
)


class Steps(Expressions):
    """The part of the walk that judges conditions, and the steps in a query that combine several rows."""

    def _filter(self, rows: Rows, value: Value, title: str) -> None:
        self._note_chance([value])
        if rows.shape is Shape.GROUPED and is_partial(value):
            name, why = self._case.name, rows.why
            what = "HAVING" if title == "HAVING" else f"a {title} over a GROUP BY"
            raise RefusedError(
                Kind.STEP,
                f"{name} has {what} on a result that chunks have parts of: each chunk would hold its own part "
                f"against the condition. {why.message(name, 'the groups are cut') if why else ''}".strip(),
                or_one_chunk(
                    "group by a bucket of time that no chunk cuts, or leave the condition to those who read the target"
                ),
                why,
            )

    def _limited(self, rows: Rows, pairs: Iterable[tuple[Value, Value]]) -> Rows:
        """
        Return *rows*, limited by the conditions in *pairs*.

        Whole rows become parts if constants of ``--param``, in the conditions or in arguments of table functions,
        distinguish all sampled chunks. Note a doubt if the chunks are distinguished only with the constants of
        conditions that are not equalities between columns and a constant.

        Args:
            pairs: The two sides of each equality; for any other condition, the condition and
                :data:`.placed.NOTHING`.
        """
        by, perhaps = set(self._partly), set[int]()
        for pair in pairs:
            ids = given_in(pair[0]) | given_in(pair[1])
            side = pinned_side(pair)
            if side is None:
                perhaps |= ids
            else:
                by |= ids
                self._pinned[side] = self._pinned.get(side, frozenset()) | ids
        if rows.shape is not Shape.WHOLE or not by | perhaps:
            return rows
        if not tells_chunks(self._case.given, by | perhaps):
            return rows
        if not tells_chunks(self._case.given, by):
            self.doubts.append(f"whether the conditions of {self._case.name} take each row for one chunk alone")
        told = frozenset(Told("", self._case.given[one]) for one in by)
        return replace(rows, shape=Shape.PARTS, told=told)

    def _of_one_chunk(self, values: Sequence[Value]) -> bool:
        """Return whether rows that agree in these values belong to one chunk, according to ``--param``."""
        ids = [given_in(value) if value.what == "given" else self._pinned.get(value, ()) for value in values]
        return tells_chunks(self._case.given, {one for each in ids for one in each})

    def _aggregate(self, node: Node, rows: Rows, place: str) -> Rows:
        keys = node.list("GROUP BY")
        calls = _calls(node, "aggregate")
        if not keys and not calls:
            return rows
        if rows.shape is Shape.WHOLE:
            return rows
        self.row_wise = False
        sets = "group_by_type: grouping_sets" in node.rest
        lists = [list_items(item) for item in keys] if sets else [keys]
        for kind in ("rollup", "cube"):
            if f"group_by_type: {kind}" in node.rest:
                raise self._totals(kind.upper())
        if "is_group_by_with_totals: 1" in node.rest:
            raise self._totals("TOTALS")
        cuts = []
        for items in lists:
            values = [self._value(item, place, rows) for item in items]
            self._note_chance(values)
            cut = self._cut(rows, "GROUP BY", values, [_text(item) for item in items])
            cuts.append(cut)
            if rows.shape is Shape.GROUPED and any(is_partial(value) for value in values):
                raise self._of_parts("GROUP BY")
        cut = next((one for one in cuts if one is not None), None)
        if sets and cut is not None:
            raise self._totals("GROUPING SETS")
        if cut is None:
            # Each group belongs to one chunk, so the results of the group are final.
            return replace(rows, shape=Shape.PARTS, why=None, over="")
        over = [] if keys else ["over all"]
        over += ["over parts"] if rows.shape is Shape.GROUPED else []
        return Rows(Shape.GROUPED, rows.columns, cut, ", ".join(over))

    def _totals(self, what: str) -> RefusedError:
        return RefusedError(
            Kind.STEP,
            f"{self._case.name} has {what}, whose rows over several groups need the rows of other chunks.",
            or_one_chunk("group by the keys alone and make the totals when the target is read"),
        )

    def _cut(self, rows: Rows, what: str, values: Sequence[Value], texts: Sequence[str]) -> Cut | None:
        """
        Return how chunks cut the groups of these keys.

        If each group belongs to one chunk, note the keys in the steps and return None.

        Args:
            what: The step that has the keys, such as ``GROUP BY``.
            values: The resolved keys.
            texts: The keys as SQL for a message.

        Raises:
            UnknownKeyError: The verdict needs facts about a time key.
        """
        keys = ", ".join(texts) or "of all rows"
        if rows.shape is Shape.GROUPED:
            return rows.why._replace(what=what, keys=keys) if rows.why else Cut(what, keys, (), None)
        if self._case.given:
            if self._of_one_chunk(values):
                self.steps.append(f"{what} {keys}: its groups are each of one chunk, as --param makes it")
                return None
            return Cut(what, keys, (), None, placed=True)
        key = self.time_key(values)
        if not key:
            return Cut(what, keys, (), None)
        even = self.time_key([value for value in values if not any_of(value, is_uneven)])
        if even and even != key and self._fits(even):
            key = even
        if self._holds_together(key):
            self.steps.append(f"{what} {keys}: each bucket of {show_key(key)} lies in a single chunk")
            return None
        return Cut(what, keys, key, self._buckets[key])

    def _distinct(self, rows: Rows, what: str) -> Rows:
        if rows.shape is Shape.WHOLE:
            return rows
        self.row_wise = False
        values = list(rows.columns.values())
        if rows.shape is Shape.GROUPED and any(is_partial(value) for value in values):
            raise self._of_parts(what)
        cut = self._cut(rows, what, values, [show(value) for value in values])
        return rows if cut is None else Rows(Shape.GROUPED, rows.columns, cut)

    def _limit_by(self, node: Node, rows: Rows, place: str) -> None:
        if rows.shape is Shape.WHOLE:
            return
        self.row_wise = False
        items = node.list("LIMIT BY")
        values = [self._value(item, place, rows) for item in items]
        cut = self._cut(rows, "LIMIT BY", values, [_text(item) for item in items])
        if cut is not None:
            raise RefusedError(
                Kind.STEP,
                cut.message(self._case.name, "a chunk does not see the rows of the others"),
                or_one_chunk("add a bucket of time to the keys"),
                cut,
            )

    def _windows(self, node: Node, rows: Rows, place: str) -> None:
        beside = [call.name for call in _calls(node, "ordinary") if _IN_BLOCK.fullmatch(call.name)]
        if beside and rows.shape is not Shape.WHOLE:
            raise RefusedError(
                Kind.STEP,
                f"{self._case.name} has {beside[0]}, which looks at the rows beside a row as they happen to be read: "
                "a chunk does not see the rows of the others.",
                or_one_chunk("use a window function that is partitioned by a bucket of time"),
            )
        for call in _calls(node, "window"):
            if rows.shape is Shape.WHOLE:
                return
            self.row_wise = False
            window = call.one("WINDOW")
            items = window.list("PARTITION BY") if window is not None else ()
            values = [self._value(item, place, rows) for item in items]
            cut = self._cut(rows, "a window function over", values, [_text(item) for item in items])
            if cut is not None:
                raise RefusedError(
                    Kind.STEP,
                    cut.message(self._case.name, "a chunk does not see the rows of the others"),
                    or_one_chunk("partition by a bucket of time as well"),
                    cut,
                )

    def _two_moving(self, what: str) -> RefusedError:
        return RefusedError(
            Kind.STEP,
            f"{self._case.name} has a {what} of two sides that are both limited to the chunk: "
            "rows that lie in different chunks would not find each other.",
            or_one_chunk(
                "join by the same bucket of time on both sides, or limit one side only and let {} read the other",
                Flag("--whole-table"),
            ),
        )


def list_items(node: Node) -> tuple[Node, ...]:
    """Return the items of a list node; for any other node, the node alone."""
    return node.sections.get("", ()) if node.kind == "LIST" else (node,)


def _calls(node: Node, how: str) -> list[Node]:
    """
    Return the calls of one type in a query's clauses, each call once.

    Calls in FROM, GROUP BY, LIMIT, subqueries and constants are left out.

    Args:
        how: The type of the calls: ``ordinary``, ``aggregate`` or ``window``.
    """
    found: dict[int, Node] = {}
    titles = ("PREWHERE", "WHERE", "PROJECTION", "HAVING", "QUALIFY", "ORDER BY", "LIMIT BY", "INTERPOLATE")
    todo = [child for title in titles for child in node.sections.get(title, ())]
    while todo:
        one = todo.pop()
        if one.kind in ("QUERY", "UNION", "CONSTANT"):
            continue
        if one.kind == "FUNCTION" and one.fields.get("kind") == how:
            found.setdefault(one.id, one)
        todo += [child for children in one.sections.values() for child in children]
    return list(found.values())


def _text(node: Node) -> str:
    """Return an expression of a query tree as SQL for a message."""
    if node.kind == "FUNCTION":
        return f"{node.name}({', '.join(map(_text, node.list('ARGUMENTS')))})"
    if node.kind == "CONSTANT":
        return literal_of(node) or node.name
    return node.name or node.kind.lower()
