"""Random splits and the times of their parts."""

import numpy as np
import pandas as pd
import pytest
from helpers.small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.profiling import splits as module
from dnnsplit.profiling.overhead import Overhead
from dnnsplit.profiling.splits import (
    Split,
    calibration_splits,
    corrected,
    measure_parts,
    measure_settled,
    predicted,
    random_splits,
    whole_model,
)
from dnnsplit.quantize.calibration import calibrate


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


def test_random_splits_are_contiguous_and_the_same_for_a_seed(net):
    splits = random_splits(net, 40, ("c1", "c2"), seed=3)
    for i, split in enumerate(splits):
        servers = [split.assignment[name] for name in net.topological]
        assert servers == sorted(servers)
        assert set(servers) == {"server0", "server1", "server2"}
        assert set(split.quantized) <= ({"c1", "c2"} if i % 2 else set())
    assert {split.quantized for split in splits} == {(), ("c1",), ("c2",), ("c1", "c2")}
    assert splits == random_splits(net, 40, ("c1", "c2"), seed=3)
    assert splits != random_splits(net, 40, ("c1", "c2"), seed=4)


def test_a_graph_of_two_layers_is_cut_once():
    graph = ds.LayerGraph([ds.Layer("a"), ds.Layer("b")], [])
    assert random_splits(graph, 1)[0].assignment == {"a": "server0", "b": "server1"}


def test_what_crosses_is_counted_by_hand(net):
    #   x -> c1 -> c2 -> add -> c3 -> out        c1 | c2 .. in float32, then with c1 in int8; 12 x 12 x 6 values
    #         \-----------/ \-> pool -> side
    cut = {name: "server0" if name == "c1" else "server1" for name in net.layer_names}
    pictures, size = images(1), 12 * 12 * 6
    splits = [Split(cut), Split(cut, ("c1",)), whole_model(net)]
    parts = measure_parts(net, splits, pictures, calibrate(net, pictures), runs=2, progress=False)
    assert parts["split"].tolist() == [0, 0, 1, 1, 2]
    assert parts["bytes_out"].tolist() == [4 * size, 0, 4 * size, 0, 0]  # in float32 whatever crosses
    assert parts["bytes_in"].tolist() == [0, 4 * size, 0, 4 * size, 0]
    assert parts["tensors_in"].tolist() == [0, 1, 0, 1, 0]
    assert parts["quantized"].tolist() == [(), (), ("c1",), (), ()]
    assert set(parts["layers"][4]) == set(net.layer_names)
    assert (parts["seconds"] > 0).all()
    assert (parts["low_s"] <= parts["seconds"]).all()
    assert (parts["seconds"] <= parts["high_s"]).all()


def test_parts_that_take_the_same_time_in_every_run_are_not_run_for_long(net, monkeypatch):
    monkeypatch.setattr(module, "PAUSE_S", 0)
    ran = []

    def run(part, counts):
        part.seconds += [1.0] if counts else []
        ran.append(counts)
        return 1.0

    monkeypatch.setattr(module._Part, "run", run)
    parts = measure_parts(net, [whole_model(net)], images(1), runs=40, progress=False)
    assert parts["seconds"].tolist() == [1.0]
    assert sum(ran) == 10  # the first of four rounds
    ran.clear()
    measure_parts(net, [whole_model(net)], images(1), runs=8, progress=False)
    assert sum(ran) == 6  # five are the least


@pytest.mark.parametrize(("seconds", "expected"), [(0.01, 20), (1.0, 10)])
def test_splits_that_take_long_are_not_run_for_long_however_their_times_differ(net, monkeypatch, seconds, expected):
    monkeypatch.setattr(module, "PAUSE_S", 0)
    ran = []

    def run(part, counts):
        ran.append(counts)
        taken = seconds * (1 + len(ran) % 2)
        part.seconds += [taken] if counts else []
        return taken

    monkeypatch.setattr(module._Part, "run", run)
    measure_parts(net, [whole_model(net)], images(1), runs=20, progress=False)
    assert sum(ran) == expected  # four rounds of five, or two that took more than 5 s


@pytest.mark.parametrize(("shift", "expected"), [(0.0, 8), (0.02, 24)])
def test_splits_end_when_more_of_them_change_no_prediction(net, monkeypatch, shift, expected):
    monkeypatch.setattr(module, "CHEAP_S", 0.0)  # else all are measured at once
    seconds = {name: 1e-3 * (1 + i) for i, name in enumerate(net.layer_names)}
    asked = []

    def measure(graph, splits, *args):
        asked.extend(splits)
        rows = []
        for i, split in enumerate(splits):
            for k, server in enumerate(dict.fromkeys(split.assignment.values())):
                names = tuple(n for n in graph.layer_names if split.assignment[n] == server)
                taken = sum(seconds[n] for n in names) * (1 + shift) ** len(asked)  # slower and slower
                rows.append([i, names, (), 0, 0, int(k > 0), float(k == 0), taken])
        columns = ["split", "layers", "quantized", "bytes_in", "bytes_out", "tensors_in", "entries", "seconds"]
        return pd.DataFrame(rows, columns=columns)

    monkeypatch.setattr(module, "measure_parts", measure)
    layers = pd.DataFrame([(n, "float32", s, "") for n, s in seconds.items()], columns=["layer", "precision", "seconds", "note"])
    plans = calibration_splits(net, 24)
    parts = measure_settled(net, layers, plans, images(1), None, 10, False, None)
    assert asked == plans[: 1 + expected]  # with the whole model
    assert parts["split"].unique().tolist() == list(range(1 + expected))


def test_int8_parts_need_a_calibration(net):
    with pytest.raises(ds.ProfileError, match="need a calibration"):
        measure_parts(net, [whole_model(net, ("c1",))], images(1), progress=False)


def test_parts_are_predicted_by_hand():
    parts = pd.DataFrame({
        "split": [0, 0], "layers": [("a",), ("b", "c")], "quantized": [("a",), ()], "bytes_in": [0, 1000],
        "bytes_out": [1000, 0], "tensors_in": [0, 2], "entries": [1.0, 0.0],
    })  # fmt: skip
    rows = [("a", "float32", 9.0), ("a", "int8", 1.0), ("b", "float32", 2.0), ("c", "float32", 1.0)]
    layers = pd.DataFrame(rows, columns=["layer", "precision", "seconds"])
    found = predicted(parts, layers, Overhead(1e-3, 2e-3, 4.0, 2.0, 0.0, 0.0, 3))
    assert found["layers_s"].tolist() == [1.0, 3.0]
    assert found["predicted_s"].tolist() == [1 + 2, 3 + 1 + 4]  # the first part's start is in its layers
    assert found["priced_s"].tolist() == [1 + 2, 3 + 1 + 2 * 2]
    assert predicted(parts, layers)["predicted_s"].tolist() == [1.0, 3.0]


def test_a_layer_moves_towards_the_parts_that_hold_it_by_hand():
    parts = pd.DataFrame({
        "split": [0, 1], "layers": [("a",), ("b",)], "quantized": [(), ("b",)], "bytes_in": [0, 0], "bytes_out": [0, 0],
        "tensors_in": [0, 0], "entries": [1.0, 1.0], "seconds": [1.1, 3.5],
    })  # fmt: skip
    rows = [("a", "float32", 1.0), ("b", "float32", 2.0), ("b", "int8", 3.0), ("c", "float32", 1.0)]
    layers = pd.DataFrame(rows, columns=["layer", "precision", "seconds"])
    found = corrected(layers, parts, Overhead(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3)).tolist()
    a = 0.1 * 0.1**2 / (0.1**2 + (0.03 * 1.1) ** 2)
    b = 0.5 * 0.2**2 / (2 * 0.2**2 + (0.03 * 3.5) ** 2)  # half of what is missed is float32's, half is the change to int8
    assert found == pytest.approx([1 + a, 2 + b, 3 + 2 * b, 1.0])
    parts["seconds"] = [0.01, 0.01]
    assert corrected(layers, parts, Overhead(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 3)).tolist()[:1] == [0.5]  # never to nothing


def test_the_figure_shows_gains_of_both_signs_and_the_errors_of_totals(tmp_path):
    rows = [("a", "float32", 3.0), ("a", "int8", 1.0), ("b", "float32", 2.0), ("b", "int8", 2.5), ("c", "float32", 1.0)]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "precision", "seconds"]).assign(server="edge"))
    parts = pd.DataFrame({
        "split": [0, 0, 1], "layers": [("a",), ("b", "c"), ("a", "b", "c")], "quantized": [("a",), (), ()],
        "bytes_in": [0, 0, 0], "bytes_out": [0, 0, 0], "tensors_in": [0, 1, 0], "seconds": [1.0, 3.0, 5.0],
    })  # fmt: skip
    figure, numbers = ds.plots.split_times(predicted(parts, times.frame), times, "edge")
    assert numbers["gain_s"] == {"b": -0.5, "a": 2.0}
    assert numbers["total_error_%"] == pytest.approx([0.0, 20.0])
    assert ds.plots.save(figure, tmp_path, "split-times", numbers)["svg"].stat().st_size > 2000


def test_what_a_batch_takes_more_is_taken_off():
    """Six parts of 1 to 6 ms in four rounds of three batches, each of which takes a factor of its own."""
    rng = np.random.default_rng(0)
    true, factors = np.arange(1, 7) * 1e-3, np.exp(rng.normal(0, 0.2, 12))
    factors /= np.exp(np.log(factors).mean())
    rounds = []
    for number in range(4):
        batch = rng.permutation([0, 0, 1, 1, 2, 2]) + 3 * number
        rounds.append([({"split": i}, np.full(5, true[i] * factors[batch[i]]), int(batch[i])) for i in range(6)])
    found = module._undrifted(rounds)
    seconds = np.array([[one.mean() for _, one, _ in measured] for measured in found])
    np.testing.assert_allclose(seconds, np.broadcast_to(true, (4, 6)), rtol=0.02)
    raw = np.array([[one.mean() for _, one, _ in measured] for measured in rounds]).mean(axis=0)
    assert np.abs(seconds.mean(axis=0) / true - 1).max() < np.abs(raw / true - 1).max() / 4


def test_one_round_has_no_drift_that_could_be_told():
    rounds = [[({}, np.array([1.0, 2.0, 3.0]), 0), ({}, np.array([5.0]), 1)]]
    (found,) = module._undrifted(rounds)
    assert [one.tolist() for _, one, _ in found] == [[1.0, 2.0, 3.0], [5.0]]
