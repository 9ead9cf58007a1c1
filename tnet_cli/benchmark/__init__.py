"""Measure what attending costs, beside looking at every cell."""
