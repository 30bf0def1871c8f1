"""
Runs under attack: a real server, real command lines, and faults drawn from a seed.

``python -m tests.system.faults --seeds 1000`` is the campaign, ``--matrix`` the matrix of
targets, write modes and faults; pytest runs a short form of both.
"""
