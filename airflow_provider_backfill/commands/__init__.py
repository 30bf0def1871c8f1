"""Implement the commands and their shared steps. They connect the core, the state folder and ClickHouse."""
