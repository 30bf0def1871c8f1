"""
The types of the rules: a rule, its input and its findings.

A module of rules has a :class:`RuleRegistry` and registers its functions there; :mod:`.judge` has the order of all.
Pure.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple

from ...errors import Remedy
from ..coverage import FilledTwice
from ..plan import Plan, WriteMode
from ..run_state import Run, RunStatus
from ..tables import TableName

if TYPE_CHECKING:
    from ..facts import ServerFacts


class Severity(StrEnum):
    """How much a finding matters: an error makes ``check`` fail."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Finding(NamedTuple):
    """Something a person should know about a plan, with the next thing to type."""

    code: str
    severity: Severity
    plan_id: str
    message: str
    remedy: Remedy | None = None

    @property
    def hint(self) -> str:
        """The remedy in the words of the command line; empty when there is none."""
        return "" if self.remedy is None else str(self.remedy)


@dataclass(frozen=True, slots=True)
class RequiredBackfill:
    """A backfill that a file under version control demands; *where* names its place in that file."""

    target: TableName
    start: datetime
    end: datetime
    reason: str
    owner: str
    where: str


@dataclass(frozen=True, slots=True)
class RuleContext:
    """
    The known input of the rules. A rule that needs more finds nothing.

    Attributes:
        plan: None for a target before there is a plan, and for findings about all plans.
        run: The plan's run.
        dead: The names of its workers that are gone.
        required: The policy ``failCheckOnRequiredPendingBackfill``.
        max_age: An unfinished plan is an error only once it is older; None for at once.
        server: What a look at the server gave.
        about: Id of a plan whose files are damaged; *damage* says how, *remedy* what to type, if that helps.
        gate: Whether the question is that of ``check``: is everything finished that must be?
        absent: The state folder, when it holds no plan.
        twice: What two fills have both filled.
        missing: Declared backfills without a plan, each with a part of its window that none covers.
    """

    moment: datetime
    plan: Plan | None = None
    run: Run | None = None
    dead: frozenset[str] = frozenset()
    required: bool = True
    max_age: timedelta | None = None
    server: "ServerFacts | None" = None
    about: str = ""
    damage: str = ""
    remedy: Remedy | None = None
    gate: bool = False
    absent: str = ""
    twice: tuple[FilledTwice, ...] = ()
    missing: tuple[tuple[RequiredBackfill, datetime, datetime], ...] = ()

    @property
    def waived(self) -> bool:
        """Whether the plan need not be finished, as of now."""
        waiver = self.run.waiver if self.run is not None else None
        return waiver is not None and waiver.holds(self.moment)

    @property
    def abandoned(self) -> bool:
        """Whether all workers of the run that hold a chunk are gone."""
        return self.run is not None and bool(self.run.workers) and self.dead >= self.run.workers.keys()

    @property
    def finished(self) -> bool:
        """Whether all of the plan's chunks have ended well."""
        return self.run is not None and self.run.status is RunStatus.COMPLETED

    @property
    def untouched(self) -> bool:
        """Whether no chunk of the plan was ever started, so that it may be planned again."""
        return self.run is None or self.run.status is RunStatus.PLANNED

    @property
    def stages(self) -> bool:
        """Whether rows are staged before they reach the target; true also without a plan."""
        return self.plan is None or self.plan.write_mode is not WriteMode.INSERT

    @property
    def seen(self) -> "ServerFacts":
        """The facts of the server; empty for a finished plan, for which only leftovers matter."""
        if self.server is not None and not self.finished:
            return self.server
        from ..facts import ServerFacts

        return ServerFacts()


class Match(NamedTuple):
    """A finding of a rule before it has a code; *severity* overrides the rule's own."""

    message: str
    remedy: Remedy | None = None
    severity: Severity | None = None


class RuleScope(StrEnum):
    """The sources that a rule needs."""

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
    needs: RuleScope
    says: str
    remedy: str
    reproduced: bool
    find: Callable[[RuleContext], Iterable[Match]]

    def judge(self, case: RuleContext) -> Iterator[Finding]:
        """Apply the rule to a case."""
        plan_id = case.plan.plan_id if case.plan is not None else case.about
        for found in self.find(case):
            yield Finding(self.code, found.severity or self.severity, plan_id, found.message, found.remedy)


class RuleRegistry(list[Rule]):
    """Rules in the order in which findings are shown."""

    def __init__(self, needs: RuleScope) -> None:
        super().__init__()
        self._needs = needs

    def rule(
        self, code: str, severity: Severity, says: str, *, remedy: str, reproduced: bool = True
    ) -> Callable[[Callable[[RuleContext], Iterable[Match]]], Callable[[RuleContext], Iterable[Match]]]:
        """Register the decorated function."""

        def register(find: Callable[[RuleContext], Iterable[Match]]) -> Callable[[RuleContext], Iterable[Match]]:
            self.append(Rule(code, severity, self._needs, says, remedy, reproduced, find))
            return find

        return register


def show_names(tables: Iterable[TableName]) -> str:
    """Return the names of tables for a message."""
    return ", ".join(str(table) for table in tables)
