"""Detect windows that other plans of the state folder, or other writers, have filled."""

from collections.abc import Iterable, Sequence

from ..clickhouse.client import ClickHouse
from ..clickhouse.execute import DELETE_YOURSELF
from ..core.column_types import time_kind
from ..core.coverage import (
    CoveredInterval,
    FilledTwice,
    filled_by_another,
    filled_intervals,
    find_filled_twice,
    merge_intervals,
    missing_intervals,
    overlaps,
)
from ..core.facts import TableFacts
from ..core.instants import render_instant, short_instant
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, WriteMode
from ..core.remedy import command, plan_command
from ..core.replay import expand, select_chunks
from ..core.run_state import ChunkState, ChunkStatus, Run, RunStatus
from ..core.sql import expressions, quote_table
from ..core.target_window import window_filter
from ..core.window import Window
from ..errors import Advice, BackfillError, Flag, RequestError, Sql
from ..state.store import StateStore
from .lease import utc_now
from .plan_inputs import cutover
from .session import Session

# The statuses of runs that write no more rows unless a user resumes them.
_FILLS_NOTHING = (RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.UNDONE)


def meeting_plans(store: StateStore, plan: Plan) -> list[tuple[Plan, Run]]:
    """
    Return the other plans of the folder on the same target with overlapping windows, each with its run.

    Plans of any status are included; plans that cannot be read are omitted.
    """
    return list(store.readable_runs(lambda other: other.plan_id != plan.plan_id and bool(overlaps(plan, [other]))))


def rivals(store: StateStore, plan: Plan, window: Window) -> list[str]:
    """Return the ids of the other plans that have filled a part of *window*, which lies within the plan's window."""
    return [other.plan_id for other, run in meeting_plans(store, plan) if filled_intervals(other, run, window)]


def _plans_have(names: Sequence[str]) -> str:
    """Return the beginning of a sentence about the plans with these ids: ``Plan a has`` or ``Plans a, b have``."""
    return f"Plan {names[0]} has" if len(names) == 1 else f"Plans {', '.join(names)} have"


def refuse_filled_window(
    session: Session, plan: Plan, run: Run, window: Window | None = None, *, resume: bool = False
) -> frozenset[str]:
    """
    Refuse to run a plan if other plans have filled windows that this plan still has to fill.

    A plan that replaces rows, or that may add to existing rows, is not refused.

    Args:
        window: The only window to be filled by the run; None for the plan's window.
        resume: Whether the run executes failed chunks again.

    Returns:
        The ids of the chunks that the run has to finish before the plan is refused, because their rows may be in the
        target. The result is empty if nothing is to be refused.

    Raises:
        RequestError: Such windows exist, and the run has no chunks to finish first. The message names the other plans
            and the first three windows. The remedy resumes the plan if rows of unfinished chunks may be in the target;
            otherwise it plans the windows that are left.
    """
    if not plan.adds_rows or plan.allow_existing_rows:
        return frozenset()
    filled = [
        stretch
        for other, others_run in meeting_plans(session.store, plan)
        for stretch in filled_by_another(plan, run, other, others_run)
    ]
    if not filled:
        return frozenset()
    names = sorted({name for stretch in filled for name in stretch.plans})
    stretches = merge_intervals(filled)
    doubtful = [
        chunk
        for chunk in select_chunks(plan, run)
        if _is_doubtful(run.state(chunk.id))
        and not any(chunk.start < other.end and other.start < chunk.end for other in stretches)
    ]
    first = frozenset(
        chunk.id
        for chunk in doubtful
        if (resume or run.state(chunk.id).status is not ChunkStatus.FAILED)
        and (window is None or (window.start <= chunk.start and chunk.end <= window.end))
    )
    if first:
        return first
    windows = ", ".join(f"{render_instant(one.start)} to {render_instant(one.end)}" for one in stretches[:3])
    more = f" and {len(stretches) - 3} more windows" if len(stretches) > 3 else ""
    resumed = Advice("first finish the chunks whose rows may be in the target: `{}`", command("resume", plan.plan_id))
    raise RequestError(
        f"{_plans_have(names)} filled {windows}{more} of {plan.target}, "
        f"which plan {plan.plan_id} would fill again: its rows would be there twice.",
        remedy=resumed if doubtful else _what_is_left(plan, run, stretches),
    )


def refuse_unfinished_sources(store: StateStore, plan: Plan) -> None:
    """
    Refuse to read a window of a source that another plan of the folder has still to fill.

    A plan that is cancelled, undone or waived has nothing to fill. Plans that cannot be read are omitted.

    Raises:
        RequestError: There is such a plan. The message names the plan.
    """
    sources = {table.table for statement in plan.statements for table in plan.filters(statement)}
    here = plan.cluster or plan.environment

    def feeds(other: Plan) -> bool:
        meets = other.start < plan.end and plan.start < other.end
        return meets and (other.cluster or other.environment) == here and any(map(other.is_called, sources))

    for feeding, run in store.readable_runs(feeds):
        source = next(filter(feeding.is_called, sources))
        waived = run.waiver is not None and run.waiver.holds(utc_now())
        if not waived and run.status not in _FILLS_NOTHING:
            begun = run.status in (RunStatus.PAUSED, RunStatus.FAILED)
            raise RequestError(
                f"Plan {feeding.plan_id} is {run.status}, and fills {source}, from which plan {plan.plan_id} reads, in "
                "a window that meets this one: rows that are still to come would be missing.",
                remedy=Advice(
                    "let it complete (`{}`), `{}` if its rows are not needed, or pass {}",
                    command("resume" if begun else "run", feeding.plan_id),
                    command("waive", feeding.plan_id, Flag("--reason", "its rows are not needed")),
                    Flag("--force-overlap"),
                ),
            )


def refuse_clearing(store: StateStore, plan: Plan) -> None:
    """
    Refuse to clear the windows of a plan if rows that other writers have added on purpose would be deleted, too.

    A plan is not refused if another plan has given the same rows twice, since a cleared window is then the remedy.

    Raises:
        RequestError: The plan was allowed to add to existing rows, or another plan was allowed to add to its rows.
    """
    fills = [(plan, store.open_run(plan).run), *meeting_plans(store, plan)]
    twice = [found for found in find_filled_twice(fills) if plan.plan_id in (found.first, found.second)]
    others = sorted(
        {found.first if found.second == plan.plan_id else found.second for found in twice if found.accepted}
    )
    if others or (plan.allow_existing_rows and plan.existing_rows != 0 and not twice):
        by = f"{_plans_have(others)} rows" if others else "other writers have rows"
        raise RequestError(
            f"Clearing the window of plan {plan.plan_id} would delete more than its own rows: {by} there, which "
            f"{Flag('--allow-existing-rows')} has accepted.",
            remedy=DELETE_YOURSELF,
        )


def _is_doubtful(state: ChunkState) -> bool:
    """Return whether a chunk that is not done may have rows in the target."""
    return state.status is ChunkStatus.RUNNING or (state.status is not ChunkStatus.DONE and state.touched)


def refuse_existing_rows(store: StateStore, server: ClickHouse, target: TableFacts, plan: Plan, allowed: bool) -> None:
    """
    Refuse a new plan that would add to existing rows, unless *allowed* is set.

    A plan that replaces partitions is not refused, nor a plan whose number of existing rows is unknown.

    Raises:
        RequestError: The window has rows. The message names the plans of the folder that have filled the window, or
            else the first row's time and the views that may have written the rows.
    """
    if not plan.existing_rows or allowed or plan.write_mode is WriteMode.REPLACE:
        return
    fills = rivals(store, plan, plan.window)
    if fills:
        raise RequestError(
            f"{_plans_have(fills)} filled the window: "
            f"{plan.target} already holds {show_number(plan.existing_rows, 'row')} in it, and this backfill would add "
            "to them.",
            remedy=Advice(
                "to see whether they are right: `{}`; to rebuild them {}; if this plan gives others, pass {}",
                command("verify", fills[0]),
                _rebuilding(target, plan),
                Flag("--allow-existing-rows"),
            ),
        )
    seam = cutover(server, target, plan)
    since, cut = "", None
    if seam.first is not None:
        feeds = f", as {' and '.join(map(str, seam.fed_by))} may have written" if seam.fed_by else ""
        since = f" (the first at {render_instant(seam.first)}{feeds})"
        if seam.first > plan.start:
            cut = Flag("--to", short_instant(seam.first))
    rebuild = Advice(
        "to rebuild them {}; if they are other rows, pass {}",
        _rebuilding(target, plan),
        Flag("--allow-existing-rows"),
    )
    raise RequestError(
        f"{plan.target} already holds {show_number(plan.existing_rows, 'row')} in the window{since}, "
        "and this backfill would add to them.",
        remedy=rebuild if cut is None else Advice("to end before them pass {}; {}", cut, rebuild),
    )


def _rebuilding(target: TableFacts, plan: Plan) -> Advice:
    """Return the advice to rebuild rows: replace partitions if the key has a time column, else delete the rows."""
    key = expressions(target.partition_key)
    if any(time_kind(column.type, "s") and any(column.name in element for element in key) for column in target.columns):
        return Advice("pass {}", Flag("--write-mode", WriteMode.REPLACE))
    window = window_filter(plan, Chunk("", plan.start, plan.end))
    statement = f"DELETE FROM {quote_table(plan.target)} WHERE {window}"  # noqa: S608 - names are quoted
    return Advice("delete them first: `{}`", Sql(statement))


def what_to_do_instead(plan: Plan, run: Run, running: Plan) -> Advice:
    """
    Return the advice for a plan whose window overlaps the window of the *running* plan: wait, and then what to do.

    If the plan replaces rows or allows existing rows, the advice names ways to run it now. If the plan's *run* has
    begun, the advice is to resume the plan later; otherwise, to plan the gaps outside the common window and to waive
    the plan.
    """
    if not plan.adds_rows or plan.allow_existing_rows:
        return Advice(
            "wait for it, stop it with `{}`, or pass {}", command("cancel", running.plan_id), Flag("--force-overlap")
        )
    if run.attempts:
        # The windows that are left are known only when the other plan has ended and no chunk is in doubt.
        return Advice("wait for it, and then run `{}`", command("resume", plan.plan_id))
    both = [CoveredInterval(max(plan.start, running.start), min(plan.end, running.end), ())]
    return Advice("wait for it; {}, for it would fill the same window a second time", _rest(plan, both))


def _what_is_left(plan: Plan, run: Run, filled: Iterable[CoveredInterval]) -> Advice:
    """
    Return the advice to plan the gaps that neither done chunks nor *filled* cover, and to waive this plan.

    The advice has an alternative for a user whose rows in *filled* are other rows: plan again, and allow existing rows.
    """
    done = [
        CoveredInterval(chunk.start, chunk.end, ())
        for planned in plan.chunks()
        for chunk in expand(run, planned)
        if run.state(chunk.id).status is ChunkStatus.DONE
    ]
    return Advice(
        "{}; if these are other rows, plan again with {} and {}",
        _rest(plan, [*filled, *done]),
        Flag("--allow-existing-rows"),
        Flag("--force"),
    )


def _rest(plan: Plan, filled: Iterable[CoveredInterval]) -> Advice:
    """Return the advice to plan the first two gaps of the plan's window outside *filled*, and to waive the plan."""
    gaps = list(missing_intervals(merge_intervals(filled), plan.window))[:2]
    commands = [
        plan_command(plan, Flag("--from", short_instant(start)), Flag("--to", short_instant(end)))
        for start, end in gaps
    ]
    waived = command("waive", plan.plan_id, Flag("--reason", "another plan has filled its window"))
    words = "".join("plan what is left with `{}`, " for _ in commands)
    return Advice(f"{words}then `{{}}`" if commands else "`{}`", *commands, waived)


def filled_twice(store: StateStore, plans: Sequence[Plan]) -> list[FilledTwice]:
    """
    Return the stretches that two of *plans* have filled.

    Only the runs of plans with overlapping windows are read; runs that cannot be read are omitted.
    """
    if sum(plan.adds_rows for plan in plans) < 2:
        return []
    meeting = [plan for plan in plans if overlaps(plan, plans)]
    pairs = []
    for plan in meeting:
        try:
            pairs.append((plan, store.open_run(plan).run))
        except BackfillError:
            continue
    return find_filled_twice(pairs)
