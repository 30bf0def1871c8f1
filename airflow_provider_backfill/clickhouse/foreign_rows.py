"""
Detect rows of other writers in a window before a chunk adds its rows.

A fill is planned over a window without rows. Rows that exist before a chunk is published must come from the plan: from
the same chunk, or from neighbours whose rows share a target time, such as the start of a day. Rows outside the plan's
window are not counted, because planning did not count them either.
"""

from collections.abc import Sequence
from datetime import timedelta

from ..core.instants import from_ms, render_instant, short_instant
from ..core.names import quote
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, Statement, WriteMode
from ..core.remedy import command, plan_command
from ..core.sql import literal, milliseconds, quote_table, time_filter
from ..core.tables import TableName
from ..core.window import Slice, whole_days
from ..errors import Advice, Flag, RequestError
from .attempt import Attempt, Neighbour
from .client import ClickHouse
from .cluster import catch_up


class ForeignRowsError(RequestError):
    """
    The window of a chunk contains rows of other writers; the attempt publishes nothing more.

    Attributes:
        unpublished: Whether it is known that nothing of an earlier attempt's staged rows was published.
    """

    unpublished = False


def extremes_sql(plan: Plan, table: TableName) -> str:
    """
    Return SQL for the earliest and latest time of the staged rows in milliseconds, and the number of rows with a time.

    The SQL is empty if the target has no time column, if the write mode is not ``stage``, or if every statement leaves
    the time unchanged.
    """
    time = plan.target_time
    if time is None or plan.write_mode is not WriteMode.STAGE or all(_keeps_time(plan, s) for s in plan.statements):
        return ""
    extremes = (milliseconds(f"{extreme}({quote(time.column)})", time.kind) for extreme in ("min", "max"))
    first, last = (f"ifNull({extreme}, 0)" for extreme in extremes)
    return f"SELECT {first}, {last}, count({quote(time.column)}) FROM {quote_table(table)}"


def _keeps_time(plan: Plan, statement: Statement) -> bool:
    """Return whether a statement copies a table and passes the time column to the target's time column unchanged."""
    time = plan.target_time
    if time is None or time.label is not None or not statement.copies_table or statement.parameters:
        return False
    same = (statement.time_column or plan.time_column, statement.time_kind) == (time.column, time.kind)
    return same and time.column not in statement.converted


def reach(plan: Plan, chunk: Chunk, extremes: Sequence[int]) -> Slice | None:
    """
    Return the target times ``[first, last)`` of staged rows; None if all lie in the chunk's window or none has a time.

    Return None also if *extremes* is empty.

    Args:
        extremes: The server's answer to :func:`extremes_sql`; empty if that SQL is empty.
    """
    # The third number is 0 if no row has a time.
    if plan.target_time is None or not extremes or not extremes[2]:
        return None
    after = timedelta(days=1) if plan.target_time.kind.is_date else timedelta(milliseconds=1)
    span = (from_ms(extremes[0]), from_ms(extremes[1]) + after)
    window = _own_window(plan, chunk)
    return None if window[0] <= span[0] and span[1] <= window[1] else span


def present_sql(attempt: Attempt) -> str:
    """
    Return SQL for the number of rows in a chunk's window of the target; empty if such rows are not checked.

    If the target is replicated, this server's replica must catch up before the caller sends the SQL.
    """
    if _unguarded(attempt.plan):
        return ""
    return _count_sql(attempt, [_own_window(attempt.plan, attempt.chunk)])


def refuse_before_publish(server: ClickHouse, attempt: Attempt, published: int, present: int | None = None) -> None:
    """
    Refuse to publish a sealed chunk into a window with rows of other writers.

    Refuse nothing if the plan does not check existing rows, or while a neighbour in the window has written an unknown
    number of rows.

    Args:
        published: The number of the chunk's rows that are in the target already, before any merge.
        present: The server's fresh answer to :func:`present_sql`; None if the server was not asked, or if rows of the
            chunk lie outside its window.

    Raises:
        ForeignRowsError: The target has rows of other writers. The message has the number of these rows, the plans that
            may have written them, and how to continue.
        ServerError: ClickHouse refused a query or could not be reached, or a replica did not catch up.
    """
    if not _unguarded(attempt.plan):
        _refuse(server, attempt, _areas(attempt), published, present)


def has_times_to_itself(server: ClickHouse, attempt: Attempt, staged: TableName, partition: str) -> bool:
    """
    Return whether the target has no row at the times of a chunk's staged rows, and no other chunk has written there.

    Only one *partition* of *staged* and of the target is considered. Return False if the plan does not check existing
    rows, or found some, or if rows of the chunk lie outside the plan's window.
    """
    plan, areas = attempt.plan, _areas(attempt)
    if plan.target_time is None or _unguarded(plan) or plan.existing_rows:
        return False
    if any(_meets(plan, other, areas) for other in attempt.neighbours()):
        return False
    of_chunk, of_partition = _condition(plan, areas), f"_partition_id = {literal(partition)}"
    storage = quote_table(attempt.target.storage)
    return server.numbers(
        f"SELECT (SELECT count() FROM {storage} WHERE {of_partition} AND {of_chunk}),"
        f" (SELECT count() FROM {quote_table(staged)} WHERE {of_partition} AND NOT coalesce({of_chunk}, 0))"
    ) == (0, 0)


def _areas(attempt: Attempt) -> list[Slice]:
    """Return the slices of target time in which the rows of a staged chunk may lie."""
    areas = [_own_window(attempt.plan, attempt.chunk)]
    if (beyond := attempt.reach()) is not None:
        areas.append(beyond)
    return areas


def _count_sql(attempt: Attempt, areas: Sequence[Slice]) -> str:
    return f"SELECT count() FROM {quote_table(attempt.target.storage)} WHERE {_condition(attempt.plan, areas)}"


def refuse_before_insert(server: ClickHouse, attempt: Attempt) -> None:
    """
    Refuse to insert a chunk into a window with rows of other writers.

    Refuse nothing if the plan does not check existing rows, or while a neighbour in the window has written an unknown
    number of rows. Refuse nothing either if an earlier attempt may have written rows, because such rows look like rows
    of other writers.

    Raises:
        ForeignRowsError: The window has rows of other writers. The message has the number of these rows, the plans that
            may have written them, and how to continue.
        ServerError: ClickHouse refused a query or could not be reached, or a replica did not catch up.
    """
    if _unguarded(attempt.plan) or attempt.touched:
        return
    _refuse(server, attempt, [_own_window(attempt.plan, attempt.chunk)], 0)


def _unguarded(plan: Plan) -> bool:
    return not plan.adds_rows or plan.allow_existing_rows or plan.existing_rows is None


def _refuse(
    server: ClickHouse, attempt: Attempt, areas: Sequence[Slice], published: int, present: int | None = None
) -> None:
    plan, storage = attempt.plan, quote_table(attempt.target.storage)
    own = _condition(plan, areas)
    if present is not None and present <= published:
        return
    if attempt.target.replicas is not None:
        catch_up(server, attempt.target.storage)
    # Count now, because neighbours may have published rows since *present* was read. The log has the numbers of
    # their rows.
    found = server.numbers(_count_sql(attempt, areas))[0]
    if found <= published:
        return
    near = [other for other in attempt.neighbours() if _meets(plan, other, areas)]
    if any(other.rows is None for other in near):
        return
    theirs = sum(other.rows or 0 for other in near)
    foreign = found - published - theirs
    if near and plan.target_time is not None:
        # Where no other chunk of the plan writes, only this chunk's rows may exist.
        apart = f"{own} AND NOT coalesce({_condition(plan, [_area(plan, other) for other in near])}, 0)"
        foreign = max(foreign, server.numbers(f"SELECT count() FROM {storage} WHERE {apart}")[0] - published)
    if foreign <= 0:
        return
    raise _error(server, attempt, own, foreign, "nothing more" if published else "nothing")


def _own_window(plan: Plan, chunk: Chunk) -> Slice:
    """Return the chunk's window in the target's time, extended to whole days if the target stores dates."""
    if plan.target_time is not None and plan.target_time.kind.is_date:
        return whole_days(chunk.start, chunk.end)
    return chunk.start, chunk.end


def _area(plan: Plan, other: Neighbour) -> Slice:
    """Return the times at which the rows of another chunk may lie."""
    start, end = _own_window(plan, other.chunk)
    return (start, end) if other.reach is None else (min(start, other.reach[0]), max(end, other.reach[1]))


def _meets(plan: Plan, other: Neighbour, areas: Sequence[Slice]) -> bool:
    # Without a time column, the rows may belong to any chunk.
    start, end = _area(plan, other)
    return plan.target_time is None or any(start < last and first < end for first, last in areas)


def _condition(plan: Plan, areas: Sequence[Slice]) -> str:
    """
    Return the condition that a row of the target lies in one of *areas* and in the plan's window.

    Every row meets the condition if the target has no time column.
    """
    time = plan.target_time
    if time is None:
        return "1"
    low, high = _own_window(plan, Chunk("", plan.start, plan.end))
    cut = [(max(start, low), min(end, high)) for start, end in areas]
    parts = [time_filter(time.column, time.kind, start, end) for start, end in cut if start < end]
    return f"({' OR '.join(f'({part})' for part in parts)})" if parts else "0"


def _error(server: ClickHouse, attempt: Attempt, own: str, foreign: int, what: str) -> ForeignRowsError:
    plan, chunk, time = attempt.plan, attempt.chunk, attempt.plan.target_time
    rivals = attempt.rivals()
    by = f", as plan {' and plan '.join(rivals)} may have written" if rivals else ""
    waived = command("waive", plan.plan_id, Flag("--reason", "its window holds the rows already"))
    ways = [Advice("if another plan has filled it, `{}`", waived)]
    first = None
    if time is not None:
        earliest = milliseconds(f"min({quote(time.column)})", time.kind)
        storage = quote_table(attempt.target.storage)
        first = from_ms(server.numbers(f"SELECT {earliest} FROM {storage} WHERE {own}")[0])
    if first is not None and chunk.start < first:
        before = plan_command(plan, Flag("--from", short_instant(chunk.start)), Flag("--to", short_instant(first)))
        ways.append(
            Advice(
                "if a view writes there from {} on, waive this plan and fill the time before: `{}`",
                short_instant(first),
                before,
            )
        )
    ways.append(
        Advice("if these are other rows, plan again with {} and {}", Flag("--allow-existing-rows"), Flag("--force"))
    )
    return ForeignRowsError(
        f"{plan.target} holds {show_number(foreign, 'row')} in the window of chunk {chunk.id} "
        f"({render_instant(chunk.start)} to {render_instant(chunk.end)}) that plan {plan.plan_id} "
        f"has not written{by}; the chunk would add to them, and {what} was published.",
        remedy=Advice("; ".join("{}" for _ in ways), *ways),
    )
