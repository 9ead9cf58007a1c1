"""What ``tnet bench`` measures: attending against reading everything, and against the least it could take."""
