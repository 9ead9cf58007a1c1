"""Slides over which the process that reads them dies, also in processes that a run starts."""

from pathlib import Path

import pytest

HOOK = """
import os, sys, threading

def end(event, arguments):
    # Not when it is only looked for: in the threads that read slides, and those of a cluster's workers.
    if event == "open" and "fatal" in str(arguments[0]) and threading.current_thread().name.startswith("tnet-read"):
        os.abort()

sys.addaudithook(end)
"""


def make_slides_fatal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have processes that are started from here on abort when they read a slide with ``fatal`` in its path."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(HOOK)
    monkeypatch.setenv("PYTHONPATH", f"{folder}:{Path(__file__).resolve().parents[1]}")
