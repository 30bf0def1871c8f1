"""
What to do about an error of ClickHouse: try again, give up, or split the chunk.

Source of the codes: ClickHouse's ``ErrorCodes.cpp``, each seen or read as the result of a
condition that passes by itself (retry) or does not (give up).
"""

from enum import StrEnum

# Transport errors have no code; the rest: timeouts, too many queries or parts, network, keeper,
# read-only or lost replicas, a query of ours that still runs, a session or a user at its limit.
_RETRY = frozenset(
    {159, 202, 203, 209, 210, 216, 225, 236, 241, 242, 252, 279, 285, 286, 287, 319, 373, 394, 425, 439, 473, 745, 999}
)
_TOO_HEAVY = frozenset({159, 160, 241})
_PARTITIONS_PER_INSERT = "partitions for single INSERT"


class RetryDecision(StrEnum):
    """What becomes of a failed attempt."""

    RETRY = "retry"
    FINAL = "final"
    SPLIT = "split"


def classify_error(code: int | None, message: str) -> RetryDecision:
    """
    Judge ClickHouse's error *code* (None for a transport error).

    Memory and time limits call for smaller chunks; everything unknown is final, because
    trying a wrong statement again helps nobody.
    """
    if code in _TOO_HEAVY:
        return RetryDecision.SPLIT
    if code is None or (code in _RETRY and not (code == 252 and _PARTITIONS_PER_INSERT in message)):
        return RetryDecision.RETRY
    return RetryDecision.FINAL


def retry_delay(base_ms: float, tries: int) -> float:
    """Seconds to wait after the *tries*-th failure: doubling from *base_ms*, up to 5 minutes."""
    return float(min(base_ms / 1000 * 2.0 ** max(tries - 1, 0), 300.0))
