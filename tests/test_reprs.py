"""What an explorer sees in a shell: objects of the shipped example fit its columns, and have units that people read."""

import inspect
import re

import pytest
from helpers.stages import NO_STAGES, SOME

import dnnsplit as ds
from dnnsplit.ground.markup import WIDTH, folded, readable


@pytest.fixture(scope="module")
def objects():
    """By name, what the line makes of the shipped example."""
    graph, network, times, noise = instance = ds.examples.yolo11n("device-edge-cloud")
    asked = {"max_noise": 0.05, "confidence": 0.95}
    plan = ds.split(*instance, **asked)
    ranges = {tensor.name: (0.0, 1.0) for tensor in graph.tensors}
    limits = {"max_noises": [0.05], "progress": False}
    return {
        "instance": instance, "graph": graph, "network": network, "times": times, "noise": noise, "plan": plan, "cost": plan.cost,
        "samples": ds.NoiseSamples.load(ds.examples.data_folder() / "noise" / "yolo11n-ppe-320.csv"),
        "throughput": ds.split(*instance, objective="throughput", max_noise=0.05),
        "front": ds.pareto(*instance, confidence=0.95, energy_weight=0.5, progress=False), "forms": times.forms,
        "energy": ds.energy_front(*instance, max_noise=0.05, progress=False),
        "explanation": ds.explain(plan, *instance, **asked), "overhead": times.overhead["device"],
        "bandwidths": ds.bandwidths(*instance, max_noise=0.05, link=("device", "cloud")),
        "adaptive": ds.adaptive_plans(*instance, bandwidths={("device", "cloud"): ["1 MB/s"]}, **limits),
        "calibration": ds.Calibration(ranges, ds.QuantizationSetting(), "0" * 64, "1" * 64), "setting": ds.QuantizationSetting(),
    } | {type(one).__name__: one for some in (graph.layers, graph.tensors, network.servers, network.links, plan.transfers)
         for one in some}  # fmt: skip


def test_no_line_is_wider_than_a_shell(objects):
    wide = {name: line for name, one in objects.items() for line in f"{one!r}\n{one}".splitlines() if len(line) > WIDTH}
    assert wide == {}


@pytest.mark.parametrize("one", SOME, ids=lambda one: type(one).__name__)
def test_no_object_shows_many_digits_or_its_fields(one):
    text = f"{one!r}\n{one}"
    assert max(map(len, text.splitlines())) <= WIDTH
    assert not re.search(r"\d\.\d{5,}|_s=|_bytes=|_j=|_w=", text)


def test_every_stage_has_a_repr_of_its_own():
    public = [getattr(ds, name) for name in ds.__all__]
    stages = [one for one in public if inspect.isclass(one) and not issubclass(one, Exception) and one.__name__ not in NO_STAGES]
    assert [one.__name__ for one in stages if one.__repr__ is object.__repr__] == []


def test_a_table_has_milliseconds(objects):
    for name in ("front", "explanation", "bandwidths", "adaptive", "plan", "times", "forms"):
        html = objects[name]._repr_html_()
        assert re.search(r"<td [^>]*>[\d.]+ (ms|s|µs|GB/s|MB/s|kB/s)</td>", html), name
        assert not re.search(r"<th [^>]*>\w+_(s|j|bytes|bytes_per_s)</th>", html), name


def test_a_front_is_a_table_and_a_curve(objects):
    html, front = objects["front"]._repr_html_(), objects["front"]
    assert html.count("<circle") == len(front.plans) == html.count("<tr>") - 1
    lines = repr(front).splitlines()
    assert lines[0].startswith(f"Front({len(front.plans)} plans: ")
    assert len(lines) <= 15


def test_lines_break_at_blanks_and_never_between_a_number_and_its_unit():
    text = folded("  one: " + "12.5 ms, " * 20)
    assert all(len(line) <= WIDTH for line in text.splitlines())
    assert not any(line[-1].isdigit() for line in text.splitlines())
    assert " ".join(text.split()) == "one: " + ("12.5 ms, " * 20).strip()
    assert folded("short\n\n  kept") == "short\n\n  kept"


def test_words_in_a_column_with_a_unit_stay():
    import pandas as pd

    table = readable(pd.DataFrame({"transmit_w": ["1 W + 2 W per Mbit/s"], "memory_bytes": [None], "rate_bytes_per_s": [5e6]}))
    assert table.to_dict("records") == [{"transmit": "1 W + 2 W per Mbit/s", "memory": "", "rate": "5 MB/s"}]
