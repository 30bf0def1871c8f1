"""
``verify``: whether the target still holds what a backfill wrote, and the source still gives it.

Every done chunk has its content sums in the event log, as a rule over the columns of the target's
keys. The source is asked again, chunk by chunk, and the target as a whole; then both for whole rows.
What cannot be compared is said, with the reason.
"""

from collections.abc import Sequence

from .clickhouse import inspect
from .clickhouse.client import Server
from .clickhouse.execute import content_at_source
from .core.identity import render_instant
from .core.model import Chunk, ChunkStatus, Content, Plan, Run, TableFacts
from .core.run import select_chunks
from .core.statements import parse_table, table_content, window_filter
from .errors import RequestError
from .session import Payload, Session


def verify(session: Session, wanted: str) -> Payload:
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
    made = session.store.load_plan(wanted)
    run = session.store.open_run(made).run
    done = [(chunk, run.state(chunk.id).content) for chunk in select_chunks(made, run, ChunkStatus.DONE)]
    if not done:
        raise RequestError(
            f"No chunk of plan {made.plan_id} is done, so there is nothing to verify.",
            hint=f"clickhouse-backfill status --plan-id {made.plan_id}",
        )
    with session.connected() as server:
        target = inspect.table_facts(server, parse_table(made.target, "target"))
        if target is None:
            raise RequestError(f"There is no table {made.target} on {server.address}.", hint="check the server")
        changed, present = [], []
        for chunk, content in done if made.asks_source_again else ():
            now = content_at_source(server, made, target, chunk)
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
        compared = _compare_target(server, made, run, target, [content for _, content in done if content])
        rows = None
        if made.asks_source_again and compared["found"]:
            rows = _compare_rows(server, made, target, [chunk for chunk, _ in done], present, compared["found"])
    sides = {"source": made.asks_source_again, "target": compared["matches"] is not None}
    differs = changed or compared["matches"] is False or (rows is not None and not rows["match"])
    return {
        "ok": not differs and any(sides.values()),
        "command": "verify",
        "planId": made.plan_id,
        "target": made.target,
        "chunksVerified": len(done),
        "chunksTotal": run.total,
        "compared": [side for side, was in sides.items() if was],
        "changedChunks": changed,
        "targetContent": compared,
        "wholeRows": rows,
    }


def _compare_target(server: Server, made: Plan, run: Run, target: TableFacts, contents: Sequence[Content]) -> Payload:
    """The window in the target against the sum of what was written to it."""
    written = _total(contents)
    payload: Payload = {"written": _sums(written), "found": None, "matches": None, "why": ""}
    why = _incomparable(made, run, target)
    if why and (not written.rows or "Collapsing" in target.engine or _window_rows(server, made, target) != 0):
        return {**payload, "why": why}
    found = _window_content(server, made, target, made.summed(made.statements[0]))
    return {**payload, "found": _sums(found), "matches": found == written}


def _compare_rows(
    server: Server, made: Plan, target: TableFacts, done: Sequence[Chunk], present: Sequence[Content], found: Payload
) -> Payload:
    """
    Source and target as they are now, by all columns.

    Args:
        present, found: The same by the summed columns, per chunk at the source, and of the target's window.
    """
    if made.summed_columns:
        present = [content_at_source(server, made, target, chunk, whole=True) for chunk in done]
        found = _sums(_window_content(server, made, target, made.statements[0].columns))
    source = _sums(_total(present))
    return {"source": source, "target": found, "match": source == found}


def _window_content(server: Server, made: Plan, target: TableFacts, columns: Sequence[str]) -> Content:
    return Content(*server.rows(table_content(target.storage, columns, _window(made)))[0])


def _window_rows(server: Server, made: Plan, target: TableFacts) -> int | None:
    """Rows of the target's window, which no merge empties; None when it has no time column."""
    if made.target_time is None:
        return None
    return inspect.count_rows(server, target.storage, _window(made))


def _window(made: Plan) -> str:
    """The condition that a row of the target lies in the plan's window."""
    return window_filter(made, Chunk("", made.start, made.end))


def _total(contents: Sequence[Content]) -> Content:
    return Content(sum(c.rows for c in contents), sum(c.checksum for c in contents) % 2**64)


def _incomparable(made: Plan, run: Run, target: TableFacts) -> str:
    """Why the target's window need not equal what was written; empty when it must."""
    if made.target_time is None:
        return "the target has no time column, so its window cannot be told"
    if target.engine not in ("MergeTree", "ReplicatedMergeTree", "SharedMergeTree", "Memory"):
        return f"a {target.engine} table merges rows by its key"
    if made.existing_rows and made.write_mode != "replace":
        return f"the window held {made.existing_rows} other rows before"
    if any(statement.columns != made.statements[0].columns for statement in made.statements):
        return "the plan's statements fill different columns"
    if run.count(ChunkStatus.DONE) < run.total and made.existing_rows:
        return "not every chunk is done, and the window held rows before"
    return ""


def _sums(content: Content) -> Payload:
    return {"rows": content.rows, "checksum": str(content.checksum)}
