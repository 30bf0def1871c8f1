"""
``verify``: whether the target still holds what a backfill wrote, and the source still gives it.

Every done chunk has its content sums in the event log, as a rule over the columns of the target's
keys. The source is asked again, chunk by chunk, and the target as a whole; then both for whole rows.
What cannot be compared is said, with the reason.
"""

from collections.abc import Sequence

from ..clickhouse import catalog
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import catch_up
from ..clickhouse.execute import content_at_source
from ..core.facts import TableFacts
from ..core.instants import render_instant
from ..core.plan import Chunk, Plan
from ..core.remedy import command
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, ContentSums, Run
from ..core.sql import parse_table, table_checksum_sql, window_filter
from ..errors import RequestError
from . import plan_inputs
from .session import Payload, Session


def verify_plan(session: Session, plan_id: str) -> Payload:
    """
    Compare source, log and target of a plan, as of now.

    Returns:
        ``ok`` is False when something differs, or when nothing could be compared (``compared`` names
        what was: ``source``, ``target``); ``changedChunks`` lists the chunks whose source gives other
        rows than were written, ``targetContent`` holds the sums of the window, and ``wholeRows``
        those over all columns, of source and target as they are now.

    Raises:
        RequestError: No such plan, or none of its chunks is done.
        ServerError: ClickHouse could not be asked.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    done = [(chunk, run.state(chunk.id).content) for chunk in select_chunks(plan, run, ChunkStatus.DONE)]
    if not done:
        raise RequestError(
            f"No chunk of plan {plan.plan_id} is done, so there is nothing to verify.",
            remedy=command("status", plan.plan_id),
        )
    with session.connected_to_one() as server:
        target = catalog.table_facts(server, parse_table(plan.target, "target"))
        if target is None:
            raise RequestError(f"There is no table {plan.target} on {server.address}.", hint="check the server")
        for table in plan_inputs.replicated_tables(server, plan.statements, target):
            catch_up(server, table)
        changed, present = [], []
        for chunk, content in done if plan.asks_source_again else ():
            now = content_at_source(server, plan, target, chunk)
            present.append(now)
            if now != content:
                changed.append(
                    {
                        "chunkId": chunk.id,
                        "from": render_instant(chunk.start),
                        "to": render_instant(chunk.end),
                        "written": _sums(content) if content else None,
                        "sourceNow": _sums(now),
                    }
                )
        compared = _compare_target(server, plan, run, target, [content for _, content in done if content])
        rows = None
        if plan.asks_source_again and compared["found"]:
            rows = _compare_rows(server, plan, target, [chunk for chunk, _ in done], present, compared["found"])
    sides = {"source": plan.asks_source_again, "target": compared["matches"] is not None}
    differs = changed or compared["matches"] is False or (rows is not None and not rows["match"])
    return {
        "ok": not differs and any(sides.values()),
        "command": "verify",
        "planId": plan.plan_id,
        "target": plan.target,
        "chunksVerified": len(done),
        "chunksTotal": run.total,
        "compared": [side for side, was in sides.items() if was],
        "changedChunks": changed,
        "targetContent": compared,
        "wholeRows": rows,
    }


def _compare_target(
    server: ClickHouse, plan: Plan, run: Run, target: TableFacts, contents: Sequence[ContentSums]
) -> Payload:
    """The window in the target against the sum of what was written to it."""
    written = _total(contents)
    payload: Payload = {"written": _sums(written), "found": None, "matches": None, "why": ""}
    why = _incomparable(plan, run, target)
    if why and (not written.rows or "Collapsing" in target.engine or _window_rows(server, plan, target) != 0):
        return {**payload, "why": why}
    found = _window_content(server, plan, target, plan.summed(plan.statements[0]))
    return {**payload, "found": _sums(found), "matches": found == written}


def _compare_rows(
    server: ClickHouse,
    plan: Plan,
    target: TableFacts,
    done: Sequence[Chunk],
    present: Sequence[ContentSums],
    found: Payload,
) -> Payload:
    """
    Source and target as they are now, by all columns.

    Args:
        present, found: The same by the summed columns, per chunk at the source, and of the target's window.
    """
    if plan.summed_columns:
        present = [content_at_source(server, plan, target, chunk, whole=True) for chunk in done]
        found = _sums(_window_content(server, plan, target, plan.statements[0].columns))
    source = _sums(_total(present))
    return {"source": source, "target": found, "match": source == found}


def _window_content(server: ClickHouse, plan: Plan, target: TableFacts, columns: Sequence[str]) -> ContentSums:
    return ContentSums(*server.row(table_checksum_sql(target.storage, columns, _window(plan))))


def _window_rows(server: ClickHouse, plan: Plan, target: TableFacts) -> int | None:
    """Rows of the target's window, which no merge empties; None when it has no time column."""
    if plan.target_time is None:
        return None
    return catalog.count_rows(server, target.storage, _window(plan))


def _window(plan: Plan) -> str:
    """The condition that a row of the target lies in the plan's window."""
    return window_filter(plan, Chunk("", plan.start, plan.end))


def _total(contents: Sequence[ContentSums]) -> ContentSums:
    return ContentSums(sum(c.rows for c in contents), sum(c.checksum for c in contents) % 2**64)


def _incomparable(plan: Plan, run: Run, target: TableFacts) -> str:
    """Why the target's window need not equal what was written; empty when it must."""
    if plan.target_time is None:
        return "the target has no time column, so its window cannot be told"
    if target.engine not in ("MergeTree", "ReplicatedMergeTree", "SharedMergeTree", "Memory"):
        return f"a {target.engine} table merges rows by its key"
    if plan.existing_rows and plan.write_mode != "replace":
        return f"the window held {plan.existing_rows} other rows before"
    if any(statement.columns != plan.statements[0].columns for statement in plan.statements):
        return "the plan's statements fill different columns"
    if run.count(ChunkStatus.DONE) < run.total and plan.existing_rows:
        return "not every chunk is done, and the window held rows before"
    return ""


def _sums(content: ContentSums) -> Payload:
    return {"rows": content.rows, "checksum": str(content.checksum)}
