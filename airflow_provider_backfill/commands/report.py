"""Report who ran a plan, why, when and at what cost."""

from contextlib import suppress

from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import on_the_living
from ..core.instants import render_instant
from ..core.names import quote, show_table
from ..core.run_state import RunStatus
from ..core.sql import literal
from ..errors import BackfillError, ServerError
from .chunks import failures_payload
from .events import EventReader
from .session import Payload, Session

_COST = (
    "SELECT count(), sum(read_rows), sum(read_bytes), sum(written_rows), sum(written_bytes),"
    " sum(ProfileEvents['UserTimeMicroseconds'] + ProfileEvents['SystemTimeMicroseconds']),"
    " max(memory_usage), countIf(exception_code != 0), sum(query_duration_ms)"
    " FROM {table} WHERE type != 'QueryStart' AND startsWith(query_id, {prefix})"
)

# The maximum wait, in seconds, for the live servers of a cluster to write their logs.
_FLUSH_SECONDS = 10


def report_plan(session: Session, plan_id: str, *, verify: bool = False) -> Payload:
    """
    Collect a plan's report: who, why, when, rows and bytes, the server's cost, and the verification.

    The cost comes from ``system.query_log`` of the server, or of every server of its cluster. If that log cannot be
    read or has no query of the plan, or if no ClickHouse is configured, ``cost`` is None and ``notLookedAt`` has the
    reason. If the cost may lack the queries of the last seconds, ``notLookedAt`` has the reason, too.

    Args:
        verify: Whether to verify the plan now and include the result; ignored if no ClickHouse is configured.

    Raises:
        PlanNotFoundError: The plan does not exist.
        RequestError: *verify* is set, and no chunk of the plan is done.
        ServerError: *verify* is set, and ClickHouse could not be asked.
    """
    plan = session.store.load_plan(plan_id)
    run = session.store.open_run(plan).run
    people = list(dict.fromkeys(_people(session, plan_id)))
    unseen: list[str] = []
    cost = verification = None
    if session.server is None:
        unseen.append("ClickHouse: none was named (--clickhouse-url, CLICKHOUSE_URL)")
    else:
        try:
            with session.connected() as server:
                if not server.embedded and (why := _flush_logs(server)):
                    unseen.append(f"the last seconds of system.query_log: {why}")
                cost = _cost(server, plan_id)
        except BackfillError as error:
            unseen.append(f"the cost: {error.message}")
        if verify:
            from .verify import verify_plan

            verification = verify_plan(session, plan_id)
    has_ended = run.status in (RunStatus.COMPLETED, RunStatus.FAILED) or run.status.is_cancelled
    ended = run.updated_at if has_ended else None
    return {
        "ok": True,
        "command": "report",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "from": render_instant(plan.start),
        "to": render_instant(plan.end),
        "status": run.status,
        "writeMode": plan.write_mode,
        "owner": plan.owner,
        "reason": plan.reason,
        "people": people,
        "plannedAt": render_instant(plan.created_at),
        "startedAt": render_instant(run.started_at) if run.started_at else None,
        "endedAt": render_instant(ended) if ended else None,
        "chunksTotal": run.total,
        "attempts": run.attempts,
        "rowsWritten": run.rows,
        "rowsRead": run.read_rows,
        "bytesRead": run.read_bytes,
        "chunkSeconds": round(run.seconds, 3),
        "failures": failures_payload(plan, run),
        "cost": cost,
        "verification": verification,
        "notLookedAt": unseen,
    }


def _people(session: Session, plan_id: str) -> list[str]:
    """
    Return the user or task of each ``Run…`` event; a name may repeat.

    A ``RunThrottled`` event is omitted, because it may have the id of a worker.
    """
    types = ((str(event["type"]), str(event["by"])) for event in EventReader(session, plan_id).read())
    return [by for name, by in types if name.startswith("Run") and name != "RunThrottled"]


def _flush_logs(server: ClickHouse) -> str:
    """
    Write the newest queries of the server, or of the live servers of its cluster, from memory to the log.

    Return the reason if a server was not reached or refused; otherwise an empty text.
    """
    cluster = f" ON CLUSTER {quote(server.cluster)}" if server.cluster else ""
    try:
        server.command(f"SYSTEM FLUSH LOGS{cluster} query_log", on_the_living(_FLUSH_SECONDS) if cluster else {})
    except ServerError as error:
        if cluster:
            # The statement needs Keeper and the right CLUSTER; without these, flush at least this server's log.
            with suppress(ServerError):
                server.command("SYSTEM FLUSH LOGS query_log")
        return error.message
    return ""


def _cost(server: ClickHouse, plan_id: str) -> Payload | None:
    if server.embedded:
        raise ServerError("an embedded engine keeps no query log")
    table = "system.query_log"
    if server.cluster:
        table = f"clusterAllReplicas({literal(server.cluster)}, system.query_log)"
    names = (
        *("queries", "readRows", "readBytes", "writtenRows", "writtenBytes", "cpuSeconds"),
        *("peakMemoryBytes", "failedQueries", "querySeconds"),
    )
    values = server.rows(_COST.format(table=table, prefix=literal(f"backfill-{plan_id}-")))[0]
    cost: Payload = dict(zip(names, map(int, values), strict=True))
    if not cost["queries"]:
        raise ServerError("system.query_log has no query of this plan (it is off, or has forgotten them)")
    cost["cpuSeconds"] = round(cost["cpuSeconds"] / 1e6, 3)
    cost["querySeconds"] = round(cost["querySeconds"] / 1e3, 3)
    return cost
