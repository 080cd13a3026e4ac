"""Detections: decoding, suppression and average precision against values worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from helpers.paths import ROOT

import dnnsplit as ds
from dnnsplit.examples.ppe import scenes, scoring
from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.noise import detections

MODEL = ROOT / "data" / "models" / "yolo11n-ppe-320.onnx"


def row(label: int, score: float, left: float, width: float = 10) -> list[float]:
    return [label, score, left, 0, left + width, 10]


def truth(*lefts: float, label: int = 0) -> np.ndarray:
    return np.array([[label, left, 0, left + 10, 10] for left in lefts], dtype=np.float32).reshape(-1, 5)


def test_intersection_over_union_of_half_shifted_boxes():
    overlap = detections.intersection_over_union(np.array([[0, 0, 10, 10]]), np.array([[5, 0, 15, 10], [20, 0, 30, 10]]))
    assert overlap == pytest.approx(np.array([[50 / 150, 0.0]]))


def test_label_rows_become_pixel_corners():
    corners = scoring.true_boxes(np.array([[3, 0.5, 0.25, 0.2, 0.1]]), 200, 100)
    assert corners == pytest.approx(np.array([[3, 80, 20, 120, 30]]))


def test_suppression_keeps_the_better_score_and_other_classes():
    rows = np.array([row(0, 0.6, 1), row(0, 0.9, 0), row(1, 0.5, 0), row(0, 0.4, 30)])
    kept = detections.non_maximum_suppression(rows)
    assert kept[:, 1].tolist() == [0.9, 0.5, 0.4]


def test_suppression_is_not_transitive():
    # The middle box overlaps both others by 5/7; once the first has removed it, the third stays (1/2).
    rows = np.array([row(0, 0.9, 0, 12), row(0, 0.8, 2, 12), row(0, 0.7, 4, 12)])
    assert detections.non_maximum_suppression(rows)[:, 1].tolist() == [0.9, 0.7]


def test_suppression_keeps_the_best_of_all_classes_of_many():
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 60, (1500, 2))
    rows = np.column_stack([rng.integers(0, 4, 1500), rng.random(1500), corners, corners + rng.uniform(2, 6, (1500, 2))])
    expected = []
    for one in rows[np.argsort(-rows[:, 1])]:
        same = [kept[2:] for kept in expected if kept[0] == one[0]]
        if not same or detections.intersection_over_union(one[None, 2:], np.array(same)).max() <= detections.OVERLAP:
            expected.append(one)
    assert len(expected) > detections.MOST_DETECTIONS
    assert (detections.non_maximum_suppression(rows) == expected[: detections.MOST_DETECTIONS]).all()


def test_decode_reads_centres_sizes_and_scores():
    output = np.zeros((1, 6, 3), dtype=np.float32)
    output[0, :, 0] = [50, 40, 20, 10, 0.8, 0.0]
    output[0, :, 1] = [51, 40, 20, 10, 0.6, 0.3]
    rows = detections.decode(output, threshold=0.1)
    assert rows == pytest.approx(np.array([[0, 0.8, 40, 35, 60, 45], [1, 0.3, 41, 35, 61, 45]]))
    assert detections.decode(output[0], threshold=0.9).shape == (0, 6)


def test_perfect_detections_score_one():
    found = np.array([row(0, 0.9, 0), row(0, 0.8, 50)])
    mean, per_class = scoring.average_precision50([found], [truth(0, 50)], classes=2)
    assert mean == 1.0
    assert per_class[0] == 1.0
    assert np.isnan(per_class[1])


def test_average_precision_by_hand():
    # Hit, miss, hit on two true boxes: precision 1 up to recall .5 (51 points), then 2/3 (50 points).
    found = np.array([row(0, 0.9, 0), row(0, 0.8, 200), row(0, 0.7, 50)])
    mean, _ = scoring.average_precision50([found], [truth(0, 50)], classes=1)
    assert mean == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_second_detection_of_one_object_is_a_miss():
    found = np.array([row(0, 0.9, 0), row(0, 0.8, 0.5), row(0, 0.7, 50)])
    mean, _ = scoring.average_precision50([found], [truth(0, 50)], classes=1)
    assert mean == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


def test_scores_are_ranked_across_pictures():
    # The miss in the second picture outranks the only hit: precision 1/2 up to recall 1/2, then nothing.
    pictures = [np.array([row(0, 0.5, 0)]), np.array([row(0, 0.9, 300)])]
    mean, _ = scoring.average_precision50(pictures, [truth(0), truth(50)], classes=1)
    assert mean == pytest.approx(51 * 0.5 / 101)


def test_overlap_below_one_half_is_a_miss():
    mean, _ = scoring.average_precision50([np.array([row(0, 0.9, 4)])], [truth(0)], classes=1)
    assert mean == 0.0  # shifted by 4 of 10: 60 / 140 < 0.5


def test_no_detection_scores_zero():
    mean, _ = scoring.average_precision50([np.zeros((0, 6))], [truth(0)], classes=1)
    assert mean == 0.0


@pytest.mark.parametrize(
    "call",
    [
        lambda: detections.decode(np.zeros((2, 9, 10))),
        lambda: detections.decode(np.zeros((1, 4, 10))),
        lambda: detections.decode(np.zeros((1, 9, 10)), threshold=2.0),
        lambda: detections.non_maximum_suppression(np.zeros((3, 5))),
        lambda: scoring.true_boxes(np.zeros((3, 4)), 320),
        lambda: scoring.average_precision50([], [], classes=1),
        lambda: scoring.average_precision50([np.zeros((0, 6))], [truth()], classes=1),
    ],
)
def test_bad_input_is_an_error_of_ours(call):
    with pytest.raises(DnnSplitError):
        call()


def test_committed_detector_reaches_its_accuracy_on_fresh_canvases():
    onnxruntime = pytest.importorskip("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(MODEL), options, providers=["CPUExecutionProvider"])
    pixels, labels = scenes.labelled_canvases(24, seed=20_240)
    name = session.get_inputs()[0].name
    found = [detections.decode(session.run(None, {name: picture[None]})[0]) for picture in pixels]
    mean, per_class = scoring.average_precision50(found, [scoring.true_boxes(b, 320) for b in labels], len(scenes.CLASSES))
    assert mean >= 0.8, dict(zip(scenes.CLASSES, per_class.round(3), strict=True))


def test_agreement_by_hand():
    first = np.array([row(0, 0.9, 0), row(0, 0.5, 20), row(1, 0.8, 0)])
    assert detections.agreement(first, first) == 1.0
    assert detections.agreement(first[:0], first[:0]) == 1.0
    assert detections.agreement(first[:0], first) == detections.agreement(first, first[:0]) == 0.0
    assert detections.agreement(first[:2], first) == pytest.approx(2 * 2 / 5)
    moved = np.array([row(0, 0.9, 1)])  # overlaps 9/11 = 0.818: within 7 of COCO's 10
    assert detections.agreement(moved, first[:1]) == pytest.approx(0.7)
    assert detections.agreement(np.array([row(1, 0.9, 0)]), first[:1]) == 0.0  # another class


def test_a_detection_claims_at_each_overlap_anew():
    # Both overlap the true box, by 9/11 and 7/13: up to 0.8 the better score takes it, and 0.5 is all that the other reaches.
    found = np.array([row(0, 0.5, 1), row(0, 0.9, 3), row(1, 0.8, 0)])
    one = scoring.judged(found, truth(0), [0.5, 0.8, 0.9])
    assert one.labels.tolist() == [0, 1, 0]
    assert one.hits.tolist() == [[True, False, False], [False] * 3, [False, True, False]]


def test_average_precisions_of_sets_are_those_of_the_pictures_repeated():
    rng = np.random.default_rng(0)
    truths = [truth(*(20 * rng.permutation(6)[: rng.integers(1, 5)]), label=label) for label in (0, 1, 0, 1, 0)]
    found = [
        np.array([row(rng.integers(2), rng.random(), 20 * rng.integers(6) + rng.normal(0, 2)) for _ in range(8)]) for _ in truths
    ]
    boxes = np.array([[np.sum(one[:, 0] == label) for label in range(2)] for one in truths])
    sets = np.array([[1, 1, 1, 1, 1], [2, 0, 1, 0, 3], [0, 1, 0, 2, 0]])
    values = scoring.average_precisions([scoring.judged(f, t) for f, t in zip(found, truths, strict=True)], boxes, sets)
    for of_set, often in zip(values, sets, strict=True):
        chosen = [i for i, times in enumerate(often) for _ in range(times)]
        for value, least in zip(of_set, np.arange(50, 100, 5) / 100, strict=True):
            for label in range(2):
                total = sum(np.sum(truths[i][:, 0] == label) for i in chosen)
                wanted = by_steps([found[i] for i in chosen], [truths[i] for i in chosen], label, least) if total else np.nan
                assert value[label] == pytest.approx(wanted, nan_ok=True)


def by_steps(found, truths, label, least):
    """COCO's average precision of one class, one detection and one recall at a time."""
    rows, total = [], 0
    for detections_of, boxes in zip(found, truths, strict=True):
        free = [box[1:] for box in boxes if box[0] == label]
        total += len(free)
        for one in sorted((d for d in detections_of if d[0] == label), key=lambda d: -d[1]):
            shared = [max(0.0, min(one[4], box[2]) - max(one[2], box[0])) * 10 for box in free]
            over = [s / (10 * (one[4] - one[2]) + 10 * (box[2] - box[0]) - s) for s, box in zip(shared, free, strict=True)]
            best = max(range(len(free)), key=over.__getitem__, default=None)
            hit = best is not None and over[best] >= least
            if hit:
                free.pop(best)
            rows.append((one[1], hit))
    rows.sort(key=lambda scored: -scored[0])
    curve, right = [], 0
    for count, (_, hit) in enumerate(rows, start=1):
        right += hit
        curve.append((right / total, right / count))
    recalls = [p / 100 for p in range(101)]
    return sum(max((precision for recall, precision in curve if recall >= r - 1e-12), default=0.0) for r in recalls) / 101


def test_scores_of_the_task_are_those_of_each_scheme_alone(shipped):
    pixels, labels = scenes.labelled_canvases(3, seed=2)
    truths = [scoring.true_boxes(boxes, 320) for boxes in labels]
    names = shipped.quantizable(3)
    meter = ds.noise_meter(shipped, pixels, layers=names)
    samples = ds.measure_noise(shipped, pixels, names, [[1, 1, 1], [0, 0, 0], [1, 0, 0]], detections=True, progress=False)
    sources = ds.measure_noise(shipped, pixels, names, [[0, 0, 0]], sources=["jpeg-90"], detections=True, progress=False).sources
    task = scoring.task_scores(replace(samples, sources=sources), meter, truths, 5, progress=False)
    form = task.sources["jpeg-90"]
    for name in ("disagreement", "disagreement std"):
        assert form.details[name].to_numpy() == pytest.approx(sources["jpeg-90"].details[name].to_numpy())
    found = [detections.decode(o) for o in meter.outputs((), "jpeg-90")["output0"]]
    lost = task.origin["float32"]["mAP50"] - scoring.average_precision50(found, truths, 5)[0]
    assert form.details["mAP50_loss"].to_numpy() == pytest.approx([lost])
    assert task.details["disagreement"].to_numpy() == pytest.approx(samples.details["disagreement"].to_numpy())
    assert task.details["disagreement std"].to_numpy() == pytest.approx(samples.details["disagreement std"].to_numpy())
    decoded = [[detections.decode(o) for o in meter.outputs(q)["output0"]] for q in ((), *map(quantized(names), task.schemes))]
    for name, overlaps in {"mAP50": [0.5], "mAP75": [0.75], "mAP50-95": np.arange(50, 100, 5) / 100}.items():

        def score(found, some, overlaps=overlaps):
            return np.mean(
                [scoring.average_precision50([found[i] for i in some], [truths[i] for i in some], 5, o)[0] for o in overlaps]
            )

        exact = score(decoded[0], range(3))
        assert task.origin["float32"][name] == pytest.approx(exact)
        for row, found in zip(task.details.itertuples(index=False), decoded[1:], strict=True):
            told = dict(zip(task.details, row, strict=True))
            assert told[f"{name}_loss"] == pytest.approx(exact - score(found, range(3)), abs=1e-12)
            without = [score(decoded[0], some) - score(found, some) for some in ([1, 2], [0, 2], [0, 1])]
            error = (2 / 3 * np.sum((without - np.mean(without)) ** 2)) ** 0.5  # the jackknife's
            assert told[f"{name}_loss std"] / 3**0.5 == pytest.approx(error, abs=1e-12)


def quantized(names):
    return lambda bits: [name for name, bit in zip(names, bits, strict=True) if bit]


def test_scores_of_a_task_need_the_samples_of_the_meter_and_boxes(shipped):
    pixels, _ = scenes.labelled_canvases(2, seed=2)
    meter = ds.noise_meter(shipped, pixels, layers=1)
    samples = ds.measure_noise(shipped, pixels, 1, progress=False)
    others = ds.measure_noise(shipped, pixels[:1], 2, [[0, 1]], progress=False)
    with pytest.raises(DnnSplitError, match="nothing to score"):
        scoring.task_scores(samples, meter, [truth(), truth()], 5)
    with pytest.raises(DnnSplitError, match="images_sha256 differs") as error:
        scoring.task_scores(others, meter, [truth(0)], 5)
    assert "other layers" in str(error.value)
    assert "1 sets of boxes and 2 images" in str(error.value)
