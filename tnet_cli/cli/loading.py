"""Imports of torch and all that goes with it, in the least time."""

import gc
import sys
from importlib import import_module


def load(room: str) -> None:
    """Import what a command needs without looking for garbage, and never look at what was imported again.

    Importing makes some 350 000 objects that live to the end. The collector would go through them again and again
    meanwhile, and once more when Python ends: together a quarter of what ``import torch`` takes.

    Args:
        room: The module that has it all, below ``tnet_cli``.
    """
    # In a process that goes on to other things, what is garbage by now must not be kept for ever.
    is_first = "torch" not in sys.modules and gc.isenabled()
    if is_first:
        gc.disable()
    try:
        import_module(f"tnet_cli.{room}")
    finally:
        if is_first:
            gc.freeze()
            gc.enable()
