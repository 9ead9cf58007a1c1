"""Distillation: a model that says what a patch model would of every tile, from one or two per cent of them."""
