"""
Find the possible chunk bounds of a plan, and choose among them.

Bounds of hours and calendars follow from the plan's chunk length. Bounds of partitions are the edges of the target's
partition key. Bounds from limits on rows and bytes depend on the source's rows. A chunk that is still too large is cut
by the source's sorting key, if the plan allows such a cut.
"""

import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime
from itertools import pairwise, takewhile
from typing import NamedTuple

from ..clickhouse.client import ClickHouse
from ..clickhouse.key_samples import key_columns, rows_by_condition, sample_keys
from ..clickhouse.source_rows import rows_between, uncompressed_bytes_per_row
from ..core.chunking import Cell, Chunking, Unit, encode_bounds, pack
from ..core.events import ChunkPart
from ..core.facts import ScanFacts, TableFacts
from ..core.ids import chunk_id
from ..core.instants import MS_PER_DAY, from_ms, render_instant, to_ms
from ..core.key_ranges import cut_by_hash, cut_by_key
from ..core.plan import Chunk, Plan, WriteMode
from ..core.planner import check_chunk_count
from ..core.sql import filter_setting, slices_condition
from ..core.tables import TableName
from ..errors import Advice, BackfillError, Flag, RequestError
from . import adding_up, plan_inputs

_MS_PER_MINUTE = 60_000
# The number of keys in a sample: the minimum, and the number per piece. With 1000 keys per piece, the pieces differ in
# size by a few percent.
_SAMPLE, _SAMPLE_PER_PIECE = 10_000, 1_000
# Each attempt to cut a chunk by key, including the first, multiplies the wanted number of pieces by _SPARE. _TRIES is
# the maximum number of attempts.
_SPARE = 1.1
_TRIES = 4


class HeavyChunk(NamedTuple):
    """
    A slice of time with more source rows or bytes than the plan's limits allow.

    Attributes:
        weight: The rows or bytes as a multiple of the limit. If the slice is cut by key, this is the weight of its
            heaviest part.
    """

    start: datetime
    end: datetime
    weight: float


class Cut(NamedTuple):
    """
    A plan with its bounds, and the facts found while the bounds were chosen.

    Attributes:
        heavy: The chunks that still exceed the limits.
        rows: Number of source rows of each non-empty chunk, by the chunk's start in milliseconds; None without an exact
            count.
    """

    plan: Plan
    heavy: tuple[HeavyChunk, ...] = ()
    rows: Mapping[int, int] | None = None


def cut(server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts]) -> Cut:
    """
    Choose the chunk bounds of a plan.

    Returns:
        The plan, the chunks that still exceed the limits, and the number of rows per chunk if the rows were counted
        exactly. The plan has its number of chunks, and the key ranges of chunks that time cannot cut further. It has
        its bounds, unless the bounds follow from the chunk length.

    Raises:
        RequestError: The bounds cannot be computed: the rows cannot be counted, the size of a row is unknown, a
            partition is shorter than the minimum chunk length, the partition key does not follow from the time, a chunk
            would cut a day of a Date column, or there would be too many chunks.
    """
    if not plan.chunking.from_data:
        bounds = plan.bounds_ms()
        if plan.write_mode is WriteMode.REPLACE:
            bounds = adding_up.to_partitions(server, target, plan, scans, bounds)
        return Cut(_with_bounds(plan, bounds))
    base = _base(server, target, plan, scans, plan.chunking)
    if not plan.chunking.limited:
        return Cut(_with_bounds(plan, base))
    cells, rows = _cells(server, target, plan, scans, base)
    plan = _with_bounds(plan, pack(base, cells))
    counted = None if rows is None else _by_chunk(plan.bounds_ms(), rows)
    return _cut_by_key(server, target, plan, scans, cells)._replace(rows=counted)


def _by_chunk(bounds: Sequence[int], rows: Mapping[int, int]) -> dict[int, int]:
    """Return the row counts by the start of the chunk; *rows* has row counts by instant. All keys are milliseconds."""
    counts: dict[int, int] = {}
    for at, count in rows.items():
        start = bounds[bisect_right(bounds, at) - 1]
        counts[start] = counts.get(start, 0) + count
    return counts


def _with_bounds(plan: Plan, bounds: list[int]) -> Plan:
    check_chunk_count(len(bounds) - 1)
    for statement in plan.statements:
        filter_setting(plan.filters(statement), [(from_ms(bounds[0]), from_ms(bounds[1]))])
    follow = not plan.chunking.from_data and bounds == plan.bounds_ms()
    stored = "" if follow else encode_bounds(bounds)
    return plan.model_copy(update={"bounds": stored, "chunk_count": len(bounds) - 1})


def _cut_by_key(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], cells: Sequence[Cell]
) -> Cut:
    """Return the plan with key ranges for the chunks that exceed the limits, and the chunks that remain too heavy."""
    bounds, parts, heavy = plan.bounds_ms(), dict[int, tuple[str, ...]](), list[HeavyChunk]()
    weights = [0.0] * (len(bounds) - 1)
    for cell in cells:
        weights[bisect_right(bounds, cell.start) - 1] += cell.weight
    may = adding_up.may_cut_by_key(plan, target, scans)
    for place, weight in enumerate(weights):
        if weight <= 1:
            continue
        window = from_ms(bounds[place]), from_ms(bounds[place + 1])
        ranges, left = _light_ranges(server, plan, Chunk("", *window), weight) if may else ((), weight)
        if ranges:
            parts[place] = ranges
        if left > 1:
            heavy.append(HeavyChunk(*window, left))
    return Cut(plan.model_copy(update={"parts": parts}), tuple(heavy))


def _light_ranges(server: ClickHouse, plan: Plan, chunk: Chunk, weight: float) -> tuple[tuple[str, ...], float]:
    """
    Return the key ranges of a chunk that come closest to the limits, and the weight of the heaviest range.

    If no cut makes the chunk lighter, there are no ranges, and the weight is the chunk's *weight*.
    """
    source, where = _source(plan), _condition(plan, chunk)
    best: tuple[str, ...] = ()
    left, pieces = weight, weight
    for _ in range(_TRIES):
        # Ask for more pieces than the weight needs, because pieces cut by a sample differ in size.
        pieces *= _SPARE
        ranges = _ranges(server, plan, chunk, math.ceil(pieces))
        if not ranges:
            break
        counts = rows_by_condition(server, source, where, ranges)
        heaviest = weight * max(counts) / max(sum(counts), 1)
        if heaviest < left:
            best, left = tuple(ranges), heaviest
        if heaviest <= 1:
            break
    return best, left


def _ranges(server: ClickHouse, plan: Plan, chunk: Chunk, pieces: int) -> list[str]:
    """Return conditions that cut a chunk's rows into about *pieces* pieces; empty if the key cannot cut the rows."""
    source = _source(plan)
    columns = key_columns(server, source)
    ordered = list(takewhile(lambda column: column.orderable, columns))
    if ordered:
        where = _condition(plan, chunk)
        sample = sample_keys(server, source, ordered, where, max(_SAMPLE, _SAMPLE_PER_PIECE * pieces))
        ranges = cut_by_key(ordered, sample, pieces, chunk.key_range)
        if len(ranges) > 1:
            return ranges
    # Key columns that cannot be compared with literals in key order, such as floats, can still be hashed.
    return cut_by_hash(columns, pieces, chunk.key_range) if len(ordered) < len(columns) else []


def split_chunk(server: ClickHouse, target: TableFacts, plan: Plan, chunk: Chunk) -> tuple[Chunk, ...]:
    """
    Split a chunk that is too large: by time, or by the source's sorting key if no bound in time is possible.

    Returns:
        Two parts that meet at the possible bound closest to the middle, or about two parts by key. Empty if no cut is
        possible.

    Raises:
        RequestError: The statements no longer suit the sources or the target.
        ServerError: ClickHouse refused a statement or could not be reached.
    """
    scans = plan_inputs.check_scans(server, target, plan, chunk.start, chunk.end)
    scans = plan_inputs.read_queries(server, target, plan, scans)
    # The parts may run in parallel, so they must not share a partition, even at the ends of the window.
    apart = plan.model_copy(update={"keep_outside": False})
    start, end = to_ms(chunk.start), to_ms(chunk.end)
    # A bound on a date column is a whole day. Most types of a query parameter store whole seconds.
    step = MS_PER_DAY if _has_dates(plan) else 1000 if any(s.parameters for s in plan.statements) else 1
    middle = (start + end) // 2 // step * step
    edges = _edges(server, target, plan, scans, [start, end])
    least = plan.min_chunk_minutes * _MS_PER_MINUTE
    for edge in sorted([middle] if edges is None else edges, key=lambda edge: abs(edge - middle)):
        if start < edge < end and min(edge - start, end - edge) >= least:
            try:
                adding_up.check_bounds(server, target, apart, scans, [start, edge, end])
            except RequestError:
                continue
            pieces = (chunk._replace(end=from_ms(edge)), chunk._replace(start=from_ms(edge)))
            return tuple(piece._replace(id=chunk_id(plan.plan_id, *piece[1:])) for piece in pieces)
    return _split_by_key(server, target, plan, scans, chunk)


def _has_dates(plan: Plan) -> bool:
    filtered = (table.kind for statement in plan.statements for table in plan.filters(statement))
    return any(kind.is_date for kind in (*filtered, *(statement.time_kind for statement in plan.statements)))


def _condition(plan: Plan, chunk: Chunk) -> str:
    """Return the SQL condition that selects a chunk's rows from the plan's single source."""
    (table,) = plan.filters(plan.statements[0])
    return slices_condition(table, [(chunk.start, chunk.end)], chunk.key_range)


def _split_by_key(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], chunk: Chunk
) -> tuple[Chunk, ...]:
    """Return about two parts that divide all rows of the chunk by key; empty if the chunk cannot be cut by key."""
    if not adding_up.may_cut_by_key(plan, target, scans):
        return ()
    pieces = (chunk._replace(key_range=each) for each in _ranges(server, plan, chunk, 2))
    return tuple(piece._replace(id=chunk_id(plan.plan_id, *piece[1:])) for piece in pieces)


def _source(plan: Plan) -> TableName:
    return plan.filters(plan.statements[0])[0].table


def _base(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], chunking: Chunking
) -> list[int]:
    """
    Return the bounds by length or at the target's partitions, in milliseconds; ignore the limits on rows and bytes.

    Raises:
        RequestError: A partition is shorter than the minimum chunk length, or the partition key does not follow from
            the time.
    """
    if chunking.unit is not Unit.PARTITION:
        start = to_ms(plan.start)
        return [start, *(to_ms(end) for _, end in chunking.without_limits().slices(plan.start, plan.end))]
    first, last = to_ms(plan.start), to_ms(plan.end)
    bounds = [first, *adding_up.partition_edges(server, target, plan, scans, first, last), last]
    least = plan.min_chunk_minutes * _MS_PER_MINUTE
    # The first and the last chunk may be shorter, because the window may cut their partitions.
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


def _cells(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], base: Sequence[int]
) -> tuple[list[Cell], Mapping[int, int] | None]:
    """
    Weigh the source rows of each cell. A cell is the time between two neighbouring possible bounds of the plan.

    Returns:
        The non-empty cells, in time order, and the number of rows by the start of the cell in milliseconds. The second
        value is None if any of these numbers was estimated from an index.

    Raises:
        RequestError: A statement reads no table that can be counted, the rows cannot be counted within a minute, or the
            size of a row is unknown.
    """
    starts = _allowed(server, target, plan, scans, base)
    weights: dict[int, float] = {}
    rows_at: dict[int, int] = {}
    exact = True
    for statement in plan.statements:
        if statement.table is None:
            raise RequestError(
                f"{statement.name} reads no table whose rows could be counted, so it is unknown where a chunk "
                "would have too many.",
                remedy=Advice("omit {} and {}", Flag("--max-chunk-rows"), Flag("--max-chunk-bytes")),
            )
    for table in (table for statement in plan.statements for table in plan.filters(statement)):
        source = table.table
        per_row = _weight_of_row(server, plan, source)
        counts = rows_between(server, source, table.column, table.kind, [*starts, base[-1]])
        if counts is None:
            raise RequestError(
                f"The rows of {source} cannot be counted within a minute, and its index has no {table.column}, "
                "so it is unknown where a chunk would have too many.",
                remedy=Advice(
                    "omit {} and {}, and pass {}",
                    Flag("--max-chunk-rows"),
                    Flag("--max-chunk-bytes"),
                    Flag("--chunk-hours"),
                ),
            )
        exact = exact and counts.exact
        for start, rows in counts.rows.items():
            weights[start] = weights.get(start, 0.0) + rows * per_row
            rows_at[start] = rows_at.get(start, 0) + rows
    return [Cell(start, weights[start]) for start in sorted(weights)], rows_at if exact else None


def _weight_of_row(server: ClickHouse, plan: Plan, source: TableName) -> float:
    """
    Return the share of a chunk's limit that one source row takes; with two limits, the larger share.

    Raises:
        RequestError: There is a limit on bytes, and the size of a row is unknown.
    """
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
    """
    Return the possible starts of chunks, in milliseconds and in time order.

    They are the bounds of *base* except the last, and instants between these bounds that cut no bucket and, in
    ``replace``, no partition. Each added instant lies at least the minimum chunk length (rounded up to days for a Date)
    from its neighbours.
    """
    least = max(round(plan.min_chunk_minutes * _MS_PER_MINUTE), 1)
    if _has_dates(plan):
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
    """
    Return the instants at which a bound cuts no bucket, in milliseconds and in time order.

    The instants lie between the first and the last bound of *base*, both excluded.

    In ``replace``, such a bound cuts no partition either. The result is None if nothing restricts the bounds.
    """
    sets: list[set[int]] = []
    for statement, scan in zip(plan.statements, scans, strict=True):
        sets += adding_up.statement_edges(server, target, plan, statement, scan, base[0], base[-1])
    if plan.write_mode is WriteMode.REPLACE:
        sets.append(set(adding_up.partition_edges(server, target, plan, scans, base[0], base[-1])))
    return sorted(set.intersection(*sets)) if sets else None


def parts_in_place(server: ClickHouse, target: TableFacts, plan: Plan, chunk: Chunk) -> tuple[ChunkPart, ...]:
    """Return the parts that replace a chunk; empty if the chunk cannot be cut, or if the search for a cut fails."""
    try:
        parts = split_chunk(server, target, plan, chunk)
    except BackfillError:
        return ()
    return tuple(ChunkPart(id=p.id, start=p.start, end=p.end, key_range=p.key_range, shard=p.shard) for p in parts)
