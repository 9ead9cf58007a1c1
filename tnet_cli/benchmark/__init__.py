"""Measure what attending costs, beside reading every tile."""
