"""The front is exact: at every noise limit it gives what `split` gives."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from helpers.problems import brute_force, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3))
def test_the_front_equals_split_at_every_limit(seed, servers):
    graph, network, times, noise = random_small(seed, 6, servers, 3)
    front = ds.pareto(graph, network, times, noise)
    frame = front.frame
    assert (np.diff(frame["noise"]) > 0).all()
    assert (np.diff(frame["latency_s"]) < 0).all()
    for limit in [0.0, *frame["noise"], *(frame["noise"] + 1e-6), 0.03, 1.0]:
        plan = ds.split(graph, network, times, noise, max_noise=limit)
        assert front.at(limit).latency_s == pytest.approx(plan.latency_s, rel=1e-12)


@settings(deadline=None, max_examples=6)
@given(seed=st.integers(0, 10**6), share=st.floats(0.2, 0.9))
def test_the_front_under_a_limit_on_memory_equals_split_and_brute_force(seed, share):
    graph, network, times, noise = random_small(seed, 5, 2, 3)
    weights = sum(layer.weight_bytes for layer in graph.layers)
    servers = [replace(server, memory_bytes=share * weights + 1) for server in network.servers]
    network = replace(network, servers=tuple(servers))
    try:
        front = ds.pareto(graph, network, times, noise, progress=False)
    except ds.InfeasibleError:
        with pytest.raises(ds.InfeasibleError):
            ds.split(graph, network, times, noise)
        return
    frame = front.frame
    assert (np.diff(frame["noise"]) > 0).all()
    assert (np.diff(frame["latency_s"]) < 0).all()
    for limit in [*frame["noise"], *(frame["noise"] + 1e-6), 1.0]:
        plan = ds.split(graph, network, times, noise, max_noise=limit)
        assert front.at(limit).latency_s == pytest.approx(plan.latency_s, rel=1e-9)
    fits = {"keep": lambda cost: all(cost.weight_bytes[server.name] <= server.memory_bytes for server in servers)}
    for plan in front.plans:
        least = brute_force(graph, network, times, noise, plan.noise, **fits)
        assert plan.latency_s == pytest.approx(least, rel=1e-9)
    for below in frame["noise"][frame["noise"] > 0]:
        limit = below * (1 - 1e-5)
        try:
            latency_s = ds.split(graph, network, times, noise, max_noise=limit).latency_s
        except ds.InfeasibleError:
            with pytest.raises(ds.InfeasibleError):
                front.at(limit)
        else:
            assert front.at(limit).latency_s == pytest.approx(latency_s, rel=1e-9)


@pytest.mark.parametrize("confidence", [None, 0.9])
def test_the_front_under_a_limit_on_memory_keeps_to_what_was_measured_and_to_its_bound(confidence):
    graph, network, times, _ = ds.examples.tiny()
    rows = {"conv1": [0, 1, 0], "conv2": [0, 0, 1], "noise": [0.0, 0.01, 0.02], "noise_std": [0.0, 0.001, 0.002]}
    samples = ds.NoiseSamples(pd.DataFrame(rows | {"noise_images": 8}))
    noise = ds.fit_noise(samples, "measured")
    small = max(layer.weight_bytes for layer in graph.layers)
    servers = [replace(server, memory_bytes=1.2 * small) for server in network.servers]
    tight = replace(network, servers=tuple(servers))
    asked = {"confidence": confidence, "progress": False}
    front = ds.pareto(graph, tight, times, noise, **asked)
    assert len(front.plans) > 1
    assert all(len(plan.quantized) < 2 for plan in front.plans)  # both together were not measured
    for plan in front.plans:
        limit = plan.noise if confidence is None else plan.noise_upper
        best = ds.split(graph, tight, times, noise, max_noise=limit, confidence=confidence)
        assert best.latency_s == pytest.approx(plan.latency_s, rel=1e-9)
        assert all(plan.cost.weight_bytes[server.name] <= server.memory_bytes for server in servers)


def test_the_front_starts_with_the_float_model():
    front = ds.pareto(*ds.examples.tiny())
    assert front.plans[0].quantized == ()
    assert front.plans[0].noise == 0.0


def test_the_front_tells_the_form_of_the_input():
    graph, network, times, noise = coded_small(0, layers=2)
    problem = graph, network.with_bandwidths({("s0", "s1"): 2.0}), times, noise
    sent = {"pins": dict.fromkeys(graph.layer_names, "s1")}
    front = ds.pareto(*problem, **sent)
    assert list(front.frame["source_form"]) == [plan.source_form for plan in front.plans]
    assert {*front.frame["source_form"]} & {"jpeg-90", "jpeg-95"}
    assert {*ds.pareto(*problem, **sent, source_forms=["float32"]).frame["source_form"]} == {"float32"}


def test_an_unmeasured_scheme_is_never_chosen():
    graph, network, times, _ = ds.examples.tiny()
    samples = ds.NoiseSamples(pd.DataFrame({"conv1": [0, 1], "conv2": [0, 0], "noise": [0.0, 0.01]}))
    front = ds.pareto(graph, network, times, ds.fit_noise(samples, "measured"))
    assert all("conv2" not in plan.quantized for plan in front.plans)


@settings(deadline=None, max_examples=12)
@given(seed=st.integers(0, 10**6))
def test_the_energy_front_has_every_nondominated_point_by_brute_force(seed):
    graph, network, times, noise = random_small(seed, 4, 2, 1)
    every = []
    brute_force(graph, network, times, noise, keep=lambda c: every.append((c.energy_j, c.latency_s)))
    nondominated, best = [], np.inf
    for energy, latency in sorted(every):
        if latency < best * (1 - 1e-9):
            nondominated.append((energy, latency))
            best = latency
    span = nondominated[-1][0] - nondominated[0][0]
    front = ds.energy_front(graph, network, times, noise, resolution=1e-6, progress=False)
    found = [(plan.energy_j, plan.latency_s) for plan in front.plans]
    apart = [p for p, q in zip(nondominated, [*nondominated[1:], (np.inf, 0)], strict=True) if q[0] - p[0] > 1e-5 * span]
    assert len(found) <= len(nondominated)
    for point in apart:
        assert any(point == pytest.approx(other, rel=1e-6) for other in found)


def test_the_energy_front_answers_for_a_limit():
    front = ds.energy_front(*ds.examples.tiny(), max_noise=0.05, progress=False)
    assert front.at(1e9).latency_s == ds.split(*ds.examples.tiny(), max_noise=0.05).latency_s
    with pytest.raises(ds.InfeasibleError, match="the least is"):
        front.at(0.0)


def test_bad_requests():
    graph, network, times, noise = ds.examples.tiny()
    with pytest.raises(ds.OptionError, match="noise is None; give a NoiseModel"):
        ds.pareto(graph, network, times, None)
    with pytest.raises(ds.OptionError, match="it must be a number"):
        ds.pareto(graph, network, times, noise).at(-1)
    tight = ds.Network([ds.Server("device", memory_bytes=1.0), *network.servers[1:]], network.links, "device")
    with pytest.raises(ds.InfeasibleError, match="memory"):
        ds.pareto(graph, tight, times, noise, pins={"conv1": "device"})
