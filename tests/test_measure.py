"""Measured noise: the prefix walk gives what whole models give, one by one."""

import itertools

import numpy as np
import pytest
from small_models import conv_net, images

import dnnsplit as ds
from dnnsplit.calibration import Calibration, calibrate
from dnnsplit.cutting import whole
from dnnsplit.model import read_model
from dnnsplit.quantize import quantize_layer


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


def test_every_scheme_equals_the_whole_model_in_onnx_runtime(net):
    model, pictures = read_model(net.model_path), images(3)
    calibration = calibrate(net, images(4, seed=9))
    samples = ds.measure_noise(net, pictures, layers=3, calibration=calibration, progress=False)
    assert samples.layers == ("c1", "c2", "c3")
    int8 = {name: quantize_layer(model, net, name, calibration) for name in samples.layers}
    for bits in itertools.product((0, 1), repeat=3):
        swap = {name: int8[name] for name, bit in zip(samples.layers, bits, strict=True) if bit}
        per_image = []
        for image in pictures:
            plain, quantized = whole(model, net, {}, {"x": image[None]}), whole(model, net, swap, {"x": image[None]})
            per_image.append(np.mean([np.abs(plain[o] - quantized[o]).mean() for o in model.outputs]))  # rho, by the slides
        found = samples.noise[(samples.schemes == bits).all(axis=1)][0]
        assert found == pytest.approx(np.mean(per_image), rel=1e-3, abs=1e-7)
        assert (found > 0) == any(bits)


def test_nothing_quantized_has_exactly_no_noise_and_the_order_of_schemes_does_not_matter(net):
    calibration = calibrate(net, images(4))
    every = ds.measure_noise(net, images(2), layers=3, calibration=calibration, progress=False, workers=1)
    assert every.noise[0] == 0.0
    some = ds.measure_noise(net, images(2), layers=3, schemes=[[1, 0, 1], [0, 0, 1]], calibration=calibration, progress=False)
    lookup = ds.fit_noise(every, "measured")
    assert some.noise == pytest.approx(lookup.predict(some.schemes))


def test_samples_carry_what_they_depend_on(net):
    samples = ds.measure_noise(net, images(2), layers=["c2"], progress=False)
    assert samples.origin["metric"] == "rho"
    assert samples.origin["images"] == 2
    assert samples.origin["setting"]["activation"] == "uint8"
    assert set(Calibration.from_json(samples.origin["calibration"]).ranges) == {"c1.silu", "c2.out", "c2.silu"}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"layers": ["c9"]}, "'c9' cannot run in int8"),
        ({"layers": 0}, "measure at least one layer"),
        ({"schemes": "some"}, "give 'all', a number, or a 0/1 array"),
        ({"schemes": 0}, "measure at least one"),
        ({"layers": 2, "schemes": [[0, 2]]}, "0/1 rows of 2 layers"),
    ],
)
def test_bad_requests_are_named(net, options, text):
    with pytest.raises(ds.NoiseError, match=text):
        ds.measure_noise(net, images(1), progress=False, **options)


def test_two_settings_are_not_mixed(net):
    from dnnsplit.calibration import THESIS

    with pytest.raises(ds.NoiseError, match="calibrate anew"):
        ds.measure_noise(net, images(1), setting=THESIS, calibration=calibrate(net, images(1)), progress=False)
