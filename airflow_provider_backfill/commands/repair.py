"""Make a plan's run readable again after damage to its run file or its event log."""

from ..core.events import RunCancelled, RunRestored
from ..core.findings.state_rules import next_step
from ..core.names import show_table
from ..core.plan import Plan
from ..core.remedy import command
from ..core.run_state import RunStatus
from ..errors import DamagedStateError, RequestError, StateFormatError
from .lease import owner_is_dead, utc_now
from .session import Payload, Session

_SHOWN = 20
"""Maximum number of chunk ids in a message; the payload has all ids."""


def repair_plan(session: Session, plan_id: str) -> Payload:
    """
    Make a plan's run readable again, keep the damaged files, and report repairs and uncertain chunks.

    A damaged run file is written again from the event log. A damaged log is replaced by a log that begins with the
    recovered run. If events are lost or unreadable, or chunks are uncertain, an unfinished run is cancelled, so that a
    person can check before anything is written.

    Returns:
        The report; ``noop`` is true if nothing was damaged, and ``ok`` is false if chunks are uncertain.

    Raises:
        RequestError: The plan does not exist, or its log is damaged while a worker is alive.
        DamagedStateError: The plan's own file is damaged, another version or tool wrote a file, or a damaged log is in
            an object store.
    """
    plan = session.store.load_plan(plan_id)
    tag = f"damaged-{utc_now():%Y%m%dT%H%M%SZ}"
    done: list[str] = []
    try:
        log = session.store.open_run(plan)
    except StateFormatError:
        raise
    except DamagedStateError as error:
        path = session.store.run_path(plan.plan_id)
        if error.path == path:
            kept = session.store.retire_run_file(plan.plan_id, tag)
            done.append(f"{error.message} It is kept as {kept}.")
        try:
            log = session.store.open_run(plan)
        except StateFormatError:
            raise
        except DamagedStateError as second:
            return _restore(session, plan, second, tag, done)
        log.write_checkpoint()
        done.append(f"{path} was written again from the {log.lines} lines of the event log.")
    return _payload(session, plan, log.run.status, done, ())


def _restore(session: Session, plan: Plan, error: DamagedStateError, tag: str, done: list[str]) -> Payload:
    store = session.store
    found = store.salvage_run(plan)
    moment = utc_now()
    if alive := [owner for owner in found.run.workers if not owner_is_dead(found.run, owner, moment)]:
        raise RequestError(
            f"Workers are on plan {plan.plan_id}: {', '.join(alive)}. {error.message}",
            hint="stop them, or wait until they have found the damage themselves, and repair then",
        )
    events: list[RunRestored | RunCancelled] = [
        RunRestored(at=moment, by=session.user, reason=error.message, run=found.run, uncertain=found.uncertain)
    ]
    in_doubt = bool(found.uncertain or found.lost or found.damaged)
    if in_doubt and found.run.status not in (RunStatus.CANCELLED, RunStatus.UNDONE, RunStatus.COMPLETED):
        events.append(RunCancelled(at=moment, by=session.user, reason="repaired: events of this run are lost"))
    kept = store.restore_run(plan, events, tag)
    log = store.open_run(plan)
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
        done.append("The run is cancelled, so that nothing is written before a person has checked it.")
    return _payload(session, plan, log.run.status, done, found.uncertain)


def _payload(session: Session, plan: Plan, status: RunStatus, done: list[str], uncertain: tuple[str, ...]) -> Payload:
    advice = ""
    if uncertain:
        names = ", ".join(uncertain[:_SHOWN]) + (", …" if len(uncertain) > _SHOWN else "")
        advice = (
            f"{len(uncertain)} chunks are not known to be done, and may be: {names}. See whether {plan.target} has "
            f"their rows (`{command('verify', plan.plan_id)}`) before you continue."
        )
    run = session.store.open_run(plan).run
    return {
        "ok": not uncertain,
        "command": "repair",
        "planId": plan.plan_id,
        "target": show_table(plan.target),
        "status": status,
        "actions": done,
        "uncertainChunkIds": list(uncertain),
        "advice": advice,
        "nextStep": str(next_step(plan, run) or ""),
        "noop": not done,
    }
