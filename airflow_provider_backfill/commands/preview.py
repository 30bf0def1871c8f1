"""
Preview a plan: the statements and the cost of its first and its heaviest chunk.

A preview writes nothing, on disk or on the server. The expected time follows from a measurement: the SELECT of a
medium-sized chunk runs, and its result is discarded.
"""

import time
from statistics import median_low

from ..clickhouse.client import ClickHouse
from ..clickhouse.proof import content_at_source
from ..clickhouse.source_rows import uncompressed_bytes_per_row
from ..core.facts import TableFacts
from ..core.instants import render_instant
from ..core.masking import mask_secrets
from ..core.plan import Chunk, Plan, WriteMode
from ..core.sql import chunk_filter, insert_select, pasteable, staging_table
from ..core.tables import TableName
from ..errors import StatementRefusedError
from .chunk_sizing import chunk_rows
from .session import Payload

# The maximum number of source rows in the chunk whose SELECT runs to measure the rate.
_MEASURED_ROWS = 5_000_000


def preview(server: ClickHouse, plan: Plan, target: TableFacts) -> Payload:
    """
    Return the first and the heaviest chunk of a plan, each with SQL, source rows, uncompressed bytes and seconds.

    The result also has the totals of the plan. Rows, bytes and expected seconds are None if they cannot be found
    cheaply. If the rows cannot be counted, the heaviest chunk is omitted.

    Raises:
        ServerError: ClickHouse could not be reached, or refused to tell the size of a source.
    """
    weighed = chunk_rows(server, plan)
    chunks = [chunk for chunk, _ in weighed] or [next(plan.chunks())]
    rows = dict(weighed)
    sizes = [uncompressed_bytes_per_row(server, table) for table in _sources(plan)]
    per_row = None if None in sizes or not weighed else max(size for size in sizes if size is not None)
    rate = _measured_rate(server, plan, target, weighed)
    shown = [("first", chunks[0])]
    if weighed:
        shown.append(("heaviest", max(chunks, key=lambda chunk: rows[chunk])))
    total = sum(rows.values())
    # If rows are compared with the source, each chunk reads the source twice.
    passes = 2 if plan.asks_source_again else 1

    def seconds(count: int) -> float | None:
        return None if rate is None else round(count / rate * passes, 1)

    return {
        "chunks": [
            {
                "which": which,
                "chunkId": chunk.id,
                "from": render_instant(chunk.start),
                "to": render_instant(chunk.end),
                "keyRange": chunk.key_range,
                "rows": rows.get(chunk),
                "bytes": None if per_row is None else round(rows[chunk] * per_row),
                "seconds": seconds(rows[chunk]) if weighed else None,
                "sql": _statements(plan, target, chunk),
            }
            for which, chunk in shown
        ],
        "rows": total if weighed else None,
        "bytes": None if per_row is None else round(total * per_row),
        "rowsPerSecond": None if rate is None else round(rate),
        "seconds": seconds(total) if weighed else None,
    }


def _sources(plan: Plan) -> list[TableName]:
    return list(dict.fromkeys(one.table for one in plan.statements if one.table is not None))


def _measured_rate(
    server: ClickHouse, plan: Plan, target: TableFacts, weighed: list[tuple[Chunk, int]]
) -> float | None:
    """
    Return the source rows per second that the SELECTs of a medium-sized chunk read.

    Return None if the rows are unknown, if every chunk is empty or too large to try, or if the server refuses a SELECT.
    """
    candidates = [(chunk, rows) for chunk, rows in weighed if 0 < rows <= _MEASURED_ROWS]
    if not candidates:
        return None
    middle = median_low([rows for _, rows in candidates])
    chunk, rows = next(each for each in candidates if each[1] == middle)
    began = time.monotonic()
    try:
        content_at_source(server, plan, target, chunk)
    except StatementRefusedError:
        return None
    return rows / max(time.monotonic() - began, 0.001)


def _statements(plan: Plan, target: TableFacts, chunk: Chunk) -> list[str]:
    """Return the statements of a chunk's first attempt as text to paste into a client, with secrets masked."""
    if chunk.shard:
        plan = plan.on_shard(chunk.shard)
    direct = plan.write_mode is WriteMode.INSERT
    table = target.storage if direct else staging_table(plan, target.storage, chunk.id, 1)
    return [
        "\n".join(
            filter(None, pasteable(mask_secrets(insert_select(table, statement)), chunk_filter(plan, statement, chunk)))
        )
        for statement in plan.statements
    ]
