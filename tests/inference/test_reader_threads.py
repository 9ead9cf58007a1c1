"""The reading threads: who is waited for, and for how long."""

import threading
import time
from collections.abc import Iterator

import pytest

from tnet_cli.inference.reader_threads import ReaderThreads


@pytest.fixture
def threads() -> Iterator[ReaderThreads]:
    with ReaderThreads(2) as running:
        yield running


def test_a_group_is_waited_for_until_all_of_it_has_ended(threads):
    go_on = threading.Event()
    short, long = threads.submit(lambda: 1), threads.submit(lambda: go_on.wait(10))
    threads.wait([[short]], 10)
    threading.Timer(0.2, go_on.set).start()
    threads.wait([[short, long]], 10)
    assert (short.value, long.finished, long.value) == (1, True, True)


def test_one_group_is_enough_and_an_error_is_an_end(threads):
    go_on = threading.Event()
    hanging, broken = threads.submit(lambda: go_on.wait(10)), threads.submit(lambda: 1 // 0)
    started = time.monotonic()
    threads.wait([[hanging], [broken]], 10)
    assert time.monotonic() - started < 5
    assert (hanging.finished, broken.finished, type(broken.error)) == (False, True, ZeroDivisionError)
    go_on.set()


def test_waiting_comes_to_an_end_by_itself(threads):
    go_on = threading.Event()
    hanging = threads.submit(lambda: go_on.wait(10))
    started = time.monotonic()
    threads.wait([[hanging]], 0.1)
    assert 0.1 <= time.monotonic() - started < 5
    assert not hanging.finished
    go_on.set()


def test_what_has_ended_before_is_not_waited_for(threads):
    call = threads.submit(lambda: 1)
    threads.wait([[call]], 10)
    started = time.monotonic()
    threads.wait([[call]], 10)
    assert time.monotonic() - started < 5
