"""Inputs in lossy forms, measured: by hand in ONNX Runtime, all at once, resumed, and verified with bounds."""

import io

import numpy as np
import pytest
from helpers.small_models import conv_net, saved
from onnx import TensorProto, helper
from PIL import Image

import dnnsplit as ds
import dnnsplit.noise.meter as meter_room
from dnnsplit.codecs.forms import codec
from dnnsplit.codecs.pixels import find_pixels
from dnnsplit.cutting.running import whole
from dnnsplit.noise.journal import read_journal, write_journal
from dnnsplit.noise.meter import noise_meter
from dnnsplit.noise.models import PowerSum, Table
from dnnsplit.noise.schemes import all_schemes
from dnnsplit.noise.source_forms import SourceForm, unmeasured_forms
from dnnsplit.quantize.calibration import calibrate
from dnnsplit.quantize.rewrite import quantize_layer

THREE = ("c1", "c2", "c3")
LOSSY = ("float16", "jpeg-90", "webp-90")


def pictures(count, size=12, seed=0):
    """Images of 8 bits with some structure, as a network takes them."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, size // 3, size // 3)).repeat(3, axis=2).repeat(3, axis=3)
    return ((coarse + rng.integers(0, 20, coarse.shape)).clip(0, 255) / np.float32(255)).astype(np.float32)


def by_hand(image, form):
    """One picture, written and read back without the library."""
    if form == "float16":
        return image.astype(np.float16).astype(np.float32)
    kind, quality = form.split("-")
    file = io.BytesIO()
    rows = np.rint(image * 255).astype(np.uint8).transpose(1, 2, 0)
    Image.fromarray(rows).save(file, kind, quality=int(quality), **({"method": 0} if kind == "webp" else {"subsampling": 0}))
    read = np.asarray(Image.open(file)).transpose(2, 0, 1)
    return (read / 255).astype(np.float32)


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


@pytest.fixture(scope="module")
def calibration(net):
    return calibrate(net, pictures(4, seed=9))


@pytest.fixture(scope="module")
def every(net, calibration):
    return ds.measure_noise(net, pictures(3), THREE, calibration=calibration, progress=False, sources=LOSSY, source_schemes="all")


@pytest.mark.parametrize("form", LOSSY)
def test_every_scheme_equals_the_whole_model_on_what_arrives(net, calibration, every, form):
    int8 = {name: quantize_layer(net, name, calibration) for name in THREE}
    samples = every.sources[form]
    assert samples.schemes.shape == (8, 3)
    for row, noise, std in zip(samples.schemes, samples.noise, samples.details["rho std"], strict=True):
        swap = {name: int8[name] for name, bit in zip(THREE, row, strict=True) if bit}
        per_image = []
        for image in pictures(3):
            plain, found = whole(net, {}, {"x": image[None]}), whole(net, swap, {"x": by_hand(image, form)[None]})
            per_image.append(np.mean([np.abs(plain[o] - found[o]).mean() for o in net.model.outputs]))
        assert noise == pytest.approx(np.mean(per_image), rel=1e-3, abs=1e-7)
        assert std == pytest.approx(np.std(per_image, ddof=1), rel=1e-2, abs=1e-7)
        assert noise > 0


def test_forms_change_nothing_of_what_is_measured_without(net, calibration, every):
    plain = ds.measure_noise(net, pictures(3), THREE, calibration=calibration, progress=False)
    assert plain.frame.equals(every.frame)
    assert plain.details.equals(every.details)
    assert plain.sources == {}
    assert "sources" not in plain.origin
    assert plain.origin == {key: value for key, value in every.origin.items() if key != "sources"}


def test_the_origin_says_the_forms_their_inputs_and_who_wrote_them(every):
    assert list(every.origin["sources"]) == list(LOSSY)
    assert every.origin["sources"]["float16"] == {"inputs": ["x"], "writer": ""}
    jpeg = every.origin["sources"]["jpeg-90"]
    assert jpeg["writer"].startswith("Pillow ")
    assert every.sources["jpeg-90"].origin == {**every.origin, "source": "jpeg-90"}


@pytest.mark.parametrize("form", ["uint8", "png-1", "png-6", "webp-lossless", "zstd-1"])
def test_lossless_forms_add_exactly_no_noise(net, calibration, every, form):
    pixels = find_pixels([image[None] for image in pictures(3)])
    meter = noise_meter(net, pictures(3), calibration, THREE)
    meter._forms = {form: SourceForm(form, {"x": codec(form, pixels)})}  # which noise_meter refuses
    found = meter.samples(all_schemes(3), progress=False, source=form)
    assert found.noise[0] == 0.0
    assert found.noise.tolist() == every.noise.tolist()


def test_a_form_alone_is_what_is_measured_by_default(net, calibration, every, monkeypatch):
    bars = []
    from dnnsplit.noise import meter

    original = meter.tqdm
    monkeypatch.setattr("dnnsplit.noise.meter.tqdm", lambda **how: bars.append(how["total"]) or original(**how))
    samples = ds.measure_noise(net, pictures(3), THREE, calibration=calibration, progress=False, sources=LOSSY)
    assert bars == [3 * (8 + len(LOSSY))]  # one for all
    assert samples.frame.equals(every.frame)
    for form, part in samples.sources.items():
        assert part.schemes.tolist() == [[0, 0, 0]]
        assert part.noise[0] == every.sources[form].noise[0]
    noise = ds.fit_noise(samples, "measured")
    assert {type(model) for model in noise.sources.values()} == {PowerSum}
    both = ds.fit_noise(every, "measured")
    assert {type(model) for model in both.sources.values()} == {Table}
    assert both.of(("c2",), "jpeg-90") == every.sources["jpeg-90"].noise[2]
    assert noise.of(("c2",), "jpeg-90") == pytest.approx(np.hypot(every.noise[2], every.sources["jpeg-90"].noise[0]))


def test_a_budget_and_listed_schemes_are_measured_with_each_form(net, calibration, every):
    options = {"layers": THREE, "calibration": calibration, "progress": False, "sources": ["jpeg-90"], "source_schemes": "all"}
    for how in ({"budget": 5}, {"schemes": [[1, 0, 1], [0, 1, 1]]}):
        samples = ds.measure_noise(net, pictures(3), **options, **how)
        jpeg = samples.sources["jpeg-90"]
        assert jpeg.schemes.tolist() == [[0, 0, 0], *samples.schemes.tolist()]  # what adds no layer is the form alone
        table = ds.NoiseModel.measured(every.sources["jpeg-90"])
        assert jpeg.noise.tolist() == table.predict(jpeg.schemes).tolist()


def test_samples_of_forms_survive_the_file(every, tmp_path):
    every.save(tmp_path / "noise.csv")
    again = ds.NoiseSamples.load(tmp_path / "noise.csv")
    assert again.origin["sources"] == every.origin["sources"]
    for form in LOSSY:
        assert again.sources[form].noise == pytest.approx(every.sources[form].noise, rel=1e-8)
        assert again.sources[form].origin == {**again.origin, "source": form}


def test_a_meter_tells_each_form_once(net, calibration, every, monkeypatch):
    meter = noise_meter(net, pictures(3), calibration, THREE, sources=LOSSY)
    table = ds.fit_noise(every, "measured")
    for source in ("", "jpeg-90", "float16"):
        for names in ((), ("c2",), ("c3", "c1")):
            assert meter(names, source) == table.of(names, source)
    measured = meter.measured
    assert {form: len(part.frame) for form, part in measured.sources.items()} == {"jpeg-90": 3, "float16": 3}
    assert len(measured.frame) == 3
    images = meter.by_image(all_schemes(3), "jpeg-90")
    assert images.mean(axis=1) == pytest.approx(every.sources["jpeg-90"].noise)
    plain, found = meter.outputs(()), meter.outputs(("c2",), "jpeg-90")
    assert np.mean([np.abs(plain[o] - found[o]).mean() for o in plain]) == pytest.approx(meter(("c2",), "jpeg-90"), rel=1e-6)
    assert meter((), "jpeg-95") > meter(()) == 0  # another form, when it is asked for
    with pytest.raises(ds.NoiseError, match=r"'png-1' brings these inputs to the last bit"):
        meter((), "png-1")
    monkeypatch.setattr("dnnsplit.noise.meter.errors", None)  # nothing can be measured any more
    assert meter(("c2",), "jpeg-90") == table.of(("c2",), "jpeg-90")


def test_forms_alone_are_no_samples_of_inputs_as_they_are(net, calibration):
    meter = noise_meter(net, pictures(1), calibration, THREE, sources=["jpeg-90"])
    meter((), "jpeg-90")
    with pytest.raises(ds.NoiseError, match="there is no sample"):
        _ = meter.measured
    meter(("c1",))
    assert list(meter.measured.sources) == ["jpeg-90"]


def test_a_measurement_with_forms_goes_on_from_its_file(net, calibration, every, tmp_path, monkeypatch):
    path, options = tmp_path / "noise.npz", {"layers": THREE, "calibration": calibration, "progress": False}
    ds.measure_noise(net, pictures(3), resume=path, **options)  # without forms first
    calls, original = [], meter_room.errors
    monkeypatch.setattr("dnnsplit.noise.meter.errors", lambda *given: calls.append(1) or original(*given))
    found = ds.measure_noise(net, pictures(3), resume=path, sources=LOSSY, source_schemes="all", **options)
    assert len(calls) == 3 * 8 * len(LOSSY)
    assert found.frame.equals(every.frame)
    for form in LOSSY:
        assert found.sources[form].frame.equals(every.sources[form].frame)
    calls.clear()
    noise_meter(net, pictures(3), calibration, THREE, resume=path)(("c1",))  # one without forms keeps them
    again = ds.measure_noise(net, pictures(3), resume=path, sources=["jpeg-90"], source_schemes="all", **options)
    assert again.sources["jpeg-90"].frame.equals(every.sources["jpeg-90"].frame)
    assert not calls


def test_a_file_from_before_there_were_forms_is_read(net, calibration, every, tmp_path, monkeypatch):
    path = tmp_path / "noise.npz"
    noise_meter(net, pictures(3), calibration, THREE, resume=path).samples(all_schemes(3), progress=False)
    with np.load(path) as file:
        old = {key: file[key] for key in file.files if key != "forms"}
    np.savez(path, **old)
    monkeypatch.setattr("dnnsplit.noise.meter.errors", None)  # nothing can be measured any more
    meter = noise_meter(net, pictures(3), calibration, THREE, resume=path, sources=["jpeg-90"])
    assert meter.samples(all_schemes(3), progress=False).frame.equals(every.frame)


def test_what_another_release_of_pillow_wrote_is_measured_anew(net, calibration, every, tmp_path, monkeypatch):
    path = tmp_path / "noise.npz"
    meter = noise_meter(net, pictures(3), calibration, THREE, resume=path, sources=["jpeg-90", "float16"])
    mine = meter((), "jpeg-90"), meter((), "float16")
    forms, schemes, values = read_journal(path, meter._identity)
    with monkeypatch.context() as other:
        other.setattr("dnnsplit.noise.source_forms.version", lambda _: "1.0")
        write_journal(path, meter._identity, forms, schemes, values + np.array([[[1.0]]] * len(values)))
        later = noise_meter(net, pictures(3), calibration, THREE, resume=path, sources=["jpeg-90", "float16"])
        assert later((), "jpeg-90") == mine[0]
        assert later((), "float16") == pytest.approx(mine[1] + 1.0)  # no library has a say in it
        assert later.origin["sources"]["jpeg-90"]["writer"] == "Pillow 1.0"


def two_inputs(path):
    """Write a model of an image and of numbers that are none: y = conv(x), z = s * s."""
    weights = {"w": np.random.default_rng(0).normal(0, 0.4, (4, 3, 3, 3)).astype(np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], name="c", pads=[1] * 4), helper.make_node("Mul", ["s", "s"], ["z"], name="m"),
    ]  # fmt: skip
    shapes = {"x": [1, 3, 12, 12], "s": [1, 5], "y": [1, 4, 12, 12], "z": [1, 5]}
    ends = {name: helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()}
    return saved(path, nodes, [ends["x"], ends["s"]], [ends["y"], ends["z"]], weights)


def test_a_form_applies_to_every_input_that_has_it(tmp_path):
    graph = ds.load(two_inputs(tmp_path / "net.onnx"))
    given = {"x": pictures(2), "s": np.random.default_rng(1).normal(0, 1, (2, 5)).astype(np.float32)}
    meter = noise_meter(graph, given, layers=1, sources=["jpeg-90", "float16", "uint8"], metric="rho:z")
    assert {form: one["inputs"] for form, one in meter.origin["sources"].items()} == {
        "jpeg-90": ["x"], "float16": ["x", "s"], "uint8": ["x", "s"],
    }  # fmt: skip
    assert meter((), "jpeg-90") == 0.0  # s crosses as it is
    half = given["s"].astype(np.float16).astype(np.float32)
    assert meter((), "float16") == pytest.approx(np.abs(half**2 - given["s"] ** 2).mean(), rel=1e-5)
    assert meter.samples(np.zeros((1, 1)), False, "uint8").details["rho:y"].item() == 0.0  # images of 8 bits are these bytes


@pytest.mark.parametrize(
    ("sources", "error", "says"),
    [
        (["png-1"], ds.NoiseError, "'png-1' brings these inputs to the last bit.*needs no measurement"),
        (["float32"], ds.NoiseError, "'float32' brings these inputs to the last bit"),
        (["uint8", "webp-lossless", "jpeg-90"], ds.NoiseError, "2 problems"),
        (["jpeg-900"], ds.OptionError, "'jpeg-900' is unknown .did you mean 'jpeg-90'"),
    ],
)
def test_forms_that_need_no_measurement_are_refused(net, sources, error, says):
    with pytest.raises(error, match=says):
        ds.measure_noise(net, pictures(2), layers=1, sources=sources, progress=False)


def test_forms_that_no_input_has_are_refused_with_those_that_fit(net):
    rough = np.random.default_rng(0).random((2, 3, 12, 12)).astype(np.float32)
    with pytest.raises(ds.NoiseError, match=r"no input has the form 'jpeg-95' \('x': .*images of 8 bits.*fit: float16, uint8$"):
        ds.measure_noise(net, rough, layers=1, sources=["jpeg-95"], progress=False)
    with pytest.raises(ds.OptionError, match=r"source_schemes is 'nones' .did you mean 'none'"):
        ds.measure_noise(net, pictures(2), layers=1, sources=["jpeg-95"], source_schemes="nones", progress=False)


def test_forms_that_cannot_be_measured_are_told_with_their_reasons(net):
    names = ["float16", "png-1", "jpeg-90"]
    left = unmeasured_forms(net, pictures(2), names)
    assert list(left) == ["png-1"]
    assert "needs no measurement" in left["png-1"]
    rough = np.random.default_rng(0).random((2, 3, 12, 12)).astype(np.float32)
    left = unmeasured_forms(net, rough, names)
    assert list(left) == ["png-1", "jpeg-90"]
    assert "no input has the form 'jpeg-90'" in left["jpeg-90"]
    samples = ds.measure_noise(net, rough, layers=1, sources=[n for n in names if n not in left], progress=False)
    assert list(samples.sources) == ["float16"]
    with pytest.raises(ds.OptionError, match="jpeg-900"):
        unmeasured_forms(net, rough, ["jpeg-900"])


def test_a_model_of_which_no_layer_can_run_in_int8_has_forms_too(tmp_path):
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, 12, 12]) for name in "xy"]
    node = helper.make_node("Mul", ["x", "x"], ["y"], name="square")
    graph = ds.load(saved(tmp_path / "net.onnx", [node], ends[:1], ends[1:]))
    samples = ds.measure_noise(graph, pictures(2), progress=False, sources=["float16"], source_schemes="all")
    half = pictures(2).astype(np.float16).astype(np.float32)
    noise = ds.fit_noise(samples)
    assert noise.of(()) == 0.0
    assert noise.of((), "float16") == pytest.approx(np.abs(half**2 - pictures(2) ** 2).mean(), rel=1e-5)
    samples.save(tmp_path / "noise.csv")
    assert ds.NoiseSamples.load(tmp_path / "noise.csv").sources["float16"].noise == pytest.approx(
        samples.sources["float16"].noise
    )
