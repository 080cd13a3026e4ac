"""Tensors cross links in forms: what a bundle says of them, what is refused, and what parts give that are run with them."""

import json
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
from helpers.bundle_models import mlp
from helpers.plans import SERVERS, any_network, plan_for, with_forms
from helpers.small_models import conv_net, images, pictures
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dnnsplit as ds
from dnnsplit.codecs.forms import Zstandard, codec
from dnnsplit.codecs.pixels import Pixels, find_pixels
from dnnsplit.cutting.bundle import Bundle, Coding, Hop, Wire
from dnnsplit.cutting.examples import Example, drawn
from dnnsplit.cutting.running import all_values, received, run_parts, whole
from dnnsplit.quantize.calibration import calibrate

PIXELS = find_pixels([pictures(8)])
FORMS = ("png-1", "webp-lossless", "uint8", "zstd-1", "float16", "jpeg-90", "webp-90")


@pytest.fixture(scope="module")
def net(tmp_path_factory):
    graph = ds.load(conv_net(tmp_path_factory.mktemp("net") / "net.onnx"))
    return graph, calibrate(graph, images(4))


def placed(graph, *servers):
    return plan_for(graph, dict(zip(graph.topological, servers, strict=True)))


@pytest.fixture(scope="module")
def plan(net):
    """Everything in the cloud."""
    return placed(net[0], *["cloud"] * 5)


@pytest.mark.parametrize("form", FORMS)
def test_parts_get_what_the_form_leaves_of_an_input(net, plan, tmp_path, form):
    graph, _ = net
    bundle = ds.cut(graph, with_forms(plan, {("x", "device", "cloud"): form}, {"x": PIXELS}), tmp_path)
    assert bundle.codings == (Coding("x", "device", "cloud", form),)
    assert bundle.pixels == {"x": PIXELS}
    assert Bundle.load(tmp_path) == bundle
    one, x = codec(form, PIXELS), pictures(1, seed=5)
    left = one.decode(one.encode(x), "float32", x.shape)
    assert np.array_equal(left, x) == one.lossless
    assert bundle.lossy_inputs == ({} if one.lossless else {"x": form})
    np.testing.assert_array_equal(received(bundle, {"x": x})["x"], left)
    expected = whole(graph, {}, {"x": left})
    for name, array in run_parts(bundle, {"x": x}).items():
        np.testing.assert_array_equal(array, expected[name])


def test_what_a_form_cannot_hold_crosses_as_it_is(net, plan, tmp_path):
    graph, _ = net
    bundle = ds.cut(graph, with_forms(plan, {("x", "device", "cloud"): "png-1"}, {"x": PIXELS}), tmp_path)
    x = images(1, seed=5)
    assert all_values(bundle, {"x": x})["x", "cloud"] is x


def test_an_inner_tensor_is_read_as_its_form_leaves_it(net, tmp_path):
    """A lossy form on one of two links of a tensor, a lossless one on that of an int8 tensor."""
    graph, calibration = net
    order = graph.topological
    plan = plan_for(graph, dict(zip(order, ["device", "edge", "cloud", "cloud", "device"], strict=True)), ("c2",))
    assert order[:2] == ("c1", "c2")
    crossing = {t.tensor for t in plan.transfers}
    assert "c1.silu" in crossing
    (out,) = (t.tensor for t in plan.transfers if (t.source, t.target) == ("edge", "cloud"))
    coded = with_forms(plan, {("c1.silu", "device", "cloud"): "uint8", (out, "edge", "cloud"): "zstd-1"})
    bundle = ds.cut(graph, coded, tmp_path, calibration)
    wire = next(wire for wire in bundle.wires if wire.tensor == out)
    assert set(bundle.codings) == {Coding("c1.silu", "device", "cloud", "uint8"), Coding(wire.name, "edge", "cloud", "zstd-1")}
    assert [c.wire for c in bundle.lossy_wires] == ["c1.silu"]
    values = all_values(bundle, {"x": images(1, seed=5)})
    made, step = values["c1.silu", "device"], np.ptp(values["c1.silu", "device"]) / 255
    assert values["c1.silu", "edge"] is made
    assert 0 < np.abs(values["c1.silu", "cloud"] - made).max() <= 0.51 * step
    np.testing.assert_array_equal(values[wire.name, "cloud"], values[wire.name, "edge"])
    same = replace(bundle, codings=())
    assert not np.array_equal(
        run_parts(bundle, {"x": images(1, seed=5)})["out"], run_parts(same, {"x": images(1, seed=5)})["out"]
    )


def test_readers_at_the_source_read_what_is_left_too_and_relays_pass_it_on(net, tmp_path):
    graph, _ = net
    plan = placed(graph, "device", "cloud", "cloud", "cloud", "cloud")
    half = {("x", "device", "device"): "float16"}
    bundle = ds.cut(graph, with_forms(plan, half), tmp_path / "here")
    assert bundle.codings == (Coding("x", "device", "device", "float16"),)
    assert bundle.inside == {}  # no link of the device to itself has a price
    feed = {"x": images(1, seed=4)}
    left = feed["x"].astype(np.float16).astype(np.float32)
    np.testing.assert_array_equal(all_values(bundle, feed)["x", "device"], left)
    hops = (Hop("x", "device", "edge"), Hop("x", "edge", "cloud"))
    whole_away = ds.cut(graph, placed(graph, *["cloud"] * 5), tmp_path / "away")
    forms = tuple(Coding(hop.wire, hop.source, hop.target, "jpeg-90") for hop in hops)
    cost = {"transfers": [asdict(coding) | {"tensor": "x", "size_bytes": 0} for coding in forms]}
    relayed = replace(whole_away, hops=hops, codings=forms, pixels={"x": PIXELS}, plan={"cost": cost})
    relayed.check()
    values = all_values(relayed, {"x": pictures(1)})
    np.testing.assert_array_equal(values["x", "edge"], values["x", "cloud"])
    assert not np.array_equal(values["x", "cloud"], pictures(1))


def test_a_lossless_form_that_changes_something_is_found(net, plan, tmp_path, monkeypatch):
    graph, _ = net
    decode = Zstandard.decode
    monkeypatch.setattr(Zstandard, "decode", lambda self, *given: decode(self, *given) + np.float32(1e-6))
    text = "forms that are to lose nothing: 'zstd-1' changes 'x' on its way from 'device' to 'cloud'"
    with pytest.raises(ds.DeployError, match=text):
        ds.cut(graph, with_forms(plan, {("x", "device", "cloud"): "zstd-1"}), tmp_path)


def test_a_lossy_source_that_another_model_is_compared_with_is_found(net, plan, tmp_path, monkeypatch):
    """The check holds the parts against the whole model on what is left of the input, not on the input."""
    graph, _ = net
    monkeypatch.setattr("dnnsplit.cutting.verification.received", lambda bundle, feed: feed)
    coded = with_forms(plan, {("x", "device", "cloud"): "jpeg-90"}, {"x": PIXELS})
    with pytest.raises(ds.DeployError, match="the parts differ from the whole model"):
        ds.cut(graph, coded, tmp_path)


def test_a_bundle_from_before_there_were_forms(tmp_path):
    bundle = mlp(tmp_path)
    path = tmp_path / "bundle.json"
    document = json.loads(path.read_text())
    for key in ("codings", "pixels"):
        del document[key]
    path.write_text(json.dumps(document))
    assert Bundle.load(tmp_path) == bundle


def test_sizes_that_are_planned_are_told(net, plan, tmp_path):
    graph, _ = net
    transfers = tuple(replace(t, size_bytes=100.0) if t.tensor == "x" else t for t in plan.transfers)
    smaller = replace(plan, cost=replace(plan.cost, transfers=transfers))
    bundle = ds.cut(graph, with_forms(smaller, {("x", "device", "cloud"): "png-1"}, {"x": PIXELS}), tmp_path)
    assert bundle.sent_bytes["x", "device", "cloud"] == 100
    assert list(bundle.frame["received_bytes"]) == [100]
    assert "3 tensors cross (3.268 kB)" in repr(bundle)


WRONG = {
    "an unknown form": ({"codings": (Coding("h0", "device", "edge", "zstt-1"),)}, "'zstt-1' is unknown .did you mean 'zstd-1'"),
    "an unknown wire": ({"codings": (Coding("h9", "device", "edge", "zstd-1"),)}, "nobody makes that wire .did you mean 'h"),
    "no such way": ({"codings": (Coding("h0", "edge", "cloud", "zstd-1"),)}, "'zstd-1', and the wire does not go that way"),
    "twice": ({"codings": (Coding("h0", "device", "edge", "zstd-1"),) * 2}, "wire 'h0', 'device' -> 'edge' has two forms"),
    "the plain form": ({"codings": (Coding("h0", "device", "edge", "float32"),)}, "which is how it is made; leave its form out"),
    "no images": ({"codings": (Coding("h0", "device", "edge", "png-1"),)}, "which this tensor is not known to hold"),
    "eight bits already": ({"codings": (Coding("q1", "edge", "cloud", "float16"),)}, "is for floats; the wire is uint8"),
    "not in the plan": ({"codings": (Coding("h0", "device", "edge", "uint8"),), "plan": {"cost": {"transfers": []}}},
                        "'uint8' loses something, and the plan does not say so"),
    "pixels of nothing": ({"pixels": {"y": PIXELS}}, "pixels of 'y': there is no such graph input .there is: 'x'"),
    "other pixels": ({"pixels": {"x": PIXELS}}, r"pixels of 'x': 3 channels as NCHW do not fit the shape .64, 256"),
    "lossless for oneself": ({"codings": (Coding("x", "device", "device", "zstd-1"),)}, "the wire does not go that way"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_refused(tmp_path, case):
    change, text = WRONG[case]
    with pytest.raises(ds.DeployError, match=text):
        replace(mlp(tmp_path), **change).save()


def test_all_that_is_wrong_with_forms_is_told_at_once(tmp_path):
    codings = (Coding("h0", "device", "edge", "zstt-1"), Coding("h0", "device", "cloud", "png-1"),
               Coding("h9", "device", "cloud", "zstd-1"))  # fmt: skip
    with pytest.raises(ds.DeployError, match="4 problems"):
        replace(mlp(tmp_path), codings=codings, pixels={"y": PIXELS}).check()


def test_an_input_that_loses_something_does_so_for_all_its_readers(net, tmp_path):
    graph, _ = net
    plan = with_forms(placed(graph, "device", "cloud", "cloud", "cloud", "cloud"), {("x", "device", "device"): "float16"})
    bundle = ds.cut(graph, plan, tmp_path)
    reader = replace(bundle.parts[1], inputs=(*bundle.parts[1].inputs, "x"))  # in the cloud
    both = replace(bundle, parts=(bundle.parts[0], reader, *bundle.parts[2:]), plan={})
    with pytest.raises(ds.DeployError, match="for whoever reads it: float16; not so: wire 'x', 'device' -> 'cloud'"):
        both.check()
    other = Coding("x", "device", "cloud", "uint8")
    with pytest.raises(ds.DeployError, match="for whoever reads it: float16, uint8"):
        replace(both, codings=(*both.codings, other)).check()
    alone = replace(both, codings=(replace(other, form="float16"),))
    with pytest.raises(ds.DeployError, match="not so: wire 'x', 'device' -> 'device'"):
        alone.check()
    replace(both, codings=(*both.codings, *alone.codings)).check()


def test_no_form_is_larger_than_a_message_may_be(net, plan, tmp_path):
    """Noise cannot be pressed: its forms are larger than what they hold."""
    graph, _ = net
    size = 160
    noise = np.random.default_rng(0).integers(0, 256, (1, 3, size, size)).astype(np.uint8)
    bundle = ds.cut(graph, with_forms(plan, {("x", "device", "cloud"): "png-1"}, {"x": PIXELS}), tmp_path)
    plain = Pixels("NCHW", (1.0,) * 3, (0.0,) * 3, True)
    for dtype, pixels in (("uint8", plain), ("float32", PIXELS)):
        wire = replace(bundle.inputs[0], dtype=dtype, shape=noise.shape)
        one = replace(bundle, inputs=(wire,), pixels={"x": pixels}, plan={})
        array = noise if dtype == "uint8" else pixels.array(noise.transpose(0, 2, 3, 1), dtype, noise.shape)
        for form in ("png-0", "png-1", "webp-lossless", "jpeg-100", "webp-100", "zstd-1", "uint8"):
            written = codec(form, pixels).encode(array)
            assert sum(map(len, written)) <= one.largest_message_bytes - 2**19, form
            assert sum(map(len, written)) <= wire.coded_bytes + 2**12, form


def test_parts_are_warmed_up_on_images():
    array = drawn(Wire("x", "float32", (1, 3, 12, 12)), {"x": Example("x", 0, 9)}, PIXELS)
    assert len(np.unique(PIXELS.images(array, exact=True))) > 100


def test_each_link_of_a_relayed_tensor_has_its_own_form(net, plan, tmp_path):
    graph, _ = net
    links = [ds.Link(a, b, 1e6, 0.001) for a, b in (("device", "edge"), ("edge", "device"), ("edge", "cloud"), ("cloud", "edge"))]
    network = replace(any_network(), links=tuple(links))
    rows = [(n, s, p, 1.0) for n in graph.layer_names for s in network.server_names for p in ("float32", "int8")]
    times = ds.LayerTimes(pd.DataFrame(rows, columns=["layer", "server", "precision", "seconds"]))
    found = ds.split(graph, network, times, None, pins=plan.assignment, routing="relay")
    coded = with_forms(found, {("x", "edge", "cloud"): "png-1", ("x", "device", "edge"): "zstd-1"}, {"x": PIXELS})
    bundle = ds.cut(graph, coded, tmp_path)
    assert bundle.forms == {("x", "edge", "cloud"): "png-1", ("x", "device", "edge"): "zstd-1"}
    x = pictures(1, seed=9)
    np.testing.assert_array_equal(all_values(bundle, {"x": x})["x", "cloud"], x)


@settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), choice=st.lists(st.sampled_from(SERVERS), min_size=5, max_size=5), bit=st.booleans())
def test_any_placement_with_any_lossless_forms_gives_the_same(net, tmp_path, data, choice, bit):
    graph, calibration = net
    plan = plan_for(graph, dict(zip(graph.layer_names, choice, strict=True)), ("c1",) if bit else ())
    forms, lossy = {}, data.draw(st.sampled_from([None, "float16", "jpeg-90", "uint8"]), "form of the input")
    for t in plan.transfers:
        some = ["zstd-1", "png-1", "webp-lossless"] if t.tensor == "x" else ["zstd-1"]
        drawn_form = data.draw(st.sampled_from([None, *some]), f"form of {t.tensor} to {t.target}")
        if form := lossy if lossy and t.tensor == "x" else drawn_form:
            forms[t.tensor, t.source, t.target] = form
    if lossy not in (None, "uint8") and any(plan.assignment[n] == "device" for n in readers(graph)):
        forms["x", "device", "device"] = lossy
    coded = ds.cut(graph, with_forms(plan, forms, {"x": PIXELS}), tmp_path / "coded", calibration)
    assert len(coded.codings) == len(forms)
    x = pictures(1, seed=5)
    plain, left = replace(coded, codings=()), received(coded, {"x": x})["x"]
    assert np.array_equal(left, x) is (not coded.lossy_inputs)
    expected = run_parts(plain, {"x": left})
    for name, array in run_parts(coded, {"x": x}).items():
        np.testing.assert_array_equal(array, expected[name])


def readers(graph):
    return next(t.consumers for t in graph.tensors if t.name == "x")
