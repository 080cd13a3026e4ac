"""How often a model is run, and what is known of its time then."""

import time

import numpy as np
import pytest

from dnnsplit.runtime.timing import cpu_seconds, half_width, settled, warm_up


class Session:
    """Takes given seconds in its runs, one after the other, by a clock of its own."""

    def __init__(self, *seconds):
        self.left, self.now = list(seconds), 0.0

    def run(self, outputs, feed):
        self.now += self.left.pop(0)

    def clock(self):
        return self.now


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def test_the_interval_of_a_median_by_hand():
    assert half_width([1.0, 2.0, 3.0, 4.0, 5.0]) == pytest.approx(1.82 * 2 / 5**0.5 / 3)
    assert half_width([2.0] * 9) == 0
    assert half_width([0.0] * 9) == 0


def test_the_interval_holds_the_median_in_most_of_many_samples():
    samples = np.random.default_rng(0).normal(1.0, 0.05, (4000, 25))
    held = np.mean([abs(np.median(sample) - 1) <= half_width(sample) * np.median(sample) for sample in samples])
    assert 0.9 <= held <= 0.98


def test_runs_end_when_the_median_is_known_to_a_hundredth_but_not_before_the_fifth():
    before = [0.09] * 5
    steady = Session(*before, *[0.01] * 40)
    assert cpu_seconds(steady, {}, 40, clock=steady.clock) == pytest.approx([0.01] * 5)
    uneasy = Session(*before, *[0.01, 0.02] * 20)
    assert len(cpu_seconds(uneasy, {}, 40, clock=uneasy.clock)) == 40
    calmer = Session(*before, 0.01, 0.012, 0.011, *[0.01] * 37)
    found = cpu_seconds(calmer, {}, 40, clock=calmer.clock)
    assert 5 < len(found) < 40
    assert settled(found)
    assert not settled(found[:-1])
    few = Session(*before, *[0.01] * 3)
    assert len(cpu_seconds(few, {}, 3, clock=few.clock)) == 3


def test_what_takes_long_is_warm_sooner():
    slow = Session(9.0, *[4.0] * 5)
    assert cpu_seconds(slow, {}, 40, clock=slow.clock).tolist() == [4.0] * 5
    assert [warm_up(iter(taken).__next__) for taken in ([0.3] * 5, [0.01] * 5, [2.0])] == [4, 5, 1]
    assert warm_up(iter([]).__next__, most=0) == 0
