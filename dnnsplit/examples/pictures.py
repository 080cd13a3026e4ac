"""Pictures as people have them: a folder of JPEG, PNG and the like, or one of them, read as inputs of a model."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from dnnsplit.codecs.images import MODES
from dnnsplit.examples.preprocessing import CHANNELS, Preprocessing, as_input, fitted
from dnnsplit.ground.errors import DnnSplitError, OptionError, raise_problems
from dnnsplit.ground.gate import Kind, memory_bytes, opened
from dnnsplit.ground.paths import is_folder

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF")  # of Pillow, which knows odder ones, too
NAMED = "JPEG, PNG, WebP, BMP, TIFF, GIF, PPM, JPEG 2000, AVIF"
_KIND = Kind("is not readable as a picture", OptionError, memory_bytes(), "the picture")


def are_pictures(path: str | Path) -> bool:
    """Whether a path is a folder, or ends as a picture does."""
    return is_folder(path) or Path(path).suffix.lower() in _endings()


def _endings() -> set[str]:
    Image.init()
    return {ending for ending, kind in Image.registered_extensions().items() if kind in FORMATS}


def listed(path: str | Path) -> tuple[list[Path], str]:
    """Return the pictures of a folder by name, or the one that is given; and what else is in the folder, in words.

    Raises
    ------
    OptionError
        The folder has no picture.
    """
    path = Path(path)
    if not is_folder(path):
        return [path], ""
    try:
        there = sorted(one for one in path.iterdir() if not one.name.startswith("."))
    except OSError as error:
        _KIND.refuse(path, f"the system says: {error.strerror}")
    endings = _endings()
    found = [one for one in there if one.suffix.lower() in endings and not is_folder(one)]
    others = Counter(one.suffix.lower() or one.name for one in there if one not in found and not is_folder(one))
    left = ", ".join(f"{count} {ending}" for ending, count in others.most_common(3))
    if not found:
        folders = [one.name for one in there if is_folder(one)]
        what = f"it has {left or 'no files'}" + (f", and the folders {', '.join(folders[:8])}: give one" if folders else "")
        message = f"{path} has no picture ({NAMED}); {what}"
        raise OptionError(message)
    return found, left


def read(paths: Sequence[Path], how: Preprocessing, dtype: np.dtype, shape: Sequence[int]) -> np.ndarray:
    """Return some pictures as inputs of a model.

    They are turned as their EXIF data say; of a file of several, the first is taken. Alpha is left out unless the model takes it,
    as by Pillow's ``convert`` and by OpenCV; 16 bits become 8, by their upper ones.

    Parameters
    ----------
    paths : Sequence[Path]
        Files, of any size.
    how : Preprocessing
        What is done to them.
    dtype, shape : np.dtype, Sequence[int]
        Of the input of one inference.

    Raises
    ------
    OptionError
        Files that are no pictures, all of them at once.
    """
    how = fitted(how, dtype, shape)
    arrays, problems = [], []
    for path in paths:
        picture = None
        try:
            picture = _picture(path, MODES[CHANNELS[how.channels]])
            arrays.append(as_input(how, [picture], dtype, shape))
        except DnnSplitError as error:
            problems.append(f"{path}: {error}" if picture else str(error))
    raise_problems(OptionError, "pictures", problems)
    return np.concatenate(arrays)


def _picture(path: Path, mode: str) -> Image.Image:
    """Return a picture in a mode of 8 bits, upright."""
    with opened(path, _KIND) as (file, _):
        try:
            with warnings.catch_warnings(action="ignore"), Image.open(file, formats=FORMATS) as image:  # of large pictures
                image.load()
                return _in_mode(ImageOps.exif_transpose(image), mode)
        except UnidentifiedImageError:
            _KIND.refuse(path, f"it is none of {NAMED}")
        except Image.DecompressionBombError:
            _KIND.refuse(path, "it has more than 178 million pixels")
        except DnnSplitError as error:
            _KIND.refuse(path, error.reason)
        except Exception as error:  # Pillow raises what its decoders happen to raise
            _KIND.refuse(path, f"it is damaged ({error or type(error).__name__})")


def _in_mode(image: Image.Image, mode: str) -> Image.Image:
    if image.mode == "F":
        message = "its pixels are floats, whose range is not known; save it with 8 or 16 bits"
        raise OptionError(message)
    if image.mode.startswith("I"):  # grey, of 16 bits, or 32 that hold no more
        steps = np.asarray(image).astype(np.int64)
        if steps.min() < 0 or steps.max() > 65535:
            message = f"its pixels go from {steps.min()} to {steps.max()}; save it with 8 or 16 bits"
            raise OptionError(message)
        image = Image.fromarray((steps >> 8).astype(np.uint8))
    if image.mode == "P":  # whose transparency may be a list of bytes
        image = image.convert("RGBA")
    return image.convert(mode)
