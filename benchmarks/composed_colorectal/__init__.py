"""Slides composed of real colorectal tiles of two collections."""
