"""What an elimination costs is known before and stays what it is; blocks, ties and sets of servers change no answer."""

import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from helpers.architectures import seg_problem
from helpers.paths import TESTS
from helpers.problems import brute_force, random_small
from hypothesis import given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.solving.arrays import build_problem, energy_weights, latency_weights
from dnnsplit.solving.elimination import factors, sweep
from dnnsplit.solving.elimination.order import find_ordering
from dnnsplit.solving.elimination.sweep import eliminate

quick = settings(deadline=None, max_examples=25)


def ordering_of(problem):
    form = factors.best_form(problem)
    return find_ordering(form.scopes, form.sizes, 0)


# An entry costs 2 to 10 ns, 8 bytes of it stay per objective: more of them is time and memory lost, whatever the machine.
@pytest.mark.parametrize(
    ("servers", "steps", "entries", "largest"),
    [(3, 275, 235_821, 110_592), (6, 277, 6_137_964, 1_928_448)],  # 6: 14.6 million if the two hubs had no sets of servers
)
def test_a_large_network_fills_as_many_entries_as_ever(servers, steps, entries, largest):
    ordering = ordering_of(seg_problem(servers))
    assert (len(ordering.steps), ordering.entries, ordering.largest) == (steps, entries, largest)


def test_ten_thousand_layers_on_ten_servers_fill_no_more_entries():
    graph, network, times, _ = ds.examples.random_problem(10000, 10)
    ordering = ordering_of(build_problem(graph, network, times))
    assert len(ordering.steps) == 10000
    assert ordering.entries <= 88e6  # 105 million where of equal tables the first is taken
    assert ordering.largest <= 1e6
    assert ordering.peak_bytes <= 150e6


def test_the_order_does_not_depend_on_hashes():
    code = (
        "from helpers.architectures import seg_problem; from dnnsplit.solving.elimination import factors;"
        "from dnnsplit.solving.elimination.order import find_ordering;"
        "f = factors.best_form(seg_problem(6));"
        "print([(s.variable, s.inputs) for s in find_ordering(f.scopes, f.sizes, 0).steps])"
    )
    path = os.pathsep.join([str(TESTS), str(Path(ds.__file__).parents[1])])
    made = {
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": path},
            capture_output=True, text=True, check=True, timeout=300,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(made) == 1
    assert len(made.pop()) > 1000


@pytest.mark.parametrize("receivers", [4, 6])
def test_many_receivers_on_nine_servers_are_placed_as_priced(receivers):
    rng = np.random.default_rng(receivers)  # 6 receivers can be on 465 sets of servers, more than a byte can tell apart
    names, hosts = ["p", *(f"r{i}" for i in range(receivers))], [f"s{k}" for k in range(9)]
    tensors = [ds.Tensor("in", None, ("p",), 10.0), ds.Tensor("t", "p", tuple(names[1:]), 30.0)]
    tensors += [ds.Tensor(f"o{i}", name, (), 5.0, True) for i, name in enumerate(names[1:])]
    graph = ds.LayerGraph([ds.Layer(name) for name in names], tensors)
    for _ in range(5):
        links = [ds.Link(a, b, *rng.uniform((20, 0), (300, 0.02))) for a in hosts for b in hosts if a != b]
        network = ds.Network([ds.Server(host) for host in hosts], links, "s0")
        rows = [(name, host, "float32", rng.uniform(0.1, 1.5)) for name in names for host in hosts]
        times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
        problem = build_problem(graph, network, times)
        form = factors.best_form(problem)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(factors, "ENOUGH", 0)
            patch.setattr(factors, "FACTORS", (0,) if form.starred else ())
            optima = eliminate(problem, latency_weights(network))
        assert problem.price(optima.placement(0), 0).latency_s == pytest.approx(optima.value[0], rel=1e-12)


def tied(seed, servers, missing):
    """A problem with many placements of one latency: whole seconds, links that take none or one."""
    graph, network, times, noise = random_small(seed, 5, servers, 2, missing)
    rng = np.random.default_rng(seed)
    frame = times.frame.assign(seconds=rng.integers(0, 3, len(times.frame)).astype(float))
    links = [replace(link, bandwidth_bytes_per_s=math.inf, latency_s=float(rng.integers(0, 2))) for link in network.links]
    return graph, replace(network, links=links), ds.LayerTimes(frame), noise


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(2, 3), missing=st.sampled_from([0.0, 0.3]))
def test_of_equal_plans_the_one_with_the_least_second_objective_is_found(seed, servers, missing):
    graph, network, times, noise = tied(seed, servers, missing)
    best = brute_force(graph, network, times, noise)
    if math.isinf(best):
        return
    least = brute_force(
        graph, network, times, noise, value=lambda c: c.energy_j, keep=lambda c: c.latency_s <= best + 1e-9
    )  # fmt: skip
    problem = build_problem(graph, network, times, noise.layers)
    optima = eliminate(problem, latency_weights(network), energy_weights(network))
    schemes = np.flatnonzero(optima.value == optima.value.min())
    costs = [problem.price(optima.placement(int(scheme)), int(scheme)) for scheme in schemes]
    assert [cost.latency_s for cost in costs] == pytest.approx([best] * len(costs), abs=1e-9)
    assert min(cost.energy_j for cost in costs) == pytest.approx(least, rel=1e-9, abs=1e-12)
    assert optima.values[1][schemes] == pytest.approx([cost.energy_j for cost in costs], rel=1e-9, abs=1e-12)


@quick
@given(seed=st.integers(0, 10**6), servers=st.integers(1, 3), ties=st.booleans(), starred=st.booleans())
def test_sums_in_blocks_give_what_whole_sums_give(seed, servers, ties, starred):
    graph, network, times, noise = tied(seed, servers, 0.2) if ties else random_small(seed, 7, servers, 3)
    problem = build_problem(graph, network, times, noise.layers)
    weights = latency_weights(network), energy_weights(network)
    found = []
    for block, small in ((2**18, 2**15), (12, 0)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sweep, "BLOCK", block)
            patch.setattr(sweep, "SMALL", small)
            if starred:
                patch.setattr(factors, "ENOUGH", -math.inf)
                patch.setattr(factors, "FACTORS", (0,))
            for free in (False, True):
                optima = eliminate(problem, *weights, free_bits=free)
                finite = [s for s in range(len(optima.value)) if math.isfinite(optima.value[s])]
                placed = [optima.best() if free else optima.placement(s) for s in finite]
                found.append((optima.value, optima.values, placed))
    for whole, blocks in zip(found[:2], found[2:], strict=True):
        assert np.array_equal(whole[0], blocks[0]) or whole[0] == pytest.approx(blocks[0], rel=1e-12)
        assert blocks[1] == pytest.approx(whole[1], rel=1e-12)
        assert blocks[2] == whole[2]


@quick
@given(seed=st.integers(0, 10**6))
def test_bits_whose_cost_is_below_zero_are_taken(seed):
    graph, network, times, noise = random_small(seed, 5, 2, 3)
    problem = build_problem(graph, network, times, noise.layers)
    weights = latency_weights(network), energy_weights(network)
    costs = np.random.default_rng(seed).uniform(-20, 5, (3, 2))
    every = eliminate(problem, *weights).value
    asked = [every[s] + sum(costs[j, s >> j & 1] for j in range(3)) for s in range(8)]
    free = eliminate(problem, *weights, free_bits=True, bit_costs=costs)
    assert free.values[0] == pytest.approx(min(asked), rel=1e-12)
    assert free.best()[1] == int(np.argmin(asked))
