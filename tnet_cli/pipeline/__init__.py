"""Where slides, model and report meet; the only place that writes files."""
