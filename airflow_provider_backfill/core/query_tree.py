"""
Read the text of ``EXPLAIN QUERY TREE``, the server's view of a SELECT, as a tree of nodes.

The server has resolved all names, including aliases and CTEs, so the product resolves no names. This module is pure.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

_NODE = re.compile(r"^([A-Z][A-Z_ ]*?) id: (\d+)(?:, (.*))?$", re.DOTALL)
# Patterns of the text after the id in a node's line, by the kind of the node. Values may contain commas and colons, so
# each pattern names the text that may follow a value.
_FIELDS = {
    "COLUMN": r"(?:alias: .*, )?column_name: (?P<name>.*), result_type: (?P<type>.*?)(?:, source_id: (?P<source>\d+))?",
    "CONSTANT": r"(?:alias: .*, )?constant_value: (?P<name>.*), constant_value_type: (?P<type>.*)",
    "FUNCTION": r"(?:alias: .*, )?function_name: (?P<name>.*?), function_type: (?P<kind>\w+)"
    r"(?:, nulls_action : \w+)?(?:, result_type: (?P<type>.*))?",
    "TABLE": r"(?:alias: .*?, )?table_name: (?P<name>.*?)"
    r"(?:, temporary_table_name: .*?)?(?:, final: [01])?(?:, sample_size: (?P<sample>.*))?",
    "TABLE_FUNCTION": r"(?:alias: .*?, )?table_function_name: (?P<name>\w+)(?:, .*)?",
    "UNION": r".*?union_mode: (?P<kind>\w+).*",
    "JOIN": r".*?strictness: (?P<strictness>\w+), kind: (?P<kind>\w+).*",
}
_PATTERNS = {kind: re.compile(text, re.DOTALL) for kind, text in _FIELDS.items()}


@dataclass(frozen=True, slots=True)
class Node:
    """
    A node of a query tree.

    Attributes:
        kind: ``QUERY``, ``UNION``, ``JOIN``, ``TABLE``, ``FUNCTION``, ``COLUMN``, ``CONSTANT`` and so on.
        id: The number of the node, equal wherever the node appears.
        rest: The remaining text of the node's line.
        fields: The values in *rest* by name, such as ``name`` and ``type``; empty for kinds that are not parsed. A
            column's ``source`` is the id of the node that the column comes from.
        sections: The child nodes by title, such as ``WHERE``; children without a title are under ``""``.
        columns: The result columns of a query, each as one text with name and type.
    """

    kind: str
    id: int
    rest: str = ""
    fields: dict[str, str] = field(default_factory=dict)
    sections: dict[str, tuple["Node", ...]] = field(default_factory=dict)
    columns: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """The name of a column, table or function; a constant's value as the server shows it; otherwise empty."""
        return self.fields.get("name", "")

    @property
    def type(self) -> str:
        """The type of the node's result; empty if the server does not show it."""
        return self.fields.get("type", "")

    def list(self, title: str) -> tuple["Node", ...]:
        """Return the children under *title*, or the items of a list node that is the only child; empty without any."""
        found = self.sections.get(title, ())
        return found[0].sections.get("", ()) if len(found) == 1 and found[0].kind == "LIST" else found

    def one(self, title: str) -> "Node | None":
        """Return the first child under *title*; None if there is none."""
        found = self.sections.get(title, ())
        return found[0] if found else None

    def walk(self) -> Iterator["Node"]:
        """Yield the node and all nodes below it."""
        yield self
        for children in self.sections.values():
            for child in children:
                yield from child.walk()


def parse_tree(lines: Iterable[str]) -> Node:
    """
    Return the root of the tree in the lines of an ``EXPLAIN QUERY TREE``.

    Raises:
        ValueError: The lines have an unknown format; an unknown version of the server may write such lines.
    """
    reader = _Reader(lines)
    node = reader.node(0)
    if node is None or not reader.done:
        raise ValueError(f"no query tree: {reader.rest}")
    return node


class _Reader:
    def __init__(self, lines: Iterable[str]) -> None:
        self._lines = [(len(line) - len(line.lstrip(" ")), line.strip(" ")) for line in lines if line.strip()]
        self._at = 0

    @property
    def done(self) -> bool:
        return self._at == len(self._lines)

    @property
    def rest(self) -> str:
        return self._lines[self._at][1] if not self.done else "nothing"

    def node(self, depth: int) -> Node | None:
        """
        Read the node that begins on the current line, with all nodes below it.

        Returns:
            The node; None at the end of the lines, and if the line has a different indent from *depth* or is not a
            node.

        Raises:
            ValueError: The text after a node's id does not have the format of its kind.
        """
        if self.done or self._lines[self._at][0] != depth:
            return None
        match = _NODE.match(self._lines[self._at][1])
        if match is None:
            return None
        kind, number, rest = match[1], int(match[2]), match[3] or ""
        self._at += 1
        pattern = _PATTERNS.get(kind)
        fields: dict[str, str] = {}
        if pattern is not None:
            found = pattern.fullmatch(rest)
            if found is None:
                raise ValueError(f"{kind} {rest}")
            fields = {name: text for name, text in found.groupdict().items() if text is not None}
        sections, columns = self._sections(depth + 2)
        return Node(kind, number, rest, fields, sections, columns)

    def _sections(self, depth: int) -> tuple[dict[str, tuple[Node, ...]], tuple[str, ...]]:
        sections: dict[str, tuple[Node, ...]] = {}
        columns: tuple[str, ...] = ()
        while not self.done and self._lines[self._at][0] == depth:
            if (child := self.node(depth)) is not None:
                sections[""] = (*sections.get("", ()), child)
                continue
            title = self._lines[self._at][1]
            self._at += 1
            if title == "PROJECTION COLUMNS":
                columns = tuple(self._texts(depth + 2))
                continue
            if title.startswith("SETTINGS"):
                continue
            children = []
            while (below := self.node(depth + 2)) is not None:
                children.append(below)
            if title.startswith("EXPRESSION"):
                # An alias may follow the title.
                title = "EXPRESSION"
            sections[title.strip()] = (*sections.get(title.strip(), ()), *children)
        return sections, columns

    def _texts(self, depth: int) -> Iterator[str]:
        while not self.done and self._lines[self._at][0] == depth:
            yield self._lines[self._at][1]
            self._at += 1
