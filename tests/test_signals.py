"""SIGTERM and Ctrl-C."""

import importlib
import os
import signal
import threading

import pytest

from ark_hf.signals import ended_by_signals, handled_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_block_which_clears_up(number, capsys):
    before, cleared = signal.getsignal(number), []
    with pytest.raises(SystemExit) as left, ended_by_signals("the same command goes on."):
        try:
            os.kill(os.getpid(), number)
        finally:
            cleared.append(True)
    assert left.value.code == 128 + number and cleared and signal.getsignal(number) == before
    assert capsys.readouterr().err == f"\n{number.name}: the same command goes on.\n"


def test_other_threads_are_left_as_they_are():
    def run():
        with handled_signals(print):
            assert signal.getsignal(signal.SIGTERM) == usual
        done.append(True)

    usual, done = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert done


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_verb_that_is_stopped_says_so_without_a_traceback(number, monkeypatch, capsys):
    command = importlib.import_module("ark_hf.cli.main")  # by whose name the package means the function
    monkeypatch.setattr(command, "_function", lambda verb: lambda argv: os.kill(os.getpid(), number))
    try:
        status = command.main(["predict"])
    except SystemExit as left:
        status = left.code
    assert status == 128 + number and "ark-hf predict is stopped." in capsys.readouterr().err
