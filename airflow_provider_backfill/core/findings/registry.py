"""
Define the types of the rules: a rule, its input and its findings.

Each module of rules registers its functions in a :class:`RuleRegistry`; :mod:`.judge` orders the registries. This
module is pure.
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
    """The weight of a finding. An error makes ``check`` fail."""

    ERROR = "error"
    WARN = "warn"
    INFO = "info"


class Finding(NamedTuple):
    """
    A fact that a person should know, with its remedy.

    Attributes:
        plan_id: The id of the plan that the fact concerns; empty if the fact does not concern a single plan.
        remedy: The command, statement or advice that helps; None if there is none.
    """

    code: str
    severity: Severity
    plan_id: str
    message: str
    remedy: Remedy | None = None

    @property
    def hint(self) -> str:
        """The remedy in the words of the command line; empty if there is none."""
        return "" if self.remedy is None else str(self.remedy)


@dataclass(frozen=True, slots=True)
class RequiredBackfill:
    """A backfill that the ``--required`` file declares; *where* names the file and the entry, for messages."""

    target: TableName
    start: datetime
    end: datetime
    reason: str
    owner: str
    where: str


@dataclass(frozen=True, slots=True)
class RuleContext:
    """
    The known input of the rules. A rule finds nothing if its input is missing.

    Attributes:
        moment: The time at which the rules judge.
        plan: The plan; None for a target without a plan and for findings about all plans.
        run: The plan's run; None if it was not read.
        dead: The names of the dead workers of the run.
        required: The value of the policy ``failCheckOnRequiredPendingBackfill``.
        max_age: The age from which an unfinished plan is an error; None means any age.
        server: The facts of the server; None if it was not asked.
        about: The id of the plan that the findings concern if *plan* is None; empty if they concern no single plan.
        damage: The damage to the plan's files, in full sentences; empty if the files are intact.
        remedy: The command that helps against the damage; None if there is none.
        gate: Whether unfinished or missing backfills are errors, as ``check`` judges them.
        absent: The state folder, if it has no plan; otherwise empty.
        twice: The stretches of a target's time that two plans have filled.
        missing: Declared backfills, each with start and end of a part of its window that no plan covers.
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
        """Whether a waiver holds at *moment*, so that the plan need not be finished."""
        waiver = self.run.waiver if self.run is not None else None
        return waiver is not None and waiver.holds(self.moment)

    @property
    def abandoned(self) -> bool:
        """Whether the run has workers with claims, and all of them are dead."""
        return self.run is not None and bool(self.run.workers) and self.dead >= self.run.workers.keys()

    @property
    def finished(self) -> bool:
        """Whether the plan's run is completed; false without a run."""
        return self.run is not None and self.run.status is RunStatus.COMPLETED

    @property
    def untouched(self) -> bool:
        """Whether the run's status is still ``planned``, so that planning again is safe; true also without a run."""
        return self.run is None or self.run.status is RunStatus.PLANNED

    @property
    def stages(self) -> bool:
        """Whether rows are staged before they reach the target; true also without a plan."""
        return self.plan is None or self.plan.write_mode is not WriteMode.INSERT

    @property
    def seen(self) -> "ServerFacts":
        """
        The facts of the server; empty facts if the server was not asked, or if the plan is finished.

        Most rules use this property, because a finished plan does not concern them.
        """
        if self.server is not None and not self.finished:
            return self.server
        from ..facts import ServerFacts

        return ServerFacts()


class Match(NamedTuple):
    """A finding before :meth:`Rule.judge` adds code and plan id; *severity*, if set, overrides the rule's severity."""

    message: str
    remedy: Remedy | None = None
    severity: Severity | None = None


class RuleScope(StrEnum):
    """The input that a rule needs: the state folder alone, or the facts of the server as well."""

    STATE = "state folder"
    SERVER = "ClickHouse"


@dataclass(frozen=True, slots=True)
class Rule:
    """
    A rule: the function *find* that judges a case, and the texts of the rule for the reference.

    Attributes:
        severity: The severity of findings, unless a match overrides it.
        needs: The input that the rule needs.
        says: The meaning of a finding, for the reference.
        remedy: The remedy, for the reference.
        reproduced: Whether the tests bring about the state that the rule reports, for a server rule on a real server.
            Other rules rely on ClickHouse's documentation of the system tables.
    """

    code: str
    severity: Severity
    needs: RuleScope
    says: str
    remedy: str
    reproduced: bool
    find: Callable[[RuleContext], Iterable[Match]]

    def judge(self, case: RuleContext) -> Iterator[Finding]:
        """Yield the rule's findings in a case, with code, severity and plan id."""
        plan_id = case.plan.plan_id if case.plan is not None else case.about
        for found in self.find(case):
            yield Finding(self.code, found.severity or self.severity, plan_id, found.message, found.remedy)


class RuleRegistry(list[Rule]):
    """The rules of one module, in the order of registration. Findings of equal severity keep this order."""

    def __init__(self, needs: RuleScope) -> None:
        super().__init__()
        self._needs = needs

    def rule(
        self, code: str, severity: Severity, says: str, *, remedy: str, reproduced: bool = True
    ) -> Callable[[Callable[[RuleContext], Iterable[Match]]], Callable[[RuleContext], Iterable[Match]]]:
        """Return a decorator that appends a function as a rule; the function yields a :class:`Match` per finding."""

        def register(find: Callable[[RuleContext], Iterable[Match]]) -> Callable[[RuleContext], Iterable[Match]]:
            self.append(Rule(code, severity, self._needs, says, remedy, reproduced, find))
            return find

        return register


def show_names(tables: Iterable[TableName]) -> str:
    """Return the names of tables for a message, separated by commas."""
    return ", ".join(str(table) for table in tables)
