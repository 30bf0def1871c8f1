"""
Check that a plan's chunk bounds suit its SELECTs and the target's partitions, and find bounds that suit them.

The functions ask the server for the values that the rules of ``core.adding_up`` need to judge a SELECT.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
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
from ..errors import Advice, Flag, MisalignedError, RequestError, StatementRefusedError

# Common chunk lengths in hours. A search for fitting bounds tries these lengths first, then calendar units.
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
        One verdict per statement, in the plan's order. No verdict has a refusal.

    Raises:
        MisalignedError: A bound would cut a group, a partition or a value of a parameter, or a chunk spans several
            values of a parameter. The error proposes bounds that fit, if any are known.
        RequestError: Chunks would not add up, partitions cannot be replaced, or two chunks have equal parameter values.
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
    """
    Return the values that ``--param`` gives to a SELECT's constants in sampled chunks, by the constant's id.

    The result is empty unless the formats of the parameters give each chunk a different text.
    """
    if not tell_chunks_by_text(statement.parameters, bounds):
        return {}
    chunks = [(from_ms(bounds[number]), from_ms(bounds[number + 1])) for number in sampled_chunks(len(bounds) - 1)]
    values = [{**statement.settings, **parameter_settings(statement.parameters, *chunk)} for chunk in chunks]
    return constants_by_chunk(server, statement.select, scan.tree, values)


class _PartitionKey(NamedTuple):
    """
    The elements of the target's partition key that depend only on the time of the sources.

    Attributes:
        of_target: SQL over the target's columns.
        of_source: SQL over the time column of the source; one expression for each branch of a UNION.
    """

    of_target: str
    of_source: BucketKey


class _Judge:
    """A judge of statements for one set of bounds. The server answers the rules' questions; the answers are kept."""

    def __init__(self, server: ClickHouse, target: TableFacts, plan: Plan, bounds: Sequence[int]) -> None:
        self._server, self._target, self._plan, self._bounds = server, target, plan, bounds
        self.answers: dict[BucketKey, BucketFacts] = {}

    def verdict(self, statement: Statement, scan: ScanFacts) -> Verdict:
        """Return the verdict on a statement, with labels also for defaults that use a single labelled column."""
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
    """
    Return a set of edges, in milliseconds, for each time key that chunk bounds must not cut; empty without such keys.

    The edges lie between *start* and *end*, both excluded. For a UNION, a set has the edges that all branches share.
    """
    return [
        set.intersection(*(set(bucket.between(start, end)) for bucket in _buckets(server, key, scan.times)))
        for key in keys_to_keep_whole(_case(target, plan, statement, scan))
    ]


def may_cut_by_key(plan: Plan, target: TableFacts, scans: Sequence[ScanFacts]) -> bool:
    """
    Return whether the rows of one chunk window may be divided by the source's sorting key.

    The plan must not replace partitions, and must filter a single table, which each statement reads once. The
    statements must add up whichever way the source is cut.
    """
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
    """
    Return the partition starts that all statements share, in milliseconds and in time order.

    Both *start* and *end* are excluded. Raise RequestError if no element of the partition key follows from the time.
    """
    edges = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        verdict = _Judge(server, target, plan, [start, end]).verdict(statement, scan)
        key = partition_key(server, target, scan, verdict).of_source
        edges += [set(bucket.between(start, end)) for bucket in _buckets(server, key, scan.times)]
    return sorted(set.intersection(*edges))


def to_partitions(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], bounds: Sequence[int]
) -> list[int]:
    """
    Return the bounds, with each inner bound moved to the nearest partition start if a SELECT relabels the time.

    A SELECT relabels the time if it computes the partition key's columns from the source's time, as in a roll-up by
    local day. The bounds stay unchanged if no SELECT relabels the time, if no partition starts inside the window, or if
    two bounds would move to the same partition start.
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
    Return the plan, with the derivation of the target's time if rows may have a target time outside their chunk.

    The plan is returned unchanged if it does not replace partitions, or if its target has no time column.

    Raises:
        RequestError: The statements of the plan, or branches of a UNION, compute the target's time differently.
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
    """
    Refuse chunks that cannot be published by replacing whole partitions of the target.

    Raises:
        MisalignedError: A bound lies inside a partition; an end of the window is exempt if the target loses no row.
        RequestError: The target has no time column, its partition key does not follow from the time, its time does not
            show the rows to keep outside the window, or several chunks give rows of one partition.
    """
    of_target, key = partition_key(server, target, scan, verdict)
    if plan.target_time is None:
        raise RequestError(
            f"{target.name} has no time column, so its partitions may hold rows outside of a "
            "chunk, which replacing them would delete.",
            remedy=Advice("omit {}", Flag("--write-mode", WriteMode.REPLACE)),
        )
    if plan.keep_outside:
        _check_kept(server, target, plan, scan, verdict, bounds)
    facts = bucket_facts(server, key, scan.times, bounds)
    held, again = bounds, facts.again
    if plan.keep_outside:  # The ends of the window may cut a partition, because their chunks keep the rows outside.
        held = bounds[1:-1]
        facts = bucket_facts(server, key, scan.times, held) if held else BucketFacts()
    while facts.cut is not None and to_ms(facts.cut) in (bounds[0], bounds[-1]):
        # This end of the window cuts a partition. If the target has no rows in the partition, nothing can be lost.
        value = value_at(server, key, scan.times, facts.cut)
        if catalog.count_rows(server, target.storage, f"toString({of_target}) IN ({value})"):
            break
        held = held[1:] if to_ms(facts.cut) == held[0] else held[:-1]
        facts = bucket_facts(server, key, scan.times, held) if held else BucketFacts()
    if facts.cut is not None:
        window, chunking = _fitting(server, plan, key, scan.times)
        # Propose chunks by partition, unless a length of at most 24 hours fits.
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
    if again:
        raise RequestError(
            f"Several chunks give rows of the partition {again} of {target.name} ({target.partition_key}), "
            "so each would overwrite what the others have written.",
            remedy=Advice("omit {}, or plan the window as one chunk", Flag("--write-mode", WriteMode.REPLACE)),
        )


def _check_kept(
    server: ClickHouse, target: TableFacts, plan: Plan, scan: ScanFacts, verdict: Verdict, bounds: Sequence[int]
) -> None:
    """Raise RequestError if the target's time does not show which rows lie outside the window."""
    time = plan.target_time
    label = verdict.labels.get(time.column) if time is not None else None
    if time is None or label is None or labels_leave_chunk(server, label, scan.times, bounds, time.kind):
        column = "no time column" if time is None else f"{time.column}, which is not the time that chunks are cut by"
        raise RequestError(
            f"--keep-outside tells the rows of {target.name} outside the window by {column}, so rows of the window "
            "would be kept beside the new ones.",
            remedy=Advice("give a window of whole partitions and omit {}", Flag("--keep-outside")),
        )


def partition_key(server: ClickHouse, target: TableFacts, scan: ScanFacts, verdict: Verdict) -> _PartitionKey:
    """Return the partition key's elements that depend only on the source's time; raise RequestError if none does."""
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
        # Two chunks share a partition only if they share the values of all elements.
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
    """Return *labels*, and labels of unfilled columns with a repeatable default that uses a single labelled column."""
    found = dict(labels)
    # A default may use an earlier column that has a default, too.
    for column in target.columns:
        used = _columns_in(target, column.default) if column.default and column.name not in statement.columns else []
        changes = any(UNSTABLE.fullmatch(name) for name in re.findall(r"\w+", column.default))
        if len(used) == 1 and used[0] in found and not changes:
            found[column.name] = _label_of(target, column.default, used[0], found[used[0]])
    return found


def _label_of(target: TableFacts, expression: str, name: str, labels: BucketKey) -> BucketKey:
    """Return *expression* over the target's column *name* as SQL over the source's time, for each of *labels*."""
    column = target.column(name)
    kind = column.type if column is not None else ""
    return tuple(
        TimeExpression(label.table, _applied(expression, name, f"CAST({label.sql} AS {kind})")) for label in labels
    )


def _partition_elements(target: TableFacts) -> list[str]:
    """Return the partition key and each of its elements, without duplicates; empty for a table without a key."""
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
    """Return SQL for *expression* with the SQL *value* in place of *column*."""
    if expression in (column, quote(column)):
        return value
    return f"arrayMap({quote(column)} -> ({expression}), [{value}])[1]"


def _fitting(server: ClickHouse, plan: Plan, key: BucketKey, times: _Times) -> tuple[tuple[Flag, ...], Chunking]:
    """
    Propose a window and a chunking that put every chunk bound on an edge of a time key.

    Returns:
        The flags of the window, extended to the nearest edges; empty if the plan's window fits. The second value is
        the first common chunking that fits, or a single chunk for the window if none fits.
    """
    bucket = TimeBuckets(server, key[0].sql, times[key[0].table])
    start, end = plan.start, plan.end
    with suppress(StatementRefusedError):  # A bucket with an origin has no values before it.
        start, end = bucket.around(start)[0] or start, bucket.around(end)[1] or end
    own = (start, end) == (plan.start, plan.end)
    window = () if own else (Flag("--from", short_instant(start)), Flag("--to", short_instant(end)))
    for chunking in _usual_lengths(plan, bucket.zones):
        bounds = [to_ms(start), *(to_ms(until) for _, until in chunking.slices(start, end))]
        # Skip lengths that give a single chunk; for a single chunk, the window's own length is returned below.
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
