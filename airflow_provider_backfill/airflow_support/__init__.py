"""What operators, sensors and triggers share: sessions, fields, links, lineage, and log lines."""
