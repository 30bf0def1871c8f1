"""Name the state files of a plan."""

import re

from ..errors import Advice, Command, RequestError

PLAN_ID = re.compile(r"[0-9a-f]{16}")


def check_plan_id(text: str) -> str:
    """
    Return the plan id in *text*, without surrounding spaces.

    Raises:
        RequestError: The text is not 16 hex digits.
    """
    plan_id = text.strip()
    if not PLAN_ID.fullmatch(plan_id):
        raise RequestError(
            f"{text!r} is not a plan id.",
            remedy=Advice("a plan id is 16 hex digits, as printed by `plan`; `{}` shows them all", Command("list")),
        )
    return plan_id


def plan_file(plan_id: str) -> str:
    """Return the name of a plan's file, relative to the state folder."""
    return f"plans/{plan_id}.json"


def run_file(plan_id: str) -> str:
    """Return the name of a run's checkpoint, relative to the state folder."""
    return f"runs/{plan_id}.json"


def event_file(plan_id: str) -> str:
    """Return the name of a run's event log, relative to the state folder."""
    return f"events/{plan_id}.ndjson"
