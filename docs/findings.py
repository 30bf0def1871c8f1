"""The page docs/reference/findings.md, from the rules; `python -m docs.generate` writes it."""

from collections.abc import Iterable

from airflow_provider_backfill.core.findings.judge import RULES
from airflow_provider_backfill.core.findings.registry import Rule, RuleScope

# The tables need the whole width.
_HEAD = """\
---
hide:
  - toc
---

# Findings

<!-- Written by `python -m docs.generate` from the rules; do not edit. -->

`doctor`, `check`, `status` and the page in Airflow share one set of rules. A finding has a code, a severity, the plan
it is about, a message with the values, and a hint. A hint can be pasted as it is: `remedy` says whether it is a
`command` for a shell or a statement (`sql`) for a ClickHouse client. Where nothing can be pasted the hint is empty,
and the message says what helps.

An `error` makes `doctor` and `check` end with exit code 1; `warn` and `info` do not.
"""
_STATE = """
## From the state folder

`check`, `status`, `doctor` and the page find these without a ClickHouse.
"""
_SERVER = """
## From ClickHouse

`doctor --plan-id` and `doctor --target` find these when they have a ClickHouse to ask. What the user may not see, or
the version does not know, is listed as not looked at; nothing is guessed. Of a completed plan only leftovers are
looked for.

Findings marked ¹ rest on what ClickHouse documents of `system.replicas`: the tests have no replica that can be
written to, and give the rules the values of those columns. For every other finding the tests bring a real server into
the state, see the finding, apply its remedy, and see it gone.
"""


def page() -> str:
    """The page as it must be."""
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
    lines = ["\n| code | severity | what it means | what helps |\n|---|---|---|---|\n"]
    lines += [_row(rule) for rule in rules]
    return lines


def _row(rule: Rule) -> str:
    mark = "" if rule.reproduced else " ¹"
    remedy = f"{rule.remedy[0].upper()}{rule.remedy[1:]}."
    return f"| `{rule.code}`{mark} | {rule.severity} | {rule.says} | {remedy} |\n"
