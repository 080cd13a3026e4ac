"""Drawn occupational-safety scenes with exact bounding boxes.

A *scene* is one small square picture, a *canvas* a square mosaic of scenes: a detector trained on 160-pixel
scenes is tied to the object sizes in them, and a 2 x 2 canvas fills a 320-pixel input with unchanged objects.
Counts and sizes are whole numbers of at least 1; others raise a DnnSplitError.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, ImageDraw

from dnnsplit.ground.errors import DnnSplitError
from dnnsplit.ground.units import is_whole

__all__ = [
    "CLASSES", "CONE", "HELMET", "PERSON", "SIGN", "VEST",
    "draw_canvas", "draw_scene", "images", "labelled_canvases", "write_yolo_dataset",
]  # fmt: skip
CLASSES: tuple[str, ...] = ("person", "helmet", "vest", "cone", "sign")
PERSON, HELMET, VEST, CONE, SIGN = range(len(CLASSES))

_Colour: TypeAlias = tuple[int, ...]
_Box: TypeAlias = tuple[float, ...]  # class index, left, top, right, bottom
_SUPERSAMPLING = 2  # drawn larger and averaged down, which gives anti-aliased edges
_BLACK, _WHITE, _RED, _BLUE = (20, 20, 20), (242, 242, 238), (205, 25, 30), (20, 80, 185)
_SKIN = ((245, 210, 180), (224, 172, 130), (170, 115, 75), (105, 68, 45))
_HAIR = ((30, 22, 18), (80, 52, 30), (150, 110, 60), (120, 120, 120))
_SHELL = ((250, 205, 20), (245, 245, 245), (30, 90, 200), (215, 35, 30), (245, 120, 15))
_HI_VIS = ((255, 110, 10), (205, 245, 30), (255, 80, 40), (235, 235, 20))
_SHIRT = ((40, 60, 110), (90, 90, 95), (130, 40, 45), (45, 90, 60), (225, 222, 215), (60, 45, 80))
_TROUSERS = ((35, 45, 80), (50, 50, 52), (95, 80, 60), (70, 75, 55))
_DOME = tuple((float(np.cos(t)), float(np.sin(t))) for t in np.linspace(0, np.pi, 17))
_BANDS = ((-1, 0.57, 1, 0.52), (-0.6, 0.8, -0.4, 0.57), (0.4, 0.8, 0.6, 0.57))  # reflective tape of a vest
# Parts are (ImageDraw method, fill, points...); a point is (right of, above) the foot point in object heights.
_SIGNS = (
    (("polygon", _BLACK, (0, 1), (0.5, 0), (-0.5, 0)),  # warning
     ("polygon", (250, 210, 20), (0, 0.82), (0.37, 0.09), (-0.37, 0.09)),
     ("rectangle", _BLACK, (-0.05, 0.58), (0.05, 0.28)), ("rectangle", _BLACK, (-0.05, 0.22), (0.05, 0.14))),
    (("ellipse", _RED, (-0.5, 1), (0.5, 0)), ("ellipse", _WHITE, (-0.37, 0.87), (0.37, 0.13)),  # prohibition
     ("polygon", _RED, (-0.36, 0.78), (-0.28, 0.86), (0.36, 0.22), (0.28, 0.14))),
    (("ellipse", _BLUE, (-0.5, 1), (0.5, 0)), ("ellipse", _WHITE, (-0.15, 0.82), (0.15, 0.52)),  # mandatory
     ("rectangle", _WHITE, (-0.23, 0.48), (0.23, 0.24))),
    (("rectangle", _WHITE, (-0.5, 1), (0.5, 0)), ("rectangle", (10, 130, 75), (-0.45, 0.95), (0.45, 0.05)),  # escape
     ("rectangle", _WHITE, (-0.3, 0.55), (0.1, 0.45)), ("polygon", _WHITE, (0.37, 0.5), (0.1, 0.74), (0.1, 0.26))),
)  # fmt: skip


def __dir__() -> list[str]:
    return __all__


def _require_positive(**values: int) -> None:
    for name, value in values.items():
        if not is_whole(value, 1):
            message = f"{name} must be a whole number of at least 1, got {value!r}"
            raise DnnSplitError(message)


def _pick(rng: np.random.Generator, palette: tuple[_Colour, ...]) -> _Colour:
    base = palette[int(rng.integers(len(palette)))]
    return tuple(int(c) for c in np.clip(np.add(base, rng.integers(-14, 15, 3)), 0, 255))


def _any_colour(rng: np.random.Generator) -> _Colour:
    return tuple(int(c) for c in rng.integers(50, 215, 3))


def _stamp(draw: ImageDraw.ImageDraw, x: float, y: float, h: float, *parts: tuple[Any, ...]) -> None:
    """Draw parts given in object heights `h` around the foot point (x, y)."""
    for form, fill, *points in parts:
        getattr(draw, form)([(x + u * h, y - v * h) for u, v in points], fill=fill)


def _background(rng: np.random.Generator, side: int) -> Image.Image:
    """Draw a flat, gradient, noise, stripe or brick background with unlabelled clutter in front."""
    kind, pitch = int(rng.integers(5)), int(rng.integers(side // 18 + 2, side // 7 + 3))
    near = np.asarray(_any_colour(rng), dtype=np.float64)
    far = np.clip(near + rng.integers(-70, 71, 3), 0, 255)
    angle, (ys, xs) = rng.uniform(0, 2 * np.pi), np.mgrid[0:side, 0:side]
    along = np.cos(angle) * xs + np.sin(angle) * ys
    patches = side // 12 + 1, side // 12 + 1
    weight = (lambda: np.zeros((side, side)),
              lambda: np.clip(0.5 + along / (2 * side), 0, 1),
              lambda: rng.normal(0, 0.5, patches).repeat(12, 0).repeat(12, 1)[:side, :side],
              lambda: along % (2 * pitch) < pitch,
              lambda: (ys % pitch < 3) | ((xs + ys // pitch % 2 * pitch) % (2 * pitch) < 3))[kind]()  # fmt: skip
    image = Image.fromarray(np.clip(near + weight[..., None] * (far - near), 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(image)
    if rng.random() < 0.6:  # ground
        draw.rectangle((0, int(side * rng.uniform(0.55, 0.9)), side, side), fill=_any_colour(rng))
    for _ in range(int(rng.integers(0, 6))):  # crates, drums and pipes: coloured shapes that are no objects
        (x, y), (w, h), form = rng.uniform(0, side, 2), rng.uniform(0.02, 0.3, 2) * side, rng.integers(2)
        getattr(draw, ("rectangle", "ellipse")[int(form)])((x, y, x + w, y + h), fill=_any_colour(rng))
    return image


def _helmet(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, r: float) -> list[_Box]:
    """Draw a helmet with its brim at height y, in units of the head radius `r`."""
    shell = _pick(rng, _SHELL)
    dark = tuple(int(0.7 * c) for c in shell)
    _stamp(draw, x, y, r, ("polygon", shell, *((1.15 * u, 1.3 * v) for u, v in _DOME)),
           ("rectangle", dark, (-0.12, 1.3), (0.12, 0)), ("rectangle", dark, (-1.5, 0.2), (1.5, -0.15)))  # fmt: skip
    return [(HELMET, x - 1.5 * r, y - 1.3 * r, x + 1.5 * r, y + 0.15 * r)]


def _person(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, h: float) -> list[_Box]:
    """Draw a standing person; a worn helmet and vest get boxes of their own."""
    skin, shirt, cloth = _pick(rng, _SKIN), _pick(rng, _SHIRT), _pick(rng, _TROUSERS)
    half, step = rng.uniform(0.1, 0.145), rng.uniform(0.01, 0.1)  # half shoulder width, half stride
    reach = half + step
    for s in (-1, 1):
        foot, hand, low = s * (0.5 * half + step), half + rng.uniform(0.03, 0.14), rng.uniform(0.36, 0.52)
        _stamp(draw, x, y, h,
               ("polygon", cloth, (0, 0.46), (s * half, 0.46), (foot + s * 0.04, 0.03), (foot - s * 0.04, 0.03)),
               ("ellipse", _BLACK, (foot - 0.06, 0.06), (foot + 0.06, 0)),
               ("polygon", shirt, (s * half, 0.8), (s * half * 0.6, 0.72), (s * (hand - 0.06), low), (s * hand, low)),
               ("ellipse", skin, (s * hand - 0.04, low + 0.03), (s * hand + 0.04, low - 0.05)))  # fmt: skip
        reach = max(reach, hand + 0.04, abs(foot) + 0.06)
    boxes: list[_Box] = []
    _stamp(draw, x, y, h, ("rectangle", shirt, (-half, 0.8), (half, 0.43)),
           ("rectangle", skin, (-0.03, 0.83), (0.03, 0.79)))  # fmt: skip
    if rng.random() < 0.6:
        w, fabric = 1.08 * half, _pick(rng, _HI_VIS)
        _stamp(draw, x, y, h, ("polygon", fabric, (-0.85 * w, 0.8), (0.85 * w, 0.8), (w, 0.42), (-w, 0.42)),
               ("polygon", shirt, (-0.25 * w, 0.8), (0.25 * w, 0.8), (0, 0.7)),
               *(("rectangle", _WHITE, (a * w, b), (c * w, d)) for a, b, c, d in _BANDS))  # fmt: skip
        boxes.append((VEST, x - w * h, y - 0.8 * h, x + w * h, y - 0.42 * h))
    hair = [("ellipse", _pick(rng, _HAIR), (-0.087, 1), (0.087, 0.83))] if rng.random() < 0.4 else []
    _stamp(draw, x, y, h, *hair, ("ellipse", skin, (-0.078, 0.95), (0.078, 0.8)))
    boxes += [] if hair else _helmet(draw, rng, x, y - 0.895 * h, 0.08 * h)
    return [(PERSON, x - reach * h, y - h, x + reach * h, y), *boxes]


def _cone(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, h: float) -> list[_Box]:
    colour = _pick(rng, ((250, 95, 15), (240, 60, 25)))
    _stamp(draw, x, y, h, ("polygon", colour, (-0.05, 1), (0.05, 1), (0.3, 0.1), (-0.3, 0.1)),
           ("polygon", _WHITE, (-0.22, 0.38), (0.22, 0.38), (0.17, 0.55), (-0.17, 0.55)),
           ("polygon", _WHITE, (-0.13, 0.7), (0.13, 0.7), (0.1, 0.82), (-0.1, 0.82)),
           ("rectangle", colour, (-0.38, 0.1), (0.38, 0)))  # fmt: skip
    return [(CONE, x - 0.38 * h, y - h, x + 0.38 * h, y)]


def _sign(draw: ImageDraw.ImageDraw, rng: np.random.Generator, x: float, y: float, h: float) -> list[_Box]:
    _stamp(draw, x, y, h, *_SIGNS[int(rng.integers(len(_SIGNS)))])
    return [(SIGN, x - h / 2, y - h, x + h / 2, y)]


def draw_scene(rng: np.random.Generator, size: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Draw one scene with its boxes.

    Parameters
    ----------
    rng : np.random.Generator
        Source of everything random in the scene; it is advanced.
    size : int, default 160
        Side of the picture in pixels.

    Returns
    -------
    picture : (size, size, 3) uint8 array
        RGB, rows from the top, 0 to 255.
    boxes : (n, 5) float32 array
        Rows `class, cx, cy, w, h`: an index into `CLASSES`, then centre and size as fractions of the side, cut off
        at the border of the picture.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import numpy as np
    >>> image, boxes = ds.scenes.draw_scene(np.random.default_rng(0))
    >>> image.shape, boxes.shape[1]
    ((160, 160, 3), 5)
    """
    _require_positive(size=size)
    side = size * _SUPERSAMPLING
    image = _background(rng, side)
    draw, boxes = ImageDraw.Draw(image), list[_Box]()
    painters = [p for p, end in ((_sign, 3), (_person, 4), (_cone, 3)) for _ in range(rng.integers(p is _person, end))]
    for paint in painters + [_helmet] * (rng.random() < 0.25):  # the extra helmet is one that nobody wears
        low, high, aspect = {_person: (0.35, 0.8, 0.45), _helmet: (0.05, 0.08, 1.5)}.get(paint, (0.15, 0.34, 0.8))
        taken = np.array(boxes).reshape(-1, 5)[:, 1:]
        for _ in range(12):  # tries for a place that hides at most 15 % of anything drawn before
            h = rng.uniform(low, high) * side
            x, y = rng.uniform(0.3 * h * aspect, side - 0.3 * h * aspect), rng.uniform(min(1.02 * h, side), side)
            spot = np.array([x - h * aspect / 2, y - h, x + h * aspect / 2, y])
            overlap = np.clip(np.minimum(taken[:, 2:], spot[2:]) - np.maximum(taken[:, :2], spot[:2]), 0, None).prod(1)
            if np.all(overlap <= 0.15 * (taken[:, 2:] - taken[:, :2]).prod(1)):
                boxes += paint(draw, rng, x, y, h)
                break
    shrunk = np.asarray(image.resize((size, size), Image.Resampling.BOX), dtype=np.float64)
    lit = shrunk * rng.uniform(0.75, 1.2) + rng.normal(0, rng.uniform(1, 6), shrunk.shape)  # light and sensor noise
    rows = np.array(boxes, dtype=np.float64).reshape(-1, 5)
    low_high = np.clip(rows[:, 1:] / side, 0, 1).reshape(-1, 2, 2)
    table = np.column_stack([rows[:, 0], low_high.mean(axis=1), low_high[:, 1] - low_high[:, 0]]).astype(np.float32)
    return np.clip(lit, 0, 255).astype(np.uint8), table


def draw_canvas(rng: np.random.Generator, tiles: int = 2, size: int = 160) -> tuple[np.ndarray, np.ndarray]:
    """Draw a square mosaic of scenes.

    Parameters
    ----------
    rng : np.random.Generator
        Source of everything random in the scenes; it is advanced.
    tiles : int, default 2
        Scenes per row and per column.
    size : int, default 160
        Side of one scene in pixels.

    Returns
    -------
    canvas : (tiles * size, tiles * size, 3) uint8 array
        RGB, rows from the top, 0 to 255; the scenes are drawn row by row.
    boxes : (n, 5) float32 array
        As `draw_scene` returns them, as fractions of the side of the canvas.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> import numpy as np
    >>> image, boxes = ds.scenes.draw_canvas(np.random.default_rng(0))
    >>> image.shape, boxes.shape[1]
    ((320, 320, 3), 5)
    """
    _require_positive(tiles=tiles, size=size)
    canvas, tables = np.zeros((tiles * size, tiles * size, 3), dtype=np.uint8), []
    for row, column in np.ndindex(tiles, tiles):
        picture, boxes = draw_scene(rng, size)
        canvas[row * size : (row + 1) * size, column * size : (column + 1) * size] = picture
        tables.append((boxes + np.array([0, column, row, 0, 0], np.float32)) / np.array([1, *[tiles] * 4], np.float32))
    return canvas, np.concatenate(tables)


def labelled_canvases(count: int, seed: int, tiles: int = 2, size: int = 160) -> tuple[np.ndarray, list[np.ndarray]]:
    """Draw canvases as network inputs, with their boxes.

    Parameters
    ----------
    count : int
        Number of canvases; more of them start with the same ones.
    seed : int
        Equal seeds give equal canvases.
    tiles : int, default 2
        Scenes per row and per column of a canvas.
    size : int, default 160
        Side of one scene in pixels.

    Returns
    -------
    pixels : (count, 3, tiles * size, tiles * size) float32 array
        RGB in [0, 1], channels first.
    boxes : list of (n, 5) float32 arrays
        One table per canvas, see `draw_canvas`; `dnnsplit.examples.ppe.scoring.true_boxes` turns them into pixels.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> images, boxes = ds.scenes.labelled_canvases(2, seed=0)
    >>> images.shape, len(boxes)
    ((2, 3, 320, 320), 2)
    """
    _require_positive(count=count)
    rng = np.random.default_rng(seed)
    pictures, tables = zip(*(draw_canvas(rng, tiles, size) for _ in range(count)), strict=True)
    return np.ascontiguousarray(np.stack(pictures).transpose(0, 3, 1, 2), dtype=np.float32) / 255, list(tables)


def images(count: int, seed: int = 0) -> np.ndarray:
    """Draw canvases of 2 x 2 scenes without labels, e.g. for calibration or for measuring noise.

    Parameters
    ----------
    count : int
        Number of canvases.
    seed : int, default 0
        Equal seeds give equal canvases.

    Returns
    -------
    (count, 3, 320, 320) float32 array
        RGB in [0, 1], channels first.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> images = ds.scenes.images(2)
    >>> images.shape, images.dtype
    ((2, 3, 320, 320), dtype('float32'))
    """
    return labelled_canvases(count, seed)[0]


def write_yolo_dataset(folder: str | Path, train: int, val: int, seed: int, size: int = 160) -> Path:
    """Write single scenes in the layout that Ultralytics reads: PNG pictures, label files and a data.yaml.

    Files of the same names are replaced and others left alone: a smaller set belongs into a folder of its own.

    Parameters
    ----------
    folder : str | Path
        Made if missing; pictures go to images/train and images/val, labels to labels/train and labels/val.
    train : int
        Number of training scenes.
    val : int
        Number of validation scenes, the same ones whatever `train` is.
    seed : int
        Equal seeds give equal sets.
    size : int, default 160
        Side of one scene in pixels.

    Returns
    -------
    Path
        The data.yaml.  Label rows are `class cx cy w h` as in `draw_scene`, with six decimals.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.scenes.write_yolo_dataset("scenes", train=2, val=1, seed=0).name
    'data.yaml'
    """
    _require_positive(train=train, val=val, size=size)
    root = Path(folder)
    for stream, (split, count) in enumerate((("train", train), ("val", val))):
        rng = np.random.default_rng([seed, stream])  # so that `val` stays the same whatever `train` is
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            picture, boxes = draw_scene(rng, size)
            Image.fromarray(picture).save(root / "images" / split / f"{index:05d}.png")
            np.savetxt(root / "labels" / split / f"{index:05d}.txt", boxes, fmt=["%d", *["%.6f"] * 4])
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(CLASSES))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames:\n{names}", encoding="utf-8")
    return root / "data.yaml"
