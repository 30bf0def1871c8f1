"""
Check a request against the facts about its tables, and decide parts of its plan.

The decisions are the time column, the filled columns, the write mode and the number of threads. This module is pure:
the server's answers come as facts.
"""

import difflib
import math
from collections.abc import Sequence
from datetime import datetime, timedelta

from ..errors import Advice, Flag, RequestError
from .chunking import Chunking
from .column_types import takes_null, time_kind, unwrap_type, widens
from .facts import Column, ScanFacts, TableFacts
from .instants import render_instant
from .masking import mask_secrets
from .names import show_table
from .plan import ModeReason, Plan, Statement, WriteMode
from .request import PlanRequest
from .tables import TimeKind
from .window import render_chunk_hours, require_order

MAX_CHUNKS = 1_000_000
# The most threads per INSERT, and the least source rows per thread. Each thread keeps a block in memory and writes
# separate parts.
_MOST_THREADS = 4
_ROWS_PER_THREAD = 100_000
_AT_LEAST_ONCE = (Flag("--write-mode", WriteMode.INSERT), Flag("--accept-at-least-once"))
# Engines of tables that accept an INSERT but no partitions from another table.
_INSERTABLE = frozenset({"Distributed", "Memory", "Null", "Log", "TinyLog", "StripeLog"})
# Engines of tables that show, forward or copy the rows of other tables.
_OF_ANOTHER = frozenset(
    {"Distributed", "Buffer", "View", "MaterializedView", "WindowView", "Merge", "Alias", "Dictionary"}
)


def check_window(
    start: datetime, end: datetime, chunking: Chunking, *, max_hours: float, min_chunk_minutes: float, force: bool
) -> None:
    """
    Check a window, and the nominal length and number of its chunks, against the limits.

    For chunks that follow the target's partitions, only the window is checked.

    Raises:
        RequestError: The window is empty, reversed, or longer than *max_hours* without *force*; the chunks are shorter
            than *min_chunk_minutes*; or there would be more than :data:`MAX_CHUNKS` chunks.
    """
    require_order(start, end)
    length = chunking.nominal_hours
    if length and length * 60 < min_chunk_minutes:
        raise RequestError(
            f"A chunk of {render_chunk_hours(length)} h is shorter than the minimum of "
            f"{render_chunk_hours(min_chunk_minutes)} minutes.",
            remedy=Advice(
                "pass {} or more, or lower limits.minChunkMinutes",
                Flag("--chunk-hours", render_chunk_hours(min_chunk_minutes / 60)),
            ),
        )
    hours = (end - start) / timedelta(hours=1)
    if hours > max_hours and not force:
        raise RequestError(
            f"The window {render_instant(start)} to {render_instant(end)} is {hours:g} h, "
            f"over the limit of {max_hours:g} h.",
            remedy=Advice("shorten it, raise limits.maxWindowHours, or pass {}", Flag("--force-large-window")),
        )
    if length:
        check_chunk_count(math.ceil(hours / length))


def check_chunk_count(count: int) -> None:
    """
    Refuse a plan with more chunks than the log, the page and the map can handle.

    Raises:
        RequestError: There are more than :data:`MAX_CHUNKS` chunks.
    """
    if count > MAX_CHUNKS:
        raise RequestError(
            f"The plan would have {count:,} chunks, over the limit of {MAX_CHUNKS:,}.",
            remedy=Advice("pass a longer {}, or plan the window in parts", Flag("--chunk-hours")),
        )


def find_time_column(table: TableFacts, wanted: str | None, unit: str) -> tuple[str, TimeKind]:
    """
    Return the column that gives a row's time, and how the column stores an instant.

    Column *wanted* must exist and hold times. Without *wanted*, take the only time column, else the time column that
    comes first in the sorting key, else the one that comes first in the partition key.

    Raises:
        RequestError: Column *wanted* does not exist or holds no times. Without *wanted*, the table has no time column,
            several integers that may be times, or several time columns of which none is in a key.
    """
    kinds = {column.name: kind for column in table.columns if (kind := time_kind(column.type, unit))}
    seen = ", ".join(f"{column.name} {column.type}" for column in table.columns)
    if wanted is not None:
        column = table.column(wanted)
        if column is None:
            near = difflib.get_close_matches(wanted, [column.name for column in table.columns], 1)
            raise RequestError(
                f"{table.name} has no column {wanted!r}; it has {seen}.",
                remedy=Advice("did you mean {}?", Flag("--time-column", near[0]))
                if near
                else Advice("pass {} with one of these", Flag("--time-column")),
            )
        if wanted not in kinds:
            integer = unwrap_type(column.type).lstrip("U").startswith("Int")
            raise RequestError(
                f"The column {wanted} of {table.name} is {column.type}, which holds no instant.",
                remedy=Advice("for an integer epoch pass {} with s, ms, us or ns", Flag("--time-unit"))
                if integer
                else Advice("pass {} with a Date, DateTime or DateTime64 column", Flag("--time-column")),
            )
        return wanted, kinds[wanted]
    integers = [name for name, kind in kinds.items() if kind.per_second]
    if len(integers) > 1:
        # Do not guess: a wrong integer column (an id, a count) would have no rows in the window.
        raise RequestError(
            f"{table.name} has several integers, {', '.join(integers)}, and nothing says which of them is the time.",
            remedy=Advice("pass {} with one of these", Flag("--time-column")),
        )
    keys = f"{table.sorting_key}, {table.partition_key}"
    places = {name: keys.find(name) for name in kinds if name in keys}
    chosen = next(iter(kinds)) if len(kinds) == 1 else min(places, key=lambda name: places[name], default=None)
    if chosen is None:
        what = "no time column" if not kinds else f"several time columns ({', '.join(kinds)}), none of them in its key"
        raise RequestError(f"{table.name} has {what}; it has {seen}.", remedy=Advice("pass {}", Flag("--time-column")))
    return chosen, kinds[chosen]


def insert_columns(
    what: str, columns: Sequence[Column], target: TableFacts, supertypes: dict[tuple[str, str], str] | None
) -> tuple[str, ...]:
    """
    Return the target's columns that a SELECT fills, matched by name, in the target's order.

    Args:
        what: The SELECT's name for messages.
        columns: The columns of the SELECT.
        supertypes: By (given, wanted) type, the smallest common type; empty text if there is none. With None, the
            server converts the types, as for a view.

    Raises:
        RequestError: The target lacks a column, a column cannot be inserted, or its type does not fit.
    """
    wanted = {column.name: column for column in target.columns}
    has = ", ".join(wanted)
    for column in columns:
        match = wanted.get(column.name)
        if match is None or not match.insertable:
            state = "has no column" if match is None else "computes its column"
            raise RequestError(
                f"{target.name} {state} {column.name!r}, which {what} gives; it has {has}.",
                remedy=Advice("pass a {} that gives the target's columns by name", Flag("--select")),
            )
        differs = supertypes is not None and column.type != match.type
        if differs and not widens(column.type, match.type, (supertypes or {})[column.type, match.type]):
            raise RequestError(
                f"The column {column.name} is {column.type} in {what} and {match.type} in {target.name}: "
                "the values may not fit.",
                remedy=Advice(
                    "pass a {} that converts it, such as {}",
                    Flag("--select"),
                    f"CAST({column.name} AS {match.type})",
                ),
            )
    given = {column.name for column in columns}
    return tuple(name for name in wanted if name in given)


def converted_columns(columns: Sequence[Column], target: TableFacts) -> tuple[str, ...]:
    """Return the columns of a SELECT whose values the INSERT converts to another type."""
    types = {column.name: column.type for column in target.columns}
    return tuple(column.name for column in columns if types.get(column.name) not in (None, column.type))


def defaulted_columns(columns: Sequence[Column], target: TableFacts) -> tuple[str, ...]:
    """Return the columns of a SELECT whose NULLs become the target's default."""
    types = {column.name: column.type for column in target.columns}
    return tuple(c.name for c in columns if takes_null(c.type) and c.name in types and not takes_null(types[c.name]))


def check_scan(target: TableFacts, statement: Statement, scan: ScanFacts, time_column: str) -> None:
    """
    Refuse a statement that reads the target, or that reads a filtered table without the time filter of the chunk.

    Raises:
        RequestError: The statement reads the target, never reads a filtered table with the time filter, or somewhere
            reads a filtered table without the time filter.
    """
    if str(target.storage) in scan.tables:
        raise RequestError(
            f"{statement.name} reads {target.name}, the target itself: what a chunk gives would depend on the "
            "chunks before it.",
            hint="read from the table the rows come from; the window says which rows are still to be filled",
        )
    if scan.filtered == 0 or scan.filtered < scan.reads:
        where = "nowhere" if scan.filtered == 0 else f"in only {scan.filtered} of {scan.reads} places"
        raise RequestError(
            f"The time filter on {statement.source}.{time_column} takes effect {where} in {statement.name}, "
            "so every chunk would read rows of other chunks.",
            remedy=Advice(
                "read the source by its own name in the SELECT (not through merge() or a Buffer table), "
                "or choose the filtered table with {}",
                Flag("--filter-table"),
            ),
        )


def refuse_replacing(target: TableFacts, remedy: Advice) -> None:
    """
    Refuse to replace partitions if the target's database would also replace them on servers with other rows.

    Raises:
        RequestError: The database executes an ALTER of the target on servers with other rows.
    """
    effect = "the replacing table is empty, so the statement fails and stops all DDL of the database for a minute"
    _refuse_elsewhere(target, "REPLACE PARTITION", effect, remedy)


def refuse_deleting(target: TableFacts, remedy: Advice) -> None:
    """
    Refuse to delete a window if the target's database would also delete the window on servers with other rows.

    Raises:
        RequestError: The database executes an ALTER of the target on servers with other rows.
    """
    _refuse_elsewhere(target, "ALTER TABLE … DELETE", "it would delete rows of other parts", remedy)


def _refuse_elsewhere(target: TableFacts, statement: str, effect: str, remedy: Advice) -> None:
    if target.alters_others:
        raise RequestError(
            f"{target.storage.database} is a Replicated database of servers with different rows of {target.name}, and "
            f"executes {statement} on all of them: on the others, {effect}.",
            remedy=remedy,
        )


def write_mode(target: TableFacts, request: PlanRequest) -> tuple[WriteMode, ModeReason]:
    """
    Return the write mode for the target, and the reason for the mode.

    Raises:
        RequestError: The target's engine does not support the requested mode or any mode; the rows would arrive at
            least once, and the user has not accepted this guarantee; no staging table can be made, because the
            target has the old syntax; or the target's database would also replace partitions on servers with other
            rows.
    """
    partitions = target.engine.endswith("MergeTree")
    wanted = request.write_mode
    instead = "backfill a MergeTree table and copy its rows"
    if target.engine in _OF_ANOTHER:
        instead = "backfill the MergeTree table behind it"
    if not partitions and target.engine not in _INSERTABLE:
        raise RequestError(
            f"{target.name} is a {target.engine} table, which keeps no rows that a backfill could write exactly once.",
            hint=instead,
        )
    if not partitions and wanted not in (None, WriteMode.INSERT):
        raise RequestError(
            f"{target.name} is a {target.engine} table, which cannot take the partitions of a staging table.",
            remedy=Advice(f"{instead}, or pass {{}} {{}}", *_AT_LEAST_ONCE),
        )
    if wanted is WriteMode.INSERT or not partitions:
        if not request.accept_at_least_once:
            exactly = Advice("omit {} for exactly once", Flag("--write-mode"))
            better = exactly if partitions else instead
            raise RequestError(
                f"Rows can reach {target.name} ({target.engine}) by plain INSERT only at least once: "
                "an attempt that fails midway may leave rows that the next one writes again.",
                remedy=Advice("{}, or pass {} {}", better, *_AT_LEAST_ONCE),
            )
        return WriteMode.INSERT, ModeReason.ASKED if partitions else ModeReason.ENGINE
    if target.old_syntax:
        raise RequestError(
            f"{target.name} was made with the old syntax, {target.engine_full}, of which no staging table can be made "
            "that keeps its rows as they were inserted.",
            remedy=Advice(
                f"create it again with PARTITION BY {target.partition_key} ORDER BY ({target.sorting_key}) and copy "
                "its rows by INSERT … SELECT, or pass {} {}",
                *_AT_LEAST_ONCE,
            ),
        )
    if wanted is WriteMode.REPLACE:
        flag = Flag("--write-mode", wanted)
        refuse_replacing(target, Advice("omit {}; or give each shard a Replicated database of its own", flag))
        return wanted, ModeReason.ASKED
    return WriteMode.STAGE, ModeReason.ENGINE


_DEFINITION = (
    *("statements", "whole_tables", "write_mode", "keep_outside", "backup", "row_proof", "allow_existing_rows"),
    *("staging_database", "use_tokens", "min_chunk_minutes", "environment", "connection", "target_identity", "cluster"),
    *("shard_table", "dealing"),
)


def differences(old: Plan, new: Plan) -> list[str]:
    """Return the differences between the definitions of two plans with the same id, as lines; empty if equal."""
    lines = []
    for name in _DEFINITION:
        before, after = getattr(old, name), getattr(new, name)
        # Every server of a cluster is the same environment.
        if before == after or (name == "environment" and old.cluster and old.cluster == new.cluster):
            continue
        # Plans of older versions have neither an identity of the target nor facts about the connection.
        if name in ("target_identity", "connection") and not (before and after):
            continue
        if name == "whole_tables":
            before, after = (", ".join(map(show_table, tables)) or "none" for tables in (before, after))
        if name != "statements":
            lines.append(f"{name}: {before} in the plan, {after} now")
            continue
        for kind, ours, others in (("in the plan", before, after), ("now", after, before)):
            lines.extend(
                f"statement {kind}: {s.name} reads {s.source_text}: {mask_secrets(' '.join(s.select.split()))}"
                for s in ours
                if s not in others
            )
    return lines


def thread_settings(plan: Plan, at_once: int, *, inserting: int, free: int) -> dict[str, int]:
    """
    Return the settings for the numbers of threads in the INSERT of one chunk; empty if the source's size is unknown.

    Parallel chunks share the server's threads, since threads that wait for a core cost processor time. An INSERT gets
    at most four writing threads, and a small chunk fewer, because each of them writes its own parts.

    Args:
        at_once: The number of chunks that run at once.
        inserting: The number of threads for an INSERT; 1 leaves the number of writing threads to the server.
        free: The number of threads that the server chooses for a statement; 0 leaves this number to the server.
    """
    if plan.source_rows is None:
        return {}
    at_once = max(at_once, 1)
    by_rows = plan.source_rows // plan.total_chunks // _ROWS_PER_THREAD
    writing = max(1, min(by_rows, inserting // at_once, _MOST_THREADS))
    settings = {"max_insert_threads": writing} if writing > 1 else {}
    return {**settings, "max_threads": max(1, free // at_once)} if free and at_once > 1 else settings
