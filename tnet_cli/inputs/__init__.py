"""What the user gives: slides, folders, manifests, annotations."""
