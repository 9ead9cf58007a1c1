"""Where on a slide tissue is, and the regions that cover it: from a thumbnail alone, whoever read it."""
