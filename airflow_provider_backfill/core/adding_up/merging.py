"""
Decide how partial values are merged, by functions and by the target's engine.

A part is one chunk's result for a group whose rows lie in several chunks. The module also tells why a difference that
``verify`` finds may be harmless. This module is pure.
"""

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from ..column_types import takes_null, unwrap_type
from ..facts import Column, TableFacts
from ..plan import Plan
from ..sql import expressions, first_parentheses
from ..table_definition import column_ttls, row_ttls
from .conversions import passes
from .lineage import Value, is_partial, show_call

_ALIASES = {
    "sumwithoverflow": "sum",
    "sumkahan": "sum",
    "count": "sum",
    "any_value": "any",
    "any_respect_nulls": "any",
    "first_value": "any",
    "anylast_respect_nulls": "anyLast",
    "last_value": "anyLast",
    "bit_and": "groupBitAnd",
    "bit_or": "groupBitOr",
    "bit_xor": "groupBitXor",
}
_MERGEABLE = {
    "sum": "sum",
    "min": "min",
    "max": "max",
    "any": "any",
    "anylast": "anyLast",
    "groupbitand": "groupBitAnd",
    "groupbitor": "groupBitOr",
    "groupbitxor": "groupBitXor",
    "grouparray": "groupArrayArray",
    "grouparrayarray": "groupArrayArray",
    "groupuniqarray": "groupUniqArrayArray",
    "groupuniqarrayarray": "groupUniqArrayArray",
    "summap": "sumMap",
    "summappedarrays": "sumMap",
    "minmap": "minMap",
    "minmappedarrays": "minMap",
    "maxmap": "maxMap",
    "maxmappedarrays": "maxMap",
}
# Functions whose states depend on the order in which they are merged. Chunks are merged in any order.
_ORDERED_STATES = re.compile(r"(?:deltaSum|groupArrayMoving|exponentialMoving|groupArrayLast)\w*", re.IGNORECASE)
# Functions whose states keep a selection of values. Merged selections are not the selection from all values.
_SELECTING_STATES = re.compile(r"(?:topK|approx_top|histogram|groupArraySample|anyHeavy)\w*", re.IGNORECASE)
_STATE_TYPE = re.compile(r"AggregateFunction\(\s*(?:\d+\s*,\s*)?(\w+)")
_SIMPLE_TYPE = re.compile(r"SimpleAggregateFunction\(\s*(\w+)")
_SUMMABLE = re.compile(r"U?Int\d+|Float\d+|BFloat16|Decimal\d*\(.*\)|Bool")
_LEAST_IS_DEFAULT = re.compile(r"UInt\d+|Date|DateTime(?:\(.*\))?|Bool|String|FixedString\(.*\)")
_DEFAULT_COUNTS = frozenset({"min", "max", "any", "anyLast", "groupBitAnd"})


class Merge(NamedTuple):
    """
    How the parts of a value are merged.

    Attributes:
        by: The function that merges the parts, ``state`` for aggregate states, or ``key`` for a value without parts;
            empty if the parts cannot be merged.
        why: The reason why the parts cannot be merged; otherwise empty.
        type: The type of the states; otherwise empty.
    """

    by: str
    why: str = ""
    type: str = ""


def merge_of(value: Value, known: dict[int, Merge] | None = None) -> Merge:
    """
    Return how the parts of a value from several chunks are merged, or why the parts cannot be merged.

    Args:
        known: The results for values that were judged before, by ``id()``; a subquery's column may be used many times.
    """
    known = {} if known is None else known
    if id(value) not in known:
        known[id(value)] = _merge_of(value, known)
    return known[id(value)]


def _merge_of(value: Value, known: dict[int, Merge]) -> Merge:
    if not is_partial(value):
        return Merge("key")
    if value.what == "aggregate":
        return _aggregate_merge(value, known)
    parts = [arg for arg in value.args if is_partial(arg)]
    merges = [merge_of(arg, known) for arg in parts]
    refused = next((merge for merge in merges if not merge.by), None)
    if refused is not None:
        return refused
    if value.what == "either":
        if len({merge.by for merge in merges}) == 1 and len(parts) == len(value.args):
            return merges[0]
        return Merge("", "the branches of a UNION give it in different ways")
    if value.what == "call" and len({merge.by for merge in merges}) == 1 and passes(value, parts, merges[0].by):
        return _finalised(merges[0].type) if value.name == "finalizeAggregation" else merges[0]
    return Merge("", f"{show_call(value)} of parts is not the part of {show_call(value)} of the whole")


def _finalised(state: str) -> Merge:
    """Return how the finalised values of states of type *state* are merged, or why the values cannot be merged."""
    match = _STATE_TYPE.match(state)
    name = match[1] if match else ""
    merge = _base_merge(name)
    return Merge(merge, "" if merge else f"{name or 'a state'} is finalised, and final values do not merge")


def _base_merge(name: str) -> str:
    """Return the function that merges values of the aggregate function *name*; empty if its values do not merge."""
    low = name.lower()
    return _MERGEABLE.get(_ALIASES.get(low, low).lower(), "")


# Functions whose result stays the same when a row is repeated.
_REPEATABLE = re.compile(
    r"(?:min|max|any|anyLast|any_value|first_value|last_value|groupBitAnd|groupBitOr|groupUniqArray|uniq|uniqExact"
    r"|uniqHLL12|uniqCombined|uniqCombined64|uniqTheta|groupBitmap)(?:If|State|SimpleState|OrNull)*"
)
# Functions whose results never merge if an argument has parts: a count, and arrays with the argument's values.
_ALONE = frozenset({"count", "grouparray", "groupuniqarray"})
_COMBINATORS = ("If", "Array", "OrNull", "OrDefault")


def _aggregate_merge(value: Value, known: dict[int, Merge]) -> Merge:
    name, args = value.name, value.args
    inner = [arg for arg in args if is_partial(arg)]
    if "over parts" in value.source and not inner and not _REPEATABLE.fullmatch(name):
        # The function would receive a group once for each chunk that has a part of the group.
        return Merge("", f"{name} works on groups of which several chunks have a part")
    if value.type.startswith("AggregateFunction("):
        if _ORDERED_STATES.fullmatch(name):
            return Merge("", f"{name} depends on the order in which its states are merged")
        if _SELECTING_STATES.fullmatch(name):
            return Merge("", f"{name} keeps a selection of values, and merged selections are not that of all values")
        if inner and not name.endswith("MergeState"):
            base = name.removesuffix("State")
            by = _base_merge(base)
            merge = _over(by, name, args, known, alone=base.lower() in _ALONE) if by else _over_parts(name, args)
            return merge._replace(by="state", type=value.type) if merge.by else merge
        return Merge("state", type=value.type)
    if value.type.startswith("SimpleAggregateFunction("):
        match = _SIMPLE_TYPE.match(value.type)
        by = _base_merge(match[1]) if match else ""
        return _over(by, name, args, known) if by else Merge("", f"{value.type} is not known")
    if name.endswith(("Merge", "MergeIf")):
        return _over_parts(name, args) if inner and name.endswith("If") else _finalised(args[0].type if args else "")
    base, combinators = _without_combinators(name)
    by = _base_merge(base)
    if not by:
        return Merge("", f"{name} is final: its value over the whole does not follow from its values over parts")
    if inner and "If" in combinators:
        return _over_parts(name, args)
    if by in _DEFAULT_COUNTS and not ("OrNull" in combinators or value.type.startswith("Nullable(")):
        # Without rows, the function returns the type's default, and the merge would treat the default as a value.
        harmless = by == "max" and _LEAST_IS_DEFAULT.fullmatch(unwrap_type(value.type)) is not None
        if not harmless and ("over all" in value.source or "If" in combinators):
            rows = "such rows" if "If" in combinators else "rows"
            return Merge("", f"{name} gives a default for a chunk without {rows}, and that would be merged as a value")
    return _over(by, name, args, known, alone=base.lower() in _ALONE)


def _without_combinators(name: str) -> tuple[str, set[str]]:
    combinators: set[str] = set()
    while True:
        found = next((one for one in _COMBINATORS if name.endswith(one) and _base_root(name, one)), None)
        if found is None:
            return name, combinators
        combinators.add(found)
        name = name.removesuffix(found)


def _base_root(base: str, combinator: str) -> bool:
    """
    Return whether *base* without *combinator* is still the name of a function.

    An example is ``sumArray``. A counterexample is ``groupArray``, because ``group`` is not a function.
    """
    root = base.removesuffix(combinator)
    return bool(root) and not (combinator == "Array" and root.lower() in ("group", "groupuniq"))


def _over(by: str, name: str, args: Sequence[Value], known: dict[int, Merge], *, alone: bool = False) -> Merge:
    """
    Return the merge *by* for the results of the function *name*, or why the results do not merge.

    If an argument has parts, the results merge only if all arguments have parts that merge by *by*.

    Args:
        alone: Whether the results of the function never merge if an argument has parts.
    """
    inner = [merge_of(arg, known) for arg in args if is_partial(arg)]
    if not inner:
        return Merge(by)
    if alone or any(merge.by != by for merge in inner) or len(inner) != len(args):
        return _over_parts(name, args)
    return Merge(by)


def _over_parts(name: str, args: Sequence[Value]) -> Merge:
    of = next((show_call(arg) for arg in args if is_partial(arg)), "parts")
    return Merge("", f"{name} works on {of}, of which each chunk has a part")


MERGING = frozenset(f"{kind}MergeTree" for kind in ("Summing", "Aggregating", "Replacing", "Coalescing"))


def key_columns(key: str) -> list[str]:
    """Return the elements of a sorting or partition key; the name of a plain column has no backticks."""
    return [element.strip("`") for element in expressions(key)]


def _arguments(engine_full: str) -> list[str]:
    """Return the column arguments of an engine; quoted arguments, such as a replica's path and name, are left out."""
    if not re.match(r"\w+\(", engine_full):
        return []
    flat = re.sub(r"'(?:[^'\\]|\\.){0,400}'", "", first_parentheses(engine_full))
    return [part.strip(" `()") for part in flat.split(",") if part.strip(" `()")]


def summed_columns(target: TableFacts, engine: str) -> frozenset[str] | None:
    """
    Return the columns that a SummingMergeTree lists.

    Return None if the engine has no list of columns, because the engine then sums all numeric columns outside the
    key. Return None also for any other engine.
    """
    return frozenset(_arguments(target.engine_full)) or None if engine == "SummingMergeTree" else None


def merged_by(column: Column, engine: str, summed: frozenset[str] | None) -> str:
    """
    Return how the target merges a column outside its key.

    Returns:
        The function that merges the values, ``state`` for aggregate states, or ``map`` for a nested column that a
        SummingMergeTree merges by key. Empty if the target keeps one of the values, or merges in an unknown way.
    """
    if engine not in ("SummingMergeTree", "AggregatingMergeTree"):
        return ""
    table, _, _ = column.name.partition(".")
    if engine == "SummingMergeTree" and "." in column.name and table.endswith("Map"):
        return "map"
    if summed is not None and column.name not in summed:
        return ""
    if (simple := _SIMPLE_TYPE.match(column.type)) is not None:
        return _base_merge(simple[1])
    if column.type.startswith("AggregateFunction("):
        return "state"
    return "sum" if engine == "SummingMergeTree" and _SUMMABLE.fullmatch(unwrap_type(column.type)) else ""


def state_function(state: str) -> str:
    """Return the function of a state type, without combinators that do not affect merging; empty for any other type."""
    match = _STATE_TYPE.match(state)
    name = match[1] if match else ""
    return re.sub(r"(?:If|Array|Merge|State)+$", "", name) or name


def follows(value: Value, known: set[Value]) -> bool:
    """Return whether rows that agree in all *known* values certainly agree in *value* too."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in seen or one in known or one.what == "constant":
            continue
        if one.what != "call" or not one.args:
            return False
        seen.add(id(one))
        todo.extend(one.args)
    return True


def keeps_latest(target: TableFacts, filled: Sequence[Column], columns: Mapping[str, Value]) -> bool:
    """
    Return whether the chunks and the target together keep the latest row of each group.

    This holds if the version column of the ReplacingMergeTree *target* is a ``max``, and all other columns outside
    the key come from the row with this maximum or from the keys. The engine then keeps the latest of the chunks' rows.
    """
    version = _arguments(target.engine_full)
    if not version or version[0] not in columns:
        return False
    highest = columns[version[0]]
    if highest.what != "aggregate" or highest.name != "max" or _partial_args(highest):
        return False
    rest = [columns[column.name] for column in filled if column.name != version[0] and not column.in_key]
    return all(_is_of_latest(value, highest) for value in rest)


def _is_of_latest(value: Value, highest: Value) -> bool:
    """Return whether a value is a function of the keys, of *highest*, and of the row that has *highest*."""
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if id(one) in seen or one == highest or not is_partial(one):
            continue
        seen.add(id(one))
        if one.what == "call":
            todo.extend(one.args)
            continue
        # argMax skips NULLs. With a nullable argument, the value may therefore come from an earlier row, and is NULL if
        # a chunk has only NULLs.
        latest = one.name == "argMax" and one.args[1:] == highest.args and not takes_null(one.args[0].type)
        if one.what != "aggregate" or not latest or _partial_args(one):
            return False
    return True


def _partial_args(value: Value) -> bool:
    return any(map(is_partial, value.args))


def may_erase(target: TableFacts, columns: Sequence[str]) -> bool:
    """
    Return whether merges of the target may remove a row and leave no row with the same values in *columns*.

    Merges of a plain MergeTree keep every row. The other engines keep a row for each sorting key, unless the rows of a
    key cancel each other: the engine collapses pairs of signs, drops sums of zero, or cleans up rows marked as deleted.
    """
    engine = without_replication(target)
    if expires(target):
        return True
    if engine in ("AggregatingMergeTree", "CoalescingMergeTree", "ReplacingMergeTree"):
        # The second argument of a ReplacingMergeTree is the column that marks rows as deleted.
        cleans_up = engine == "ReplacingMergeTree" and len(_arguments(target.engine_full)) > 1
        return cleans_up or not set(columns).issubset(key_columns(target.sorting_key))
    return engine != "MergeTree"


def merges_keep_times(plan: Plan, target: TableFacts) -> bool:
    """
    Return whether merges combine only rows with the same time, so that they change the rows of no other time.

    This holds for a plain MergeTree, which combines no rows, and if the target's time column is in the sorting key.
    TTLs are not considered.
    """
    time = plan.target_time.column if plan.target_time is not None else ""
    return without_replication(target) == "MergeTree" or time in key_columns(target.sorting_key)


def expires(target: TableFacts) -> bool:
    """Return whether the target has TTLs that delete or roll up rows, or reset columns."""
    return bool(row_ttls(target.engine_full)) or any(column_ttls(target.definition))


def without_replication(target: TableFacts) -> str:
    """Return the target's engine without the prefix that tells how the table is replicated."""
    return re.sub("^(Replicated|Shared)", "", target.engine)


def verify_caveat(plan: Plan, target: TableFacts, chance: Sequence[str] = ()) -> str:
    """
    Return the reason why a difference that ``verify`` finds may be harmless; empty if every difference is an error.

    Args:
        chance: The non-repeatable functions by which the SELECTs choose rows, and ``LIMIT`` for a LIMIT without
            ORDER BY.
    """
    if caveat := _caveat_of_keys(plan, target, chance):
        return caveat
    if _is_collapsing(target):
        return "which of several rows with one key and one sign stays depends on the order in which they came"
    return ""


def signs_tell(plan: Plan, target: TableFacts, chance: Sequence[str] = ()) -> bool:
    """Return whether target and SELECT must agree in the sum of each key's signs; False for a target without signs."""
    return _is_collapsing(target) and not _caveat_of_keys(plan, target, chance)


def _is_collapsing(target: TableFacts) -> bool:
    return without_replication(target) == "CollapsingMergeTree"


def _caveat_of_keys(plan: Plan, target: TableFacts, chance: Sequence[str]) -> str:
    """Return why a key's rows in target and SELECT may differ, or cannot be compared; empty if the rows must agree."""
    engine = without_replication(target)
    if not engine.endswith("MergeTree"):
        return f"no private table like a {target.engine} can be made to compare with"
    if plan.existing_rows and plan.adds_rows:
        return f"the window held {plan.existing_rows} other rows before"
    if chance:
        return f"the SELECT chooses rows by {', '.join(chance)}, so it gives others when it is asked again"
    if engine == "MergeTree":
        return ""
    time = plan.target_time.column if plan.target_time is not None else ""
    if not re.search(rf"(?<![\w`])`?{re.escape(time)}`?(?!\w)", target.sorting_key) if time else True:
        return "the sorting key has no time, so rows of other windows may have been merged with those of this one"
    arguments = re.match(r"\w+\(([^()]*)\)", re.sub(r"'[^']*'\s*,?\s*", "", target.engine_full))
    if engine == "ReplacingMergeTree" and not (arguments and arguments[1].strip()):
        return "the target has no version, so which of several rows with one key stays is left to chance"
    return ""
