"""From a picture to the input of a model: resized, its channels in order, scaled and normalised, in the words of the field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from PIL import Image

from dnnsplit.codecs.pixels import IMAGENET, LAYOUTS
from dnnsplit.graph.onnx_file import Model
from dnnsplit.ground.arguments import check_arguments
from dnnsplit.ground.errors import OptionError, nearest, raise_problems
from dnnsplit.ground.units import number

RESIZES = ("letterbox", "stretch", "crop")
CHANNELS = {"gray": 1, "RGB": 3, "BGR": 3, "RGBA": 4}
GREY = 114  # what Ultralytics pads with
MOST_PIXELS = 178_000_000  # of a picture that is resized, as of one that Pillow reads
_PRESETS: dict[str, dict[str, Any]] = {
    "yolo": {"resize": "letterbox", "scale": 1 / 255},
    "imagenet": {
        "resize": "crop", "crop_pct": 0.875, "scale": 1 / 255,
        "mean": tuple(map(float, IMAGENET[0])), "std": tuple(map(float, IMAGENET[1])),
    },
}  # fmt: skip
_NUMBERS = ("scale", "mean", "std", "crop_pct")


@dataclass(frozen=True, repr=False)
class Preprocessing:
    """What is done to a picture before a model reads it: value = (pixel * scale - mean) / std, once it is resized.

    The words are those of Ultralytics (letterbox), torchvision (mean and std of what is scaled already) and timm (crop_pct).
    OpenVINO tells mean and scale of pixels: its mean is mean / scale here, its scale std / scale. Pixels are of 8 bits, so that a
    tensor has at most 256 values per channel, and can be sent as an image still, whatever scale, mean and std are.

    Parameters
    ----------
    resize : str, default "stretch"
        "letterbox": the whole picture, bordered with grey (114); "stretch": the whole picture, its sides each to those of the
        input; "crop": the middle of the picture, cut to the shape of the input. All are bilinear, with antialiasing, as Pillow's.
    channels : str, default ""
        "RGB", "BGR", "gray" or "RGBA"; by default gray, RGB or RGBA, as many as the input has.
    scale : float, default 1 / 255
        By which pixels of 0 to 255 are multiplied first.
    mean, std : tuple[float, ...], optional
        Of what is scaled: one number, or one per channel in their order; 0 and 1 by default.
    crop_pct : float, default 1.0
        Share of the shorter side that "crop" keeps.
    layout : str, default ""
        "NCHW", "NHWC", "CHW" or "HWC"; by default the first that the shape of the input may have.

    Raises
    ------
    OptionError
        An unknown word, or a number that is none; all of them at once.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> print(ds.Preprocessing.of("letterbox,BGR,scale=1/127.5,mean=1"))
    letterbox,BGR,scale=1/127.5,mean=1
    """

    resize: str = "stretch"
    channels: str = ""
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    crop_pct: float = 1.0
    layout: str = ""

    def __post_init__(self) -> None:
        check_arguments(Preprocessing, vars(self), finite=("scale", "crop_pct"))
        for name in ("mean", "std"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        problems = [
            f"{what} is {value!r}{nearest(value, known)}"
            for what, value, known in (("resize", self.resize, RESIZES), ("channels", self.channels, ("", *CHANNELS)),
                                       ("layout", self.layout, ("", *LAYOUTS)))
            if value not in known
        ]  # fmt: skip
        counts = {1, CHANNELS.get(self.channels, 3), *([] if self.channels else [4])}
        for name in ("mean", "std"):
            if len(getattr(self, name)) not in counts or not all(map(math.isfinite, getattr(self, name))):
                problems.append(f"{name} is {getattr(self, name)}; give one finite number, or one for each channel")
        if self.scale == 0:
            problems.append("scale is 0: all pixels would be alike")
        if not all(value > 0 for value in self.std):
            problems.append(f"std is {self.std}; a deviation is above 0")
        if not 0 < self.crop_pct <= 1:
            problems.append(f"crop_pct is {self.crop_pct:g}; it is the share that is kept, above 0 and at most 1")
        raise_problems(OptionError, "preprocessing", problems)

    @staticmethod
    def of(given: str | Preprocessing, base: Preprocessing | None = None) -> Preprocessing:
        """Return the preprocessing that a text tells.

        Parameters
        ----------
        given : str | Preprocessing
            Words between commas: "letterbox", "stretch", "crop" or "crop=0.875"; "RGB", "BGR", "gray", "RGBA"; "NCHW", ...;
            "scale=1/255", "mean=0.485:0.456:0.406", "std=0.5"; or first "yolo" (letterbox, scale=1/255) or "imagenet"
            (crop=0.875, scale=1/255, and ImageNet's mean and std). An object is returned as it is.
        base : Preprocessing | None, optional
            What holds where the text says nothing.

        Raises
        ------
        OptionError
            A word that is not known; all of them at once.

        Examples
        --------
        >>> import dnnsplit as ds
        >>> print(ds.Preprocessing.of("imagenet,BGR"))
        crop=0.875,BGR,scale=1/255,mean=0.485:0.456:0.406,std=0.229:0.224:0.225
        """
        check_arguments(Preprocessing.of, locals())
        if isinstance(given, Preprocessing):
            return given
        found, alone = dict[str, Any](), dict[str, Any]()  # all that is told; what is told by words that are no preset
        problems = []
        for word in filter(None, (part.strip() for part in given.split(","))):
            told, preset = _word(word), word.lower() in _PRESETS
            if told is None:
                known = (*_PRESETS, *RESIZES, *CHANNELS, *LAYOUTS, "scale=1/255", "mean=0.5", "std=0.5", "crop=0.875")
                problems.append(f"{word!r} is no word or number of it{nearest(word, known)}")
                continue
            if preset and found:
                problems.append(f"{word!r} would undo words before it; put it first")
            elif any(alone.get(name, value) != value for name, value in told.items()):
                problems.append(f"{word!r} contradicts a word before it; give one of them")
            alone |= {} if preset else told
            found |= told
        raise_problems(OptionError, f"preprocessing {given!r}", problems)
        return replace(base or Preprocessing(), **found)

    @property
    def as_they_are(self) -> bool:
        """Whether pixels keep their values."""
        return self.scale == 1 and {*self.mean} == {0.0} and {*self.std} == {1.0}

    def __repr__(self) -> str:
        return f"Preprocessing({self})"

    def __str__(self) -> str:
        crop = f"={_text(self.crop_pct)}" if self.resize == "crop" and self.crop_pct != 1 else ""
        words = [f"{self.resize}{crop}", self.channels, self.layout, f"scale={_text(self.scale)}"]
        plain = {one.name: one.default for one in fields(self)}
        words += [f"{n}={':'.join(map(_text, getattr(self, n)))}" for n in ("mean", "std") if getattr(self, n) != plain[n]]
        return ",".join(filter(None, words))


def fitted(how: Preprocessing, dtype: np.dtype[Any], shape: Sequence[int]) -> Preprocessing:
    """Return a preprocessing with the channels and the layout of an input.

    Parameters
    ----------
    how : Preprocessing
        Which.
    dtype : np.dtype[Any]
        Of the input: floats, or uint8, which takes pixels as they are.
    shape : Sequence[int]
        Of the input.

    Raises
    ------
    OptionError
        An input that takes no such pictures.
    """
    kinds = [how.layout] if how.layout else LAYOUTS
    counts = {layout: shape[layout.index("C")] for layout in kinds if len(layout) == len(shape) and min(shape) > 0}
    fit = {layout: count for layout, count in counts.items() if count in CHANNELS.values()}
    if not fit:
        which = f"{how.layout} " if how.layout else ""
        message = f"an input of shape {tuple(shape)} takes no {which}pictures of 1, 3 or 4 channels"
        raise OptionError(message, "give arrays of that shape, as .npy")
    layout, count = next(iter(fit.items()))
    channels = how.channels or {1: "gray", 3: "RGB", 4: "RGBA"}[count]
    if CHANNELS[channels] != count or not {len(how.mean), len(how.std)} <= {1, count}:
        message = f"an input of shape {tuple(shape)} ({layout}) has {count} channel{'s' * (count > 1)}; {how} has others"
        raise OptionError(message, "the layout may be told too, such as NHWC")
    if dtype.kind != "f" and (dtype != np.uint8 or not how.as_they_are):
        message = f"an input of {dtype} takes no pictures by {how}"
        way_out = "scale=1, without mean and std, keeps them as they are" if dtype == np.uint8 else "give arrays, as .npy"
        raise OptionError(message, way_out)
    with np.errstate(all="ignore"):
        levels = _levels(how, count).astype(dtype)
    if not np.isfinite(levels).all():
        message = f"{how} makes values of pixels that {dtype} cannot hold"
        raise OptionError(message)
    return replace(how, layout=layout, channels=channels)


def as_input(how: Preprocessing, pictures: Sequence[Image.Image], dtype: np.dtype[Any], shape: Sequence[int]) -> np.ndarray:
    """Return the input that holds some pictures, which are RGB, gray ("L") or RGBA already.

    Parameters
    ----------
    how : Preprocessing
        What is done to them.
    pictures : Sequence[Image.Image]
        Of 8 bits.
    dtype, shape : np.dtype[Any], Sequence[int]
        Of the input of one inference.

    Returns
    -------
    np.ndarray
        One picture after the other along the first axis where the layout has an N, else along one of their own.
    """
    how = fitted(how, dtype, shape)
    size = shape[how.layout.index("W")], shape[how.layout.index("H")]
    steps = np.stack([np.asarray(_resized(how, one, size)).reshape(size[1], size[0], -1) for one in pictures])
    steps = steps[..., ::-1] if how.channels == "BGR" else steps
    values = np.empty(steps.shape, dtype)
    for channel, levels in enumerate(_levels(how, steps.shape[-1])):
        values[..., channel] = levels.astype(dtype)[steps[..., channel]]
    return np.ascontiguousarray(np.moveaxis(values, 3, 1)) if "CH" in how.layout else values


def _levels(how: Preprocessing, channels: int) -> np.ndarray:
    """The values of the pixels 0 to 255 by channel, in float64: each is rounded once."""
    mean, std = (np.broadcast_to(np.array(numbers, np.float64), channels)[:, None] for numbers in (how.mean, how.std))
    levels: np.ndarray = (np.arange(256) * how.scale - mean) / std
    return levels


def _resized(how: Preprocessing, picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Resize one picture; `size` is width and height."""
    if how.resize == "stretch":
        return picture.resize(size, Image.Resampling.BILINEAR)
    sides = [there / its for there, its in zip(size, picture.size, strict=True)]
    factor = min(sides) if how.resize == "letterbox" else max(sides) / how.crop_pct
    large = [its * factor for its in picture.size]
    if math.prod(large) > MOST_PIXELS:
        made = " x ".join(f"{side:.6g}" for side in large)
        message = f"of {picture.size[0]} x {picture.size[1]} pixels, {how} makes {made}, and cuts most of them away"
        raise OptionError(message, "take letterbox or stretch, or leave the picture out")
    whole = [max(1, round(side)) for side in large]
    picture = picture.resize((whole[0], whole[1]), Image.Resampling.BILINEAR)
    # in the middle, or half a pixel before it, as Ultralytics has it
    place = tuple(math.floor((there - its) / 2) if there >= its else -round((its - there) / 2)
                  for there, its in zip(size, whole, strict=True))  # fmt: skip
    framed = Image.new(picture.mode, size, (GREY, GREY, GREY, 255)[: len(picture.getbands())])
    framed.paste(picture, (place[0], place[1]))
    return framed


def of_model(model: Model, given: str | Preprocessing = "") -> tuple[Preprocessing, str]:
    """Return the preprocessing for the one input of a model, and how it is known.

    Raises
    ------
    OptionError
        The model reads several inputs, or one that takes no pictures.
    """
    if len(model.inputs) != 1:
        names = ", ".join(map(repr, model.inputs))
        message = f"{model.path.name} reads {names}, and pictures are for one input; give arrays by name, as images.npz"
        raise OptionError(message)
    dtype, shape = model.dtype(model.inputs[0]), model.types[model.inputs[0]][1]
    base, why = _wanted(model, dtype, shape)
    return fitted(Preprocessing.of(given, base), dtype, shape), "as told" if given else why


def _wanted(model: Model, dtype: np.dtype[Any], shape: Sequence[int]) -> tuple[Preprocessing, str]:
    """Return what a model seems to want, and how that is known."""
    if dtype == np.uint8:
        return Preprocessing(scale=1.0), "its input is uint8, which takes pixels as they are; how to resize is not known"
    if {"stride", "task"} <= {*model.metadata}:
        task = model.metadata["task"]
        base = Preprocessing.of("crop" if task == "classify" else "yolo")
        return base, f"the file's metadata say that it is an Ultralytics model, for the task {task!r}"
    outputs = [[extent for extent in model.types[name][1] if extent != 1] for name in model.outputs if name in model.types]
    if outputs in ([[1000]], [[1001]]) and 3 in shape:
        return Preprocessing.of("imagenet"), f"it has {outputs[0][0]} outputs, as ImageNet's classifiers, which mostly want this"
    return Preprocessing(), "nothing in the file says what it wants"


def _word(word: str) -> dict[str, Any] | None:
    """Return the fields that a word tells, None where it tells none."""
    by_lower = {known.lower(): known for known in (*_PRESETS, *RESIZES, *CHANNELS, *LAYOUTS)}
    name, equals, text = (part.strip() for part in word.partition("="))
    name = name.lower()
    if not equals:
        name = by_lower.get(name, "")
        if name in _PRESETS:
            return dict(_PRESETS[name])
        kinds = {"resize": RESIZES, "channels": CHANNELS, "layout": LAYOUTS}
        return next(({kind: name} for kind, known in kinds.items() if name in known), None)
    name = {"crop": "crop_pct"}.get(name, name)
    try:
        numbers = tuple(map(_number, text.split(":")))
    except (ValueError, ZeroDivisionError):
        return None
    if name not in _NUMBERS or (len(numbers) > 1 and name not in ("mean", "std")):
        return None
    crop = {"resize": "crop"} if name == "crop_pct" else {}
    return {**crop, name: numbers if name in ("mean", "std") else numbers[0]}


def _number(text: str) -> float:
    over, slash, under = text.partition("/")
    return number(over) / number(under) if slash else number(over)


def _text(value: float) -> str:
    """Write a number as people do, 1/255 as such, so that it is read as the same one."""
    short = [f"1/{round(1 / value, 6):.15g}"] if 0 < abs(value) < 0.1 else []
    return next((text for text in (*short, f"{value:.10g}") if _number(text) == value), repr(value))
