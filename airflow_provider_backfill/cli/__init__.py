"""The command line ``clickhouse-backfill``."""
