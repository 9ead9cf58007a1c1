"""Importing: checkpoints of the authors' TensorFlow code become model files, without TensorFlow."""
