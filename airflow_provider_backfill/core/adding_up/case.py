"""Input, questions and verdicts of the rules for adding up."""

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
    """SQL over nothing but the time column of a filtered table."""

    table: TableName
    sql: str


BucketKey = tuple[TimeExpression, ...]
"""What keeps rows of several chunks apart: an expression, or one for each branch of a UNION."""


@dataclass(frozen=True, slots=True)
class BucketFacts:
    """
    How the values of a :data:`BucketKey` lie to the chunk bounds.

    Attributes:
        cut: The first chunk bound, the window's ends included, on both sides of which the value is the same.
        again: A value that two chunks give which do not meet, as text; empty when there is none.
        proposal: Flags that put every bound on an edge; empty when there are none to name.
        usable: Whether the server can evaluate it at all.
    """

    cut: datetime | None = None
    again: str = ""
    proposal: tuple[Flag, ...] = ()
    usable: bool = True

    @property
    def fits(self) -> bool:
        """Whether no two chunks share a value of the key."""
        return self.usable and self.cut is None and not self.again


@dataclass(frozen=True, slots=True)
class Question:
    """A key whose :class:`BucketFacts` the rules need before they can say more."""

    key: BucketKey


class Kind(StrEnum):
    """The subject of a refusal."""

    GROUPS = "groups"
    """A GROUP BY whose groups chunks cut, into a target that does not merge them: the user may say that it is fine."""
    STEP = "step"
    READ = "read"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a SELECT would not add up, what to do instead, and the flags of a plan whose bounds fit."""

    kind: Kind
    message: str
    remedy: Advice
    proposal: tuple[Flag, ...] = ()


class Read(NamedTuple):
    """A table that a SELECT reads, and how that read was judged."""

    table: TableName
    how: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """
    The rules' verdict on a statement.

    Attributes:
        refusal: Why it is refused; None when it adds up as far as the rules can see.
        steps: What was seen, a sentence for each step that looks at several rows.
        doubts: What the rules could not prove; a trial has to show it.
        waived: Refusals that the user's word has set aside.
        reads: Each table it reads.
        row_wise: Whether each row of the result comes from one row of a filtered table.
        labels: The target's columns that follow from the time of a filtered table alone.
        unstable: The target's columns that may differ when the same rows are asked again.
        unordered: The target's columns of which any order, or any choice, of values is right.
        chance: The functions by which rows are chosen or grouped, and that give something else each time.
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
        name: Names the SELECT in messages.
        tree: The SELECT as the server understands it.
        sources: What its query trees name, by the name they show.
        filters: The time column of each filtered table.
        whole: The tables that the user says are to be read whole.
        columns: The target's columns it fills.
        target_time: The target's own time column; empty when there is none.
        accept_groups: Whether the user says that parts of groups are fine.
        one_chunk: Whether the window is one chunk, whose result is that of the whole window.
        given: The constants of the tree that ``--param`` makes another in each chunk: by their id, their values in
            some chunks.
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
