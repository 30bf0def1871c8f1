"""Build the page docs/reference/findings.md from the rules; `python -m docs.generate` writes it."""

from collections.abc import Iterable

from airflow_provider_backfill.core.findings.judge import RULES
from airflow_provider_backfill.core.findings.registry import Rule, RuleScope

# The tables need the full width.
_HEAD = """\
---
hide:
  - toc
---

# Findings

<!-- Written by `python -m docs.generate` from the rules; do not edit. -->

`doctor`, `check`, `status` and the page in Airflow share one set of rules. A finding has a code, a severity, a plan, a
message with values, and a hint. `remedy` gives the kind of the hint: a `command` for a shell, a statement (`sql`) for a
ClickHouse client, or `advice`. Commands and statements can be pasted as they are.

An `error` makes `doctor` and `check` end with exit code 1; `warn` and `info` do not.
"""
_STATE = """
## From the state folder

`check`, `status`, `doctor` and the page find these problems without a ClickHouse.
"""
_SERVER = """
## From ClickHouse

`doctor --plan-id` and `doctor --target` find these problems on the connected ClickHouse. Questions that the user has no
right to ask, or that the server's version does not support, are listed as skipped. For a completed plan, `doctor` looks
only for leftovers.

Findings marked ¹ rest on ClickHouse's documentation of `system.replicas`; the tests pass values of these columns to the
rules. For every other finding the tests create the situation on a real server, see the finding, apply the remedy, and
see the finding disappear.
"""


def page() -> str:
    """Return the page."""
    return "".join(
        [
            _HEAD,
            _STATE,
            *_table(rule for rule in RULES if rule.needs is RuleScope.STATE),
            _SERVER,
            *_table(rule for rule in RULES if rule.needs is RuleScope.SERVER),
        ]
    )


def _table(rules: Iterable[Rule]) -> list[str]:
    lines = ["\n| code | severity | meaning | remedy |\n|---|---|---|---|\n"]
    lines += [_row(rule) for rule in rules]
    return lines


def _row(rule: Rule) -> str:
    mark = "" if rule.reproduced else " ¹"
    remedy = f"{rule.remedy[0].upper()}{rule.remedy[1:]}."
    return f"| `{rule.code}`{mark} | {rule.severity} | {rule.says} | {remedy} |\n"
