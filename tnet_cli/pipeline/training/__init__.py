"""Training: a pool of annotated patches for the warm-up, then the paper's objective on whole slides."""
