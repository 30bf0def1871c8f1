"""
Measure the product. Each module measures a figure and its baseline in the same run; ``python -m
benchmarks`` runs all.
"""
