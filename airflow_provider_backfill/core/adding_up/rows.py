"""The result of a query step: whole, in parts or grouped; else a refusal."""

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from ...errors import Advice, Flag
from ..instants import render_instant
from ..remedy import pass_flags
from ..tables import TableName
from .case import BucketFacts, BucketKey, Kind, Refusal
from .lineage import Value
from .placed import Told


class Shape(StrEnum):
    """How the rows of a chunk relate to the rows of the whole window."""

    WHOLE = "whole"
    PARTS = "parts"
    GROUPED = "grouped"


@dataclass(frozen=True, slots=True)
class Rows:
    """
    The result of a step.

    Attributes:
        columns: By name, in order.
        why: Of grouped rows: the step that groups them, with what chunks do to it.
        over: Of grouped rows, what their aggregates work on: ``over all`` rows, so that an empty chunk gives a row,
            too, ``over parts`` of the groups of an aggregation below, or both.
        told: By what ``--param`` takes them for one chunk.
    """

    shape: Shape
    columns: dict[str, Value]
    why: "Cut | None" = None
    over: str = ""
    told: frozenset[Told] = frozenset()


class Cut(NamedTuple):
    """A step that looks at several rows together, whose groups chunks cut."""

    what: str
    keys: str
    key: BucketKey
    facts: BucketFacts | None
    placed: bool = False

    def message(self, name: str, cannot: str) -> str:
        """Return the message that groups of the SELECT *name* are cut and *cannot* be merged."""
        step = f"{name} has {self.what} {self.keys}"
        if self.facts is not None and self.facts.usable and self.facts.cut is not None:
            return (
                f"{step}, and {cannot}. The chunk bound {render_instant(self.facts.cut)} "
                f"cuts a bucket of {show_key(self.key)} in two."
            )
        if self.facts is not None and self.facts.again:
            return (
                f"{step}, and {cannot}. The values of {show_key(self.key)} come again "
                f"({self.facts.again}), so several chunks give a row of the same group."
            )
        if self.placed:
            return f"{step}, none of which is the chunk's own by --param, and {cannot}. Each chunk would give its own."
        return f"{step}, which is no bucket of the time column, and {cannot}. Each chunk would give its own."

    @property
    def proposal(self) -> tuple[Flag, ...]:
        """The flags of a plan whose bounds do not cut these groups; empty when none are known."""
        return self.facts.proposal if self.facts is not None else ()


def show_key(key: BucketKey) -> str:
    """Return a key in the words of a message."""
    return " or ".join(dict.fromkeys(expression.sql for expression in key))


class RefusedError(Exception):
    """Ends the walk at a step that does not add up; its refusal names the flags of a plan that fits, if there are."""

    def __init__(self, kind: Kind, message: str, remedy: Advice, cut: "Cut | None" = None) -> None:
        super().__init__(message)
        proposal = cut.proposal if cut is not None else ()
        self.refusal = Refusal(kind, message, pass_flags(proposal) if proposal else remedy, proposal)


class UnknownKeyError(Exception):
    """Ends the walk where the answer depends on a key whose facts are not known yet."""

    def __init__(self, key: BucketKey) -> None:
        super().__init__(key)
        self.key = key


ONE_CHUNK = Advice("plan the window as one chunk ({} as long as the window)", Flag("--chunk-hours"))


def or_one_chunk(text: str, *parts: object) -> Advice:
    """Return the alternative, or the advice to plan the window as one chunk."""
    return Advice(f"{text}, or {{}}", *parts, ONE_CHUNK)


class TableColumns(dict[str, Value]):
    """The columns of a table, which are whatever a query asks of it."""

    def __init__(self, table: TableName, source: str) -> None:
        super().__init__()
        self.table, self.source = table, source
