"""Tiny synthetic slides to train on."""

from tests.tiny_training import one_thread, tiny_inputs, tiny_slides

__all__ = ["one_thread", "tiny_inputs", "tiny_slides"]
