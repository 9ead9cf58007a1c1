"""Checkpoints of the authors' TensorFlow code, read without TensorFlow."""
