"""Parts that benchmarks share: files to measure, clocks, memory, profiles, and results."""
