"""
Check that a plan's chunk bounds suit its SELECTs and the target's partitions.

The functions ask the server for values and pass these to the rules, which decide.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from typing import NamedTuple

from ..clickhouse import catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.query_tree import constants_by_chunk
from ..clickhouse.time_buckets import TimeBuckets, bucket_facts, labels_leave_chunk, value_at
from ..core.adding_up.case import BucketFacts, BucketKey, Case, Question, TimeExpression, Verdict
from ..core.adding_up.judge import judge, keys_to_keep_whole, merges_any_parts
from ..core.adding_up.lineage import UNSTABLE
from ..core.adding_up.placed import sampled_chunks
from ..core.chunking import Chunking, Unit
from ..core.facts import ScanFacts, TableFacts, TimeColumn
from ..core.instants import MS_PER_DAY, from_ms, render_instant, short_instant, to_ms
from ..core.names import quote
from ..core.parameters import check_parameters, parameter_settings, tell_chunks_by_text
from ..core.plan import Plan, Statement, TimeLabel, WriteMode
from ..core.remedy import pass_flags
from ..core.sql import expressions
from ..core.tables import TableName, TimeKind
from ..errors import Advice, Flag, MisalignedError, RequestError

# Common chunk lengths, of which a fitting one is proposed.
_CHUNK_HOURS = (0.25, 0.5, 1, 2, 3, 4, 6, 8, 12, 24)
_Times = Mapping[TableName, TimeColumn]


def check_bounds(
    server: ClickHouse,
    target: TableFacts,
    plan: Plan,
    scans: Sequence[ScanFacts],
    bounds: Sequence[int] | None = None,
) -> list[Verdict]:
    """
    Check that the chunk bounds suit a plan's SELECTs and the partitions to be replaced.

    Args:
        bounds: Bounds in milliseconds; None for the plan's bounds.

    Returns:
        The verdict on each statement, without refusals.

    Raises:
        RequestError: The chunks would not add up, or a bound would cut a partition. The hint proposes bounds that fit.
    """
    bounds = plan.bounds_ms() if bounds is None else bounds
    judged = _Judge(server, target, plan, bounds)
    verdicts = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        check_parameters(statement.parameters, bounds, statement.name)
        verdict = judged.verdict(statement, scan)
        if verdict.refusal is not None:
            refusal = verdict.refusal
            if refusal.proposal:
                raise MisalignedError(refusal.message, proposal=refusal.proposal, remedy=refusal.remedy)
            raise RequestError(refusal.message, remedy=refusal.remedy)
        verdicts.append(verdict)
    if plan.write_mode is WriteMode.REPLACE:
        for scan, verdict in zip(scans, verdicts, strict=True):
            _check_partitions(server, target, plan, scan, verdict, bounds)
    return verdicts


def _case(
    target: TableFacts,
    plan: Plan,
    statement: Statement,
    scan: ScanFacts,
    *,
    one_chunk: bool = False,
    given: Mapping[int, tuple[str, ...]] | None = None,
) -> Case:
    return Case(
        name=statement.name,
        tree=scan.tree,
        sources=scan.sources,
        filters={table: time.name for table, time in scan.times.items()},
        target=target,
        columns=statement.columns,
        target_time=plan.target_time.column if plan.target_time is not None else "",
        whole=frozenset(plan.whole_tables),
        accept_groups=plan.adds_up is not None and bool(plan.adds_up.accepted),
        one_chunk=one_chunk,
        given=given or {},
    )


def _given(
    server: ClickHouse, statement: Statement, scan: ScanFacts, bounds: Sequence[int]
) -> dict[int, tuple[str, ...]]:
    """Return the constants of a SELECT that change from chunk to chunk by ``--param`` formats alone."""
    if not tell_chunks_by_text(statement.parameters, bounds):
        return {}
    chunks = [(from_ms(bounds[number]), from_ms(bounds[number + 1])) for number in sampled_chunks(len(bounds) - 1)]
    values = [parameter_settings(statement.parameters, *chunk) for chunk in chunks]
    return constants_by_chunk(server, statement.select, scan.tree, values)


class _PartitionKey(NamedTuple):
    """
    The time-dependent elements of the target's partition key, as SQL over the target's and over the
    sources' columns.
    """

    of_target: str
    of_source: BucketKey


class _Judge:
    """Applies the rules, answers their questions by the server, and keeps the answers for one set of bounds."""

    def __init__(self, server: ClickHouse, target: TableFacts, plan: Plan, bounds: Sequence[int]) -> None:
        self._server, self._target, self._plan, self._bounds = server, target, plan, bounds
        self.answers: dict[BucketKey, BucketFacts] = {}

    def verdict(self, statement: Statement, scan: ScanFacts) -> Verdict:
        """Judge a statement, asking the server for each key that the rules need."""
        plan = self._plan
        given = _given(self._server, statement, scan, self._bounds)
        case = _case(self._target, plan, statement, scan, one_chunk=len(self._bounds) == 2, given=given)
        while isinstance(answer := judge(case, self.answers), Question):
            facts = bucket_facts(self._server, answer.key, scan.times, self._bounds)
            if facts.cut is not None:
                window, chunking = _fitting(self._server, plan, answer.key, scan.times)
                facts = replace(facts, proposal=window + chunking.flags)
            self.answers[answer.key] = facts
        return replace(answer, labels=_with_defaults(self._target, statement, answer.labels))


def statement_edges(
    server: ClickHouse, target: TableFacts, plan: Plan, statement: Statement, scan: ScanFacts, start: int, end: int
) -> list[set[int]]:
    """Return, for each time key that chunks must not cut, the edges between *start* and *end*, in milliseconds."""
    return [
        set.intersection(*(set(bucket.between(start, end)) for bucket in _buckets(server, key, scan.times)))
        for key in keys_to_keep_whole(_case(target, plan, statement, scan))
    ]


def may_cut_by_key(plan: Plan, target: TableFacts, scans: Sequence[ScanFacts]) -> bool:
    """Return whether one window may be processed in parts by key."""
    return (
        len({table.table for statement in plan.statements for table in plan.filters(statement)}) == 1
        and plan.write_mode is not WriteMode.REPLACE
        and all(
            scan.reads == 1 and merges_any_parts(_case(target, plan, statement, scan))
            for statement, scan in zip(plan.statements, scans, strict=True)
        )
    )


def partition_edges(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], start: int, end: int
) -> list[int]:
    """Return the partition starts that all statements share, between *start* and *end* (excluded), in milliseconds."""
    edges = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        verdict = _Judge(server, target, plan, [start, end]).verdict(statement, scan)
        key = _partition_key(server, target, scan, verdict).of_source
        edges += [set(bucket.between(start, end)) for bucket in _buckets(server, key, scan.times)]
    return sorted(set.intersection(*edges))


def to_partitions(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], bounds: Sequence[int]
) -> list[int]:
    """
    Move the inner bounds to starts of partitions, if the SELECT labels rows by another time.

    For example, local days of a roll-up start at other instants than UTC days. Bounds stay unchanged if they fit, if
    partitions are longer than chunks, or if the label is the time itself.
    """
    if len(bounds) < 3 or not any(
        _is_relabelled(server, target, plan, *both) for both in zip(plan.statements, scans, strict=True)
    ):
        return list(bounds)
    edges = partition_edges(server, target, plan, scans, bounds[0], bounds[-1])
    moved = [min(edges, key=lambda edge: abs(edge - bound)) for bound in bounds[1:-1]] if edges else []
    return [bounds[0], *moved, bounds[-1]] if moved and len(set(moved)) == len(moved) else list(bounds)


def _is_relabelled(server: ClickHouse, target: TableFacts, plan: Plan, statement: Statement, scan: ScanFacts) -> bool:
    verdict = _Judge(server, target, plan, plan.bounds_ms()[:2]).verdict(statement, scan)
    names = {time.name for time in scan.times.values()}
    used = _labels_used(target, verdict)
    return bool(used) and not any(label.sql in names for column in used for label in verdict.labels[column])


def with_label(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], verdicts: Sequence[Verdict]
) -> Plan:
    """
    Add to the plan the label of the target's time, if rows may have a target time outside their chunk.

    Raises:
        RequestError: The plan replaces partitions, and its statements label rows in different ways.
    """
    time = plan.target_time
    if time is None or plan.write_mode is not WriteMode.REPLACE:
        return plan
    labels: set[tuple[str, str, str, TimeKind] | None] = set()
    for scan, verdict in zip(scans, verdicts, strict=True):
        for label in verdict.labels.get(time.column, ()):
            if labels_leave_chunk(server, (label,), scan.times, plan.bounds_ms(), time.kind):
                name, kind, stored = scan.times[label.table]
                column = target.column(time.column)
                value = f"CAST({label.sql} AS {column.type})" if column is not None else label.sql
                labels.add((value, name, kind, stored))
            else:
                labels.add(None)
    if len(labels) > 1:
        raise RequestError(
            f"The statements of the plan give {time.column} of {target.name} in different ways, so it is unknown "
            "which of its rows a chunk replaces.",
            remedy=Advice(
                "plan them one by one with {}, or omit {}",
                Flag("--select"),
                Flag("--write-mode", WriteMode.REPLACE),
            ),
        )
    found = next(iter(labels), None)
    if found is None:
        return plan
    expression, name, kind, stored = found
    named = TimeLabel(expression=expression, column=name, type=kind, kind=stored)
    return plan.model_copy(update={"target_time": time.model_copy(update={"label": named})})


def _buckets(server: ClickHouse, key: BucketKey, times: _Times) -> Iterator[TimeBuckets]:
    return (TimeBuckets(server, expression.sql, times[expression.table]) for expression in key)


def _check_partitions(
    server: ClickHouse, target: TableFacts, plan: Plan, scan: ScanFacts, verdict: Verdict, bounds: Sequence[int]
) -> None:
    """Refuse chunks whose rows share a partition of the target."""
    of_target, key = _partition_key(server, target, scan, verdict)
    if plan.target_time is None:
        raise RequestError(
            f"{target.name} has no time column, so its partitions may hold rows outside of a "
            "chunk, which replacing them would delete.",
            remedy=Advice("omit {}", Flag("--write-mode", WriteMode.REPLACE)),
        )
    if plan.keep_outside:
        _check_kept(server, target, plan, scan, verdict, bounds)
    # Only the ends of the window may cut a partition: their chunks keep the rows outside.
    held = bounds[1:-1] if plan.keep_outside else bounds
    facts = bucket_facts(server, key, scan.times, held) if held else BucketFacts()
    ends = {bounds[0], bounds[-1]} & {held[0], held[-1]} if held else set()
    while facts.cut is not None and to_ms(facts.cut) in ends and len(held) > 1:
        # If the target has no rows of that partition, the end of the window loses nothing.
        value = value_at(server, key, scan.times, facts.cut)
        if catalog.count_rows(server, target.storage, f"toString({of_target}) IN ({value})"):
            break
        ends.discard(to_ms(facts.cut))
        held = held[1:] if to_ms(facts.cut) == held[0] else held[:-1]
        facts = bucket_facts(server, key, scan.times, held)
    if facts.cut is not None and len(held) > 1:
        window, chunking = _fitting(server, plan, key, scan.times)
        # For lengths beyond a day, the table's partitions fit best.
        short = chunking.hours is not None and chunking.hours <= _CHUNK_HOURS[-1]
        proposal = window + (chunking if short else Chunking(unit=Unit.PARTITION)).flags
        fitting = pass_flags(proposal)
        outside = Advice("{}, or {} to keep the rows outside the window", fitting, Flag("--keep-outside"))
        raise MisalignedError(
            f"The chunk bound {render_instant(facts.cut)} lies inside a partition of {target.name} "
            f"({target.partition_key}), and only whole partitions can be replaced.",
            proposal=proposal,
            remedy=fitting if plan.keep_outside else outside,
        )
    if facts.again:
        raise RequestError(
            f"Several chunks give rows of the partition {facts.again} of {target.name} ({target.partition_key}), "
            "so each would overwrite what the others have written.",
            remedy=Advice("omit {}, or plan the window as one chunk", Flag("--write-mode", WriteMode.REPLACE)),
        )


def _check_kept(
    server: ClickHouse, target: TableFacts, plan: Plan, scan: ScanFacts, verdict: Verdict, bounds: Sequence[int]
) -> None:
    """Refuse to keep rows outside a window if the target's time column does not show the window."""
    time = plan.target_time
    label = verdict.labels.get(time.column) if time is not None else None
    if time is None or label is None or labels_leave_chunk(server, label, scan.times, bounds, time.kind):
        column = "no time column" if time is None else f"{time.column}, which is not the time that chunks are cut by"
        raise RequestError(
            f"--keep-outside tells the rows of {target.name} outside the window by {column}, so rows of the window "
            "would be kept beside the new ones.",
            remedy=Advice("give a window of whole partitions and omit {}", Flag("--keep-outside")),
        )


def _partition_key(server: ClickHouse, target: TableFacts, scan: ScanFacts, verdict: Verdict) -> _PartitionKey:
    """Derive the target's partition key from the time that the chunks are cut by."""
    if not verdict.labels:
        raise RequestError(
            f"{target.name} has no time column that follows from the time that the window applies to, so it cannot "
            "be told which partitions a window covers.",
            remedy=Advice("omit {}", Flag("--write-mode", WriteMode.REPLACE)),
        )
    found: dict[tuple[TableName, ...], dict[str, BucketKey]] = {}
    for element in _partition_elements(target):
        used = _columns_in(target, element)
        if len(used) != 1 or used[0] not in verdict.labels:
            continue
        key = _label_of(target, element, used[0], verdict.labels[used[0]])
        if bucket_facts(server, key, scan.times, [0, MS_PER_DAY]).usable:
            found.setdefault(tuple(expression.table for expression in key), {})[element] = key
    for tables, keys in found.items():
        # Chunks share a partition only if they share the value of each element.
        values = (_tuple_of([key[branch].sql for key in keys.values()]) for branch in range(len(tables)))
        return _PartitionKey(_tuple_of(list(keys)), tuple(map(TimeExpression, tables, values)))
    raise RequestError(
        f"The partition key of {target.name} ({target.partition_key or 'none'}) does not follow from the time "
        "that the window applies to, so a window covers no whole partitions.",
        remedy=Advice("omit {}", Flag("--write-mode", WriteMode.REPLACE)),
    )


def _with_defaults(
    target: TableFacts, statement: Statement, labels: Mapping[str, BucketKey]
) -> Mapping[str, BucketKey]:
    """Return the labels, including those of columns that the target computes from a labelled column."""
    found = dict(labels)
    # A default may use an earlier column that has a default, too.
    for column in target.columns:
        used = _columns_in(target, column.default) if column.default and column.name not in statement.columns else []
        changes = any(UNSTABLE.fullmatch(name) for name in re.findall(r"\w+", column.default))
        if len(used) == 1 and used[0] in found and not changes:
            found[column.name] = _label_of(target, column.default, used[0], found[used[0]])
    return found


def _label_of(target: TableFacts, expression: str, name: str, labels: BucketKey) -> BucketKey:
    """Return an expression over the target's column, applied to the SELECT's value of that column."""
    column = target.column(name)
    kind = column.type if column is not None else ""
    return tuple(
        TimeExpression(label.table, _applied(expression, name, f"CAST({label.sql} AS {kind})")) for label in labels
    )


def _partition_elements(target: TableFacts) -> list[str]:
    """Return the partition key and its elements. Chunks that differ in one element share no partition."""
    return [one for one in dict.fromkeys([target.partition_key, *expressions(target.partition_key)]) if one]


def _tuple_of(values: Sequence[str]) -> str:
    return values[0] if len(values) == 1 else f"tuple({', '.join(values)})"


def _labels_used(target: TableFacts, verdict: Verdict) -> list[str]:
    return [
        name
        for element in _partition_elements(target)
        for name in _columns_in(target, element)
        if name in verdict.labels
    ]


def _columns_in(target: TableFacts, expression: str) -> list[str]:
    return [
        column.name
        for column in target.columns
        if re.search(rf"(?<![\w`]){re.escape(column.name)}(?![\w(`])|{re.escape(quote(column.name))}", expression)
    ]


def _applied(expression: str, column: str, value: str) -> str:
    """Return an expression over a column, with the column replaced by a value."""
    if expression in (column, quote(column)):
        return value
    return f"arrayMap({quote(column)} -> ({expression}), [{value}])[1]"


def _fitting(server: ClickHouse, plan: Plan, key: BucketKey, times: _Times) -> tuple[tuple[Flag, ...], Chunking]:
    """Return flags for the nearest window and length that put every chunk bound on an edge of a key."""
    bucket = TimeBuckets(server, key[0].sql, times[key[0].table])
    start, end = bucket.around(plan.start)[0] or plan.start, bucket.around(plan.end)[1] or plan.end
    own = (start, end) == (plan.start, plan.end)
    window = () if own else (Flag("--from", short_instant(start)), Flag("--to", short_instant(end)))
    for chunking in _usual_lengths(plan, bucket.zones):
        bounds = [to_ms(start), *(to_ms(until) for _, until in chunking.slices(start, end))]
        # For a single chunk, the length of the window counts.
        if len(bounds) > 2 and bucket_facts(server, key, times, bounds).fits:
            return window, chunking
    return window, Chunking(hours=(end - start) / timedelta(hours=1))


def _usual_lengths(plan: Plan, zones: Sequence[str]) -> Iterator[Chunking]:
    """Yield common chunk lengths, none shorter than the plan's: hours, then calendar units in UTC and *zones*."""
    least = plan.chunking.nominal_hours
    for hours in sorted({*_CHUNK_HOURS, *([plan.chunk_hours] if plan.chunk_hours else [])}):
        if least <= hours:
            yield Chunking(hours=hours)
    for unit, months, hours in ((Unit.DAY, 1, 25), (Unit.WEEK, 1, 169), (Unit.MONTH, 1, 745), (Unit.MONTH, 12, 8785)):
        if least <= hours:
            yield from (Chunking(unit=unit, months=months, zone=zone) for zone in ("UTC", *zones))
