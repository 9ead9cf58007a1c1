"""What is shown of a result: overlay and GeoJSON, as values. Writes no file."""
