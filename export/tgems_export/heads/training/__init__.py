"""Training of every kind of head, and the health of its result."""
