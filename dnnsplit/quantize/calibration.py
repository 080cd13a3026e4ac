"""Ranges of tensors over some images, measured once, and the setting by which int8 is made from them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pandas as pd
from onnxruntime.quantization import CalibrationDataReader, CalibrationMethod, QuantType, create_calibrator
from onnxruntime.quantization.quant_utils import compute_data_quant_params

from dnnsplit.graph.layers import LayerGraph
from dnnsplit.graph.onnx_file import Model, read_model
from dnnsplit.ground.errors import NoiseError
from dnnsplit.ground.files import sha256
from dnnsplit.ground.markup import shown
from dnnsplit.quantize.setting import QuantizationSetting

_TYPES = {"uint8": QuantType.QUInt8, "int8": QuantType.QInt8}


@dataclass(frozen=True, eq=False)
class Calibration:
    """Ranges of the tensors of one model over some images, and the setting they are for.

    Attributes
    ----------
    ranges : (least, greatest) value by tensor
    setting : how int8 is made from them
    model_sha256, images_sha256 : what they were measured on
    """

    ranges: Mapping[str, tuple[float, float]] = field(repr=False)
    setting: QuantizationSetting
    model_sha256: str
    images_sha256: str

    def _repr_html_(self) -> str:
        widest = sorted(self.ranges, key=lambda tensor: self.ranges[tensor][0] - self.ranges[tensor][1])[:8]
        rows = [(tensor, *self.ranges[tensor], *self.parameters(tensor)) for tensor in widest]
        title = f"Calibration({len(self.ranges)} tensors; model {self.model_sha256[:8]}, images {self.images_sha256[:8]})"
        columns = ["widest ranges", "least", "greatest", "scale", "zero point"]
        return shown(title, pd.DataFrame(rows, columns=columns)) + self.setting._repr_html_()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON value that `from_json` reads back."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` wrote."""
        try:
            ranges = {name: (float(low), float(high)) for name, (low, high) in value["ranges"].items()}
            setting = QuantizationSetting.of(value["setting"])
            return Calibration(ranges, setting, value["model_sha256"], value["images_sha256"])
        except (KeyError, TypeError, ValueError) as error:
            raise NoiseError(f"no calibration can be read from this: {error!r}") from None

    def only(self, tensors: Iterable[str]) -> Calibration:
        """Return the same calibration with the ranges of some tensors alone."""
        return replace(self, ranges={tensor: self.ranges[tensor] for tensor in tensors})

    def parameters(self, tensor: str) -> tuple[float, int]:
        """Return scale and zero point of an int8 tensor."""
        if tensor not in self.ranges:
            raise NoiseError(f"the calibration has no range of tensor {tensor!r}; calibrate this model")
        low, high = (np.float32(v) for v in self.ranges[tensor])
        if not np.isfinite([low, high]).all():
            raise NoiseError(f"tensor {tensor!r} ranges from {low} to {high}: it cannot be quantized; look for what made it so")
        kind, symmetric = _TYPES[self.setting.activation].tensor_type, self.setting.activation == "int8"
        zero, scale = compute_data_quant_params(np.array([low, high], np.float32), kind, symmetric)
        return float(scale), int(zero)


def calibrate(
    graph: LayerGraph, images: np.ndarray | Mapping[str, np.ndarray], setting: QuantizationSetting | str | None = None
) -> Calibration:
    """Measure the range of every tensor over some images, once.

    Parameters
    ----------
    graph : read from an ONNX file
    images : float32 (n, *shape of one image) for a model with one input, else an array by input name
    setting : kept with the ranges; or its name, "thesis" for the thesis' S8S8, symmetric, per tensor

    Returns
    -------
    Calibration
    """
    model = read_model(model_path(graph))
    feeds = feeds_of(model, images)
    setting = QuantizationSetting.of(setting)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        onnx.save(model.proto, path)
        calibrator = create_calibrator(
            path, augmented_model_path=str(Path(folder) / "augmented.onnx"), calibrate_method=CalibrationMethod.MinMax
        )
        calibrator.collect_data(_Reader(feeds))
        data = calibrator.compute_data()
    ranges = {name: tuple(float(np.asarray(v).item()) for v in data[name].range_value) for name in data.keys()}  # noqa: SIM118
    return Calibration(ranges, setting, model.sha256, images_sha256(feeds))


class _Reader(CalibrationDataReader):
    def __init__(self, feeds: list[dict[str, np.ndarray]]) -> None:
        self._left = iter(feeds)

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self._left, None)


def model_path(graph: LayerGraph) -> Path:
    """Return the ONNX file behind a graph."""
    if graph.model_path is None:
        raise NoiseError("this graph was built by hand; noise and times are measured on graphs from dnnsplit.load('model.onnx')")
    return graph.model_path


def feeds_of(model: Model, images: np.ndarray | Mapping[str, np.ndarray]) -> list[dict[str, np.ndarray]]:
    """Return the inputs of one inference per image.

    Parameters
    ----------
    images : (n, *shape) for a model with one input whose batch is 1, or that by input name
    """
    by_name = dict(images) if isinstance(images, Mapping) else {model.inputs[0]: images}
    if set(by_name) != set(model.inputs):
        raise NoiseError(f"the model's inputs are {', '.join(model.inputs)}; images were given for {', '.join(by_name)}")
    feeds: list[dict[str, np.ndarray]] = []
    for name, value in by_name.items():
        array, shape = np.asarray(value), model.types[name][1]
        if array.ndim != len(shape) or array.shape[1:] != shape[1:] or not len(array) or len(array) % shape[0]:
            needed = ", ".join(map(str, shape[1:]))
            raise NoiseError(f"images for {name!r} have the shape {array.shape}; the model needs (n, {needed})")
        array = array.astype(model.dtype(name))
        if not feeds:
            feeds = [{} for _ in range(len(array) // shape[0])]
        for feed, start in zip(feeds, range(0, len(array), shape[0]), strict=True):
            feed[name] = array[start : start + shape[0]]
    return feeds


def images_sha256(feeds: list[dict[str, np.ndarray]]) -> str:
    """Return a hash of all inputs."""
    return sha256(b"".join(np.ascontiguousarray(feed[name]).tobytes() for feed in feeds for name in sorted(feed)))
