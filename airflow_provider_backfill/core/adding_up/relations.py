"""Walk a SELECT from its tables upwards: queries, unions and joins."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from itertools import combinations

from ...errors import Advice, Flag
from ..query_tree import Node
from ..tables import TABLE_FUNCTION, TableName
from .case import Kind, Read
from .lineage import Value, is_partial, show
from .placed import FROM_NOWHERE, Told, conditions, constants_of, may_share_rows, tells_chunks
from .rows import ONE_CHUNK, RefusedError, Rows, Shape, TableColumns, or_one_chunk, show_key
from .steps import Steps, list_items


class Walk(Steps):
    """The walk over the relations of a SELECT. The walk keeps the columns of each relation."""

    def relation(self, node: Node, place: str) -> Rows:
        """
        Return the rows of a node: a table, a table function, a query, a union, a join or an ARRAY JOIN.

        For any other node, note a doubt and return parts without columns.

        Args:
            place: A prefix that makes node ids unique, because each view has a query tree of its own.

        Raises:
            RefusedError: A step does not add up.
            UnknownKeyError: The facts of a time key are still unknown.
        """
        match node.kind:
            case "QUERY":
                rows = self._query(node, place)
            case "UNION":
                rows = self._union(node, place)
            case "TABLE":
                rows = self._table(node, place)
            case "TABLE_FUNCTION":
                name = TableName(TABLE_FUNCTION, node.name)
                if name in self._case.filters:
                    self.reads.append(Read(name, f"limited to the chunk by {self._case.filters[name]}"))
                    return self._seen(Rows(Shape.PARTS, TableColumns(name, f"{place}{node.id}")), node, place)
                if not place and (ids := set(constants_of(node.list("ARGUMENTS"))) & self._case.given.keys()):
                    if tells_chunks(self._case.given, ids):
                        self.reads.append(Read(name, "by arguments of the chunk's own"))
                        if node.name in FROM_NOWHERE:
                            self.doubts.append(f"whether {node.name}() gives each row for one chunk alone")
                        told = frozenset(Told(node.name, self._case.given[one]) for one in ids)
                        rows = Rows(Shape.PARTS, TableColumns(name, f"{node.id}"), told=told)
                        return self._seen(rows, node, place)
                    self._partly |= ids
                queries = [
                    self.relation(one, place) for one in node.list("ARGUMENTS") if one.kind in ("QUERY", "UNION")
                ]
                rows = (
                    queries[0]
                    if queries
                    else Rows(Shape.WHOLE, TableColumns(name, f"{place}{node.id}") if self._case.given else {})
                )
            case "JOIN":
                rows = self._join(node, place)
            case "CROSS JOIN" | "CROSS_JOIN":
                rows = self._cross(node, place)
            case "ARRAY_JOIN":
                rows = self._array_join(node, place)
            case _:
                self.doubts.append(f"a step {node.kind.lower()} that the rules do not know")
                rows = Rows(Shape.PARTS, {})
        return self._seen(rows, node, place)

    def _seen(self, rows: Rows, node: Node, place: str) -> Rows:
        self._given[f"{place}{node.id}"] = rows.columns
        return rows

    def _table(self, node: Node, place: str) -> Rows:
        case = self._case
        source = case.sources.get(node.name)
        if source is None:
            # No source has this name. For example, the name stands for the previous rows of a recursive CTE.
            return Rows(Shape.WHOLE, {})
        at = f"{place}{node.id}"
        if source.name in case.filters:
            sample = node.fields.get("sample", "1")
            # The tree shows a share as "1 / 10"; "1" stands for all rows. Any other sample is a number of rows, which
            # the server would take from each chunk.
            if "/" not in sample and sample != "1":
                raise RefusedError(
                    Kind.STEP,
                    f"{case.name} has SAMPLE {sample}, a number of rows that each chunk would have.",
                    or_one_chunk("write the sample as a share, such as SAMPLE 1 / 10"),
                )
            column = case.filters[source.name]
            self.reads.append(Read(source.name, f"limited to the chunk by {column}"))
            return Rows(Shape.PARTS, TableColumns(source.name, at))
        if source.tree is not None:
            rows = self.relation(source.tree, f"{at}/")
            return replace(rows, columns=dict(rows.columns))
        if source.opaque:
            self.doubts.append(f"{source.name} cannot be looked into")
            return Rows(Shape.PARTS, TableColumns(source.name, at))
        said = "whole, as --whole-table says" if source.name in case.whole else "whole in every chunk"
        if case.given and source.name not in case.whole:
            said = "as the SELECT limits it"
        self.reads.append(Read(source.name, said))
        return Rows(Shape.WHOLE, TableColumns(source.name, at))

    def _query(self, node: Node, place: str) -> Rows:
        below = node.one("JOIN TREE")
        rows = self.relation(below, place) if below is not None else Rows(Shape.WHOLE, {})
        limits: list[tuple[Value, Value]] = []
        for title in ("PREWHERE", "WHERE"):
            for condition in node.sections.get(title, ()):
                value = self._value(condition, place)
                self._filter(rows, value, title)
                limits += conditions(value)
        rows = self._limited(rows, limits)
        rows = self._aggregate(node, rows, place)
        for condition in node.sections.get("HAVING", ()):
            self._filter(rows, self._value(condition, place, rows), "HAVING")
        self._windows(node, rows, place)
        for condition in node.sections.get("QUALIFY", ()):
            self._filter(rows, self._value(condition, place, rows), "QUALIFY")
        projection = node.list("PROJECTION")
        names = [_column_name(text, column.type) for text, column in zip(node.columns, projection, strict=False)]
        columns = {name: self._value(column, place, rows) for name, column in zip(names, projection, strict=False)}
        for sort in node.list("ORDER BY"):
            for key in sort.sections.get("EXPRESSION", ()):
                self._value(key, place, rows)
            if "with_fill: 1" in sort.rest and rows.shape is not Shape.WHOLE:
                raise RefusedError(
                    Kind.STEP,
                    f"{self._case.name} has ORDER BY … WITH FILL, which fills gaps by the rows it sees: each chunk "
                    "would fill its own, and the gaps at its bounds stay or are filled twice.",
                    or_one_chunk("fill the gaps when the target is read"),
                )
        rows = replace(rows, columns=columns)
        if "is_distinct: 1" in node.rest:
            rows = self._distinct(rows, "DISTINCT")
        if node.sections.get("LIMIT BY"):
            self._limit_by(node, rows, place)
        limited = node.sections.get("LIMIT") or node.sections.get("OFFSET")
        if limited and not node.list("ORDER BY"):
            self.chance.append("LIMIT")
        if limited and rows.shape is not Shape.WHOLE:
            raise RefusedError(
                Kind.STEP,
                f"{self._case.name} has a LIMIT, which each chunk would apply to its own rows.",
                or_one_chunk("omit the LIMIT, or use LIMIT BY with a bucket of time"),
            )
        return rows

    def _union(self, node: Node, place: str) -> Rows:
        mode = node.fields.get("kind", "")
        recursive = "is_recursive_cte: 1" in node.rest
        branches = [self.relation(branch, place) for branch in node.list("QUERIES")]
        moving = [rows for rows in branches if rows.shape is not Shape.WHOLE]
        if not moving:
            return Rows(Shape.WHOLE, dict(branches[0].columns) if branches else {})
        if recursive:
            raise RefusedError(
                Kind.STEP,
                f"{self._case.name} has a recursive WITH over a filtered table, which would continue only "
                "within a chunk.",
                ONE_CHUNK,
            )
        if len(moving) < len(branches) and (mode.startswith("UNION") or branches[0].shape is Shape.WHOLE):
            raise RefusedError(
                Kind.READ,
                f"{self._case.name} has {mode.replace('_', ' ')} with a branch that the window does not limit: "
                "every chunk would give the rows of that branch again.",
                Advice(
                    "name the table of each branch: {} {}",
                    Flag("--filter-table", "db.a=column"),
                    Flag("--filter-table", "db.b=column"),
                ),
            )
        at = f"{place}{node.id}"
        columns = {
            name: Value("either", args=tuple(values), source=at, type=values[0].type)
            for name, *values in zip(branches[0].columns, *(rows.columns.values() for rows in moving), strict=False)
        }
        if self._case.given and any(may_share_rows(one.told, other.told) for one, other in combinations(moving, 2)):
            self.doubts.append(f"whether the branches of a UNION of {self._case.name} give each row in one chunk alone")
        grouped = next((rows for rows in moving if rows.shape is Shape.GROUPED), None)
        told = moving[0].told
        rows = Rows(Shape.PARTS, columns, told=told) if grouped is None else replace(grouped, columns=columns)
        if mode == "UNION_ALL":
            return rows
        what = mode.replace("_", " ")
        # If several branches are limited to the chunk, equal rows of different chunks would not meet. EXCEPT ALL and
        # INTERSECT ALL count equal rows, so each chunk would use the rows of a whole branch again.
        if not mode.startswith("UNION") and (len(moving) > 1 or mode.endswith("_ALL")):
            values = list(columns.values())
            if (cut := self._cut(rows, what, values, [show(value) for value in values])) is not None:
                raise RefusedError(
                    Kind.STEP,
                    cut.message(self._case.name, "a chunk does not see the rows of the others"),
                    or_one_chunk("select a bucket of time in each branch as well"),
                    cut,
                )
        return self._distinct(rows, what)

    def _array_join(self, node: Node, place: str) -> Rows:
        below = node.one("TABLE EXPRESSION")
        rows = self.relation(below, place) if below is not None else Rows(Shape.WHOLE, {})
        columns = dict(rows.columns)
        for column in node.list("JOIN EXPRESSIONS"):
            inner = column.one("EXPRESSION")
            value = self._value(inner, place, rows) if inner is not None else Value("opaque")
            if is_partial(value):
                raise self._of_parts("ARRAY JOIN")
            columns[column.name] = Value("opaque", "arrayJoin", column.type, (value,))
        return replace(rows, columns=columns)

    def _cross(self, node: Node, place: str) -> Rows:
        sides = [self.relation(side, place) for side in node.sections.get("TABLE EXPRESSION", ())]
        moving = [rows for rows in sides if rows.shape is not Shape.WHOLE]
        if len(moving) > 1:
            raise self._two_moving("comma or CROSS JOIN")
        return replace(moving[0], columns={}) if moving else Rows(Shape.WHOLE, {})

    def _join(self, node: Node, place: str) -> Rows:
        kind, strictness = node.fields.get("kind", ""), node.fields.get("strictness", "")
        left, right = (
            self.relation(side, place)
            for title in ("LEFT TABLE EXPRESSION", "RIGHT TABLE EXPRESSION")
            for side in node.sections.get(title, ())[:1]
        )
        pairs = list(self._pairs(node, place))
        self.pairs += pairs
        self._note_chance(value for pair in pairs for value in pair)
        what = f"{strictness + ' ' if strictness not in ('ALL', 'Unspecified') else ''}{kind} JOIN"
        columns: dict[str, Value] = {}
        for column in node.list("JOIN EXPRESSION"):
            if column.kind == "COLUMN":
                # With USING, take the column of the side that the join never fills with defaults.
                sides = [
                    self._value(side, place)
                    for item in column.sections.get("EXPRESSION", ())
                    for side in list_items(item)
                ]
                if kind in ("INNER", "LEFT") and sides:
                    columns[column.name] = sides[0]
                elif kind == "RIGHT" and sides:
                    columns[column.name] = sides[-1]
                else:
                    columns[column.name] = Value("opaque", "using", column.type, tuple(sides))
        if left.shape is Shape.WHOLE and right.shape is Shape.WHOLE:
            return self._limited(Rows(Shape.WHOLE, columns), pairs if kind == "INNER" else ())
        if left.shape is not Shape.WHOLE and right.shape is not Shape.WHOLE:
            if kind == "PASTE" or Shape.GROUPED in (left.shape, right.shape) or not self._same_bucket(pairs):
                raise self._two_moving(what)
            self.row_wise = False
            self._blur(node, place, left=kind in ("RIGHT", "FULL"), right=kind in ("LEFT", "FULL"))
            return Rows(Shape.PARTS, columns)
        moves_left = left.shape is not Shape.WHOLE
        rows = left if moves_left else right
        fine = {
            True: {("INNER", "ALL"), ("INNER", "ASOF")} | {("LEFT", s) for s in ("ALL", "ANY", "SEMI", "ANTI", "ASOF")},
            False: {("INNER", "ALL")} | {("RIGHT", s) for s in ("ALL", "ANY", "SEMI", "ANTI")},
        }[moves_left]
        if (kind, "ALL" if strictness == "Unspecified" else strictness) not in fine and kind not in ("CROSS", "COMMA"):
            order = "the table that is read whole comes first" if not moves_left else "the filtered table comes first"
            raise RefusedError(
                Kind.READ,
                f"{self._case.name} has {what} where {order}: rows that find no match in a chunk, or one match of "
                "several, would be given once for each chunk.",
                or_one_chunk(
                    "put the filtered table on the left of a LEFT JOIN, or use an INNER JOIN, or choose the other "
                    "table with {}",
                    Flag("--filter-table"),
                ),
            )
        if rows.shape is Shape.GROUPED and any(is_partial(value) for pair in pairs for value in pair):
            raise self._of_parts(what)
        return replace(rows, columns=columns)

    def _blur(self, node: Node, place: str, *, left: bool, right: bool) -> None:
        """Forget where columns come from, for each side whose columns the join may fill with defaults."""
        for blur, title in ((left, "LEFT TABLE EXPRESSION"), (right, "RIGHT TABLE EXPRESSION")):
            for side in node.sections.get(title, ()) if blur else ():
                for below in side.walk():
                    self._given.pop(f"{place}{below.id}", None)

    def _pairs(self, node: Node, place: str) -> Iterator[tuple[Value, Value]]:
        """
        Yield the two sides of each equality in a join condition or in USING.

        For a condition that is not an equality, yield the condition and an opaque value.
        """
        todo = list(node.list("JOIN EXPRESSION"))
        while todo:
            item = todo.pop(0)
            if item.kind == "COLUMN":
                sides = [
                    self._value(side, place)
                    for below in item.sections.get("EXPRESSION", ())
                    for side in list_items(below)
                ]
                if len(sides) == 2:
                    yield sides[0], sides[1]
            elif item.kind == "FUNCTION" and item.name == "and":
                todo += item.list("ARGUMENTS")
            elif item.kind == "FUNCTION" and item.name == "equals":
                one, two = (self._value(side, place) for side in item.list("ARGUMENTS"))
                yield one, two
            else:
                # In a condition that is not an equality, rows with different values may match.
                yield self._value(item, place), Value("opaque")

    def _same_bucket(self, pairs: Sequence[tuple[Value, Value]]) -> bool:
        """Return whether an equality in *pairs* joins only rows of the same chunk; if so, note this as a step."""
        keys = ((self.time_key((left,)), self.time_key((right,))) for left, right in pairs)
        for one, two in keys:
            key = tuple(sorted({*one, *two}))
            if one and two and self._holds_together(key):
                self.steps.append(
                    f"both sides of the join are limited, and joined by {show_key(key)}, which no chunk cuts"
                )
                return True
        return False


def _column_name(text: str, kind: str) -> str:
    if kind and text.endswith(f" {kind}"):
        return text[: -len(kind) - 1]
    return text.rsplit(" ", 1)[0]
