"""What results look like: the story of a seed that failed, and the tables for the docs."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tests.system.faults.schedule import MATRIX_FAULTS, MATRIX_KINDS, MODES

Outcome = dict[str, Any]


def story(result: Outcome) -> str:
    """What a seed found, and the command that repeats it."""
    lines = [f"python -m tests.system.faults {result['name']}"]
    faults = ", ".join(f"{name} ({count})" for name, count in result["struck"].items()) or "none"
    lines.append(
        f"  {result['attempts']} attempts of {result['chunks']} chunks by {result['runners']} runners"
        f" in {result['seconds']} s; faults: {faults}"
    )
    if result["refused"]:
        lines.append(f"  refused: {result['refused']}")
    lines += [f"  {problem}" for problem in result["problems"] or ["ok"]]
    for name, text in result["about"].get("console", {}).items():
        lines += [f"  --- {name}", *(f"  {line}" for line in text.splitlines()[-12:])]
    return "\n".join(lines)


def campaign_table(results: Iterable[Outcome]) -> str:
    """The result of a campaign as Markdown."""
    results = list(results)
    struck: Counter[str] = Counter()
    for result in results:
        struck.update(result["struck"])
    words = Counter(word for result in results for word in {problem.split(":")[0] for problem in result["problems"]})
    lines = ["| fault | times |", "|---|---:|"]
    lines += [f"| {name} | {count:,} |" for name, count in sorted(struck.items())]
    lines += [f"| **all faults** | **{struck.total():,}** |", "", "| result | |", "|---|---:|"]
    lines += [
        f"| {name} | {count:,} |"
        for name, count in (
            ("seeds", len(results)),
            ("runners started", sum(result["runners"] for result in results)),
            ("chunks", sum(result["chunks"] for result in results)),
            ("attempts", sum(result["attempts"] for result in results)),
            ("seeds with rows lost", words["lost"]),
            ("seeds with rows doubled", words["doubled"]),
            ("seeds with rows that were in no source", words["extra"] + words["wrong"]),
            ("seeds with a change outside the window", words["outside"]),
            ("seeds with an attempt executed twice", words["twice"]),
            ("seeds with tables, queries or locks left", words["left"]),
            ("seeds with a log that does not replay, or is wrong", words["log"]),
            ("seeds with doctor or check not green", words["doctor"] + words["check"]),
            ("seeds with a light that was wrong", words["light"]),
            ("seeds with advice that did not help", words["words"]),
            ("seeds with rows that undo did not bring back", words["undo"]),
            ("seeds that did not complete", words["hung"]),
            (
                "seeds in which a frozen worker held the log's lock",
                sum(bool(result.get("woken")) for result in results),
            ),
            ("seeds that needed the doctor's advice after the end", sum(result["advice"] for result in results)),
        )
    ]
    return "\n".join([*lines, "", *_by_cell(results), "", *_lights(results)])


def _by_cell(results: Sequence[Outcome]) -> Iterator[str]:
    """How the seeds of each cell ended."""
    cells: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        cells[" ".join(result["cell"])][_end(result)] += 1
    yield "| cell | seeds | equal to the truth | refused, and the advice held | failed |"
    yield "|---|---:|---:|---:|---:|"
    for cell, ends in sorted(cells.items()):
        yield f"| {cell} | {ends.total()} | {ends['equal']} | {ends['refused']} | {ends['FAILED']} |"


def _lights(results: Sequence[Outcome]) -> Iterator[str]:
    """What ``verify`` said, over which data."""
    verdicts = Counter(verdict for result in results for verdict in result.get("verdicts", ()))
    yield "| verify said | times |"
    yield "|---|---:|"
    for verdict, count in sorted(verdicts.items()):
        yield f"| {verdict} | {count:,} |"


def _end(result: Outcome) -> str:
    return "FAILED" if result["problems"] else "refused" if result["refused"] else "equal"


def matrix_table(results: Iterable[Outcome]) -> str:
    """The matrix as Markdown: how many seeds of each cell ended with equal content, were refused, or failed."""
    cells: defaultdict[tuple[str, str, str], Counter[str]] = defaultdict(Counter)
    for result in results:
        cells[tuple(result["cell"])][_end(result)] += 1
    lines = ["| target | mode | " + " | ".join(MATRIX_FAULTS) + " |", "|---|---|" + "---|" * len(MATRIX_FAULTS)]
    for kind in MATRIX_KINDS:
        for mode in MODES:
            row = [
                ", ".join(f"{count} {word}" for word, count in sorted(cells[kind, mode, fault].items()))
                for fault in MATRIX_FAULTS
            ]
            lines.append(f"| {kind} | {mode} | " + " | ".join(row) + " |")
    return "\n".join(lines)
