"""TNet: the paper's modules, one file each, and the traversal. Knows no files."""
