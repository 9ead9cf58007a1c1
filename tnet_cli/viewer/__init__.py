"""Look at a run in the browser."""
