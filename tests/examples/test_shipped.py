"""The ready-made inputs."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.small_models import double

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
    every = np.arange(10 * 12).reshape(10, 3, 2, 2)
    np.save(path, every)
    first, second = (ds.examples.load_images(path, 4, seed) for seed in (0, 1))
    assert first.shape == (4, 3, 2, 2)
    np.testing.assert_array_equal(first, every[:4])
    assert not set(first.ravel()) & set(second.ravel())
    with pytest.raises(ds.OptionError, match="holds 10 images; 11 are wanted"):
        ds.examples.load_images(path, 11)
    with pytest.raises(ds.OptionError, match="is not readable as a"):
        ds.examples.load_images(tmp_path / "none.npy")


def test_inputs_by_name_of_a_file(tmp_path):
    path = tmp_path / "inputs.npz"
    np.savez(path, x=np.arange(12).reshape(6, 2), sr=np.array(16000), k=np.arange(6))
    found = ds.examples.load_images(path, 2, seed=1)
    assert {name: array.tolist() for name, array in found.items()} == {"x": [[4, 5], [6, 7]], "sr": 16000, "k": [2, 3]}
    for content in (b"", b"PK", b"PK\x03\x04 and no more", b"images"):
        (tmp_path / "bad.npz").write_bytes(content)
        with pytest.raises(ds.OptionError, match="is not readable as a"):
            ds.examples.load_images(tmp_path / "bad.npz")


def test_an_image_of_a_file_is_what_one_inference_takes(tmp_path):
    """Two rows for a batch of two, where they are not stacked already."""
    graph = ds.load(double(tmp_path / "double.onnx", {"x": [2, 3]}))
    np.save(tmp_path / "rows.npy", np.arange(24).reshape(8, 3))
    np.save(tmp_path / "stacked.npy", np.arange(24).reshape(4, 2, 3))
    rows, stacked = (ds.examples.load_images(tmp_path / f"{name}.npy", 2, start=1, graph=graph) for name in ("rows", "stacked"))
    assert rows.tolist() == stacked.reshape(4, 3).tolist() == np.arange(6, 18).reshape(4, 3).tolist()
    with pytest.raises(ds.OptionError, match="holds 4 images; 5 are wanted"):
        ds.examples.load_images(tmp_path / "rows.npy", 5, graph=graph)


def test_images_are_drawn_for_the_models_of_the_examples_alone(tmp_path):
    shipped = ds.examples.data_folder() / "models" / f"{ds.examples.SHIPPED}.onnx"
    assert ds.examples.load_images(count=2, graph=ds.load(shipped)).shape == (2, 3, 320, 320)
    one, two = (ds.load(double(tmp_path / "m.onnx", inputs)) for inputs in ({"x": [1, 3, 9]}, {"x": [1, 3], "y": [1, 3]}))
    with pytest.raises(ds.OptionError, match=r"for m.onnx give --images images.npy of shape \(n, 3, 9\)"):
        ds.examples.load_images(graph=one)
    with pytest.raises(ds.OptionError, match=r"images.npz with 'x' of shape \(n, 3\), 'y' of shape \(n, 3\)"):
        ds.examples.load_images(graph=two)
    assert ds.examples.load_images(graph=SimpleNamespace(model=replace(one.model, inputs=()))) == {}


def test_random_problems_are_repeatable_and_solvable():
    one, two = (ds.examples.random_problem(40, 3, quantizable=4, seed=7) for _ in range(2))
    assert one.graph == two.graph
    assert ds.split(*one, max_noise=0.1).latency_s == ds.split(*two, max_noise=0.1).latency_s
