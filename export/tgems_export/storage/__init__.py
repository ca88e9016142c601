"""Files that the workstation writes: atomically, with digests, and in a cache."""
