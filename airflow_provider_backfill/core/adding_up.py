"""
Whether the chunks of a plan add up: their results, merged as the target merges, equal that of the whole window.

The rules walk a SELECT as the server understands it, from its tables upwards, and keep for each step
whether its result is *whole* (the same in every chunk), in *parts* (the chunks' results put together are
the whole's) or *grouped* (several chunks may give a row of one group, which the target has to merge).
A step that fits none of these is refused, with the reason and a way that works.

Pure: what the server says comes in as values, and what has to be asked of it comes out as a :class:`Question`.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from ..errors import Advice, Flag
from .facts import TABLE_FUNCTION, QuerySource, TableFacts, TableName
from .instants import render_instant
from .lineage import (
    BARE_NAME,
    UNSTABLE,
    Value,
    any_of,
    is_partial,
    is_unordered,
    is_unstable,
    literal_of,
    of_branch,
    show,
    show_call,
)
from .merging import (
    IDEMPOTENT,
    MERGING,
    follows,
    keeps_latest,
    key_columns,
    merge_of,
    merged_by,
    state_function,
    summed_columns,
)
from .query_tree import Node
from .remedy import pass_flags
from .sql import quote

# ---------------------------------------------------------------- what is asked, and what is answered


class TimeExpression(NamedTuple):
    """SQL over nothing but the time column of a filtered table."""

    table: TableName
    sql: str


BucketKey = tuple[TimeExpression, ...]
"""What keeps rows of several chunks apart: an expression, or one for each branch of a UNION."""


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """
    How the values of a :data:`BucketKey` lie to the chunk bounds.

    Attributes:
        cut: The first chunk bound, the window's ends included, on both sides of which the value is the same.
        again: A value that two chunks give which do not meet, as text; empty when there is none.
        proposal: Flags that put every bound on an edge; empty when there are none to name.
        usable: Whether the server can evaluate it at all.
    """

    cut: datetime | None = None
    again: str = ""
    proposal: tuple[Flag, ...] = ()
    usable: bool = True

    @property
    def fits(self) -> bool:
        """Whether no value of it is given by two chunks."""
        return self.usable and self.cut is None and not self.again


@dataclass(frozen=True, slots=True)
class Question:
    """A key whose :class:`BucketFacts` the rules need before they can say more."""

    key: BucketKey


class Kind(StrEnum):
    """What a refusal is about."""

    GROUPS = "groups"
    """A GROUP BY whose groups chunks cut, into a target that does not merge them: the user may say that it is fine."""
    STEP = "step"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a SELECT would not add up, what to do instead, and the flags of a plan whose bounds fit."""

    kind: Kind
    message: str
    remedy: Advice
    proposal: tuple[Flag, ...] = ()


class Read(NamedTuple):
    """A table that a SELECT reads, and how that read was judged."""

    table: TableName
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    What the rules say of a statement.

    Attributes:
        refusal: Why it is refused; None when it adds up as far as the rules can see.
        steps: What was seen, a sentence for each step that looks at several rows.
        doubts: What the rules could not prove; a trial has to show it.
        waived: Refusals that the user's word has set aside.
        reads: Each table it reads.
        row_wise: Whether each row of the result comes from one row of a filtered table.
        labels: The target's columns that follow from the time of a filtered table alone.
        unstable: The target's columns that may differ when the same rows are asked again.
        unordered: The target's columns of which any order, or any choice, of values is right.
    """

    refusal: Refusal | None = None
    steps: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    reads: tuple[Read, ...] = ()
    row_wise: bool = True
    labels: Mapping[str, BucketKey] = field(default_factory=dict)
    unstable: tuple[str, ...] = ()
    unordered: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """
    A statement with all that the rules look at.

    Attributes:
        name: Names the SELECT in messages.
        tree: The SELECT as the server understands it.
        sources: What its query trees name, by the name they show.
        filters: The time column of each filtered table.
        whole: The tables that the user says are to be read whole.
        columns: The target's columns it fills.
        target_time: The target's own time column; empty when there is none.
        accept_groups: Whether the user says that parts of groups are fine.
        one_chunk: Whether the window is one chunk, whose result is that of the whole window.
    """

    name: str
    tree: Node
    sources: Mapping[str, QuerySource]
    filters: Mapping[TableName, str]
    target: TableFacts
    columns: tuple[str, ...]
    target_time: str = ""
    whole: frozenset[TableName] = frozenset()
    accept_groups: bool = False
    one_chunk: bool = False


def judge(case: Case, buckets: Mapping[BucketKey, BucketFacts]) -> Verdict | Question:
    """
    Say whether a statement adds up, or what has to be known before that can be said.

    Args:
        buckets: The answers to earlier questions.
    """
    holding = next((source for source in case.sources.values() if source.holds_target), None)
    if holding is not None:
        return Verdict(refusal=_reads_target(case, holding.name))
    if not case.filters:
        return Verdict(doubts=("the SELECT places the window by itself",), row_wise=False)
    walk = _Walk(case, buckets)
    try:
        rows = walk.relation(case.tree, "")
        if rows.shape is _Shape.WHOLE:
            raise _RefusedError(
                Kind.READ,
                f"{case.name} does not depend on the window: no row of it comes from "
                f"{' or '.join(map(str, case.filters)) or 'a filtered table'}.",
                Advice("choose the table that the window applies to with {}", Flag("--filter-table", "database.table")),
            )
        _check_label(case, walk, rows)
        if rows.shape is _Shape.GROUPED:
            _check_merge(case, walk, rows)
    except _UnknownError as unknown:
        return Question(unknown.key)
    except _RefusedError as refused:
        if not case.one_chunk:
            return Verdict(refusal=refused.refusal, reads=tuple(walk.reads))
        return Verdict(reads=tuple(dict.fromkeys(walk.reads)), row_wise=False)
    given = {name: rows.columns[name] for name in case.columns if name in rows.columns}
    labels = {name: key for name, value in given.items() if (key := walk.time_key((value,)))}
    return Verdict(
        steps=tuple(dict.fromkeys(walk.steps)),
        doubts=tuple(dict.fromkeys(walk.doubts)),
        waived=tuple(dict.fromkeys(walk.waived)),
        reads=tuple(dict.fromkeys(walk.reads)),
        row_wise=walk.row_wise,
        labels=labels,
        unstable=tuple(name for name, value in given.items() if any_of(value, is_unstable)),
        unordered=tuple(name for name, value in given.items() if any_of(value, is_unordered)),
    )


def keys_to_keep_whole(case: Case) -> tuple[BucketKey, ...]:
    """The keys of time that chunk bounds must not cut; none where the target merges whatever they cut."""
    return () if _asked(case, BucketFacts(usable=False))[0].refusal is None else _asked(case, BucketFacts())[1]


def merges_any_parts(case: Case) -> bool:
    """Whether the rules prove that the source may be cut in any way, since nothing or the target needs it whole."""
    verdict, _ = _asked(case, BucketFacts(usable=False))
    return verdict.refusal is None and not verdict.doubts


def _asked(case: Case, facts: BucketFacts) -> tuple[Verdict, tuple[BucketKey, ...]]:
    """The verdict if this holds for every key of time, and the keys that it depends on."""
    answers: dict[BucketKey, BucketFacts] = {}
    while isinstance(answer := judge(case, answers), Question):
        answers[answer.key] = facts
    return answer, tuple(answers)


def _reads_target(case: Case, name: TableName) -> Refusal:
    what = "the target itself" if name == case.target.name else f"which holds the rows of the target {case.target.name}"
    return Refusal(
        Kind.READ,
        f"{case.name} reads {name}, {what}: what a chunk gives would depend on the chunks before it.",
        Advice("read from the table the rows come from; the window says which rows are still to be filled"),
    )


class _Shape(StrEnum):
    WHOLE = "whole"
    PARTS = "parts"
    GROUPED = "grouped"


@dataclass(frozen=True, slots=True)
class _Rows:
    """
    The result of a step.

    Attributes:
        columns: By name, in order.
        why: Of grouped rows: the step that groups them, with what chunks do to it.
        over: Of grouped rows, what their aggregates work on: ``over all`` rows, so that an empty chunk gives a row,
            too, ``over parts`` of the groups of an aggregation below, or both.
    """

    shape: _Shape
    columns: dict[str, Value]
    why: "_Cut | None" = None
    over: str = ""


class _Cut(NamedTuple):
    """A step that looks at several rows together, whose groups chunks cut."""

    what: str
    keys: str
    key: BucketKey
    facts: BucketFacts | None

    def message(self, name: str, cannot: str) -> str:
        step = f"{name} has {self.what} {self.keys}"
        if self.facts is not None and self.facts.usable and self.facts.cut is not None:
            return (
                f"{step}, and {cannot}. The chunk bound {render_instant(self.facts.cut)} "
                f"cuts a bucket of {_shown(self.key)} in two."
            )
        if self.facts is not None and self.facts.again:
            return (
                f"{step}, and {cannot}. The values of {_shown(self.key)} come again "
                f"({self.facts.again}), so several chunks give a row of the same group."
            )
        return f"{step}, which is no bucket of the time column, and {cannot}. Each chunk would give its own."

    @property
    def proposal(self) -> tuple[Flag, ...]:
        """The flags of a plan whose bounds do not cut these groups; empty when none are known."""
        return self.facts.proposal if self.facts is not None else ()


def _shown(key: BucketKey) -> str:
    return " or ".join(dict.fromkeys(expression.sql for expression in key))


class _RefusedError(Exception):
    def __init__(self, kind: Kind, message: str, remedy: Advice, cut: "_Cut | None" = None) -> None:
        super().__init__(message)
        proposal = cut.proposal if cut is not None else ()
        self.refusal = Refusal(kind, message, pass_flags(proposal) if proposal else remedy, proposal)


class _UnknownError(Exception):
    def __init__(self, key: BucketKey) -> None:
        super().__init__(key)
        self.key = key


_ONE_CHUNK = Advice("plan the window as one chunk ({} as long as the window)", Flag("--chunk-hours"))


def _or_one_chunk(text: str, *parts: object) -> Advice:
    return Advice(f"{text}, or {{}}", *parts, _ONE_CHUNK)


# ---------------------------------------------------------------- the walk


class _Walk:
    def __init__(self, case: Case, buckets: Mapping[BucketKey, BucketFacts]) -> None:
        self._case, self._buckets = case, buckets
        self._given: dict[str, dict[str, Value]] = {}
        self.reads: list[Read] = []
        self.steps: list[str] = []
        self.doubts: list[str] = []
        self.waived: list[str] = []
        self.pairs: list[tuple[Value, Value]] = []
        self.row_wise = True

    # -------- relations

    def relation(self, node: Node, place: str) -> _Rows:
        """The rows that a table, a query, a union or a join gives; *place* tells the nodes of views apart."""
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
                    columns = _Columns(name, f"{place}{node.id}")
                    self._given[f"{place}{node.id}"] = columns
                    return _Rows(_Shape.PARTS, columns)
                queries = [
                    self.relation(one, place) for one in node.list("ARGUMENTS") if one.kind in ("QUERY", "UNION")
                ]
                rows = queries[0] if queries else _Rows(_Shape.WHOLE, {})
            case "JOIN":
                rows = self._join(node, place)
            case "CROSS JOIN" | "CROSS_JOIN":
                rows = self._cross(node, place)
            case "ARRAY_JOIN":
                rows = self._array_join(node, place)
            case _:
                self.doubts.append(f"a step {node.kind.lower()} that the rules do not know")
                rows = _Rows(_Shape.PARTS, {})
        self._given[f"{place}{node.id}"] = rows.columns
        return rows

    def _table(self, node: Node, place: str) -> _Rows:
        case = self._case
        source = case.sources.get(node.name)
        if source is None:
            # What a recursive CTE has so far, and the like.
            return _Rows(_Shape.WHOLE, {})
        at = f"{place}{node.id}"
        if source.name in case.filters:
            column = case.filters[source.name]
            self.reads.append(Read(source.name, f"limited to the chunk by {column}"))
            return _Rows(_Shape.PARTS, _Columns(source.name, at))
        if source.tree is not None:
            rows = self.relation(source.tree, f"{at}/")
            return replace(rows, columns=dict(rows.columns))
        if source.opaque:
            self.doubts.append(f"{source.name} cannot be looked into")
            return _Rows(_Shape.PARTS, _Columns(source.name, at))
        said = "whole, as --whole-table says" if source.name in case.whole else "whole in every chunk"
        self.reads.append(Read(source.name, said))
        return _Rows(_Shape.WHOLE, _Columns(source.name, at))

    def _query(self, node: Node, place: str) -> _Rows:
        below = node.one("JOIN TREE")
        rows = self.relation(below, place) if below is not None else _Rows(_Shape.WHOLE, {})
        for title in ("PREWHERE", "WHERE"):
            for condition in node.sections.get(title, ()):
                self._filter(rows, self._value(condition, place), title)
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
            if "with_fill: 1" in sort.rest and rows.shape is not _Shape.WHOLE:
                raise _RefusedError(
                    Kind.STEP,
                    f"{self._case.name} has ORDER BY … WITH FILL, which fills gaps by the rows it sees: each chunk "
                    "would fill its own, and the gaps at its bounds stay or are filled twice.",
                    _or_one_chunk("fill the gaps when the target is read"),
                )
        rows = replace(rows, columns=columns)
        if "is_distinct: 1" in node.rest:
            rows = self._distinct(rows, "DISTINCT")
        if node.sections.get("LIMIT BY"):
            self._limit_by(node, rows, place)
        if (node.sections.get("LIMIT") or node.sections.get("OFFSET")) and rows.shape is not _Shape.WHOLE:
            raise _RefusedError(
                Kind.STEP,
                f"{self._case.name} has a LIMIT, which each chunk would apply to its own rows.",
                _or_one_chunk("leave the LIMIT away, or use LIMIT BY with a bucket of time"),
            )
        return rows

    def _union(self, node: Node, place: str) -> _Rows:
        mode = node.fields.get("kind", "")
        recursive = "is_recursive_cte: 1" in node.rest
        branches = [self.relation(branch, place) for branch in node.list("QUERIES")]
        moving = [rows for rows in branches if rows.shape is not _Shape.WHOLE]
        if not moving:
            return _Rows(_Shape.WHOLE, dict(branches[0].columns) if branches else {})
        if recursive:
            raise _RefusedError(
                Kind.STEP,
                f"{self._case.name} has a recursive WITH over a filtered table, which would go on only within a chunk.",
                _ONE_CHUNK,
            )
        if len(moving) < len(branches) and (mode.startswith("UNION") or branches[0].shape is _Shape.WHOLE):
            raise _RefusedError(
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
        grouped = next((rows for rows in moving if rows.shape is _Shape.GROUPED), None)
        rows = _Rows(_Shape.PARTS, columns) if grouped is None else replace(grouped, columns=columns)
        if mode == "UNION_ALL":
            return rows
        return self._distinct(rows, mode.replace("_", " "))

    def _array_join(self, node: Node, place: str) -> _Rows:
        below = node.one("TABLE EXPRESSION")
        rows = self.relation(below, place) if below is not None else _Rows(_Shape.WHOLE, {})
        columns = dict(rows.columns)
        for column in node.list("JOIN EXPRESSIONS"):
            inner = column.one("EXPRESSION")
            value = self._value(inner, place, rows) if inner is not None else Value("opaque")
            if is_partial(value):
                raise self._of_parts("ARRAY JOIN")
            columns[column.name] = Value("opaque", "arrayJoin", column.type, (value,))
        return replace(rows, columns=columns)

    def _cross(self, node: Node, place: str) -> _Rows:
        sides = [self.relation(side, place) for side in node.sections.get("TABLE EXPRESSION", ())]
        moving = [rows for rows in sides if rows.shape is not _Shape.WHOLE]
        if len(moving) > 1:
            raise self._two_moving("comma or CROSS JOIN")
        return replace(moving[0], columns={}) if moving else _Rows(_Shape.WHOLE, {})

    def _join(self, node: Node, place: str) -> _Rows:
        kind, strictness = node.fields.get("kind", ""), node.fields.get("strictness", "")
        left, right = (
            self.relation(side, place)
            for title in ("LEFT TABLE EXPRESSION", "RIGHT TABLE EXPRESSION")
            for side in node.sections.get(title, ())[:1]
        )
        pairs = list(self._pairs(node, place))
        self.pairs += pairs
        what = f"{strictness + ' ' if strictness not in ('ALL', 'Unspecified') else ''}{kind} JOIN"
        columns: dict[str, Value] = {}
        for column in node.list("JOIN EXPRESSION"):
            if column.kind == "COLUMN":
                # USING: the column of the side that is never filled up.
                sides = [
                    self._value(side, place) for item in column.sections.get("EXPRESSION", ()) for side in _items(item)
                ]
                if kind in ("INNER", "LEFT") and sides:
                    columns[column.name] = sides[0]
                elif kind == "RIGHT" and sides:
                    columns[column.name] = sides[-1]
                else:
                    columns[column.name] = Value("opaque", "using", column.type, tuple(sides))
        if left.shape is _Shape.WHOLE and right.shape is _Shape.WHOLE:
            return _Rows(_Shape.WHOLE, columns)
        if left.shape is not _Shape.WHOLE and right.shape is not _Shape.WHOLE:
            if kind == "PASTE" or _Shape.GROUPED in (left.shape, right.shape) or not self._same_bucket(pairs):
                raise self._two_moving(what)
            self.row_wise = False
            self._blur(node, place, left=kind in ("RIGHT", "FULL"), right=kind in ("LEFT", "FULL"))
            return _Rows(_Shape.PARTS, columns)
        moves_left = left.shape is not _Shape.WHOLE
        rows = left if moves_left else right
        fine = {
            True: {("INNER", "ALL"), ("INNER", "ASOF")} | {("LEFT", s) for s in ("ALL", "ANY", "SEMI", "ANTI", "ASOF")},
            False: {("INNER", "ALL")} | {("RIGHT", s) for s in ("ALL", "ANY", "SEMI", "ANTI")},
        }[moves_left]
        if (kind, "ALL" if strictness == "Unspecified" else strictness) not in fine and kind not in ("CROSS", "COMMA"):
            order = "the table that is read whole comes first" if not moves_left else "the filtered table comes first"
            raise _RefusedError(
                Kind.READ,
                f"{self._case.name} has {what} where {order}: rows that find no match in a chunk, or one match of "
                "several, would be given once for each chunk.",
                _or_one_chunk(
                    "put the filtered table on the left of a LEFT JOIN, or use an INNER JOIN, or choose the other "
                    "table with {}",
                    Flag("--filter-table"),
                ),
            )
        if rows.shape is _Shape.GROUPED and any(is_partial(value) for pair in pairs for value in pair):
            raise self._of_parts(what)
        return replace(rows, columns=columns)

    def _blur(self, node: Node, place: str, *, left: bool, right: bool) -> None:
        """Forget what the columns of a side are made of, where a join fills them up."""
        for blur, title in ((left, "LEFT TABLE EXPRESSION"), (right, "RIGHT TABLE EXPRESSION")):
            for side in node.sections.get(title, ()) if blur else ():
                for below in side.walk():
                    self._given.pop(f"{place}{below.id}", None)

    def _pairs(self, node: Node, place: str) -> Iterator[tuple[Value, Value]]:
        """The two sides of each equality that a join asks for; of any other condition, the condition and nothing."""
        todo = list(node.list("JOIN EXPRESSION"))
        while todo:
            item = todo.pop(0)
            if item.kind == "COLUMN":
                sides = [
                    self._value(side, place) for below in item.sections.get("EXPRESSION", ()) for side in _items(below)
                ]
                if len(sides) == 2:
                    yield sides[0], sides[1]
            elif item.kind == "FUNCTION" and item.name == "and":
                todo += item.list("ARGUMENTS")
            elif item.kind == "FUNCTION" and item.name == "equals":
                one, two = (self._value(side, place) for side in item.list("ARGUMENTS"))
                yield one, two
            else:
                # No equality: rows with different values may find each other.
                yield self._value(item, place), Value("opaque")

    def _same_bucket(self, pairs: Sequence[tuple[Value, Value]]) -> bool:
        """Whether rows that two filtered sides join are always of one chunk."""
        keys = ((self.time_key((left,)), self.time_key((right,))) for left, right in pairs)
        for one, two in keys:
            key = tuple(sorted({*one, *two}))
            if one and two and self._fits(key):
                self.steps.append(
                    f"both sides of the join are limited, and joined by {_shown(key)}, which no chunk cuts"
                )
                return True
        return False

    # -------- steps that look at several rows

    def _filter(self, rows: _Rows, value: Value, title: str) -> None:
        if rows.shape is _Shape.GROUPED and is_partial(value):
            name, why = self._case.name, rows.why
            what = "HAVING" if title == "HAVING" else f"a {title} over a GROUP BY"
            raise _RefusedError(
                Kind.STEP,
                f"{name} has {what} on a result that chunks have parts of: each chunk would hold its own part "
                f"against the condition. {why.message(name, 'the groups are cut') if why else ''}".strip(),
                _or_one_chunk(
                    "group by a bucket of time that no chunk cuts, or leave the condition to those who read the target"
                ),
                why,
            )

    def _aggregate(self, node: Node, rows: _Rows, place: str) -> _Rows:
        keys = node.list("GROUP BY")
        calls = _calls(node, "aggregate")
        if not keys and not calls:
            return rows
        if rows.shape is _Shape.WHOLE:
            return rows
        self.row_wise = False
        sets = "group_by_type: grouping_sets" in node.rest
        lists = [_items(item) for item in keys] if sets else [keys]
        for kind in ("rollup", "cube"):
            if f"group_by_type: {kind}" in node.rest:
                raise self._totals(kind.upper())
        if "is_group_by_with_totals: 1" in node.rest:
            raise self._totals("TOTALS")
        cuts = []
        for items in lists:
            values = [self._value(item, place, rows) for item in items]
            cut = self._cut(rows, "GROUP BY", values, [_text(item) for item in items])
            cuts.append(cut)
            if rows.shape is _Shape.GROUPED and any(is_partial(value) for value in values):
                raise self._of_parts("GROUP BY")
        cut = next((one for one in cuts if one is not None), None)
        if sets and cut is not None:
            raise self._totals("GROUPING SETS")
        if cut is None:
            # Each group is of one chunk, so its results are final.
            return replace(rows, shape=_Shape.PARTS, why=None, over="")
        over = [] if keys else ["over all"]
        over += ["over parts"] if rows.shape is _Shape.GROUPED else []
        return _Rows(_Shape.GROUPED, rows.columns, cut, ", ".join(over))

    def _totals(self, what: str) -> _RefusedError:
        return _RefusedError(
            Kind.STEP,
            f"{self._case.name} has {what}, whose rows over several groups need the rows of other chunks.",
            _or_one_chunk("group by the keys alone and make the totals when the target is read"),
        )

    def _cut(self, rows: _Rows, what: str, values: Sequence[Value], texts: Sequence[str]) -> _Cut | None:
        """Why groups with these keys are not each of one chunk; None when they are."""
        keys = ", ".join(texts) or "of all rows"
        if rows.shape is _Shape.GROUPED:
            return rows.why._replace(what=what, keys=keys) if rows.why else _Cut(what, keys, (), None)
        key = self.time_key(values)
        if not key:
            return _Cut(what, keys, (), None)
        if self._fits(key):
            self.steps.append(f"{what} {keys}: no chunk bound cuts a bucket of {_shown(key)}, and none comes again")
            return None
        return _Cut(what, keys, key, self._buckets[key])

    def _distinct(self, rows: _Rows, what: str) -> _Rows:
        if rows.shape is _Shape.WHOLE:
            return rows
        self.row_wise = False
        values = list(rows.columns.values())
        if rows.shape is _Shape.GROUPED and any(is_partial(value) for value in values):
            raise self._of_parts(what)
        cut = self._cut(rows, what, values, [show(value) for value in values])
        return rows if cut is None else _Rows(_Shape.GROUPED, rows.columns, cut)

    def _limit_by(self, node: Node, rows: _Rows, place: str) -> None:
        if rows.shape is _Shape.WHOLE:
            return
        self.row_wise = False
        items = node.list("LIMIT BY")
        values = [self._value(item, place, rows) for item in items]
        cut = self._cut(rows, "LIMIT BY", values, [_text(item) for item in items])
        if cut is not None:
            raise _RefusedError(
                Kind.STEP,
                cut.message(self._case.name, "a chunk does not see the rows of the others"),
                _or_one_chunk("add a bucket of time to the keys"),
                cut,
            )

    def _windows(self, node: Node, rows: _Rows, place: str) -> None:
        for call in _calls(node, "window"):
            if rows.shape is _Shape.WHOLE:
                return
            self.row_wise = False
            window = call.one("WINDOW")
            items = window.list("PARTITION BY") if window is not None else ()
            values = [self._value(item, place, rows) for item in items]
            cut = self._cut(rows, "a window function over", values, [_text(item) for item in items])
            if cut is not None:
                raise _RefusedError(
                    Kind.STEP,
                    cut.message(self._case.name, "a chunk does not see the rows of the others"),
                    _or_one_chunk("partition by a bucket of time as well"),
                    cut,
                )

    def _of_parts(self, what: str) -> _RefusedError:
        return _RefusedError(
            Kind.STEP,
            f"{self._case.name} has {what} over a result that chunks have parts of, "
            "so each chunk would work on its own part.",
            _or_one_chunk(
                "group by a bucket of time that no chunk cuts below it, or keep -State functions up to the target"
            ),
        )

    def _two_moving(self, what: str) -> _RefusedError:
        return _RefusedError(
            Kind.READ,
            f"{self._case.name} has a {what} of two sides that are both limited to the chunk: "
            "rows that lie in different chunks would not find each other.",
            _or_one_chunk(
                "join by the same bucket of time on both sides, or limit one side only and let {} read the other",
                Flag("--whole-table"),
            ),
        )

    # -------- expressions

    def _value(self, node: Node, place: str, rows: _Rows | None = None) -> Value:
        """
        An expression of a query, resolved.

        Args:
            rows: What the query groups, once it has: there aggregates of several chunks are parts.
        """
        match node.kind:
            case "COLUMN":
                return self._column(node, place, rows)
            case "CONSTANT":
                # What the server has worked out already: a scalar subquery, now().
                for below in _above_queries(node):
                    if below.kind in ("QUERY", "UNION"):
                        self._subquery(below, place)
                    elif below.kind == "FUNCTION" and UNSTABLE.fullmatch(below.name):
                        return Value("opaque", below.name, node.type)
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

    def _column(self, node: Node, place: str, rows: _Rows | None) -> Value:
        at = f"{place}{node.fields.get('source', '')}"
        given = self._given.get(at)
        if given is not None and (value := given.get(node.name)) is not None and not isinstance(given, _Columns):
            return value
        inner = node.one("EXPRESSION")
        if inner is not None and inner.kind != "LIST":
            # An ALIAS column of a table.
            return self._value(inner, place, rows)
        if isinstance(given, _Columns):
            return Value("column", node.name, node.type, source=at, table=given.table)
        return Value("opaque", node.name, node.type)

    def _call(self, node: Node, place: str, rows: _Rows | None) -> Value:
        args = tuple(self._value(item, place, rows) for item in node.list("ARGUMENTS"))
        how = node.fields.get("kind", "")
        if how == "window":
            return Value("opaque", node.name, node.type, args)
        if how == "aggregate":
            if rows is not None and rows.shape is _Shape.GROUPED:
                # With a limit, as in groupArray(10), a function is not the one that merges its parts.
                name = f"{node.name}(…)" if node.list("PARAMETERS") and not node.type.startswith("Agg") else node.name
                return Value("aggregate", name, node.type, args, source=rows.over)
            return Value("opaque", node.name, node.type, args)
        if node.name == "arrayJoin" and any(map(is_partial, args)):
            raise self._of_parts("arrayJoin")
        return Value("call", node.name, node.type, args)

    def _subquery(self, node: Node, place: str) -> None:
        """A query in an expression: a set, a scalar, an EXISTS."""
        rows = self.relation(node, f"{place}{node.id}:" if node.kind == "TABLE" else place)
        if rows.shape is not _Shape.WHOLE:
            read = next((one.table for one in reversed(self.reads) if one.table in self._case.filters), None)
            raise _RefusedError(
                Kind.READ,
                f"{self._case.name} reads {read or 'the filtered table'} a second time, in a subquery: that read would "
                "be limited to the chunk as well, and miss the rows of the others.",
                _or_one_chunk("read what the subquery needs from another table"),
            )

    # -------- time

    def _fits(self, key: BucketKey) -> bool:
        if self._case.one_chunk:
            return True
        facts = self._buckets.get(key)
        if facts is None:
            raise _UnknownError(key)
        return facts.fits

    def time_key(self, values: Sequence[Value]) -> BucketKey:
        """
        What of *values* follows from the time of a filtered table alone, taken together.

        Returns:
            One expression, or one for each branch of a UNION; empty when there is none.
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
        """The UNION that the values come through and how many branches it has; None when there are several."""
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
        """The read, the table, and SQL over its time column; None when a value is made of anything else."""
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


class _Columns(dict[str, Value]):
    """The columns of a table, which are whatever a query asks of it."""

    def __init__(self, table: TableName, source: str) -> None:
        super().__init__()
        self.table, self.source = table, source


def _items(node: Node) -> tuple[Node, ...]:
    return node.sections.get("", ()) if node.kind == "LIST" else (node,)


def _column_name(text: str, kind: str) -> str:
    if kind and text.endswith(f" {kind}"):
        return text[: -len(kind) - 1]
    return text.rsplit(" ", 1)[0]


def _above_queries(node: Node) -> Iterator[Node]:
    """The nodes of an expression, down to the queries in it."""
    todo = [node]
    while todo:
        one = todo.pop()
        yield one
        if one.kind not in ("QUERY", "UNION"):
            todo += [child for children in one.sections.values() for child in children]


def _calls(node: Node, how: str) -> list[Node]:
    """The aggregates, or the window functions, of a query itself: not of the queries inside it."""
    found: dict[int, Node] = {}
    titles = ("PROJECTION", "HAVING", "QUALIFY", "ORDER BY", "LIMIT BY", "INTERPOLATE")
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
    """An expression for a message."""
    if node.kind == "FUNCTION":
        return f"{node.name}({', '.join(map(_text, node.list('ARGUMENTS')))})"
    if node.kind == "CONSTANT":
        return literal_of(node) or node.name
    return node.name or node.kind.lower()


def _check_merge(case: Case, walk: _Walk, rows: _Rows) -> None:
    """Hold what several chunks give of one group against what the target makes of it."""
    try:
        for columns in _branch_rows(rows):
            _check_columns(case, walk, rows, columns)
    except _RefusedError as refused:
        if not case.accept_groups:
            raise
        walk.waived.append(refused.refusal.message)


def _branch_rows(rows: _Rows) -> Iterator[dict[str, Value]]:
    """The columns, once for each branch of a UNION on top."""
    unions = {value.source: len(value.args) for value in rows.columns.values() if value.what == "either"}
    if len(unions) != 1:
        yield dict(rows.columns)
        return
    union, count = next(iter(unions.items()))
    for branch in range(count):
        yield {name: of_branch(value, union, branch) for name, value in rows.columns.items()}


def _check_columns(case: Case, walk: _Walk, rows: _Rows, columns: Mapping[str, Value]) -> None:
    target = case.target
    engine = re.sub(r"^(?:Replicated|Shared)", "", target.engine)
    cut = rows.why or _Cut("GROUP BY", "", (), None)

    def refuse(cannot: str, otherwise: str = "") -> _RefusedError:
        advice = Advice(f"{otherwise}, or {{}}", way) if otherwise else way
        return _RefusedError(Kind.GROUPS, cut.message(case.name, cannot), advice, cut)

    way = Advice(
        "group by a bucket of time as well, or use -State functions and an AggregatingMergeTree target, or {}, "
        "or, where parts of groups are fine, pass {}",
        _ONE_CHUNK,
        Flag("--accept-partial-groups", "REASON"),
    )
    if engine not in MERGING:
        raise refuse(f"{target.name} ({target.engine}) cannot merge parts of a result")
    filled = [column for column in target.columns if column.name in case.columns and column.name in columns]
    whole_key = set(key_columns(target.sorting_key))
    key_values = {columns[column.name] for column in filled if column.name in whole_key}
    latest = engine == "ReplacingMergeTree" and keeps_latest(target, filled, columns)
    summed = summed_columns(target, engine)
    for column in filled:
        value = columns[column.name]
        merge = merge_of(value)
        if column.in_key:
            if merge.by != "key":
                raise refuse(
                    f"its column {column.name} is made of parts and stands in the key of {target.name}, "
                    "so parts of one group do not meet",
                )
            if column.name in whole_key or follows(value, key_values):
                continue
            raise refuse(
                f"its column {column.name} is not a sorting key of {target.name} by itself, "
                "so rows that differ in it become one",
            )
        by = merged_by(column, engine, summed)
        if by == "map":
            walk.doubts.append(f"whether {target.name} merges {column.name} as the SELECT does")
            continue
        if merge.by == "key":
            if by in IDEMPOTENT or (by == "" and follows(value, key_values)) or latest:
                continue
            what = f"adds up its values ({by})" if by else "keeps one of its values"
            raise refuse(
                f"{target.name} ({target.engine}) {what} in {column.name}, which is no sorting key and no part",
                f"put {column.name} into the sorting key of the target",
            )
        if latest:
            continue
        if not merge.by:
            raise refuse(f"the parts of {column.name} cannot be put together: {merge.why}")
        if by == "state" == merge.by:
            if state_function(column.type) != state_function(merge.type):
                walk.doubts.append(f"whether {merge.type} merges as {column.type} in {column.name}")
            continue
        if by in IDEMPOTENT and value.type.startswith("Nullable(") and "Nullable(" not in column.type:
            raise refuse(
                f"{column.name} takes no NULL, so the NULL of a chunk without values becomes a default that "
                f"{target.name} merges in",
                f"make {column.name} Nullable in the target",
            )
        if by == merge.by or {by, merge.by} == {"any", "anyLast"}:
            walk.steps.append(f"{column.name}: {show_call(value)} of parts, merged by {by}")
            continue
        does = f"merges it by {by}" if by else "keeps one of the parts"
        raise refuse(
            f"{column.name} takes parts that would have to be merged by {merge.by}, "
            f"and {target.name} ({target.engine}) {does}",
        )
    for column in target.columns:
        if column.name not in case.columns and column.default_kind in ("DEFAULT", "MATERIALIZED") and not column.in_key:
            walk.doubts.append(f"{column.name}, which {target.name} computes from parts")
    walk.steps.append(f"{cut.what} {cut.keys}: {target.name} ({target.engine}) merges the parts of a group")


def _check_label(case: Case, walk: _Walk, rows: _Rows) -> None:
    """Refuse a window on one table of a join when the target's time comes from another."""
    value = rows.columns.get(case.target_time)
    if value is None or case.target_time not in case.columns:
        return
    tables: set[TableName] = set()

    def collect(one: Value) -> bool:
        if one.what == "column" and one.table is not None:
            tables.add(one.table)
        return False

    any_of(value, collect)
    # Behind what cannot be looked into may be the filtered table.
    behind = {source.name for source in case.sources.values() if source.opaque}
    if not tables or tables & {*case.filters, *behind} or tables <= case.whole:
        return
    if any(walk.time_key((other,)) for pair in walk.pairs if value in pair for other in pair):
        # Such as the day of a calendar that is joined by the day of the event.
        return
    of = " and ".join(map(str, sorted(tables)))
    raise _RefusedError(
        Kind.READ,
        f"{case.name} is limited by the time of {' and '.join(map(str, case.filters))}, and the target's "
        f"{case.target_time} comes from {of}, which each chunk reads whole.",
        Advice(
            "pass {} to limit that table, or {} if it is meant to be read whole",
            Flag("--filter-table", str(min(tables))),
            Flag("--whole-table", str(min(tables))),
        ),
    )
