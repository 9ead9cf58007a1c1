"""Train a model on labelled slides."""
