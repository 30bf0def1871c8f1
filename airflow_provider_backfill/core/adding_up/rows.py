"""Describe the result of a query step (whole, in parts or grouped), and the refusal of a step."""

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
    """The relation of a chunk's rows to the rows of the whole window."""

    WHOLE = "whole"
    PARTS = "parts"
    GROUPED = "grouped"


@dataclass(frozen=True, slots=True)
class Rows:
    """
    The result of a step.

    Attributes:
        columns: The columns by name, in order.
        why: For grouped rows, the step that groups the rows, and how chunks cut the groups; otherwise None.
        over: How grouped rows were aggregated. ``over all`` means without keys, so even an empty chunk gives a row.
            ``over parts`` means from the rows of earlier groups, which chunks cut. If both hold, the texts are joined
            by a comma. Otherwise empty.
        told: How ``--param`` assigns the rows to chunks; empty without such parameters.
    """

    shape: Shape
    columns: dict[str, Value]
    why: "Cut | None" = None
    over: str = ""
    told: frozenset[Told] = frozenset()


class Cut(NamedTuple):
    """
    A step that combines the rows of a group, where chunks cut the groups.

    Attributes:
        what: The step, such as ``GROUP BY``.
        keys: The keys of the groups, as SQL for a message.
        key: The part of the keys that depends only on time; empty if there is none.
        facts: How the chunk bounds cut the values of *key*; None if *key* is empty.
        placed: Whether ``--param`` places the window.
    """

    what: str
    keys: str
    key: BucketKey
    facts: BucketFacts | None
    placed: bool = False

    def message(self, name: str, cannot: str) -> str:
        """
        Return the message that chunks cut the groups of this step.

        Args:
            name: The SELECT's name.
            cannot: The clause that says why cut groups do not add up.
        """
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
        """The flags of a plan whose bounds do not cut these groups; empty if none are known."""
        return self.facts.proposal if self.facts is not None else ()


def show_key(key: BucketKey) -> str:
    """Return a key as SQL for a message; several expressions are joined by "or"."""
    return " or ".join(dict.fromkeys(expression.sql for expression in key))


class RefusedError(Exception):
    """Raised at a step that does not add up; the flags of a fitting plan, if known, replace the given remedy."""

    def __init__(self, kind: Kind, message: str, remedy: Advice, cut: "Cut | None" = None) -> None:
        super().__init__(message)
        proposal = cut.proposal if cut is not None else ()
        self.refusal = Refusal(kind, message, pass_flags(proposal) if proposal else remedy, proposal)


class UnknownKeyError(Exception):
    """Raised where the verdict depends on a key whose facts are still unknown."""

    def __init__(self, key: BucketKey) -> None:
        super().__init__(key)
        self.key = key


ONE_CHUNK = Advice("plan the window as one chunk ({} as long as the window)", Flag("--chunk-hours"))


def or_one_chunk(text: str, *parts: object) -> Advice:
    """Return the advice to do what *text* says, with *parts* for its ``{}``, or to plan the window as one chunk."""
    return Advice(f"{text}, or {{}}", *parts, ONE_CHUNK)


class TableColumns(dict[str, Value]):
    """
    The columns of a table whose column names may be unknown.

    The mapping itself is empty. The rules treat each column that a query reads from this table as a column of *table*.

    Args:
        source: The place and id of the table's node in the query tree.
    """

    def __init__(self, table: TableName, source: str) -> None:
        super().__init__()
        self.table, self.source = table, source
