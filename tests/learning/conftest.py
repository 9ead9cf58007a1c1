"""Tiny synthetic slides to train on."""

from tests.tiny_training import tiny_inputs, tiny_slides

__all__ = ["tiny_inputs", "tiny_slides"]
