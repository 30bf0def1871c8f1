"""Cancel a plan and kill its queries."""

import time
from collections.abc import Sequence
from datetime import timedelta

from ..clickhouse import attempt
from ..core.events import ChunkReleased, RunCancelled
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, RunStatus
from ..errors import ConfigError, RequestError, ServerError, ServerUnreachableError
from ..state.run_log import RunLog
from .lease import owner_is_dead, utc_now
from .session import Payload, Session
from .sites import Site, sites_of
from .status import status_payload


def cancel_plan(session: Session, plan_id: str, *, reason: str = "", wait_seconds: float = 10.0) -> Payload:
    """
    Cancel a plan, so that no chunk is claimed until a user resumes the plan.

    Live workers notice the cancel within a second, kill their queries, and release their chunks. If a server is
    configured, this command kills the plan's queries, too, and releases the claims of dead workers.

    Args:
        reason: The user's reason, for the log.
        wait_seconds: The longest wait for live workers to release their chunks, in seconds; no wait without a
            server.

    Returns:
        The plan's status; ``queries`` says in words how many queries were killed, or why a server was not asked.

    Raises:
        RequestError: The plan does not exist or is already completed.
        StillRunningError: The plan is cancelled, but queries survive the kill; the message names the queries.
    """
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    noop = log.run.cancelled
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(
            f"Plan {plan_id} is completed; there is nothing to cancel.", hint="its rows are in the target"
        )
    if not noop:
        log.commit(lambda run: None if run.cancelled else RunCancelled(at=utc_now(), by=session.user, reason=reason))
    queries = "not looked at, because no ClickHouse was named"
    if session.server is not None:
        try:
            with session.connected() as address, sites_of(address, plan) as sites:
                queries = _kill(sites)
                deadline = utc_now() + timedelta(seconds=wait_seconds)
                while _free_dead_claims(session, log) and utc_now() < deadline:
                    time.sleep(0.1)
                    _kill(sites)
        except attempt.StillRunningError:
            log.checkpoint()
            raise
        except (ServerError, ConfigError) as error:
            # Live workers read the cancel in the log, and obey it even if this process cannot reach the server.
            queries = f"not looked at: {error.message}"
    log.checkpoint()
    return {**status_payload(session, plan, log.refresh(), "cancel", noop=noop), "queries": queries}


def _kill(sites: Sequence[Site]) -> str:
    """
    Kill the plan's queries on every site; return a text with the number of queries, and with the unreachable shards.

    Raises:
        ServerError: The server of a plan without shards could not be reached, a server refused a statement, or a query
            still runs.
    """
    found, silent = 0, []
    for site in sites:
        try:
            found += attempt.kill_queries(site.server, site.plan.plan_id)
        except ServerUnreachableError as error:
            if not site.name:
                raise
            silent.append(f"{site.name} not looked at: {error.message}")
    return "; ".join([f"{found} killed", *silent])


def _free_dead_claims(session: Session, log: RunLog) -> int:
    """Release the chunks of dead workers; return the number of chunks that live workers still hold."""
    run, moment, held = log.refresh(), utc_now(), 0
    for chunk in list(select_chunks(log.plan, run, ChunkStatus.RUNNING)):
        state = run.state(chunk.id)
        if not owner_is_dead(run, state.owner, moment):
            held += 1
            continue
        released = ChunkReleased(
            at=utc_now(), by=session.user, chunk_id=chunk.id, attempt=state.attempt, reason="its worker is gone"
        )
        log.append(released)
    return held
