"""Interrupts while steps are taken: held back until a step is whole, so that a checkpoint of it can be written."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class Interruption:
    """Whether a signal has asked the run to stop.

    Attributes:
        requested: Number of the signal that was held back; 0 while there was none.
    """

    def __init__(self) -> None:
        self.requested = 0
        self._before: dict[int, Any] = {}

    @contextmanager
    def held_back(self) -> Iterator[None]:
        """Hold back the first signal that comes while the block runs; a second acts at once.

        Signals act in the main thread only: in another one nothing is held back.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        for number in SIGNALS:
            handler = signal.getsignal(number)
            if handler not in {signal.SIG_IGN, None}:
                self._before[number] = handler
                signal.signal(number, self._hold)
        try:
            yield
        finally:
            self._restore()

    def _hold(self, number: int, _frame: FrameType | None) -> None:
        if not self.requested:
            self.requested = number
            return
        self._restore()
        try:
            signal.raise_signal(self.requested)
        except KeyboardInterrupt:
            signal.raise_signal(number)  # so that whoever counts them knows of both
            raise

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before.clear()

    def act(self, number: int) -> NoReturn:
        """Do what a signal would have done: raise what its handler raises, or end the process.

        Args:
            number: Of the signal, which may have reached another process that shares the run.

        Raises:
            KeyboardInterrupt: or what the handler of the signal raises.
        """
        self._restore()
        if threading.current_thread() is threading.main_thread():
            signal.raise_signal(number)
        raise KeyboardInterrupt
