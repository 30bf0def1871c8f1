"""Implement the commands, one per file. Only here does core meet disk and server."""
