"""Each module measures something beside a baseline in the same run; ``python -m benchmarks`` runs them."""
