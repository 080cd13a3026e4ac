"""The watch of a test-bed: it stands for all who share it, and goes on where it stood."""

import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dnnsplit.deployment.stage.watch import Watch, new_watch

NEVER = threading.Event()


@pytest.fixture
def pair(tmp_path):
    file = new_watch(tmp_path / "watch")
    one, other = Watch(file), Watch(file)
    yield one, other
    one.close()
    other.close()


def test_it_shows_the_time_of_this_machine_until_it_stands(pair):
    for watch in (*pair, Watch()):
        before = time.monotonic()
        assert before <= watch.now() <= time.monotonic()
    with Watch().standing():  # nobody shares it
        assert Watch().now() <= time.monotonic()


def test_it_stands_as_long_as_anybody_asks_for_it(pair):
    one, other = pair
    started = time.monotonic()
    with one.standing():
        stood = other.now()
        with other.standing():
            time.sleep(0.01)
            assert one.now() == other.now() == stood
        time.sleep(0.01)
        assert one.now() == other.now() == stood
    ended = time.monotonic()
    assert 0 <= other.now() - stood <= time.monotonic() - started - 0.02
    time.sleep(0.01)
    assert one.now() - stood >= 0.01
    with pytest.raises(KeyError), one.standing():
        raise KeyError
    assert other.now() > stood + (time.monotonic() - ended) / 2  # it goes again


def test_who_waits_waits_longer(pair):
    one, other = pair
    with ThreadPoolExecutor(1) as pool:
        with one.standing():
            until = other.now() + 0.02
            waiting = pool.submit(other.wait, NEVER, until)
            time.sleep(0.05)
            assert not waiting.done()
        waiting.result()
        assert other.now() >= until
        with one.standing():
            waiting = pool.submit(other.wait, NEVER, other.now() - 1)  # that is over, but nothing is to happen now
            time.sleep(0.02)
            assert not waiting.done()
        waiting.result()
        with one.standing():
            event = threading.Event()
            waiting = pool.submit(other.wait, event, other.now() + 60)
            event.set()
            waiting.result()
    other.wait(NEVER, other.now() - 1)  # that is over


def test_other_processes_see_it_stand(tmp_path):
    file = new_watch(tmp_path / "watch")
    watch = Watch(file)
    told = "import sys; from dnnsplit.deployment.stage.watch import Watch; print(repr(Watch(sys.argv[1]).now()))"
    with watch.standing():
        done = subprocess.run([sys.executable, "-c", told, file], capture_output=True, check=True, text=True)
        assert float(done.stdout) == watch.now()
    watch.close()
