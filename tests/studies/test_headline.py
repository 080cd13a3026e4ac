"""The paragraph that a report begins with tells the numbers of the tables, and what is not as it seems."""

from dataclasses import replace

import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.studies.headline import headline


@pytest.fixture(scope="module")
def found():
    graph, network, times, noise = ds.examples.tiny()
    plan = ds.split(graph, network, times, noise, max_noise=0.2)
    alone = pd.DataFrame(
        [("device", "float32", 0.0, 3.0), ("edge", "uint8", 0.1, 0.25), ("edge", "jpeg-90", 0.3, 0.2)],
        columns=["server", "source_form", "noise", "latency_s"],
    )
    points = [
        ("device-edge", 1e6, 0.0, "edge", 0.0), ("device-edge", 1e6, 0.2, "split", 0.25), ("device-edge", 2e6, 0.2, "split", 0.5),
        ("device-cloud", 1e6, 0.0, "cloud", 0.0),
    ]  # fmt: skip
    regimes = pd.DataFrame(points, columns=["topology", "bandwidth_bytes_per_s", "max_noise", "best", "gain"])
    return network, replace(plan, times_origin="scaled"), alone, regimes


def measured(plan, **beside):
    rows = {"max_noise": [0.2, 0.1], "predicted_s": [plan.latency_s, 1.0], "latency_s": [0.22, 1.05], "error_%": [-2.0, 4.0]}
    return pd.DataFrame({**rows, "weights": ["", "random"], **beside})


def test_the_plan_is_held_against_the_best_server_alone_within_the_limit(found):
    network, plan, alone, regimes = found
    assert plan.latency_s == pytest.approx(0.2182, abs=1e-4)  # 250 / 218.2 = 1.146
    text = headline("tiny", network, plan, alone, regimes)
    assert text.startswith(
        "**tiny on device + edge: split it over device + edge.** Within the noise limit 0.2 the best plan takes 218.2 ms"
    )
    assert "; the best server alone, edge in float32 that gets the input as uint8, takes 250 ms, 14.6 % more." in text
    assert "1 MB/s to 2 MB/s and noise limits from 0 to 0.2, a split is best at 2 of 3 points (up to 50 % less latency" in text
    assert "at 2 MB/s and 0.2) on device + edge and at none of 1 points on device + cloud." in text
    assert text.endswith("Times behind the plans are scaled.")
    assert "Measured" not in text


def test_without_a_limit_a_lossy_input_may_be_best_and_a_weak_server_is_far_behind(found):
    network, plan, alone, regimes = found
    free = replace(plan, limits={}, assignment=dict.fromkeys(plan.assignment, "device"))
    text = headline("tiny", network, free, alone, regimes)
    assert "run all of it on device.** Without a limit on the noise" in text
    assert "as jpeg-90, takes 200 ms, 8.3 % less." in text
    assert "device in float32, takes 3 s, 14 x as much." in headline("tiny", network, plan, alone[:1], regimes)
    assert "no server alone keeps the limit." in headline("tiny", network, plan, alone[2:], regimes)


def test_a_limit_with_a_confidence_is_on_the_upper_bound(found):
    network, plan, alone, regimes = found
    sure = replace(plan, limits={"max_noise": 0.2, "confidence": 0.95})
    text = headline("tiny", network, sure, alone.assign(noise_upper=[0.0, 0.25, 0.4]), regimes)
    assert "noise limit 0.2, kept with 95 % confidence, the best plan" in text
    assert "alone, device in float32, takes 3 s" in text


def test_what_was_measured_is_told_with_its_errors_and_that_it_is_emulated(found):
    network, plan, alone, regimes = found
    tests = measured(plan)
    beside = pd.DataFrame({"servers": ["edge"], "source_form": ["uint8"], "latency_s": [0.26]})
    text = headline("tiny", network, plan, alone, regimes, tests, beside)
    assert "Measured, they take 220 ms and 260 ms." in text
    assert (
        "of the 2 plans that were cut and run are off by 3.0 % on average and 4.0 % at most (+1.00 % with their signs)." in text
    )
    assert "emulated on one machine. Times behind the plans are scaled. Weights: random." in text
    assert "Measured" not in headline("tiny", network, plan, alone, regimes, tests, beside.assign(source_form="float32"))
    assert "Measured" not in headline("tiny", network, plan, alone, regimes, tests[1:], beside)
