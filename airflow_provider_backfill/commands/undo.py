"""Restore the rows that a plan with a backup has replaced."""

from ..clickhouse import attempt, catalog, publish
from ..clickhouse.cluster import one_server
from ..clickhouse.newer_rows import refuse_newer_rows
from ..core.coverage import proven_slices, same_window
from ..core.events import RunUndone, RunUndoStarted
from ..core.plan import Chunk, Plan, WriteMode
from ..core.planner import refuse_replacing
from ..core.remedy import command
from ..core.replay import select_chunks
from ..core.run_state import ChunkStatus, Run
from ..core.sql import backup_table, quote_table
from ..core.tables import TableName
from ..errors import Advice, Flag, RequestError
from .filled_windows import meeting_plans
from .lease import has_live_worker, utc_now
from .session import Payload, Session
from .sites import on_site, sites_of, target_of
from .status import status_payload

_RESTORE_YOURSELF = Advice(
    "on each shard, drop the partitions that the plan has replaced, and INSERT the backup's rows into the target"
)


def undo_plan(session: Session, plan_id: str) -> Payload:
    """
    Restore the rows that a ``replace`` plan with ``--backup`` has overwritten, and cancel the plan.

    From before the first change until all rows are restored, the plan is cancelled and cannot be resumed. If the
    command ends early, repeat the command. A refused undo changes nothing. The backup table stays until a user drops
    it.

    Returns:
        The run's status, the number of restored partitions, the number of rows in the backup, and the backup table's
        name with the statement that drops the table.

    Raises:
        RequestError: The plan does not exist, keeps no backup, has lost its backup table, or has a live worker; another
            plan or writer has written to the partitions since; or the target's database would replace rows on other
            servers as well.
        ServerError: ClickHouse could not be asked, or one of the shards did not answer.
    """
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    if not plan.backup:
        raise RequestError(
            f"Plan {plan_id} keeps no backup, so nothing can be brought back.",
            remedy=Advice("plan with {} {} to have one", Flag("--write-mode", WriteMode.REPLACE), Flag("--backup")),
        )
    _refuse_live_worker(log.run)
    _refuse_later_plans(session, plan, log.run)
    restored = kept = 0
    with session.connected() as address, sites_of(address, plan) as sites:
        # Reach every site before changing anything.
        reached = []
        for site in sites:
            with on_site(site.plan.shard):
                server = one_server(site.server)
                target = target_of(server, site.plan)
                refuse_replacing(target, _RESTORE_YOURSELF)
                backup = backup_table(site.plan, target.storage)
                kept_here = server.numbers(f"EXISTS TABLE {quote_table(backup)}") == (1,)
                if kept_here:
                    done = select_chunks(site.plan, log.run, ChunkStatus.DONE)
                    written = {chunk: log.run.done[chunk.id][1] for chunk in done}
                    refuse_newer_rows(server, site.plan, target, written)
                elif _published(site.plan, log.run):
                    raise _no_backup(backup)
                reached.append((site, server, target, kept_here))
        # A shard where nothing was published has no backup.
        if not any(kept_here for *_, kept_here in reached):
            raise _no_backup(backup)

        def begin(run: Run) -> RunUndoStarted | None:
            _refuse_live_worker(run)
            return None if run.undoing or run.undone else RunUndoStarted(at=utc_now(), by=session.user)

        log.commit(begin)
        for site, server, target, kept_here in reached:
            with on_site(site.plan.shard):
                attempt.kill_queries(server, plan.plan_id)
                attempt.drop_leftovers(server, plan.plan_id, target)
                if kept_here:
                    restored += publish.restore(server, site.plan, target, _published(site.plan, log.run))
                    kept += catalog.count_rows(server, backup_table(site.plan, target.storage))
    if not log.refresh().undone:
        log.append(RunUndone(at=utc_now(), by=session.user))
    log.checkpoint()
    return {
        **status_payload(session, plan, log.run, "undo"),
        "ok": True,
        "partitionsRestored": restored,
        "rowsRestored": kept,
        "backup": {"table": str(backup), "drop": f"DROP TABLE {quote_table(backup)} SYNC"},
    }


def _published(plan: Plan, run: Run) -> list[Chunk]:
    """Return the chunks that may be published; the backup of a chunk that is verified in the log is complete."""
    return [
        chunk
        for chunk in select_chunks(plan, run)
        if (state := run.state(chunk.id)).status is ChunkStatus.DONE or state.verified
    ]


def _no_backup(backup: TableName) -> RequestError:
    return RequestError(
        f"The backup {backup} is not there, so nothing can be undone.",
        remedy=Advice("to fill the window again, plan again with {}", Flag("--force")),
    )


def _refuse_live_worker(run: Run) -> None:
    if has_live_worker(run, utc_now()):
        raise RequestError(f"Plan {run.plan_id} is running.", remedy=command("cancel", run.plan_id))


def _refuse_later_plans(session: Session, plan: Plan, run: Run) -> None:
    """Refuse to delete the rows that another plan of the folder has written after *plan* began to replace rows."""
    for other, theirs in meeting_plans(session.store, plan):
        later = run.started_at is not None and theirs.updated_at is not None and theirs.updated_at > run.started_at
        if not (later and same_window(plan, other) and any(proven_slices(other, theirs, plan.start, plan.end))):
            continue
        remedy = Advice(
            "copy its rows to another table, drop the affected partitions, and INSERT the backup's rows yourself"
        )
        raise RequestError(
            f"Plan {other.plan_id} has written to the window since plan {plan.plan_id} replaced its rows, and "
            "restoring the old rows would delete the rows of that plan.",
            remedy=Advice("first `{}`", command("undo", other.plan_id)) if other.backup else remedy,
        )
