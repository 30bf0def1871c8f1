-- The tables of the how-to pages: one order a minute in the first 90 days of 2025, and a daily sum
-- whose view was made after them, so that it is empty.
CREATE DATABASE IF NOT EXISTS shop;

CREATE TABLE shop.orders
(
    ordered_at DateTime('UTC'), id UInt64, customer UInt32, amount Decimal(12, 2)
)
ENGINE = MergeTree PARTITION BY toYYYYMM(ordered_at) ORDER BY (ordered_at, id);

INSERT INTO shop.orders
SELECT toDateTime('2025-01-01', 'UTC') + number * 60, number, number % 1000, (number % 5000) / 100
FROM numbers(129600);

CREATE TABLE shop.orders_daily
(
    day Date, orders UInt64, amount Decimal(18, 2)
)
ENGINE = SummingMergeTree PARTITION BY toYYYYMM(day) ORDER BY day;

CREATE MATERIALIZED VIEW shop.orders_daily_mv TO shop.orders_daily AS
SELECT toDate(ordered_at) AS day, count() AS orders, sum(amount) AS amount
FROM shop.orders
GROUP BY day;
