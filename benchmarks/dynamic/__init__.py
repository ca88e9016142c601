"""Several exits in one file: heads and their answers, gates and thresholds, real files, and their rows."""
