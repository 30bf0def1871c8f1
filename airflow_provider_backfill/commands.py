"""
One function per thing a user can do; the only place where core meets disk and server.

Command line, operators and web page call these and print, push or render what comes back:
payloads are plain JSON values with camelCase keys, as the contract gives them.
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from . import planning, sizing
from .clickhouse import attempt, inspect, publish
from .clickhouse.client import Server
from .clickhouse.gate import Gate
from .core import checks
from .core.compatibility import changes, compatibility_token, planned_views
from .core.model import (
    ChunkReleased,
    ChunkStatus,
    Event,
    Plan,
    Run,
    RunCancelled,
    RunPaused,
    RunReplayed,
    RunResumed,
    RunStarted,
    RunStatus,
    TableFacts,
    WriteMode,
    whole,
)
from .core.planner import (
    GUARANTEE,
    PlanRequest,
    check_window,
    differences,
    plan_id,
    render_instant,
    write_mode,
)
from .core.run import select_chunks
from .core.statements import parse_table, plain_select, show_table, time_filter
from .diagnosis import check as check
from .diagnosis import coverage as coverage
from .diagnosis import doctor as doctor
from .diagnosis import state_findings
from .errors import BackfillError, ConfigError, DamagedStateError, RequestError, ServerError
from .session import Payload as Payload
from .session import Session as Session
from .state.store import RunLog
from .upkeep import repair as repair
from .upkeep import set_pace as set_pace
from .upkeep import waive as waive
from .verification import verify as verify
from .worker import LEASE_SECONDS, MAX_FAILURES_IN_A_ROW, Worker, chunks_between, has_live_worker, now, owner_is_dead


def _ignore(*_: object) -> None:
    """Report to nobody."""


@dataclass(frozen=True, slots=True)
class RunFlags:
    """What a user may insist on for one run; each is one flag of ``run`` and ``resume``."""

    replay_done: bool = False
    replay_failed: bool = False
    clear_window: bool = False
    force_overlap: bool = False
    force_compatibility: bool = False
    force_environment: bool = False


# ---------------------------------------------------------------- plan


def plan(session: Session, request: PlanRequest) -> Payload:
    """
    Make an immutable plan, or find the one made before; nothing runs.

    Raises:
        RequestError: The request cannot be planned as it is; says why and what to change.
        ServerError: ClickHouse could not be asked.
    """
    with session.connected() as server:
        target = planning.target_facts(server, request.target)
        mode, reason = write_mode(target, request)
        planning.check_grants(server, target, mode)
        statements, column = planning.find_statements(server, target, request)
        start, end = planning.find_window(server, session.options, request, statements[0], column)
        limits = session.options.limits
        count = check_window(
            start,
            end,
            request.chunk_hours,
            max_hours=limits.max_window_hours,
            min_chunk_minutes=limits.min_chunk_minutes,
            force=request.force_large_window,
        )
        name = show_table(target.name)
        scans = planning.check_scans(server, statements, column, start, end)
        time = planning.target_time(target, column)
        made = Plan(
            plan_id=plan_id(name, start, end, request.chunk_hours, column),
            target=name,
            start=start,
            end=end,
            chunk_hours=request.chunk_hours,
            time_column=column,
            chunk_count=count,
            # A SELECT with now() gives other rows when it is asked again, so it cannot be verified that way.
            statements=tuple(
                statement.model_copy(update={"row_wise": scan.row_wise and statement.row_wise, "reads": scan.reads})
                for statement, scan in zip(statements, scans, strict=True)
            ),
            write_mode=mode,
            mode_reason=reason,
            guarantee=GUARANTEE[mode],
            use_tokens=session.options.defaults.require_idempotency_token,
            min_chunk_minutes=limits.min_chunk_minutes,
            environment=server.address,
            target_time=time,
            summed_columns=planning.summed_columns(target, statements, time),
            keep_outside=request.keep_outside,
            backup=request.backup,
            created_at=now(),
        )
        token = compatibility_token(made.statements, target, use_tokens=made.use_tokens)
        made = made.model_copy(update={"compatibility_token": token})
        if request.auto_chunk_hours:
            made = sizing.resized(server, target, made, scans)
        for chunk in made.chunks():
            for statement in made.statements:
                time_filter(column, statement.time_kind, chunk.start, chunk.end)
            break
        existing = session.store.find_plan(made.plan_id)
        if existing is not None and not request.force:
            return _plan_payload(session, _same_plan(existing, made), target, existed=True)
        planning.check_bounds(server, target, made, scans)
        made = made.model_copy(update={"existing_rows": planning.existing_rows(server, target, made)})
        _refuse_existing_rows(server, target, made, request.allow_existing_rows)
        _clean_before(session, server, made, existing, target, force=request.force)
        if not session.store.save_plan(made):
            # Somebody else planned the same at this moment.
            return _plan_payload(session, _same_plan(session.store.load_plan(made.plan_id), made), target, existed=True)
        estimate = sizing.describe(server, target, made, scans)
        warnings = [
            {"message": found.message, "hint": found.hint}
            for found in checks.open_window(made, inspect.server_time(server))
        ]
        return {**_plan_payload(session, made, target, existed=False), "estimate": estimate, "warnings": warnings}


def _refuse_existing_rows(server: Server, target: TableFacts, made: Plan, allowed: bool) -> None:
    if not made.existing_rows or allowed or made.write_mode is WriteMode.REPLACE:
        return
    seam = planning.seam(server, target, made)
    since, cut = "", ""
    if seam.first is not None:
        feeds = f", as {' and '.join(map(str, seam.fed_by))} may have written" if seam.fed_by else ""
        since = f" (the first at {render_instant(seam.first)}{feeds})"
        if seam.first > made.start:
            cut = f"to end before them pass --to {checks.short_instant(seam.first)}; "
    raise RequestError(
        f"{made.target} already holds {made.existing_rows} rows in the window{since}, "
        "and this backfill would add to them.",
        hint=f"{cut}to rebuild them pass --write-mode replace; if they are other rows, pass --allow-existing-rows",
    )


def _same_plan(existing: Plan, made: Plan) -> Plan:
    changed = differences(existing, made)
    if changed:
        raise RequestError(
            f"Plan {made.plan_id} exists with another definition. " + "; ".join(changed) + ".",
            hint="change the window or the chunk size, or pass --force to plan anew and keep the old files beside",
        )
    return existing


def _clean_before(
    session: Session, server: Server, made: Plan, existing: Plan | None, target: TableFacts, *, force: bool
) -> None:
    """Make room for a new plan: nothing of an earlier one with its id may run, or be published later."""
    left = attempt.leftover_tables(server, made.plan_id, target.storage.database)
    if left and not force:
        raise RequestError(
            f"{len(left)} staging tables of plan {made.plan_id} are on the server, such as {left[0]}, "
            "from a run that this state folder knows nothing of.",
            hint="choose the state folder of that run with --state-dir, or pass --force to drop them and plan anew",
        )
    if existing is not None:
        run = session.store.open_run(existing).run
        if has_live_worker(run, now()):
            raise RequestError(
                f"{run.count(ChunkStatus.RUNNING)} chunks of plan {existing.plan_id} are running.",
                hint=f"stop it first: {checks.command('cancel', existing.plan_id)}",
            )
    attempt.kill_queries(server, made.plan_id)
    attempt.drop_tables(server, left)
    if existing is not None:
        session.store.retire_plan(existing.plan_id, f"{now():%Y%m%dT%H%M%S}")


def _plan_payload(session: Session, made: Plan, target: TableFacts, *, existed: bool) -> Payload:
    return {
        "ok": True,
        "command": "plan",
        "planId": made.plan_id,
        "target": made.target,
        "from": render_instant(made.start),
        "to": render_instant(made.end),
        "chunkCount": made.chunk_count,
        "chunkHours": whole(made.chunk_hours),
        "timeColumn": made.time_column,
        "planPath": session.store.plan_path(made.plan_id),
        "existed": existed,
        "writeMode": made.write_mode,
        "modeReason": made.mode_reason,
        "guarantee": made.guarantee,
        "existingRows": made.existing_rows,
        "statements": [
            {"name": s.name, "source": s.source, "verifiedAgainstSource": s.row_wise, "reads": s.reads}
            for s in made.statements
        ],
        "missedViews": [str(view) for view in target.views],
        "next": checks.command("status" if existed else "run", made.plan_id),
    }


# ---------------------------------------------------------------- run, resume


def run(
    session: Session,
    wanted: str,
    *,
    flags: RunFlags = RunFlags(),
    resume: bool = False,
    parallel: int | None = None,
    window: tuple[datetime, datetime] | None = None,
    on_start: Callable[[Worker, Plan, Run], None] = _ignore,
    report: Callable[[Event], None] = _ignore,
    step: Callable[[str], None] = _ignore,
    lease_seconds: float = LEASE_SECONDS,
    max_load: float = 0.8,
    max_failures: int = MAX_FAILURES_IN_A_ROW,
) -> Payload:
    """
    Execute a plan's chunks until all have ended, or until the worker is told to stop.

    Args:
        wanted: The plan's id.
        resume: Take up a paused, failed or cancelled run, failed chunks included.
        parallel: Chunks at once; the option ``defaults.maxParallelChunks`` when None.
        window: Only the chunks that lie in it (a mapped task's share), also for what *flags* replay;
            the others are left to others.
        on_start: Gets the worker, so that a signal can stop it.
        report: Gets every event this worker writes.
        step: Gets the name of each step of each attempt; a test may stop the worker there.
        lease_seconds: How long the worker's claims hold after its last sign of life.
        max_load: Wait before a chunk while the server uses more than this share of its limits on parts and memory.
        max_failures: Pause when so many chunks in a row have failed for good.

    Raises:
        RequestError: The run may not begin as asked; says why and what to type.
        ServerError: ClickHouse could not be reached; nothing was marked done.
    """
    made = session.store.load_plan(wanted)
    log = session.store.open_run(made)
    if resume and log.run.status is RunStatus.PLANNED:
        raise RequestError(f"Plan {wanted} was never run.", hint=checks.command("run", made.plan_id))
    if log.run.status is RunStatus.COMPLETED and not flags.replay_done:
        _sweep(session, made)
        return status_payload(session, made, log.run, "resume" if resume else "run", noop=True)
    if log.run.cancelled and not resume:
        raise RequestError(f"Plan {wanted} was cancelled.", hint=checks.command("resume", made.plan_id))
    _check_flags(made, flags)
    defaults = session.options.defaults
    with session.connected() as server:
        _check_environment(made, server, flags)
        target = planning.target_facts(server, parse_table(made.target, "target"))
        _check_compatibility(session, made, server, target, flags)
        planning.check_scans(server, list(made.statements), made.time_column, made.start, made.end)
        _begin(session, log, flags, resume, window)
        worker = Worker(
            server,
            session.store,
            made,
            target,
            retries=defaults.max_retries_per_chunk,
            retry_delay_ms=defaults.retry_delay_ms,
            report=report,
            step=step,
            lease_seconds=lease_seconds,
            gate=Gate(server, target, max_load=max_load),
            max_failures=max_failures,
            on_behalf_of=session.user,
        )
        on_start(worker, made, log.run)
        try:
            worker.run(chunks_between(made, *(window or (None, None))), parallel or defaults.max_parallel_chunks)
        finally:
            _end(session, log, server, target, worker)
    return status_payload(session, made, log.run, "resume" if resume else "run")


def _check_flags(made: Plan, flags: RunFlags) -> None:
    if flags.clear_window and not (flags.replay_done or flags.replay_failed):
        raise RequestError(
            "--clear-window says how chunks are executed again, but none are to be.",
            hint="pass --replay-done or --replay-failed as well",
        )
    if flags.clear_window and made.backup:
        raise RequestError(
            f"--clear-window would delete rows of {made.target} that its backup does not hold yet.",
            hint="leave it away: replace puts whole partitions in place, whatever they hold",
        )
    if flags.replay_done and made.backup:
        raise RequestError(
            f"Replaying done chunks of {made.target} would put their own rows into its backup.",
            hint=f"first bring back what was there: {checks.command('undo', made.plan_id)}",
        )
    if flags.replay_done and made.write_mode is not WriteMode.REPLACE and not flags.clear_window:
        raise RequestError(
            f"Replaying done chunks of {made.target} would write their rows a second time.",
            hint="pass --clear-window as well: each chunk's window is then deleted from the target before it is filled",
        )
    # A bucket of the time column is not enough: a chunk shorter than it would delete what other chunks wrote.
    if flags.clear_window and not made.keeps_time:
        raise RequestError(
            f"{made.target} has no time column {made.time_column}, so a chunk's window cannot be deleted from it.",
            hint="delete the rows yourself and plan anew with --force",
        )


def _check_environment(made: Plan, server: Server, flags: RunFlags) -> None:
    if made.environment != server.address and not flags.force_environment:
        raise RequestError(
            f"Plan {made.plan_id} was made on {made.environment}, and this is {server.address}.",
            hint="run it there, or pass --force-environment if both are the same ClickHouse",
        )


def _check_compatibility(session: Session, made: Plan, server: Server, target: TableFacts, flags: RunFlags) -> None:
    if flags.force_compatibility:
        return
    feeding = inspect.feeding_views(server, target.name) if planned_views(made) else []
    views = {str(view.name): plain_select(view.select) for view in feeding}
    found = changes(made, target, views, use_tokens=session.options.defaults.require_idempotency_token)
    if found:
        raise RequestError(
            f"Since plan {made.plan_id} was made, something has changed that its rows depend on: {'; '.join(found)}.",
            hint="plan anew with --force, change it back, or pass --force-compatibility to run the plan as it was made",
        )


def _begin(
    session: Session, log: RunLog, flags: RunFlags, resume: bool, window: tuple[datetime, datetime] | None
) -> None:
    """Write that the run goes on, unless another run would write to the same rows."""
    made = log.plan
    statuses = [ChunkStatus.DONE] if flags.replay_done else []
    if flags.replay_failed:
        statuses.append(ChunkStatus.FAILED)

    def replay(run: Run) -> Event | None:
        only = None
        if window is not None:
            chunks = chunks_between(made, *window)(run)
            only = tuple(chunk.id for chunk in chunks if run.state(chunk.id).status in statuses)
        if not statuses or only == ():
            return None
        return RunReplayed(
            at=now(), by=session.user, statuses=tuple(statuses), clear_window=flags.clear_window, chunk_ids=only
        )

    lock = "target-" + hashlib.sha256(made.target.encode()).hexdigest()[:16]
    with session.store.exclusive(lock):
        if session.options.policy.block_overlapping_runs and not flags.force_overlap:
            _refuse_overlap(session, made)
        # First, because a resume makes failed chunks pending: their windows would not be cleared.
        log.commit(replay)
        event = RunResumed if resume else RunStarted
        log.append(event(at=now(), by=session.user))


def _refuse_overlap(session: Session, made: Plan) -> None:
    moment = now()
    for other, run in readable_runs(session, made.target):
        if not checks.overlaps(made, [(other, run)]) or run.status is not RunStatus.RUNNING:
            continue
        held = has_live_worker(run, moment)
        fresh = run.updated_at is not None and moment - run.updated_at < timedelta(seconds=LEASE_SECONDS)
        if held or (fresh and not run.workers):
            raise RequestError(
                f"Plan {other.plan_id} is running on {made.target} over a window that meets this one "
                f"({render_instant(other.start)} to {render_instant(other.end)}).",
                hint=f"wait for it, stop it with `{checks.command('cancel', other.plan_id)}`, or pass --force-overlap",
            )


def _end(session: Session, log: RunLog, server: Server, target: TableFacts, worker: Worker) -> None:
    """Record a pause, write the checkpoint, and drop the tombstones once nothing can need them."""
    run = log.refresh()
    if worker.reason and run.status is RunStatus.RUNNING and not run.count(ChunkStatus.RUNNING):
        log.append(RunPaused(at=now(), by=session.user, reason=worker.reason))
    log.checkpoint()
    if run.status is RunStatus.COMPLETED:
        _drop_tombstones(session, log, server, target)


def _drop_tombstones(session: Session, log: RunLog, server: Server, target: TableFacts) -> None:
    """Drop the staging tables of a run that is completed; under its lock, so that no replay begins meanwhile."""
    left = attempt.leftover_tables(server, log.plan.plan_id, target.storage.database)
    for batch in attempt.batches(left):
        # Not all in one hold of the lock, which in an object store is for half a minute.
        with session.store.exclusive(log.plan.plan_id):
            if log.refresh().status is not RunStatus.COMPLETED:
                return
            attempt.drop_tables(server, batch)


def _sweep(session: Session, made: Plan) -> None:
    """Drop what a worker left that died between its last record and its cleaning up; nothing can need it now."""
    if session.server is None:
        return
    # A completed plan is completed, whether or not its server answers.
    with suppress(ServerError, ConfigError), session.connected() as server:
        target = planning.target_facts(server, parse_table(made.target, "target"))
        _drop_tombstones(session, session.store.open_run(made), server, target)


# ---------------------------------------------------------------- status, cancel, list


def status(session: Session, wanted: str) -> Payload:
    """Where a plan stands, from its event log; needs no ClickHouse."""
    made = session.store.load_plan(wanted)
    run = session.store.open_run(made).run
    return {**status_payload(session, made, run, "status"), "findings": state_findings(session, made, run)}


def window_status(session: Session, wanted: str, window: tuple[datetime, datetime]) -> Payload:
    """
    Where the chunks of a plan stand that lie in ``[start, end)``: a mapped task's share; needs no ClickHouse.

    ``status`` is that of the whole run. ``failed`` names the failed chunks with their last errors.
    """
    made = session.store.load_plan(wanted)
    run = session.store.open_run(made).run
    counts, rows, failed = dict.fromkeys(ChunkStatus, 0), 0, []
    for chunk in chunks_between(made, *window)(run):
        state = run.state(chunk.id)
        counts[state.status] += 1
        rows += state.content.rows if state.content is not None else 0
        if state.status is ChunkStatus.FAILED:
            failed.append({"from": render_instant(chunk.start), "to": render_instant(chunk.end), "error": state.error})
    return {
        "planId": made.plan_id,
        "target": made.target,
        "sources": list(dict.fromkeys(statement.source for statement in made.statements)),
        "environment": made.environment,
        "from": render_instant(window[0]),
        "to": render_instant(window[1]),
        "status": run.status,
        "chunkCounts": {"total": sum(counts.values()), **{status.value: counts[status] for status in ChunkStatus}},
        "rowsWritten": rows,
        "failed": failed,
    }


def status_payload(session: Session, made: Plan, run: Run, command: str, *, noop: bool = False) -> Payload:
    """The payload that run, resume, status and cancel share."""
    payload: Payload = {
        "ok": command in ("status", "cancel") or run.status is RunStatus.COMPLETED,
        "command": command,
        "planId": made.plan_id,
        "target": made.target,
        "from": render_instant(made.start),
        "to": render_instant(made.end),
        "status": run.status,
        "chunkCounts": {"total": run.total, **{status.value: run.count(status) for status in ChunkStatus}},
        "attempts": run.attempts,
        "rowsWritten": run.rows,
        "runPath": session.store.run_path(made.plan_id),
        "eventPath": session.store.event_path(made.plan_id),
        "updatedAt": render_instant(run.updated_at) if run.updated_at else None,
    }
    moment = now()
    if dead := [owner for owner in run.workers if owner_is_dead(run, owner, moment)]:
        payload["deadWorkers"] = dead
    if run.held:
        payload["waitsFor"] = run.held
    if run.parallel:
        payload["maxParallelChunks"] = run.parallel
    if run.last_error:
        payload["lastError"] = run.last_error
    if step := checks.next_step(made, run, dead if not run.cancelled else ()):
        payload["next"] = step
    if noop:
        payload["noop"] = True
    return payload


def is_settled(run: Run) -> bool:
    """Whether nothing happens to a run any more until somebody types: it has ended, or its workers are gone."""
    return not has_live_worker(run, now()) and (
        bool(run.workers) or run.status not in (RunStatus.PLANNED, RunStatus.RUNNING)
    )


def cancel(session: Session, wanted: str, *, reason: str = "", wait_seconds: float = 10.0) -> Payload:
    """
    Stop a plan for good, until somebody resumes it: no chunk is claimed any more, and its queries are killed.

    Workers see it within a second and give their chunks back. Here, too, the server is asked to
    kill the queries, when there is one to ask, and claims of workers that are gone are freed.

    Raises:
        RequestError: No such plan, or it is completed already.
    """
    made = session.store.load_plan(wanted)
    log = session.store.open_run(made)
    noop = log.run.cancelled
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(
            f"Plan {wanted} is completed; there is nothing to cancel.", hint="its rows are in the target"
        )
    if not noop:
        log.commit(lambda run: None if run.cancelled else RunCancelled(at=now(), by=session.user, reason=reason))
    queries = "not looked at, because no ClickHouse was named"
    if session.server is not None:
        try:
            with session.connected() as server:
                queries = f"{attempt.kill_queries(server, made.plan_id)} killed"
                deadline = now() + timedelta(seconds=wait_seconds)
                while _free_dead_claims(session, log) and now() < deadline:
                    time.sleep(0.1)
                    attempt.kill_queries(server, made.plan_id)
        except (ServerError, ConfigError) as error:
            # The cancel is on disk: living workers obey it, whatever this process can reach.
            queries = f"not looked at: {error.message}"
    log.checkpoint()
    return {**status_payload(session, made, log.refresh(), "cancel", noop=noop), "queries": queries}


def _free_dead_claims(session: Session, log: RunLog) -> int:
    """Give back the chunks of dead workers; how many chunks living workers still hold."""
    run, moment, held = log.refresh(), now(), 0
    for chunk in list(select_chunks(log.plan, run, ChunkStatus.RUNNING)):
        state = run.state(chunk.id)
        if not owner_is_dead(run, state.owner, moment):
            held += 1
            continue
        released = ChunkReleased(
            at=now(), by=session.user, chunk_id=chunk.id, attempt=state.attempt, reason="its worker is gone"
        )
        log.append(released)
    return held


def undo(session: Session, wanted: str) -> Payload:
    """
    Bring back what a ``replace`` plan made with ``--backup`` has overwritten, and cancel the plan.

    May be repeated after a crash; the backup table stays until somebody drops it.

    Raises:
        RequestError: The plan has no backup, or a worker still runs it.
    """
    made = session.store.load_plan(wanted)
    log = session.store.open_run(made)
    if not made.backup:
        raise RequestError(
            f"Plan {wanted} keeps no backup, so nothing can be brought back.",
            hint="plan with --write-mode replace --backup to have one",
        )
    if has_live_worker(log.run, now()):
        raise RequestError(f"Plan {wanted} is running.", hint=checks.command("cancel", made.plan_id))
    # From its verification on, a chunk may have been published, and its backup was made before that.
    published = [
        chunk
        for chunk in select_chunks(made, log.run)
        if (state := log.run.state(chunk.id)).status is ChunkStatus.DONE or state.verified
    ]
    with session.connected() as server:
        attempt.kill_queries(server, made.plan_id)
        target = planning.target_facts(server, parse_table(made.target, "target"))
        attempt.drop_leftovers(server, made.plan_id, target.storage.database)
        restored = publish.restore(server, made, target, published)
    if log.refresh().count(ChunkStatus.DONE):
        log.append(RunReplayed(at=now(), by=session.user, statuses=(ChunkStatus.DONE,)))
    if not log.run.cancelled:
        log.append(RunCancelled(at=now(), by=session.user, reason="undone"))
    log.checkpoint()
    return {**status_payload(session, made, log.run, "undo"), "ok": True, "partitionsRestored": restored}


def list_plans(session: Session) -> Payload:
    """Every plan with its status, newest last; damaged ones are named, not fatal."""
    plans, damaged = [], []
    for name in session.store.plan_ids():
        try:
            made = session.store.load_plan(name)
            run = session.store.open_run(made).run
        except DamagedStateError as error:
            damaged.append({"planId": name, "message": str(error)})
            continue
        plans.append(
            {
                "planId": made.plan_id,
                "target": made.target,
                "from": render_instant(made.start),
                "to": render_instant(made.end),
                "chunkHours": whole(made.chunk_hours),
                "status": run.status,
                "done": run.count(ChunkStatus.DONE),
                "total": run.total,
                "rowsWritten": run.rows,
                "createdAt": render_instant(made.created_at),
            }
        )
    plans.sort(key=lambda entry: str(entry["createdAt"]))
    return {
        "ok": not damaged,
        "command": "list",
        "stateDir": session.store.backend.where(""),
        "plans": plans,
        "damaged": damaged,
    }


def readable_runs(session: Session, target: str) -> Iterator[tuple[Plan, Run]]:
    """The plans of a target with their runs; those whose files are damaged are left out."""
    for name in session.store.plan_ids():
        try:
            made = session.store.load_plan(name)
            if made.target == target:
                yield made, session.store.open_run(made).run
        except BackfillError:
            continue
