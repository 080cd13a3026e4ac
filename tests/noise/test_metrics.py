"""Metrics of the noise, by hand."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.noise.metrics import PER_OUTPUT, check_metric, errors, fragile, kept, metrics_of, ranked

ONE, TWO = np.array([[3.0, 4.0]], np.float32), np.array([[1.0, -1.0, 0.0, 0.0]], np.float32)


def test_one_image_by_hand():
    found = dict(zip(kept(("a", "b")), errors([ONE, TWO], [ONE + 1, TWO * 0.5]), strict=True))
    assert found == pytest.approx({
        "rho:a": 1.0, "relative:a": 1 / 3.5, "nsr:a": (2 / 25) ** 0.5,
        "inf:a": 1.0, "l1:a": 2.0, "l2:a": 2**0.5, "l2_mean:a": 2**0.5 / 2,
        "rho:b": 0.25, "relative:b": 0.5, "nsr:b": 0.5,
        "inf:b": 0.5, "l1:b": 1.0, "l2:b": 0.5**0.5, "l2_mean:b": 0.5**0.5 / 4,
    })  # fmt: skip


def test_the_outputs_that_are_compared_stay_as_they_are():
    wanted, output = ONE.copy(), ONE + 1
    errors([wanted], [output])
    assert (wanted == ONE).all()
    assert (output == ONE + 1).all()


def test_metrics_and_their_spread_over_images_by_hand():
    a, b = [[1.0, 0.1, 0.01, 4.0, 9.0, 5.0, 0.5], [3.0, 0.5, 0.1, 8.0, 27.0, 9.0, 0.9]], [[3.0, 0.3, 0.03], [5.0, 0.3, 0.1]]
    numbers = np.array([[[*a[0], *b[0], 2.0, 1.0, 1.0, 0.1], [*a[1], *b[1], 2.0, 3.0, 3.0, 0.3]]])
    row = metrics_of(numbers, ("a", "b")).iloc[0]
    assert row["rho"] == pytest.approx(3.0)  # of 2 and 4
    assert row["rho std"] == pytest.approx(2**0.5)
    assert row["rho:a"] == 2.0
    assert row["relative"] == pytest.approx(0.3)  # of 0.2 and 0.4
    assert row["relative std"] == pytest.approx(0.1 * 2**0.5)
    powers = np.array([(0.01**2 + 0.03**2) / 2, 0.01])
    assert row["nsr"] == pytest.approx(np.sqrt(powers).mean())
    assert row["snr_db"] == pytest.approx((-10 * np.log10(powers)).mean())
    assert row["snr_db:b"] == pytest.approx((-20 * np.log10([0.03, 0.1])).mean())
    norms = {"inf": 4.0, "l1": 10.0, "l2": 4.5, "l2_mean": 0.45}  # of 3 and 5, 5 and 15, 3 and 6, 0.3 and 0.6
    assert row[[*norms]].to_dict() == pytest.approx(norms)
    assert row["l1 std"] == pytest.approx(50**0.5)
    assert row["inf:a"] == 6.0
    single = metrics_of(numbers[..., :7], ("a",))
    assert not [name for name in single if ":" in name]


@given(st.lists(st.floats(-10, 10, width=32), min_size=1, max_size=5))
def test_nothing_changed_is_exactly_no_noise(values):
    output = np.array(values, np.float32)
    numbers = errors([output], [output.copy()])
    assert not numbers.any()
    row = metrics_of(numbers[None, None], ("o",)).iloc[0]
    assert not row[[*PER_OUTPUT]].any()
    assert row["snr_db"] == np.inf


def test_outputs_of_one_row_rank_classes():
    assert ranked([(1, 3), (1, 1), (2, 3), (1, 3, 4), (3,), (1, 2)]) == (0, 5)
    scores = np.array([[0.2, 0.7, 0.1]], np.float32)
    other = np.array([[0.5, 0.4, 0.1]], np.float32)
    names = kept(("a", "b", "c"), True, (0, 2))
    assert names[-3:] == ("top1:a", "top1:c", "disagreement")
    found = errors([scores, scores, scores], [other, other, scores * 2], ranking=(0, 2))
    assert found[-2:].tolist() == [1.0, 0.0]
    row = metrics_of(
        np.array([[[*found], [*errors([scores] * 3, [scores] * 3, ranking=(0, 2))]]]), ("a", "b", "c"), ranking=(0, 2)
    ).iloc[0]
    assert (row["top1:a"], row["top1:c"], row["top1"]) == (0.5, 0.0, 0.25)  # of two images, and of both outputs
    assert row["top1 std"] == pytest.approx(0.5**0.5 / 2)
    alone = metrics_of(errors([scores], [other], ranking=(0,))[None, None], ("a",), ranking=(0,)).iloc[0]
    assert alone["top1"] == 1.0
    check_metric("top1", ("a",), False, (0,))
    check_metric("top1:a", ("a", "b"), False, (0,))
    for metric, outputs in (("top1", ("a",)), ("top1:a", ("a", "b"))):
        with pytest.raises(ds.NoiseError, match="is unknown"):
            check_metric(metric, outputs, False)


def test_an_output_that_is_zero_everywhere_has_no_relative_noise():
    assert errors([0 * ONE], [ONE])[1:3].tolist() == [np.inf, np.inf]
    assert errors([0 * ONE], [ONE])[3:].tolist() == [4.0, 7.0, 5.0, 2.5]


def test_only_what_is_zero_without_quantization_can_be_the_noise():
    for metric in PER_OUTPUT:
        check_metric(metric, ("a",), False)
    check_metric("rho:a", ("a", "b"), False)
    check_metric("disagreement", ("a",), True)
    for metric, outputs in (("snr_db", ("a",)), ("rho:a", ("a",)), ("disagreement", ("a",)), ("map50", ("a",)), ("l3", ("a",))):
        with pytest.raises(ds.NoiseError, match="is unknown"):
            check_metric(metric, outputs, False)


def alone(noise, relative=None):
    rows = np.vstack([np.zeros((1, len(noise))), np.eye(len(noise))]).astype(int)
    frame = pd.DataFrame(rows, columns=[f"l{i}" for i in range(len(noise))]).assign(noise=[0, *noise])
    return ds.NoiseSamples(frame, details=None if relative is None else pd.DataFrame({"relative": [0, *relative]}))


def test_fragile_layers_are_named_noisiest_first():
    assert fragile(alone([1, 2, 1, 39, 1])) == {"l3": 39.0}
    assert list(fragile(alone([1, 2, 1, 39, 1, 50]), times=10)) == ["l5", "l3"]
    assert fragile(alone([1, 2, 1, 20, 1])) == {}
    assert fragile(alone([1, 2, 1], [0.1, 0.51, 0.5])) == {"l1": 2.0}
    some = alone([1, 2, 3])
    with pytest.raises(ds.NoiseError, match=r"1 layers were not measured alone \('l2' is one\)"):
        fragile(ds.NoiseSamples(some.frame[:3]))


def test_the_decoding_tail_of_the_shipped_detector_is_fragile(shipped):
    pictures = ds.examples.load_images("", 2, seed=2)
    every = shipped.quantizable(10**9)
    some = (*every[::4], "/model.23/dfl/conv/Conv")
    for setting in ("default", "thesis"):
        samples = ds.measure_noise(shipped, pictures, some, "alone", setting, progress=False, detections=True)
        assert list(fragile(samples)) == ["/model.23/dfl/conv/Conv"]
        worst = samples.details["disagreement"].to_numpy()[1:].argmax()
        assert samples.layers[worst] == "/model.23/dfl/conv/Conv"


def test_details_belong_to_the_samples():
    with pytest.raises(ds.NoiseError, match="details of 2 samples, and 4 samples"):
        ds.NoiseSamples(alone([1, 2, 3]).frame, details=pd.DataFrame({"rho": [1.0, 2.0]}))
