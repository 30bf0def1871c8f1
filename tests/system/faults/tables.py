"""
Sources, targets of every kind, and the truth that a target is held against.

The truth is a table of the same engine, filled by one INSERT … SELECT of the window before
anything is run.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from clickhouse_connect.driver.client import Client

START = datetime(2026, 1, 10, tzinfo=UTC)
# Rows of the source lie from a day before the window to a day after the longest one.
BEFORE, AFTER = timedelta(days=1), timedelta(days=1)

# Three rows of one id in a third of all cases: a state, its cancellation, and the next state.
_SOURCE_COLUMNS = "uid UInt64, id UInt64, ts DateTime64(3, 'UTC'), k UInt16, v Int64, version UInt32, sign Int8"


@dataclass(frozen=True)
class Kind:
    """
    A kind of target.

    Attributes:
        columns: The target's columns.
        engine: Its engine.
        order: Its sorting key.
        time: Its time column.
        select: What fills it, with ``{v}`` for the value (so that it can be made slow) and ``{source}``.
        by_view: Whether the SELECT is stored in a materialized view; else the command line gives it.
        meaning: What its rows mean once merged, as a SELECT over ``{table}``: one row per key.
        key: The key of *meaning*, to name rows that differ.
        one_to_one: Whether each source row becomes one row, so that rows can be compared before any merge.
        bucket: Hours that rows of the target are rounded down to; 0 when they keep their time.
    """

    columns: str
    engine: str
    order: str
    time: str
    select: str
    meaning: str
    key: str
    by_view: bool = False
    one_to_one: bool = True
    bucket: int = 0


_COPY = "SELECT uid, id, ts, k, {v} AS v, version, sign FROM {source}"

KINDS = {
    "MergeTree": Kind(
        columns=_SOURCE_COLUMNS,
        engine="MergeTree",
        order="(ts, uid)",
        time="ts",
        select=_COPY,
        meaning="SELECT uid, count() AS n, any(tuple(*)) AS row FROM {table} WHERE {window} GROUP BY uid",
        key="uid",
    ),
    "ReplacingMergeTree": Kind(
        columns=_SOURCE_COLUMNS,
        engine="ReplacingMergeTree(version)",
        order="(ts, id)",
        time="ts",
        select=_COPY,
        meaning="SELECT id, ts, uid, k, v, version FROM {table} FINAL WHERE {window}",
        key="(id, ts)",
    ),
    "SummingMergeTree": Kind(
        columns="hour DateTime('UTC'), k UInt16, v Int64, n UInt64",
        engine="SummingMergeTree",
        order="(hour, k)",
        time="hour",
        select="SELECT toStartOfHour(ts) AS hour, k, {v} AS v, 1 AS n FROM {source}",
        meaning="SELECT hour, k, sum(v) AS v, sum(n) AS n FROM {table} FINAL WHERE {window} GROUP BY hour, k",
        key="(hour, k)",
        bucket=1,
    ),
    # Several chunks add to one row, and may do so with the very same content.
    "SummingMergeTree by day": Kind(
        columns="day Date, k UInt16, n UInt64",
        engine="SummingMergeTree",
        order="(day, k)",
        time="day",
        select="SELECT toDate(ts) AS day, k, 1 + ({v}) * 0 AS n FROM {source}",
        meaning="SELECT day, k, sum(n) AS n FROM {table} FINAL WHERE {window} GROUP BY day, k",
        key="(day, k)",
        bucket=24,
    ),
    "AggregatingMergeTree": Kind(
        columns="hour DateTime('UTC'), k UInt16, total AggregateFunction(sum, Int64),"
        " ids AggregateFunction(uniqExact, UInt64), n AggregateFunction(count)",
        engine="AggregatingMergeTree",
        order="(hour, k)",
        time="hour",
        select="SELECT toStartOfHour(ts) AS hour, k, sumState({v}) AS total, uniqExactState(uid) AS ids,"
        " countState() AS n FROM {source} GROUP BY hour, k",
        meaning="SELECT hour, k, sumMerge(total) AS total, uniqExactMerge(ids) AS ids, countMerge(n) AS n"
        " FROM {table} WHERE {window} GROUP BY hour, k",
        key="(hour, k)",
        by_view=True,
        one_to_one=False,
        bucket=1,
    ),
    "CollapsingMergeTree": Kind(
        columns=_SOURCE_COLUMNS,
        engine="CollapsingMergeTree(sign)",
        order="(ts, id)",
        time="ts",
        select=_COPY,
        meaning="SELECT id, ts, sum(sign) AS n, sum(v * sign) AS v FROM {table} WHERE {window} GROUP BY id, ts"
        " HAVING n != 0 OR v != 0",
        key="(id, ts)",
    ),
}


@dataclass(frozen=True)
class Layout:
    """
    The tables of one seed.

    Attributes:
        kind: Name of the target's kind.
        mode: ``stage`` or ``replace``.
        partition: Hours per partition of the target; 0 for a table without partitions.
        hours: Hours per chunk.
        chunks: Chunks of the window.
        rows: Rows of the source per chunk.
        slow: Microseconds that the SELECT takes per row; 0 to copy with ``--source``.
        merges: Whether the target merges parts by itself.
        forgets: Whether the target forgets merged parts after a second, and not after eight minutes.
        steady: Whether each hour of the source has the same rows.
        more: Flags that ``plan`` gets beside.
        bounds: The condition by which the SELECT takes its chunk's rows itself; the product filters when empty.
    """

    kind: str
    mode: str
    partition: int
    hours: int
    chunks: int
    rows: int
    slow: int
    merges: bool
    forgets: bool = False
    steady: bool = False
    more: tuple[str, ...] = ()
    bounds: str = ""

    @property
    def end(self) -> datetime:
        """The end of the window."""
        return START + timedelta(hours=self.hours * self.chunks)

    @property
    def window(self) -> str:
        """The condition that a row of the target or the truth lies in the window."""
        return between(KINDS[self.kind].time, START, self.end)

    @property
    def by_chunk(self) -> bool:
        """Whether each row of the target lies in the time of the chunk it came from."""
        return KINDS[self.kind].bucket <= 1

    @property
    def outside(self) -> str:
        """The condition that a row of the target lies outside the window."""
        return f"NOT ({self.window})"

    def flags(self, database: str, chunks: int = 0, hours: int = 0) -> list[str]:
        """
        What ``plan`` is told about the tables.

        With *chunks*, about the first ones of the window alone; with *hours*, in chunks of that length.
        """
        kind = KINDS[self.kind]
        end = START + timedelta(hours=self.hours * chunks) if chunks else self.end
        words = ["--target", f"{database}.target", "--from", text(START), "--to", text(end)]
        words += ["--chunk-hours", str(hours or self.hours), "--time-column", "ts", *self.more]
        words += ["--write-mode", self.mode] if self.mode != "stage" else []
        if kind.by_view:
            return words
        if self.slow or self.bounds or kind.select != _COPY:
            return [*words, "--select", self._select(database)]
        return [*words, "--source", f"{database}.source"]

    def _select(self, database: str) -> str:
        # A sleep of n µs per row makes room for faults; it adds 0.
        value = f"v + sleepEachRow({self.slow / 1e6:.6f})" if self.slow else "v"
        select = KINDS[self.kind].select.format(v=value, source=f"{database}.source")
        return f"{select} WHERE {self.bounds}" if self.bounds else select

    def build(self, client: Client, database: str) -> None:
        """Create and fill the tables of the seed in *database*; nothing of the window is in the target yet."""
        kind = KINDS[self.kind]
        merging = _FORGETS if self.forgets else "" if self.merges else _NO_MERGES
        partition = f"PARTITION BY {self._partition(kind.time)} " if self.partition else ""
        client.command(f"CREATE DATABASE {database}")
        source = f"{database}.source"
        client.command(
            f"CREATE TABLE {source} ({_SOURCE_COLUMNS}) ENGINE = MergeTree ORDER BY (ts, uid)"
            # Small granules make small blocks, so that an insert has a middle in which it can die.
            " SETTINGS index_granularity = 64"
        )
        seconds = int((self.end + AFTER - START + BEFORE).total_seconds())
        rows = self.rows * seconds // (3600 * self.hours)
        query = _rows("number", rows, START - BEFORE, seconds)
        if self.steady:
            rows, step = seconds // 90, "toDateTime64('{:%Y-%m-%d %H:%M:%S}', 3, 'UTC') + toIntervalSecond(number * 90)"
            query = (
                f"SELECT number AS uid, number AS id, {step.format(START - BEFORE)} AS ts, number % 40 AS k,"
                f" 1 AS v, 0 AS version, 1 AS sign FROM numbers({rows})"
            )
        client.command(f"INSERT INTO {source} {query}")
        for table in ("target", "truth"):
            client.command(
                f"CREATE TABLE {database}.{table} ({kind.columns}) ENGINE = {kind.engine} {partition}"
                f"ORDER BY {kind.order}{merging}"
            )
        fast = kind.select.format(v="v", source=source)
        settings = {"optimize_on_insert": 0, "max_partitions_per_insert_block": 0}
        for table, condition in (("truth", self._of_source()), ("target", f"NOT ({self._of_source()})")):
            filtered = {"additional_table_filters": f"{{'{source}': '{_escaped(condition)}'}}"}
            client.command(f"INSERT INTO {database}.{table} {fast}", settings={**settings, **filtered})
        if self.mode == "replace":
            # What was wrong in the window, and must go.
            filtered = {
                "additional_table_filters": f"{{'{source}': '{_escaped(self._of_source() + ' AND k % 3 = 0')}'}}"
            }
            client.command(f"INSERT INTO {database}.target {fast}", settings={**settings, **filtered})
        if kind.by_view:
            client.command(f"CREATE MATERIALIZED VIEW {database}.view TO {database}.target AS {self._select(database)}")

    def _of_source(self) -> str:
        return between("ts", START, self.end)

    def _partition(self, time: str) -> str:
        return (
            f"toYYYYMMDD({time})"
            if self.partition == 24 or KINDS[self.kind].bucket == 24
            else f"toStartOfInterval({time}, INTERVAL {self.partition} HOUR)"
        )

    def insert_late(self, client: Client, database: str, number: int) -> None:
        """Let rows of the window's last chunk arrive in the source."""
        first = self.end - timedelta(hours=self.hours)
        query = _rows(f"({_LATE + number * 1000} + number)", 60, first, 3600 * self.hours)
        client.command(f"INSERT INTO {database}.source {query}")


# Ids from here on belong to rows that arrive late.
_LATE = 1_000_000_000
_FORGETS = " SETTINGS old_parts_lifetime = 1, cleanup_delay_period = 1, cleanup_delay_period_random_add = 0"
_NO_MERGES = " SETTINGS max_bytes_to_merge_at_max_space_in_pool = 1, max_bytes_to_merge_at_min_space_in_pool = 1"


def _rows(number: str, count: int, start: datetime, seconds: int) -> str:
    """A SELECT of *count* rows of the source, spread over *seconds* from *start*."""
    return (
        "WITH intDiv(uid, 3) % 3 = 0 AS threefold, if(threefold, intDiv(uid, 3) * 3, uid) AS key, uid % 3 AS step,"
        " threefold AND step = 1 AS cancels"
        f" SELECT {number} AS uid, key AS id,"
        f" toDateTime64('{start:%Y-%m-%d %H:%M:%S}', 3, 'UTC')"
        f" + toIntervalMillisecond(cityHash64(key, 1) % {seconds * 1000}) AS ts,"
        " toUInt16(cityHash64(key, 2) % 40) AS k,"
        " toInt64(cityHash64(key, threefold AND step = 2) % 1000) AS v,"
        " toUInt32(step) AS version, if(cancels, -1, 1) AS sign"
        f" FROM numbers({count})"
    )


def between(column: str, start: datetime, end: datetime) -> str:
    """The condition that *column* lies in ``[start, end)``."""
    return " AND ".join(
        f"{column} {sign} toDateTime64('{moment:%Y-%m-%d %H:%M:%S}', 3, 'UTC')"
        for sign, moment in ((">=", start), ("<", end))
    )


def text(moment: datetime) -> str:
    """An instant as the command line takes it."""
    return f"{moment:%Y-%m-%dT%H:%M:%SZ}"


def _escaped(condition: str) -> str:
    return condition.replace("'", "''").replace("''", "\\'")


def content(client: Client, select: str) -> tuple[int, int]:
    """How many rows *select* gives, and the sum of their hashes."""
    rows, checksum = client.query(f"SELECT count(), sum(cityHash64(tuple(*))) FROM ({select})").result_rows[0]
    return rows, checksum


def difference(client: Client, layout: Layout, database: str, *, late: bool = False) -> list[str]:
    """
    How the target's window differs from the truth: a line for what is lost, doubled or otherwise wrong.

    *late*: rows have arrived in the source since; each may be in the target once, or not.
    """
    kind = KINDS[layout.kind]
    window = f"{layout.window} AND uid < {_LATE}" if late else layout.window
    found, wanted = (kind.meaning.format(table=f"{database}.{name}", window=window) for name in _PAIR)
    problems = _by_key(client, kind, found, wanted)
    if late:
        arrived = f"SELECT * FROM {database}.{{}} WHERE uid >= {_LATE} AND {layout.window}"
        query = f"SELECT count(), uniqExact(uid), countIf(tuple(*) NOT IN ({arrived.format('source')}))"
        rows, ids, strange = client.query(f"{query} FROM ({arrived.format('target')})").result_rows[0]
        if rows != ids or strange:
            problems.append(f"doubled: {rows} late rows with {ids} ids in the target, {strange} are not of the source")
    if not problems and not layout.merges:
        # Before any merge, a row that came twice is seen even where merging would hide it.
        raw = [content(client, f"SELECT * FROM {database}.{name} WHERE {window}") for name in _PAIR]
        if kind.one_to_one and raw[0] != raw[1]:
            word = "doubled" if raw[0][0] > raw[1][0] else "lost" if raw[0][0] < raw[1][0] else "wrong"
            problems.append(f"{word}: before merges the target has {raw[0]}, the truth {raw[1]} (rows, checksum)")
        elif not kind.one_to_one and raw[0][0] != raw[1][0]:
            problems.append(f"doubled: {raw[0][0]} partial rows in the target, {raw[1][0]} in the truth")
    return problems


def same_as_source(client: Client, database: str, layout: Layout) -> bool:
    """Whether the target of a plain copy holds in the window what the source has there now."""
    target, source = (content(client, f"SELECT * FROM {database}.{name} WHERE {layout.window}") for name in _SOURCES)
    return target == source


def same_as_truth(client: Client, database: str, layout: Layout) -> bool:
    """Whether the target's window means the same as the truth's, once merged."""
    meaning = KINDS[layout.kind].meaning
    target, truth = (
        content(client, meaning.format(table=f"{database}.{name}", window=layout.window)) for name in _PAIR
    )
    return target == truth


def spoil(client: Client, layout: Layout, database: str, how: str) -> None:
    """Make a row of the window wrong: ``delete`` one key of it, or ``double`` what one key has."""
    kind = KINDS[layout.kind]
    meaning = kind.meaning.format(table=f"{database}.target", window=layout.window)
    key = client.query(f"SELECT cityHash64({kind.key}) AS hash FROM ({meaning}) ORDER BY hash LIMIT 1").result_rows
    if not key:
        return
    where = f"{layout.window} AND cityHash64({kind.key}) = {key[0][0]}"
    table = f"{database}.target"
    if how == "delete":
        client.command(f"ALTER TABLE {table} DELETE WHERE {where} SETTINGS mutations_sync = 2")
    else:
        settings = {"optimize_on_insert": 0, "insert_deduplicate": 0}
        client.command(f"INSERT INTO {table} SELECT * FROM {table} WHERE {where}", settings=settings)


_PAIR = ("target", "truth")
_SOURCES = ("target", "source")


def _by_key(client: Client, kind: Kind, found: str, wanted: str) -> list[str]:
    if content(client, found) == content(client, wanted):
        return []
    query = (
        "SELECT key, a, b FROM"
        f" (SELECT toString({kind.key}) AS key, toString(tuple(*)) AS a FROM ({found})) AS f FULL JOIN"
        f" (SELECT toString({kind.key}) AS key, toString(tuple(*)) AS b FROM ({wanted})) AS w USING (key)"
        " WHERE isNull(a) OR isNull(b) OR a != b ORDER BY key LIMIT 100000"
    )
    rows: list[tuple[Any, ...]] = [
        tuple(row) for row in client.query(query, settings={"join_use_nulls": 1}).result_rows
    ]
    lost = [row for row in rows if row[1] is None]
    extra = [row for row in rows if row[2] is None]
    changed = [row for row in rows if row[1] is not None and row[2] is not None]
    problems = []
    for word, some in (("lost", lost), ("extra", extra), ("doubled", changed)):
        if some:
            sample = "; ".join(f"{key}: target {a}, truth {b}" for key, a, b in some[:3])
            problems.append(f"{word}: {len(some)} keys, such as {sample}")
    return problems or ["wrong: the sums differ, no key does"]
