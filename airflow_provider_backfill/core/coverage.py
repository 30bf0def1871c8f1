"""Intervals that done chunks have filled: merge them, and find what is missing."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from typing import NamedTuple

from .plan import Plan
from .run_state import Run


class CoveredInterval(NamedTuple):
    """A half-open stretch of a target's time, and the plans that cover it."""

    start: datetime
    end: datetime
    plans: tuple[str, ...]


def overlaps(plan: Plan, others: Iterable[tuple[Plan, Run]]) -> list[Plan]:
    """The other plans on the same target whose window intersects the plan's; both are half-open."""
    return [
        other
        for other, _ in others
        if other.plan_id != plan.plan_id
        and other.target == plan.target
        and other.start < plan.end
        and plan.start < other.end
    ]


def merge_intervals(stretches: Iterable[CoveredInterval]) -> list[CoveredInterval]:
    """The stretches in time order, those that touch or overlap made one."""
    merged: list[CoveredInterval] = []
    for start, end, plans in sorted(stretches):
        if merged and start <= merged[-1].end:
            last = merged[-1]
            both = tuple(dict.fromkeys((*last.plans, *plans)))
            merged[-1] = CoveredInterval(last.start, max(last.end, end), both)
        else:
            merged.append(CoveredInterval(start, end, plans))
    return merged


def missing_intervals(
    merged: Iterable[CoveredInterval], start: datetime, end: datetime
) -> Iterator[tuple[datetime, datetime]]:
    """Yield what ``[start, end)`` has outside the stretches, which are merged."""
    at = start
    for stretch in merged:
        if stretch.end <= at or stretch.start >= end:
            continue
        if stretch.start > at:
            yield at, stretch.start
        at = max(at, stretch.end)
    if at < end:
        yield at, end
