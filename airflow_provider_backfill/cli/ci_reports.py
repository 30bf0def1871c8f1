"""Write the findings of ``check`` for CI systems: GitHub's annotations and a JUnit file."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ..core.plain_text import plain_text
from ..errors import StateError
from .text import remedy_text

_LEVELS = {"error": "error", "warn": "warning", "info": "notice"}
_NAME = "clickhouse-backfill check"


def github_lines(payload: dict[str, Any]) -> Iterator[str]:
    """Yield one GitHub Actions workflow command per finding, for the output of a step."""
    for finding in payload["plugins"]["backfill"]["findings"]:
        text = _text(finding).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        yield f"::{_LEVELS[finding['severity']]} title={finding['code']}::{text}"


def _text(finding: dict[str, Any]) -> str:
    return "\n".join(part for part in (finding["message"], remedy_text(finding)) if part)


def write_junit(payload: dict[str, Any], path: Path) -> None:
    """
    Write a JUnit file: a test case for each finding, and a test case with the number of plans without findings.

    The test case of an error has a failure; those of warnings and notices pass.

    Raises:
        StateError: The file cannot be written.
    """
    findings = payload["plugins"]["backfill"]["findings"]
    failures = sum(finding["severity"] == "error" for finding in findings)
    total = len(findings) + 1
    suite = ElementTree.Element("testsuite", name=_NAME, tests=str(total), failures=str(failures), errors="0")
    found = {finding["planId"] for finding in findings if finding["planId"]}
    quiet = payload["plugins"]["backfill"]["evaluated"] - len(found)
    ElementTree.SubElement(suite, "testcase", classname=_NAME, name=f"{max(quiet, 0)} plans without findings")
    for finding in findings:
        name = " ".join(part for part in (finding["code"], finding["planId"]) if part)
        case = ElementTree.SubElement(suite, "testcase", classname=_NAME, name=name)
        if finding["severity"] == "error":
            failure = ElementTree.SubElement(case, "failure", message=plain_text(finding["message"]))
            failure.text = plain_text(_text(finding))
        else:
            ElementTree.SubElement(case, "system-out").text = plain_text(_text(finding))
    try:
        ElementTree.ElementTree(suite).write(path, encoding="utf-8", xml_declaration=True)
    except OSError as error:
        raise StateError(f"Cannot write {path}: {error.strerror}.", hint="check the path given as --junit") from error
