"""The execution graph: components, arrows and the timeline of a plan."""

import numpy as np
import pytest
from helpers.coded_problems import coded_small
from helpers.problems import by_hand

import dnnsplit as ds
from dnnsplit.graph.partitions import components
from dnnsplit.ground.units import show

PARALLEL = {"a": "device", "b": "edge", "c": "device", "d": "device"}


def by_hand_plan():
    problem = by_hand()
    return (*problem, ds.split(*problem, pins=PARALLEL))


def test_components_arrows_and_both_times_by_hand():
    graph, network, times, plan = by_hand_plan()
    figure, numbers = ds.plots.execution(graph, network, times, plan, "by hand")
    parts = numbers["components"]
    assert parts["name"] == ["device 0", "edge 0", "device 1"]
    assert parts["layers"] == [2, 1, 1]
    assert parts["seconds"] == [5.0, 0.5, 0.5]
    arrows = {(a["source"], a["target"]): (a["tensors"], a["size_bytes"], a["seconds"], a["crosses"]) for a in numbers["arrows"]}
    assert arrows == {
        ("input", "device 0"): (["input"], 0.0, 0.0, False),
        ("device 0", "edge 0"): (["t1"], 400.0, 4.5, True),
        ("device 0", "device 1"): (["t3"], 0.0, 0.0, False),
        ("edge 0", "device 1"): (["t2"], 200.0, 1.25, True),
        ("device 1", "output"): (["out"], 0.0, 0.0, False),
    }
    assert (numbers["sum_s"], numbers["makespan_s"]) == (11.75, 10.75)
    assert figure.axes[0].get_title(loc="left") == "by hand: sum 11.75 s, makespan 10.75 s, 8.5 % less"
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == [
        "one after the other", "device", "edge", "device → edge", "edge → device"
    ]  # fmt: skip


def test_the_timeline_draws_the_schedule_and_the_sum_of_it():
    figure, numbers = ds.plots.execution(*by_hand_plan())
    bars = [(bar.get_x(), bar.get_width(), round(bar.get_y() + 0.37, 2)) for bar in figure.axes[1].patches]
    own, summed = bars[::2], bars[1::2]
    starts = np.array(numbers["schedule"]["start_s"])
    assert [x for x, _, _ in own] == starts.tolist()
    assert {height for *_, height in summed} == {0.0}
    assert summed[0][0] == 0
    assert [x + width for x, width, _ in summed[:-1]] == [x for x, _, _ in summed[1:]]  # no gap, no overlap
    assert summed[-1][0] + summed[-1][1] == pytest.approx(numbers["sum_s"])
    assert max(x + width for x, width, _ in own) == numbers["makespan_s"]


@pytest.mark.parametrize("seed", range(4))
def test_it_is_the_makespan_and_the_sum_of_any_plan_with_its_forms(seed):
    graph, network, times, noise = coded_small(seed, layers=6, servers=3)
    slow = network.with_bandwidths({("s0", "s1"): 2.0})
    pins = dict(zip(graph.layer_names, np.random.default_rng(seed).choice(network.server_names, 6).tolist(), strict=True))
    plan = ds.split(graph, slow, times, noise, pins=pins)
    figure, numbers = ds.plots.execution(graph, slow, times, plan)
    found = ds.makespan(graph, slow, times, plan.assignment, plan.quantized, plan.routes, plan.forms)
    assert numbers["makespan_s"] == found
    assert numbers["sum_s"] == plan.latency_s
    assert [list(names) for names in numbers["components"]["of"]] == [list(c) for c in components(graph, plan.assignment)]
    assert sum(numbers["components"]["int8"]) == len(plan.quantized)
    crossed = {(t.tensor, t.target): t for t in plan.transfers}
    servers = dict(zip(numbers["components"]["name"], numbers["components"]["server"], strict=True))
    servers |= dict.fromkeys(("input", "output"), plan.source)
    told = {(tensor, servers[arrow["target"]]) for arrow in numbers["arrows"] if arrow["crosses"] for tensor in arrow["tensors"]}
    assert told == {key for key, t in crossed.items() if t.source != t.target}
    for arrow in numbers["arrows"]:
        hops = [crossed[tensor, servers[arrow["target"]]] for tensor in arrow["tensors"]] if arrow["crosses"] else []
        if hops:
            assert arrow["seconds"] == pytest.approx(sum(hop.whole_s for hop in hops))
            assert set(arrow["forms"]) == {hop.form for hop in hops} - {"float32", "int8"}
    drawn = {text.get_text() for text in figure.axes[0].texts}
    assert all(any(show(a["seconds"], "s") in text for text in drawn) for a in numbers["arrows"] if a["crosses"])


def test_one_server_has_one_component_and_nothing_to_gain():
    graph, network, times, noise = ds.examples.yolo11n("device")
    plan = ds.split(graph, network, times, noise, max_noise=0.05)
    figure, numbers = ds.plots.execution(graph, network, times, plan)
    assert numbers["components"]["layers"] == [len(graph.layers)]
    assert numbers["makespan_s"] == pytest.approx(numbers["sum_s"])
    assert numbers["side_by_side"] == []
    assert [t.get_text() for t in figure.axes[1].get_yticklabels()] == ["one after the other", "device"]


def test_labels_of_twenty_components_do_not_hide_each_other():
    graph, network, times, _ = ds.examples.random_problem(60, 3, seed=4)
    pins = {name: f"s{i // 3 % 3}" for i, name in enumerate(graph.layer_names)}
    plan = ds.split(graph, network, times, pins=pins)
    figure, numbers = ds.plots.execution(graph, network, times, plan)
    assert len(numbers["components"]["name"]) >= 20
    figure.set_dpi(220)  # as it is saved: at less, glyphs are wider
    figure.draw_without_rendering()
    texts = [text.get_window_extent() for text in figure.axes[0].texts if text.get_zorder() == 5]
    crossing = sum(arrow["crosses"] for arrow in numbers["arrows"])
    assert len(texts) == crossing
    hidden = [(a, b) for i, a in enumerate(texts) for b in texts[:i] if min(a.x1, b.x1) - max(a.x0, b.x0) > 1
              and min(a.y1, b.y1) - max(a.y0, b.y0) > 0.15 * min(a.height, b.height)]  # fmt: skip
    assert not hidden
