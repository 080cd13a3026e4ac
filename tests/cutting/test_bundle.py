import json
import re
from dataclasses import replace

import pytest
from google.protobuf import text_format
from helpers.bundle_models import BOXES, HALVES, NOTHING, ROWS, SIZE, detector, mlp
from tritonclient.grpc import model_config_pb2

from dnnsplit.cutting.bundle import Bundle, Hop, Output, Wire
from dnnsplit.cutting.checks import OPEN_BYTES
from dnnsplit.cutting.triton import part_config
from dnnsplit.ground.errors import DeployError


@pytest.fixture
def bundle(tmp_path):
    return mlp(tmp_path)


def edit(bundle, change):
    path = bundle.folder / "bundle.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def test_save_and_load_give_an_equal_bundle(bundle):
    assert Bundle.load(bundle.folder) == bundle
    assert Bundle.load(str(bundle.folder)).plan == {"objective": 1.0}


def test_sizes_routes_and_stages(bundle):
    assert Wire("t", "float32", (2, 3)).size_bytes == 24
    assert Wire("t", "int64", ()).size_bytes == 8
    assert bundle.routes == {
        ("h0", "device"): ("edge", "cloud"),
        ("q1", "edge"): ("device", "cloud"),
        ("h2", "cloud"): ("device",),
    }
    assert bundle.stages == ("device", "edge", "cloud")
    assert replace(bundle, servers=("device", "edge", "fog", "cloud")).stages == ("device", "edge", "cloud")
    assert bundle.producers == {"x": "device", "h0": "device", "q1": "edge", "h2": "cloud", "y": "device"}
    # the answer holds both outputs as float32
    assert 2 * 4 * ROWS * SIZE < bundle.largest_message_bytes < 2 * 4 * ROWS * SIZE + 2**21


def test_frame_and_representations(bundle):
    frame = bundle.frame.set_index("part")
    assert list(frame.index) == ["a", "b", "c", "d"]
    assert frame.loc["a", "sent_bytes"] == 2 * 4 * ROWS * SIZE
    assert frame.loc["c", "received_bytes"] == 5 * ROWS * SIZE
    assert frame.loc["d", "inputs"] == "h2, x"
    assert (
        " ".join(repr(bundle).split()) == "Bundle(mlp: 4 parts on device, edge, cloud; 3 tensors cross (229.4 kB); source device)"
    )
    assert "<table" in bundle._repr_html_()


def test_no_bundle_and_no_json(tmp_path):
    with pytest.raises(DeployError, match=r"no bundle in .*bundle\.json is missing"):
        Bundle.load(tmp_path)
    (tmp_path / "bundle.json").write_text("{")
    with pytest.raises(DeployError, match="not readable as JSON"):
        Bundle.load(tmp_path)
    (tmp_path / "bundle.json").write_text("[]")
    with pytest.raises(DeployError, match="schema 1"):
        Bundle.load(tmp_path)


def test_another_schema(bundle):
    edit(bundle, lambda document: document.update(schema=2))
    with pytest.raises(DeployError, match=r"not of schema 1 .it says 2"):
        Bundle.load(bundle.folder)


def test_wrong_forms_are_told_all_at_once(bundle):
    def change(document):
        document["extra"] = 1
        del document["source"]
        document["parts"][1]["inputs"] = "h0"
        document["wires"][0]["shape"] = [64, "256"]
        document["wires"][1]["zero_point"] = True

    edit(bundle, change)
    with pytest.raises(DeployError, match="5 problems") as caught:
        Bundle.load(bundle.folder)
    for text in ("'extra' is unknown", "'source' is missing", "parts[1].inputs is 'h0'", "wires[0].shape[1] is '256'",
                 "wires[1].zero_point is True"):  # fmt: skip
        assert text in str(caught.value)


def test_a_changed_and_a_missing_file(bundle):
    (bundle.folder / "a.onnx").write_bytes(b"other")
    (bundle.folder / "b.onnx").unlink()
    with pytest.raises(DeployError) as caught:
        Bundle.load(bundle.folder)
    assert "'a.onnx' was changed after the cut" in str(caught.value)
    assert "'b.onnx' is missing" in str(caught.value)


@pytest.mark.parametrize("file", ["../a.onnx", "/etc/hosts", "sub/../../a.onnx", "..\\a.onnx", "C:\\a.onnx", ""])
def test_a_path_that_leaves_the_folder(bundle, file):
    edit(bundle, lambda document: document["parts"][0].update(file=file))
    with pytest.raises(DeployError, match="leaves the bundle folder"):
        Bundle.load(bundle.folder)


def test_a_link_that_leaves_the_folder(bundle, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "a.onnx"
    (bundle.folder / "a.onnx").rename(outside)
    (bundle.folder / "a.onnx").symlink_to(outside)
    with pytest.raises(DeployError, match="leaves the bundle folder"):
        Bundle.load(bundle.folder)


def test_a_wire_without_a_producer(bundle):
    edit(bundle, lambda document: document["parts"].pop(1))
    with pytest.raises(DeployError) as caught:
        Bundle.load(bundle.folder)
    assert "part 'c' needs 'q1', which is made by nobody" in str(caught.value)
    assert "output 'hidden' is carried by 'q1', which nobody makes" in str(caught.value)


def test_parts_out_of_order(bundle):
    edit(bundle, lambda document: document["parts"].reverse())
    with pytest.raises(DeployError, match="needs 'h0', which is made by part 'a', which comes later"):
        Bundle.load(bundle.folder)


def test_a_wire_that_is_made_twice(bundle):
    edit(bundle, lambda document: document["parts"][2].update(outputs=["h2", "h0"]))
    with pytest.raises(DeployError, match="'h0' is made twice: by part 'a' and by part 'c'"):
        Bundle.load(bundle.folder)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"source": "devise"}, "source 'devise' is no server of the bundle .did you mean 'device'"),
        ({"servers": ("device", "edge")}, "part 'c': server 'cloud' is no server"),
        ({"model_name": "a/b"}, "must not be empty nor hold '/'"),
        ({"outputs": ()}, "has no outputs"),
        ({"outputs": (Output("y", "y"), Output("y", "h2"))}, "two outputs are named 'y'"),
        ({"inputs": (Wire("x", "float31", (1,)),)}, "tensor 'x' is float31, which cannot be sent .did you mean 'float32'"),
        ({"inputs": (Wire("x", "bfloat16", (1,)),)}, "tensor 'x' is bfloat16, which cannot be sent"),
        ({"inputs": (Wire("x", "object", (1,)),)}, "tensor 'x' is text, which cannot be sent"),
        ({"inputs": (Wire("x", "float32", (-2, 4)),)}, "extents of 0 or more, or -1"),
        ({"inputs": (Wire("x", "float32", (-1, 4)),)}, "'x' has the open shape .-1, 4., so it can only be an output"),
        ({"ignored": ("x",)}, "graph input 'x' is both read and ignored"),
        ({"inputs": (Wire("x", "float64", (2**28,)),)}, "'x' has the shape .268435456., 2.147 GB, and a message holds 2.145 GB"),
        ({"inputs": (Wire("x", "uint8", (4,), 0.5, 0),)}, "graph input 'x' has a scale"),
        ({"inputs": (Wire("x", "float32", (4,), 0.5, 0),)}, "goes with uint8 or int8, not float32"),
        ({"inputs": (Wire("x", "uint8", (4,), -1.0, 0),)}, "must be above 0"),
        ({"inputs": (Wire("x", "int8", (4,), 0.5, 200),)}, "needs a zero_point in -128..127, not 200"),
        ({"inputs": (Wire("x", "uint8", (4,), 0.5),)}, "needs a zero_point in 0..255, not None"),
        ({"inputs": (Wire("x", "float32", (4,)), Wire("x", "float32", (5,)))}, "'x' is described twice"),
    ],
)
def test_what_does_not_fit_is_not_saved(bundle, change, text):
    with pytest.raises(DeployError, match=text):
        replace(bundle, **change).save()


def test_open_shapes_are_for_outputs_alone(tmp_path):
    bundle = detector(tmp_path)
    best = bundle.wire_by_name[BOXES]
    assert (best.is_open, best.size_bytes) == (True, OPEN_BYTES)
    assert OPEN_BYTES < bundle.largest_message_bytes < OPEN_BYTES + 2**21
    assert "6 tensors cross (at most 67.11 MB)" in " ".join(repr(bundle).split())
    text = re.escape("has the open shape [1, 1, -1], so it can only be an output of the model")
    halves = replace(bundle.wire_by_name[HALVES], shape=(1, 1, -1))
    with pytest.raises(DeployError, match=text):
        replace(bundle, wires=(halves, *bundle.wires[1:])).check()
    scaled = replace(best, dtype="uint8", scale=0.5, zero_point=0)
    with pytest.raises(DeployError, match="without a scale"):
        replace(bundle, wires=tuple(scaled if wire is best else wire for wire in bundle.wires)).check()


def test_the_configuration_of_open_and_empty_tensors(tmp_path):
    bundle = detector(tmp_path)
    config = text_format.Parse(part_config(bundle, bundle.parts[1]), model_config_pb2.ModelConfig())
    assert {i.name: list(i.dims) for i in config.input} == {
        "boxes": [1, 6, 4], HALVES: [1, 1, 6], NOTHING: [1, 1, -1], "most": [1],
    }  # fmt: skip
    assert [(o.name, list(o.dims)) for o in config.output] == [(BOXES, [-1, 3])]


def test_hops_take_the_place_of_straight_routes(bundle):
    hops = (Hop("h2", "cloud", "edge"), Hop("h2", "edge", "device"))
    relayed = replace(bundle, hops=hops)
    relayed.save()
    assert Bundle.load(bundle.folder).hops == hops
    assert relayed.routes == {
        ("h0", "device"): ("edge", "cloud"),
        ("q1", "edge"): ("device", "cloud"),
        ("h2", "cloud"): ("edge",),
        ("h2", "edge"): ("device",),
    }
    assert relayed.needed == bundle.needed == {"h0": ("edge", "cloud"), "q1": ("device", "cloud"), "h2": ("device",)}
    by_fog = (Hop("h2", "cloud", "fog"), Hop("h2", "fog", "device"))
    fog = replace(bundle, servers=("device", "fog", "edge", "cloud"), hops=by_fog)
    assert fog.stages == ("device", "fog", "edge", "cloud")
    assert relayed.digest == Bundle.load(bundle.folder).digest


@pytest.mark.parametrize(
    ("hops", "text"),
    [
        ([Hop("h9", "cloud", "device")], "nobody makes that wire .did you mean 'h"),
        ([Hop("h2", "cloud", "edge")], "the hops of wire 'h2' do not bring it to 'device', which needs it"),
        ([Hop("h2", "edge", "device")], "the wire has not come to 'edge' before"),
        ([Hop("h2", "cloud", "device"), Hop("h2", "cloud", "device")], "the wire is at 'device' already"),
        ([Hop("h2", "cloud", "devise")], "'devise' is no server of the bundle .did you mean 'device'"),
    ],
)
def test_hops_that_lead_nowhere(bundle, hops, text):
    with pytest.raises(DeployError, match=text):
        replace(bundle, hops=hops).check()
