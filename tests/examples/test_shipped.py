"""The ready-made inputs."""

import numpy as np
import pytest

import dnnsplit as ds


@pytest.mark.parametrize("topology", ds.examples.TOPOLOGIES)
def test_the_shipped_model_answers(topology):
    graph, network, times, noise = ds.examples.yolo11n(topology)
    plan = ds.split(graph, network, times, noise, max_noise=0.05)
    assert plan.noise <= 0.05
    assert plan.noise_kind == "measured"
    assert plan.times_origin == "scaled"


def test_at_the_speed_of_this_machine_nothing_is_worth_sending():
    # half a core takes about 30 ms for this small network; its input alone needs 246 ms on the slides' uplink
    graph, network, times, noise = ds.examples.yolo11n("device-edge-cloud")
    fast = times.frame.assign(seconds=times.frame["seconds"] * 0.03 / times.seconds_of("device"))
    plan = ds.split(graph, network, ds.LayerTimes(fast), noise, max_noise=0.05)
    assert plan.servers == ("device",)


def test_unknown_names_are_told():
    with pytest.raises(ds.DnnSplitError, match="did you mean 'device-edge'"):
        ds.examples.network("device-egde")


def test_data_that_are_missing_are_told(tmp_path, monkeypatch):
    monkeypatch.setattr("dnnsplit.examples.shipped.__file__", str(tmp_path / "dnnsplit" / "examples" / "shipped.py"))
    with pytest.raises(ds.DnnSplitError, match=r"yolo11n-ppe-320.onnx is not in .*dnnsplit/data and not in .*; install a wheel"):
        ds.examples.yolo11n()


def test_images_of_a_file(tmp_path):
    path = tmp_path / "images.npy"
    np.save(path, np.arange(10 * 12).reshape(10, 3, 2, 2))
    first, second = (ds.examples.load_images(path, 4, seed) for seed in (0, 1))
    assert first.shape == (4, 3, 2, 2)
    assert first.dtype == np.float32
    assert not set(first.ravel()) & set(second.ravel())
    with pytest.raises(ds.OptionError, match="holds 10 images; 11 are wanted"):
        ds.examples.load_images(path, 11)
    with pytest.raises(ds.OptionError, match="is not readable as a"):
        ds.examples.load_images(tmp_path / "none.npy")


def test_random_problems_are_repeatable_and_solvable():
    one, two = (ds.examples.random_problem(40, 3, quantizable=4, seed=7) for _ in range(2))
    assert one.graph == two.graph
    assert ds.split(*one, max_noise=0.1).latency_s == ds.split(*two, max_noise=0.1).latency_s
