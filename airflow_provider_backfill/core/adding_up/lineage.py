"""
Trace the columns of a SELECT to their tables, with the aliases of subqueries resolved.

Pure.
"""

import re
from collections.abc import Callable
from typing import NamedTuple

from ..column_types import unwrap_type
from ..query_tree import Node
from ..tables import TableName


class Value(NamedTuple):
    """
    An expression over columns of tables, with the aliases of subqueries resolved.

    Attributes:
        what: ``column``, ``constant``, ``call``, ``aggregate`` (with parts to be merged), ``either`` (one of *args*, by
            the branch of a UNION) or ``opaque`` (an unknown function of *args*).
        source: For a column, the read of a table; for ``either``, the UNION.
    """

    what: str
    name: str = ""
    type: str = ""
    args: "tuple[Value, ...]" = ()
    source: str = ""
    table: TableName | None = None
    literal: str | None = None

    def __hash__(self) -> int:
        """Hash the outermost step alone: an expression that names another twice at each level doubles with each."""
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
# These functions give the time, which differs only a little between two statements.
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
    """Return whether a value differs in each evaluation."""
    return value.what in ("call", "opaque", "aggregate") and bool(UNSTABLE.fullmatch(value.name))


def is_unordered(value: Value) -> bool:
    """Return whether several values are equally correct, as for ``any``."""
    return value.what in ("call", "opaque", "aggregate") and bool(_UNORDERED.fullmatch(value.name))


def is_partial(value: Value) -> bool:
    """Return whether a value uses results of which several chunks have parts."""
    return any_of(value, lambda one: one.what == "aggregate")


_NUMBER = re.compile(r"(?:U?Int\d+|Float\d+|BFloat16|Bool)_(-?[\d.]+(?:e[+-]?\d+)?)")
_DECIMAL = re.compile(r"Decimal\d+_'?(-?[\d.]+)'?")
_INTERVAL = re.compile(r"Interval([A-Z][a-z]+)")
BARE_NAME = re.compile(r"[A-Za-z_]\w*")
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
    """Return a value as the branch number *branch* of a UNION gives it."""
    # A value that stands in several places, as a subquery's column does, is made from its branch only one time.
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
    """Return a value as short SQL for a message; unknown parts are shown as ``…``."""
    if value.what == "call":
        return f"{value.name}({', '.join(map(show, value.args))})"
    if value.what == "either":
        return show(value.args[0])
    return value.literal or value.name or "…"


def show_call(value: Value) -> str:
    """Return a call as SQL for a message, including the arguments of its aggregates."""
    inner = ", ".join(
        show_call(arg) if arg.what in ("call", "aggregate") else (arg.literal or arg.name or "…") for arg in value.args
    )
    return f"{value.name}({inner})"
