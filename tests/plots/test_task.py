"""The figure of what a noise means: every scheme's score against its noise, and what a limit lets in."""

from dataclasses import replace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.noise.schemes import all_schemes


def scored(**details):
    noise = np.array([0.0, 0.03, 0.02, 0.05, 0.01, 0.04, 0.06, 0.07])
    frame = pd.DataFrame(all_schemes(3), columns=list("abc")).assign(noise=noise)
    return ds.NoiseSamples(frame, {"images": 4, "model": "net.onnx", "float32": {"mAP50": 0.9}}, pd.DataFrame(details))


BOTH = scored(
    disagreement=[0.0, 0.03, 0.06, 0.05, 0.01, 0.02, 0.08, 0.07],
    **{"disagreement std": [0.0] + [0.02] * 7, "mAP50_loss": [0.0, 0.01, -0.02, 0.02, 0.0, 0.03, 0.05, 0.04]},
)


def test_points_are_schemes_and_steps_the_worst_of_those_up_to_a_noise():
    limit = ds.noise_for(BOTH, "disagreement", 0.02)
    figure, numbers = ds.plots.noise_task(BOTH, at=0.04, limits=[limit])
    agreed, precision = numbers["metrics"]["disagreement"], numbers["metrics"]["mAP50_loss"]
    assert numbers["noise"] == [0.0, 0.01, 0.02, 0.03, 0.04, 0.05, 0.06, 0.07]
    assert agreed["value"] == pytest.approx([1, 0.99, 0.94, 0.97, 0.98, 0.95, 0.92, 0.93])
    assert agreed["worst"][0] == [0.0, 0.01, 0.02, 0.06, 0.07]  # where it falls, and the end
    assert agreed["worst"][1] == pytest.approx([1, 0.99, 0.94, 0.92, 0.92])
    assert agreed["worst_at"] == pytest.approx(0.94)
    assert agreed["standard_error"] == pytest.approx(0.01)
    assert precision["float32"] == 0.9
    assert precision["value"] == pytest.approx([0.9, 0.9, 0.92, 0.89, 0.87, 0.88, 0.85, 0.86])
    assert precision["above_float32_%"] == pytest.approx(12.5)
    assert precision["standard_error"] is None
    first, second = figure.axes
    offsets = np.asarray(first.collections[0].get_offsets())
    assert offsets == pytest.approx(np.column_stack([numbers["noise"], agreed["value"]]))
    marked = [line for line in first.lines if line.get_linestyle() == "--"]
    assert marked[0].get_xdata()[0] == limit.limit == 0.01
    assert marked[1].get_ydata()[0] == pytest.approx(0.98)
    assert not [line for line in second.lines if line.get_linestyle() == "--"]
    assert numbers["limits"] == {"disagreement": 0.01}
    assert "all 8 choices of 3 int8 layers" in numbers["caption"]
    assert "same 4 images" in numbers["caption"]
    assert "F1 agreement with float32: 1 of the float32 model, 0.94 at worst up to a noise of 0.04" in numbers["alt"]
    assert "12 % of the schemes score above float32" in numbers["alt"]
    assert not plt.get_fignums()


def test_lossy_forms_are_marked_and_may_be_the_worst():
    rows = pd.DataFrame([[0, 0, 0]], columns=list("abc"))
    forms = {
        form: ds.NoiseSamples(rows.assign(noise=noise), {"source": form}, pd.DataFrame({"disagreement": [loss]}))
        for form, noise, loss in (("jpeg-95", 0.025, 0.065), ("webp-90", 0.3, 0.2))
    }
    figure, numbers = ds.plots.noise_task(replace(BOTH, sources=forms), ["disagreement"])
    told = numbers["metrics"]["disagreement"]
    assert told["forms"] == {"jpeg-95": pytest.approx([0.025, 0.935]), "webp-90": pytest.approx([0.3, 0.8])}
    assert told["worst"][0] == [0.0, 0.01, 0.02, 0.025, 0.06, 0.3, 0.3]
    assert told["worst"][1] == pytest.approx([1, 0.99, 0.94, 0.935, 0.92, 0.8, 0.8])
    assert told["worst_at"] == pytest.approx(0.935)
    assert [text.get_text().strip() for text in figure.axes[0].texts] == ["jpeg-95", r"webp-90: 0.8 at 0.3 $\rightarrow$"]
    assert "jpeg-95, webp-90: inputs in these forms, nothing in int8" in numbers["caption"]


def test_any_metric_is_drawn_by_its_name():
    _, numbers = ds.plots.noise_task(scored(nsr=[0.0, 0.3, 0.2, 0.5, 0.1, 0.4, 0.6, 0.7]), ["nsr"])
    told = numbers["metrics"]["nsr"]
    assert told["value"] == told["worst"][1][:-1] == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7])
    assert told["rank_correlation"] == pytest.approx(1)


def test_bins_hold_as_many_schemes_each():
    rng = np.random.default_rng(0)
    noise = rng.permutation(64) / 64
    layers = [f"l{i}" for i in range(6)]
    frame = pd.DataFrame(all_schemes(6), columns=layers).assign(noise=noise)
    _, numbers = ds.plots.noise_task(ds.NoiseSamples(frame, {}, pd.DataFrame({"inf": noise})), ["inf"])
    bins = numbers["metrics"]["inf"]["bins"]
    assert bins["noise"] == pytest.approx((4 * np.arange(16) + 1.5) / 64)
    assert bins["median"] == pytest.approx(bins["noise"])
    assert np.subtract(bins["high"], bins["low"]) == pytest.approx(0.9 * 3 / 64)


@pytest.mark.parametrize(
    ("metrics", "match"), [([], "what their noise does to a task"), (["nsrr"], r"'nsrr' \(did you mean 'nsr'")]
)
def test_what_was_not_measured_is_not_drawn(metrics, match):
    with pytest.raises(ds.NoiseError, match=match):
        ds.plots.noise_task(scored(nsr=np.arange(8.0)), metrics)
