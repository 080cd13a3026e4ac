"""PP-OCR's text detector, read where its package is installed and never copied; and pages of text, drawn for it."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from dnnsplit.graph.blocks import load
from dnnsplit.graph.layers import LayerGraph
from dnnsplit.ground.errors import ModelError

DETECTOR = "PP-OCRv6_det_small"
INSTALL = "pip install --no-deps rapidocr==3.10.0"
_WORDS = (
    "Invoice", "number", "date", "total", "of", "the", "and", "page", "network", "layer", "server", "signal", "order", "paid",
    "Noise", "table", "2026", "17.50", "No.", "A4", "Edge", "to", "in",
)  # fmt: skip
_PAPERS = ((255, 255, 255), (250, 246, 232), (226, 238, 246), (40, 44, 52))


def ppocr_det(side: int = 320) -> LayerGraph:
    """Return PP-OCR's small text detector (PP-OCRv6, Apache-2.0), for square pages, from the installed package rapidocr.

    Nothing is measured of it yet; `load_images` draws pages of text for it.

    Parameters
    ----------
    side : int, default 320
        Of a page [pixels], a multiple of 32.

    Raises
    ------
    ModelError
        The package is not installed, or another version of it that holds another model.

    Examples
    --------
    >>> import dnnsplit as ds
    >>> ds.examples.ppocr_det()  # doctest: +SKIP
    """
    package = find_spec("rapidocr")
    folders = [Path(folder) for folder in (package.submodule_search_locations or ())] if package else []
    found = [path for folder in folders if (path := folder / "models" / f"{DETECTOR}.onnx").is_file()]
    if not found:
        where = f"the installed rapidocr has no models/{DETECTOR}.onnx" if package else "rapidocr is not installed"
        message = f"{where}; it holds PP-OCR's text detector under Apache-2.0, and nothing else of it is needed: {INSTALL}"
        raise ModelError(message)
    return load(found[0], shapes={"x": (1, 3, side, side)})


def text_pages(count: int, seed: int = 0, height: int = 320, width: int = 320) -> np.ndarray:
    """Draw pages of text as PP-OCR's detector reads them: float32 (count, 3, height, width), blue first, from -1 to 1.

    They are drawn, not photographed: lines of words in several sizes, on paper of several colours. Same seed, same pages.

    Parameters
    ----------
    count : int
        How many.
    seed : int, default 0
        Of another seed, no page is the same.
    height, width : int, optional
        Of a page [pixels].

    Examples
    --------
    >>> import dnnsplit as ds
    >>> pages = ds.examples.text_pages(2)
    >>> pages.shape, float(pages.max()) <= 1
    ((2, 3, 320, 320), True)
    """
    pages = [_page(np.random.default_rng((seed, number)), height, width) for number in range(count)]
    pixels = np.array(pages, np.float32).reshape(count, height, width, 3)
    return np.ascontiguousarray(pixels[..., ::-1].transpose(0, 3, 1, 2) / 127.5 - 1)


def _page(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    paper = _PAPERS[int(rng.integers(len(_PAPERS)))]
    ink = tuple(int(c) for c in rng.integers(0, 90, 3) + (150 if max(paper) < 100 else 0))
    page = Image.new("RGB", (width, height), paper)
    draw = ImageDraw.Draw(page)
    top = int(rng.integers(6, 30))
    while top < height - 12:
        size, left = int(rng.integers(9, 30)), int(rng.integers(4, width // 3))
        words = " ".join(rng.choice(_WORDS, int(rng.integers(1, 8))))
        draw.text((left, top), words, fill=ink, font=ImageFont.load_default(size))
        top += int(size * rng.uniform(1.2, 2.4))
        if rng.random() < 0.15:  # a rule, which is no text
            draw.line((left, top, width - left, top), fill=ink, width=2)
            top += 6
    return np.asarray(page)
