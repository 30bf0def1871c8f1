"""Judge plans, runs and servers by one set of rules, for ``doctor``, ``check``, ``status`` and the page."""
