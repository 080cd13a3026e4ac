"""Figures: the numbers they draw, and the files they leave."""

import json

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from helpers.coded_problems import coded_small
from helpers.figure_tables import planned

import dnnsplit as ds
from dnnsplit.ground.units import show


@pytest.fixture(autouse=True)
def _nothing_left_to_pyplot():
    yield
    assert not plt.get_fignums()  # a notebook would show it a second time


def samples(seed=0):
    noise = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.1, "b": 0.05, "c": 0.02, ("a", "b"): -0.03}, intercept=0.01)
    schemes = np.array(np.meshgrid([0, 1], [0, 1], [0, 1])).reshape(3, -1).T
    wiggle = 1 + 0.01 * np.random.default_rng(seed).random(len(schemes))
    return ds.NoiseSamples(pd.DataFrame(schemes, columns=list("abc")).assign(noise=noise.predict(schemes) * wiggle))


def test_a_figure_is_saved_with_its_numbers(tmp_path):
    figure, numbers = ds.plots.sensitivity(samples())
    paths = ds.plots.save(figure, tmp_path, "sensitivity", numbers)
    assert paths["png"].read_bytes().startswith(b"\x89PNG")
    assert paths["svg"].read_text().startswith("<?xml")
    stored = json.loads(paths["json"].read_text())
    assert stored["figure"] == "sensitivity"
    assert stored["dnnsplit"]
    assert list(stored["alone"]) == ["a", "b", "c"]


def test_the_same_numbers_give_the_same_bytes(tmp_path):
    for folder in ("one", "two"):
        ds.plots.save(*_swap(ds.plots.sensitivity(samples()), tmp_path / folder))
    for ending in ("svg", "png", "json"):
        assert (tmp_path / "one" / f"s.{ending}").read_bytes() == (tmp_path / "two" / f"s.{ending}").read_bytes()


def test_a_footer_is_written_below_all_else_and_into_the_json(tmp_path):
    figure, numbers = ds.plots.topologies(planned(["device"], weights=[1.0]))
    other, _ = ds.plots.weight_panels(planned(["device"], weights=[1.0]))
    for drawn in (figure, other):
        for footer in ("untrained: random", "pretrained: a"):  # saved again, it has the last one
            paths = ds.plots.save(drawn, tmp_path, "figure", numbers, footer)
            assert json.loads(paths["json"].read_text())["footer"] == footer
            assert [text.get_text() for text in drawn.texts] == ["10\N{NO-BREAK SPACE}plans", footer]
        svg = paths["svg"].read_text()
        assert "pretrained: a" in svg
        assert "untrained" not in svg
    legend = other.legends[0].get_window_extent()
    assert other.texts[1].get_window_extent().y1 < legend.y0
    assert legend.y1 < min(axis.xaxis.label.get_window_extent().y0 for axis in other.axes if axis.get_xlabel())


def test_without_a_footer_the_json_has_none(tmp_path):
    figure, numbers = ds.plots.sensitivity(samples())
    paths = ds.plots.save(figure, tmp_path, "sensitivity", numbers)
    assert "footer" not in json.loads(paths["json"].read_text())
    assert [text.get_text() for text in figure.texts] == ["8\N{NO-BREAK SPACE}schemes measured"]  # the line above alone


def _swap(pair, folder):
    return pair[0], folder, "s", pair[1]


def test_noise_fit_scores_what_was_fitted_to_and_what_was_not():
    data = samples()
    model = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.1, "b": 0.05, "c": 0.02, ("a", "b"): -0.03}, intercept=0.01)
    none = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.0}, intercept=0.05)
    train, test = data.only(np.arange(5)), data.only(np.arange(5, 8))  # the last one has all layers in int8
    figure, numbers = ds.plots.noise_fit({"known": model, "flat": none}, train, test)
    titles = ["known, train", "known, test", "flat, train", "flat, test"]
    assert [axis.get_title(loc="left").split(":")[0] for axis in figure.axes] == titles
    for axis, title in zip(figure.axes, titles, strict=True):
        name, what = title.split(", ")
        told, some = numbers["models"][name][what], {"train": train, "test": test}[what]
        assert axis.get_title(loc="left").endswith(f"$R^2$ = {told['R2']:.4f}")
        assert axis.collections[0].get_offsets().tolist() == np.transpose([some.noise, told["predicted"]]).tolist()
    assert numbers["models"]["known"]["test"]["R2"] > 0.99 > numbers["models"]["flat"]["test"]["R2"]
    assert numbers["every"] == data.noise[-1]
    dashed = [[line.get_xdata()[0] for line in axis.lines if line.get_linestyle() == "--"] for axis in figure.axes]
    assert dashed == [[numbers["every"]], [], [numbers["every"]], []]
    assert [axis.get_xlabel() for axis in figure.axes] == ["", "", "measured noise", "measured noise"]


def test_noise_fit_draws_the_noise_of_all_layers_where_it_is_known():
    data = samples()
    model = ds.NoiseModel.polynomial(("a", "b", "c"), {"a": 0.1}, intercept=0.01)
    some = data.only(np.arange(7))
    figure, numbers = ds.plots.noise_fit({"degree 2": model}, some, some)
    assert numbers["every"] is None
    assert len(figure.axes[0].lines) == 1
    figure, numbers = ds.plots.noise_fit({"degree 2": model}, some, some, 0.5)
    assert numbers["every"] == 0.5
    assert figure.axes[0].get_xlim()[1] > 0.5


def test_latency_noise_draws_the_front_and_the_measured_points():
    front = ds.pareto(*ds.examples.tiny()).frame
    measured = pd.DataFrame({"max_noise": [0.0], "latency_s": [0.3], "low_s": [0.29], "high_s": [0.33]})
    figure, numbers = ds.plots.latency_noise(front, "tiny", measured)
    assert numbers["front"]["latency_s"] == list(front["latency_s"])
    assert numbers["measured"]["latency_s"] == [0.3]
    assert "[s]" in figure.axes[0].get_ylabel()
    assert figure.axes[0].get_ylim()[0] == 0
    assert len(figure.axes) == 1  # nothing says what was predicted of them


def test_latency_noise_shows_the_band_of_the_requests_and_the_bias_of_the_predictions():
    front = ds.pareto(*ds.examples.tiny()).frame
    measured = pd.DataFrame({"max_noise": [0.02, 0.0], "predicted_s": [0.22, 0.3], "latency_s": [0.2, 0.4],
                             "low_s": [0.19, 0.39], "high_s": [0.25, 0.44]})  # fmt: skip
    figure, numbers = ds.plots.latency_noise(front, "tiny", measured)
    above, below = figure.axes
    for axis, low, high in (
        (above, [0.39, 0.19], [0.44, 0.25]),
        (below, [100 * (0.3 / 0.44 - 1), -12], [100 * (0.3 / 0.39 - 1), 100 * (0.22 / 0.19 - 1)]),
    ):
        band = {(round(x, 9), round(y, 9)) for x, y in axis.collections[0].get_paths()[0].vertices}
        assert band == {(x, round(y, 9)) for ends in (low, high) for x, y in zip((0.0, 0.02), ends, strict=True)}
    assert numbers["bias_%"] == pytest.approx((10 - 25) / 2)
    assert below.get_title(loc="left") == "Predicted against measured: -7.5 % on average, -25.0 to +10.0 %"
    assert below.get_ylim()[0] == -below.get_ylim()[1]


def test_figures_that_are_compared_have_the_same_axes():
    graph, network, times, noise = ds.examples.tiny()
    fronts = [ds.pareto(graph, one, times, noise).frame for one in (network.only("device"), network)]
    top = max(front["latency_s"].max() for front in fronts)
    figures = [ds.plots.latency_noise(front, "tiny", most=0.1, top=top)[0] for front in fronts]
    assert len({(figure.axes[0].get_xlim(), figure.axes[0].get_ylim()) for figure in figures}) == 1


def test_lines_that_could_hide_each_other_differ_without_colours():
    problem = slowly_linked()
    figure, _ = ds.plots.latency_noise(ds.pareto(*problem).frame, "coded", baselines=ds.single_servers(*problem))
    looks = [(line.get_linestyle(), line.get_linewidth()) for line in figure.axes[0].patches]
    assert len({*looks}) == len(looks) == 3


def test_latency_noise_draws_a_line_per_server_alone_and_names_its_forms():
    problem = slowly_linked()
    alone = ds.single_servers(*problem)
    figure, numbers = ds.plots.latency_noise(ds.pareto(*problem).frame, "coded", most=0.2, baselines=alone)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "planned (exact optimum)", "s0 alone, float32", "s1 alone, float32, input as marked"
    ]  # fmt: skip
    one = alone.drop_duplicates("server")
    labels = ds.plots.latency_noise(ds.pareto(*problem).frame, "coded", baselines=one)[0].legends[0].get_texts()
    assert labels[2].get_text() == f"s1 alone, float32, input as {one['source_form'].iloc[1]}"
    named = [text.get_text().strip() for text in figure.axes[0].texts]
    assert named == list(alone["source_form"][alone["server"] == "s1"])  # the source sends nothing
    assert len(named) > 1
    assert figure.axes[0].get_ylim()[1] > alone["latency_s"].max()
    assert numbers["baselines"]["noise"] == list(alone["noise"])
    fronts = {"coded": ds.energy_front(*problem, progress=False).frame}
    figure, _ = ds.plots.latency_energy(fronts, alone)
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["s0 alone", *(f"s1 alone, {form}" for form in named)]


def test_latency_noise_draws_the_slides_front_as_a_line_of_its_own():
    problem = slowly_linked()
    slides = ds.pareto(*problem, source_forms=["float32"]).frame
    figure, numbers = ds.plots.latency_noise(ds.pareto(*problem).frame, "coded", slides=slides)
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["planned (exact optimum)", "planned, input sent in float32 (slides)"]
    thick, thin = sorted(figure.axes[0].patches, key=lambda line: -line.get_linewidth())
    assert list(thick.get_data().values) == numbers["front"]["latency_s"]
    assert list(thin.get_data().values) == numbers["slides"]["latency_s"] == list(slides["latency_s"])
    assert figure.axes[0].get_ylim()[1] > slides["latency_s"].max()


def slowly_linked():
    graph, network, times, noise = coded_small(0, layers=2)
    return graph, network.with_bandwidths({("s0", "s1"): 2.0}), times, noise


def test_placement_tells_the_forms_of_what_crosses():
    graph, network, times, noise = slowly_linked()
    plan = ds.split(graph, network, times, noise, max_noise=0.0, pins=dict.fromkeys(graph.layer_names, "s1"))
    sent = next(t for t in plan.transfers if t.tensor == "in")
    assert sent.form == plan.source_form != "float32"
    figure, numbers = ds.plots.placement(graph, plan)
    texts = {text.get_text() for text in figure.axes[0].texts}
    assert f"{sent.form}, {show(sent.size_bytes, 'B')}" in texts
    assert f"s0\n0 s\ncodec {show(plan.cost.codec_s['s0'], 's')}" in texts
    assert figure.axes[0].get_title(loc="left").endswith(f"input as {sent.form}")
    told = next(c for c in numbers["crossings"] if c["tensor"] == "in")
    assert (told["form"], told["encode_s"], told["decode_s"]) == (sent.form, sent.encode_s, sent.decode_s)
    assert numbers["source_form"] == sent.form
    assert numbers["codec_s"] == plan.cost.codec_s


def test_placement_labels_what_crosses():
    graph, network, times, noise = ds.examples.tiny()
    plan = ds.split(graph, network, times, noise, pins={"conv2": "edge"})
    figure, numbers = ds.plots.placement(graph, plan, "tiny")
    assert {c["tensor"] for c in numbers["crossings"]} == {t.tensor for t in plan.transfers}
    texts = {t.get_text() for t in figure.axes[0].texts}
    assert {"input", "output"} <= texts
    assert any("kB" in t for t in texts)


def test_tensor_sizes_by_hand():
    _, numbers = ds.plots.tensor_sizes(ds.examples.tiny().graph)
    # image | a | a + b | a + c | scores
    assert numbers["crossing_bytes"].tolist() == [1.2e6, 4e5, 6e5, 4.5e5, 4e3]


def test_layer_seconds_says_where_the_times_come_from():
    figure, numbers = ds.plots.layer_seconds(ds.examples.tiny().times, "edge")
    assert numbers["origin"] == "given"
    assert "given" in figure.axes[0].get_xlabel()
    assert None in numbers["seconds"]["int8"]


def test_measured_is_across_and_predicted_is_up():
    rows = pd.DataFrame({"topology": ["device-edge", "b"], "predicted_s": [1.0, 2.0], "latency_s": [1.1, 1.9]})
    figure, numbers = ds.plots.predicted_measured(rows)
    axis = figure.axes[0]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("measured latency [s]", "predicted latency [s]")
    assert [marks.get_offsets().tolist() for marks in axis.collections] == [[[1.1, 1.0]], [[1.9, 2.0]]]
    assert len({marks.get_paths()[0].vertices.tobytes() for marks in axis.collections}) == 2  # told apart without colours
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["device + edge", "b"]
    banded, _ = ds.plots.predicted_measured(rows.assign(low_s=[1.0, 1.8], high_s=[1.3, 2.5]))
    assert banded.axes[0].collections[0].get_segments()[0].tolist() == [[1.0, 1.0], [1.3, 1.0]]
    assert banded.axes[0].get_xlim()[1] > 2.5
    assert numbers["error_%"] == pytest.approx([-100 * 0.1 / 1.1, 100 * 0.1 / 1.9])


def test_noise_fronts_of_plans_without_noise_have_a_width():
    exact = pd.DataFrame({"noise": [0.0], "latency_s": [0.5]})
    figure, _ = ds.plots.noise_fronts(exact, {"gp": exact.assign(measured=0.0)}, "tiny")
    assert figure.axes[0].get_xlim()[1] > 0


def test_noise_fronts_count_the_plans_that_break_their_limit():
    exact = pd.DataFrame({"noise": [0.0, 0.02, 0.05], "latency_s": [0.4, 0.3, 0.2]})
    model = pd.DataFrame({"noise": [0.0, 0.01, 0.04], "latency_s": [0.4, 0.3, 0.2], "measured": [0.0, 0.012, 0.03]})
    free = pd.DataFrame({"noise": [0.0, 0.06], "latency_s": [0.3, 0.2], "measured": [0.02, 0.06]})
    figure, numbers = ds.plots.noise_fronts(exact, {"gp": model, "bold": free}, "tiny")
    assert {name: part["broken"] for name, part in numbers["predicted"].items()} == {"gp": 1, "bold": 1}
    front, excess = figure.axes
    assert front.get_title(loc="left") + front.get_title() == "tiny"
    assert excess.collections[0].get_offsets()[:, 1].tolist() == pytest.approx([0, 0.002, -0.01])
    told = [text.get_text() for text in figure.legends[0].get_texts()]
    assert told == ["measured noise", "gp: 1 of 3 plans over their limit", "bold: 1 of 2 plans over their limit"]


def test_what_is_read_back_from_its_csv_is_drawn_the_same(tmp_path):
    graph, network, times, noise = ds.examples.tiny()
    found = ds.bandwidths(graph, network, times, noise, link=("device", "edge"))
    found.frame.assign(links="device to edge").to_csv(tmp_path / "b.csv", index=False)
    _, told = ds.plots.bandwidth(found)
    _, read = ds.plots.bandwidth(pd.read_csv(tmp_path / "b.csv"))
    assert len(told["plans"]) == len(read["plans"]) == len(found.lines)
    for line, one, other in zip(found.lines, told["plans"], read["plans"], strict=True):
        assert one["plan"] == other["plan"]
        exact = [line.of("latency_s", b) for b in one["bandwidth_bytes_per_s"]]
        assert one["latency_s"] == pytest.approx(exact)
        assert other["latency_s"] == pytest.approx(exact)
    parts = pd.DataFrame(
        {
            "split": [0, 0, 1, 1], "quantized": [("conv1",), (), (), ()], "seconds": [0.1, 0.2, 0.1, 0.3],
            "predicted_s": [0.1, 0.2, 0.1, 0.3], "priced_s": [0.11, 0.2, 0.1, 0.3],
        }
    )  # fmt: skip
    parts.assign(quantized=parts["quantized"].map(" ".join)).to_csv(tmp_path / "p.csv", index=False)
    _, told = ds.plots.split_times(parts, times, "edge")
    _, read = ds.plots.split_times(pd.read_csv(tmp_path / "p.csv", keep_default_na=False), times, "edge")
    assert told["totals"] == read["totals"]
    assert read["totals"]["int8"] == [1, 0]


def test_drawings_are_saved_and_shown_in_order(tmp_path, monkeypatch):
    import IPython.display

    shown = []
    monkeypatch.setattr(IPython.display, "display", lambda one, **_: shown.append(one))
    drawings = {"one": ds.plots.sensitivity(samples()), "two": ds.plots.tensor_sizes(ds.examples.tiny().graph)}
    ds.plots.save_and_show(drawings, tmp_path, "pretrained")
    assert shown[::2] == [figure for figure, _ in drawings.values()]
    assert [one["text/plain"] for one in shown[1::2]] == [numbers["caption"] for _, numbers in drawings.values()]
    assert all(json.loads((tmp_path / f"{name}.json").read_text())["footer"] == "pretrained" for name in drawings)
    assert {path.name for path in tmp_path.iterdir()} == {f"{n}.{e}" for n in drawings for e in ("json", "png", "svg")}


def test_every_figure_is_a_function_of_one_module():
    from dnnsplit.plots import assignments, grids, measured, noise, slides, times

    for module in (assignments, grids, measured, noise, slides, times):
        functions = [n for n, f in vars(module).items() if getattr(f, "__module__", "") == module.__name__ and n[0] != "_"]
        assert functions
        assert all(getattr(ds.plots, name) is getattr(module, name) and name in ds.plots.__all__ for name in functions)
