"""Tests, by tier: unit, clickhouse, airflow, system."""
