"""Noise where inputs arrive in lossy forms: power sums by hand, tables, bounds, and the file that holds them."""

import math

import numpy as np
import pandas as pd
import pytest

import dnnsplit as ds
from dnnsplit.noise.models import LEAST, MARGIN, NoiseModel, PowerSum, Table
from dnnsplit.noise.schemes import all_schemes

T_3 = 2.3533634348018233  # the 95 % point of Student's t with 3 degrees of freedom
PLAIN = [(0, 0, 0.0, 0.0, 4), (1, 0, 0.3, 0.02, 4), (0, 1, 0.1, 0.08, 4), (1, 1, 0.5, 0.02, 4)]
ALL = [(0, 0, 0.4, 0.04, 4), (1, 0, 0.45, 0.02, 4), (0, 1, 0.42, 0.08, 4), (1, 1, 0.7, 0.02, 4)]


def some(rows, **more):
    return ds.NoiseSamples(pd.DataFrame(rows, columns=["a", "b", "noise", "noise_std", "noise_images"]), **more)


def of(form, rows):
    return some(rows, origin={"metric": "rho", "source": form})


def bare(*layers):
    """Samples of a form alone, without a spread."""
    return ds.NoiseSamples(pd.DataFrame({**dict.fromkeys(layers, 0), "noise": [0.1]}), {"source": "jpeg-95"})


@pytest.fixture
def samples():
    """One form that was measured alone, and one with all schemes."""
    sources = {"jpeg-95": of("jpeg-95", ALL[:1]), "webp-90": of("webp-90", ALL)}
    return some(PLAIN, origin={"metric": "rho"}, sources=sources, tensors={"t": {"uint8": 0.01}})


def test_a_form_that_was_measured_alone_adds_its_power(samples):
    noise = ds.fit_noise(samples, "measured")
    assert noise.of(()) == 0.0
    jpeg = noise.at("jpeg-95")
    assert isinstance(jpeg, PowerSum)
    assert jpeg.of(()) == 0.4
    assert jpeg.of(("a",)) == pytest.approx(0.5)  # .3^2 + .4^2
    assert jpeg.every() == pytest.approx([0.4, 0.5, math.hypot(0.4, 0.1), math.hypot(0.4, 0.5)])
    assert jpeg.predict([[0, 0], [1, 0]]) == pytest.approx([0.4, 0.5])
    assert jpeg.certain() == {0: 0.4}
    assert noise.certain()[0] == 0.0
    assert repr(jpeg) == "NoiseModel(power sum over 2 layers)"
    assert noise.tensors == {"t": {"uint8": 0.01}}


def test_a_form_that_was_measured_with_every_scheme_is_a_table(samples):
    webp = ds.fit_noise(samples, "measured").at("webp-90")
    assert isinstance(webp, Table)
    assert webp.every().tolist() == [0.4, 0.45, 0.42, 0.7]
    assert webp.floor == 0.4
    assert webp.certain() == {0: 0.4, 1: 0.45, 2: 0.42, 3: 0.7}
    assert webp.origin["source"] == "webp-90"


def test_a_lossless_form_is_the_model_itself(samples):
    noise = ds.fit_noise(samples, "measured")
    assert noise.at("png-1") is noise
    assert noise.at("") is noise


def test_what_a_table_does_not_hold_its_power_sum_does_not_either():
    noise = NoiseModel.measured(some(PLAIN[:3], origin={}, sources={"jpeg-95": of("jpeg-95", ALL[:1])}))
    assert noise.at("jpeg-95").every()[3] == math.inf
    with pytest.raises(ds.NoiseError, match="were not measured"):
        noise.at("jpeg-95").predict([[1, 1]])


def test_bounds_of_forms_are_of_their_own_spread(samples):
    noise = ds.fit_noise(samples, "measured")
    bound = noise.bounded(0.95)
    assert bound.mean is noise
    jpeg = bound.at("jpeg-95")
    assert jpeg.of(()) == pytest.approx(0.4 + T_3 * 0.04 / 2)
    assert jpeg.of(("a",)) == pytest.approx(math.hypot(0.4 + T_3 * 0.02, 0.3 + T_3 * 0.01))
    assert jpeg.mean is noise.at("jpeg-95")
    assert jpeg.mean.of(("a",)) == pytest.approx(0.5)
    webp = bound.at("webp-90")
    assert webp.every() == pytest.approx([0.4 + T_3 * 0.02, 0.45 + T_3 * 0.01, 0.42 + T_3 * 0.04, 0.7 + T_3 * 0.01])
    share = math.sqrt(np.mean(np.square([0.02 / 0.3, 0.08 / 0.1, 0.02 / 0.5])))  # of the noise, on average
    assert bound.tensors["t"]["uint8"] == pytest.approx(0.01 * (1 + T_3 * share / 2))


def test_a_form_measured_on_one_image_has_no_bound():
    one = [(0, 0, 0.4, math.nan, 1)]
    noise = NoiseModel.measured(some(PLAIN, sources={"jpeg-95": of("jpeg-95", one)}))
    with pytest.raises(ds.NoiseError, match="no spread over images"):
        noise.bounded(0.95)
    with pytest.raises(ds.NoiseError, match="no spread over images"):
        NoiseModel.measured(of("jpeg-95", one)).bounded(0.95)


def fitted(model):
    """A fit to six layers whose powers add up, and a form alone."""
    q = all_schemes(6)
    noise = np.sqrt(q @ np.arange(1, 7) / 100)
    frame = pd.DataFrame(q, columns=list("abcdef")).assign(noise=noise, noise_std=0.1 * noise, noise_images=4)
    alone = frame[:1].assign(noise=0.2, noise_std=0.01)
    sources = {"jpeg-95": ds.NoiseSamples(alone, {"source": "jpeg-95"})}
    return ds.fit_noise(ds.NoiseSamples(frame, sources=sources), model, degree=1)


@pytest.mark.parametrize("model", ["polynomial", "link", "gp"])
def test_fits_add_the_form_alone(model):
    noise = fitted(model)
    jpeg, q = noise.at("jpeg-95"), all_schemes(6)
    assert jpeg.predict(q) == pytest.approx(np.hypot(noise.predict(q), 0.2))
    assert jpeg.of(()) == 0.2
    low = jpeg.optimistic(q.astype(bool))
    assert low == pytest.approx(np.hypot(noise.optimistic(q.astype(bool)), 0.2 / (1 + MARGIN)))
    bound = noise.bounded(0.95).at("jpeg-95")
    by = 1 + T_3 * 0.1 / 2
    assert bound.predict(q) == pytest.approx(np.hypot(by * noise.predict(q), 0.2 + T_3 * 0.005))
    assert bound.mean is jpeg


def test_a_process_learns_what_is_measured_above_the_form_alone():
    noise = fitted("gp")
    jpeg, row = noise.at("jpeg-95"), np.array([[1, 0, 1, 0, 0, 1]])
    std = jpeg.predict_std(row)[0]
    assert std == pytest.approx(
        math.hypot(noise.predict(row)[0] + noise.predict_std(row)[0], 0.2) - math.hypot(noise.predict(row)[0], 0.2)
    )
    for value in (0.9, 0.1):  # above what was predicted, and below the form alone
        told = jpeg.learn(np.repeat(row, 9, axis=0), np.full(9, value))
        assert abs(told.predict(row)[0] - max(value, 0.2)) < 0.5 * abs(jpeg.predict(row)[0] - max(value, 0.2))
    assert jpeg.predict_std(np.zeros((1, 6))).tolist() == [0.0]


def test_a_polynomial_that_dips_below_0_is_no_less_than_the_form_alone():
    base = NoiseModel.polynomial(("a", "b"), {"a": -0.3, "b": 0.3})
    assert base.of(("a",)) == LEAST
    assert PowerSum(base.layers, base, floor=0.4).every() == pytest.approx([0.4, 0.4, 0.5, 0.4])


# ---------------------------------------------------------------- samples


def test_forms_survive_the_file(samples, tmp_path):
    samples.save(tmp_path / "noise.csv")
    columns, *rows = (tmp_path / "noise.csv").read_text().splitlines()[1:]
    assert columns.split(",") == ["a", "b", "noise", "noise_std", "noise_images", "source"]
    assert [row.rsplit(",", 1)[1] for row in rows] == [""] * 4 + ["jpeg-95"] + ["webp-90"] * 4
    again = ds.NoiseSamples.load(tmp_path / "noise.csv")
    assert again.origin == {"metric": "rho"}
    assert again.tensors == {"t": {"uint8": 0.01}}
    assert again.frame.equals(samples.frame)
    assert list(again.sources) == ["jpeg-95", "webp-90"]
    for form, part in again.sources.items():
        assert part.frame.equals(samples.sources[form].frame)
        assert part.origin == {"metric": "rho", "source": form}
    assert " ".join(repr(again).split()).endswith("noise 0 to 0.5; inputs also as jpeg-95, webp-90)")
    alone = samples.sources["jpeg-95"]
    alone.save(tmp_path / "jpeg.csv")
    assert NoiseModel.measured(ds.NoiseSamples.load(tmp_path / "jpeg.csv")).of(()) == 0.4


def test_a_layer_may_be_called_like_the_column_of_forms(samples, tmp_path):
    plain = some(PLAIN)
    ds.NoiseSamples(plain.frame.rename(columns={"a": "source"})).save(tmp_path / "noise.csv")
    assert ds.NoiseSamples.load(tmp_path / "noise.csv").layers == ("source", "b")


def test_parts_of_samples_keep_the_forms(samples):
    for part in (samples.only([0, 2]), *samples.divide(2), samples.quantizing):
        assert part.sources is samples.sources
        assert part.tensors is samples.tensors
    assert samples.with_tensors({"u": {"float16": 0.1}}).tensors == {"u": {"float16": 0.1}}


def test_updates_reach_the_forms(samples):
    newer = of("jpeg-95", [(0, 0, 0.41, 0.01, 64)]), of("webp-90", [(0, 0, 0.43, 0.01, 64), (1, 0, 0.44, 0.01, 64)])
    other = some(PLAIN[:2], sources={"webp-90": newer[1], "jpeg-90": of("jpeg-90", ALL[:1])}, tensors={"t": {"float16": 0.02}})
    found = samples.updated(other)
    assert found.sources["webp-90"].noise.tolist() == [0.43, 0.42, 0.44, 0.7]
    assert found.sources["jpeg-95"].noise.tolist() == [0.4]
    assert found.sources["jpeg-90"].noise.tolist() == [0.4]
    assert found.tensors == {"t": {"uint8": 0.01, "float16": 0.02}}
    with pytest.raises(ds.NoiseError, match="source differs"):
        newer[0].updated(newer[1])


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: some(PLAIN, sources={"jpeg-95": of("jpeg-95", ALL[1:])}), "not measured alone"),
        (lambda: some(PLAIN, sources={"jpeg-95": of("jpeg-90", ALL)}), "has the source 'jpeg-90'"),
        (lambda: some(PLAIN, sources={"jpeg-95": bare("c")}), "with the layers"),
        (lambda: some(PLAIN, sources={"jpeg-95": bare("a", "b")}), "no spread over images"),
        (lambda: some(PLAIN, tensors={"t": {"uint8": -1.0}}), "0 or more"),
        (lambda: some(PLAIN, tensors={"t": {"uint8": math.nan}}), r"tensors\['t'\]\['uint8'\] is nan"),
        (lambda: ds.NoiseSamples.from_frame(of("", ALL).frame.assign(source="jpeg-95")), "those with none"),
        (lambda: ds.fit_noise(of("jpeg-95", ALL), "gp"), "of inputs as they are"),
        (lambda: NoiseModel.measured(some(ALL)), "must be 0"),
    ],
)  # fmt: skip
def test_wrong_forms_are_refused(make, says):
    with pytest.raises(ds.NoiseError, match=says):
        make()


@pytest.mark.parametrize("tensors", ["5", '{"t": 5}', '{"t": {"uint8": "x"}}'])
def test_a_file_with_wrong_noise_of_tensors_is_refused(tmp_path, tensors):
    (tmp_path / "bad.csv").write_text(f'# {{"tensors": {tensors}}}\na,noise\n1,0.5\n')
    with pytest.raises(ds.NoiseError, match=r"tensor"):
        ds.NoiseSamples.load(tmp_path / "bad.csv")


def test_a_model_without_layers_has_forms_too():
    frame = pd.DataFrame({"noise": [0.0]})
    sources = {"jpeg-95": ds.NoiseSamples(frame.assign(noise=0.3), {"source": "jpeg-95"})}
    noise = ds.fit_noise(ds.NoiseSamples(frame, sources=sources))
    assert noise.of(()) == 0.0
    assert noise.at("jpeg-95").of(()) == 0.3


def test_a_power_sum_knows_what_was_measured():
    base = NoiseModel.polynomial(("a", "b"), {"a": 0.03, "b": 0.04})
    known = Table(("a", "b"), {0: 0.01, 3: 0.09})
    noise = PowerSum(("a", "b"), base, known=known, floor=0.01)
    assert noise.every() == pytest.approx([0.01, math.hypot(0.03, 0.01), math.hypot(0.04, 0.01), 0.09])
    assert noise.of(("a", "b")) == 0.09
    assert [noise.is_measured(names) for names in ((), ("a",), ("a", "b"))] == [True, False, True]
    assert noise.certain() == {0: 0.01, 3: 0.09}
    frame = pd.DataFrame({"a": [0, 1, 0, 1], "b": [0, 0, 1, 1], "noise": [0, 0.03, 0.04, 0.07]})
    part = pd.DataFrame({"a": [0, 1], "b": [0, 1], "noise": [0.01, 0.09]})
    samples = ds.NoiseSamples.from_frame(pd.concat([frame.assign(source=""), part.assign(source="jpeg-90")]))
    model = NoiseModel.measured(samples).at("jpeg-90")
    assert model.of(("a", "b")) == 0.09
    assert model.of(("a",)) == pytest.approx(math.hypot(0.03, 0.01))
