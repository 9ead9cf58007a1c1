"""Judge a model on labelled slides."""
