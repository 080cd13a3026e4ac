"""What verifies plans measures each lossy form of the inputs apart, with bounds of its own."""

import math
from dataclasses import replace

import numpy as np
import pytest
from helpers.plans import plan_for
from helpers.small_models import conv_net

import dnnsplit as ds
from dnnsplit.noise.confidence import upper_bound
from dnnsplit.solving.verifier import Measurer

THREE = ("c1", "c2", "c3")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    return ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))


@pytest.fixture
def meter(net):
    pictures = np.random.default_rng(0).integers(0, 256, (3, 3, 12, 12)) / np.float32(255)
    return ds.noise_meter(net, pictures.astype(np.float32), layers=3, sources=["jpeg-90", "float16"])


def plan(net, names, form=""):
    return replace(plan_for(net, dict.fromkeys(net.layer_names, "device"), names), lossy_source=form)


@pytest.mark.parametrize("source", ["", "jpeg-90"])
def test_bounds_are_of_the_form_and_the_scheme(net, meter, source):
    measure = Measurer(meter, THREE, fresh=True, confidence=0.95)
    for names in (("c2",), ("c1", "c3")):
        images = meter.by_image([[name in names for name in THREE]], source)[0]
        bound = upper_bound(images.mean(), images.std(ddof=1), 3, 0.95)
        assert measure.bound(names, source) == pytest.approx(float(bound))
        told = measure.told(plan(net, names, source), 7)
        assert told.noise == pytest.approx(images.mean())
        assert told.noise_upper == pytest.approx(float(bound))
        assert (told.noise_kind, told.measurements) == ("measured", 7)
        assert told.origin == meter.origin


def test_a_form_alone_is_noise_and_nothing_at_all_is_none(net, meter):
    measure = Measurer(meter, THREE, fresh=False, confidence=None)
    assert measure.bound((), "jpeg-90") == meter((), "jpeg-90") > meter((), "float16") > 0
    told = measure.told(plan(net, (), "jpeg-90"), 1)
    assert (told.noise, told.noise_kind) == (meter((), "jpeg-90"), "measured")
    assert math.isnan(told.noise_upper)
    told = measure.told(plan(net, ()), 1)
    assert (told.noise, told.noise_kind) == (0.0, "none")


def test_many_schemes_of_a_form_are_measured_in_one_go(net, meter, monkeypatch):
    measure = Measurer(meter, THREE, fresh=False, confidence=None)
    measure.measure_all([[0, 0, 0], [1, 1, 0]], progress=False, source="float16")
    mine = meter((), "float16"), meter(("c1", "c2"), "float16")
    monkeypatch.setattr("dnnsplit.noise.meter.errors", None)  # nothing can be measured any more
    assert (measure.bound((), "float16"), measure.bound(("c1", "c2"), "float16")) == mine


def test_a_measure_that_knows_of_no_forms_is_asked_for_none():
    asked = []
    measure = Measurer(lambda names: asked.append(names) or 0.1, THREE, fresh=False, confidence=None)
    measure.measure_all([[1, 0, 0]])
    assert measure.bound(("c1",)) == 0.1
    forms = Measurer(lambda names, source: asked.append((names, source)) or 0.2, THREE, fresh=False, confidence=None)
    forms.measure_all([[1, 0, 0]], source="jpeg-90")
    assert forms.bound(("c1",), "jpeg-90") == 0.2
    assert asked == [("c1",), (("c1",), "jpeg-90")]
