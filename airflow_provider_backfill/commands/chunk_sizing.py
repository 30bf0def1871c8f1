"""
Estimate the size of a plan's chunks, and propose a better length.

The estimate counts source rows before the SELECT's own filters. A proposed length fits the buckets and partitions.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from statistics import median_low
from typing import Any

from ..clickhouse.client import ClickHouse
from ..clickhouse.key_samples import rows_by_condition
from ..clickhouse.row_estimate import bytes_per_row, estimate_rows
from ..clickhouse.source_rows import RowCounts, rows_between
from ..core.chunking import Chunking, Unit
from ..core.facts import Estimate, ScanFacts, TableFacts
from ..core.findings.window_rules import LARGE_BYTES, LARGE_ROWS, MANY_CHUNKS, SMALL_ROWS
from ..core.ids import plan_id
from ..core.instants import to_ms
from ..core.model import whole
from ..core.names import show_table
from ..core.plan import Chunk, Plan, WriteMode
from ..core.remedy import pass_flags
from ..core.sql import slices_condition
from ..errors import Advice, Flag, RequestError, StatementRefusedError
from . import adding_up

# The maximum number of source rows in an ideal chunk, and the maximum number of bytes that these rows take on disk. The
# fixed cost of such a chunk (tables, verification, publishing) is relatively small, and the chunk takes seconds to
# minutes.
IDEAL_ROWS = 10_000_000
IDEAL_BYTES = 2**30
# Common chunk lengths in hours, from which a better length is proposed.
_CHUNK_HOURS = (0.25, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 12.0, 24.0, 48.0, 72.0, 168.0, 336.0, 720.0)


def estimate_plan(server: ClickHouse, plan: Plan, counted: Mapping[int, int] | None = None) -> Estimate | None:
    """
    Estimate the source rows per chunk.

    Args:
        counted: The exact number of source rows of each non-empty chunk, by the chunk's start in milliseconds; None if
            the rows were not counted.

    Returns:
        The estimate; None if a statement reads no table, the rows cannot be counted or estimated in time, or the server
        refuses the query.

    Raises:
        ServerError: The server could not be reached.
    """
    try:
        counts = RowCounts(counted, exact=True) if counted is not None else None
        if plan.parts and counts is None:
            counts = _count_rows(server, plan)
        if counts is not None:
            return _estimate_of(server, plan, counts)
        statements = plan.statements if all(statement.table for statement in plan.statements) else ()
        tables = [table for statement in statements for table in plan.filters(statement)]
        return estimate_rows(server, tables, plan.bounds_ms())
    except StatementRefusedError:
        return None


def _estimate_of(server: ClickHouse, plan: Plan, counts: RowCounts) -> Estimate:
    rows = [count for _, count in _weighed(server, plan, counts.rows)]
    filled = [count for count in rows if count]
    return Estimate(
        chunks=len(rows),
        looked_at=len(rows),
        filled=len(filled),
        smallest=min(filled, default=0),
        median=median_low(filled) if filled else 0,
        largest=max(filled, default=0),
        exact=counts.exact,
        bytes_per_row=bytes_per_row(server, plan.filters(plan.statements[0])[0].table),
    )


def chunk_rows(server: ClickHouse, plan: Plan) -> list[tuple[Chunk, int]]:
    """
    Return each chunk with its number of source rows; empty if the rows cannot be counted.

    If key ranges cut a chunk, return the parts of the chunk instead.
    """
    counts = _count_rows(server, plan)
    return [] if counts is None else _weighed(server, plan, counts.rows)


def _weighed(server: ClickHouse, plan: Plan, counts: Mapping[int, int]) -> list[tuple[Chunk, int]]:
    """
    Return each chunk with its number of source rows. If key ranges cut a chunk, count and return its parts instead.

    Args:
        counts: The number of source rows by the chunk's start, in milliseconds, without empty chunks.
    """
    planned = plan.planned_parts()
    weighed: list[tuple[Chunk, int]] = []
    for chunk in plan.chunks():
        if parts := planned.get(chunk.id):
            source = plan.filters(plan.statements[0])[0]
            where = slices_condition(source, [(chunk.start, chunk.end)])
            found = rows_by_condition(server, source.table, where, [part.key_range for part in parts])
            weighed += zip(parts, found, strict=True)
        else:
            weighed.append((chunk, counts.get(to_ms(chunk.start), 0)))
    return weighed


def _count_rows(server: ClickHouse, plan: Plan) -> RowCounts | None:
    """Return the number of rows in all filtered tables, by the chunk's start in milliseconds; None if unknown."""
    bounds = plan.bounds_ms()
    counts: dict[int, int] = {}
    exact = True
    if not all(statement.table for statement in plan.statements):
        return None
    for table in (table for statement in plan.statements for table in plan.filters(statement)):
        try:
            found = rows_between(server, table.table, table.column, table.kind, bounds)
        except StatementRefusedError:
            return None
        if found is None:
            return None
        exact = exact and found.exact
        for start, count in found.rows.items():
            counts[start] = counts.get(start, 0) + count
    return RowCounts(counts, exact)


def propose_hours(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], estimate: Estimate
) -> float | None:
    """
    Return a chunk length in hours that suits the rows and fits buckets and partitions.

    Among the common lengths and the plan's own length, prefer the longest whose largest chunk probably has at most 10
    million rows and 1 GiB. If no such length fits the tables, take the shortest longer length that fits.

    Returns:
        The length; None if no common length fits, or if the plan's bounds do not follow from a number of hours.
    """
    if plan.chunk_hours is None or plan.bounds:
        return None
    ideal = _ideal_hours(plan.chunk_hours, estimate)
    lengths = list(_candidates(plan, plan.chunk_hours))
    below = [hours for hours in lengths if hours <= ideal]
    above = [hours for hours in lengths if hours > ideal]
    for hours in (*reversed(below), *above):
        try:
            adding_up.check_bounds(server, target, by_length(plan, Chunking(hours=hours)), scans)
        except RequestError:
            continue
        return hours
    return None


def by_length(plan: Plan, chunking: Chunking) -> Plan:
    """Return the plan with a new chunk length and id, and without stored bounds. The chunk count stays the old one."""
    return plan.model_copy(
        update={
            "chunk_hours": chunking.hours,
            "chunk_length": chunking.text,
            "bounds": "",
            "plan_id": plan_id(show_table(plan.target), plan.start, plan.end, chunking.text, plan.time_column),
        }
    )


def resized(server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts]) -> Plan:
    """
    Return the plan with an automatic chunk length: partitions in ``replace``, otherwise hours that suit the rows.

    Raises:
        RequestError: The rows cannot be estimated, or no common length fits the tables.
    """
    if plan.write_mode is WriteMode.REPLACE:
        return by_length(plan, Chunking(unit=Unit.PARTITION))
    estimate = estimate_plan(server, plan)
    if estimate is None:
        raise RequestError(
            f"The rows of {plan.statements[0].source or plan.statements[0].name} cannot be counted within seconds, "
            "so no chunk size follows.",
            remedy=pass_flags(plan.chunking.flags),
        )
    hours = propose_hours(server, target, plan, scans, estimate)
    if hours is None:
        raise RequestError(
            f"No usual chunk length fits the buckets and partitions of {plan.target}.",
            remedy=Advice("pass {} with a number; the error then names what fits", Flag("--chunk-hours")),
        )
    return by_length(plan, Chunking(hours=hours))


def describe(
    server: ClickHouse, target: TableFacts, plan: Plan, scans: Sequence[ScanFacts], estimate: Estimate | None
) -> dict[str, Any] | None:
    """
    Return the estimate as JSON; None without an estimate.

    If the chunks are far too small or too large, the JSON proposes a better chunk length, unless no length fits.
    """
    if estimate is None:
        return None
    small = estimate.median < SMALL_ROWS and plan.chunk_count >= MANY_CHUNKS
    large = estimate.largest > LARGE_ROWS or estimate.largest * (estimate.bytes_per_row or 0) > LARGE_BYTES
    proposed = propose_hours(server, target, plan, scans, estimate) if small or large else None
    return estimate_payload(estimate, proposed)


def _ideal_hours(chunk_hours: float, estimate: Estimate) -> float:
    if not estimate.largest:
        return chunk_hours
    rows = float(IDEAL_ROWS)
    if estimate.bytes_per_row:
        rows = min(rows, IDEAL_BYTES / estimate.bytes_per_row)
    return chunk_hours * rows / estimate.largest


def _candidates(plan: Plan, chunk_hours: float) -> Iterable[float]:
    whole_days = any(s.time_kind.is_date for s in plan.statements)
    window = (plan.end - plan.start) / timedelta(hours=1)
    for hours in sorted({*_CHUNK_HOURS, chunk_hours}):
        fits_dates = not whole_days or hours % 24 == 0
        if fits_dates and plan.min_chunk_minutes <= hours * 60 and hours <= max(window, _CHUNK_HOURS[0]):
            yield hours


def estimate_payload(estimate: Estimate | None, proposed: float | None) -> dict[str, Any] | None:
    """
    Return an estimate as ``plan`` and ``doctor`` print it; None without an estimate.

    The numbers of rows and bytes describe the non-empty chunks.
    """
    if estimate is None:
        return None
    rows = {"min": estimate.smallest, "median": estimate.median, "max": estimate.largest}
    per_row = estimate.bytes_per_row
    return {
        "rowsPerChunk": rows,
        "bytesPerChunk": None if per_row is None else {name: round(count * per_row) for name, count in rows.items()},
        "chunksLookedAt": estimate.looked_at,
        "chunksWithRows": estimate.filled,
        "exact": estimate.exact,
        "proposedChunkHours": None if proposed is None else whole(float(proposed)),
    }
