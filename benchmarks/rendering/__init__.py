"""Tables and plots from the JSON that benchmarks write: the only place that knows what a page looks like."""
