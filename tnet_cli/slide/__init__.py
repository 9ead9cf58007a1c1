"""Whole-slide images: opening, reading regions, finding tissue. Knows no torch."""
