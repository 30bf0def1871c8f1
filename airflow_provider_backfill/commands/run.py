"""Execute a plan: check that the run may start, run the workers, and clean up."""

import hashlib
from collections.abc import Callable
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

from ..clickhouse import attempt, catalog
from ..clickhouse.attempt import Step
from ..clickhouse.client import ClickHouse
from ..clickhouse.cluster import one_server
from ..clickhouse.execute import DELETE_YOURSELF
from ..clickhouse.fence import Fence, other_runs
from ..clickhouse.throttle import LoadThrottle
from ..core.coverage import overlaps
from ..core.drift import detect_drift, is_another_table, planned_views
from ..core.events import Event, RunPaused, RunReplayed, RunResumed, RunStarted
from ..core.facts import TableFacts
from ..core.hours import ANY_TIME, Schedule, check_limits
from ..core.instants import render_instant
from ..core.names import show_table
from ..core.plan import Plan, WriteMode
from ..core.planner import refuse_deleting, refuse_replacing
from ..core.remedy import command
from ..core.run_state import ChunkStatus, Run, RunStatus
from ..core.select_text import read_select
from ..core.window import Window
from ..errors import Advice, ConfigError, Flag, RequestError, ServerError, ServerUnreachableError, StatementRefusedError
from ..state.run_log import RunLog
from . import plan_inputs
from .chunks import chunks_between
from .crew import Crew, Ready
from .filled_windows import (
    refuse_clearing,
    refuse_filled_window,
    refuse_unfinished_sources,
    what_to_do_instead,
)
from .lease import LEASE_SECONDS, has_live_worker, utc_now
from .list import readable_runs
from .plan_checks import check_hidden_rows
from .reopen import refuse_unfinished_undo
from .session import Payload, Session
from .sites import Site, check_cluster, sites_of, target_of, why_another
from .status import status_payload
from .worker import MAX_FAILURES_IN_A_ROW, Worker


def _ignore(*_: object) -> None:
    """Do nothing: the default for a callback that the caller does not need."""


@dataclass(frozen=True, slots=True)
class RunFlags:
    """The overrides of one run; each corresponds to a flag of ``run`` and ``resume``."""

    replay_done: bool = False
    replay_failed: bool = False
    clear_window: bool = False
    force_overlap: bool = False
    force_compatibility: bool = False
    force_environment: bool = False


def run_plan(
    session: Session,
    plan_id: str,
    *,
    flags: RunFlags = RunFlags(),
    resume: bool = False,
    parallel: int | None = None,
    window: Window | None = None,
    on_start: Callable[[Crew, Plan, Run], None] = _ignore,
    report: Callable[[Event], None] = _ignore,
    step: Callable[[Step], None] = _ignore,
    lease_seconds: float = LEASE_SECONDS,
    max_load: float = 0.8,
    max_failures: int = MAX_FAILURES_IN_A_ROW,
    schedule: Schedule = ANY_TIME,
    newest_first: bool = False,
) -> Payload:
    """
    Execute a plan's chunks until all have ended, or until the crew of workers is told to stop.

    Args:
        plan_id: The plan's id.
        resume: Continue a paused, failed or cancelled run; failed chunks are executed again.
        parallel: Number of parallel chunks on each shard; None or 0 for the option ``defaults.maxParallelChunks``.
        window: Execute only the chunks inside this window, such as a mapped task's share. The flags that replay chunks
            apply to the same window.
        on_start: Called with the crew, plan and run before the first chunk, so that a signal handler can stop the crew.
        report: Called with every event that the workers write, except heartbeats.
        step: Called with each step of each attempt. A test may stop the worker there.
        lease_seconds: Seconds for which a worker's claims hold after its last heartbeat.
        max_load: Wait before a chunk while the server uses more than this share of its limits on parts and memory.
        max_failures: Stop a worker after this number of consecutive permanently failed chunks. The run is then paused.
        schedule: When chunks may start. If chunks are left at the schedule's stop time, the run is paused.
        newest_first: Begin with the end of the window.

    Returns:
        The run's status; ``noop`` is true if the plan was already completed and no done chunks are to be replayed.

    Raises:
        RequestError: The plan cannot run with these arguments, in its present state, or on the present tables. The
            message has the reason, and the hint has a remedy.
        StateError: The state folder failed.
        ServerError: ClickHouse could not be reached, or refused a statement outside an attempt. Done chunks stay done.
    """
    check_limits(max_load, max_failures)
    plan = session.store.load_plan(plan_id)
    log = session.store.open_run(plan)
    if resume and log.run.status is RunStatus.PLANNED:
        raise RequestError(f"Plan {plan_id} was never run.", remedy=command("run", plan.plan_id))
    if log.run.status is RunStatus.COMPLETED and not flags.replay_done:
        _sweep(session, plan, flags)
        return status_payload(session, plan, log.run, "resume" if resume else "run", noop=True)
    refuse_unfinished_undo(log.run)
    if log.run.cancelled and not resume:
        raise RequestError(f"Plan {plan_id} was cancelled.", remedy=command("resume", plan.plan_id))
    if log.run.pause_holds and not resume:
        raise RequestError(f"Plan {plan_id} is paused until a user resumes it.", remedy=command("resume", plan.plan_id))
    _check_flags(plan, log.run, flags)
    blocks = session.options.policy.block_overlapping_runs and not flags.force_overlap
    if blocks:
        _refuse_overlap(session, plan)
        refuse_unfinished_sources(session.store, plan)
    first: frozenset[str] = frozenset()
    if flags.clear_window:
        refuse_clearing(session.store, plan)
    else:
        first = refuse_filled_window(session, plan, log.run, window, resume=resume)
    defaults = session.options.defaults

    def prepare(site: Site) -> Ready:
        """Check that the plan still fits one site, fence the plan's window there, and return the inspected site."""
        server, here = one_server(site.server), site.plan
        target = target_of(server, here)
        if why := why_another(server, site, target):
            raise RequestError(
                f"The cluster {plan.cluster} is another than when plan {plan.plan_id} was made: {why}.",
                remedy=Advice("plan again with {}", Flag("--force")),
            )
        _check_other_servers(here, target, flags)
        if here.write_mode is WriteMode.REPLACE or flags.clear_window:
            check_hidden_rows(server, target, "what this run does")
        _check_compatibility(session, here, server, target, flags)
        plan_inputs.check_scans(server, target, here, here.start, here.end)
        replicated = plan_inputs.replicated_tables(server, here.statements, target)
        return Ready(site, target, replicated, _fence(site.server, target, here, lease_seconds, blocks=blocks))

    def hire(ready: Ready) -> Worker:
        server = ready.site.server
        return Worker(
            server,
            session.store,
            ready.site.plan,
            ready.target,
            retries=defaults.max_retries_per_chunk,
            retry_delay_ms=defaults.retry_delay_ms,
            report=report,
            step=step,
            lease_seconds=lease_seconds,
            fence=ready.fence,
            gate=partial(crew.gate, ready.site, LoadThrottle(server, ready.target, max_load=max_load)),
            max_failures=max_failures,
            schedule=schedule,
            newest_first=newest_first,
            on_behalf_of=session.user,
            check_target=partial(_check_same_table, server, ready),
            replicated=ready.replicated,
        )

    with session.connected() as address, sites_of(address, plan) as sites:
        check_cluster(address, plan)
        if not plan.shards:
            _check_environment(plan, address, flags)
        crew = Crew(session, plan, sites, prepare, hire)
        try:
            crew.prepare()
            _begin(session, log, flags, resume, window)
        except BaseException:
            crew.release(log)
            raise
        on_start(crew, plan, log.run)
        try:
            crew.run(window, parallel or defaults.max_parallel_chunks, first)
        finally:
            _end(session, log, crew, "another plan has filled a part of the window" if first else "")
            crew.release(log)
    if first:
        refuse_filled_window(session, plan, log.run, window, resume=resume)
    return status_payload(session, plan, log.run, "resume" if resume else "run")


def _fence(server: ClickHouse, target: TableFacts, plan: Plan, lease: float, *, blocks: bool) -> Fence | None:
    """
    Keep other runs, of any state folder or host, out of the plan's window, and return the acquired fence.

    Args:
        lease: Seconds for which the fence holds after the last heartbeat.
        blocks: Whether overlapping runs are forbidden.

    Returns:
        The fence; None if none is needed, or if the user may not create a table and the plan inserts directly.

    Raises:
        WindowTakenError: Another run is at work on an overlapping window.
        StatementRefusedError: The user may not create the fence, and the plan needs staging tables.
    """
    # No other process can open the data of an embedded engine. Elsewhere, no fence is needed if overlapping runs are
    # allowed, and the plan replaces rows or accepts rows of other writers.
    if server.embedded or not (blocks or (plan.adds_rows and not plan.allow_existing_rows)):
        return None
    fence = Fence(server, target, plan, lease)
    try:
        fence.acquire()
    except StatementRefusedError:
        # A user with only the right INSERT cannot create the fence. A direct insert guarantees less, so it needs none.
        if plan.write_mode is WriteMode.INSERT:
            return None
        raise
    return fence


def _check_flags(plan: Plan, run: Run, flags: RunFlags) -> None:
    if flags.clear_window and not (flags.replay_done or flags.replay_failed):
        raise RequestError(
            "The window is to be cleared before chunks are executed again, and no chunks are to be.",
            remedy=Advice("pass {} or {} as well", Flag("--replay-done"), Flag("--replay-failed")),
        )
    if flags.clear_window and plan.backup:
        raise RequestError(
            f"Clearing the window would delete rows of {plan.target} that its backup does not hold yet.",
            hint="do not clear it: replace puts whole partitions in place, whatever they hold",
        )
    if flags.clear_window and any(part.key_range for parts in run.splits.values() for part in parts):
        raise RequestError(
            f"Chunks of plan {plan.plan_id} are cut by the sorting key of the source: deleting the window of one of "
            "them would delete the rows of the others.",
            remedy=DELETE_YOURSELF,
        )
    if flags.replay_done and plan.backup:
        raise RequestError(
            f"Replaying done chunks of {plan.target} would put their own rows into its backup.",
            remedy=Advice("first restore the old rows: {}", command("undo", plan.plan_id)),
        )
    if flags.replay_done and plan.write_mode is not WriteMode.REPLACE and not flags.clear_window:
        raise RequestError(
            f"Replaying done chunks of {plan.target} would write their rows a second time.",
            remedy=Advice(
                "pass {} as well: each chunk's window is then deleted from the target before it is filled",
                Flag("--clear-window"),
            ),
        )
    # A target column with buckets of the time is not enough: clearing a chunk shorter than a bucket would delete rows
    # of other chunks.
    if flags.clear_window and not plan.keeps_time:
        raise RequestError(
            f"{plan.target} has no time column {plan.time_column}, so a chunk's window cannot be deleted from it.",
            remedy=DELETE_YOURSELF,
        )


def _check_other_servers(plan: Plan, target: TableFacts, flags: RunFlags) -> None:
    """Refuse a run that would replace or delete rows on other servers, such as a new shard of the target's database."""
    if plan.write_mode is WriteMode.REPLACE:
        flags_again = Flag("--force"), Flag("--write-mode", WriteMode.REPLACE)
        refuse_replacing(target, Advice("plan again with {} and without {}", *flags_again))
    if flags.clear_window:
        refuse_deleting(target, DELETE_YOURSELF)


def _check_environment(plan: Plan, server: ClickHouse, flags: RunFlags) -> None:
    if plan.environment != server.address and not flags.force_environment:
        raise RequestError(
            f"Plan {plan.plan_id} was made on {plan.environment}, and this is {server.address}.",
            remedy=Advice("run it there, or pass {} if both are the same ClickHouse", Flag("--force-environment")),
        )


def _check_compatibility(session: Session, plan: Plan, server: ClickHouse, target: TableFacts, flags: RunFlags) -> None:
    if flags.force_compatibility:
        return
    feeding = catalog.feeding_views(server, target.name) if planned_views(plan) else []
    views = {str(view.name): read_select(view.select, str(view.name)).select for view in feeding}
    connection = plan_inputs.connection_of(server, plan.statements) if plan.connection else ""
    tokens = session.options.defaults.require_idempotency_token
    found = detect_drift(plan, target, views, use_tokens=tokens, connection=connection)
    if found:
        raise RequestError(
            f"Since plan {plan.plan_id} was made, something has changed that its rows depend on: {'; '.join(found)}.",
            remedy=Advice(
                "plan again with {}, change it back, or pass {} to run the unchanged plan",
                Flag("--force"),
                Flag("--force-compatibility"),
            ),
        )


def _check_same_table(server: ClickHouse, ready: Ready) -> None:
    """Refuse to complete a run whose target was exchanged, or dropped and created again, while the run was at work."""
    plan, target = ready.site.plan, ready.target
    # A direct INSERT has ended, and must not be repeated because the server does not answer this question.
    with suppress(ServerError) if plan.write_mode is WriteMode.INSERT else nullcontext():
        if target_of(one_server(server), plan).identity != target.identity:
            raise _another_table(plan, "while the run was at work")


def _another_table(plan: Plan, when: str) -> RequestError:
    return RequestError(
        f"{plan.target} became another table {when}, and rows of plan {plan.plan_id} are in the table that had this "
        "name before.",
        remedy=Advice("plan again with {}, which fills the table that has the name now", Flag("--force")),
    )


def _begin(session: Session, log: RunLog, flags: RunFlags, resume: bool, window: Window | None) -> None:
    """
    Record that chunks are replayed, if *flags* say so, and that the run starts or resumes.

    Raises:
        RequestError: Another plan with an overlapping window is running, and no policy or flag allows the overlap.
    """
    plan = log.plan
    statuses = [ChunkStatus.DONE] if flags.replay_done else []
    if flags.replay_failed:
        statuses.append(ChunkStatus.FAILED)

    def replay(run: Run) -> Event | None:
        only = None
        if window is not None:
            chunks = chunks_between(plan, window)(run)
            only = tuple(chunk.id for chunk in chunks if run.state(chunk.id).status in statuses)
        if not statuses or only == ():
            return None
        return RunReplayed(
            at=utc_now(), by=session.user, statuses=tuple(statuses), clear_window=flags.clear_window, chunk_ids=only
        )

    lock = "target-" + hashlib.sha256(show_table(plan.shard_table or plan.target).encode()).hexdigest()[:16]
    with session.store.exclusive(lock):
        if session.options.policy.block_overlapping_runs and not flags.force_overlap:
            _refuse_overlap(session, plan)
        # Replay first: a resume makes failed chunks pending, and pending chunks are not cleared.
        log.commit(replay)
        event = RunResumed if resume else RunStarted
        log.append(event(at=utc_now(), by=session.user))


def _refuse_overlap(session: Session, plan: Plan) -> None:
    moment = utc_now()
    for other, run in readable_runs(session, plan.target):
        if not overlaps(plan, [other]) or run.status is not RunStatus.RUNNING:
            continue
        held = has_live_worker(run, moment)
        fresh = run.updated_at is not None and moment - run.updated_at < timedelta(seconds=LEASE_SECONDS)
        if held or (fresh and not run.workers):
            raise RequestError(
                f"Plan {other.plan_id} is running on {plan.target} over a window that meets this one "
                f"({render_instant(other.start)} to {render_instant(other.end)}).",
                remedy=what_to_do_instead(plan, session.store.open_run(plan).run, other),
            )


def _end(session: Session, log: RunLog, crew: Crew, reason: str) -> None:
    """
    Record a pause if the crew stopped early, write the checkpoint, and drop staging tables that are not needed.

    No pause is recorded while any chunk of the run is running. A completed run needs none of its staging tables.

    Args:
        reason: The reason for a pause if the crew did not stop early; empty if there is none.
    """
    run = log.refresh()
    reason = crew.reason or reason
    if reason and run.status is RunStatus.RUNNING and not run.count(ChunkStatus.RUNNING):
        log.append(RunPaused(at=utc_now(), by=session.user, reason=reason))
    log.checkpoint()
    if run.status is not RunStatus.COMPLETED or all(ready.target.replicas is None for ready in crew.ready):
        crew.drop_staged()
    if run.status is RunStatus.COMPLETED:
        for ready in crew.ready:
            with suppress(ServerUnreachableError) if ready.site.name else nullcontext():
                _drop_staging(session, log, one_server(ready.site.server), ready.target)


def _drop_staging(session: Session, log: RunLog, server: ClickHouse, target: TableFacts) -> None:
    """
    Drop the staging tables of a completed run, under the run's lock, so that no replay begins meanwhile.

    Stop as soon as the run is no longer completed. Drop nothing while a run of another folder, whose plan has the same
    id, is at work on the target.
    """
    left = attempt.leftover_tables(server, log.plan.plan_id, target)
    # A run creates its fence before any other table, so the search has found the fence.
    if other_runs(server, log.plan, left, target.replicas):
        return
    for batch in attempt.batches(left):
        # Take the lock for each batch anew, since a lock on an object store expires after half a minute.
        with session.store.exclusive(log.plan.plan_id):
            if log.refresh().status is not RunStatus.COMPLETED:
                return
            attempt.drop_tables(server, batch, target.replicas)


def _sweep(session: Session, plan: Plan, flags: RunFlags) -> None:
    """
    Drop the staging tables that a completed plan still has because its worker died before the cleanup.

    Ignore errors of the server, and do nothing if no ClickHouse is configured.

    Raises:
        RequestError: The plan was made on another ClickHouse, such as another shard, where it may have filled nothing;
            the target does not exist, or is another table than the plan has filled; or the plan's staging database
            cannot hold its staging tables.
    """
    if session.server is None:
        return
    # The plan stays completed even if its server does not answer.
    with suppress(ServerError, ConfigError), session.connected() as address, sites_of(address, plan) as sites:
        if not plan.shards:
            _check_environment(plan, address, flags)
        for site in sites:
            with suppress(ServerError):
                server = one_server(site.server)
                target = target_of(server, site.plan)
                if is_another_table(site.plan, target) and not flags.force_compatibility:
                    raise _another_table(plan, "after the plan was made")
                _drop_staging(session, session.store.open_run(plan), server, target)
