"""Interrupts that are held back while a step is taken."""

import signal
from collections.abc import Iterator
from types import FrameType

import pytest

from tnet_cli.errors import TerminatedError
from tnet_cli.learning.interruption import Interruption


@pytest.fixture
def received() -> Iterator[list[int]]:
    """Signals that a command has received, each of which it raises."""
    numbers: list[int] = []

    def interrupt(number: int, _frame: FrameType | None) -> None:
        numbers.append(number)
        raise TerminatedError(number)

    before = signal.signal(signal.SIGTERM, interrupt)
    yield numbers
    signal.signal(signal.SIGTERM, before)


def test_the_first_signal_is_held_back_and_acts_when_it_is_let(received):
    interruption = Interruption()
    with interruption.held_back():
        signal.raise_signal(signal.SIGTERM)
        assert interruption.requested == signal.SIGTERM
        assert received == []
    with pytest.raises(TerminatedError) as ended:
        interruption.act(interruption.requested)
    assert ended.value.signal == signal.SIGTERM
    assert received == [signal.SIGTERM]


def test_a_second_signal_acts_at_once_and_both_are_counted(received):
    interruption = Interruption()
    with interruption.held_back():
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(TerminatedError):
            signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM, signal.SIGTERM]


def test_afterwards_signals_do_what_they_did(received):
    with Interruption().held_back():
        pass
    with pytest.raises(TerminatedError):
        signal.raise_signal(signal.SIGTERM)
    assert received == [signal.SIGTERM]


def test_a_signal_that_reached_another_process_interrupts_this_one_too():
    with pytest.raises(KeyboardInterrupt):
        Interruption().act(signal.SIGINT)
