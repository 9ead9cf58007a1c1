"""From an open slide to an answer: what to read, how the traversals of many slides are driven, what comes of each."""
