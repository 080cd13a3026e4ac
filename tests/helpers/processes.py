"""Processes that tests start: Ctrl-C reaches them wherever the tests run, and they have ended afterwards in any case."""

import os
import signal
import subprocess
import time
from contextlib import contextmanager, suppress
from uuid import uuid4

import psutil

MARK = "DNNSPLIT_TESTS"


@contextmanager
def started(*command, **options):
    """A process in a session of its own, which ends with all of that session after the ``with`` block."""
    # a shell's background jobs ignore Ctrl-C, those of nohup the end of the terminal, and so would whatever they start
    heard = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, handler) for number, handler in heard.items()}
    try:
        process = subprocess.Popen(list(map(str, command)), start_new_session=True, text=True, **options)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    with process:  # closes its pipes, and waits
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def wait_until(condition, limit_s=60.0, otherwise=lambda: ""):
    """Wait for something to become true; return it."""
    limit = time.monotonic() + limit_s
    while not (found := condition()):
        assert time.monotonic() < limit, otherwise() or "it did not happen in time"
        time.sleep(0.05)
    return found


def is_running(pid):
    """Whether a process is there and does not merely wait for its parent to notice its end."""
    with suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


@contextmanager
def none_left():
    """Fail if what is started in the ``with`` block outlives it, whether its parent lives or not; and end it."""
    os.environ[MARK] = mark = uuid4().hex  # whoever is started inherits it
    yield
    limit = time.monotonic() + 15
    while (left := _marked(mark)) and time.monotonic() < limit:
        time.sleep(0.1)
    for process in left:
        process.kill()
    assert not left, f"processes are left: {[process.info['cmdline'] for process in left]}"


def _marked(mark):
    running = psutil.process_iter(["environ", "status", "cmdline"])
    return [p for p in running if (p.info["environ"] or {}).get(MARK) == mark and p.info["status"] != psutil.STATUS_ZOMBIE]
