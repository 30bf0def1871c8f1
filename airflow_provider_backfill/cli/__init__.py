"""Implement the command line ``clickhouse-backfill``."""
