"""
Check that the target merges the parts of a group, and that the target's time comes from a filtered table.

The module also finds the columns that the target leaves to chance, and the columns whose defaults may change.
"""

import re
from collections.abc import Iterator, Mapping, Sequence

from ...errors import Advice, Flag
from ..facts import TableFacts
from ..plan import Statement
from ..tables import TableName
from .case import Case, Kind
from .conversions import IDEMPOTENT
from .lineage import UNSTABLE, Value, any_of, of_branch, show_call
from .merging import (
    MERGING,
    follows,
    keeps_latest,
    key_columns,
    merge_of,
    merged_by,
    state_function,
    summed_columns,
)
from .relations import Walk
from .rows import ONE_CHUNK, Cut, RefusedError, Rows
from .widths import cuts_fractions, too_narrow

# A width in bits. A possible overflow of narrower parts is refused. For this width and above, a possible overflow is
# only a doubt, because the trial shows real overflows.
_ENOUGH_BITS = 32
_OR_BUCKETS = Advice(
    "group by a bucket of time as well, or use -State functions and an AggregatingMergeTree target, or {}, "
    "or, where parts of groups are fine, pass {}",
    ONE_CHUNK,
    Flag("--accept-partial-groups", "REASON"),
)


def check_merge(case: Case, walk: Walk, rows: Rows) -> None:
    """
    Check that the target merges the parts of one group from several chunks.

    Raises:
        RefusedError: The target does not merge the parts correctly, and the user has not accepted partial groups. An
            accepted refusal is noted in *walk* instead.
    """
    try:
        for columns in _branch_rows(rows):
            _check_columns(case, walk, rows, columns)
    except RefusedError as refused:
        if not case.accept_groups:
            raise
        walk.waived.append(refused.refusal.message)


def _branch_rows(rows: Rows) -> Iterator[dict[str, Value]]:
    """
    Yield the columns of each branch of the only UNION in *rows*.

    Without a UNION, or with several, yield the columns unchanged.
    """
    unions = {value.source: len(value.args) for value in rows.columns.values() if value.what == "either"}
    if len(unions) != 1:
        yield dict(rows.columns)
        return
    union, count = next(iter(unions.items()))
    for branch in range(count):
        yield {name: of_branch(value, union, branch) for name, value in rows.columns.items()}


def _check_columns(case: Case, walk: Walk, rows: Rows, columns: Mapping[str, Value]) -> None:
    target = case.target
    engine = re.sub(r"^(?:Replicated|Shared)", "", target.engine)
    cut = rows.why or Cut("GROUP BY", "", (), None)

    def refuse(cannot: str, otherwise: str = "") -> RefusedError:
        advice = Advice(f"{otherwise}, or {{}}", way) if otherwise else way
        return RefusedError(Kind.GROUPS, cut.message(case.name, cannot), advice, cut)

    way = (
        Advice(
            "group by the parameter of --param as well, or use -State functions and an AggregatingMergeTree target, "
            "or, where parts of groups are fine, pass {}",
            Flag("--accept-partial-groups", "REASON"),
        )
        if cut.placed
        else _OR_BUCKETS
    )
    if engine not in MERGING:
        raise refuse(f"{target.name} ({target.engine}) cannot merge parts of a result")
    filled = [column for column in target.columns if column.name in case.columns and column.name in columns]
    # The partition key counts as part of the key, because rows of different partitions are never merged.
    whole_key = {*key_columns(target.sorting_key), *key_columns(target.partition_key)}
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
        if by == merge.by == "sum" and cuts_fractions(value.type, column.type):
            raise refuse(
                f"{column.name} ({column.type}) cuts off fractions of each part ({value.type}), "
                "which is not what it cuts off their sum",
                f"give {column.name} a type that holds {value.type}",
            )
        bits = too_narrow(value, by, column.type) if by == merge.by else None
        if bits is not None and bits < _ENOUGH_BITS:
            raise refuse(
                f"the parts of {column.name} go through {bits} bits, where a number that does not fit wraps around, "
                f"and {column.type} merges other numbers of them",
                f"omit the conversion of {show_call(value)}, or give {column.name} that type as well",
            )
        if bits is not None:
            walk.doubts.append(f"whether {show_call(value)} fits into {bits} bits on its way into {column.name}")
        if by == merge.by or {by, merge.by} == {"any", "anyLast"}:
            chance = ", and any of several values is right" if by in ("any", "anyLast") else ""
            walk.steps.append(f"{column.name}: {show_call(value)} of parts, merged by {by}{chance}")
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


def left_to_chance(case: Case, given: Mapping[str, Value]) -> Iterator[str]:
    """
    Yield the columns for which the target keeps an arbitrary one of several values in a merge.

    Yield none unless the target is a SummingMergeTree or an AggregatingMergeTree.
    """
    engine = re.sub(r"^(?:Replicated|Shared)", "", case.target.engine)
    if engine not in ("SummingMergeTree", "AggregatingMergeTree"):
        return
    summed = summed_columns(case.target, engine)
    key = {*key_columns(case.target.sorting_key), *key_columns(case.target.partition_key)}
    known = {value for name, value in given.items() if name in key}
    for column in case.target.columns:
        value = given.get(column.name)
        if value is None or column.name in key or follows(value, known):
            continue
        if not merged_by(column, engine, summed):
            yield column.name


def changing_defaults(target: TableFacts, statements: Sequence[Statement]) -> tuple[str, ...]:
    """
    Return the columns whose default may differ in each evaluation, such as ``DEFAULT now()``.

    A column is left out if all statements give the column and none replaces NULLs in the column by the default.
    """
    given = [set(one.columns) - set(one.defaulted) for one in statements]
    found: list[str] = []
    # A default may use an earlier column with such a default.
    for column in target.columns:
        names = re.findall(r"([A-Za-z_]\w*)(\s*\()?", column.default)
        changes = any(UNSTABLE.fullmatch(name) if called else name in found for name, called in names)
        if changes and any(column.name not in columns for columns in given):
            found.append(column.name)
    return tuple(found)


def check_label(case: Case, walk: Walk, rows: Rows) -> None:
    """
    Check that the target's time comes from a filtered table, or equals a filtered time in a join.

    Raises:
        RefusedError: The time comes only from tables that each chunk reads whole, although the user did not declare
            this for all of these tables.
    """
    value = rows.columns.get(case.target_time)
    if value is None or case.target_time not in case.columns:
        return
    tables: set[TableName] = set()

    def collect(one: Value) -> bool:
        if one.what == "column" and one.table is not None:
            tables.add(one.table)
        return False

    any_of(value, collect)
    # A source that cannot be inspected may hide the filtered table.
    behind = {source.name for source in case.sources.values() if source.opaque}
    if not tables or tables & {*case.filters, *behind} or tables <= case.whole:
        return
    if any(walk.time_key((other,)) for pair in walk.pairs if value in pair for other in pair):
        # A join makes the value equal to a filtered time, for example the day of a calendar to the day of an event.
        return
    of = " and ".join(map(str, sorted(tables)))
    raise RefusedError(
        Kind.READ,
        f"{case.name} is limited by the time of {' and '.join(map(str, case.filters))}, and the target's "
        f"{case.target_time} comes from {of}, which each chunk reads whole.",
        Advice(
            "pass {} to limit that table, or {} if it is meant to be read whole",
            Flag("--filter-table", str(min(tables))),
            Flag("--whole-table", str(min(tables))),
        ),
    )
