"""Distillation on slides composed of real tiles of colon: what 50 patches give of a patch model's verdict."""
