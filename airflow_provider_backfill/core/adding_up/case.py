"""Define the input, the questions and the verdicts of the rules for adding up."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

from ...errors import Advice, Flag
from ..facts import QuerySource, TableFacts
from ..query_tree import Node
from ..tables import TableName


class TimeExpression(NamedTuple):
    """An SQL expression whose only column is the time column of a filtered table."""

    table: TableName
    sql: str


BucketKey = tuple[TimeExpression, ...]
"""
A key that depends only on the time of filtered tables; empty if there is no such key.

The key is one expression, or the distinct expressions of a UNION's branches or of a join's sides.
"""


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """
    The values of a :data:`BucketKey` in relation to the chunk bounds.

    Attributes:
        cut: The first bound at which the value is the same as right before the bound; None if there is none. The start
            and the end of the window are bounds, too.
        again: The earliest value that several chunks share, as text; empty if no such value was found.
        proposal: Flags of a plan in which every bound lies between two values of the key; empty if none are known.
        usable: Whether the server can evaluate the key.
    """

    cut: datetime | None = None
    again: str = ""
    proposal: tuple[Flag, ...] = ()
    usable: bool = True

    @property
    def fits(self) -> bool:
        """Whether the server can evaluate the key, no bound cuts a value, and no known value is in several chunks."""
        return self.usable and self.cut is None and not self.again


@dataclass(frozen=True, slots=True)
class Question:
    """A key whose :class:`BucketFacts` the rules need before a verdict."""

    key: BucketKey


class Kind(StrEnum):
    """The subject of a refusal: groups that chunks cut, any other step, or a read of a table."""

    GROUPS = "groups"
    """
    A GROUP BY or DISTINCT whose groups chunks cut, where the target does not merge the parts.

    The user may accept partial groups.
    """
    STEP = "step"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Refusal:
    """
    The reason why a SELECT would not add up.

    Attributes:
        kind: The subject of the refusal.
        message: The reason, for people.
        remedy: The alternative.
        proposal: The flags of a plan whose bounds fit; empty if none are known.
    """

    kind: Kind
    message: str
    remedy: Advice
    proposal: tuple[Flag, ...] = ()


class Read(NamedTuple):
    """A table that a SELECT reads. *how* tells people how the read is limited, or that the whole table is read."""

    table: TableName
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The rules' verdict on a statement.

    Attributes:
        refusal: The reason for a refusal; None if the rules found none.
        steps: Texts for people about the steps that combine rows, and about the columns whose parts the target merges.
        doubts: Points that the rules cannot prove, as texts for people. Only a trial can settle these points.
        waived: The messages of refusals that the user has overruled.
        reads: The reads of tables up to the end of the walk, which a refusal ends early. Empty for a SELECT that reads
            the target or places the window by itself.
        row_wise: Whether each result row comes from one row of a filtered table. Without meaning after a refusal.
        labels: The target's columns that depend only on a filtered table's time, each with SQL over this time.
        unstable: The target's columns that may differ when the same rows are read again.
        unordered: The target's columns for which any order, or any choice, of values is a correct result.
        chance: The non-repeatable functions that choose or group rows, and ``LIMIT`` for a LIMIT without ORDER BY.
    """

    refusal: Refusal | None = None
    steps: tuple[str, ...] = ()
    doubts: tuple[str, ...] = ()
    waived: tuple[str, ...] = ()
    reads: tuple[Read, ...] = ()
    row_wise: bool = True
    labels: Mapping[str, BucketKey] = field(default_factory=dict)
    unstable: tuple[str, ...] = ()
    unordered: tuple[str, ...] = ()
    chance: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    """
    A statement with the input of the rules.

    Attributes:
        name: The SELECT's name for messages.
        tree: The query tree of the SELECT.
        sources: The tables, views and table functions in the trees of the SELECT and its views, by name.
        filters: The time column of each filtered table, by the table's name.
        target: The table to fill.
        whole: The tables that the user declared to be read whole.
        columns: The target's columns that the statement fills.
        target_time: The target's own time column; empty if there is none.
        accept_groups: Whether the user accepts rows for parts of groups, which the target does not merge.
        one_chunk: Whether the window is a single chunk, which needs no adding up.
        given: The constants that ``--param`` changes from chunk to chunk: the id of each constant, with the constant's
            values in the sampled chunks.
    """

    name: str
    tree: Node
    sources: Mapping[str, QuerySource]
    filters: Mapping[TableName, str]
    target: TableFacts
    columns: tuple[str, ...]
    target_time: str = ""
    whole: frozenset[TableName] = frozenset()
    accept_groups: bool = False
    one_chunk: bool = False
    given: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
