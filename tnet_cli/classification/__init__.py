"""Classify slides and keep what comes of it: a whole run, in this process, in several, or on a cluster."""
