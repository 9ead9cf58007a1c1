"""Objects behind URLs, read by ranges: it knows servers and what goes wrong on the way to them, and no slides."""
