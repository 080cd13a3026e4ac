"""Segmentations: masks by hand, their agreement, and the disagreement of a model that segments."""

import numpy as np
import pytest
from helpers.small_models import conv_net, saved, telling
from onnx import TensorProto, helper

import dnnsplit as ds
from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.noise import detections
from dnnsplit.noise.segments import Segments, check_detector, decode_segments, segments_agreement

SIDES = np.where(np.arange(8) < 4, 1.0, -1.0)  # the left half of 8 columns, against the right one
PROTOTYPES = np.stack([np.tile(SIDES, (8, 1)), np.ones((8, 8))])[None].astype(np.float32)  # of an input of 32 x 32 pixels
WHOLE, CORNER = (16, 16, 32, 32), (8, 4, 8, 8)  # cx, cy, w, h


def output(*found):
    """Return the first output of two classes and two coefficients, of (box, scores, coefficients)."""
    return np.array([[*box, *scores, *factors] for box, scores, factors in found], np.float32).T[None]


def segments(*found):
    return decode_segments(output(*found), PROTOTYPES, 0.1)


def test_a_mask_is_where_the_prototypes_sum_up_to_more_than_nothing_inside_of_the_box():
    found = segments((CORNER, (0, 0.6), (0, 1)), (WHOLE, (0.9, 0), (1, 0)), (WHOLE, (0.05, 0.05), (1, 0)))
    assert found.rows == pytest.approx(np.array([[0, 0.9, 0, 0, 32, 32], [1, 0.6, 4, 0, 12, 8]]))
    left, corner = np.zeros((2, 8, 8), bool)
    left[:, :4] = corner[:2, 1:3] = True
    assert (found.masks == [left, corner]).all()
    assert found.packed.shape == (2, 8)


def test_a_box_that_leaves_the_picture_keeps_what_is_inside_of_it():
    (mask,) = segments(((0, 30, 16, 12), (0.9, 0), (0, 1))).masks  # pixels -8 to 8, and 24 to 36
    assert mask[6:, :2].all()
    assert mask.sum() == 4


def test_a_detection_of_an_empty_mask_is_none():
    found = segments((WHOLE, (0.9, 0), (0, -1)))
    assert (len(found.rows), found.masks.shape) == (0, (0, 8, 8))
    assert segments_agreement(found, found) == 1.0


def test_boxes_suppress_each_other_and_masks_stay_with_their_boxes():
    found = segments((WHOLE, (0.5, 0), (0, 1)), (WHOLE, (0.8, 0), (-1, 0)), (WHOLE, (0, 0.7), (1, 0)))
    assert found.rows[:, :2] == pytest.approx(np.array([[0, 0.8], [1, 0.7]]))
    assert found.masks[0, 0].tolist() == [False] * 4 + [True] * 4
    assert found.masks[1, 0].tolist() == [True] * 4 + [False] * 4


def test_values_that_are_no_numbers_make_no_mask():
    found = segments(((np.nan, 16, 32, 32), (0.9, 0), (0, 1)), ((1e30, 16, 32, 32), (0, 0.9), (0, 1)))
    assert len(found.rows) == 0


def test_the_agreement_is_that_of_masks_where_boxes_are_the_same():
    left, right, whole = (segments((WHOLE, (0.9, 0), factors)) for factors in ((1, 0), (-1, 0), (0, 1)))
    assert segments_agreement(left, left) == 1.0
    assert segments_agreement(left, right) == 0.0
    assert segments_agreement(left, whole) == segments_agreement(whole, left) == pytest.approx(0.1)  # one of 10 overlaps
    assert segments_agreement(left, segments((WHOLE, (0, 0.9), (1, 0)))) == 0.0  # another class
    both = segments((WHOLE, (0.9, 0), (1, 0)), (CORNER, (0, 0.9), (0, 1)))
    assert segments_agreement(left, both) == pytest.approx(2 / 3)
    assert detections.agreement(left.rows, right.rows) == 1.0


def test_each_mask_is_taken_once_the_best_score_first():
    reference = segments((WHOLE, (0.9, 0), (1, 0)))
    rows = np.repeat(reference.rows, 2, axis=0) - [[0, 0, 0, 0, 0, 0], [0, 0.1, 0, 0, 0, 0]]
    assert segments_agreement(Segments(rows, np.repeat(reference.packed, 2, axis=0), (8, 8)), reference) == pytest.approx(2 / 3)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ((1, 8, 4), (1, 4, 8, 8)),
        ((8, 4), (1, 2, 8, 8)),
        ((2, 8, 4), (2, 2, 8, 8)),
        ((1, 8, 4), (1, 2, 8)),
        ((1, 8, 4), (1, 0, 8, 8)),
    ],
)
def test_outputs_of_other_shapes_are_refused(first, second):
    with pytest.raises(DnnSplitError, match=r"1, coefficients, height, width\), got "):
        decode_segments(np.zeros(first), np.zeros(second))


def test_a_threshold_is_a_score():
    with pytest.raises(DnnSplitError, match="threshold must lie between 0 and 1"):
        decode_segments(output((WHOLE, (0.9, 0), (1, 0))), PROTOTYPES, 2.0)


def test_which_models_detect_is_told_by_shapes_and_what_the_file_says():
    detect, segment = [(1, 9, 2100)], [(1, 8, 64), (1, 2, 8, 8)]
    for shapes, task in ((detect, "detect"), (segment, "segment")):
        check_detector(shapes, {})
        check_detector(shapes, {"task": task})
        for other in {"detect", "segment", "classify"} - {task}:
            with pytest.raises(ds.NoiseError, match=f"whose metadata name the task '{other}'.*by rho, relative or nsr"):
                check_detector(shapes, {"task": other})
    for shapes in ([(1, 1000)], [(1, 1, 320, 320)], [(2, 9, 2100)], [(1, 4, 2100)]):
        with pytest.raises(ds.NoiseError, match=r"there are no detections to compare in outputs of the shapes \("):
            check_detector(shapes, {})


def segmenter(path, task):
    """Write a network with the outputs of a segmentation for 32 x 32 pixels: 64 anchors, two classes, two coefficients."""
    rng = np.random.default_rng(0)
    weights = {"w": rng.normal(0, 0.3, (8, 3, 4, 4)).astype(np.float32), "v": rng.normal(0, 2, (2, 3, 4, 4)).astype(np.float32)}
    ranges = np.array([[32, 0], [32, 0], [24, 8], [24, 8], [1, 0], [1, 0], [2, -1], [2, -1]], np.float32)
    weights |= {"scale": ranges[:, :1, None], "shift": ranges[:, 1:, None], "shape": np.array([1, 8, 64])}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["raw"], name="table", strides=[4, 4]),
        helper.make_node("Sigmoid", ["raw"], ["share"], name="share"),
        helper.make_node("Mul", ["share", "scale"], ["wide"], name="wide"),
        helper.make_node("Add", ["wide", "shift"], ["moved"], name="moved"),
        helper.make_node("Reshape", ["moved", "shape"], ["output0"], name="anchors"),
        helper.make_node("Conv", ["x", "v"], ["output1"], name="prototypes", strides=[4, 4]),
    ]
    ends = [
        helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("output0", (1, 8, 64)), ("output1", (1, 2, 8, 8)))
    ]
    saved(path, nodes, [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 3, 32, 32))], ends, weights)
    return telling(path, task=task)


def test_the_disagreement_of_a_segmentation_is_that_of_its_masks(tmp_path):
    graph = ds.load(segmenter(tmp_path / "m.onnx", "segment"))
    pictures = np.random.default_rng(1).normal(size=(3, 3, 32, 32)).astype(np.float32)
    meter = ds.noise_meter(graph, pictures, layers=2, metric="disagreement")
    samples = meter.samples(np.array([[0, 0], [0, 1], [1, 1]]), progress=False)
    assert samples.noise[0] == 0.0
    exact, changed = meter.outputs(()), meter.outputs(meter.layers)
    expected = []
    for image in range(3):
        found, reference = (
            decode_segments(o["output0"][image : image + 1], o["output1"][image : image + 1], 0.25) for o in (changed, exact)
        )
        assert len(reference.rows) > 3
        expected.append(1 - segments_agreement(found, reference))
    assert samples.noise[2] == pytest.approx(np.mean(expected))
    assert 0 < samples.noise[1] < samples.noise[2]  # the prototypes, the second layer, change masks alone
    found = ds.measure_noise(graph, pictures, 2, detections=True, progress=False)
    assert {"disagreement", "rho:output1"} <= {*found.details}


def test_a_model_without_detections_is_refused_before_anything_is_measured(tmp_path):
    pictures = np.zeros((1, 3, 12, 12), np.float32)
    with pytest.raises(ds.NoiseError, match="no detections to compare in outputs of the shapes"):
        ds.measure_noise(ds.load(conv_net(tmp_path / "m.onnx")), pictures, 2, metric="disagreement", progress=False)
    other = ds.load(segmenter(tmp_path / "o.onnx", "pose"))
    with pytest.raises(ds.NoiseError, match="name the task 'pose'"):
        ds.measure_noise(other, np.zeros((1, 3, 32, 32), np.float32), 2, detections=True, progress=False)
    with pytest.raises(ds.NoiseError, match="name the task 'pose'"):
        ds.measure_wire_noise(other, np.zeros((1, 3, 32, 32), np.float32), detections=True, progress=False)
