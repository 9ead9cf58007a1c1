"""Slides composed of real tiles of colon, a model trained on them, and how good and how robust it is."""
