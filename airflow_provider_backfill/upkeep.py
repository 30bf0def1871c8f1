"""
What a user does to a plan beside running it: set its pace, waive it, and repair its files.

Parts of commands that need no ClickHouse.
"""

from datetime import datetime

from .core.checks import command, next_step
from .core.identity import render_instant
from .core.model import ChunkStatus, Plan, RunCancelled, RunPaced, RunRestored, RunStatus, RunWaived
from .errors import DamagedStateError, RequestError
from .session import Payload, Session
from .worker import now, owner_is_dead

_SHOWN = 20
"""Chunk ids in a message; the payload has them all."""


def set_pace(session: Session, wanted: str, parallel: int) -> Payload:
    """
    Turn how many chunks of a plan run at once, over all its workers; running ones see it within two seconds.

    Holds for every later run of the plan as well. Chunks that run already are not stopped.

    Args:
        parallel: 0 leaves it to each worker again.

    Raises:
        RequestError: No such plan, or it is completed already.
    """
    made = session.store.load_plan(wanted)
    log = session.store.open_run(made)
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(f"Plan {made.plan_id} is completed; nothing of it runs any more.", hint="")
    before = log.run.parallel
    log.append(RunPaced(at=now(), by=session.user, parallel=parallel))
    log.checkpoint()
    return {
        "ok": True,
        "command": "pace",
        "planId": made.plan_id,
        "target": made.target,
        "status": log.run.status,
        "maxParallelChunks": parallel or None,
        "before": before or None,
        "running": log.run.count(ChunkStatus.RUNNING),
    }


def waive(
    session: Session, wanted: str, *, reason: str, until: datetime | None = None, superseded_by: str = ""
) -> Payload:
    """
    Say that a plan need not be finished: ``check`` shows it and does not count it.

    Ends at *until*, and when somebody runs or resumes the plan.

    Args:
        superseded_by: The id of the plan that does this one's work.

    Raises:
        RequestError: No such plan, no reason, an end that is past, or a plan that is completed already.
    """
    made = session.store.load_plan(wanted)
    moment = now()
    if not reason.strip():
        raise RequestError(
            "A waiver needs a reason.", hint=f'{command("waive", made.plan_id)} --reason "the source is gone"'
        )
    if until is not None and until <= moment:
        raise RequestError(
            f"The waiver would end at {render_instant(until)}, which is past.",
            hint="pass a later --until, or leave it away",
        )
    if superseded_by:
        other = session.store.load_plan(superseded_by)
        if other.plan_id == made.plan_id or other.target != made.target:
            raise RequestError(
                f"Plan {other.plan_id} fills {other.target} and cannot do the work of plan {made.plan_id} "
                f"on {made.target}.",
                hint="name another plan on the same target",
            )
        superseded_by = other.plan_id
    log = session.store.open_run(made)
    if log.run.status is RunStatus.COMPLETED:
        raise RequestError(f"Plan {made.plan_id} is completed; there is nothing to waive.", hint="")
    log.append(RunWaived(at=moment, by=session.user, reason=reason.strip(), until=until, superseded_by=superseded_by))
    log.checkpoint()
    return {
        "ok": True,
        "command": "waive",
        "planId": made.plan_id,
        "target": made.target,
        "status": log.run.status,
        "reason": reason.strip(),
        "until": render_instant(until) if until is not None else None,
        "supersededBy": superseded_by or None,
    }


def repair(session: Session, wanted: str) -> Payload:
    """
    Make a plan's run readable again, keeping every damaged file beside; says what was done and what is in doubt.

    A run file is written anew from the event log. A damaged log is replaced by the run as far
    as it can be made out; when events are lost the run is cancelled, so that nothing is written
    before a person has looked at the chunks in doubt.

    Raises:
        RequestError: No such plan, or a live worker is on it.
        DamagedStateError: The plan's own file is damaged, or the files are of a newer version.
    """
    made = session.store.load_plan(wanted)
    tag = f"damaged-{now():%Y%m%dT%H%M%SZ}"
    done: list[str] = []
    try:
        log = session.store.open_run(made)
    except DamagedStateError as error:
        _refuse_newer(error)
        path = session.store.run_path(made.plan_id)
        if error.message.startswith(path):
            kept = session.store.retire_run_file(made.plan_id, tag)
            done.append(f"{error.message} It is kept as {kept}.")
        try:
            log = session.store.open_run(made)
        except DamagedStateError as second:
            _refuse_newer(second)
            return _restore(session, made, second, tag, done)
        log.write_checkpoint()
        done.append(f"{path} was written anew from the {log.lines} lines of the event log.")
    return _payload(session, made, log.run.status, done, ())


def _refuse_newer(error: DamagedStateError) -> None:
    if "newer version" in error.message:
        raise error


def _restore(session: Session, made: Plan, error: DamagedStateError, tag: str, done: list[str]) -> Payload:
    store = session.store
    found = store.salvage_run(made)
    moment = now()
    if alive := [owner for owner in found.run.workers if not owner_is_dead(found.run, owner, moment)]:
        raise RequestError(
            f"Workers are on plan {made.plan_id}: {', '.join(alive)}. {error.message}",
            hint="stop them, or wait until they have found the damage themselves, and repair then",
        )
    events: list[RunRestored | RunCancelled] = [
        RunRestored(at=moment, by=session.user, reason=error.message, run=found.run, uncertain=found.uncertain)
    ]
    in_doubt = bool(found.uncertain or found.lost or found.damaged)
    if in_doubt and found.run.status not in (RunStatus.CANCELLED, RunStatus.COMPLETED):
        events.append(RunCancelled(at=moment, by=session.user, reason="repaired: events of this run are lost"))
    kept = store.restore_run(made, events, tag)
    log = store.open_run(made)
    log.write_checkpoint()
    done.append(f"{error.message} It is kept as {kept}.")
    lost = f", {found.lost} at its end are gone" if found.lost else ""
    bad = (
        f", {len(found.damaged)} could not be understood (the first is line {found.damaged[0]})"
        if found.damaged
        else ""
    )
    done.append(f"A new log begins with the run as {found.read} lines tell it{bad}{lost}.")
    if len(events) > 1:
        done.append("The run is cancelled, so that nothing is written before somebody has looked.")
    return _payload(session, made, log.run.status, done, found.uncertain)


def _payload(session: Session, made: Plan, status: RunStatus, done: list[str], uncertain: tuple[str, ...]) -> Payload:
    advice = ""
    if uncertain:
        names = ", ".join(uncertain[:_SHOWN]) + (", …" if len(uncertain) > _SHOWN else "")
        advice = (
            f"{len(uncertain)} chunks are not known to be done, and may be: {names}. See whether {made.target} has "
            f"their rows (`{command('verify', made.plan_id)}`) before you go on."
        )
    run = session.store.open_run(made).run
    return {
        "ok": not uncertain,
        "command": "repair",
        "planId": made.plan_id,
        "target": made.target,
        "status": status,
        "actions": done,
        "uncertainChunkIds": list(uncertain),
        "advice": advice,
        "nextStep": next_step(made, run),
        "noop": not done,
    }
