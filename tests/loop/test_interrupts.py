"""Signals become a wish, once."""

import os
import signal
import threading

import pytest

from trainkit.loop.interrupts import Interrupts, Waited


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1"])
def test_the_first_signal_is_remembered_and_handlers_are_put_back(name):
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with Interrupts() as interrupts:
        assert interrupts.received is None
        os.kill(os.getpid(), number)
        assert interrupts.received == name
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_stops_at_once():
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupts.received == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_nothing_is_changed():
    before, found = signal.getsignal(signal.SIGINT), []

    def work():
        with Interrupts():
            found.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [before]


def test_what_is_ignored_stays_ignored(handled):
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does it
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGHUP)
        assert interrupts.received is None


@pytest.fixture
def handled():
    """The signals that came to the handler that was there before."""
    before, came = signal.getsignal(signal.SIGHUP), []
    signal.signal(signal.SIGHUP, lambda number, frame: came.append(number))
    yield came
    signal.signal(signal.SIGHUP, before)


def test_a_signal_is_passed_on_when_all_is_done_and_ctrl_c_is_not(handled):
    for number, passed in ((signal.SIGHUP, [signal.SIGHUP]), (signal.SIGINT, [])):
        handled.clear()
        with Interrupts() as interrupts:
            os.kill(os.getpid(), number)
        assert handled == []
        interrupts.pass_on()
        assert handled == passed


def test_what_is_waited_for_ends_when_a_signal_comes_but_not_for_ctrl_c():
    with Interrupts() as interrupts:
        with interrupts.awaited():
            os.kill(os.getpid(), signal.SIGINT)
        interrupts.received = None
        with pytest.raises(Waited), interrupts.awaited():
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)  # nothing waits now
