"""Shared parts of operators, sensors and triggers: sessions, fields, links, lineage, log lines."""
