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
    """A half-open stretch of a target's time, and the ids of the plans that cover it."""

    start: datetime
    end: datetime
    plans: tuple[str, ...]


def overlaps(plan: Plan, others: Iterable[Plan]) -> list[Plan]:
    """Return the plans among *others* that fill the target of *plan* in an overlapping window; omit *plan* itself."""
    return [
        other
        for other in others
        if other.plan_id != plan.plan_id
        and other.has_target_of(plan)
        and other.start < plan.end
        and plan.start < other.end
    ]


def plans_of_earlier_tables(plans: Iterable[Plan]) -> frozenset[str]:
    """
    Return the ids of the plans of a target whose name has had another table since, as the newest plan shows.

    Each server is judged by itself. A plan without an identity of the target is left out.
    """
    known = sorted((plan for plan in plans if plan.target_identity), key=lambda plan: plan.created_at)
    tables = {plan.environment: plan.target_identity for plan in known}
    return frozenset(plan.plan_id for plan in known if plan.target_identity != tables[plan.environment])


def merge_intervals(stretches: Iterable[CoveredInterval]) -> list[CoveredInterval]:
    """Return the stretches in time order, with touching and overlapping stretches merged and their plans combined."""
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
    """Yield the parts of the window outside the merged stretches, in time order."""
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
        first: The id of the plan that was created first.
        second: The id of the plan that was created later.
        accepted: Whether the second plan allows existing rows, and either its SELECTs differ from the SELECTs of the
            first plan, or the target has a Replacing engine, which removes duplicates.
        shard: The number of the shard on which both plans have filled the stretch, if one plan fills all shards and the
            other plan fills one of these shards as an ordinary table; otherwise 0.
    """

    target: TableName
    start: datetime
    end: datetime
    first: str
    second: str
    accepted: bool
    shard: int = 0


def filled_intervals(plan: Plan, run: Run, window: Window) -> list[CoveredInterval]:
    """Return the parts of the window that done chunks with rows have filled, merged and in time order."""
    start, end = window
    return merge_intervals(
        CoveredInterval(max(chunk.start, start), min(chunk.end, end), (plan.plan_id,))
        for chunk in _chunks_within(plan, run, start, end)
        if (done := run.done.get(chunk.id)) and done[1]
    )


def filled_by_another(plan: Plan, run: Run, other: Plan, others_run: Run) -> list[CoveredInterval]:
    """
    Return the parts of a plan's unfinished chunks that another plan has filled, merged and in time order.

    A chunk does not count if its next attempt first clears the chunk's window. The result is empty if *plan* replaces
    rows or allows existing rows, or if the plans do not fill the same table in a common window. The result is also
    empty if the rows of the other run were gone when *plan* was created; see :func:`_was_gone`.
    """
    if not plan.adds_rows or plan.allow_existing_rows or not same_window(plan, other):
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
    """
    Return the stretches that two fills of one target have filled.

    Parts that a later plan has rebuilt are omitted. A pair of fills is omitted if one run cleared its windows after the
    last event of the other run. A pair is also omitted if the first fill's rows were gone when the second fill was
    planned, unless the second plan allows existing rows.
    """
    found = []
    fills = sorted((entry for entry in plans if entry[0].adds_rows), key=lambda entry: entry[0].created_at)
    for (first, first_run), (second, second_run) in combinations(fills, 2):
        if not same_window(first, second):
            continue
        if not second.allow_existing_rows and _was_gone(second, first_run):
            continue
        if _cleared_after(first_run, second_run) or _cleared_after(second_run, first_run):
            continue
        common = Window(max(first.start, second.start), min(first.end, second.end))
        here, there = _facing(first, second), _facing(second, first)
        both = _intersection(filled_intervals(here, first_run, common), filled_intervals(there, second_run, common))
        for stretch in both:
            rebuilt = merge_intervals(_rebuilt(plans, (first, second), (first_run, second_run), stretch))
            for since, until in missing_intervals(rebuilt, Window(stretch.start, stretch.end)):
                accepted = second.allow_existing_rows and not _gives_the_same_again(first, second)
                names, shard = (first.plan_id, second.plan_id), here.shard or there.shard
                found.append(FilledTwice(there.target, since, until, *names, accepted, shard))
    return found


def _chunks_within(plan: Plan, run: Run, start: datetime, end: datetime) -> Iterator[Chunk]:
    """Yield the chunks that overlap ``[start, end)``, in time order; the parts of a split chunk replace the chunk."""
    for planned in plan.chunks():
        if planned.start >= end:
            return
        if planned.end > start:
            yield from (chunk for chunk in expand(run, planned) if chunk.start < end and chunk.end > start)


def _gives_the_same_again(first: Plan, second: Plan) -> bool:
    """
    Return whether the second plan adds the first plan's rows again, and merges do not remove the duplicates.

    The SELECTs must be the same, in any order. For a Replacing engine, return False, since merges remove duplicates.
    """
    selects = [sorted(statement.select for statement in plan.statements) for plan in (first, second)]
    return selects[0] == selects[1] and "Replacing" not in second.engine


def same_window(plan: Plan, other: Plan) -> bool:
    """Return whether two plans are different, fill the same table (:func:`_same_place`) and overlap in time."""
    if plan.plan_id == other.plan_id or not _same_place(plan, other):
        return False
    return other.start < plan.end and plan.start < other.end


def _same_place(plan: Plan, other: Plan) -> bool:
    """
    Return whether two plans fill the same table, or one plan fills one shard of the other plan's target.

    Two plans on clusters are compared by the names of cluster and target, since such plans may name different servers.
    """
    if plan.cluster and other.cluster:
        return plan.cluster == other.cluster and plan.has_target_of(other)
    if plan.cluster or other.cluster:
        return bool(_shard_of(plan, other) or _shard_of(other, plan))
    return (plan.target, plan.environment) == (other.target, other.environment)


def _facing(plan: Plan, other: Plan) -> Plan:
    """Return the part of a plan that fills the same table as *other*: the whole plan, or the plan on one shard."""
    number = _shard_of(plan, other)
    return plan.on_shard(number) if number else plan


def _shard_of(plan: Plan, other: Plan) -> int:
    """Return the number of the plan's shard that *other* fills as an ordinary table on one server; 0 for none."""
    if not plan.cluster or other.cluster or not plan.is_called(other.target):
        return 0
    server = _server_of(other.environment)
    return next((shard.number for shard in plan.shards if server in map(_server_of, shard.urls)), 0)


def _server_of(url: str) -> str:
    """Return the host and port of a URL, without user information."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2]


def proven_slices(plan: Plan, run: Run, start: datetime, end: datetime) -> Iterator[Slice]:
    """
    Yield the slices whose rows are all in the target, on every shard, for the chunks that overlap ``[start, end)``.

    A slice is a chunk's window or a part of that window. A slice may extend beyond ``[start, end)``.
    """
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
    """
    Return whether the target had no rows of another run when *plan* was created, as far as the logs show.

    The other run's last event must precede the creation of *plan*, planning must have counted no row in the window of
    *plan*, and no row of the other run may have a target time outside the window of the row's chunk.
    """
    before = others_run.updated_at is not None and others_run.updated_at < plan.created_at
    return before and plan.existing_rows == 0 and not others_run.reach


def _cleared_after(run: Run, other: Run) -> bool:
    """Return whether *run* was replayed, clearing the windows of all done chunks, after the last event of *other*."""
    return run.cleared_at is not None and other.updated_at is not None and other.updated_at < run.cleared_at


def _rebuilt(
    plans: Iterable[tuple[Plan, Run]], fills: tuple[Plan, Plan], runs: Iterable[Run], stretch: CoveredInterval
) -> Iterator[CoveredInterval]:
    """
    Yield the parts of *stretch* that rebuilds have replaced, also with no rows, on all shards that both fills filled.

    A rebuild counts only if it was planned at or after the last event of *runs*.
    """
    ended = max((run.updated_at for run in runs if run.updated_at is not None), default=fills[1].created_at)
    on_all_shards = all(fill.cluster for fill in fills)
    for plan, run in plans:
        if plan.adds_rows or plan.created_at < ended or not all(same_window(plan, fill) for fill in fills):
            continue
        if on_all_shards and not plan.cluster:
            continue
        for fill in fills:
            plan = _facing(plan, fill)
        for start, end in proven_slices(plan, run, stretch.start, stretch.end):
            yield CoveredInterval(start, end, (plan.plan_id,))


def _intersection(left: Iterable[CoveredInterval], right: Iterable[CoveredInterval]) -> list[CoveredInterval]:
    """
    Return the intersections of two lists of merged intervals, in time order.

    An intersection has the plans of both intervals.
    """
    rights = list(right)
    return [
        CoveredInterval(max(a.start, b.start), min(a.end, b.end), tuple(dict.fromkeys((*a.plans, *b.plans))))
        for a in left
        for b in rights
        if a.start < b.end and b.start < a.end
    ]
