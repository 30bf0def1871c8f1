"""
Measure a plan on two shards with two replicas each, against one bare distributed ``INSERT … SELECT``.

If each shard fills itself, so does the bare statement (``parallel_distributed_insert_select = 2``). If the sharding key
divides the rows, the bare statement sends each row to its shard.
"""

from benchmarks._clusters import BETWEEN, can_measure, cluster_bench
from benchmarks.frame import Row

ROWS = 20_000_000


def measure(short: bool) -> list[Row]:
    """Copy a table on all shards: each shard its own rows, and rows divided by the sharding key."""
    if not can_measure():
        return []
    rows, rounds = (ROWS // 10, 1) if short else (ROWS, 3)
    with cluster_bench(2, rows) as bench:
        statement = f"INSERT INTO b.bare SELECT * FROM b.source WHERE {BETWEEN}"

        def each(source: str, parallel: int, name: str, against: str, bar: float) -> list[Row]:
            given = ("--source", source, "--chunk-hours", "24", *bench.addresses)
            settings = {"parallel_distributed_insert_select": parallel, "distributed_foreground_insert": 1}
            return bench.compare(
                f"31 chunks on each of 2 shards, {name}",
                against,
                (1.3, bar),
                rounds,
                lambda: bench.bare(statement, **settings),
                lambda: bench.ours("ours", *given),
            )

        own = "one distributed INSERT … SELECT, each shard its own rows"
        by_key = "one distributed INSERT … SELECT, each row sent to its shard"
        return [
            *each("b.source_local", 2, "each shard its own rows", own, 1.25),
            *each("b.source", 0, "by the sharding key", by_key, 2.0),
        ]
