"""
``verify``: whether the target still holds what a backfill wrote, and the source still gives it.

Every done chunk has its content sums in the event log. The source is asked again, chunk by
chunk, and the target as a whole; what cannot be compared is said, with the reason.
"""

from collections.abc import Sequence

from .clickhouse import inspect
from .clickhouse.client import Server
from .clickhouse.execute import content_at_source
from .core.identity import render_instant
from .core.model import ChunkStatus, Content, Plan, Run, TableFacts
from .core.run import select_chunks
from .core.statements import parse_table, table_content, time_filter
from .errors import RequestError
from .session import Payload, Session


def verify(session: Session, wanted: str) -> Payload:
    """
    Compare source, log and target of a plan, as of now.

    Returns:
        ``ok`` is False when something differs; ``changedChunks`` lists the chunks whose source
        gives other rows than were written, ``target`` holds the sums of the window.

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
        changed = []
        stable = all(statement.row_wise for statement in made.statements)
        for chunk, content in done if stable else ():
            now = content_at_source(server, made, target, chunk)
            if now != content:
                changed.append(
                    {
                        "chunkId": chunk.id,
                        "from": render_instant(chunk.start),
                        "to": render_instant(chunk.end),
                        "written": _sums(content),
                        "sourceNow": _sums(now),
                    }
                )
        compared = _compare_target(server, made, run, target, [content for _, content in done if content])
    return {
        "ok": not changed and compared["matches"] is not False,
        "command": "verify",
        "planId": made.plan_id,
        "target": made.target,
        "chunksVerified": len(done),
        "chunksTotal": run.total,
        "sourceCompared": stable,
        "changedChunks": changed,
        "targetContent": compared,
    }


def _compare_target(server: Server, made: Plan, run: Run, target: TableFacts, contents: Sequence[Content]) -> Payload:
    """The window in the target against the sum of what was written to it."""
    written = Content(sum(c.rows for c in contents), sum(c.checksum for c in contents) % 2**64)
    payload: Payload = {"written": _sums(written), "found": None, "matches": None, "why": ""}
    why = _incomparable(made, run, target)
    if why or made.target_time is None:
        return {**payload, "why": why}
    where = time_filter(made.target_time.column, made.target_time.kind, made.start, made.end)
    found = Content(*server.rows(table_content(target.storage, made.statements[0].columns, where))[0])
    return {**payload, "found": _sums(found), "matches": found == written}


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


def _sums(content: Content | None) -> Payload | None:
    return None if content is None else {"rows": content.rows, "checksum": str(content.checksum)}
