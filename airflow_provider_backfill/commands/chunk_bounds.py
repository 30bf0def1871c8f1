"""
Where a plan may have chunk bounds, and where it gets them.

Bounds of hours and calendars follow from the plan's length. Those of partitions are the edges of
the target's partition key; those of limits on rows and bytes lie where the rows of the source say.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from ..clickhouse.client import ClickHouse
from ..clickhouse.source_rows import rows_between, uncompressed_bytes_per_row
from ..core.chunking import Cell, Chunking, Unit, encode_bounds, pack
from ..core.facts import ScanFacts, TableFacts, TableName
from ..core.instants import MS_PER_DAY, from_ms, render_instant, to_ms
from ..core.plan import Plan, WriteMode
from ..core.planner import keys_to_keep_whole
from ..core.sql import parse_table, time_filter
from ..errors import Advice, Flag, RequestError
from . import plan_inputs

_MS_PER_MINUTE = 60_000


def cut(server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts]) -> Plan:
    """
    The plan with its bounds, where they come from data, and the number of its chunks.

    Raises:
        RequestError: The bounds cannot be had: the rows are too many to be counted, the size of a row is
            not known, a chunk would be shorter than the plan allows, or no day of a Date column.
    """
    chunking = plan.chunking
    if not chunking.from_data:
        bounds = plan.bounds_ms()
    else:
        bounds = _base(server, target, plan, chunking)
        if chunking.limited:
            bounds = _by_rows(server, target, plan, scans, bounds)
        plan = plan.model_copy(update={"bounds": encode_bounds(bounds)})
    for statement in plan.statements:
        time_filter(plan.time_column, statement.time_kind, from_ms(bounds[0]), from_ms(bounds[1]))
    return plan.model_copy(update={"chunk_count": len(bounds) - 1})


def _base(server: ClickHouse, target: TableFacts, plan: Plan, chunking: Chunking) -> list[int]:
    """The bounds by length alone."""
    if chunking.unit is not Unit.PARTITION:
        start = to_ms(plan.start)
        return [start, *(to_ms(end) for _, end in chunking.without_limits().slices(plan.start, plan.end))]
    first, last = to_ms(plan.start), to_ms(plan.end)
    bounds = [first, *plan_inputs.partition_bucket(server, target, plan).between(first, last), last]
    least = plan.min_chunk_minutes * _MS_PER_MINUTE
    # The window may cut the first and the last.
    short = next((start for start, end in pairwise(bounds[1:-1]) if end - start < least), None)
    if short is not None:
        raise RequestError(
            f"The partition of {target.name} ({target.partition_key}) that begins at {render_instant(from_ms(short))} "
            f"is shorter than the minimum of {plan.min_chunk_minutes:g} minutes.",
            remedy=Advice(
                "pass {} with a length of several partitions, or lower limits.minChunkMinutes", Flag("--chunk-hours")
            ),
        )
    return bounds


def _by_rows(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], base: Sequence[int]
) -> list[int]:
    """The bounds between which lie at most as many rows and bytes as the plan wants, where it may have them."""
    starts = _allowed(server, target, plan, scans, base)
    weights: dict[int, float] = {}
    for statement in plan.statements:
        source = parse_table(statement.source, "source")
        per_row = _weight_of_row(server, plan, source)
        counts = rows_between(server, source, plan.time_column, statement.time_kind, [*starts, base[-1]])
        if counts is None:
            raise RequestError(
                f"The rows of {source} cannot be counted within a minute, and its index has no {plan.time_column}, "
                "so it cannot be told where a chunk would have too many.",
                remedy=Advice(
                    "leave {} and {} away, and pass {}",
                    Flag("--max-chunk-rows"),
                    Flag("--max-chunk-bytes"),
                    Flag("--chunk-hours"),
                ),
            )
        for start, rows in counts.rows.items():
            weights[start] = weights.get(start, 0.0) + rows * per_row
    return pack(base, [Cell(start, weights[start]) for start in sorted(weights)])


def _weight_of_row(server: ClickHouse, plan: Plan, source: TableName) -> float:
    """Which share of the most that a chunk may have one row of the source is."""
    rows, size = plan.chunking.rows, plan.chunking.size
    share = 1 / rows if rows else 0.0
    if size is None:
        return share
    per_row = uncompressed_bytes_per_row(server, source)
    if per_row is None:
        raise RequestError(
            f"What a row of {source} takes is not known: it has no parts of its own that say so.",
            remedy=Advice("pass {} in place of {}", Flag("--max-chunk-rows"), Flag("--max-chunk-bytes")),
        )
    return max(share, per_row / size)


def _allowed(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], base: Sequence[int]
) -> list[int]:
    """Every instant at which the plan may have a bound, from the start of the window to its last bound but one."""
    least = max(round(plan.min_chunk_minutes * _MS_PER_MINUTE), 1)
    if any(statement.time_kind.is_date for statement in plan.statements):
        least = -(-least // MS_PER_DAY) * MS_PER_DAY
    edges = _edges(server, target, plan, scans, base)
    if edges is None:
        return [at for start, end in pairwise(base) for at in (start, *range(start + least, end - least + 1, least))]
    starts = []
    for start, end in pairwise(base):
        starts.append(start)
        while (place := bisect_left(edges, starts[-1] + least)) < len(edges) and edges[place] <= end - least:
            starts.append(edges[place])
    return starts


def _edges(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], base: Sequence[int]
) -> list[int] | None:
    """The instants at which no bucket and no partition is cut, in time order; None where there are none to cut."""
    sets: list[set[int]] = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        buckets = plan_inputs.time_buckets(server, plan, statement, scan)
        for keys in keys_to_keep_whole(statement, target, scan.groups):
            # Rows stay together as long as one of the keys keeps them apart from others: the finest one.
            found = [buckets[key].between(base[0], base[-1]) for key in keys if key in buckets]
            sets.append(max((set(each) for each in found), key=len, default=set()))
    if plan.write_mode is WriteMode.REPLACE:
        sets.append(set(plan_inputs.partition_bucket(server, target, plan).between(base[0], base[-1])))
    return sorted(set.intersection(*sets)) if sets else None
