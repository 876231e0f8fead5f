"""The end of a process that is asked to end while Python itself waits for a thread."""

import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no such signals")

HANGS = 120  # seconds, after which a process counts as hanging
SCRIPT = """
import signal, sys, threading, time
from cafe_cli.system.interrupts import end_on_signals

signal.signal(signal.SIGINT, signal.default_int_handler)
waited_for = threading.Thread(target=time.sleep, args=(900,))
try:
    with end_on_signals(lambda number: print("ended", flush=True)):
        waited_for.start()
        print("in", flush=True)
        {wait}
except (KeyboardInterrupt, SystemExit):
    print("cleaned up", flush=True)
{after}
"""
WITHIN = SCRIPT.format(wait="time.sleep(900)", after="")
AFTER = SCRIPT.format(wait="", after='print("after", flush=True)')


def run(script: str, *events: str | int) -> tuple[int, str]:
    """Run a script; wait for lines and send signals in turn. Return its exit code and its rest."""
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    for event in events:
        if isinstance(event, int):
            process.send_signal(event)
        else:
            assert process.stdout.readline() == f"{event}\n"
    said = process.communicate(timeout=HANGS)[0]
    return process.returncode, said


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_thread_that_python_waits_for_holds_up_no_signal(number, code):
    assert run(WITHIN, "in", number, "cleaned up") == (code, "ended\n")


def test_a_second_ctrl_c_at_the_end_of_python_ends_at_once():
    events = ("in", signal.SIGTERM, "cleaned up", signal.SIGINT)
    assert run(WITHIN, *events) == (143, "ended\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_command_ends_at_once_and_says_nothing(number):
    assert run(AFTER, "in", "after", number) == (-number, "")
