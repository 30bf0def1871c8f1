"""
Define values: expressions over columns of tables, with the aliases of subqueries resolved.

The functions test values for properties such as *unstable* or *partial*, and render values as SQL for messages. This
module is pure.
"""

import re
from collections.abc import Callable, Collection
from typing import NamedTuple

from ..column_types import unwrap_type
from ..query_tree import Node
from ..tables import TableName


class Value(NamedTuple):
    """
    An expression over columns of tables, with the aliases of subqueries resolved.

    Attributes:
        what: ``column``, ``constant``, ``given`` (a constant that differs between chunks), ``call``, ``aggregate``
            (with parts to be merged), ``either`` (one of *args*, by the branch of a UNION) or ``opaque`` (an unknown
            function of *args*).
        name: The name of a column or function; for ``constant`` and ``given``, the value as the server shows it; for
            ``opaque``, the kind of expression, if known. Otherwise empty.
        type: The type as the server shows it; empty if unknown.
        source: For a column, the id of the read; for ``either``, the id of the UNION; for ``given``, the id of the
            constant; for ``aggregate``, :attr:`.Rows.over`. Otherwise empty.
        table: The table of a column; otherwise None.
        literal: For a constant, SQL that gives the constant; None if there is no such SQL. Otherwise None.
    """

    what: str
    name: str = ""
    type: str = ""
    args: "tuple[Value, ...]" = ()
    source: str = ""
    table: TableName | None = None
    literal: str | None = None

    def __hash__(self) -> int:
        """
        Return a hash of the outermost step alone.

        A hash of all arguments would take exponential time where each level uses the level below twice.
        """
        return hash((self.what, self.name, self.type, self.source, len(self.args)))


def any_of(value: Value, test: Callable[[Value], bool]) -> bool:
    """Return whether *test* holds for a value or for one of its arguments, at any depth."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in seen:
            continue
        seen.add(id(one))
        if test(one):
            return True
        todo.extend(one.args)
    return False


_CLOCK = r"now(64|inblock)?|today|yesterday|curdate|current_date|current_timestamp|utc_?timestamp"
# Names of functions that return the current time or date, which differs only a little between two statements.
CLOCK = re.compile(_CLOCK, re.IGNORECASE)
UNSTABLE = re.compile(
    rf"{_CLOCK}|rand\w*|generate\w+id\w*"
    r"|generateserialid|rownumberin\w+|blocknumber|runningdifference\w*|runningaccumulate|neighbor|hostname|fqdn"
    r"|queryid|currentuser|uptime|fuzzbits",
    re.IGNORECASE,
)
_UNORDERED = re.compile(
    r"any\w*|first_value\w*|last_value\w*|groupConcat\w*|arg(Min|Max)\w*|\w+ArgM(in|ax)\w*|topK\w*|approx_top\w*"
    r"|(quantiles?|median)(If|State|Merge|TDigest|BFloat16|Timing|Deterministic)*(Weighted)?(If|State|Merge)*"
    r"|histogram\w*|sparkbar\w*|groupArraySample\w*|deltaSum\w*|row_number|rank|dense_rank|lag\w*|lead\w*|nth_value|ntile",
    re.IGNORECASE,
)


def is_unstable(value: Value) -> bool:
    """Return whether the outermost function of a value may return a different result in each evaluation."""
    return value.what in ("call", "opaque", "aggregate") and bool(UNSTABLE.fullmatch(value.name))


def is_unordered(value: Value) -> bool:
    """Return whether several results of a value's outermost function are equally correct, as for ``any``."""
    return value.what in ("call", "opaque", "aggregate") and bool(_UNORDERED.fullmatch(value.name))


def is_partial(value: Value) -> bool:
    """Return whether a value is or contains an aggregate of which several chunks have parts."""
    return any_of(value, lambda one: one.what == "aggregate")


_NUMBER = re.compile(r"(?:U?Int\d+|Float\d+|BFloat16|Bool)_(-?[\d.]+(?:e[+-]?\d+)?)")
_DECIMAL = re.compile(r"Decimal\d+_'?(-?[\d.]+)'?")
_INTERVAL = re.compile(r"Interval([A-Z][a-z]+)")
BARE_NAME = re.compile(r"[A-Za-z_]\w*")
# The maximum number of subexpressions of a value that a message shows.
_SHOWN = 100
_SIMPLE_NUMBER = re.compile(r"U?Int\d+|Float64|Bool")


def literal_of(node: Node) -> str | None:
    """Return a constant as SQL; None for a type whose constants this function cannot write."""
    text, kind = node.name, unwrap_type(node.type)
    if text == "NULL":
        return "NULL"
    if text.startswith("'"):
        return text if kind == "String" else f"CAST({text} AS {node.type})"
    if (number := _NUMBER.fullmatch(text) or _DECIMAL.fullmatch(text)) is None:
        return None
    if (unit := _INTERVAL.fullmatch(kind)) is not None:
        return f"toInterval{unit[1]}({number[1]})"
    return number[1] if _SIMPLE_NUMBER.fullmatch(kind) else f"CAST({number[1]} AS {node.type})"


def of_branch(value: Value, union: str, branch: int) -> Value:
    """Return *value* with the value of branch number *branch* (from 0) in place of each value of the UNION *union*."""
    # A value may be an argument in several places, for example a subquery's column. Convert such a value only once.
    made: dict[int, Value] = {}

    def chosen(one: Value) -> Value:
        if one.what == "either" and one.source == union:
            return one.args[branch]
        if not one.args:
            return one
        if id(one) not in made:
            made[id(one)] = one._replace(args=tuple(map(chosen, one.args)))
        return made[id(one)]

    return chosen(value)


def show(value: Value) -> str:
    """
    Return a value as short SQL for a message.

    An aggregate or an opaque expression is shown by its name alone, and a UNION by its first branch. ``…`` stands for
    a subexpression without a name, and for each subexpression after the first 100.
    """
    return _shown(value, ("call",), [_SHOWN])


def show_call(value: Value) -> str:
    """Return a call or an aggregate as :func:`show` does, but with the arguments of aggregates."""
    return _shown(value, ("call", "aggregate"), [_SHOWN])


def _shown(value: Value, calls: Collection[str], left: list[int]) -> str:
    """Return a value as SQL, with the arguments of *calls*; *left* counts down the subexpressions to show."""
    left[0] -= 1
    if left[0] < 0:
        return "…"
    if value.what in calls:
        return f"{value.name}({', '.join(_shown(arg, calls, left) for arg in value.args)})"
    if value.what == "either":
        return _shown(value.args[0], calls, left)
    return value.literal or value.name or "…"
