"""
Shapes of tables and views from public projects, reduced to the relevant parts and in the project's own words.

``AT`` is the time of a row, every five minutes of three days. A source is its columns, its engine and what fills it; a
target without columns is like its source. A case is filled by its view, by its SELECT, or as a copy.
"""

# ruff: noqa: E501, ISC004 - a definition a line
from __future__ import annotations

from typing import Any, NamedTuple

AT = "(toDateTime('2025-01-01', 'UTC') + number * 300)"


class Case(NamedTuple):
    """
    One schema of one project.

    Attributes:
        sources: By name, columns with engine, and the values of a row.
        target: Columns with engine; empty for a table like the only source.
        select: Of the view; empty for a copy.
        as_select: Whether the user passes it, since the project has no such view.
        flags: What else is passed to plan.
        refused: What a refusal must say; empty when it must be right.
        why: In the table of the docs.
    """

    project: str
    name: str
    sources: dict[str, tuple[str, str]]
    target: str = ""
    select: str = ""
    as_select: bool = False
    flags: dict[str, Any] = {}  # noqa: RUF012 - nobody changes it
    refused: str = ""
    why: str = ""


_OTEL_LOGS = (
    "(Timestamp DateTime64(9), TimestampTime DateTime DEFAULT toDateTime(Timestamp), TraceId String, ServiceName LowCardinality(String), Body String, LogAttributes Map(LowCardinality(String), String), INDEX b Body TYPE tokenbf_v1(32768, 3, 0))"
    " ENGINE = MergeTree PARTITION BY toDate(TimestampTime) PRIMARY KEY (ServiceName, TimestampTime) ORDER BY (ServiceName, TimestampTime, Timestamp)",
    "toDateTime64({at}, 9), {at}, hex(number), concat('s', toString(number % 3)), 'body', map('k', toString(number))",
)
_OTEL_TRACES = (
    "(Timestamp DateTime64(9), TraceId String, SpanId String, ServiceName LowCardinality(String), Duration UInt64, `Events.Timestamp` Array(DateTime64(9)), `Events.Name` Array(LowCardinality(String)))"
    " ENGINE = MergeTree PARTITION BY toDate(Timestamp) ORDER BY (ServiceName, toDateTime(Timestamp))",
    "toDateTime64({at}, 9), hex(intDiv(number, 4)), hex(number), concat('s', toString(number % 3)), number, [toDateTime64({at}, 9)], ['e']",
)
_EVENTS = (
    "(ts DateTime('UTC'), user_id UInt64, kind LowCardinality(String), amount Int64) ENGINE = MergeTree PARTITION BY toYYYYMM(ts) ORDER BY (kind, ts)",
    "{at}, number % 40, ['a', 'b', 'c'][1 + number % 3], number",
)
_HITS = (
    "(WatchID UInt64, EventDate Date, EventTime DateTime('UTC'), CounterID UInt32, UserID UInt64, URL String, IsRefresh UInt8)"
    " ENGINE = MergeTree PARTITION BY toYYYYMM(EventDate) ORDER BY (CounterID, EventDate, intHash32(UserID)) SAMPLE BY intHash32(UserID)",
    "number, toDate({at}), {at}, number % 5, number % 60, concat('/', toString(number % 7)), number % 2",
)
_SESSIONS = (
    "(session_id UInt64, sign Int8, start DateTime('UTC'), timestamp DateTime('UTC'), pageviews Int32) ENGINE = VersionedCollapsingMergeTree(sign, pageviews) PARTITION BY toYYYYMM(start) ORDER BY (toDate(start), session_id)",
    "number, 1, {at}, {at}, 1",
)

CASES = (
    Case("OpenTelemetry exporter", "logs", {"otel_logs": _OTEL_LOGS}, flags={"time_column": "Timestamp"}),
    Case("OpenTelemetry exporter", "traces", {"otel_traces": _OTEL_TRACES}),
    Case(
        "OpenTelemetry exporter",
        "first and last span of a trace",
        {"otel_traces": _OTEL_TRACES},
        "(TraceId String, Start SimpleAggregateFunction(min, DateTime64(9)), End SimpleAggregateFunction(max, DateTime64(9))) ENGINE = AggregatingMergeTree ORDER BY TraceId",
        "SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End FROM otel_traces GROUP BY TraceId",
    ),
    Case(
        "OpenTelemetry exporter",
        "first and last span, kept in a MergeTree",
        {"otel_traces": _OTEL_TRACES},
        "(TraceId String, Start DateTime64(9), End DateTime64(9)) ENGINE = MergeTree ORDER BY TraceId",
        "SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End FROM otel_traces GROUP BY TraceId",
        refused="Each chunk would give its own",
        why="a trace that two chunks see has two rows",
    ),
    Case(
        "OpenTelemetry exporter",
        "gauge",
        {
            "gauge": (
                "(TimeUnix DateTime64(9), MetricName String, Attributes Map(LowCardinality(String), String), Value Float64, Flags UInt32) ENGINE = MergeTree PARTITION BY toDate(TimeUnix) ORDER BY (MetricName, Attributes, toUnixTimestamp64Nano(TimeUnix))",
                "toDateTime64({at}, 9), 'cpu', map('h', 'x'), number / 8, 0",
            )
        },
    ),
    Case(
        "OpenTelemetry exporter",
        "exponential histogram",
        {
            "histogram": (
                "(TimeUnix DateTime64(9), MetricName String, Count UInt64, BucketCounts Array(UInt64), ExplicitBounds Array(Float64)) ENGINE = MergeTree PARTITION BY toDate(TimeUnix) ORDER BY (MetricName, toUnixTimestamp64Nano(TimeUnix))",
                "toDateTime64({at}, 9), 'm', number, [number, 1], [0.5]",
            )
        },
    ),
    Case(
        "SigNoz",
        "logs in nanoseconds",
        {
            "logs_v2": (
                "(ts_bucket_start UInt64, timestamp UInt64, id String, body String, resources_string Map(LowCardinality(String), String)) ENGINE = MergeTree PARTITION BY toDate(timestamp / 1000000000) ORDER BY (ts_bucket_start, timestamp, id)",
                "intDiv(toUInt64(toUnixTimestamp({at})), 1800) * 1800, toUInt64(toUnixTimestamp({at})) * 1000000000, hex(number), 'b', map()",
            )
        },
        flags={"time_column": "timestamp", "time_unit": "ns"},
    ),
    Case(
        "SigNoz",
        "samples in milliseconds",
        {
            "samples_v4": (
                "(metric_name LowCardinality(String), fingerprint UInt64, unix_milli Int64, value Float64) ENGINE = MergeTree PARTITION BY toDate(unix_milli / 1000) ORDER BY (metric_name, fingerprint, unix_milli)",
                "'m', number % 5, toInt64(toUnixTimestamp({at})) * 1000, number",
            )
        },
        "(metric_name LowCardinality(String), fingerprint UInt64, unix_milli Int64, last SimpleAggregateFunction(anyLast, Float64), min SimpleAggregateFunction(min, Float64), max SimpleAggregateFunction(max, Float64), sum SimpleAggregateFunction(sum, Float64), count SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree ORDER BY (metric_name, fingerprint, unix_milli)",
        "SELECT metric_name, fingerprint, intDiv(unix_milli, 300000) * 300000 AS unix_milli, anyLast(value) AS last, min(value) AS min, max(value) AS max, sum(value) AS sum, count() AS count FROM samples_v4 GROUP BY metric_name, fingerprint, unix_milli",
        flags={"time_column": "unix_milli", "time_unit": "ms"},
    ),
    Case(
        "PostHog",
        "events",
        {
            "events": (
                "(uuid UUID, event String, properties String, timestamp DateTime64(6, 'UTC'), team_id Int64, distinct_id String, _timestamp DateTime) ENGINE = ReplacingMergeTree(_timestamp) PARTITION BY toYYYYMM(timestamp) ORDER BY (team_id, toDate(timestamp), event, cityHash64(distinct_id), cityHash64(uuid)) SAMPLE BY cityHash64(distinct_id)",
                "reinterpretAsUUID(number), 'e', '{{}}', toDateTime64({at}, 6), 1, toString(number % 9), {at}",
            )
        },
        flags={"time_column": "timestamp"},
    ),
    Case(
        "PostHog",
        "raw sessions",
        {
            "events": (
                "(timestamp DateTime64(6, 'UTC'), team_id Int64, session UInt64, url String) ENGINE = MergeTree ORDER BY timestamp",
                "toDateTime64({at}, 6), 1, intDiv(number, 12), toString(number)",
            )
        },
        "(team_id Int64, session UInt64, min_timestamp SimpleAggregateFunction(min, DateTime64(6, 'UTC')), max_timestamp SimpleAggregateFunction(max, DateTime64(6, 'UTC')), urls SimpleAggregateFunction(groupUniqArrayArray, Array(String)), entry AggregateFunction(argMin, String, DateTime64(6, 'UTC')), views SimpleAggregateFunction(sum, Int64)) ENGINE = AggregatingMergeTree ORDER BY (team_id, session)",
        "SELECT team_id, session, min(timestamp) AS min_timestamp, max(timestamp) AS max_timestamp, groupUniqArray(url) AS urls, argMinState(url, timestamp) AS entry, toInt64(count()) AS views FROM events GROUP BY team_id, session",
    ),
    Case(
        "PostHog",
        "persons by version",
        {
            "person": (
                "(id UUID, created_at DateTime64(3), team_id Int64, properties String, version UInt64, is_deleted UInt8) ENGINE = ReplacingMergeTree(version) ORDER BY (team_id, id)",
                "reinterpretAsUUID(number % 50), toDateTime64({at}, 3), 1, toString(number), number, 0",
            )
        },
    ),
    Case(
        "PostHog",
        "app metrics",
        {
            "metrics": (
                "(timestamp DateTime64(6, 'UTC'), team_id Int64, count Int64) ENGINE = MergeTree ORDER BY timestamp",
                "toDateTime64({at}, 6), number % 3, number",
            )
        },
        "(team_id Int64, timestamp DateTime64(6, 'UTC'), count SimpleAggregateFunction(sum, Int64)) ENGINE = AggregatingMergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (team_id, timestamp)",
        "SELECT team_id, toStartOfHour(timestamp) AS timestamp, sum(count) AS count FROM metrics GROUP BY team_id, timestamp",
    ),
    Case(
        "Plausible",
        "events",
        {
            "events_v2": (
                "(timestamp DateTime CODEC(Delta(4), LZ4), name LowCardinality(String), site_id UInt64, user_id UInt64, session_id UInt64, `meta.key` Array(String), `meta.value` Array(String)) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) PRIMARY KEY (site_id, toDate(timestamp), name, user_id) ORDER BY (site_id, toDate(timestamp), name, user_id, timestamp) SAMPLE BY user_id",
                "{at}, 'pageview', 1, number % 9, number, ['a'], ['b']",
            )
        },
    ),
    Case("Plausible", "sessions that collapse", {"sessions_v2": _SESSIONS}, flags={"time_column": "start"}),
    Case(
        "Langfuse",
        "traces",
        {
            "traces": (
                "(id String, timestamp DateTime64(3), name String, metadata Map(LowCardinality(String), String), project_id String, event_ts DateTime64(3), is_deleted UInt8) ENGINE = ReplacingMergeTree(event_ts, is_deleted) PARTITION BY toYYYYMM(timestamp) PRIMARY KEY (project_id, toDate(timestamp)) ORDER BY (project_id, toDate(timestamp), id)",
                "hex(number), toDateTime64({at}, 3), 'n', map('a', 'b'), 'p', toDateTime64({at}, 3), number % 50 = 0",
            )
        },
        flags={"time_column": "timestamp"},
    ),
    Case(
        "Langfuse",
        "observations, usage summed a day",
        {
            "observations": (
                "(id String, start_time DateTime64(3), project_id String, usage_details Map(String, UInt64)) ENGINE = MergeTree ORDER BY (project_id, start_time)",
                "hex(number), toDateTime64({at}, 3), toString(number % 2), map('in', number, 'out', 1)",
            )
        },
        "(project_id String, day Date, usage SimpleAggregateFunction(sumMap, Map(String, UInt64))) ENGINE = AggregatingMergeTree ORDER BY (project_id, day)",
        "SELECT project_id, toDate(start_time, 'UTC') AS day, sumMap(usage_details) AS usage FROM observations GROUP BY project_id, day",
    ),
    Case(
        "Sentry snuba",
        "errors",
        {
            "errors": (
                "(project_id UInt64, timestamp DateTime, event_id UUID, tags Nested(key String, value String), retention_days UInt16, deleted UInt8, INDEX t tags.key TYPE bloom_filter) ENGINE = ReplacingMergeTree(deleted) PARTITION BY (retention_days, toMonday(timestamp)) ORDER BY (project_id, toStartOfDay(timestamp), cityHash64(event_id)) SAMPLE BY cityHash64(event_id)",
                "1, {at}, reinterpretAsUUID(number), ['k'], ['v'], 90, 0",
            )
        },
    ),
    Case(
        "Sentry snuba",
        "hourly sessions",
        {
            "sessions_raw": (
                "(started DateTime, org_id UInt64, session_id UUID, quantity UInt32, status UInt8) ENGINE = MergeTree PARTITION BY toMonday(started) ORDER BY (org_id, started)",
                "{at}, 1, reinterpretAsUUID(number % 100), 1, number % 3",
            )
        },
        "(org_id UInt64, started DateTime, sessions AggregateFunction(countIf, UUID, UInt8), users AggregateFunction(uniqIf, UUID, UInt8), duration AggregateFunction(avg, UInt32)) ENGINE = AggregatingMergeTree PARTITION BY toMonday(started) ORDER BY (org_id, started)",
        "SELECT org_id, toStartOfHour(started) AS started, countIfState(session_id, status = 0) AS sessions, uniqIfState(session_id, status != 2) AS users, avgState(quantity) AS duration FROM sessions_raw GROUP BY org_id, started",
    ),
    Case(
        "Vector",
        "logs as JSON",
        {
            "logs": (
                "(timestamp DateTime64(3), host String, message String, fields JSON) ENGINE = MergeTree PARTITION BY toDate(timestamp) ORDER BY (host, timestamp)",
                "toDateTime64({at}, 3), 'h', 'm', concat('{{\"a\": ', toString(number), '}}')",
            )
        },
    ),
    Case(
        "Fluent Bit",
        "log as one text",
        {
            "fluent": (
                "(date Float64, log String) ENGINE = MergeTree ORDER BY date",
                "toUnixTimestamp({at}) + 0.25, concat('{{\"m\": ', toString(number), '}}')",
            )
        },
        flags={"time_column": "fromUnixTimestamp64Milli(toInt64(date * 1000), 'UTC')"},
    ),
    Case(
        "Fluentd",
        "time only in the text",
        {
            "fluentd": (
                "(log String) ENGINE = MergeTree ORDER BY tuple()",
                "concat(toString({at}), ' message ', toString(number))",
            )
        },
        flags={"time_column": "parseDateTimeBestEffort(substring(log, 1, 19), 'UTC')"},
    ),
    Case(
        "Airbyte",
        "raw tables",
        {
            "raw": (
                "(_airbyte_raw_id String, _airbyte_extracted_at DateTime64(3, 'GMT'), _airbyte_loaded_at Nullable(DateTime64(3, 'GMT')), _airbyte_data String) ENGINE = ReplacingMergeTree ORDER BY _airbyte_raw_id",
                "hex(number), toDateTime64({at}, 3), NULL, '{{}}'",
            )
        },
        flags={"time_column": "_airbyte_extracted_at"},
    ),
    Case(
        "Airbyte",
        "typed from raw JSON",
        {
            "raw": (
                "(_airbyte_extracted_at DateTime64(3, 'GMT'), _airbyte_data String) ENGINE = MergeTree ORDER BY _airbyte_extracted_at",
                "toDateTime64({at}, 3), concat('{{\"id\": ', toString(number), '}}')",
            )
        },
        "(id UInt64, at DateTime64(3)) ENGINE = MergeTree ORDER BY id",
        "SELECT JSONExtractUInt(_airbyte_data, 'id') AS id, _airbyte_extracted_at AS at FROM raw",
        as_select=True,
    ),
    Case(
        "dbt",
        "incremental model without its watermark",
        {"ev": _EVENTS},
        "(day Date, kind String, n UInt64) ENGINE = MergeTree ORDER BY (kind, day)",
        "SELECT toDate(ts) AS day, kind, count() AS n FROM ev GROUP BY day, kind",
        as_select=True,
    ),
    Case(
        "dbt",
        "incremental model with its watermark",
        {"ev": _EVENTS},
        "(ts DateTime('UTC'), user_id UInt64) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, user_id FROM ev WHERE ts > (SELECT max(ts) FROM dst)",
        as_select=True,
        flags={"filter": "ev"},
        refused="the target itself",
        why="what a chunk gives would depend on the chunks before it",
    ),
    Case(
        "dbt",
        "snapshot by row_number",
        {"ev": _EVENTS},
        "(user_id UInt64, ts DateTime('UTC')) ENGINE = MergeTree ORDER BY user_id",
        "SELECT user_id, ts FROM (SELECT *, row_number() OVER (PARTITION BY user_id ORDER BY ts DESC) AS n FROM ev) WHERE n = 1",
        as_select=True,
        refused="window function",
        why="the last row of a user is that of one chunk only",
    ),
    Case("ClickHouse docs", "hits", {"hits": _HITS}, flags={"time_column": "EventTime"}),
    Case("ClickHouse docs", "hits by date", {"hits": _HITS}, flags={"time_column": "EventDate"}),
    Case(
        "ClickHouse docs",
        "visits of hits a day",
        {"hits": _HITS},
        "(CounterID UInt32, StartDate Date, Visits AggregateFunction(sum, UInt8), Users AggregateFunction(uniq, UInt64)) ENGINE = AggregatingMergeTree ORDER BY (CounterID, StartDate)",
        "SELECT CounterID, EventDate AS StartDate, sumState(IsRefresh) AS Visits, uniqState(UserID) AS Users FROM hits GROUP BY CounterID, StartDate",
        flags={"time_column": "EventTime"},
    ),
    Case(
        "ClickHouse docs",
        "uk_price_paid",
        {
            "uk_price_paid": (
                "(price UInt32, date Date, postcode1 LowCardinality(String), type Enum8('terraced' = 1, 'flat' = 4, 'other' = 0), is_new UInt8, PROJECTION p (SELECT toYear(date), postcode1, avg(price), count() GROUP BY toYear(date), postcode1)) ENGINE = MergeTree ORDER BY (postcode1, date)",
                "number, toDate({at}), toString(number % 9), 'flat', 0",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "taxi trips",
        {
            "trips": (
                "(trip_id UInt32, pickup_datetime DateTime, dropoff_datetime DateTime, pickup_longitude Nullable(Float64), fare Float32, payment Enum('CSH' = 1, 'CRE' = 2)) ENGINE = MergeTree PARTITION BY toYYYYMM(pickup_datetime) ORDER BY pickup_datetime",
                "number, {at}, {at} + 900, if(number % 4 = 0, NULL, number), number / 4, 'CRE'",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "github_events",
        {
            "github_events": (
                "(event_type Enum('CommitCommentEvent' = 1, 'CreateEvent' = 2), actor_login LowCardinality(String), repo_name LowCardinality(String), created_at DateTime, labels Array(LowCardinality(String))) ENGINE = MergeTree ORDER BY (event_type, repo_name, created_at)",
                "'CreateEvent', toString(number % 9), 'r', {at}, ['l']",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "stars a repository",
        {
            "github_events": (
                "(repo_name String, created_at DateTime, event_type String) ENGINE = MergeTree ORDER BY (repo_name, created_at)",
                "toString(number % 9), {at}, ['WatchEvent', 'PushEvent'][1 + number % 2]",
            )
        },
        "(repo_name String, stars UInt64) ENGINE = SummingMergeTree ORDER BY repo_name",
        "SELECT repo_name, count() AS stars FROM github_events WHERE event_type = 'WatchEvent' GROUP BY repo_name",
    ),
    Case(
        "ClickHouse docs",
        "ontime",
        {
            "ontime": (
                "(Year UInt16, FlightDate Date, Carrier FixedString(7), DepDelay Int32) ENGINE = MergeTree PARTITION BY Year ORDER BY (Carrier, FlightDate)",
                "toYear({at}), toDate({at}), toFixedString('AA', 7), number",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "stackoverflow posts",
        {
            "posts": (
                "(Id Int32, CreationDate DateTime64(3, 'UTC'), Score Int32, Body String, Tags String) ENGINE = MergeTree PARTITION BY toYear(CreationDate) ORDER BY (CreationDate)",
                "number, toDateTime64({at}, 3), number, 'b', 't'",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "votes a day",
        {
            "votes": (
                "(Id UInt32, PostId Int32, VoteTypeId UInt8, CreationDate DateTime64(3, 'UTC')) ENGINE = MergeTree ORDER BY (VoteTypeId, CreationDate)",
                "number, number % 9, 2 + number % 2, toDateTime64({at}, 3)",
            )
        },
        "(Day Date, UpVotes UInt32, DownVotes UInt32) ENGINE = SummingMergeTree ORDER BY Day",
        "SELECT toDate(CreationDate) AS Day, countIf(VoteTypeId = 2) AS UpVotes, countIf(VoteTypeId = 3) AS DownVotes FROM votes GROUP BY Day",
    ),
    Case(
        "ClickHouse docs",
        "wikistat",
        {
            "wikistat": (
                "(time DateTime CODEC(Delta, ZSTD(3)), project LowCardinality(String), path String CODEC(ZSTD(3)), hits UInt64) ENGINE = MergeTree ORDER BY (path, time)",
                "{at}, 'en', toString(number % 50), number",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "wikistat, the longest paths",
        {
            "wikistat": (
                "(time DateTime, path String, hits UInt64) ENGINE = MergeTree ORDER BY (path, time)",
                "{at}, toString(number % 50), number",
            )
        },
        "(hour DateTime, top AggregateFunction(topK(10), String)) ENGINE = AggregatingMergeTree ORDER BY hour",
        "SELECT toStartOfHour(time) AS hour, topKState(10)(path) AS top FROM wikistat GROUP BY hour",
    ),
    Case(
        "ClickHouse docs",
        "hits a day, read back by HAVING",
        {
            "wikistat": (
                "(time DateTime, path String, hits UInt64) ENGINE = MergeTree ORDER BY (path, time)",
                "{at}, toString(number % 50), number",
            )
        },
        "(path String, hits UInt64) ENGINE = SummingMergeTree ORDER BY path",
        "SELECT path, sum(hits) AS hits FROM wikistat GROUP BY path HAVING hits > 1000",
        refused="HAVING",
        why="a sum of a chunk is not that of the whole",
    ),
    Case(
        "ClickHouse docs",
        "imdb, without a time",
        {
            "roles": (
                "(actor_id UInt32, movie_id UInt32, role String) ENGINE = MergeTree ORDER BY (actor_id, movie_id)",
                "number, number, 'r'",
            )
        },
        refused="no time column",
        why="nothing places its rows in time",
    ),
    Case(
        "ClickHouse docs",
        "imdb, by when it was made",
        {
            "roles": (
                "(created_at DateTime DEFAULT now(), actor_id UInt32, role String) ENGINE = ReplacingMergeTree(created_at) ORDER BY (actor_id, role)",
                "{at}, number % 60, 'r'",
            )
        },
    ),
    Case(
        "ClickHouse docs",
        "enriched by a dimension",
        {
            "ev": _EVENTS,
            "users": ("(id UInt64, name String) ENGINE = MergeTree ORDER BY id", "number, toString(number)"),
        },
        "(ts DateTime('UTC'), name String) ENGINE = MergeTree ORDER BY ts",
        "SELECT ts, name FROM ev LEFT JOIN users ON users.id = ev.user_id",
    ),
    Case(
        "Coinbase",
        "ticks",
        {
            "ticks": (
                "(trade_id UInt64, time DateTime64(9), product LowCardinality(String), price Decimal(18, 8), side Enum('buy' = 1, 'sell' = 2)) ENGINE = ReplacingMergeTree PARTITION BY toYYYYMM(time) ORDER BY (product, time, trade_id)",
                "number, toDateTime64({at}, 9), 'BTC-USD', number, 'buy'",
            )
        },
    ),
    Case(
        "Coinbase",
        "candles as states",
        {
            "ticks": (
                "(time DateTime64(9), price Float64, volume Float64) ENGINE = MergeTree ORDER BY time",
                "toDateTime64({at}, 9), number, 1",
            )
        },
        "(minute DateTime, open AggregateFunction(argMin, Float64, DateTime64(9)), high SimpleAggregateFunction(max, Float64), low SimpleAggregateFunction(min, Float64), close AggregateFunction(argMax, Float64, DateTime64(9)), volume SimpleAggregateFunction(sum, Float64)) ENGINE = AggregatingMergeTree ORDER BY minute",
        "SELECT toStartOfHour(time) AS minute, argMinState(price, time) AS open, max(price) AS high, min(price) AS low, argMaxState(price, time) AS close, sum(volume) AS volume FROM ticks GROUP BY minute",
    ),
    Case(
        "Coinbase",
        "candles as values",
        {
            "ticks": (
                "(time DateTime64(9), price Float64) ENGINE = MergeTree ORDER BY time",
                "toDateTime64({at}, 9), number",
            )
        },
        "(hour DateTime, open Float64, close Float64) ENGINE = MergeTree ORDER BY hour",
        "SELECT toStartOfHour(time) AS hour, argMin(price, time) AS open, argMax(price, time) AS close FROM ticks GROUP BY hour",
        why="hours that no chunk cuts",
    ),
    Case(
        "Roll-ups",
        "sums a day",
        {"ev": _EVENTS},
        "(day Date, kind LowCardinality(String), n UInt64, amount Int64) ENGINE = SummingMergeTree ORDER BY (kind, day)",
        "SELECT toDate(ts) AS day, kind, count() AS n, sum(amount) AS amount FROM ev GROUP BY day, kind",
    ),
    Case(
        "Roll-ups",
        "quantiles as states",
        {"ev": _EVENTS},
        "(hour DateTime('UTC'), q AggregateFunction(quantilesTDigest(0.5, 0.9), Int64)) ENGINE = AggregatingMergeTree ORDER BY hour",
        "SELECT toStartOfHour(ts) AS hour, quantilesTDigestState(0.5, 0.9)(amount) AS q FROM ev GROUP BY hour",
    ),
    Case(
        "Roll-ups",
        "averages as values",
        {"ev": _EVENTS},
        "(kind String, mean Float64) ENGINE = AggregatingMergeTree ORDER BY kind",
        "SELECT kind, avg(amount) AS mean FROM ev GROUP BY kind",
        refused="avg",
        why="a mean of means is not the mean",
    ),
    Case(
        "Roll-ups",
        "users a month, counted",
        {"ev": _EVENTS},
        "(month Date, users UInt64) ENGINE = SummingMergeTree ORDER BY month",
        "SELECT toStartOfMonth(ts) AS month, uniqExact(user_id) AS users FROM ev GROUP BY month",
        refused="uniqExact",
        why="a user of two chunks would count twice",
    ),
    Case(
        "Roll-ups",
        "users a month, as states",
        {"ev": _EVENTS},
        "(month Date, users AggregateFunction(uniqExact, UInt64)) ENGINE = AggregatingMergeTree ORDER BY month",
        "SELECT toStartOfMonth(ts) AS month, uniqExactState(user_id) AS users FROM ev GROUP BY month",
    ),
    Case(
        "Roll-ups",
        "first seen",
        {"ev": _EVENTS},
        "(user_id UInt64, first SimpleAggregateFunction(min, DateTime('UTC'))) ENGINE = AggregatingMergeTree ORDER BY user_id",
        "SELECT user_id, min(ts) AS first FROM ev GROUP BY user_id",
    ),
    Case(
        "Roll-ups",
        "distinct users",
        {"ev": _EVENTS},
        "(user_id UInt64) ENGINE = ReplacingMergeTree ORDER BY user_id",
        "SELECT DISTINCT user_id FROM ev",
    ),
    Case(
        "Roll-ups",
        "hours of two tables",
        {"web": _EVENTS, "app": _EVENTS},
        "(hour DateTime('UTC'), n SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree ORDER BY hour",
        "SELECT hour, sum(n) AS n FROM (SELECT toStartOfHour(ts) AS hour, count() AS n FROM web GROUP BY hour UNION ALL SELECT toStartOfHour(ts) AS hour, count() AS n FROM app GROUP BY hour) GROUP BY hour",
        as_select=True,
        flags={"filter": "web,app"},
    ),
    Case(
        "Roll-ups",
        "bitmaps of users",
        {"ev": _EVENTS},
        "(day Date, users AggregateFunction(groupBitmap, UInt64)) ENGINE = AggregatingMergeTree ORDER BY day",
        "SELECT toDate(ts) AS day, groupBitmapState(user_id) AS users FROM ev GROUP BY day",
    ),
    Case(
        "Roll-ups",
        "every hour of the day",
        {"ev": _EVENTS},
        "(hour UInt8, n UInt64) ENGINE = MergeTree ORDER BY hour",
        "SELECT toHour(ts) AS hour, count() AS n FROM ev GROUP BY hour",
        refused="again",
        why="an hour of the day comes again in the next chunk",
    ),
    Case(
        "Roll-ups",
        "arrays unfolded",
        {
            "ev": (
                "(ts DateTime('UTC'), tags Array(String)) ENGINE = MergeTree ORDER BY ts",
                "{at}, ['a', toString(number % 5)]",
            )
        },
        "(day Date, tag String, n UInt64) ENGINE = SummingMergeTree ORDER BY (day, tag)",
        "SELECT toDate(ts) AS day, tag, count() AS n FROM ev ARRAY JOIN tags AS tag GROUP BY day, tag",
    ),
    Case(
        "Jaeger",
        "spans",
        {
            "spans": (
                "(timestamp DateTime CODEC(Delta, ZSTD(1)), traceID String CODEC(ZSTD(1)), service LowCardinality(String), model String) ENGINE = MergeTree PARTITION BY toDate(timestamp) ORDER BY (service, -toUnixTimestamp(timestamp))",
                "{at}, hex(number), 's', 'm'",
            )
        },
    ),
    Case(
        "Jaeger",
        "operations",
        {
            "spans": (
                "(timestamp DateTime, service String, operation String) ENGINE = MergeTree ORDER BY timestamp",
                "{at}, 's', toString(number % 4)",
            )
        },
        "(date Date, service String, operation String, count UInt64) ENGINE = SummingMergeTree PARTITION BY date ORDER BY (date, service, operation)",
        "SELECT toDate(timestamp) AS date, service, operation, count() AS count FROM spans GROUP BY date, service, operation",
    ),
    Case(
        "Uptrace",
        "spans as JSON attributes",
        {
            "spans": (
                "(project_id UInt32, time DateTime64(6), attrs JSON(status LowCardinality(String))) ENGINE = MergeTree PARTITION BY toDate(time) ORDER BY (project_id, time)",
                '1, toDateTime64({at}, 6), \'{{"status": "ok"}}\'',
            )
        },
    ),
    Case(
        "Debezium",
        "changes",
        {
            "cdc": (
                "(id UInt64, name String, _ts DateTime64(3), _version UInt64, _deleted UInt8) ENGINE = ReplacingMergeTree(_version, _deleted) ORDER BY id",
                "number % 70, toString(number), toDateTime64({at}, 3), number, number % 40 = 0",
            )
        },
    ),
    Case(
        "Graphite",
        "points",
        {
            "points": (
                "(Path LowCardinality(String), Value Float64, Time UInt32, Date Date, Timestamp UInt32) ENGINE = ReplacingMergeTree(Timestamp) PARTITION BY toYYYYMM(Date) ORDER BY (Path, Time)",
                "'p', number, toUnixTimestamp({at}), toDate({at}), number",
            )
        },
        flags={"time_column": "Time", "time_unit": "s"},
    ),
    Case(
        "Matomo",
        "actions with an IP",
        {
            "actions": (
                "(server_time DateTime, idvisit UInt64, ip IPv6, country FixedString(2)) ENGINE = MergeTree PARTITION BY toYYYYMM(server_time) ORDER BY (idvisit, server_time)",
                "{at}, number, toIPv6('::1'), 'de'",
            )
        },
    ),
    Case(
        "Umami",
        "website events",
        {
            "website_event": (
                "(website_id UUID, session_id UUID, created_at DateTime('UTC'), url_path String, PROJECTION u (SELECT * ORDER BY toStartOfDay(created_at), website_id, url_path)) ENGINE = MergeTree PARTITION BY toYYYYMM(created_at) PRIMARY KEY (toStartOfHour(created_at), website_id) ORDER BY (toStartOfHour(created_at), website_id, session_id, created_at)",
                "reinterpretAsUUID(1), reinterpretAsUUID(number % 9), {at}, '/'",
            )
        },
    ),
    Case(
        "Umami",
        "hourly events",
        {
            "website_event": (
                "(website_id UUID, session_id UUID, created_at DateTime('UTC'), url_path String) ENGINE = MergeTree ORDER BY created_at",
                "reinterpretAsUUID(1), reinterpretAsUUID(number % 9), {at}, '/'",
            )
        },
        "(website_id UUID, session_id UUID, views SimpleAggregateFunction(sum, UInt64), urls SimpleAggregateFunction(groupArrayArray, Array(String)), created_at DateTime('UTC')) ENGINE = AggregatingMergeTree ORDER BY (website_id, created_at, session_id)",
        "SELECT website_id, session_id, count() AS views, groupArray(url_path) AS urls, toStartOfHour(created_at) AS created_at FROM website_event GROUP BY website_id, session_id, created_at",
    ),
)
SHORT = {0, 2, 9, 13, 20, 41}
"""The places of those that every run plays."""


def page() -> str:
    """Return the page of the reference with the result of each shape."""
    rows = [
        f"| {case.project} | {case.name} | {_filled_by(case)} | {f'refused: {case.why}' if case.refused else 'right'} |"
        for case in CASES
    ]
    refused = sum(bool(case.refused) for case in CASES)
    return f"""# Schemas that were tried

Shapes of {len(CASES)} tables and views of public projects, cut down and in our own words. Each is planned in chunks of a day,
run, killed by SIGKILL in the middle, resumed and verified, and its content is compared with the same SELECT inserted at
once. {len(CASES) - refused} come out right. {refused} are refused by `plan`, with a way that works. `tests/clickhouse/corpus.py` has them.

| project | schema | filled by | result |
|---|---|---|---|
{chr(10).join(rows)}
"""


def _filled_by(case: Case) -> str:
    if case.select:
        return "`--select`" if case.as_select else "its view"
    column = case.flags.get("time_column", "")
    return f"`--source`, by `{column}`" if column else "`--source`"
