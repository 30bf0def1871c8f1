"""Find the parts of a window that are proven filled, and the gaps that remain."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime, timedelta

from ..core.coverage import (
    CoveredInterval,
    find_filled_twice,
    merge_intervals,
    missing_intervals,
    plans_of_earlier_tables,
    proven_slices,
)
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.plan import Plan
from ..core.run_state import Run, RunStatus
from ..core.tables import TableName
from ..core.window import Window, require_order
from ..errors import Advice, DamagedStateError, Flag, PlanNotFoundError
from .list import readable_runs, refuse_damaged
from .session import Payload, Session


def read_coverage(
    session: Session, target: TableName, start: datetime | None = None, end: datetime | None = None
) -> Payload:
    """
    Return the parts of ``[start, end)`` of a target that done chunks of any plan have filled; no ClickHouse is needed.

    A done chunk is proof, because its rows were verified and published before its event was written. Different
    ClickHouse servers and clusters are listed separately. Plans of an earlier table of the same name have filled
    nothing of the table that the newest plan knows.

    Args:
        start: Start of the window; None for the earliest start of the target's plans.
        end: End of the window, excluded; None for the latest end of the target's plans.

    Returns:
        The filled parts and the gaps of each server, the parts that were filled twice, and the damaged plans.

    Raises:
        PlanNotFoundError: A bound is None, and the target has no plan.
        DamagedStateError: A bound is None, the target has no readable plan, and a damaged plan may be the target's.
        RequestError: The window is empty or reversed.
    """
    start, end = _known_window(session, target, start, end)
    require_order(start, end)
    known: list[tuple[Plan, Run]] = []
    plans, damaged = [], []
    for plan_id in session.store.plan_ids():
        try:
            plan = session.store.load_plan(plan_id)
            if not plan.is_called(target):
                continue
            plans.append(plan)
            if plan.end <= start or plan.start >= end:
                continue
            known.append((plan, session.store.open_run(plan).run))
        except DamagedStateError as error:
            damaged.append({"planId": plan_id, "message": error.message})
    return coverage_payload(target, known, start, end, damaged, plans)


def coverage_payload(
    target: TableName,
    known: Sequence[tuple[Plan, Run]],
    start: datetime,
    end: datetime,
    damaged: Sequence[Payload] = (),
    plans: Iterable[Plan] = (),
) -> Payload:
    """
    Return the parts of ``[start, end)`` that the runs in *known* have filled, the gaps, and the parts filled twice.

    *plans* are all plans of the target, or (empty) those in *known*; they show whether the name has another table.

    Each server lists its own gaps. With a single server, ``gaps`` repeats the gaps of this server; with several
    servers, ``gaps`` is empty. ``ok`` is True if every server is without gaps, no plan is damaged, and each second fill
    is accepted. If no run is known, ``gaps`` is the whole window, and ``ok`` is False.
    """
    earlier = plans_of_earlier_tables(plans or [plan for plan, _ in known])
    by_server: dict[str, list[CoveredInterval]] = {}
    for plan, run in known:
        where = f"the cluster {plan.cluster}" if plan.cluster else plan.environment
        done = () if plan.plan_id in earlier else _done(plan, run, start, end)
        by_server[where] = merge_intervals([*by_server.get(where, ()), *done])
    servers = [_coverage_of(where, merged, start, end) for where, merged in sorted(by_server.items())]
    gaps = servers[0]["gaps"] if len(servers) == 1 else [] if servers else [_stretch(start, end)]
    twice = [found for found in find_filled_twice(known) if found.start < end and found.end > start]
    doubled = any(not found.accepted for found in twice)
    ok = bool(servers) and all(not entry["gaps"] for entry in servers) and not damaged and not doubled
    return {
        "ok": ok,
        "command": "coverage",
        "target": show_table(target),
        "from": render_instant(start),
        "to": render_instant(end),
        "servers": servers,
        "gaps": gaps,
        "filledTwice": [
            {**_stretch(found.start, found.end), "planIds": [found.first, found.second], "accepted": found.accepted}
            for found in twice
        ],
        "damaged": list(damaged),
    }


def _known_window(
    session: Session, target: TableName, start: datetime | None, end: datetime | None
) -> tuple[datetime, datetime]:
    if start is not None and end is not None:
        return start, end
    plans = [plan for plan, _ in readable_runs(session, target)]
    if not plans:
        refuse_damaged(session, target)
        raise PlanNotFoundError(
            f"There is no plan of {target} in {session.store.backend.where('')}, so there is no window to check.",
            remedy=Advice("pass {} and {}", Flag("--from", "2025-01-01"), Flag("--to", "2025-02-01")),
        )
    return start or min(plan.start for plan in plans), end or max(plan.end for plan in plans)


def _done(plan: Plan, run: Run, start: datetime, end: datetime) -> Iterator[CoveredInterval]:
    """Yield the parts of ``[start, end)`` that the run has filled on every shard."""
    if run.status is RunStatus.COMPLETED:
        yield CoveredInterval(max(plan.start, start), min(plan.end, end), (plan.plan_id,))
        return
    for first, last in proven_slices(plan, run, start, end):
        if last > start and first < end:
            yield CoveredInterval(max(first, start), min(last, end), (plan.plan_id,))


def _coverage_of(where: str, merged: Iterable[CoveredInterval], start: datetime, end: datetime) -> Payload:
    stretches = list(merged)
    filled = sum((stretch.end - stretch.start for stretch in stretches), timedelta())
    return {
        "environment": where,
        "covered": [{**_stretch(first, last), "planIds": list(plans)} for first, last, plans in stretches],
        "gaps": [_stretch(first, last) for first, last in missing_intervals(stretches, Window(start, end))],
        "share": round(filled / (end - start), 6),
    }


def _stretch(start: datetime, end: datetime) -> Payload:
    return {"from": render_instant(start), "to": render_instant(end)}
