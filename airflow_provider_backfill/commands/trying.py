"""Run the trial of a plan: compare a few real chunks with one reading of the same part of the window."""

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from ..clickhouse.client import ClickHouse
from ..clickhouse.trial import Trial, make_trial, rows_by_bound
from ..core.adding_up.case import Verdict
from ..core.adding_up.lineage import CLOCK
from ..core.facts import TableFacts
from ..core.instants import from_ms, short_instant, to_ms
from ..core.names import time_value
from ..core.parameters import check_parameters, has_bounds, of_one_text, slices_at, tell_chunks_by_text
from ..core.plain_text import show_number
from ..core.plan import Parameter, Plan
from ..core.sampling import Slice, pick_slices
from ..core.sql import insert_select, milliseconds, slices_settings
from ..core.tables import TableName
from ..errors import Advice, Flag, MisalignedError, RequestError, StatementRefusedError

# The divisor of the trial's maximum of rows if the rules already prove the plan.
_SECOND_OPINION = 4
# The divisor of the length of two neighbours whose trial took too long. Only the parts next to their common bound are
# then tried.
_NEARER = 24
# ClickHouse's names of type errors. Such an error does not depend on a chunk's rows, so every chunk would fail.
_NO_ROW_FITS = frozenset({"CANNOT_CONVERT_TYPE", "TYPE_MISMATCH", "ILLEGAL_TYPE_OF_ARGUMENT", "NO_COMMON_TYPE"})


def try_chunks(
    server: ClickHouse,
    target: TableFacts,
    plan: Plan,
    verdicts: Sequence[Verdict],
    counted: Mapping[int, int] | None,
    *,
    rows: int,
    seconds: float,
) -> tuple[bool, str]:
    """
    Fill a few chunks one by one and in one statement, and compare the results.

    Args:
        counted: The sources' row counts by the start of the chunk in milliseconds; None to count the rows here.
        rows: The approximate maximum of source rows to read; a quarter of *rows* if the rules already prove the plan.
            With query parameters, the maximum does not apply, and two adjacent chunks are tried.
        seconds: The time limit of each INSERT, in seconds; a query that counts rows has a quarter of this time.

    Returns:
        Whether a trial was made and found no difference; and a text on the compared rows, or the reason for no trial.

    Raises:
        RequestError: The results differ, the types of the SELECT do not fit the target, or no trial of an unproven plan
            can be made. The error is not raised if all rows lie in one chunk, since no trial is then needed.
        ServerError: The server could not be reached.
    """
    parameters = [parameter for statement in plan.statements for parameter in statement.parameters]
    doubts = [doubt for verdict in verdicts for doubt in verdict.doubts]
    if tell_chunks_by_text(parameters, plan.bounds_ms()):
        return _no_trial(doubts, "the SELECT takes the start of one chunk, so it gives no whole to compare with")
    if not doubts and not parameters and all(verdict.row_wise for verdict in verdicts):
        return False, "not needed: each row comes from one row of the source"
    if chance := [name for verdict in verdicts for name in verdict.chance if not CLOCK.fullmatch(name)]:
        return _no_trial(doubts, f"{', '.join(dict.fromkeys(chance))} chooses other rows each time")
    if not target.engine.endswith("MergeTree"):
        return _no_trial(doubts, f"no private table like {target.name} ({target.engine}) can be made")
    try:
        if parameters:
            slices = _neighbours(plan, parameters)
            if not slices:
                return _no_trial(doubts, "no two neighbours have the same text of their formats")
        else:
            slices = _slices(server, plan, counted, rows if doubts else rows // _SECOND_OPINION, seconds)
        if len(slices) < 2:
            return False, "not made: all rows of the window lie in one chunk"
        try:
            trial = _trial(server, target, plan, slices, seconds)
        except StatementRefusedError as error:
            nearer = _nearer(slices, parameters)
            if error.name != "TIMEOUT_EXCEEDED" or not nearer:
                raise
            trial = _trial(server, target, plan, nearer, seconds)
    except StatementRefusedError as error:
        return _no_trial(doubts, error.message)
    if trial.last is not None and has_bounds(parameters) and not trial.differences:
        trial = _at_a_row(server, target, plan, parameters, trial.last, seconds) or trial
    if trial.differences:
        raise _differs(plan, trial)
    return True, (
        f"{show_number(trial.rows, 'row')} of {show_number(len(trial.slices), 'slice')}, "
        f"{short_instant(trial.slices[0][0])} to {short_instant(trial.slices[-1][1])}, "
        f"agree in {', '.join(trial.columns) or 'their number'}"
    )


def _trial(server: ClickHouse, target: TableFacts, plan: Plan, slices: Sequence[Slice], seconds: float) -> Trial:
    return make_trial(
        server,
        target,
        plan.plan_id,
        slices,
        lambda table, part, settings: _fill(server, plan, table, part, settings),
        seconds=seconds,
        not_compared=plan.not_compared,
        at=_target_time(plan),
    )


def _target_time(plan: Plan) -> str:
    time = plan.target_time
    return milliseconds(time_value(time.column), time.kind) if time is not None else ""


def _at_a_row(
    server: ClickHouse, target: TableFacts, plan: Plan, parameters: Sequence[Parameter], at: int, seconds: float
) -> Trial | None:
    """
    Try two slices that meet at *at*, the time of a row in milliseconds.

    If the SELECT includes the common bound in both slices or in neither, the row shows this.

    Returns:
        The trial with its differences; None if there is no difference, or if no trial could be made.
    """
    slices = slices_at(parameters, at)
    if slices and not all(statement.row_wise for statement in plan.statements):
        # A bound inside a chunk may cut a group. So try the first slice and an empty slice, which must add no rows.
        (start, end), _ = slices
        slices = [(start, end), (end, end)]
    if not slices or len(of_one_text(parameters, plan.bounds_ms(), slices)) != 1:
        return None
    try:
        found = _trial(server, target, plan, slices, seconds)
    except StatementRefusedError:
        # The trial at a chunk bound has succeeded, so the plan is accepted even if the server refuses this trial.
        return None
    return found if found.differences else None


def _neighbours(plan: Plan, parameters: Sequence[Parameter]) -> list[Slice]:
    """Return the first two adjacent chunks that have the same text for every format; empty if there are none."""
    bounds = plan.bounds_ms()
    chunks = [(from_ms(start), from_ms(end)) for start, end in pairwise(bounds)]
    return next(([*pair] for pair in pairwise(chunks) if len(of_one_text(parameters, bounds, pair)) == 1), [])


def _nearer(slices: Sequence[Slice], parameters: Sequence[Parameter]) -> list[Slice]:
    """
    Return the parts of two neighbours next to their common bound, 1/24 of each.

    Return an empty list without parameters, or if the parameters cannot express the bounds of these parts.
    """
    if not parameters:
        return []
    (start, middle), (_, end) = slices
    start, end = middle - (middle - start) / _NEARER, middle + (end - middle) / _NEARER
    try:
        check_parameters(parameters, [to_ms(start), to_ms(middle), to_ms(end)], "the SELECT")
    except MisalignedError:
        return []
    return [(start, middle), (middle, end)]


def _slices(
    server: ClickHouse, plan: Plan, counted: Mapping[int, int] | None, rows: int, seconds: float
) -> list[Slice]:
    bounds = plan.bounds_ms()
    chunks = [(from_ms(start), from_ms(end)) for start, end in pairwise(bounds)]
    tables = [table for statement in plan.statements for table in plan.filters(statement)]
    found = [counted] if counted is not None else [rows_by_bound(server, each, bounds, seconds / 4) for each in tables]
    counts: dict[int, int] = {}
    for bound, count in (each for one in found for each in one.items()):
        number = bisect_right(bounds, bound) - 1
        counts[number] = counts.get(number, 0) + count
    whole_days = any(table.kind.is_date for table in tables)
    return pick_slices(chunks, counts, rows, whole_days=whole_days)


def fill_slices(
    server: ClickHouse, plan: Plan, table: TableName, slices: Sequence[Slice], settings: Mapping[str, Any]
) -> None:
    """
    Insert the rows of all statements for slices of the window into *table*.

    Each statement reads all slices in one INSERT. If some parameters of a statement are formats, :func:`.of_one_text`
    cuts and joins the slices, and each resulting slice needs a separate INSERT.
    """
    for statement in plan.statements:
        for each in of_one_text(statement.parameters, plan.bounds_ms(), slices):
            limits = slices_settings(plan, statement, each)
            server.command(insert_select(table, statement), {**settings, **limits})


def _fill(
    server: ClickHouse, plan: Plan, table: TableName, slices: Sequence[Slice], settings: Mapping[str, Any]
) -> None:
    try:
        fill_slices(server, plan, table, slices, settings)
    except StatementRefusedError as error:
        if error.name not in _NO_ROW_FITS:
            raise
        raise RequestError(
            f"What the SELECT gives does not fit into {plan.target}: {error.message}",
            remedy=Advice("convert it in the SELECT, as with CAST, or change the column; each chunk would fail"),
        ) from error


def _no_trial(doubts: Sequence[str], why: str) -> tuple[bool, str]:
    if doubts:
        raise RequestError(
            f"It is not proven that the chunks add up ({'; '.join(doubts)}), and a trial could not be made: {why}",
            remedy=Advice(
                "pass {} to plan without proof, which all later output repeats, or plan the window as one chunk",
                Flag("--no-trial"),
            ),
        )
    return False, f"not made: {why}"


def _differs(plan: Plan, trial: Trial) -> RequestError:
    rows = "\n".join(
        f"  {difference.given_by}: " + ", ".join(f"{name} = {value[:80]}" for name, value in difference.row.items())
        for difference in trial.differences[:3]
    )
    return RequestError(
        f"The chunks do not add up: tried on {len(trial.slices)} slices of {plan.target} between "
        f"{short_instant(trial.slices[0][0])} and {short_instant(trial.slices[-1][1])}, separate chunks give other "
        f"rows than one statement for all. Rows that differ:\n{rows}",
        remedy=Advice(
            "plan the window as one chunk, or write the SELECT so that its parts can be put together; where it is "
            "bound to differ, as with rows in no order, {} plans without this proof",
            Flag("--no-trial"),
        ),
    )
