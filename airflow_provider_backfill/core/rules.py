"""
The frame of the rules: what a rule is, what it may look at, and how a case is judged.

A rule is a pure function from a :class:`Case` to what it found, registered with its code,
its severity and the sentence that the reference prints. A hint is a command line of ours, an
SQL statement after ``SQL: ``, or empty: what cannot be pasted belongs into the message.
"""

import shlex
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import NamedTuple

from .facts import ServerFacts
from .identity import render_chunk_hours, render_instant
from .model import Finding, Plan, Run, RunStatus, Severity, TimeKind, WriteMode

PROGRAM = "clickhouse-backfill"
SQL = "SQL: "
# The default of limits.maxWindowHours; the flag does no harm where a higher limit is set.
_LARGE_WINDOW = timedelta(hours=720)
_UNITS = {TimeKind.EPOCH_S: "s", TimeKind.EPOCH_MS: "ms", TimeKind.EPOCH_US: "us"}


@dataclass(frozen=True, slots=True)
class Declared:
    """A backfill that a file under version control demands; *where* names its place in that file."""

    target: str
    start: datetime
    end: datetime
    reason: str
    owner: str
    where: str


@dataclass(frozen=True, slots=True)
class Case:
    """
    What the rules may look at: as much as is known. A rule that needs more finds nothing.

    Attributes:
        plan: None for a target before there is a plan, and for findings about all plans.
        run: The plan's run.
        dead: The names of its workers that are gone.
        required: The policy ``failCheckOnRequiredPendingBackfill``.
        max_age: An unfinished plan is an error only once it is older; None for at once.
        server: What a look at the server gave.
        about: Id of a plan whose files are damaged; *damage* says how, *remedy* what to type, if that helps.
        missing: Declared backfills without a plan, each with a part of its window that none covers.
    """

    moment: datetime
    plan: Plan | None = None
    run: Run | None = None
    dead: frozenset[str] = frozenset()
    required: bool = True
    max_age: timedelta | None = None
    server: ServerFacts | None = None
    about: str = ""
    damage: str = ""
    remedy: str = ""
    missing: tuple[tuple[Declared, datetime, datetime], ...] = ()

    @property
    def waived(self) -> bool:
        """Whether the plan need not be finished, as of now."""
        waiver = self.run.waiver if self.run is not None else None
        return waiver is not None and waiver.holds(self.moment)

    @property
    def finished(self) -> bool:
        """Whether all of the plan's chunks have ended well."""
        return self.run is not None and self.run.status is RunStatus.COMPLETED


class Found(NamedTuple):
    """What a rule has found in a case; *severity* when it is another than the rule's own."""

    message: str
    hint: str = ""
    severity: Severity | None = None


class Needs(StrEnum):
    """What must be looked at for a rule."""

    STATE = "state folder"
    SERVER = "ClickHouse"


@dataclass(frozen=True, slots=True)
class Rule:
    """
    One rule.

    Attributes:
        severity: The severity of what it finds, unless a finding says otherwise.
        says: What it means, for the reference.
        remedy: What helps, for the reference.
        reproduced: Whether the tests bring a real server into the state; otherwise the rule rests
            on what ClickHouse documents of its system tables.
    """

    code: str
    severity: Severity
    needs: Needs
    says: str
    remedy: str
    reproduced: bool
    find: Callable[[Case], Iterable[Found]]

    def judge(self, case: Case) -> Iterator[Finding]:
        """What the rule has to say of a case."""
        plan_id = case.plan.plan_id if case.plan is not None else case.about
        for found in self.find(case):
            yield Finding(self.code, found.severity or self.severity, plan_id, found.message, found.hint)


class RuleBook(list[Rule]):
    """Rules in the order in which findings are shown."""

    def __init__(self, needs: Needs) -> None:
        super().__init__()
        self._needs = needs

    def rule(
        self, code: str, severity: Severity, says: str, *, remedy: str, reproduced: bool = True
    ) -> Callable[[Callable[[Case], Iterable[Found]]], Callable[[Case], Iterable[Found]]]:
        """Register the decorated function."""

        def register(find: Callable[[Case], Iterable[Found]]) -> Callable[[Case], Iterable[Found]]:
            self.append(Rule(code, severity, self._needs, says, remedy, reproduced, find))
            return find

        return register


def command(verb: str, plan_id: str, *flags: str) -> str:
    """The command line for a person to paste."""
    return " ".join([PROGRAM, verb, "--plan-id", plan_id, *flags])


def sql(statement: str) -> str:
    """A statement for a person to paste into a ClickHouse client."""
    return f"{SQL}{statement}"


def plan_command(plan: Plan, *flags: str) -> str:
    """The command line that plans the same backfill again, with *flags* in place of its own."""
    given = {flag.partition(" ")[0] for flag in flags}
    words = [("--target", plan.target), ("--from", short_instant(plan.start)), ("--to", short_instant(plan.end))]
    words += [("--chunk-hours", render_chunk_hours(plan.chunk_hours)), ("--time-column", plan.time_column)]
    first = plan.statements[0]
    if first.time_kind in _UNITS:
        words.append(("--time-unit", _UNITS[first.time_kind]))
    if first.name == "--select":
        words += [("--select", first.select), ("--filter-table", first.source)]
    elif first.name == first.source:
        words.append(("--source", first.source))
    if plan.write_mode is not WriteMode.STAGE:
        words.append(("--write-mode", plan.write_mode))
    switches = {
        "--accept-at-least-once": plan.write_mode is WriteMode.INSERT,
        "--keep-outside": plan.keep_outside,
        "--backup": plan.backup,
        "--allow-existing-rows": bool(plan.existing_rows),
        "--force-large-window": plan.end - plan.start > _LARGE_WINDOW,
    }
    line = [f"{name} {shlex.quote(value)}" for name, value in words if name not in given]
    line += [name for name, on in switches.items() if on]
    return " ".join([PROGRAM, "plan", *line, *flags])


def short_instant(moment: datetime) -> str:
    """An instant as a person types it: the date alone at midnight."""
    return render_instant(moment).removesuffix("T00:00:00.000Z").replace(".000Z", "Z")
