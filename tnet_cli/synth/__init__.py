"""Procedural H&E-like slides, rendered tile by tile. Writes no file."""
