"""Every rule, and the order in which findings are shown."""

from collections.abc import Iterable

from .registry import Finding, Rule, RuleContext, Severity
from .server_rules import SERVER_RULES
from .state_rules import STATE_RULES

_ORDER = (Severity.ERROR, Severity.WARN, Severity.INFO)


def judge(case: RuleContext) -> list[Finding]:
    """Everything the rules find in a case, the worst first."""
    # Without a look at the server its rules have nothing to say, and check has thousands of plans.
    rules = RULES if case.server is not None else STATE_RULES
    return worst_first(finding for rule in rules for finding in rule.judge(case))


def worst_first(findings: Iterable[Finding]) -> list[Finding]:
    """The findings by severity, otherwise in the order they came."""
    return sorted(findings, key=lambda finding: _ORDER.index(finding.severity))


RULES: tuple[Rule, ...] = (*STATE_RULES, *SERVER_RULES)
