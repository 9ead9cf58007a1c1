"""The paper's claim on data anyone can rebuild: one MNIST digit in a large image of fragments of other digits."""
