"""
Verify a chunk's staged rows before publication.

With the row proof ``written``, the staging table's parts must have as many rows as the server counted while writing.
The table is new, has one writer, and neither deduplicates nor merges, so equal counts prove that no row was lost.

The source is read again, as with the row proof ``content``, if the server does not report a count, if the counts
differ, or if the parts have no rows. If the filtered tables have no rows of the chunk, however, empty parts suffice
as the proof. Where content sums cannot be compared, the rows that the SELECTs give are only counted again.

docs/decisions/0010 has the argument.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from ..core.facts import TableFacts
from ..core.plain_text import show_number
from ..core.plan import Chunk, Plan, RowProof, Statement
from ..core.remedy import command
from ..core.run_state import ContentSums
from ..core.sql import any_row_sql, chunk_filter, definition_sql, parts_sql, source_checksum_sql, table_checksum_sql
from ..core.tables import TableName
from ..core.window import Slice
from ..errors import Advice, ServerError, VerificationError
from .attempt import Attempt, OutdatedError
from .client import ClickHouse
from .cluster import catch_up
from .foreign_rows import extremes_sql, present_sql, reach

NOTHING = ContentSums(0, 0)
# The maximum wait, in seconds, until this server has dropped the parts of an earlier chunk.
_GOING_SECONDS = 30


class Proof(NamedTuple):
    """
    The facts about an attempt's verified staged rows that the log and the publication need.

    Attributes:
        content: The number of rows and a checksum, for the log. With the row proof ``written``, unless the source was
            read before staging, the checksum is the sum of the parts' hashes; otherwise, it is the rows' content sum.
        reach: The target times ``[first, last)`` of the rows. None if all lie in the chunk's window, if no row has a
            time, or if the plan does not need these times.
        parts: Partition id and ``hash_of_all_files`` of each staged part.
        present: The number of rows that the target had in the chunk's window; None if the target was not asked, if
            there are no staged parts, or if *reach* is not None.
    """

    content: ContentSums
    reach: Slice | None = None
    parts: tuple[tuple[str, str], ...] = ()
    present: int | None = None


def prove(
    server: ClickHouse, attempt: Attempt, table: TableName, written: int | None, wanted: ContentSums | None
) -> Proof:
    """
    Compare an attempt's staged rows with its source.

    Args:
        written: The number of rows that the server counted while writing *table*; None if the server reported no count.
        wanted: The source's sums from before staging; None if the source was not read then.

    Returns:
        The facts about the staged rows. The content is :data:`NOTHING` if the staging table and the source are empty.

    Raises:
        VerificationError: The staged rows differ from the source's rows.
        ServerError: ClickHouse refused a query or could not be reached, or a replica did not catch up.
    """
    plan, chunk = attempt.plan, attempt.chunk
    extremes, question = extremes_sql(plan, table), present_sql(attempt)
    if question and attempt.target.replicas is not None:
        catch_up(server, attempt.target.storage)
    # Each statement costs milliseconds, so one query returns the parts, the target's row count and the extreme times.
    look = _look(server, attempt, table, question, extremes)
    present = int(look[0][4]) if look and question else None
    found = tuple(map(int, look[0][-3:])) if look and extremes else ()
    content = ContentSums(sum(int(part[1]) for part in look), sum(_number(part[2]) for part in look) % 2**64)
    if wanted is not None:
        content = _same(attempt, _content(server, attempt, table), wanted)
    elif content.rows == 0 and is_empty(server, plan, chunk):
        return Proof(NOTHING)
    else:
        # Even if both counts are 0, read the source again, because a SELECT from a stale replica succeeds without rows.
        if content.rows != written or content.rows == 0:
            if plan.sums_tell:
                _same(attempt, _content(server, attempt, table), source_content(server, attempt))
            elif content.rows != (given := sum(_count(server, attempt, each) for each in plan.statements)):
                raise _other_rows(attempt, content.rows, given)
        if plan.row_proof is not RowProof.WRITTEN:
            content = _content(server, attempt, table)
    beyond = reach(plan, chunk, found)
    parts = tuple((partition, files) for partition, _, _, files, *_ in look)
    return Proof(content, beyond, parts, present if beyond is None else None)


def _look(server: ClickHouse, attempt: Attempt, table: TableName, one: str, three: str) -> list[list[str]]:
    """Return the answer about the staged parts, once no part of an earlier chunk is among them."""
    until = time.monotonic() + _GOING_SECONDS
    definition = attempt.definition and definition_sql(attempt.target.storage)
    question = parts_sql(table, one, three, definition)
    while True:
        look = server.texts(question, {"query_id": f"{attempt.query_id}.staged"})
        if definition and look and look[0].pop() != attempt.definition:
            raise OutdatedError(attempt)
        if not attempt.going or attempt.going.isdisjoint(part[3] for part in look):
            return look
        if time.monotonic() > until:
            raise ServerError(
                f"The staging table of chunk {attempt.chunk.id} still has parts of an earlier chunk after "
                f"{_GOING_SECONDS} s, although they were to be dropped."
            )
        time.sleep(0.02)


def _number(hashed: str) -> int:
    """Return the first 64 bits of a hash, given in hexadecimal, as a number."""
    return int.from_bytes(bytes.fromhex(hashed[:16]), "little")


def _content(server: ClickHouse, attempt: Attempt, table: TableName) -> ContentSums:
    plan = attempt.plan
    question = table_checksum_sql(table, plan.summed(plan.statements[0]))
    return ContentSums(*server.numbers(question, {"query_id": f"{attempt.query_id}.staged"}))


def _same(attempt: Attempt, staged: ContentSums, wanted: ContentSums) -> ContentSums:
    if staged != wanted:
        raise _other_rows(
            attempt,
            f"{show_number(staged.rows, 'row')} (checksum {staged.checksum})",
            f"{show_number(wanted.rows, 'row')} (checksum {wanted.checksum})",
        )
    return staged


def _other_rows(attempt: Attempt, staged: int | str, given: int | str) -> VerificationError:
    return VerificationError(
        f"Chunk {attempt.chunk.id} staged {staged}, but the source gives {given}.",
        remedy=Advice(
            "rows of this window still change, or the SELECT gives another result each time; "
            "once the source is at rest, run `{}`",
            command("resume", attempt.plan.plan_id),
        ),
    )


def _count(server: ClickHouse, attempt: Attempt, statement: Statement) -> int:
    settings = chunk_filter(attempt.plan, statement, attempt.chunk)
    (rows,) = server.numbers(f"SELECT count() FROM (\n{statement.query}\n)", settings)
    return rows


def is_empty(server: ClickHouse, plan: Plan, chunk: Chunk) -> bool:
    """
    Return whether no filtered table has rows in the chunk's window and key range.

    Return False if a statement's source is a table function, or if a statement has no time filter.
    """
    if not all(statement.table for statement in plan.statements):
        return False
    return not any(server.numbers(any_row_sql(plan, statement, chunk)) for statement in plan.statements)


def source_content(server: ClickHouse, attempt: Attempt) -> ContentSums:
    """Return the content sums of the rows that the plan's statements now give for the attempt's chunk."""
    return content_at_source(server, attempt.plan, attempt.target, attempt.chunk, named=attempt.query_id)


def content_at_source(
    server: ClickHouse,
    plan: Plan,
    target: TableFacts,
    chunk: Chunk,
    *,
    whole: bool = False,
    summed: Sequence[str] = (),
    named: str = "",
) -> ContentSums:
    """
    Return the content sums of the rows that the plan's statements now give for a chunk.

    Args:
        whole: Whether to sum all columns of each statement instead of the plan's summed columns.
        summed: The columns to sum, regardless of *whole* and the plan; empty to let *whole* and the plan decide.
        named: The prefix of the query ids, so that a cancel finds the queries; empty to leave the ids to ClickHouse.

    Raises:
        ServerError: ClickHouse refused a query or could not be reached.
    """
    rows = checksum = 0
    for index, statement in enumerate(plan.statements):
        # A conversion to the target's type may need the settings that permit this type.
        allowed = server.permissive if statement.converted else {}
        settings = {**allowed, **chunk_filter(plan, statement, chunk)}
        if named:
            settings["query_id"] = f"{named}.source.{index + 1}"
        over = summed or (statement.columns if whole else plan.summed(statement))
        found = ContentSums(*server.numbers(source_checksum_sql(statement, target.columns, over), settings))
        rows, checksum = rows + found.rows, (checksum + found.checksum) % 2**64
    return ContentSums(rows, checksum)
