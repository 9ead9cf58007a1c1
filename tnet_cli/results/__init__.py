"""A run on disk: what each slide gives, the tables, what need not be done again, and the page of a run."""
