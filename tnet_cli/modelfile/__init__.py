"""Model files: tensors and a card; found, read, written, listed, exported, imported."""
