"""What cutting costs: fitted, scaled, and charged to the links."""

import dataclasses
import math

import numpy as np
import pandas as pd
import pytest
from helpers.problems import brute_force, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.profiling.overhead import Overhead, fit_overhead, priced

OVERHEAD = Overhead(2e-9, 3e-9, 1e-3, 2.0, 0.01, 0.03, 12)


def measured(a, b, c, d, seed=0, splits=6):
    """Parts of random splits and of the whole model that follow the formula exactly."""
    rng, rows = np.random.default_rng(seed), []
    for split in range(splits):
        cuts = np.sort(rng.uniform(0.1, 0.9, 2))
        layers = 0.02 * np.diff([0, *cuts, 1])
        moved = rng.uniform(1e5, 2e6, 2)
        for k, layers_s in enumerate(layers):
            come, go = (moved[k - 1] if k else 0.0), (moved[k] if k < 2 else 0.0)
            seconds = a * layers_s + b * come + c * go + d
            rows.append([split, layers_s, come, go, 2 * (k > 0), seconds])
    rows.append([splits, 0.02, 0.0, 0.0, 0, a * 0.02 + d])
    return pd.DataFrame(rows, columns=["split", "layers_s", "bytes_in", "bytes_out", "tensors_in", "seconds"])


@settings(deadline=None, max_examples=30)
@given(st.floats(0.5, 2), st.floats(0, 1e-9), st.floats(0, 1e-9), st.floats(0, 1e-3), st.integers(0, 99))
def test_the_fit_finds_what_the_parts_were_made_from(a, b, c, d, seed):
    factor, found = fit_overhead(measured(a, b, c, d, seed))
    assert factor == pytest.approx(a, rel=1e-6)
    assert found.s_per_byte_in == pytest.approx(b, rel=1e-6, abs=1e-13)
    assert found.s_per_byte_out == pytest.approx(c, rel=1e-6, abs=1e-13)
    assert found.s_per_part == pytest.approx(d, rel=1e-6, abs=1e-8)
    assert (found.tensors_per_part, found.splits) == (2.0, 6)
    assert found.worst <= 1e-5  # every cut brings two tensors, so that charging by tensor is exact too


def test_errors_are_those_of_splits_left_out():
    parts = measured(1.0, 1e-10, 2e-10, 2e-4)
    parts.loc[parts["split"] == 3, "seconds"] *= 1.5
    _, found = fit_overhead(parts)
    assert found.worst >= 0.25  # predicted from the others, split 3 is a third too low
    assert found.error < found.worst


def test_nothing_fitted_is_negative():
    parts = measured(1.0, 0.0, 0.0, 0.0)
    parts["seconds"] -= 1e-12 * (parts["bytes_in"] + parts["bytes_out"])
    factor, found = fit_overhead(parts)
    assert factor > 0
    assert min(found.s_per_byte_in, found.s_per_byte_out, found.s_per_part) >= 0


def test_too_few_splits_are_refused():
    parts = measured(1.0, 0.0, 0.0, 0.0, splits=2)
    with pytest.raises(ds.ProfileError, match=r"2 splits are too few .* measure 3 or more"):
        fit_overhead(parts)


@pytest.mark.parametrize("value", [-1.0, math.nan, math.inf, None, True])
def test_an_overhead_is_a_number_of_0_or_more(value):
    with pytest.raises(ds.ProfileError, match=f"s_per_part is {value!r}; give a number, 0 or more"):
        dataclasses.replace(OVERHEAD, s_per_part=value)


def test_scaling_leaves_errors_alone():
    assert OVERHEAD.scaled(4.0) == Overhead(8e-9, 12e-9, 4e-3, 2.0, 0.01, 0.03, 12)
    assert OVERHEAD.s_per_tensor == 0.5e-3
    assert dataclasses.replace(OVERHEAD, tensors_per_part=0.0).s_per_tensor == 0.0


def test_links_are_charged_by_hand():
    servers = [ds.Server("a"), ds.Server("b"), ds.Server("c")]
    links = [ds.Link("a", "b", 1e6, 0.5), ds.Link("b", "a", 1e6), ds.Link("a", "a", 1e9), ds.Link("a", "c", 1e6)]
    network = ds.Network(servers, links, "a")
    once = priced(network, {"a": OVERHEAD, "b": OVERHEAD.scaled(10.0)})
    assert once.link("a", "b").transfer_s(1e6) == pytest.approx(0.5 + 1 + 5e-3 + 1e6 * (3e-9 + 20e-9))
    assert once.link("b", "a").transfer_s(1e6) == pytest.approx(1 + 0.5e-3 + 1e6 * (30e-9 + 2e-9))
    assert once.link("a", "b").transfer_s(1e6, handled_bytes=0.0) == 1.5  # an input of the model
    assert [once.link(*ends) for ends in (("a", "a"), ("a", "c"))] == [network.link("a", "a"), network.link("a", "c")]
    assert priced(once, {"a": OVERHEAD, "b": OVERHEAD.scaled(10.0)}) == once
    assert priced(network, {}) == network


def test_int8_crosses_in_a_quarter_of_the_bytes_and_is_unpacked_in_all_of_them():
    graph = ds.LayerGraph([ds.Layer("one"), ds.Layer("two")], [
        ds.Tensor("x", None, ("one",), 100.0), ds.Tensor("t", "one", ("two",), 4e6), ds.Tensor("y", "two", (), 8.0, True),
    ])  # fmt: skip
    servers, links = [ds.Server("a"), ds.Server("b")], [ds.Link("a", "b", 1e6), ds.Link("b", "a", 1e6)]
    rows = [(n, s, p, 1.0) for n in ("one", "two") for s in "ab" for p in ("float32", "int8")]
    frame = pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"])
    times = ds.LayerTimes(frame, {"a": OVERHEAD, "b": OVERHEAD})
    cost = ds.evaluate(graph, ds.Network(servers, links, "a"), times, {"one": "a", "two": "b"}, ["one"])
    assert cost.transfers[0].size_bytes == 1e6
    assert cost.transfers[0].seconds == pytest.approx(1e6 / 1e6 + 0.5e-3 + 4e6 * 5e-9)
    assert cost.transfers[1].seconds == pytest.approx(8e-6)  # an output of the model


def test_the_network_charges_tensors_between_layers_alone():
    network = priced(ds.Network([ds.Server("a"), ds.Server("b")], [ds.Link("a", "b", 1e6)]), {"a": OVERHEAD, "b": OVERHEAD})
    seconds = network.transfer_s(np.array([1e6, 1e6]), np.array([1e6, 0.0]))[:, 0, 1]
    assert seconds.tolist() == pytest.approx([1 + 0.5e-3 + 5e-3, 1.0])
    assert network.transfer_s(np.array([1e6]))[0, 0, 1] == pytest.approx(seconds[0])


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10**6))
def test_every_method_prices_what_a_cut_takes(seed):
    graph, network, times, noise = random_small(seed, 4, 2)
    rng = np.random.default_rng(seed)
    overhead = {s: Overhead(*rng.uniform(0, [0.01, 0.01, 0.3]), 2.0, 0.01, 0.02, 5) for s in network.server_names}
    times = ds.LayerTimes(times.frame, overhead)
    best = brute_force(graph, network, times, noise, 0.2)
    for method in ("elimination", "milp", "slides"):
        plan = ds.split(graph, network, times, noise, max_noise=0.2, method=method)
        assert plan.latency_s == pytest.approx(best, rel=1e-7)
    low, high = plan.latency_interval_s
    assert low < plan.latency_s < high
