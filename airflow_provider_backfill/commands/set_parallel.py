"""Change the maximum number of parallel chunks of a plan, even during a run."""

from ..core.events import ParallelismSet
from ..core.names import show_table
from ..core.run_state import ChunkStatus, RunStatus
from ..errors import RequestError
from .lease import utc_now
from .session import Payload, Session


def set_parallel(session: Session, plan_id: str, parallel: int) -> Payload:
    """
    Set the maximum number of parallel chunks of a plan. Its workers notice the change within two seconds.

    The number applies to all workers together; on a cluster, to the workers of each shard. It also applies to later
    runs of the plan. Running chunks are not stopped.

    Args:
        parallel: The maximum; 0 restores the setting of each worker.

    Returns:
        A payload with the new and the previous maximum, each None if workers use their own settings, and the number of
        running chunks.

    Raises:
        RequestError: The plan does not exist or is already completed.
    """
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(f"Plan {plan.plan_id} is completed; nothing of it runs any more.")
    before = log.run.parallel
    log.append(ParallelismSet(at=utc_now(), by=session.user, parallel=parallel))
    log.checkpoint()
    return {
        "ok": True,
        "command": "set-parallel",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "status": log.run.status,
        "maxParallelChunks": parallel or None,
        "before": before or None,
        "running": log.run.count(ChunkStatus.RUNNING),
    }
