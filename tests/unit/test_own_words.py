"""Nothing decides by the words of the product's own messages: they are for people, and free to change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import airflow_provider_backfill
from airflow_provider_backfill import errors

PACKAGE = Path(airflow_provider_backfill.__file__).parent
FAULTS = Path(__file__).parents[1] / "system" / "faults"
# Attributes and keys with the product's own text. ClickHouse's text is an error's `reason`.
_WORDS = {"message", "hint", "last_error", "lastError"}
_READING = {
    *("startswith", "endswith", "removeprefix", "removesuffix", "split", "rsplit", "partition", "rpartition"),
    *("find", "rfind", "index", "count", "fullmatch", "match", "search", "findall", "finditer"),
}
_JAVASCRIPT = re.compile(r"\.(?:message|hint|error)\.(?:startsWith|endsWith|includes|indexOf|match|search|split)\(")


def _foreign(tree: ast.AST) -> set[int]:
    """Return the nodes below an ``except`` that catches only errors of other packages."""
    return {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler) and node.type is not None
        if not any(isinstance(name, ast.Name) and hasattr(errors, name.id) for name in ast.walk(node.type))
        for inner in ast.walk(node)
    }


def _is_ours(node: ast.expr, foreign: set[int]) -> bool:
    match node:
        case ast.Attribute(attr=name) | ast.Subscript(slice=ast.Constant(value=str(name))):
            return name in _WORDS
        case ast.Call(func=ast.Name(id="str"), args=[ast.Name(id="error" | "exc" | "refused")]):
            return id(node) not in foreign
        case ast.Call(func=ast.Name(id="str"), args=[inner]):
            return _is_ours(inner, foreign)
        case _:
            return False


def _readings(tree: ast.AST) -> Iterator[int]:
    """The lines on which words of ours are compared, searched or taken apart."""
    foreign = _foreign(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Compare(left=left, ops=ops, comparators=others):
                compares = any(isinstance(op, ast.In | ast.NotIn | ast.Eq | ast.NotEq) for op in ops)
                # Whether there are any words is no question about them.
                empty = any(isinstance(side, ast.Constant) and side.value == "" for side in (left, *others))
                if compares and not empty and any(_is_ours(side, foreign) for side in (left, *others)):
                    yield node.lineno
            case ast.Call(func=ast.Attribute(value=value, attr=name), args=arguments) if name in _READING:
                if any(_is_ours(part, foreign) for part in (value, *arguments)):
                    yield node.lineno
            case ast.Match(subject=subject) if _is_ours(subject, foreign):
                yield node.lineno
            case _:
                pass


@pytest.mark.parametrize("folder", [PACKAGE, FAULTS], ids=["package", "fault campaign"])
def test_no_code_reads_the_words_of_our_messages(folder: Path) -> None:
    files = sorted(folder.rglob("*.py"))
    assert len(files) > 8
    found = [f"{path.relative_to(folder)}:{line}" for path in files for line in _readings(ast.parse(path.read_text()))]
    assert found == []


def test_no_script_of_the_page_reads_the_words_of_our_messages() -> None:
    scripts = sorted((PACKAGE / "web" / "static").glob("*.js"))
    assert scripts
    assert [path.name for path in scripts if _JAVASCRIPT.search(path.read_text())] == []


@pytest.mark.parametrize(
    "line",
    [
        'if "newer version" in error.message: pass',
        'if error.message.startswith("There is no plan"): pass',
        'if str(error).startswith("There is no plan"): pass',
        'if payload["lastError"] == "x": pass',
        're.findall(r"--(from|to) ", error.hint)',
        "pattern.search(str(error.hint))",
        'finding["hint"].removeprefix("SQL: ")',
        'match error.message:\n    case "x": pass',
        'try: pass\nexcept BackfillError as error:\n    if "x" in str(error): pass',
        'flags = run.last_error.split(":")',
    ],
)
def test_the_scan_finds(line: str) -> None:
    assert list(_readings(ast.parse(line)))


@pytest.mark.parametrize(
    "line",
    [
        "try: pass\nexcept YAMLError as error:\n    str(error).split()",
        'if error.message == "": pass',
        'if "partitions" in error.reason: pass',
        'text = f"{error.message}."',
        "x in y",
    ],
)
def test_the_scan_lets_pass(line: str) -> None:
    assert not list(_readings(ast.parse(line)))


def test_the_scan_of_scripts_finds() -> None:
    assert _JAVASCRIPT.search('const sql = finding.hint.startsWith("SQL: ");')
