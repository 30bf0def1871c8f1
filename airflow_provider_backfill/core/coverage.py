"""Merge the intervals filled by done chunks, and find gaps and windows filled twice."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import combinations, groupby
from typing import NamedTuple

from .plan import Chunk, Plan
from .replay import expand, filled_slices
from .run_state import ChunkStatus, Run
from .tables import TableName
from .window import Slice, Window


class CoveredInterval(NamedTuple):
    """A half-open stretch of a target's time, and the plans that cover it."""

    start: datetime
    end: datetime
    plans: tuple[str, ...]


def overlaps(plan: Plan, others: Iterable[Plan]) -> list[Plan]:
    """Return the other plans on the same target whose half-open windows intersect the plan's."""
    return [
        other
        for other in others
        if other.plan_id != plan.plan_id
        and other.has_target_of(plan)
        and other.start < plan.end
        and plan.start < other.end
    ]


def merge_intervals(stretches: Iterable[CoveredInterval]) -> list[CoveredInterval]:
    """Return the stretches in time order, with touching and overlapping stretches merged."""
    merged: list[CoveredInterval] = []
    for start, end, plans in sorted(stretches):
        if merged and start <= merged[-1].end:
            last = merged[-1]
            both = tuple(dict.fromkeys((*last.plans, *plans)))
            merged[-1] = CoveredInterval(last.start, max(last.end, end), both)
        else:
            merged.append(CoveredInterval(start, end, plans))
    return merged


def missing_intervals(merged: Iterable[CoveredInterval], window: Window) -> Iterator[Window]:
    """Yield the parts of the window outside the merged stretches."""
    at, end = window
    for stretch in merged:
        if stretch.end <= at or stretch.start >= end:
            continue
        if stretch.start > at:
            yield Window(at, stretch.start)
        at = max(at, stretch.end)
    if at < end:
        yield Window(at, end)


class FilledTwice(NamedTuple):
    """
    A stretch of a target's time that two fills have filled.

    Attributes:
        accepted: Whether the second fill was planned to add to existing rows, and adds other rows than the first.
        shard: The only shard on which both have filled the stretch; 0 for a single table or all shards.
    """

    target: TableName
    start: datetime
    end: datetime
    first: str
    second: str
    accepted: bool
    shard: int = 0


def filled_intervals(plan: Plan, run: Run, window: Window) -> list[CoveredInterval]:
    """Return the parts of the window that done chunks with rows have filled, merged."""
    start, end = window
    return merge_intervals(
        CoveredInterval(max(chunk.start, start), min(chunk.end, end), (plan.plan_id,))
        for chunk in _chunks_within(plan, run, start, end)
        if (done := run.done.get(chunk.id)) and done[1]
    )


def filled_by_another(plan: Plan, run: Run, other: Plan, others_run: Run) -> list[CoveredInterval]:
    """
    Return the parts of unfinished chunks that another plan has filled; none if adding rows is allowed.

    When planning found no row in the window, the rows of earlier fills are gone. This does not hold for rows that lie
    outside the windows they were read from.
    """
    if not plan.adds_rows or plan.allow_existing_rows or not _same_window(plan, other):
        return []
    if _was_gone(plan, others_run):
        return []
    plan, other = _facing(plan, other), _facing(other, plan)
    ahead = merge_intervals(
        CoveredInterval(chunk.start, chunk.end, ())
        for chunk in _chunks_within(plan, run, other.start, other.end)
        if run.state(chunk.id).status is not ChunkStatus.DONE and not run.state(chunk.id).clear
    )
    return _intersection(ahead, filled_intervals(other, others_run, plan.window))


def find_filled_twice(plans: Sequence[tuple[Plan, Run]]) -> list[FilledTwice]:
    """Return the stretches that two fills of one target have filled, without a rebuild since."""
    found = []
    fills = sorted((entry for entry in plans if entry[0].adds_rows), key=lambda entry: entry[0].created_at)
    for (first, first_run), (second, second_run) in combinations(fills, 2):
        if not _same_window(first, second):
            continue
        if not second.allow_existing_rows and _was_gone(second, first_run):
            continue
        if _cleared_after(first_run, second_run) or _cleared_after(second_run, first_run):
            continue
        common = Window(max(first.start, second.start), min(first.end, second.end))
        here, there = _facing(first, second), _facing(second, first)
        both = _intersection(filled_intervals(here, first_run, common), filled_intervals(there, second_run, common))
        for stretch in both:
            rebuilt = merge_intervals(_rebuilt(plans, second, (first_run, second_run), stretch))
            for since, until in missing_intervals(rebuilt, Window(stretch.start, stretch.end)):
                accepted = second.allow_existing_rows and not _gives_the_same_again(first, second)
                names, shard = (first.plan_id, second.plan_id), here.shard or there.shard
                found.append(FilledTwice(there.target, since, until, *names, accepted, shard))
    return found


def _chunks_within(plan: Plan, run: Run, start: datetime, end: datetime) -> Iterator[Chunk]:
    """Yield the plan's chunks, or their parts, that overlap ``[start, end)``, in time order."""
    for planned in plan.chunks():
        if planned.start >= end:
            return
        if planned.end > start:
            yield from (chunk for chunk in expand(run, planned) if chunk.start < end and chunk.end > start)


def _gives_the_same_again(first: Plan, second: Plan) -> bool:
    """Return whether both plans insert the rows of one SELECT and the target keeps both copies."""
    selects = [sorted(statement.select for statement in plan.statements) for plan in (first, second)]
    return selects[0] == selects[1] and "Replacing" not in second.engine


def _same_window(plan: Plan, other: Plan) -> bool:
    """Return whether two different plans of one table have overlapping windows."""
    if plan.plan_id == other.plan_id or not _same_place(plan, other):
        return False
    return other.start < plan.end and plan.start < other.end


def _same_place(plan: Plan, other: Plan) -> bool:
    """Return whether two plans fill the same table. On a cluster, plans may name different servers."""
    if plan.cluster and other.cluster:
        return plan.cluster == other.cluster and plan.has_target_of(other)
    if plan.cluster or other.cluster:
        return bool(_shard_of(plan, other) or _shard_of(other, plan))
    return (plan.target, plan.environment) == (other.target, other.environment)


def _facing(plan: Plan, other: Plan) -> Plan:
    """Return the part of a plan that fills the same table as *other*: the whole plan, or one shard of it."""
    number = _shard_of(plan, other)
    return plan.on_shard(number) if number else plan


def _shard_of(plan: Plan, other: Plan) -> int:
    """Return the shard of a plan that *other* fills as an ordinary table on one server; 0 for none."""
    if not plan.cluster or other.cluster or not plan.is_called(other.target):
        return 0
    server = _server_of(other.environment)
    return next((shard.number for shard in plan.shards if server in map(_server_of, shard.urls)), 0)


def _server_of(url: str) -> str:
    """Return host and port of an address, which has no password."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def proven_slices(plan: Plan, run: Run, start: datetime, end: datetime) -> Iterator[Slice]:
    """Yield the chunk windows that overlap ``[start, end)`` and whose rows are all in the target, on every shard."""
    for window, chunks in groupby(plan.chunks(), key=lambda chunk: (chunk.start, chunk.end)):
        if window[1] <= start or window[0] >= end:
            continue
        filled: list[Slice] | None = None
        for chunk in chunks:
            own = list(filled_slices(run, chunk))
            filled = own if filled is None else [both for a in filled for b in own if (both := _common(a, b))]
        yield from filled or ()


def _common(left: Slice, right: Slice) -> Slice | None:
    start, end = max(left[0], right[0]), min(left[1], right[1])
    return (start, end) if start < end else None


def _was_gone(plan: Plan, others_run: Run) -> bool:
    """Return whether another run's rows had left the target before the plan counted its rows."""
    before = others_run.updated_at is not None and others_run.updated_at < plan.created_at
    return before and plan.existing_rows == 0 and not others_run.reach


def _cleared_after(run: Run, other: Run) -> bool:
    """Return whether a run's last clearing replay is later than every event of the other run."""
    return run.cleared_at is not None and other.updated_at is not None and other.updated_at < run.cleared_at


def _rebuilt(
    plans: Iterable[tuple[Plan, Run]], fill: Plan, runs: Iterable[Run], stretch: CoveredInterval
) -> Iterator[CoveredInterval]:
    """Yield the parts of *stretch* that plans created after the fills have rebuilt."""
    ended = max((run.updated_at for run in runs if run.updated_at is not None), default=fill.created_at)
    for plan, run in plans:
        if not plan.adds_rows and _same_window(plan, fill) and plan.created_at >= ended:
            yield from filled_intervals(plan, run, Window(stretch.start, stretch.end))


def _intersection(left: Iterable[CoveredInterval], right: Iterable[CoveredInterval]) -> list[CoveredInterval]:
    """Return the intersections of two merged lists, with the plans of both, in time order."""
    rights = list(right)
    return [
        CoveredInterval(max(a.start, b.start), min(a.end, b.end), tuple(dict.fromkeys((*a.plans, *b.plans))))
        for a in left
        for b in rights
        if a.start < b.end and b.start < a.end
    ]
