"""
Measure a plan on two replicas, against one bare ``INSERT … SELECT`` on the same cluster.

The time ends when both replicas have all rows. Both write the same rows, with two insert threads or two parallel
chunks.
"""

from benchmarks._clusters import BETWEEN, can_measure, cluster_bench
from benchmarks.frame import Row

ROWS = 20_000_000


def measure(short: bool) -> list[Row]:
    """Copy into a Replicated target, in chunks of a day and of six hours."""
    if not can_measure():
        return []
    rows, rounds = (ROWS // 10, 1) if short else (ROWS, 3)
    with cluster_bench(1, rows) as bench:
        statement = f"INSERT INTO b.bare_local SELECT * FROM b.source_local WHERE {BETWEEN}"
        found = []
        for hours, bar in ((24, 1.15), (6, 1.6)):
            given = ("--source", "b.source_local", "--chunk-hours", str(hours))
            found += bench.compare(
                f"{31 * 24 // hours} chunks, 2 at once, into a Replicated table",
                "one INSERT … SELECT on the same replica",
                (bar, 1.25),
                rounds,
                lambda: bench.bare(statement),
                lambda given=given: bench.ours("ours_local", *given),  # type: ignore[misc]
            )
    return found
