"""
Read templated fields of operators and sensors, and make the items to map over.

A mapped task gets a plan's id and a window, never a position. So the task stays correct even if the plan task runs
again.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from math import ceil
from typing import Any

from ..core.chunking import AUTO, Chunking, parse_length
from ..core.instants import from_ms, parse_instant, render_instant, to_ms
from ..core.names import parse_table
from ..core.plan import Plan, RowProof, WriteMode
from ..core.request import TableFilter
from ..core.sql import parse_filter
from ..core.tables import TableName
from ..core.window import Window
from ..errors import RequestError

# Up to _FEW_TASKS chunks have one task each. More chunks share tasks, each with at most about _TASK_SECONDS of work.
# The reason: a mapped task costs a third of a second of processor time. Between two tasks in one slot, more than a
# second passes, or several seconds if the tasks are deferred.
_FEW_TASKS = 24
_TASK_SECONDS = 60
# The minimum number of tasks that each slot executes one after the other, and the minimum number of tasks in total.
# With more than one task per slot, a slot with short tasks takes over work from a slot with long tasks.
_LEAST_ROUNDS = 2
_LEAST_TASKS = 4
# On a small machine, the fixed cost of a chunk in seconds, and the source rows that a task processes per second.
_CHUNK_SECONDS = 0.06
_ROWS_PER_SECOND = 1_000_000


def task_count(plan: Plan, most: int, parallel: int) -> int:
    """
    Return the number of mapped tasks for the chunks of a plan.

    Up to 24 chunks have one task each. More chunks share tasks, so that each task has at most about a minute of work,
    judged by the source rows in the window. There are at least four tasks, and at least two for each of the *parallel*
    slots. The number is a multiple of *parallel*, so that tasks of equal length end together. If the rows are unknown,
    each chunk has a task. Two limits take precedence: there are never more than *most* tasks, and never more tasks than
    chunks.
    """
    count = min(plan.chunk_count, most)
    if plan.source_rows is None or plan.chunk_count <= _FEW_TASKS:
        return count
    seconds = plan.chunk_count * _CHUNK_SECONDS + plan.source_rows / _ROWS_PER_SECOND
    rounds = max(_LEAST_ROUNDS, ceil(_LEAST_TASKS / parallel), ceil(seconds / (_TASK_SECONDS * parallel)))
    return min(count, rounds * parallel)


def mapped_items(plan: Plan, most: int, parallel: int = 1) -> Iterator[dict[str, Any]]:
    """
    Yield one item per mapped task, in time order: plan id, window and chunk count of a batch of consecutive chunks.

    There are :func:`task_count` batches. Their numbers of planned windows differ by at most one. The chunk count
    includes the parts of a window, on all shards.
    """
    count = task_count(plan, most, parallel)
    size, longer = divmod(plan.chunk_count, count)
    slices = plan.slices()
    # Each chunk is executed on every shard.
    shards = max(len(plan.shards), 1)
    first = 0
    for index in range(count):
        batch = list(islice(slices, size + (index < longer)))
        # The parts of a window stay together, because an item has a window and not the ids of chunks.
        more = sum(len(plan.parts.get(place, ("",))) - 1 for place in range(first, first + len(batch)))
        first += len(batch)
        yield {
            "planId": plan.plan_id,
            "from": render_instant(batch[0][0]),
            "to": render_instant(batch[-1][1]),
            "chunkCount": (len(batch) + more) * shards,
        }


def show_window(start: str, end: str) -> str:
    """Return a window as short text: dates if both ends are midnight UTC (one date for one day), else times in UTC."""
    midnight = "T00:00:00.000Z"
    if start.endswith(midnight) and end.endswith(midnight):
        if parse_instant(end) - parse_instant(start) == timedelta(days=1):
            return start.removesuffix(midnight)
        return f"{start.removesuffix(midnight)} to {end.removesuffix(midnight)}"
    texts = (text.removesuffix("Z").removesuffix(".000").removesuffix(":00") for text in (start, end))
    return " to ".join(texts).replace("T", " ")


def parse_mapped_item(chunks: Any) -> tuple[str, Window]:
    """
    Return the plan id and the window of one item of the mapping input.

    Raises:
        RequestError: *chunks* is not such an item, or has an invalid instant.
    """
    try:
        return str(chunks["planId"]), Window(parse_instant(chunks["from"]), parse_instant(chunks["to"]))
    except (KeyError, TypeError, AttributeError):
        raise RequestError(
            f"chunks is {chunks!r}, which names no plan and window.",
            hint="map it over what BackfillPlanOperator returns: .expand(chunks=plan.output)",
        ) from None


def is_newest_first(chunks: Mapping[str, Any]) -> bool:
    """Return whether the plan task asked for the newest chunks first, according to a mapped item."""
    return bool(chunks.get("newestFirst", False))


def is_literal(value: Any) -> bool:
    """Return whether a field already has its final value when Airflow parses the DAG."""
    if isinstance(value, str):
        return "{{" not in value and "{%" not in value and not value.endswith(".sql")
    if isinstance(value, list | tuple):
        return all(map(is_literal, value))
    return value is None or isinstance(value, int | float | datetime)


def blank_to_none(value: Any) -> Any:
    """Return a field's value; None for blank text and for the text ``None``, to which a template may render."""
    return None if isinstance(value, str) and value.strip() in ("", "None") else value


def to_instant(value: str | datetime) -> datetime:
    """
    Return a datetime or ISO text as a UTC datetime in whole milliseconds; a time without an offset is UTC.

    Raises:
        RequestError: The text is not a date.
    """
    if isinstance(value, datetime):
        return from_ms(to_ms(value if value.tzinfo is not None else value.replace(tzinfo=UTC)))
    return parse_instant(value)


def to_chunking(value: float | str) -> Chunking | None:
    """
    Return a chunk length as :func:`.chunking.parse_length` reads it; None for ``auto``.

    Raises:
        RequestError: The length or its time zone does not exist.
    """
    return None if str(value).strip() == AUTO else parse_length(str(value))


def to_flag(value: Any) -> bool:
    """
    Return a boolean from a boolean or its text, which a form or a template may give.

    Raises:
        RequestError: The value is neither true nor false.
    """
    text = str(value).strip().lower()
    if text not in ("true", "false"):
        raise RequestError(f"{value!r} is neither true nor false.", hint="pass True or False, or a template that does")
    return text == "true"


def to_table(what: str) -> Callable[[str], TableName]:
    """Return a parser of ``database.table``; errors call the table *what*."""
    return lambda text: parse_table(text, what)


def to_tables(what: str) -> Callable[[str | Sequence[str]], tuple[TableName, ...]]:
    """Return a parser of one ``database.table`` or a list; errors call each table *what*."""
    return lambda value: tuple(parse_table(text, what) for text in _listed(value))


def to_filters(value: str | Sequence[str]) -> tuple[TableFilter, ...]:
    """Return the filters of one ``database.table[=column]`` or of a list."""
    return tuple(map(parse_filter, _listed(value)))


def _listed(value: str | Sequence[str]) -> Sequence[str]:
    return [value] if isinstance(value, str) else value


def to_mode(text: str) -> WriteMode:
    """Return the write mode with this name; raise a RequestError that lists the names for any other text."""
    try:
        return WriteMode(text.strip())
    except ValueError:
        allowed = ", ".join(mode.value for mode in WriteMode)
        raise RequestError(f"write_mode is {text!r}.", hint=f"pass one of {allowed}") from None


def to_proof(text: str) -> RowProof:
    """Return the proof mode with this name; raise a RequestError that lists the names for any other text."""
    try:
        return RowProof(text.strip())
    except ValueError:
        allowed = ", ".join(RowProof)
        raise RequestError(f"proof is {text!r}.", hint=f"pass one of {allowed}") from None


def conflicting_sources() -> RequestError:
    """Return the error for arguments with both a source and a select."""
    return RequestError("source and select exclude each other: rows come from one place.", hint="keep one of them")
