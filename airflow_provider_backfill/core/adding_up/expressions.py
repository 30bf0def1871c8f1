"""Resolve the expressions of a query to columns, and find expressions that depend on time alone."""

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence

from ..names import quote
from ..query_tree import Node
from ..tables import TableName
from .case import BucketFacts, BucketKey, Case, Kind, Read, TimeExpression
from .lineage import BARE_NAME, UNSTABLE, Value, any_of, is_partial, is_unstable, literal_of, of_branch
from .rows import RefusedError, Rows, Shape, TableColumns, UnknownKeyError, or_one_chunk

# Names of functions whose values change so regularly over time that samples show whether chunks share a value. The
# samples are taken at intervals of 15 minutes or more.
_EVEN = re.compile(
    r"_?CAST|tuple|plus|minus|multiply|divide|intDiv|negate|floor|concat|substring|leftPad|materialize|identity"
    r"|to(?:String|TimeZone|Nullable|LowCardinality|U?Int\d+|Float\d+|Decimal\d+|Date\w*|Interval\w+|StartOf\w+|Monday"
    r"|LastDayOf\w+|Relative\w+|UnixTimestamp\w*|YYYY\w+|Year\w*|Quarter|Month|Week|ISO\w+|Day\w+|Hour|Minute|Second)"
    r"|(?:from)?Unix\w+|formatDateTime\w*|date_?(?:Trunc|Name|Diff)|monthName|timeSlot|(?:add|subtract)[A-Z]\w+"
    r"|DateTime\w*|Date32|Decimal|Nullable|LowCardinality|year|quarter|month|week|yearWeek|day\w*|hour|minute|second",
    re.IGNORECASE,
)

_CALLED = re.compile(r"\b(\w{1,80})\(")


class Expressions(ABC):
    """The part of the walk that resolves expressions, with the columns of the relations that were walked before."""

    def __init__(self, case: Case, buckets: Mapping[BucketKey, BucketFacts]) -> None:
        self._case, self._buckets = case, buckets
        self._given: dict[str, dict[str, Value]] = {}
        self.reads: list[Read] = []
        self.steps: list[str] = []
        self.doubts: list[str] = []
        self.waived: list[str] = []
        self.pairs: list[tuple[Value, Value]] = []
        self.chance: list[str] = []
        # The values that --param makes equal in all rows of a chunk. Each value has the ids of the constants that fix
        # the value.
        self._pinned: dict[Value, frozenset[int]] = {}
        self._partly: set[int] = set()
        self.row_wise = True

    @abstractmethod
    def relation(self, node: Node, place: str) -> Rows:
        """
        Return the rows of a node: a table, a table function, a query, a union, a join or an ARRAY JOIN.

        Args:
            place: A prefix that makes node ids unique, because each view has a query tree of its own.

        Raises:
            RefusedError: A step does not add up.
            UnknownKeyError: The facts of a time key are still unknown.
        """

    def _value(self, node: Node, place: str, rows: Rows | None = None) -> Value:
        """
        Return the value of an expression, resolved to columns of tables.

        Args:
            rows: The rows that the expression is evaluated on. If the rows are grouped, several chunks may have a part
                of an aggregate's result. None for expressions without such aggregates, as in WHERE.

        Raises:
            RefusedError: A subquery in the expression is refused, or ``arrayJoin`` is applied to parts.
            UnknownKeyError: The facts of a time key in a subquery are still unknown.
        """
        match node.kind:
            case "COLUMN":
                return self._column(node, place, rows)
            case "CONSTANT":
                # The server has already evaluated scalar subqueries and now(), and keeps their nodes in the constant.
                for below in _above_queries(node):
                    if below.kind in ("QUERY", "UNION"):
                        self._subquery(below, place)
                    elif below.kind == "FUNCTION" and UNSTABLE.fullmatch(below.name):
                        return Value("opaque", below.name, node.type)
                if not place and node.id in self._case.given:
                    return Value("given", node.name, node.type, source=str(node.id))
                return Value("constant", node.name, node.type, literal=literal_of(node))
            case "FUNCTION":
                return self._call(node, place, rows)
            case "QUERY" | "UNION" | "TABLE" | "TABLE_FUNCTION":
                self._subquery(node, place)
                return Value("opaque", "subquery", node.type)
            case "LAMBDA":
                inner = node.one("EXPRESSION")
                value = self._value(inner, place, rows) if inner is not None else Value("opaque")
                return Value("opaque", "lambda", "", (value,))
            case _:
                values = tuple(
                    self._value(child, place, rows) for children in node.sections.values() for child in children
                )
                return Value("opaque", node.kind, node.type, values)

    def _note_chance(self, values: Iterable[Value]) -> None:
        """Add the non-repeatable functions in *values* to the functions that choose or group rows."""

        def note(one: Value) -> bool:
            if is_unstable(one):
                self.chance.append(one.name)
            return False

        for value in values:
            any_of(value, note)

    def _column(self, node: Node, place: str, rows: Rows | None) -> Value:
        at = f"{place}{node.fields.get('source', '')}"
        given = self._given.get(at)
        if given is not None and (value := given.get(node.name)) is not None and not isinstance(given, TableColumns):
            return value
        inner = node.one("EXPRESSION")
        if inner is not None and inner.kind != "LIST":
            # The column is an ALIAS column of a table, so resolve the expression behind it.
            return self._value(inner, place, rows)
        if isinstance(given, TableColumns):
            return Value("column", node.name, node.type, source=at, table=given.table)
        return Value("opaque", node.name, node.type)

    def _call(self, node: Node, place: str, rows: Rows | None) -> Value:
        args = tuple(self._value(item, place, rows) for item in node.list("ARGUMENTS"))
        how = node.fields.get("kind", "")
        if how == "window":
            return Value("opaque", node.name, node.type, args)
        if how == "aggregate":
            if rows is not None and rows.shape is Shape.GROUPED:
                # A function with parameters, such as groupArray(10), may be unable to merge its own parts. The dots
                # make the name differ from the names of mergeable functions.
                name = f"{node.name}(…)" if node.list("PARAMETERS") and not node.type.startswith("Agg") else node.name
                return Value("aggregate", name, node.type, args, source=rows.over)
            return Value("opaque", node.name, node.type, args)
        if node.name == "arrayJoin" and any(map(is_partial, args)):
            raise self._of_parts("arrayJoin")
        return Value("call", node.name, node.type, args)

    def _of_parts(self, what: str) -> RefusedError:
        return RefusedError(
            Kind.STEP,
            f"{self._case.name} has {what} over a result that chunks have parts of, "
            "so each chunk would work on its own part.",
            or_one_chunk(
                "group by a bucket of time that no chunk cuts below it, or keep -State functions up to the target"
            ),
        )

    def _subquery(self, node: Node, place: str) -> None:
        """
        Walk a query inside an expression: a set, a scalar or an EXISTS.

        Raises:
            RefusedError: The query is limited to the chunk, or a step in the query does not add up. Where ``--param``
                places the window, the limit is only a doubt.
            UnknownKeyError: The facts of a time key in the query are still unknown.
        """
        rows = self.relation(node, f"{place}{node.id}:" if node.kind == "TABLE" else place)
        if rows.shape is not Shape.WHOLE and self._case.given:
            self.doubts.append(f"a subquery of {self._case.name} takes other rows for each chunk as well")
        elif rows.shape is not Shape.WHOLE:
            read = next((one.table for one in reversed(self.reads) if one.table in self._case.filters), None)
            raise RefusedError(
                Kind.READ,
                f"{self._case.name} reads {read or 'the filtered table'} a second time, in a subquery: that read would "
                "be limited to the chunk as well, and miss the rows of the others.",
                or_one_chunk("read what the subquery needs from another table"),
            )

    def _fits(self, key: BucketKey) -> bool:
        if self._case.one_chunk:
            return True
        facts = self._buckets.get(key)
        if facts is None:
            raise UnknownKeyError(key)
        return facts.fits

    def _holds_together(self, key: BucketKey) -> bool:
        """
        Return whether no two chunks share a value of a time key, as far as the samples show.

        Note a doubt if the samples may miss a shared value. A single chunk needs no samples. Return False also if the
        start or the end of the window cuts a value, or if the server cannot evaluate the key.

        Raises:
            UnknownKeyError: The facts of the key are still unknown.
        """
        if not self._fits(key):
            return False
        names = [name for one in key for name in _CALLED.findall(one.sql)]
        if not self._case.one_chunk and not all(map(_EVEN.fullmatch, names)):
            shown = " or ".join(dict.fromkeys(one.sql for one in key))
            self.doubts.append(f"whether two chunks share a value of {shown}, which was compared at some instants only")
        return True

    def time_key(self, values: Sequence[Value]) -> BucketKey:
        """
        Return the key that combines those of *values* that depend only on the time of a filtered table.

        Returns:
            One expression, or the different expressions of a UNION's branches. Empty if a branch has no such value, if
            the values of a branch come from several reads of tables, or if there are several UNIONs.
        """
        branches = self._branches(values)
        if branches is None:
            return ()
        union, count = branches
        key = []
        for branch in range(count):
            found = [one for value in values if (one := self._time_sql(of_branch(value, union, branch))) is not None]
            tables = {source for source, _, _ in found}
            if not found or len(tables) != 1:
                return ()
            table = found[0][1]
            texts = list(dict.fromkeys(text for _, _, text in found))
            key.append(TimeExpression(table, texts[0] if len(texts) == 1 else f"tuple({', '.join(texts)})"))
        return tuple(sorted(set(key)))

    @staticmethod
    def _branches(values: Sequence[Value]) -> tuple[str, int] | None:
        """
        Return the id of the only UNION that the values depend on, and the number of its branches.

        Return ``("", 1)`` if the values depend on no UNION, and None if they depend on several.
        """
        unions: dict[str, int] = {}

        def find(value: Value) -> bool:
            if value.what == "either":
                unions[value.source] = len(value.args)
            return False

        for value in values:
            any_of(value, find)
        if len(unions) > 1:
            return None
        return next(iter(unions.items()), ("", 1))

    def _time_sql(self, value: Value) -> tuple[str, TableName, str] | None:
        """
        Return the id of a read, the filtered table that is read, and the value as SQL over the table's time column.

        Return None if the value does not depend on a time column, depends on anything else or on several reads, or has
        more than 500 nodes. Return None also if a constant or function in the value cannot be written as SQL, or if a
        function is unstable.
        """
        columns: dict[str, TableName] = {}
        size = 0

        def render(one: Value) -> str | None:
            nonlocal size
            size += 1
            if size > 500:
                return None
            if one.what == "column":
                if one.table is None or self._case.filters.get(one.table) != one.name:
                    return None
                columns[one.source] = one.table
                return one.name if BARE_NAME.fullmatch(one.name) else quote(one.name)
            if one.what == "constant":
                return one.literal
            if one.what != "call" or not BARE_NAME.fullmatch(one.name) or UNSTABLE.fullmatch(one.name):
                return None
            texts = [render(arg) for arg in one.args]
            return None if None in texts else f"{one.name}({', '.join(map(str, texts))})"

        text = render(value)
        if text is None or len(columns) != 1:
            return None
        source, table = next(iter(columns.items()))
        return source, table, text


def is_uneven(value: Value) -> bool:
    """Return whether the outermost function of a value may give values that the samples of a key miss."""
    return value.what == "call" and not _EVEN.fullmatch(value.name)


def _above_queries(node: Node) -> Iterator[Node]:
    """Yield the nodes of an expression down to, and including, the queries in it."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        if one.kind not in ("QUERY", "UNION"):
            todo += [child for children in one.sections.values() for child in children]
