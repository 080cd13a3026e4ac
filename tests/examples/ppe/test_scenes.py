"""The scene generator: equal seeds, sound boxes, variety and the data set layout."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from dnnsplit.examples.ppe import scenes
from dnnsplit.ground.errors import DnnSplitError


def test_equal_seeds_draw_equal_pixels():
    first, boxes = scenes.labelled_canvases(2, seed=5)
    again, same_boxes = scenes.labelled_canvases(2, seed=5)
    other, _ = scenes.labelled_canvases(2, seed=6)
    assert np.array_equal(first, again)
    assert all(np.array_equal(a, b) for a, b in zip(boxes, same_boxes, strict=True))
    assert not np.array_equal(first, other)


def test_more_canvases_start_with_the_same_ones():
    assert np.array_equal(scenes.images(1, seed=3), scenes.images(2, seed=3)[:1])


def test_scene_has_the_stated_types_and_sound_boxes():
    rng = np.random.default_rng(0)
    seen = np.zeros(len(scenes.CLASSES), dtype=int)
    for _ in range(60):
        picture, boxes = scenes.draw_scene(rng)
        assert picture.shape == (160, 160, 3)
        assert picture.dtype == np.uint8
        assert boxes.dtype == np.float32
        assert boxes.shape[1] == 5
        assert np.all(boxes[:, 3:] > 0)
        assert np.all(boxes[:, 1:3] - boxes[:, 3:] / 2 >= -1e-6)
        assert np.all(boxes[:, 1:3] + boxes[:, 3:] / 2 <= 1 + 1e-6)
        seen += np.bincount(boxes[:, 0].astype(int), minlength=len(seen))
    assert np.all(seen >= 20), dict(zip(scenes.CLASSES, seen, strict=True))


def test_some_persons_wear_a_helmet_and_some_do_not():
    rng = np.random.default_rng(1)
    spare = [np.sum(boxes[:, 0] == scenes.PERSON) - np.sum(boxes[:, 0] == scenes.HELMET)
             for boxes in (scenes.draw_scene(rng)[1] for _ in range(30))]  # fmt: skip
    assert max(spare) > 0
    assert min(spare) <= 0


def test_canvas_is_a_mosaic_of_its_scenes():
    canvas, boxes = scenes.draw_canvas(np.random.default_rng(8), tiles=2, size=96)
    rng = np.random.default_rng(8)
    tiles = [scenes.draw_scene(rng, 96) for _ in range(4)]
    assert np.array_equal(canvas[:96, 96:], tiles[1][0])
    assert np.array_equal(canvas[96:, :96], tiles[2][0])
    assert len(boxes) == sum(len(table) for _, table in tiles)
    assert boxes[0, 1:] == pytest.approx(tiles[0][1][0, 1:] / 2)
    assert boxes[-1, 1:3] == pytest.approx((tiles[3][1][-1, 1:3] + 1) / 2)


def test_images_are_network_inputs():
    pixels = scenes.images(1)
    assert pixels.shape == (1, 3, 320, 320)
    assert pixels.dtype == np.float32
    assert 0 <= pixels.min() < pixels.max() <= 1


def test_dataset_layout_and_labels(tmp_path):
    data = scenes.write_yolo_dataset(tmp_path / "set", train=2, val=1, seed=4, size=64)
    assert data == tmp_path / "set" / "data.yaml"
    assert "  4: sign\n" in data.read_text(encoding="utf-8")
    picture, boxes = scenes.draw_scene(np.random.default_rng([4, 0]), 64)
    with Image.open(tmp_path / "set" / "images" / "train" / "00000.png") as written:
        assert np.array_equal(np.asarray(written), picture)
    labels = np.loadtxt(tmp_path / "set" / "labels" / "train" / "00000.txt", ndmin=2)
    assert labels == pytest.approx(boxes, abs=1e-6)
    assert (tmp_path / "set" / "labels" / "val" / "00000.txt").is_file()


@pytest.mark.parametrize(
    "call",
    [
        lambda: scenes.labelled_canvases(0, seed=0),
        lambda: scenes.images(-1),
        lambda: scenes.draw_scene(np.random.default_rng(0), size=0),
        lambda: scenes.draw_canvas(np.random.default_rng(0), tiles=1.5),
        lambda: scenes.write_yolo_dataset("unused", train=1, val=0, seed=0),
    ],
)
def test_bad_counts_are_errors_of_ours(call):
    with pytest.raises(DnnSplitError):
        call()
