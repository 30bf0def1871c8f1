"""Tests, by tier: unit, clickhouse, cluster, airflow, system."""
