"""Decide which leftovers of backfills on a server are no longer needed. This module is pure."""

import re
from enum import StrEnum
from typing import NamedTuple

from .facts import StagingFacts
from .plain_text import state_words
from .run_state import Run, RunStatus

# The number of seconds for which a table is kept after its last change, if the table belongs to a trial, or to a plan
# that never ran from this state folder.
FRESH_SECONDS = 3600

_NAME = re.compile(
    r"backfill_(?:trial_)?([0-9a-f]{16})_(?:"
    r"(?P<chunk>[0-9a-f]{16})_(?:\d+(?:_[0-9a-f]{8})?|(?P<sealed>sealed)(?:_[0-9a-f]+)?)"
    r"|(?P<staged>staged)_[0-9a-f]{8}"
    r"|(?P<fence>fence)_[0-9a-f]{8}_-?\d+_-?\d+_[0-9a-f]+"
    r"|(?P<trial>[0-9a-f]{8})_[a-z]+)"
)


class LeftoverKind(StrEnum):
    """The purpose of a table of the product, other than a backup."""

    STAGING = "staging"
    FENCE = "fence"
    TRIAL = "trial"


class Leftover(NamedTuple):
    """
    A table of the product, identified by its name.

    Attributes:
        chunk_id: The chunk of a staging table; empty for other tables.
        sealed: Whether the table has the name that verified staging tables get before publication.
    """

    plan_id: str
    kind: LeftoverKind
    chunk_id: str = ""
    sealed: bool = False


class Standing(NamedTuple):
    """
    The known state of a plan whose tables exist on a server.

    Attributes:
        run: The plan's run; None if the state folder does not have the plan or its files cannot be read.
        readable: Whether the plan's files could be read.
        at_work: The evidence that a worker is active on the plan, as a clause; empty if there is none.
    """

    run: Run | None
    readable: bool = True
    at_work: str = ""


class Verdict(NamedTuple):
    """Whether a table may be dropped, and the reason as a clause without a full stop."""

    removable: bool
    reason: str


def read_name(name: str) -> Leftover | None:
    """Return the plan, kind, chunk and seal in a table's name; None for a backup or a table of another program."""
    match = _NAME.fullmatch(name)
    if match is None or (match["trial"] is not None) != name.startswith("backfill_trial_"):
        return None
    if match["staged"]:
        return Leftover(match[1], LeftoverKind.STAGING)
    if match["chunk"]:
        return Leftover(match[1], LeftoverKind.STAGING, match["chunk"], match["sealed"] is not None)
    return Leftover(match[1], LeftoverKind.FENCE if match["fence"] else LeftoverKind.TRIAL)


def judge_leftover(table: StagingFacts, standing: Standing) -> Verdict:
    """
    Decide whether a table may be dropped.

    A table is kept while a worker may be active on its plan, while its plan's files cannot be read, and while a resume
    of the plan may need the table. For :data:`FRESH_SECONDS` after its last change, a table is also kept if it belongs
    to a trial, or to a plan that never ran from this folder. Backups and tables of other programs are always kept.
    """
    leftover, run = read_name(table.table.table), standing.run
    if leftover is None:
        return Verdict(False, "it is not a table of a backfill")
    if standing.at_work:
        return Verdict(False, standing.at_work)
    if not standing.readable:
        return Verdict(False, "the files of its plan cannot be read; see `repair`")
    fresh = table.age is not None and table.age <= FRESH_SECONDS
    if leftover.kind is LeftoverKind.TRIAL:
        return Verdict(not fresh, "it is less than an hour old" if fresh else "its trial is over")
    status = RunStatus.PLANNED if run is None else run.status
    if run is None or status is RunStatus.PLANNED:
        # A run from a different state folder may use the same plan.
        about = "its plan is not in this state folder" if run is None else "its plan was never run from this folder"
        return Verdict(not fresh, f"{about}, and it is less than an hour old" if fresh else about)
    if status is RunStatus.COMPLETED or status is RunStatus.UNDONE:
        return Verdict(True, f"its plan is {status}")
    waived = run.waiver is not None and run.waiver.until is None
    if status is not RunStatus.CANCELLED and not waived:
        return Verdict(False, f"its plan {state_words(status)}, and will drop it when it is completed")
    if _may_be_published(leftover, table.table.table, run):
        return Verdict(False, "rows of its chunk may be in the target in part, and `resume` needs it to finish them")
    return Verdict(True, "its plan is waived" if waived else "its plan is cancelled")


def _may_be_published(leftover: Leftover, name: str, run: Run) -> bool:
    """Return whether a chunk that is not done has verified rows in this table; the name or the log shows the seal."""
    if leftover.sealed and run.state(leftover.chunk_id).verified:
        return True
    return any(state.staged is not None and state.staged.table == name for state in run.chunks.values())
