"""What benchmarks share: files to measure, clocks, memory, profiles, and how a result is kept."""
