"""Hot paths timed by pytest-benchmark, each beside a reference of its run; `main` holds the ratios to a baseline."""
