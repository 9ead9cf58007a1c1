"""Evaluation: how good a model is on labelled slides, how sure that is, and what its attention is worth."""
