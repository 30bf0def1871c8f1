"""Detect rows that other writers have added to a target since a plan replaced its partitions, before an undo."""

from collections.abc import Mapping

from ..core.facts import TableFacts
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan
from ..core.remedy import command
from ..core.sql import backup_table, quote_table
from ..core.tables import TableName
from ..core.target_window import window_filter
from ..errors import Advice, RequestError
from .client import ClickHouse
from .cluster import catch_up

_NONE = (0, 0, 0)


def refuse_newer_rows(server: ClickHouse, plan: Plan, target: TableFacts, chunks: Mapping[Chunk, int]) -> None:
    """
    Refuse to restore the partitions of done chunks if they hold more rows than the plan has put there.

    Partitions with as many rows as in the backup are skipped, since an interrupted undo may have restored them. A row
    that took the place of another row, or that merges have removed, is not noticed.

    Args:
        chunks: The number of rows that the plan has written, by chunk.

    Raises:
        RequestError: There are further rows, which the restored partitions would not have; or the target has no time
            column, or a chunk cuts a day of a date column.
        ServerError: ClickHouse refused a query, for example because there is no backup; or could not be reached; or a
            replica did not catch up.
    """
    storage, backup = target.storage, backup_table(plan, target.storage)
    for table in (storage, backup) if target.replicas is not None else ():
        catch_up(server, table)
    whole = window_filter(plan, Chunk("", plan.start, plan.end))
    for chunk, written in chunks.items():
        own = window_filter(plan, chunk)
        names = " UNION DISTINCT ".join(
            f"SELECT DISTINCT _partition_id FROM {quote_table(table)} WHERE {own}" for table in (storage, backup)
        )
        held, kept = (_rows_by_partition(server, table, own, whole, names) for table in (storage, backup))
        changed = {partition: rows for partition, rows in held.items() if rows[0] != kept.get(partition, _NONE)[0]}
        more = sum(inside for _, inside, _ in changed.values()) - written
        beside = sum(outside - kept.get(partition, _NONE)[2] for partition, (_, _, outside) in changed.items())
        if newer := max(more, 0) + max(beside, 0):
            raise _error(plan, chunk, newer)


def _rows_by_partition(
    server: ClickHouse, table: TableName, own: str, whole: str, names: str
) -> dict[str, tuple[int, int, int]]:
    """
    Return the numbers of rows of some partitions of *table*: all rows, rows that meet *own*, and rows outside *whole*.

    Args:
        names: A SELECT of the partitions' ids.
    """
    found = server.texts(
        f"SELECT _partition_id, count(), countIf({own}), countIf(NOT coalesce({whole}, 0)) FROM {quote_table(table)}"
        f" WHERE _partition_id IN ({names}) GROUP BY _partition_id"
    )
    return {partition: (int(rows), int(inside), int(outside)) for partition, rows, inside, outside in found}


def _error(plan: Plan, chunk: Chunk, newer: int) -> RequestError:
    return RequestError(
        f"{show_table(plan.target)} holds {show_number(newer, 'row')} in the partitions of chunk {chunk.id} "
        f"({render_instant(chunk.start)} to {render_instant(chunk.end)}) that came after plan {plan.plan_id} had "
        "replaced them, and restoring the old partitions would delete these rows.",
        remedy=Advice(
            "copy the rows that came later to another table, delete them from {}, and run `{}` again",
            show_table(plan.target),
            command("undo", plan.plan_id),
        ),
    )
