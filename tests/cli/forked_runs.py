"""Runs ``tnet`` in forks of a process that has imported everything, so that a run can be killed in a tenth of a second.

A command is a line of JSON on stdin: ``arguments``, and when the fork is to be killed: ``after_s`` seconds, or in its
``at_step``-th step of writing. The answer is a line with the exit status; negative for a signal.
"""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch

import tnet_cli.classification.run
import tnet_cli.evaluation.run  # noqa: F401 (what a run imports is there before the first fork)
from tnet_cli.cli.app import main


class Steps:
    """Counts the steps of writing, and kills the process within one of them."""

    def __init__(self, fatal: int) -> None:
        self._fatal = fatal
        self._count = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Count a step; whether it is the fatal one."""
        with self._lock:
            self._count += 1
            return self._count == self._fatal

    def install(self) -> None:
        """Make every way in which a run changes its folder a step; half of a fatal write is still made."""
        real_write, real_bytes = os.write, Path.write_bytes

        def write(file: int, data: bytes) -> int:
            if self.take():
                real_write(file, data[: len(data) // 2])
                die()
            return real_write(file, data)

        def write_bytes(path: Path, content: bytes) -> int:
            if self.take():
                real_bytes(path, content[: len(content) // 2])
                die()
            return real_bytes(path, content)

        os.write = write  # type: ignore[assignment]
        Path.write_bytes = write_bytes  # type: ignore[assignment,method-assign]
        for name in ("rename", "replace", "mkdir"):
            self._wrap(name)

    def _wrap(self, name: str) -> None:
        real = getattr(Path, name)

        def step(path: Path, *args: Any, **kwargs: Any) -> Any:
            if self.take():
                # Before the change or just after it: both must be survived.
                if self._fatal % 2:
                    real(path, *args, **kwargs)
                die()
            return real(path, *args, **kwargs)

        setattr(Path, name, step)


def die() -> None:
    """End as by ``kill -9``."""
    os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)


def run(command: dict[str, Any]) -> int:
    """Run one command in a fork, kill it when asked to, and return its exit status."""
    child = os.fork()
    if child == 0:
        # What a run says is not what this program answers.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        if "at_step" in command:
            Steps(command["at_step"]).install()
        try:
            main(command["arguments"])
        except SystemExit as end:
            os._exit(int(end.code or 0))
        os._exit(99)
    if "after_s" in command:
        time.sleep(command["after_s"])
        os.kill(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    # No thread may exist before a fork: torch's would be missing in the child.
    torch.set_num_threads(1)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    for line in sys.stdin:
        sys.stdout.write(f"{run(json.loads(line))}\n")
        sys.stdout.flush()
