"""Share code among operators, sensors and triggers: sessions, fields, links, lineage, log lines."""
