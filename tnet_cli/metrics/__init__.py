"""Metrics with confidence intervals, from arrays."""
