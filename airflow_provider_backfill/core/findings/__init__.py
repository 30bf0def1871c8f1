"""Rules about plans, runs and servers: one set for ``doctor``, ``check``, ``status`` and the page."""
