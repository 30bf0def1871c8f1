"""Find the plan that a person names: by id, by the beginning of an id, as the last plan, or by its target."""

import re

from ..core.names import show_table
from ..core.plan import Plan
from ..core.run_state import RunStatus
from ..core.tables import TableName
from ..errors import Advice, Command, DamagedStateError, Flag, PlanNotFoundError, RequestError
from .list import readable_runs, refuse_damaged
from .session import Session

_BEGINNING = re.compile(r"[0-9a-f]{1,16}", re.ASCII)
_SHOWN = 5


def find_plan_id(session: Session, name: str) -> str:
    """
    Return the only plan id that begins with *name*. A complete id is returned as it is, whether or not its plan exists.

    Raises:
        RequestError: *name* cannot be the beginning of an id, or several ids begin with *name*.
        PlanNotFoundError: No id begins with *name*.
    """
    name = name.strip()
    if not _BEGINNING.fullmatch(name):
        raise RequestError(
            f"{name!r} is not a plan id.",
            remedy=Advice(
                "a plan id is 16 hex digits, and a unique beginning is enough; `{}` shows them all", Command("list")
            ),
        )
    if len(name) == 16:
        return name
    matches = [plan_id for plan_id in session.store.plan_ids() if plan_id.startswith(name)]
    if not matches:
        raise PlanNotFoundError(
            f"No plan id in {session.store.backend.where('')} begins with {name}.",
            remedy=Advice("`{}` shows them", Command("list")),
        )
    if len(matches) > 1:
        more = ", …" if len(matches) > _SHOWN else ""
        raise RequestError(
            f"{len(matches)} plan ids begin with {name}: {', '.join(matches[:_SHOWN])}{more}.", hint="write more digits"
        )
    return matches[0]


def last_plan_id(session: Session) -> str:
    """
    Return the id of the plan that was created last, ignoring plans with damaged files.

    Raises:
        PlanNotFoundError: The state folder has no plan.
        DamagedStateError: The state folder has only damaged plans.
    """
    plans = list(_readable_plans(session))
    if not plans:
        refuse_damaged(session)
        raise PlanNotFoundError(
            f"There is no plan in {session.store.backend.where('')}.",
            remedy=Advice("create one with `{}`, or name another folder with {}", Command("plan"), Flag("--state-dir")),
        )
    return max(plans, key=lambda plan: plan.created_at).plan_id


def plan_id_of_target(session: Session, target: TableName) -> str:
    """
    Return the id of the only open plan of *target*; without an open plan, of its only plan.

    A plan is open unless it is completed, cancelled or undone.

    Raises:
        PlanNotFoundError: The target has no plan.
        DamagedStateError: The target has no readable plan, and a damaged plan may be the target's.
        RequestError: The target has several open plans, or several plans of which none is open.
    """
    name = show_table(target)
    runs = list(readable_runs(session, target))
    if not runs:
        refuse_damaged(session, target)
        raise PlanNotFoundError(
            f"There is no plan of {name} in {session.store.backend.where('')}.",
            remedy=Advice("`{}` shows all plans", Command("list")),
        )
    ended = (RunStatus.COMPLETED, RunStatus.CANCELLED, RunStatus.UNDONE)
    open_plans = [plan for plan, run in runs if run.status not in ended]
    candidates = open_plans or [plan for plan, _ in runs]
    if len(candidates) > 1:
        kind = "open plans" if open_plans else "plans, none of them open"
        shown = ", ".join(plan.plan_id for plan in candidates[:_SHOWN]) + (", …" if len(candidates) > _SHOWN else "")
        raise RequestError(f"{name} has {len(candidates)} {kind}: {shown}.", hint="name one by its id")
    return candidates[0].plan_id


def _readable_plans(session: Session) -> list[Plan]:
    plans = []
    for plan_id in session.store.plan_ids():
        try:
            plans.append(session.store.load_plan(plan_id))
        except DamagedStateError:
            continue
    return plans
