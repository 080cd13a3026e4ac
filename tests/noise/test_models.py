"""Noise samples, the models eta(q), and how they are scored."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnsplit.ground.errors import NoiseError
from dnnsplit.noise.fit import fit_noise, noise_scores
from dnnsplit.noise.models import NoiseModel, NoiseSamples
from dnnsplit.noise.schemes import all_schemes, sample_schemes

LAYERS = tuple("abcdef")


def samples(count, noise, layers=LAYERS):
    """Samples of `count` schemes whose noise is a function of the 0/1 columns."""
    q = sample_schemes(len(layers), count)
    return NoiseSamples(pd.DataFrame(q, columns=list(layers)).assign(noise=noise(q.T.astype(float))))


def small():
    return pd.DataFrame({"a": [0, 1, 0, 1], "b": [0, 0, 1, 1], "noise": [0, 0.1, 0.2, 0.25]})


def refused(says, make, *args, **options):
    with pytest.raises(NoiseError) as error:
        make(*args, **options)
    for part in says:
        assert part in str(error.value), str(error.value)


# ---------------------------------------------------------------- the polynomial by hand

ETA = NoiseModel.polynomial(("a", "b", "c"), {("a",): 0.1, "b": 0.2, ("a", "b"): -0.05, ("b", "c"): 0.5}, intercept=0.01)


@pytest.mark.parametrize(
    ("scheme", "noise"),
    [
        ([0, 0, 0], 0.0),
        ([1, 0, 0], 0.01 + 0.1),
        ([0, 1, 0], 0.01 + 0.2),
        ([0, 0, 1], 0.01),  # the intercept alone
        ([1, 1, 0], 0.01 + 0.1 + 0.2 - 0.05),
        ([1, 1, 1], 0.01 + 0.1 + 0.2 - 0.05 + 0.5),
    ],
)
def test_the_intercept_counts_once_when_any_layer_is_quantized(scheme, noise):
    assert ETA.predict([scheme])[0] == pytest.approx(noise, abs=1e-15)


def test_nothing_quantized_is_exactly_no_noise():
    assert ETA.predict([[0, 0, 0]]).tolist() == [0.0]
    assert ETA.of(()) == 0.0


def test_noise_is_clipped_at_zero():
    eta = NoiseModel.polynomial(("a", "b"), {"a": 0.1, "b": -0.3})
    assert eta.predict([[1, 0], [0, 1], [1, 1]]) == pytest.approx([0.1, 0.0, 0.0])


@pytest.mark.parametrize(("schemes", "count"), [([1, 0, 0], 1), ([[1, 0, 0]], 1), (np.eye(3), 3), (np.zeros((0, 3)), 0)])
def test_predict_answers_one_number_per_row(schemes, count):
    assert ETA.predict(schemes).shape == (count,)


def test_booleans_are_schemes_too():
    assert ETA.predict(np.array([[True, False, False]]))[0] == pytest.approx(0.11)


def test_of_takes_names():
    assert ETA.of(["c", "b"]) == pytest.approx(0.71)
    refused(["'bb' is not a quantizable layer", "did you mean 'b'"], ETA.of, ["bb"])


def test_every_counts_with_the_first_layer_lowest():
    assert ETA.every() == pytest.approx([0, 0.11, 0.21, 0.26, 0.01, 0.11, 0.71, 0.76])


def test_a_term_may_name_its_layers_in_any_order_and_again():
    eta = NoiseModel.polynomial(("a", "b"), {("b", "a"): 0.1, ("a", "b"): 0.2, ("a", "a"): 0.4})
    assert dict(eta.terms) == {("a", "b"): pytest.approx(0.3), ("a",): 0.4}


@settings(deadline=None, max_examples=30)
@given(st.lists(st.floats(-1, 1), min_size=6, max_size=6), st.floats(-1, 1))
def test_the_polynomial_is_the_sum_of_its_terms(c, intercept):
    keys = [("a",), ("b",), ("c",), ("a", "b"), ("b", "c"), ("a", "b", "c")]
    eta = NoiseModel.polynomial(("a", "b", "c"), dict(zip(keys, c, strict=True)), intercept)
    for scheme, noise in zip(all_schemes(3).tolist(), eta.every(), strict=True):
        on = {name for name, bit in zip("abc", scheme, strict=True) if bit}
        by_hand = (intercept if on else 0) + sum(v for key, v in zip(keys, c, strict=True) if on.issuperset(key))
        assert noise == pytest.approx(max(0.0, by_hand), abs=1e-12)


@pytest.mark.parametrize(
    ("layers", "terms", "options", "says"),
    [
        (("conv1", "conv2"), {("conv1", "conv3"): 1.0}, {}, ["'conv3' is not a quantizable layer", "did you mean"]),
        (("a", "a"), {}, {}, ["layer 'a' is named twice"]),
        (("a",), {(): 1.0}, {}, ["empty term", "intercept="]),
        (("a",), {"a": math.nan}, {}, ["terms['a'] is nan", "give a number"]),
        (("a",), {"a": "big"}, {}, ["terms['a'] is 'big'", "give a number"]),
        (("a",), {"a": None}, {}, ["terms['a'] is None", "give a number"]),
        (("a",), {}, {"intercept": math.inf}, ["intercept is inf", "finite"]),
        (("a",), {}, {"intercept": "x"}, ["intercept is 'x'", "give a number"]),
        (("a",), {"b": 1.0, "a": math.inf}, {}, ["2 problems", "'b'", "inf"]),
    ],
)
def test_a_wrong_polynomial_is_refused(layers, terms, options, says):
    refused(says, NoiseModel.polynomial, layers, terms, **options)


@pytest.mark.parametrize(
    ("schemes", "says"),
    [
        ([[1, 0]], ["2 entries", "3 layers"]),
        ([], ["0 entries", "3 layers"]),
        (1, ["1 entries", "3 layers"]),
        ([[2, 0, 0]], ["other than 0 and 1"]),
        ([[0.5, 0, 0]], ["other than 0 and 1"]),
        ([[math.nan, 0, 0]], ["other than 0 and 1"]),
        ([["a", "b", "c"]], ["other than 0 and 1"]),
        ([[1, 0, 0], [1]], ["different numbers of entries"]),
        (np.zeros((1, 3, 3)), ["(1, 3, 3)", "one row per scheme"]),
    ],
)
def test_a_wrong_scheme_is_refused(schemes, says):
    refused(says, ETA.predict, schemes)


def test_repr_and_html_of_a_model():
    assert repr(ETA) == "NoiseModel(polynomial over 3 layers, 4 terms)"
    fitted = fit_noise(samples(64, lambda q: q.sum(axis=0)), degree=1)
    assert repr(fitted) == "NoiseModel(polynomial over 6 layers, 6 terms, degree 1, R2 1)"
    assert "MAPE_%" in fitted._repr_html_()


# ---------------------------------------------------------------- the table of measured schemes


def test_the_table_answers_what_was_measured():
    table = fit_noise(NoiseSamples(small(), {"metric": "rho"}), "measured")
    assert table.predict([[1, 1], [0, 1], [0, 0]]).tolist() == [0.25, 0.2, 0.0]
    assert table.origin == {"metric": "rho"}
    assert repr(table) == "NoiseModel(table over 2 layers, 4 measured schemes)"


def test_the_table_refuses_what_was_not_measured():
    table = NoiseModel.measured(NoiseSamples(small()[1:3]))
    assert table.of(()) == 0.0  # known without a measurement
    assert table.every().tolist() == [0.0, 0.1, 0.2, math.inf]
    refused(["1 of ", "2 schemes were not measured", "fit_noise"], table.predict, [[1, 1], [1, 0]])


def test_a_table_with_noise_where_nothing_is_quantized_is_refused():
    refused(["0.5", "must be 0"], NoiseModel.measured, NoiseSamples(small().assign(noise=0.5)))


# ---------------------------------------------------------------- the fit


def test_an_exact_polynomial_of_degree_2_is_recovered():
    exact = samples(64, lambda q: 0.02 * q.any(axis=0) + 0.1 * q[0] + 0.3 * q[1] - 0.05 * q[0] * q[1] + 0.01 * q[5])
    fitted = fit_noise(exact, degree=2)
    assert fitted.scores["R2"] == pytest.approx(1.0, abs=1e-9)
    assert fitted.scores["MAPE_%"] == pytest.approx(0.0, abs=1e-6)
    assert fitted.scores["terms"] == 1 + 6 + 15
    assert fitted.scores["samples"] == 63  # the scheme that quantizes nothing is no sample
    assert fitted.intercept == pytest.approx(0.02)
    assert fitted.terms["a",] == pytest.approx(0.1)
    assert fitted.terms["a", "b"] == pytest.approx(-0.05)
    assert fitted.terms["e", "f"] == pytest.approx(0.0, abs=1e-12)
    assert fitted.of(("a", "b")) == pytest.approx(0.02 + 0.1 + 0.3 - 0.05)
    assert fitted.of(()) == 0.0


def cubic(q):
    return 0.5 * q.any(axis=0) + 0.1 * q[0] + 0.3 * q[1] * q[2] + 0.7 * q[3] * q[4] * q[5]


def test_an_exact_polynomial_of_degree_3_needs_degree_3():
    cut = samples(64, cubic)
    assert fit_noise(cut, degree=3).scores["R2"] == pytest.approx(1.0, abs=1e-9)
    assert fit_noise(cut, degree=3).terms["d", "e", "f"] == pytest.approx(0.7)
    assert fit_noise(cut, degree=2).scores["R2"] < 0.99
    assert fit_noise(cut, degree=2).scores["MAPE_%"] > 1


def test_products_of_all_layers_have_more_coefficients_than_schemes_and_are_refused():
    # 3 layers: 1 + 3 + 3 + 1 coefficients, but only 7 schemes that quantize something
    for degree in (3, 99):
        refused([f"degree {degree} over 3 layers has 8 coefficients", "there are 7"], fit_noise,
                samples(8, lambda q: q[0] + q[1], ("a", "b", "c")), degree=degree)  # fmt: skip


def test_scores_are_of_rows_the_fit_has_not_seen():
    # Random noise cannot be predicted; the fit follows the rows it saw all the same.
    rng = np.random.default_rng(3)
    layers = tuple(f"n{i}" for i in range(10))
    scores = fit_noise(samples(90, lambda q: rng.uniform(1, 2, q.shape[1]), layers), degree=2).scores
    assert scores["R2"] < 0.1
    assert scores["R2_fit"] > 0.4
    assert scores["low_MAPE_%"] > scores["MAPE_%"]


def test_the_fit_repeats():
    cut = samples(50, cubic)
    assert dict(fit_noise(cut).scores) == dict(fit_noise(cut).scores)


def test_the_fit_keeps_the_origin():
    cut = NoiseSamples(samples(64, cubic).frame, {"model": "m"})
    assert fit_noise(cut).origin == {"model": "m"}


def test_too_few_samples_are_refused_with_the_number_needed():
    # degree 2 over 6 layers: 22 coefficients; 5 folds leave 4/5 of the rows, so 22 * 5 / 4 = 27.5 -> 28
    assert fit_noise(samples(29, cubic), degree=2).scores["samples"] == 28
    says = ["degree 2 over 6 layers has 22 coefficients", "5-fold", "needs 28 samples", "there are 27", "lower the degree"]
    refused(says, fit_noise, samples(28, cubic), degree=2)


def test_a_single_sample_of_nothing_is_too_few():
    refused(["there are 0"], fit_noise, NoiseSamples(small()[:1]))


@pytest.mark.parametrize("above", [0, 1])
def test_noise_that_is_zero_everywhere_cannot_be_scored(above):
    cut = samples(64, lambda q: np.arange(q.shape[1]) >= 64 - above)
    refused([f"{above} of 63 samples have a noise above 0"], fit_noise, cut, degree=1)


@pytest.mark.parametrize("degree", [0, -1, 1.5, "2", None, True])
def test_a_degree_that_is_no_whole_number_is_refused(degree):
    refused([f"degree is {degree!r}", "whole number, 1 or more"], fit_noise, samples(64, cubic), degree=degree)


@pytest.mark.parametrize("folds", [1, 0, -1, 2.5, "5", None])
def test_folds_that_make_no_cross_validation_are_refused(folds):
    refused([f"folds is {folds!r}", "2 or more"], fit_noise, samples(64, cubic), degree=1, folds=folds)


def test_more_folds_than_samples_are_refused():
    refused(["100-fold", "there are 63"], fit_noise, samples(64, cubic), degree=1, folds=100)


def test_an_unknown_kind_of_model_is_refused():
    refused(["'polynomal' is unknown", "did you mean 'polynomial'"], fit_noise, samples(64, cubic), "polynomal")


def test_scores_by_hand():
    # errors 50 %, 0 %, 25 %; the row without noise is left out; mean of 2, 1, 4 is 7/3
    scores = noise_scores(np.array([2.0, 1.0, 4.0, 0.0]), np.array([1.0, 1.0, 5.0, 9.0]))
    assert scores["MAPE_%"] == pytest.approx(25.0)
    assert scores["low_MAPE_%"] == pytest.approx(0.0)  # the tenth with least noise is the row of 1.0
    squares = (2 - 7 / 3) ** 2 + (1 - 7 / 3) ** 2 + (4 - 7 / 3) ** 2
    assert scores["R2"] == pytest.approx(1 - (1 + 0 + 1) / squares)


# ---------------------------------------------------------------- samples


def test_samples_know_their_layers_schemes_and_noise():
    cut = NoiseSamples.from_frame(small()[["noise", "a", "b"]])
    assert cut.layers == ("a", "b")
    assert cut.schemes.tolist() == [[0, 0], [1, 0], [0, 1], [1, 1]]
    assert cut.schemes.dtype == np.int8
    assert cut.noise.tolist() == [0, 0.1, 0.2, 0.25]
    assert repr(cut) == "NoiseSamples(4 schemes of 2 layers, noise 0 to 0.25)"
    assert repr(cut)[12:18] in cut._repr_html_()


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        (small()[["a", "b"]], ["the column 'noise'", "'a', 'b'"]),
        (small()[["noise"]], ["one column per layer"]),
        (small()[:0], ["there is no sample"]),
        (small().assign(a=[0, 1, 2, 1]), ["column 'a'", "other than 0 and 1"]),
        (small().assign(b=[0, 0, "x", 1]), ["column 'b'", "other than 0 and 1"]),
        (small().assign(noise=[0, -0.1, 0.2, 0.3]), ["row 1", "-0.1", "0 or more"]),
        (small().assign(noise=[0, 0.1, math.nan, math.inf]), ["2 problems", "row 2", "nan", "row 3", "inf"]),
        (small().assign(noise="much"), ["row 0", "0 or more"]),
        (small().assign(a=0), ["row 1: this scheme is given twice"]),
        (small().rename(columns={"b": "a"}), ["two columns are named 'a'"]),
        ([[0, 1]], ["DataFrame", "list"]),
    ],
)
def test_wrong_samples_are_refused(frame, says):
    refused(says, NoiseSamples.from_frame, frame)


def test_samples_are_divided_into_two_that_share_none():
    whole = NoiseSamples(samples(64, cubic).frame, {"model": "m"})
    one, other = whole.divide(40, seed=1)
    assert (len(one.frame), len(other.frame)) == (40, 24)
    rows = [tuple(row) for part in (one, other) for row in part.frame.to_numpy().tolist()]
    assert sorted(rows) == sorted(map(tuple, whole.frame.to_numpy().tolist()))
    assert one.origin == other.origin == {"model": "m"}
    assert whole.divide(40, seed=1)[0].frame.equals(one.frame)
    assert not whole.divide(40, seed=2)[0].frame.equals(one.frame)


@pytest.mark.parametrize("count", [0, 4, -1, 1.5, "2", True])
def test_a_division_that_leaves_nothing_on_one_side_is_refused(count):
    refused([f"count is {count!r}", "of 4 samples", "1 to 3"], NoiseSamples(small()).divide, count)


def test_save_and_load_keep_samples_and_origin(tmp_path):
    origin = {"model": "µ.onnx", "images": 8, "scale": np.float32(0.5), "text": "a\nb # c", "nested": {"percentile": [99.9]}}
    cut = NoiseSamples(small().assign(noise=[0, 1 / 3, 1e-7, 12345.678]), origin)
    cut.save(tmp_path / "noise.csv")
    again = NoiseSamples.load(tmp_path / "noise.csv")
    assert again.origin == origin | {"scale": 0.5}
    assert again.layers == cut.layers
    assert (again.schemes == cut.schemes).all()
    assert again.noise == pytest.approx(cut.noise, rel=1e-8)


@pytest.mark.parametrize("name", ["Conv#2", "a,b", 'a"b', "# c", "/model.0/conv/Conv", "1"])
def test_any_layer_name_survives_the_file(tmp_path, name):
    NoiseSamples(small().rename(columns={"a": name})).save(tmp_path / "noise.csv")
    assert NoiseSamples.load(tmp_path / "noise.csv").layers == (name, "b")


def test_a_plain_csv_without_origin_is_read(tmp_path):
    small().to_csv(tmp_path / "noise.csv", index=False)
    cut = NoiseSamples.load(tmp_path / "noise.csv")
    assert cut.origin == {}
    assert cut.noise.tolist() == [0, 0.1, 0.2, 0.25]


def test_the_origin_is_one_line_of_json(tmp_path):
    NoiseSamples(small(), {"a": "x\ny"}).save(tmp_path / "noise.csv")
    first, header = (tmp_path / "noise.csv").read_text().splitlines()[:2]
    assert json.loads(first.removeprefix("# ")) == {"a": "x\ny"}
    assert header == "a,b,noise"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"# {}",
        b"# not json\na,noise\n1,0.5\n",
        b"# 5\na,noise\n1,0.5\n",
        b"\xff\x81\x00",
        b"a,noise\n1,2,3\n1,2,3,4\n",
    ],
)
def test_files_that_are_no_samples_are_refused(tmp_path, content):
    (tmp_path / "bad.csv").write_bytes(content)
    refused(["bad.csv"], NoiseSamples.load, tmp_path / "bad.csv")


def test_a_missing_file_and_a_folder_are_refused(tmp_path):
    refused(["no.csv"], NoiseSamples.load, tmp_path / "no.csv")
    refused([str(tmp_path)], NoiseSamples.load, tmp_path)


@pytest.mark.parametrize("rows", [[[]], [[1], [1, 2]], pd.DataFrame(), np.zeros((2, 2), int)])
def test_rows_of_samples_are_one_list(rows):
    known = NoiseSamples(pd.DataFrame({"a": [0, 1], "b": [0, 1], "noise": [0.0, 0.1]}))
    with pytest.raises(NoiseError, match="rows"):
        known.only(rows)
    assert len(known.only([1]).frame) == 1


@pytest.mark.parametrize("kind", ["measured", "polynomial", "link", "gp"])
def test_schemes_that_are_no_rows_of_the_layers_are_refused(kind):
    schemes = all_schemes(4)
    rows = pd.DataFrame(schemes, columns=list("abcd")).assign(noise=schemes @ np.array([0.1, 0.2, 0.25, 0.3]))
    model = fit_noise(NoiseSamples(rows), kind)
    assert model.optimistic(np.zeros((1, 4), bool)).shape == (1,)
    for wrong in (np.array(0.1), np.zeros(2), np.zeros((2, 5))):
        with pytest.raises(NoiseError, match=r"schemes have the shape .*give \(n, 4\), one row per scheme"):
            model.optimistic(wrong)
    with pytest.raises(NoiseError, match=r"entries other than 0 and 1|a scheme has"):
        model.predict(np.zeros(2, [("a", "f4")]))
